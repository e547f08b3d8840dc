/* The scheme `quanto` against what optimum-quanto itself wrote: tests/golden/quanto/make.py. */
#include "test.h"

#include <nibble/extend.h>

#include "base/halffloat.h"
#include "base/mem.h"
#include "io/safetensors.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/packed.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

static nib_ctx *ctx;

static int setup(void **state) {
    (void)state;
    ctx = nib_ctx_new(NULL);
    return ctx ? 0 : -1;
}
static int teardown(void **state) {
    (void)state;
    nib_ctx_free(ctx);
    return 0;
}

static nib_safetensors *golden(void **state_, const char *name) {
    char path[256];
    snprintf(path, sizeof(path), "tests/golden/quanto/%s.safetensors", name);
    nib_safetensors *file = nib_safetensors_open(NULL, path);
    CHECK_MADE(file);
    return file;
}

/* A float weight of the inputs file, borrowing its bytes. */
static nib_tensor *weight_of(nib_safetensors *inputs, const nib_safetensors_entry *entry) {
    return nib_tensor_wrap(ctx, entry->dtype, entry->shape, nib_safetensors_data(inputs, entry),
                           NULL, NULL);
}

/* A config filled by hand. NIB_QUANTO would do, but then these tests could not be linked without
 * the scheme, which is meant to be removable. */
static const nib_config *quanto(const char *weights, nib_algo algo) {
    static nib_quanto made[4];
    static int next;
    nib_quanto *c = &made[next++ % 4];
    *c = (nib_quanto){{nib_scheme_find("quanto"), sizeof(*c)}, .weights = weights, .algo = algo};
    return &c->config;
}

/* The weight through the scheme; codes are the caller's. */
static nib_status codes_of(const nib_config *config, const nib_tensor *w, nib_codes *codes) {
    const nib_site site = {.kind = w->shape.ndim == 4 ? "conv2d" : "linear",
                           .name = "layer",
                           .shape = w->shape,
                           .dtype = w->dtype};
    return nib_scheme_codes(config, &site, w, codes);
}

static uint32_t crc32_of(const void *bytes, size_t size) {
    const unsigned char *at = bytes;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        crc ^= at[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static bool is_nan_code(nib_dtype code, uint8_t q) {
    if (code == NIB_F8_E4M3FN) return (q & 0x7f) == 0x7f;
    if (code == NIB_F8_E5M2) return (q & 0x7f) > 0x7c;
    return code == NIB_F8_E4M3FNUZ && q == 0x80;
}

/* Every part of `codes` is, in dtype, shape and bytes, what upstream stored under `prefix`. An fp8
 * code that is NaN upstream (0 / 0) must be 0 here; they are counted. */
static int check_parts(void **state_, nib_safetensors *file, const char *prefix,
                       const nib_codes *codes) {
    const nib_layout *layout =
        nib_layout_find(codes->desc.zero_kind == NIB_ZERO_SHIFT ? "quanto_bits" : "quanto_bytes");
    CHECK(layout && layout->holds(&codes->desc));
    nib_part parts[NIB_MAX_PARTS];
    void *bytes[NIB_MAX_PARTS] = {0};
    const int count = layout->parts(&codes->desc, parts);
    for (int i = 0; i < count; i++) {
        bytes[i] = nib_mem_alloc(NULL, nib_part_bytes(&parts[i]));
        CHECK_MADE(bytes[i]);
    }
    layout->pack(bytes, codes);
    int nans = 0;
    for (int i = 0; i < count; i++) {
        char name[128];
        snprintf(name, sizeof(name), "%s.weight.%s", prefix, parts[i].suffix);
        const nib_safetensors_entry *want = nib_safetensors_find(file, name);
        if (!want) FAIL_AT("%s is not in the golden file", name);
        CHECK_INT(parts[i].dtype, want->dtype);
        if (!nib_shape_equal(&parts[i].shape, &want->shape)) {
            char a[64], b[64];
            FAIL_AT("%s: shape %s, want %s", name, nib_shape_text(&parts[i].shape, a, sizeof(a)),
                    nib_shape_text(&want->shape, b, sizeof(b)));
        }
        const unsigned char *got = bytes[i], *theirs = nib_safetensors_data(file, want);
        for (size_t k = 0; k < want->size; k++) {
            if (got[k] == theirs[k]) continue;
            if (i == 0 && is_nan_code(codes->desc.code, theirs[k]) && got[k] == 0)
                nans++;
            else
                FAIL_AT("%s: byte %zu is %02x, want %02x", name, k, got[k], theirs[k]);
        }
        nib_mem_free(NULL, bytes[i], nib_part_bytes(&parts[i]));
    }
    return nans;
}

static void check_dequantized(void **state_, nib_safetensors *file, const char *name,
                              const nib_codes *codes) {
    const nib_qdesc *d = &codes->desc;
    const size_t count = (size_t)(d->rows * d->cols), size = d->math == NIB_F32 ? 4 : 2;
    float *wide = nib_mem_alloc(NULL, count * sizeof(float));
    unsigned char *narrow = nib_mem_alloc(NULL, count * size);
    CHECK(wide && narrow);
    nib_codes_dequantize(codes, wide);
    for (size_t i = 0; i < count; i++) {
        const float x = isnan(wide[i]) ? 0 : wide[i];
        const uint16_t half = d->math == NIB_F16 ? nib_f32_to_f16(x) : nib_f32_to_bf16(x);
        memcpy(narrow + i * size, d->math == NIB_F32 ? (const void *)&x : &half, size);
    }
    char key[64], crc[16];
    snprintf(key, sizeof(key), "crc32.%s", name);
    snprintf(crc, sizeof(crc), "%08" PRIx32, crc32_of(narrow, count * size));
    const char *want = nib_safetensors_metadata(file, key);
    if (!want || strcmp(crc, want) != 0)
        FAIL_AT("%s: crc32 of the dequantized weight is %s, want %s", name, crc, want);
    nib_mem_free(NULL, wide, count * sizeof(float));
    nib_mem_free(NULL, narrow, count * size);
}

/* Where upstream makes one "group" of every single weight: 4 and 2 bits, one row, no groups. */
static bool upstream_splits_columns(const nib_codes *codes) {
    return codes->desc.zero_kind == NIB_ZERO_SHIFT && codes->desc.rows == 1 &&
           codes->desc.block_cols == codes->desc.cols;
}

static void check_type(void **state_, const char *type, int want_cases, int want_refused) {
    nib_safetensors *inputs = golden(state_, "inputs"), *file = golden(state_, type);
    int cases = 0, refused = 0, nans = 0;
    for (size_t i = 0; i < inputs->count; i++) {
        const nib_safetensors_entry *entry = &inputs->entries[i];
        if (strstr(entry->name, "hqq")) continue;
        char key[64];
        snprintf(key, sizeof(key), "crc32.%s", entry->name);
        if (!nib_safetensors_metadata(file, key)) {
            refused++;
            continue;
        }
        nib_tensor *w = weight_of(inputs, entry);
        CHECK_MADE(w);
        nib_codes codes;
        CHECK_OK(codes_of(quanto(type, NIB_ALGO_DEFAULT), w, &codes));
        if (!upstream_splits_columns(&codes)) {
            nans += check_parts(state_, file, entry->name, &codes);
            check_dequantized(state_, file, entry->name, &codes);
            cases++;
        }
        nib_codes_free(nib_ctx_mem(ctx), &codes);
        nib_tensor_free(w);
    }
    print_message(
        "%s: %d cases equal to the byte (%d NaN codes of zero rows are 0 here), %d refused "
        "upstream\n",
        type, cases, nans, refused);
    CHECK_INT(cases, want_cases);
    CHECK_INT(refused, want_refused);
    CHECK((nans > 0) == (strncmp(type, "qfloat8", 7) == 0));
    nib_safetensors_close(inputs);
    nib_safetensors_close(file);
}

TEST(qint8_equals_upstream_to_the_byte) { check_type(state_, "qint8", 51, 0); }
TEST(qfloat8_e4m3fn_equals_upstream_to_the_byte) { check_type(state_, "qfloat8_e4m3fn", 51, 0); }
TEST(qfloat8_e5m2_equals_upstream_to_the_byte) { check_type(state_, "qfloat8_e5m2", 51, 0); }
TEST(qfloat8_e4m3fnuz_equals_upstream_to_the_byte) {
    check_type(state_, "qfloat8_e4m3fnuz", 51, 0);
}
/* Two of seventeen shapes have one row and no groups; one bf16 weight TinyGemm does not take. */
TEST(qint4_equals_upstream_to_the_byte) { check_type(state_, "qint4", 44, 1); }
TEST(qint2_equals_upstream_to_the_byte) { check_type(state_, "qint2", 45, 0); }

TEST(a_single_ungrouped_row_of_4_bits_has_one_scale_and_one_shift) {
    const float x[6] = {-1, 0.5f, 2, 0, 0.25f, -0.75f};
    nib_tensor *w = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {1, 6}}, x, NULL, NULL);
    nib_codes codes;
    CHECK_OK(codes_of(quanto("qint4", NIB_ALGO_DEFAULT), w, &codes));
    CHECK_INT(nib_qdesc_blocks(&codes.desc), 1);
    CHECK_NEAR(codes.scale[0], 3.0f / 15, 0);
    CHECK_NEAR(codes.zero[0], 1, 0);
    const uint8_t want[6] = {0, 8, 15, 5, 6, 1}; /* (x + 1) / 0.2 = 0, 7.5, 15, 5, 6.25, 1.25 */
    CHECK_BYTES(codes.q, want, 6);
    nib_codes_free(nib_ctx_mem(ctx), &codes);
    nib_tensor_free(w);
}

TEST(groups_follow_the_rule_of_upstream) {
    static const struct {
        int64_t K, G;
    } rule[] = {
        {1, 1},     {32, 32},     {64, 64},    {128, 128},   {160, 32},   {192, 96},    {200, 200},
        {256, 128}, {288, 96},    {320, 64},   {480, 96},    {576, 96},   {768, 128},   {784, 784},
        {800, 32},  {1000, 1000}, {1152, 128}, {4304, 4304}, {5120, 128}, {11008, 128},
    };
    const nib_config *config = quanto("qint2", NIB_ALGO_DEFAULT);
    for (size_t i = 0; i < sizeof(rule) / sizeof(rule[0]); i++) {
        const nib_site site = {
            .kind = "linear", .name = "a", .shape = {2, {4, rule[i].K}}, .dtype = NIB_BF16};
        nib_qdesc desc;
        CHECK_OK(config->scheme->plan(config, &site, &desc, NULL, NULL));
        CHECK_INT(desc.block_cols, rule[i].G);
    }
}

TEST(rows_by_runs_give_the_codes_of_all_rows_at_once) {
    nib_safetensors *inputs = golden(state_, "inputs");
    static const char *const types[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    static const char *const cases[] = {"bf16.32x256", "f16.18x192", "f32.5x32x3x3"};
    for (int t = 0; t < 4; t++) {
        for (int n = 0; n < 3; n++) {
            const nib_config *config = quanto(types[t], NIB_ALGO_DEFAULT);
            nib_tensor *w = weight_of(inputs, nib_safetensors_find(inputs, cases[n]));
            nib_codes all;
            CHECK_OK(codes_of(config, w, &all));
            const int64_t cols = all.desc.cols, blocks = nib_qdesc_block_cols(&all.desc);
            for (int64_t row = 0, rows; row < all.desc.rows; row += rows) {
                rows = row % 3 + 1 < all.desc.rows - row ? row % 3 + 1 : all.desc.rows - row;
                const nib_qdesc desc = nib_qdesc_of_rows(&all.desc, rows);
                const unsigned char *bytes = nib_tensor_data(w);
                const int64_t size = w->dtype == NIB_F32 ? 4 : 2;
                nib_tensor *run = nib_tensor_wrap(ctx, w->dtype, (nib_shape){2, {rows, cols}},
                                                  bytes + row * cols * size, NULL, NULL);
                nib_codes part;
                CHECK_OK(nib_codes_alloc(NULL, &desc, &part));
                CHECK_OK(config->scheme->quantize(config, NULL, run, &part));
                CHECK_BYTES(part.q, (uint8_t *)all.q + row * cols, rows * cols);
                CHECK_BYTES(part.scale, all.scale + row * blocks, rows * blocks * 4);
                if (all.zero) CHECK_BYTES(part.zero, all.zero + row * blocks, rows * blocks * 4);
                nib_codes_free(NULL, &part);
                nib_tensor_free(run);
            }
            nib_codes_free(nib_ctx_mem(ctx), &all);
            nib_tensor_free(w);
        }
    }
    nib_safetensors_close(inputs);
}

/* Rows longer than what is widened at a time take another path through the loops. */
TEST(a_long_row_is_coded_like_the_formula) {
    enum { K = 5003 };
    uint64_t seed = test_seed();
    float *x = nib_mem_alloc(NULL, K * sizeof(float)), most = 0, low = 0, high = 0;
    for (int k = 0; k < K; k++) {
        x[k] = test_uniform(&seed);
        if (k == 4999) x[k] = -1.5f; /* the extremes lie in the last run */
        if (k == 2) x[k] = 1.25f;
        most = fmaxf(most, fabsf(x[k]));
        low = fminf(low, x[k]);
        high = fmaxf(high, x[k]);
    }
    nib_tensor *w = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {1, K}}, x, NULL, NULL);
    nib_codes codes;
    CHECK_OK(codes_of(quanto("qint8", NIB_ALGO_DEFAULT), w, &codes));
    CHECK_NEAR(codes.scale[0], most / 127, 0);
    for (int k = 0; k < K; k++) CHECK_INT(((int8_t *)codes.q)[k], (int)rintf(x[k] / (most / 127)));
    nib_codes_free(nib_ctx_mem(ctx), &codes);
    CHECK_OK(codes_of(quanto("qint2", NIB_ALGO_DEFAULT), w, &codes));
    CHECK_NEAR(codes.scale[0], (high - low) / 3, 0);
    for (int k = 0; k < K; k++)
        CHECK_INT(((uint8_t *)codes.q)[k], (int)rintf((x[k] - low) / ((high - low) / 3)));
    nib_codes_free(nib_ctx_mem(ctx), &codes);
    nib_tensor_free(w);
    nib_mem_free(NULL, x, K * sizeof(float));
}

/* Long enough to be cut into pieces that threads pack where they belong. */
TEST(a_matrix_in_many_pieces_is_packed_as_all_at_once) {
    enum { ROWS = 72, COLS = 4096 };
    static const char *const types[] = {"qint8", "qint4", "qint2", "qfloat8_e5m2"};
    uint64_t seed = test_seed();
    uint16_t *x = nib_mem_alloc(NULL, ROWS * COLS * sizeof(*x));
    for (int i = 0; i < ROWS * COLS; i++) x[i] = nib_f32_to_bf16(test_uniform(&seed) + 0.25f);
    nib_tensor *w = nib_tensor_wrap(ctx, NIB_BF16, (nib_shape){2, {ROWS, COLS}}, x, NULL, NULL);
    for (int t = 0; t < 4; t++) {
        const nib_config *config = quanto(types[t], NIB_ALGO_DEFAULT);
        const nib_layout *layout =
            nib_layout_find(t == 1 || t == 2 ? "quanto_bits" : "quanto_bytes");
        nib_codes codes;
        CHECK_OK(codes_of(config, w, &codes));
        nib_tensor *want = nib_pack_tensor(ctx, layout, &codes);
        CHECK_MADE(want);
        nib_part parts[NIB_MAX_PARTS];
        void *got[NIB_MAX_PARTS] = {0};
        const int count = layout->parts(&codes.desc, parts);
        for (int i = 0; i < count; i++)
            got[i] = nib_mem_alloc_zero(NULL, nib_part_bytes(&parts[i]));
        CHECK_OK(nib_quantize_packed(ctx, config, NULL, layout, &codes.desc, w, got));
        for (int i = 0; i < count; i++) {
            CHECK_BYTES(got[i], nib_tensor_part(want, i), nib_part_bytes(&parts[i]));
            nib_mem_free(NULL, got[i], nib_part_bytes(&parts[i]));
        }
        nib_tensor_free(want);
        nib_codes_free(nib_ctx_mem(ctx), &codes);
    }
    nib_tensor_free(w);
    nib_mem_free(NULL, x, ROWS * COLS * sizeof(*x));
}

/* ---- HQQ: its sums and powers belong to torch, so the codes are compared, not the bytes ---- */

/* mean |w - D(q)| in double, from codes and from what upstream stored */
static double objective(const nib_codes *codes, const nib_tensor *w) {
    const size_t count = (size_t)(codes->desc.rows * codes->desc.cols);
    float *x = nib_mem_alloc(NULL, count * sizeof(float)), *back = nib_mem_alloc(NULL, count * 4);
    nib_to_f32(w->dtype, x, nib_tensor_data(w), count);
    nib_codes_dequantize(codes, back);
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += fabs((double)x[i] - (double)back[i]);
    nib_mem_free(NULL, x, count * sizeof(float));
    nib_mem_free(NULL, back, count * sizeof(float));
    return sum / (double)count;
}

TEST(hqq_agrees_with_upstream) {
    nib_safetensors *inputs = golden(state_, "inputs"), *file = golden(state_, "hqq");
    static const char *const types[] = {"qint4", "qint2"};
    const nib_layout *layout = nib_layout_find("quanto_bits");
    int cases = 0;
    for (int t = 0; t < 2; t++) {
        for (size_t i = 0; i < inputs->count; i++) {
            const nib_safetensors_entry *entry = &inputs->entries[i];
            if (!strstr(entry->name, "hqq")) continue;
            nib_tensor *w = weight_of(inputs, entry);
            nib_codes ours, theirs, plain;
            CHECK_OK(codes_of(quanto(types[t], NIB_ALGO_HQQ), w, &ours));
            CHECK_OK(codes_of(quanto(types[t], NIB_ALGO_DEFAULT), w, &plain));
            CHECK_OK(nib_codes_alloc(NULL, &ours.desc, &theirs));
            static const char *const suffixes[] = {"_data._data", "_scale", "_shift"};
            const void *parts[3];
            for (int p = 0; p < 3; p++) {
                char name[128];
                snprintf(name, sizeof(name), "%s.%s.weight.%s", types[t], entry->name, suffixes[p]);
                const nib_safetensors_entry *part = nib_safetensors_find(file, name);
                CHECK(part != NULL);
                parts[p] = nib_safetensors_data(file, part);
            }
            layout->unpack(&theirs, parts, &ours.desc, 0);
            const int64_t count = ours.desc.rows * ours.desc.cols;
            int64_t off = 0, most = 0;
            for (int64_t k = 0; k < count; k++) {
                const int64_t d = labs((long)((uint8_t *)ours.q)[k] - ((uint8_t *)theirs.q)[k]);
                off += d > 0;
                most = d > most ? d : most;
            }
            const double a = objective(&ours, w), b = objective(&theirs, w);
            print_message(
                "hqq %s %s: %lld of %lld codes differ (most %lld), objective %.6g, upstream "
                "%.6g, plain %.6g\n",
                types[t], entry->name, (long long)off, (long long)count, (long long)most, a, b,
                objective(&plain, w));
            CHECK_BYTES(ours.scale, theirs.scale, nib_qdesc_blocks(&ours.desc) * 4);
            CHECK(most <= 1 && off * 1000 <= count);
            CHECK(a <= b * 1.001);
            cases++;
            nib_codes_free(nib_ctx_mem(ctx), &ours);
            nib_codes_free(nib_ctx_mem(ctx), &plain);
            nib_codes_free(NULL, &theirs);
            nib_tensor_free(w);
        }
    }
    CHECK_INT(cases, 18);
    nib_safetensors_close(inputs);
    nib_safetensors_close(file);
}

/* ---- spellings ---- */

static void check_spelling(void **state_, const char *given, const char *want) {
    nib_config *config = nib_config_parse(given);
    CHECK_MADE(config);
    nib_text text = {0};
    nib_config_print(config, &text);
    CHECK_TEXT(text.data, want);
    nib_text_free(&text);
    nib_config_free(config);
}

TEST(configs_print_as_the_types_are_called) {
    check_spelling(state_, "quanto", "qint8");
    check_spelling(state_, "qint8", "qint8");
    check_spelling(state_, "quanto:weights=qint4", "qint4");
    check_spelling(state_, "qint4:algo=max", "qint4:algo=max");
    check_spelling(state_, "quanto:algo=hqq,weights=qint2", "qint2:algo=hqq");
    check_spelling(state_, "qfloat8", "qfloat8_e4m3fn"); /* as upstream stores it */
    check_spelling(state_, "qfloat8_e4m3fn", "qfloat8_e4m3fn");
    check_spelling(state_, "qfloat8_e5m2", "qfloat8_e5m2");
}

/* ---- what is refused ---- */

TEST(an_algo_of_another_width_is_refused_with_those_that_fit) {
    CHECK_FAILS(nib_config_check(quanto("qint8", NIB_ALGO_HQQ)), NIB_E_ARGUMENT,
                "qint8 takes algo=absmax");
    CHECK_FAILS(nib_config_check(quanto("qint2", NIB_ALGO_ABSMAX)), NIB_E_ARGUMENT,
                "qint2 takes algo=max, hqq, mse or gptq");
    CHECK_OK(nib_config_check(quanto("qfloat8_e4m3fn", NIB_ALGO_ABSMAX)));
    CHECK_OK(nib_config_check(quanto("qint4", NIB_ALGO_MINMAX)));
}

TEST(a_vector_and_integers_are_refused) {
    const nib_config *config = quanto("qint4", NIB_ALGO_DEFAULT);
    nib_qdesc desc;
    nib_site site = {.kind = "linear", .name = "a", .shape = {1, {8}}, .dtype = NIB_F32};
    CHECK_FAILS(config->scheme->plan(config, &site, &desc, NULL, NULL), NIB_E_SHAPE, "rank 1");
    site = (nib_site){.kind = "linear", .name = "a", .shape = {2, {2, 8}}, .dtype = NIB_I8};
    CHECK_FAILS(config->scheme->plan(config, &site, &desc, NULL, NULL), NIB_E_DTYPE, "i8");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        RUNS(qint8_equals_upstream_to_the_byte),
        RUNS(qint4_equals_upstream_to_the_byte),
        RUNS(qint2_equals_upstream_to_the_byte),
        RUNS(qfloat8_e4m3fn_equals_upstream_to_the_byte),
        RUNS(qfloat8_e5m2_equals_upstream_to_the_byte),
        RUNS(qfloat8_e4m3fnuz_equals_upstream_to_the_byte),
        RUNS(a_single_ungrouped_row_of_4_bits_has_one_scale_and_one_shift),
        RUNS(groups_follow_the_rule_of_upstream),
        RUNS(rows_by_runs_give_the_codes_of_all_rows_at_once),
        RUNS(a_long_row_is_coded_like_the_formula),
        RUNS(a_matrix_in_many_pieces_is_packed_as_all_at_once),
        RUNS(hqq_agrees_with_upstream),
        RUNS(configs_print_as_the_types_are_called),
        RUNS(an_algo_of_another_width_is_refused_with_those_that_fit),
        RUNS(a_vector_and_integers_are_refused),
    };
    if (!nib_scheme_find("quanto")) {
        puts("skipped: scheme quanto is not in this build");
        return 0;
    }
    return cmocka_run_group_tests(tests, setup, teardown);
}
