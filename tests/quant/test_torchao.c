/* Codes, scales, zeros, packed bytes and dequantized weights equal torchao's, byte by byte. The
 * golden files under tests/golden/torchao say which call made each case, and whether the wheels
 * computed it ("real") or a formula restated in make.py did ("emulated"); the two are counted
 * apart. */
#include "io/safetensors.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "test.h"

typedef struct golden {
    char tag[8], kind[16], scheme[160], layout[32], weights[32];
    const char *call;
} golden;

typedef struct tally {
    int real, emulated, skipped;
    long codes, bytes;
} tally;

static void field(const char **from, char *to, size_t room) {
    const char *end = strchr(*from, '|');
    const size_t n = end ? (size_t)(end - *from) : 0;
    if (!end || n >= room) abort();
    memcpy(to, *from, n);
    to[n] = '\0';
    *from = end + 1;
}

static bool case_at(const nib_safetensors *file, size_t i, golden *g) {
    if (i >= file->metadata_count) return false;
    const char *text = file->metadata[i].value;
    snprintf(g->tag, sizeof g->tag, "%s", file->metadata[i].key);
    field(&text, g->kind, sizeof g->kind);
    field(&text, g->scheme, sizeof g->scheme);
    field(&text, g->layout, sizeof g->layout);
    field(&text, g->weights, sizeof g->weights);
    g->call = text;
    return true;
}

/* A tensor of a case in memory of its own; free() it. */
static void *tensor_of(void **state_, nib_safetensors *file, const golden *g, const char *part,
                       const nib_safetensors_entry **entry) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", g->tag, part);
    *entry = nib_safetensors_find(file, name);
    if (!*entry) FAIL_AT("golden file has no %s", name);
    void *bytes = malloc((*entry)->size + 1);
    memcpy(bytes, nib_safetensors_data(file, *entry), (*entry)->size);
    return bytes;
}

static void same(void **state_, const golden *g, const char *part, const void *got,
                 const void *want, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (((const uint8_t *)got)[i] != ((const uint8_t *)want)[i])
            FAIL_AT("case %s, %s of %s weights (%s): %s differs at byte %zu of %zu: got %02x, want "
                    "%02x",
                    g->tag, g->scheme, g->weights, g->call, part, i, size,
                    ((const uint8_t *)got)[i], ((const uint8_t *)want)[i]);
}

/* f32 values as the golden part stores them. */
static void same_values(void **state_, nib_safetensors *file, const golden *g, const char *part,
                        const float *got, int64_t n) {
    const nib_safetensors_entry *entry;
    void *want = tensor_of(state_, file, g, part, &entry);
    float *wide = malloc((size_t)n * sizeof *wide);
    nib_to_f32(entry->dtype, wide, want, (size_t)n);
    same(state_, g, part, got, wide, (size_t)n * sizeof *wide);
    free(wide);
    free(want);
}

/* torchao's fp8 codes of a block of zeros are NaN (0 / 0); ours are 0. docs/differences.md. */
static void mend_zero_blocks(const nib_codes *c, uint8_t *want) {
    for (int64_t i = 0; i < c->desc.rows * c->desc.cols; i++) {
        const int64_t row = i / c->desc.cols, col = i % c->desc.cols;
        const int64_t block =
            row / c->desc.block_rows * nib_qdesc_block_cols(&c->desc) + col / c->desc.block_cols;
        const bool nan =
            c->desc.code == NIB_F8_E5M2 ? (want[i] & 0x7f) > 0x7c : (want[i] & 0x7f) == 0x7f;
        if (c->scale[block] == 0 && nan) want[i] = 0;
    }
}

static void compare_layout(void **state_, nib_safetensors *file, const golden *g,
                           const nib_codes *c) {
    const nib_layout *layout = nib_layout_find(g->layout);
    nib_part parts[NIB_MAX_PARTS];
    void *packed[NIB_MAX_PARTS] = {0};
    if (!layout->holds(&c->desc)) FAIL_AT("layout %s does not hold %s", g->layout, g->scheme);
    const int count = layout->parts(&c->desc, parts);
    for (int i = 0; i < count; i++) packed[i] = malloc(nib_part_bytes(&parts[i]) + 1);
    layout->pack(packed, c);
    for (int i = 0; i < count; i++) {
        const nib_safetensors_entry *entry;
        uint8_t *want = tensor_of(state_, file, g, parts[i].suffix, &entry);
        CHECK_INT(entry->dtype, parts[i].dtype);
        CHECK_INT(entry->size, nib_part_bytes(&parts[i]));
        if (!nib_shape_equal(&entry->shape, &parts[i].shape))
            FAIL_AT("case %s, %s: shape of %s", g->tag, g->scheme, parts[i].suffix);
        if (strcmp(g->layout, "f8_row") == 0 && i == 0) mend_zero_blocks(c, want);
        same(state_, g, parts[i].suffix, packed[i], want, entry->size);
        free(want);
        free(packed[i]);
    }
}

static void compare_codes(void **state_, nib_safetensors *file, const golden *g,
                          const nib_codes *c) {
    const nib_safetensors_entry *entry;
    void *want = tensor_of(state_, file, g, "codes", &entry);
    same(state_, g, "codes", c->q, want, entry->size);
    free(want);
    same_values(state_, file, g, "scale", c->scale, nib_qdesc_blocks(&c->desc));
    same_values(state_, file, g, "zero", c->zero, nib_qdesc_blocks(&c->desc));
}

/* Blocks with scale 0 aside, which upstream makes NaN. */
static void compare_floats(void **state_, nib_safetensors *file, const golden *g,
                           const nib_codes *c) {
    const nib_safetensors_entry *entry;
    void *want = tensor_of(state_, file, g, "dequantized", &entry);
    const size_t n = (size_t)(c->desc.rows * c->desc.cols);
    float *got = malloc(n * sizeof *got), *wide = malloc(n * sizeof *wide);
    nib_codes_dequantize(c, got);
    nib_to_f32(entry->dtype, wide, want, n);
    for (size_t i = 0; i < n; i++)
        if (wide[i] != wide[i] && got[i] == 0) wide[i] = got[i];
    same(state_, g, "dequantized", got, wide, n * sizeof *got);
    free(want);
    free(got);
    free(wide);
}

static nib_tensor *weight_of(void **state_, nib_ctx *ctx, nib_safetensors *file, const golden *g,
                             void **bytes) {
    const nib_safetensors_entry *entry;
    *bytes = tensor_of(state_, file, g, "weight", &entry);
    nib_tensor *w = nib_tensor_wrap(ctx, entry->dtype, entry->shape, *bytes, NULL, NULL);
    CHECK_MADE(w);
    return w;
}

static bool codes_of(void **state_, const golden *g, const nib_tensor *w, nib_codes *codes) {
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(g->scheme, ":"), g->scheme);
    if (!nib_scheme_find(name)) return false;
    nib_config *config = nib_config_parse(g->scheme);
    CHECK_MADE(config);
    const nib_site site = {"linear", g->tag, w->shape, w->dtype};
    CHECK_OK(nib_scheme_codes(config, &site, w, codes));
    nib_config_free(config);
    return true;
}

static void check_path(void **state_, const char *name, const char *path, int at_least) {
    nib_safetensors *file = nib_safetensors_open(NULL, path);
    CHECK_MADE(file);
    nib_ctx *ctx = nib_ctx_new(NULL);
    tally t = {0};
    golden g;
    for (size_t i = 0; case_at(file, i, &g); i++) {
        void *bytes;
        nib_codes codes;
        nib_tensor *w = weight_of(state_, ctx, file, &g, &bytes);
        if (codes_of(state_, &g, w, &codes)) {
            if (strcmp(g.layout, "codes") == 0)
                compare_codes(state_, file, &g, &codes);
            else
                compare_layout(state_, file, &g, &codes);
            compare_floats(state_, file, &g, &codes);
            t.codes += (long)(codes.desc.rows * codes.desc.cols);
            *(strcmp(g.kind, "real") == 0 ? &t.real : &t.emulated) += 1;
            nib_codes_free(nib_ctx_mem(ctx), &codes);
        } else {
            t.skipped++;
        }
        nib_tensor_free(w);
        free(bytes);
    }
    print_message("%s: %d real and %d emulated cases, %ld codes, 0 differing; %d skipped\n", name,
                  t.real, t.emulated, t.codes, t.skipped);
    CHECK(t.real + t.emulated + t.skipped >= at_least);
    nib_ctx_free(ctx);
    nib_safetensors_close(file);
}

static void check_file(void **state_, const char *name, int at_least) {
    char path[128];
    snprintf(path, sizeof path, "tests/golden/torchao/%s.safetensors", name);
    check_path(state_, name, path, at_least);
}

/* Cases that tests/interop/race_torchao.py has just made. */
TEST(cases_of_a_race_equal_torchao) {
    const char *path = getenv("NIB_GOLDEN");
    if (path) check_path(state_, path, path, 1);
}

TEST(int8_weight_only_equals_torchao) { check_file(state_, "int8", 38); }
TEST(float8_weight_only_equals_torchao) { check_file(state_, "float8", 32); }
TEST(intx_weight_only_equals_torchao) { check_file(state_, "intx", 77); }
TEST(tinygemm_numerics_equal_torchao) { check_file(state_, "tinygemm", 36); }
TEST(plain_int4_and_tiles_equal_their_restated_formulas) { check_file(state_, "emulated", 29); }

/* ---- HQQ: sums and powers belong to torch, so results agree closely, not exactly ---- */

static double error_of(const nib_codes *c, const float *w) {
    const int64_t n = c->desc.rows * c->desc.cols;
    float *back = malloc((size_t)n * sizeof *back);
    nib_codes exact = *c;
    exact.desc.math = NIB_F32; /* compare the choices, not the rounding of results */
    nib_codes_dequantize(&exact, back);
    double sum = 0;
    /* hqq_zero lessens |error|, hqq_scale its square; both are compared by what they lessen. */
    for (int64_t i = 0; i < n; i++) {
        const double e = fabs((double)w[i] - (double)back[i]);
        sum += c->zero ? e : e * e;
    }
    free(back);
    return sum / (double)n;
}

TEST(hqq_is_as_good_as_torchao_and_hardly_differs) {
    nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/torchao/hqq.safetensors");
    CHECK_MADE(file);
    nib_ctx *ctx = nib_ctx_new(NULL);
    golden g;
    long differing = 0, all = 0;
    int cases = 0;
    double worst = 0;
    for (size_t i = 0; case_at(file, i, &g); i++) {
        void *bytes;
        nib_codes codes;
        nib_tensor *w = weight_of(state_, ctx, file, &g, &bytes);
        if (codes_of(state_, &g, w, &codes)) {
            const bool zeros = codes.zero != NULL;
            const nib_safetensors_entry *q, *s, *z;
            nib_codes theirs = codes;
            theirs.q = tensor_of(state_, file, &g, zeros ? "codes" : "qdata", &q);
            void *scale = tensor_of(state_, file, &g, "scale", &s);
            void *zero = zeros ? tensor_of(state_, file, &g, "zero", &z) : NULL;
            const int64_t blocks = nib_qdesc_blocks(&codes.desc),
                          n = w->shape.dim[0] * w->shape.dim[1];
            theirs.scale = malloc((size_t)blocks * sizeof(float));
            theirs.zero = zeros ? malloc((size_t)blocks * sizeof(float)) : NULL;
            nib_to_f32(s->dtype, theirs.scale, scale, (size_t)blocks);
            if (zeros) nib_to_f32(z->dtype, theirs.zero, zero, (size_t)blocks);
            long differ = 0;
            for (int64_t k = 0; k < n; k++) {
                const int a = ((int8_t *)codes.q)[k], b = ((int8_t *)theirs.q)[k];
                if (abs(a - b) > 1) FAIL_AT("case %s %s: code %d for %d", g.tag, g.scheme, a, b);
                differ += a != b;
            }
            if (differ * 1000 > n)
                FAIL_AT("case %s %s: %ld of %ld codes differ", g.tag, g.scheme, differ, (long)n);
            float *wide = malloc((size_t)n * sizeof *wide);
            nib_to_f32(w->dtype, wide, bytes, (size_t)n);
            const double ours = error_of(&codes, wide), upstream = error_of(&theirs, wide);
            if (ours > upstream * 1.001)
                FAIL_AT("case %s %s: objective %g for %g", g.tag, g.scheme, ours, upstream);
            if (upstream > 0 && ours / upstream > worst) worst = ours / upstream;
            differing += differ;
            all += (long)n;
            cases++;
            free(wide);
            free(theirs.q);
            free(theirs.scale);
            free(theirs.zero);
            free(scale);
            free(zero);
            nib_codes_free(nib_ctx_mem(ctx), &codes);
        }
        nib_tensor_free(w);
        free(bytes);
    }
    print_message("hqq: %d real cases, %ld of %ld codes differ by one, worst objective %.6f x\n",
                  cases, differing, all, worst);
    nib_ctx_free(ctx);
    nib_safetensors_close(file);
}

TESTS(RUNS(int8_weight_only_equals_torchao), RUNS(float8_weight_only_equals_torchao),
      RUNS(intx_weight_only_equals_torchao), RUNS(tinygemm_numerics_equal_torchao),
      RUNS(plain_int4_and_tiles_equal_their_restated_formulas),
      RUNS(hqq_is_as_good_as_torchao_and_hardly_differs), RUNS(cases_of_a_race_equal_torchao))
