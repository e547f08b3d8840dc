/* Linears whose inputs become codes, quantized as they come or as digits of fixed point: against
 * torchao's own outputs, and against the same arithmetic in float64; for any number of rows,
 * threads, instruction sets and layouts the same bits. tests/golden/torchao/make_inputs.py made the
 * goldens. */
#include <math.h>
#include <nibble/nn.h>

#include "io/safetensors.h"
#include "kernel/kernel.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "test.h"

static nib_tensor *golden(void **state_, nib_ctx *ctx, nib_safetensors *file, const char *tag,
                          const char *part) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", tag, part);
    const nib_safetensors_entry *entry = nib_safetensors_find(file, name);
    if (!entry) FAIL_AT("golden file has no %s", name);
    nib_tensor *t = nib_tensor_new(ctx, entry->dtype, entry->shape);
    CHECK_MADE(t);
    memcpy(nib_tensor_data_mut(t), nib_safetensors_data(file, entry), entry->size);
    return t;
}

TEST(outputs_are_torchaos_within_rounding) {
    nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/torchao/linears.safetensors");
    CHECK_MADE(file);
    CHECK(file->metadata_count == 13);
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (size_t i = 0; i < file->metadata_count; i++) {
        const char *tag = file->metadata[i].key;
        char scheme[160];
        CHECK_INT(sscanf(file->metadata[i].value, "%159[^|]|", scheme), 1);
        nib_config *config = nib_config_parse(scheme);
        if (!config) continue; /* not in this build */
        nib_tensor *x = golden(state_, ctx, file, tag, "x"),
                   *b = golden(state_, ctx, file, tag, "bias");
        nib_tensor *w = golden(state_, ctx, file, tag, "weight");
        nib_tensor *want = golden(state_, ctx, file, tag, "y");
        nib_tensor *bound = golden(state_, ctx, file, tag, "bound");
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *q = nib_quantize_tensor(w, config);
        nib_tensor *y = nib_linear(x, q, b);
        CHECK_MADE(y);
        const float *got = nib_tensor_data(y), *theirs = nib_tensor_data(want);
        const float *most = nib_tensor_data(bound);
        for (int64_t k = 0; k < nib_tensor_count(y); k++)
            if (!(fabsf(got[k] - theirs[k]) <= most[k]))
                FAIL_AT("case %s, %s: output %lld is %.9g, torchao's %.9g, bound %.3g", tag, scheme,
                        (long long)k, (double)got[k], (double)theirs[k], (double)most[k]);
        nib_scope_end(ctx, mark);
        nib_tensor_free(x), nib_tensor_free(b), nib_tensor_free(w);
        nib_tensor_free(want), nib_tensor_free(bound);
        nib_config_free(config);
    }
    nib_ctx_free(ctx);
    nib_safetensors_close(file);
}

/* ---- the law in float64 ---- */

static const char *const schemes[] = {
    "int8_dynamic_activation_int8_weight",
    "int8_dynamic_activation_int8_weight:act_mapping_type=asymmetric",
    "int8_dynamic_activation_int8_weight:reduce_range=true",
    "int8_dynamic_activation_int8_weight:granularity=tensor,act_mapping_type=asymmetric",
    "8da4w",
    "8da4w:group_size=64,mapping=asymmetric",
    "8da4w:granularity=row,scale_dtype=bf16",
    "8da4w:group_size=16",            /* which no layout of the kernels holds */
    "int4_weight_only:group_size=64", /* and those whose inputs are floats */
    "qint4",
    "qint2",
    "intx_weight_only:bits=3,granularity=group,group_size=32",
    "intx_weight_only:bits=7,granularity=group,group_size=96,mapping=asymmetric",
};
enum { SCHEMES = sizeof schemes / sizeof *schemes, MOST_M = 19, N = 37, K = 192 };

static nib_tensor *random_matrix(void **state_, nib_ctx *ctx, int64_t rows, int64_t cols,
                                 uint64_t *seed) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {rows, cols}});
    CHECK_MADE(t);
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; i < rows * cols; i++)
        data[i] = test_uniform(seed) + (i % 97 == 0 ? 4 * test_uniform(seed) : 0);
    return t;
}

/* The same of floats, and what they lose as fixed point: half of 2^-21 of the power of two below
 * the largest. */
static void exact_floats(void **state_, const nib_tensor *w, const float *x, int64_t M, double *y,
                         double *magnitude, double *lost) {
    nib_codes c;
    CHECK_OK(nib_unpack_rows(w, 0, N, &c));
    const int64_t G = c.desc.block_cols, blocks = nib_qdesc_block_cols(&c.desc);
    const int mid = c.desc.zero_kind == NIB_ZERO_MID ? nib_qdesc_mid(&c.desc) : 0;
    for (int64_t m = 0; m < M; m++) {
        double largest = 0;
        for (int64_t i = 0; i < K; i++) largest = fmax(largest, fabs((double)x[m * K + i]));
        for (int64_t n = 0; n < N; n++) {
            double sum = 0, most = 0, weights = 0;
            for (int64_t i = 0; i < K; i++) {
                const int64_t b = n / c.desc.block_rows * blocks + i / G;
                const double code = (double)nib_code_value(&c, n * K + i) - mid;
                const double scaled = (double)c.scale[b] * code,
                             offset = (double)nib_codes_offset(&c, b), input = (double)x[m * K + i];
                sum += input * (scaled + offset);
                most += fabs(input) * (fabs(scaled) + fabs(offset));
                weights += fabs(scaled + offset);
            }
            y[m * N + n] = sum;
            magnitude[m * N + n] = most;
            lost[m * N + n] = 0x1p-22 * largest * weights;
        }
    }
    nib_codes_free(nib_ctx_mem(w->ctx), &c);
}

/* What docs/numerics.md says of quantized inputs, in float64 from codes and scales, and the sum of
 * the magnitudes of all that is added. */
static void exact(void **state_, const nib_tensor *w, const float *x, int64_t M, double *y,
                  double *magnitude) {
    nib_kernels k;
    nib_codes c;
    nib_kernels_fill(&k, 0);
    CHECK_OK(nib_unpack_rows(w, 0, N, &c));
    const nib_act *act = &w->act;
    const int64_t G = c.desc.block_cols, blocks = nib_qdesc_block_cols(&c.desc);
    for (int64_t m = 0; m < M; m++) {
        int8_t q[MOST_M * K];
        float scale;
        int32_t zero = 0;
        const bool all = act->block.dim[0] == 0;
        k.quantize_rows_i8(q, 0, &scale, act->symmetric ? NULL : &zero, NULL, all ? x : x + m * K,
                           1, all ? M * K : K, act->dtype == NIB_I7 ? 7 : 8, act->eps);
        const int8_t *q_m = all ? q + m * K : q;
        for (int64_t n = 0; n < N; n++) {
            double sum = 0, most = 0;
            for (int64_t i = 0; i < K; i++) {
                const int64_t b = n / c.desc.block_rows * blocks + i / G;
                const double z = c.zero ? (double)c.zero[b] : 0;
                const double value = (double)c.scale[b] * (((const int8_t *)c.q)[n * K + i] - z);
                const double s = (double)scale;
                sum += s * (q_m[i] - zero) * value;
                most += s * (abs(q_m[i]) + abs(zero)) *
                        ((double)c.scale[b] * (abs(((const int8_t *)c.q)[n * K + i]) + fabs(z)));
            }
            y[m * N + n] = sum;
            magnitude[m * N + n] = most;
        }
    }
    nib_codes_free(nib_ctx_mem(w->ctx), &c);
}

/* Each group adds two roundings of sums no larger than all magnitudes, the correction as many, and
 * the scale of the input one: 2^-24 each. */
TEST(outputs_are_the_float64_sums_within_a_rounding_for_each_step) {
    for (int s = 0; s < SCHEMES; s++)
        for (int prepare = 0; prepare < 2; prepare++) {
            uint64_t seed = test_seed() + (uint64_t)s;
            nib_config *config = nib_config_parse(schemes[s]);
            if (!config) continue;
            nib_ctx *ctx = nib_ctx_new(NULL);
            nib_tensor *w = random_matrix(state_, ctx, N, K, &seed);
            nib_tensor *x = random_matrix(state_, ctx, MOST_M, K, &seed);
            nib_module *layer = nib_linear_new(ctx, w, NIB_NONE);
            CHECK_MADE(layer);
            CHECK_OK(nib_quantize(layer, config, NULL));
            static double want[MOST_M * N], most[MOST_M * N], lost[MOST_M * N];
            const nib_tensor *coded = nib_module_parameter(layer, "weight");
            const bool floats = coded->act.when == NIB_ACT_NONE;
            memset(lost, 0, sizeof lost);
            if (floats)
                exact_floats(state_, coded, nib_tensor_data(x), MOST_M, want, most, lost);
            else
                exact(state_, coded, nib_tensor_data(x), MOST_M, want, most);
            if (prepare) CHECK_OK(nib_prepare(layer));
            const size_t mark = nib_scope_begin(ctx);
            nib_tensor *y = nib_module_forward(layer, x);
            CHECK_MADE(y);
            const float *got = nib_tensor_data(y);
            const nib_qdesc *d = &nib_module_parameter(layer, "weight")->desc;
            const double steps = 4.0 * (double)(K / d->block_cols) + (floats ? 6 : 4);
            for (int i = 0; i < MOST_M * N; i++) {
                const double bound = most[i] * steps * 0x1p-24 + lost[i];
                if (!(fabs((double)got[i] - want[i]) <= bound))
                    FAIL_AT("%s: output %d is %.9g, want %.9g, off by %.3g of %.3g", schemes[s], i,
                            (double)got[i], want[i], fabs((double)got[i] - want[i]), bound);
            }
            nib_scope_end(ctx, mark);
            nib_tensor_free(x);
            nib_module_free(layer);
            nib_ctx_free(ctx);
            nib_config_free(config);
        }
}

TEST(rows_threads_instruction_sets_and_layouts_do_not_show_in_the_bits) {
    static const char *const isas[] = {"ref", "avx2", NULL};
    static const int rows[] = {1, 2, 3, 7, MOST_M};
    for (int s = 0; s < SCHEMES; s++) {
        static float first[MOST_M * N];
        bool have = false;
        nib_config *config = nib_config_parse(schemes[s]);
        if (!config) continue;
        const bool all = strstr(schemes[s], "granularity=tensor") != NULL; /* rows share a scale */
        for (int isa = 0; isa < 3; isa++)
            for (int threads = 1; threads <= 3; threads += 2)
                for (int prepare = 0; prepare < 2; prepare++) {
                    uint64_t seed = test_seed() + (uint64_t)s;
                    nib_ctx *ctx =
                        nib_ctx_new(&(nib_ctx_options){.threads = threads, .isa = isas[isa]});
                    if (!ctx) continue; /* not on this machine */
                    nib_tensor *w = random_matrix(state_, ctx, N, K, &seed);
                    nib_tensor *x = random_matrix(state_, ctx, MOST_M, K, &seed);
                    nib_module *layer = nib_linear_new(ctx, w, NIB_NONE);
                    CHECK_OK(nib_quantize(layer, config, NULL));
                    if (prepare) CHECK_OK(nib_prepare(layer));
                    for (int r = all ? 4 : 0; r < 5; r++)
                        for (int64_t row = 0; row < MOST_M; row += rows[r]) {
                            const int64_t n = MOST_M - row < rows[r] ? MOST_M - row : rows[r];
                            const size_t mark = nib_scope_begin(ctx);
                            nib_tensor *part = nib_tensor_slice(x, 0, row, n);
                            nib_tensor *y = nib_module_forward(layer, part);
                            CHECK_MADE(y);
                            if (!have)
                                memcpy(first + row * N, nib_tensor_data(y),
                                       (size_t)(n * N) * sizeof(float));
                            else
                                CHECK_BYTES(nib_tensor_data(y), first + row * N,
                                            (size_t)(n * N) * sizeof(float));
                            have |= row + n == MOST_M;
                            nib_tensor_free(part);
                            nib_scope_end(ctx, mark);
                        }
                    nib_tensor_free(x);
                    nib_module_free(layer);
                    nib_ctx_free(ctx);
                }
        nib_config_free(config);
    }
}

TEST(many_rows_of_digits_are_each_what_it_is_alone) {
    enum { M = 333 };
    nib_config *config = nib_config_parse("int4_weight_only:group_size=64");
    if (!config) return;
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    nib_tensor *x = random_matrix(state_, ctx, M, K, &seed);
    nib_module *layer = nib_linear_new(ctx, random_matrix(state_, ctx, 1500, K, &seed), NIB_NONE);
    CHECK_OK(nib_quantize(layer, config, NULL));
    CHECK_OK(nib_prepare(layer));
    const size_t mark = nib_scope_begin(ctx);
    const nib_tensor *all = nib_module_forward(layer, x);
    CHECK_MADE(all);
    for (int64_t m = 0; m < M; m += 7) {
        nib_tensor *row = nib_tensor_slice(x, 0, m, 1);
        const nib_tensor *y = nib_module_forward(layer, row);
        CHECK_MADE(y);
        CHECK_BYTES(nib_tensor_data(y), (const float *)nib_tensor_data(all) + m * 1500,
                    1500 * sizeof(float));
        nib_tensor_free(row);
    }
    nib_scope_end(ctx, mark);
    nib_tensor_free(x);
    nib_module_free(layer);
    nib_config_free(config);
    nib_ctx_free(ctx);
}

TEST(a_row_that_is_not_finite_is_nan_and_no_other_is) {
    enum { ROWS = 6 };
    nib_config *config = nib_config_parse("int4_weight_only:group_size=64");
    if (!config) return;
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *x = random_matrix(state_, ctx, ROWS, K, &seed);
    float *data = nib_tensor_data_mut(x);
    data[0 * K + 5] = NAN;
    data[1 * K + 6] = -INFINITY;
    for (int i = 0; i < K; i++) {
        data[2 * K + i] = 0;
        data[3 * K + i] *= 0x1p-130f; /* denormal */
        data[4 * K + i] *= 0x1p100f;
    }
    nib_module *layer = nib_linear_new(ctx, random_matrix(state_, ctx, N, K, &seed), NIB_NONE);
    CHECK_OK(nib_quantize(layer, config, NULL));
    const size_t mark = nib_scope_begin(ctx);
    const nib_tensor *y = nib_module_forward(layer, x);
    CHECK_MADE(y);
    const float *got = nib_tensor_data(y);
    for (int n = 0; n < N; n++) {
        CHECK(isnan(got[n]) && isnan(got[N + n]));
        CHECK(got[2 * N + n] == 0);
        CHECK(fabsf(got[3 * N + n]) < 0x1p-115f);
        for (int m = 2; m < ROWS; m++) CHECK(isfinite(got[m * N + n]));
    }
    nib_scope_end(ctx, mark);
    nib_tensor_free(x);
    nib_module_free(layer);
    nib_config_free(config);
    nib_ctx_free(ctx);
}

TESTS(RUNS(many_rows_of_digits_are_each_what_it_is_alone),
      RUNS(a_row_that_is_not_finite_is_nan_and_no_other_is),
      RUNS(outputs_are_torchaos_within_rounding),
      RUNS(outputs_are_the_float64_sums_within_a_rounding_for_each_step),
      RUNS(rows_threads_instruction_sets_and_layouts_do_not_show_in_the_bits))
