/* Least squared error and error feedback: what they promise, on weights and inputs made up here. */
#include "quant/gptq.h"

#include "quant/codes.h"
#include "quant/mse.h"
#include "quant/scheme.h"
#include "quant/sums.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

enum { N = 24, K = 256, M = 512 };

static float normal(uint64_t *seed) { /* a sum of uniforms is near enough */
    float sum = 0;
    for (int i = 0; i < 6; i++) sum += test_uniform(seed);
    return sum * 0.7f;
}

static nib_tensor *weight_of(nib_ctx *ctx, uint64_t *seed) {
    nib_tensor *w = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {N, K}});
    float *data = nib_tensor_data_mut(w);
    for (int i = 0; i < N * K; i++) data[i] = normal(seed) * 0.05f;
    return w;
}

static void codes_with(void **state_, const char *text, const nib_tensor *w, nib_codes *codes) {
    const nib_site site = {"linear", "w", w->shape, w->dtype};
    nib_config *config = nib_config_parse(text);
    CHECK_MADE(config);
    CHECK_OK(nib_scheme_codes(config, &site, w, codes));
    nib_config_free(config);
}

static double squares(const nib_codes *codes, const nib_tensor *w, const float *x, int rows) {
    static float back[N * K];
    const float *data = nib_tensor_data(w);
    nib_codes_dequantize(codes, back);
    double sum = 0;
    for (int n = 0; n < N; n++) {
        if (!x) {
            for (int k = 0; k < K; k++) {
                const double e = (double)back[n * K + k] - (double)data[n * K + k];
                sum += e * e;
            }
            continue;
        }
        for (int m = 0; m < rows; m++) {
            double e = 0;
            for (int k = 0; k < K; k++)
                e += ((double)back[n * K + k] - (double)data[n * K + k]) * (double)x[m * K + k];
            sum += e * e;
        }
    }
    return sum;
}

TEST(least_squares_miss_no_more_than_the_range_does_and_fewer_bits_gain_more) {
    NEEDS_SCHEME("qint4:algo=mse");
    static const struct {
        const char *plain, *mse;
        double at_most;
    } cases[] = {{"qint8", "qint8:algo=mse", 1},
                 {"qint4", "qint4:algo=mse", 0.97},
                 {"qint2", "qint2:algo=mse", 0.6}};
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    nib_tensor *w = weight_of(ctx, &seed);
    for (int i = 0; i < 3; i++) {
        nib_codes plain, mse;
        codes_with(state_, cases[i].plain, w, &plain);
        codes_with(state_, cases[i].mse, w, &mse);
        const double a = squares(&plain, w, NULL, 0), b = squares(&mse, w, NULL, 0);
        if (!(b <= cases[i].at_most * a))
            FAIL_AT("%s misses %.4g, %s %.4g", cases[i].mse, b, cases[i].plain, a);
        nib_codes_free(nib_ctx_mem(ctx), &plain);
        nib_codes_free(nib_ctx_mem(ctx), &mse);
    }
    nib_tensor_free(w);
    nib_ctx_free(ctx);
}

TEST(constant_and_zero_groups_come_back_as_they_were) {
    NEEDS_SCHEME("qint4:algo=mse");
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *w = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {N, K}});
    float *data = nib_tensor_data_mut(w), back[N * K];
    for (int i = 0; i < N * K; i++) data[i] = i / K % 2 ? 0.25f : 0;
    nib_codes codes;
    codes_with(state_, "qint4:algo=mse", w, &codes);
    nib_codes_dequantize(&codes, back);
    for (int i = 0; i < N * K; i++) CHECK_NEAR(back[i], data[i], 0);
    nib_codes_free(nib_ctx_mem(ctx), &codes);
    nib_tensor_free(w);
    nib_ctx_free(ctx);
}

TEST(error_feedback_misses_less_of_the_outputs_where_inputs_go_together) {
    NEEDS_SCHEME("qint4:algo=mse");
    static const struct {
        const char *text;
        double at_most;
    } cases[] = {{"qint8", 0.5}, {"qint4", 0.5}, {"qint2", 0.6}};
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    uint64_t seed = test_seed();
    nib_tensor *w = weight_of(ctx, &seed);
    static float x[M * K];
    for (int m = 0; m < M; m++) { /* each column leans on the one before */
        x[m * K] = normal(&seed);
        for (int k = 1; k < K; k++) x[m * K + k] = 0.9f * x[m * K + k - 1] + 0.4f * normal(&seed);
    }
    double *sums = calloc((size_t)K * K, sizeof *sums);
    CHECK_OK(nib_sums_add(ctx, sums, x, NULL, 300, K));
    CHECK_OK(nib_sums_add(ctx, sums, x + 300 * K, NULL, M - 300, K));
    for (int i = 0; i < 3; i++) {
        nib_codes plain, fed;
        codes_with(state_, cases[i].text, w, &plain);
        CHECK_OK(nib_codes_alloc(nib_ctx_mem(ctx), &plain.desc, &fed));
        CHECK_OK(nib_gptq(ctx, nib_tensor_data(w), NULL, sums, NULL, &fed));
        const double a = squares(&plain, w, x, M), b = squares(&fed, w, x, M);
        if (!(b <= cases[i].at_most * a))
            FAIL_AT("%s: feedback misses %.4g of the outputs, plain %.4g", cases[i].text, b, a);
        nib_codes_free(nib_ctx_mem(ctx), &plain);
        nib_codes_free(nib_ctx_mem(ctx), &fed);
    }
    free(sums);
    nib_tensor_free(w);
    nib_ctx_free(ctx);
}

static double *calloc_sums(int n) { return calloc((size_t)n * (size_t)n, sizeof(double)); }

/* sum over outputs a, b and inputs: what errors cost where both go together */
static double both_sides(const nib_codes *codes, const nib_tensor *w, const double *ins,
                         const double *outs) {
    static float back[N * K];
    static double turned[N * K];
    const float *data = nib_tensor_data(w);
    nib_codes_dequantize(codes, back);
    for (int i = 0; i < N * K; i++) back[i] = data[i] - back[i];
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) {
            double sum = 0;
            for (int j = 0; j < K; j++)
                sum += (double)back[n * K + j] * (j < k ? ins[k * K + j] : ins[j * K + k]);
            turned[n * K + k] = sum;
        }
    double cost = 0;
    for (int a = 0; a < N; a++)
        for (int b = 0; b < N; b++)
            for (int k = 0; k < K; k++)
                cost += (b < a ? outs[a * N + b] : outs[b * N + a]) * (double)back[a * K + k] *
                        turned[b * K + k];
    return cost;
}

TEST(feedback_along_outputs_costs_less_still_where_their_gradients_go_together) {
    NEEDS_SCHEME("qint4:algo=mse");
    static const char *const texts[] = {"qint8", "qint4", "qint2"};
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    uint64_t seed = test_seed();
    nib_tensor *w = weight_of(ctx, &seed);
    static float x[M * K], g[M * N];
    for (int m = 0; m < M; m++) {
        x[m * K] = normal(&seed);
        g[m * N] = normal(&seed);
        for (int k = 1; k < K; k++) x[m * K + k] = 0.9f * x[m * K + k - 1] + 0.4f * normal(&seed);
        for (int n = 1; n < N; n++) g[m * N + n] = 0.9f * g[m * N + n - 1] + 0.4f * normal(&seed);
    }
    double *ins = calloc_sums(K), *outs = calloc_sums(N);
    CHECK_OK(nib_sums_add(ctx, ins, x, NULL, M, K));
    CHECK_OK(nib_sums_add(ctx, outs, g, NULL, M, N));
    for (int i = 0; i < 3; i++) {
        nib_codes plain, one, two;
        codes_with(state_, texts[i], w, &plain);
        CHECK_OK(nib_codes_alloc(nib_ctx_mem(ctx), &plain.desc, &one));
        CHECK_OK(nib_codes_alloc(nib_ctx_mem(ctx), &plain.desc, &two));
        CHECK_OK(nib_gptq(ctx, nib_tensor_data(w), NULL, ins, NULL, &one));
        CHECK_OK(nib_gptq(ctx, nib_tensor_data(w), NULL, ins, outs, &two));
        const double a = both_sides(&plain, w, ins, outs), b = both_sides(&one, w, ins, outs),
                     c = both_sides(&two, w, ins, outs);
        if (!(b <= a && c <= 0.6 * b))
            FAIL_AT("%s: %.4g for ranges, %.4g by inputs, %.4g by both", texts[i], a, b, c);
        nib_codes_free(nib_ctx_mem(ctx), &plain);
        nib_codes_free(nib_ctx_mem(ctx), &one);
        nib_codes_free(nib_ctx_mem(ctx), &two);
    }
    free(ins);
    free(outs);
    nib_tensor_free(w);
    nib_ctx_free(ctx);
}

TEST(inputs_that_are_all_zero_are_no_failure) {
    NEEDS_SCHEME("qint4:algo=mse");
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    nib_tensor *w = weight_of(ctx, &seed);
    double *sums = calloc((size_t)K * K, sizeof *sums);
    nib_codes plain, fed;
    codes_with(state_, "qint4", w, &plain);
    CHECK_OK(nib_codes_alloc(nib_ctx_mem(ctx), &plain.desc, &fed));
    CHECK_OK(nib_gptq(ctx, nib_tensor_data(w), NULL, sums, NULL, &fed));
    CHECK(squares(&fed, w, NULL, 0) <= 1.2 * squares(&plain, w, NULL, 0));
    nib_codes_free(nib_ctx_mem(ctx), &plain);
    nib_codes_free(nib_ctx_mem(ctx), &fed);
    free(sums);
    nib_tensor_free(w);
    nib_ctx_free(ctx);
}

TEST(inputs_or_gradients_that_are_no_numbers_are_refused) {
    NEEDS_SCHEME("qint4:algo=mse");
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    nib_tensor *w = weight_of(ctx, &seed);
    const float bad[] = {NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        double *ins = calloc_sums(K), *outs = calloc_sums(N);
        static float x[K];
        x[3] = bad[i % 2];
        CHECK_OK(nib_sums_add(ctx, i < 2 ? ins : outs, x, NULL, 1, i < 2 ? K : N));
        nib_codes plain, fed;
        codes_with(state_, "qint4", w, &plain);
        CHECK_OK(nib_codes_alloc(nib_ctx_mem(ctx), &plain.desc, &fed));
        CHECK_FAILS(nib_gptq(ctx, nib_tensor_data(w), NULL, ins, outs, &fed), NIB_E_ARGUMENT,
                    "are not finite");
        nib_codes_free(nib_ctx_mem(ctx), &plain);
        nib_codes_free(nib_ctx_mem(ctx), &fed);
        free(ins);
        free(outs);
    }
    nib_tensor_free(w);
    nib_ctx_free(ctx);
}

TEST(algorithms_go_with_their_types_only) {
    NEEDS_SCHEME("qint8");
    static const char *const wrong[] = {"qint8:algo=max", "qint8:algo=hqq", "qint4:algo=absmax",
                                        "qfloat8_e4m3fn:algo=mse", "qfloat8_e4m3fn:algo=gptq"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        nib_config *config = nib_config_parse(wrong[i]);
        if (config) FAIL_AT("%s was accepted", wrong[i]);
        CHECK_INT(nib_last_error()->status, NIB_E_ARGUMENT);
    }
}

TESTS(RUNS(least_squares_miss_no_more_than_the_range_does_and_fewer_bits_gain_more),
      RUNS(constant_and_zero_groups_come_back_as_they_were),
      RUNS(error_feedback_misses_less_of_the_outputs_where_inputs_go_together),
      RUNS(feedback_along_outputs_costs_less_still_where_their_gradients_go_together),
      RUNS(inputs_that_are_all_zero_are_no_failure),
      RUNS(inputs_or_gradients_that_are_no_numbers_are_refused),
      RUNS(algorithms_go_with_their_types_only))
