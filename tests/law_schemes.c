/* The law of schemes, for every entry of scheme_list.h and every value of its options: what is
 * quantized comes back within half a step, the same every time, the same in runs of rows as in one
 * piece; rows of zeros come back as zeros; what does not fit is refused by name. */
#include "base/text_util.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "test.h"

/* Options together, beside each by itself; those of schemes that are not in this build are
 * skipped. */
static const char *const combinations[] = {
    "int8_weight_only:granularity=group,group_size=32",
    "int4_weight_only:group_size=32,numerics=tinygemm",
    "int4_weight_only:group_size=64,numerics=tinygemm,eps=v0.17",
    "int4_weight_only:group_size=32,numerics=tinygemm,algo=hqq",
    "intx_weight_only:bits=1",
    "intx_weight_only:bits=3,granularity=group,group_size=32",
    "intx_weight_only:bits=5,granularity=group,group_size=64,mapping=asymmetric",
    "intx_weight_only:bits=2,mapping=asymmetric",
    "intx_weight_only:bits=4,mapping=symmetric_no_clipping_err,scale_dtype=f32",
    "intx_weight_only:bits=3,granularity=group,group_size=32,algo=hqq",
    "float8_weight_only:dtype=e5m2,granularity=tensor",
    "float8_weight_only:granularity=group,group_size=16",
    "qint4:algo=hqq",
    "qint2:algo=hqq",
};

typedef void law(void **state_, nib_ctx *ctx, const char *text, const nib_config *config);

static void for_text(void **state_, law *check, const char *text) {
    nib_config *config = nib_config_parse(text);
    if (!config) return; /* not in this build, or it contradicts another default */
    nib_ctx *ctx = nib_ctx_new(NULL);
    check(state_, ctx, text, config);
    nib_ctx_free(ctx);
    nib_config_free(config);
}

static void for_all(void **state_, law *check) {
    for (size_t s = 0; nib_scheme_at(s); s++) {
        const nib_scheme *scheme = nib_scheme_at(s);
        for_text(state_, check, scheme->name);
        for (int f = 0; f < scheme->nfields; f++) {
            const nib_field *field = &scheme->fields[f];
            for (int i = 0; field->names && field->names[i]; i++) {
                char text[256];
                if (!field->names[i][0]) continue;
                snprintf(text, sizeof text, "%s:%s=%s", scheme->name, field->name, field->names[i]);
                for_text(state_, check, text);
            }
        }
        for (const char *const *a = scheme->aliases; a && *a; a += 2) for_text(state_, check, a[0]);
    }
    for (size_t i = 0; i < sizeof combinations / sizeof *combinations; i++)
        for_text(state_, check, combinations[i]);
}

/* ---- weights ---- */

static const nib_dtype dtypes[] = {NIB_F32, NIB_F16, NIB_BF16};

enum { NORMAL, ZERO_ROWS, OUTLIERS, POSITIVE, TINY, KINDS };

static nib_tensor *weight_new(void **state_, nib_ctx *ctx, nib_dtype dtype, int64_t rows,
                              int64_t cols, int kind, float *wide) {
    uint64_t seed = test_seed() * 31 + (uint64_t)kind;
    nib_tensor *w = nib_tensor_new(ctx, dtype, (nib_shape){2, {rows, cols}});
    CHECK_MADE(w);
    for (int64_t i = 0; i < rows * cols; i++) {
        float x = test_uniform(&seed) * test_uniform(&seed);
        if (kind == ZERO_ROWS && i / cols % 2 == 0) x = 0;
        if (kind == OUTLIERS && i % 37 == 5) x *= 300;
        if (kind == POSITIVE) x = x < 0 ? 0.5f - x : x + 0.5f;
        if (kind == TINY) x *= 1e-3f;
        wide[i] = nib_round_to(x, dtype);
    }
    const nib_kernels *k = nib_codes_kernels();
    void *data = nib_tensor_data_mut(w);
    const size_t n = (size_t)(rows * cols);
    if (dtype == NIB_F16)
        k->f32_to_f16(data, wide, n);
    else if (dtype == NIB_BF16)
        k->f32_to_bf16(data, wide, n);
    else
        memcpy(data, wide, n * sizeof(float));
    return w;
}

static nib_status codes_of(const nib_config *config, const nib_tensor *w, nib_codes *codes) {
    const nib_site site = {"linear", "model.layer.7", w->shape, w->dtype};
    return nib_scheme_codes(config, &site, w, codes);
}

/* ---- laws ---- */

static double roundoff(nib_dtype dtype) {
    return dtype == NIB_BF16 ? 0x1p-8 : dtype == NIB_F16 ? 0x1p-11 : 0x1p-24;
}

/* How far a weight may come back from itself. u is the unit roundoff of the coarser dtype in which
 * steps round. Integer codes: half a step; quantizing rounds up to three times, each off by u of a
 * code as large as the range, or of the zero's distance in steps; dequantizing twice, by u of the
 * largest weight there is in the block. Float codes: half a unit of the last place, or half of the
 * smallest step, and the roundings. */
static double bound_of(const nib_codes *c, int64_t block, float w) {
    const nib_qdesc *d = &c->desc;
    const double u = fmax(roundoff(d->math), roundoff(d->scale_dtype));
    const double s = fabs((double)c->scale[block]);
    if (!nib_qdesc_integer(d)) {
        const bool e5m2 = d->code == NIB_F8_E5M2 || d->code == NIB_F8_E5M2FNUZ;
        const double relative = e5m2 ? 0x1p-3 : 0x1p-4, least = e5m2 ? 0x1p-17 : 0x1p-10;
        /* The scale is chosen in f16: below its normal numbers it may be off by half a step, or 0,
         * and the largest weights are cut to what it can reach. */
        const double largest = e5m2 ? 57344 : d->code == NIB_F8_E4M3FN ? 448 : 240;
        const double cut = d->math == NIB_F16 ? largest * 0x1p-25 : 0;
        return fabs((double)w) * (relative + 4 * u) + s * least + cut + 0x1p-148;
    }
    /* The reciprocal of such a scale is infinite in f16: torchao's codes are then the outermost. */
    const bool multiplied = d->zero_kind == NIB_ZERO_NONE || d->zero_kind == NIB_ZERO_POINT;
    if (multiplied && d->scale_dtype == NIB_F16 && s < 1.0 / 65520) return INFINITY;
    int qmin, qmax;
    nib_qdesc_range(d, &qmin, &qmax);
    const double zero = !c->zero                         ? 0
                        : d->zero_kind == NIB_ZERO_POINT ? 0
                        : s == 0                         ? 0 /* all weights are the zero */
                                                         : fabs((double)c->zero[block]) / s;
    const double range = qmax - qmin + zero;
    /* The smallest float that a scale or zero of f16 can be off by, counted in codes. */
    const bool f16 = d->math == NIB_F16 || d->scale_dtype == NIB_F16;
    const double subnormal = f16 ? 0x1p-25 * (range + 1) : 0;
    return s * (0.5 + 5 * u * range) + subnormal + 0x1p-148;
}

static void comes_back(void **state_, nib_ctx *ctx, const char *text, const nib_config *config) {
    enum { ROWS = 5, COLS = 256 };
    static float wide[ROWS * COLS], back[ROWS * COLS];
    const bool chooses_by_error = config->scheme->whole && config->scheme->whole(config);
    for (int t = 0; t < 3 && !chooses_by_error; t++)
        for (int kind = 0; kind < KINDS; kind++) {
            nib_tensor *w = weight_new(state_, ctx, dtypes[t], ROWS, COLS, kind, wide);
            nib_codes c;
            CHECK_OK(codes_of(config, w, &c));
            nib_codes_dequantize(&c, back);
            for (int64_t i = 0; i < ROWS * COLS; i++) {
                const int64_t row = i / COLS, col = i % COLS;
                const int64_t block = row / c.desc.block_rows * nib_qdesc_block_cols(&c.desc) +
                                      col / c.desc.block_cols;
                const double off = fabs((double)wide[i] - (double)back[i]);
                const double bound = bound_of(&c, block, wide[i]);
                if (!(off <= bound))
                    FAIL_AT(
                        "%s, %s, weights %d: [%lld, %lld] %.9g came back as %.9g, off by %.3g over "
                        "%.3g (scale %.9g zero %.9g)",
                        text, nib_dtype_name(dtypes[t]), kind, (long long)row, (long long)col,
                        (double)wide[i], (double)back[i], off, bound, (double)c.scale[block],
                        c.zero ? (double)c.zero[block] : 0.0);
            }
            nib_codes_free(nib_ctx_mem(ctx), &c);
            nib_tensor_free(w);
        }
}

static void same_twice_and_packed(void **state_, nib_ctx *ctx, const char *text,
                                  const nib_config *config) {
    enum { ROWS = 4, COLS = 256 };
    static float wide[ROWS * COLS], direct[ROWS * COLS], rows[ROWS * COLS];
    for (int t = 0; t < 3; t++) {
        nib_tensor *w = weight_new(state_, ctx, dtypes[t], ROWS, COLS, NORMAL, wide);
        nib_codes c, again;
        CHECK_OK(codes_of(config, w, &c));
        CHECK_OK(codes_of(config, w, &again));
        if (memcmp(c.q, again.q, ROWS * COLS) != 0)
            FAIL_AT("%s: other codes the second time", text);
        nib_codes_dequantize(&c, direct);
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *q = nib_quantize_tensor(w, config);
        CHECK_MADE(q);
        CHECK_INT(nib_tensor_dtype(q), dtypes[t]);
        const size_t room = nib_rows_scratch_size(q, ROWS);
        void *scratch = malloc(room + 1);
        nib_rows_to_f32(q, 0, ROWS, rows, scratch);
        if (memcmp(rows, direct, sizeof rows) != 0)
            FAIL_AT("%s: %s packed differs from its codes", text, nib_tensor_layout(q));
        nib_rows_to_f32(q, 2, 1, rows, scratch);
        CHECK_BYTES(rows, direct + 2 * COLS, COLS * sizeof(float));
        nib_tensor *dense = nib_dequantize_tensor(q);
        CHECK_MADE(dense);
        nib_to_f32(dtypes[t], rows, nib_tensor_data(dense), ROWS * COLS);
        CHECK_BYTES(rows, direct, sizeof rows);
        nib_tensor_free(dense);
        free(scratch);
        nib_scope_end(ctx, mark);
        nib_codes_free(nib_ctx_mem(ctx), &c);
        nib_codes_free(nib_ctx_mem(ctx), &again);
        nib_tensor_free(w);
    }
}

static void streams(void **state_, nib_ctx *ctx, const char *text, const nib_config *config) {
    enum { ROWS = 9, COLS = 256 };
    static float wide[ROWS * COLS];
    const nib_scheme *s = config->scheme;
    if (s->whole && s->whole(config)) return;
    for (int64_t run = 1; run <= 4; run++) {
        nib_tensor *w = weight_new(state_, ctx, NIB_BF16, ROWS, COLS, OUTLIERS, wide);
        nib_codes whole, pieces;
        CHECK_OK(codes_of(config, w, &whole));
        CHECK_OK(nib_codes_alloc(nib_ctx_mem(ctx), &whole.desc, &pieces));
        nib_stats stats = {0};
        for (int pass = s->measure ? 0 : 1; pass < 2; pass++)
            for (int64_t row = 0; row < ROWS; row += run) {
                const int64_t n = row + run <= ROWS ? run : ROWS - row;
                nib_tensor *rows = nib_tensor_slice(w, 0, row, n);
                nib_codes out = nib_codes_rows(&pieces, row, n);
                CHECK_OK(pass == 0 ? s->measure(config, &stats, rows)
                                   : s->quantize(config, &stats, rows, &out));
                nib_tensor_free(rows);
            }
        const size_t blocks = (size_t)nib_qdesc_blocks(&whole.desc) * sizeof(float);
        if (memcmp(whole.q, pieces.q, ROWS * COLS) != 0 ||
            memcmp(whole.scale, pieces.scale, blocks) != 0)
            FAIL_AT("%s: runs of %lld rows give other codes than all at once", text,
                    (long long)run);
        if (whole.zero) CHECK_BYTES(pieces.zero, whole.zero, blocks);
        nib_codes_free(nib_ctx_mem(ctx), &whole);
        nib_codes_free(nib_ctx_mem(ctx), &pieces);
        nib_tensor_free(w);
    }
}

static void zeros_stay(void **state_, nib_ctx *ctx, const char *text, const nib_config *config) {
    enum { ROWS = 2, COLS = 256 };
    static float wide[ROWS * COLS], back[ROWS * COLS];
    for (int t = 0; t < 3; t++) {
        nib_tensor *w = weight_new(state_, ctx, dtypes[t], ROWS, COLS, ZERO_ROWS, wide);
        nib_codes c;
        CHECK_OK(codes_of(config, w, &c));
        nib_codes_dequantize(&c, back);
        /* A scale for all, or a zero in weight units, may be off by what it rounds to. */
        const bool shared = c.desc.block_rows > 1;
        for (int i = 0; i < COLS; i++)
            if (!(fabsf(back[i]) <= 1e-6f) && !shared)
                FAIL_AT("%s, %s: 0 in a row of zeros came back as %.9g", text,
                        nib_dtype_name(dtypes[t]), (double)back[i]);
        for (int i = 0; i < ROWS * COLS; i++)
            if (!isfinite(back[i])) FAIL_AT("%s: weight %d is %g", text, i, (double)back[i]);
        nib_codes_free(nib_ctx_mem(ctx), &c);
        nib_tensor_free(w);
    }
}

static void odd_shapes(void **state_, nib_ctx *ctx, const char *text, const nib_config *config) {
    static const int64_t shapes[][2] = {{1, 256}, {1, 1}, {3, 33}, {7, 2}, {2, 100}, {1, 4097}};
    static float wide[4097], back[4097];
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        nib_tensor *w = weight_new(state_, ctx, NIB_BF16, shapes[i][0], shapes[i][1], NORMAL, wide);
        nib_codes c;
        const nib_status status = codes_of(config, w, &c);
        if (status != NIB_OK) {
            CHECK_INT(status, NIB_E_SHAPE);
            if (!strstr(nib_last_error()->what, "model.layer.7"))
                FAIL_AT("%s: \"%s\" does not name the layer", text, nib_last_error()->what);
            nib_tensor_free(w);
            continue;
        }
        nib_codes_dequantize(&c, back);
        for (int64_t k = 0; k < shapes[i][0] * shapes[i][1]; k++) CHECK(isfinite(back[k]));
        const size_t mark = nib_scope_begin(ctx);
        CHECK_MADE(nib_quantize_tensor(w, config));
        nib_scope_end(ctx, mark);
        nib_codes_free(nib_ctx_mem(ctx), &c);
        nib_tensor_free(w);
    }
    nib_tensor *w = nib_tensor_new(ctx, NIB_I32, (nib_shape){2, {4, 256}});
    nib_codes c;
    CHECK_INT(codes_of(config, w, &c), NIB_E_DTYPE);
    nib_tensor_free(w);
    w = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {4, 0}});
    CHECK_INT(codes_of(config, w, &c), NIB_E_SHAPE);
    nib_tensor_free(w);
    w = nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {256}});
    CHECK_INT(codes_of(config, w, &c), NIB_E_SHAPE);
    nib_tensor_free(w);
}

/* A stack of linears gives each matrix the codes that it has by itself. */
static void stacks(void **state_, nib_ctx *ctx, const char *text, const nib_config *config) {
    enum { E = 3, ROWS = 4, COLS = 256 };
    static float wide[E * ROWS * COLS];
    if (config->scheme->whole && config->scheme->whole(config)) return; /* they stop together */
    nib_tensor *flat = weight_new(state_, ctx, NIB_BF16, E * ROWS, COLS, OUTLIERS, wide);
    nib_tensor *stack = nib_tensor_reshape(flat, (nib_shape){3, {E, ROWS, COLS}});
    const nib_site site = {"experts", "moe.w", stack->shape, NIB_BF16};
    nib_codes all, one;
    if (nib_scheme_codes(config, &site, stack, &all) == NIB_OK && all.desc.block_rows == 1) {
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *q = nib_quantize_tensor(stack, config);
        CHECK_MADE(q);
        CHECK_INT(nib_tensor_shape(q).ndim, 3);
        for (int e = 0; e < E; e++) {
            nib_tensor *w = nib_tensor_slice(flat, 0, e * ROWS, ROWS);
            CHECK_OK(codes_of(config, w, &one));
            if (memcmp(one.q, (char *)all.q + e * ROWS * COLS, ROWS * COLS) != 0)
                FAIL_AT("%s: matrix %d of a stack has other codes than by itself", text, e);
            nib_codes unpacked;
            CHECK_OK(nib_unpack_rows(q, e * ROWS, ROWS, &unpacked));
            CHECK_BYTES(unpacked.q, one.q, ROWS * COLS);
            CHECK_BYTES(unpacked.scale, one.scale,
                        (size_t)nib_qdesc_blocks(&one.desc) * sizeof(float));
            nib_codes_free(nib_ctx_mem(ctx), &unpacked);
            nib_codes_free(nib_ctx_mem(ctx), &one);
            nib_tensor_free(w);
        }
        nib_scope_end(ctx, mark);
    }
    nib_codes_free(nib_ctx_mem(ctx), &all);
    nib_tensor_free(stack);
    nib_tensor_free(flat);
}

static void no_memory(void **state_, nib_ctx *ctx, const char *text, const nib_config *config) {
    enum { ROWS = 3, COLS = 256 };
    static float wide[ROWS * COLS];
    nib_tensor *w = weight_new(state_, ctx, NIB_BF16, ROWS, COLS, NORMAL, wide);
    const size_t before = nib_mem_used(nib_ctx_mem(ctx));
    for (long n = 0; n < 64; n++) {
        const size_t mark = nib_scope_begin(ctx);
        nib_mem_fail_after(n, false);
        nib_tensor *q = nib_quantize_tensor(w, config);
        nib_mem_fail_after(-1, false);
        nib_scope_end(ctx, mark);
        if (q) break;
        CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
        /* The context's own list of scopes may have grown; that is no leak. */
        if (nib_mem_used(nib_ctx_mem(ctx)) > before + 1024)
            FAIL_AT("%s: allocation %ld failing leaks", text, n);
        if (n == 63) FAIL_AT("%s: never got enough memory", text);
    }
    nib_tensor_free(w);
}

/* NaN and infinity (--nonfinite keep) give some codes, the same each time, and harm no other row.
 */
static void not_numbers(void **state_, nib_ctx *ctx, const char *text, const nib_config *config) {
    enum { ROWS = 3, COLS = 256 };
    static float wide[ROWS * COLS], back[ROWS * COLS];
    nib_tensor *w = weight_new(state_, ctx, NIB_F32, ROWS, COLS, NORMAL, wide);
    float *data = nib_tensor_data_mut(w);
    nib_codes c;
    data[COLS + 3] = NAN;
    data[COLS + 40] = INFINITY;
    data[COLS + 80] = -INFINITY;
    CHECK_OK(codes_of(config, w, &c));
    nib_codes_dequantize(&c, back);
    for (int i = 0; i < COLS && c.desc.block_rows == 1; i++)
        if (!isfinite(back[i])) FAIL_AT("%s: a NaN in another row made %g", text, (double)back[i]);
    nib_codes_free(nib_ctx_mem(ctx), &c);
    nib_tensor_free(w);
}

TEST(weights_that_are_no_numbers_do_no_harm) { for_all(state_, not_numbers); }
TEST(weights_come_back_within_half_a_step) { for_all(state_, comes_back); }
TEST(the_same_weight_gives_the_same_bytes_packed_or_not) { for_all(state_, same_twice_and_packed); }
TEST(rows_in_runs_equal_all_at_once) { for_all(state_, streams); }
TEST(rows_of_zeros_come_back_as_zeros) { for_all(state_, zeros_stay); }
TEST(odd_shapes_work_or_are_refused_by_name) { for_all(state_, odd_shapes); }
TEST(a_stack_is_quantized_matrix_by_matrix) { for_all(state_, stacks); }
TEST(a_failed_allocation_is_an_error_without_a_leak) { for_all(state_, no_memory); }

TESTS(RUNS(weights_that_are_no_numbers_do_no_harm), RUNS(weights_come_back_within_half_a_step),
      RUNS(the_same_weight_gives_the_same_bytes_packed_or_not),
      RUNS(rows_in_runs_equal_all_at_once), RUNS(rows_of_zeros_come_back_as_zeros),
      RUNS(odd_shapes_work_or_are_refused_by_name), RUNS(a_stack_is_quantized_matrix_by_matrix),
      RUNS(a_failed_allocation_is_an_error_without_a_leak))
