/* test_float_kernels.c: that the judges themselves are right: near the formula in double, and
 * the laws that docs/numerics.md promises. */
#include "kernel/kernel.h"
#include "test.h"

static nib_kernels k;
static int fill(void **state) {
    (void)state;
    nib_kernels_fill(&k, nib_cpu_features());
    return 0;
}

/* Distance in units of the last place that `want` has as an f32 (the smallest denormal at least).
 */
static double ulps_off(float got, double want) {
    if (isinf(want) || fabs(want) > 3.4028235677973366e38) return isinf(got) ? 0 : 1e9;
    int e;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1.0, e - 24 > -149 ? e - 24 : -149);
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

typedef struct worst {
    double ulps;
    float at;
} worst;

/* The worst of about a million f32 of both signs, from 2^-40 up to `most`. */
static worst worst_of(void (*kernel)(float *, const float *, size_t), double (*formula)(double),
                      float most) {
    enum { N = 4096 };
    static float x[N], y[N];
    worst w = {0};
    uint64_t seed = test_seed();
    for (int round = 0; round < 256; round++) {
        for (int i = 0; i < N; i++) {
            const float u = test_uniform(&seed);
            x[i] = i % 2 ? most * u : ldexpf(u, (int)(test_random(&seed) % 47) - 40);
        }
        kernel(y, x, N);
        for (int i = 0; i < N; i++) {
            const double off = ulps_off(y[i], formula((double)x[i]));
            if (off > w.ulps) w = (worst){off, x[i]};
        }
    }
    return w;
}

/* What docs/numerics.md says of all f32, which ./x sweep goes through. */
TEST(exp_tanh_and_sigmoid_keep_their_distance_from_the_formula) {
    const struct {
        double ulps;
        const char *name;
        void (*kernel)(float *, const float *, size_t);
        double (*formula)(double);
        float most;
    } all[] = {{1.009, "exp", k.exp_f32, exp, 105},
               {1.333, "tanh", k.tanh_f32, tanh, 12},
               {2.402, "sigmoid", k.sigmoid_f32, sigmoid, 105}};
    for (int i = 0; i < 3; i++) {
        const worst w = worst_of(all[i].kernel, all[i].formula, all[i].most);
        print_message("%s: at most %.3f ulp, at %a\n", all[i].name, w.ulps, (double)w.at);
        if (w.ulps > all[i].ulps)
            FAIL_AT("%s is %.3f ulp off at %a", all[i].name, w.ulps, (double)w.at);
    }
}

static double gelu(double x) { return 0.5 * x * (1 + erf(x * sqrt(0.5))); }
static double gelu_tanh(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

/* Far below 0 both subtract nearly equal numbers, as PyTorch's do: what stays within bounds is the
 * error as a share of |x|, a few halves of the last place of a number near 1. */
TEST(gelu_keeps_its_distance_from_the_formula) {
    enum { N = 4096 };
    static float x[N], y[N];
    uint64_t seed = test_seed();
    for (int kind = 0; kind < 2; kind++) {
        double most = 0, at = 0;
        for (int round = 0; round < 128; round++) {
            for (int i = 0; i < N; i++)
                x[i] = i % 2 ? 12 * test_uniform(&seed)
                             : ldexpf(test_uniform(&seed), (int)(test_random(&seed) % 47) - 40);
            (kind ? k.gelu_tanh_f32 : k.gelu_f32)(y, x, N);
            for (int i = 0; i < N; i++) {
                const double want = (kind ? gelu_tanh : gelu)((double)x[i]);
                const double off = fabs((double)y[i] - want) / fabs((double)x[i]);
                if (off > most) most = off, at = (double)x[i];
            }
        }
        print_message("gelu%s: at most %.3g of |x|, at %a\n", kind ? " by tanh" : "", most, at);
        if (!(most < 3.0 * ldexp(1, -24))) FAIL_AT("gelu is %g of |x| off at %a", most, at);
    }
}

TEST(the_ends_of_exp_tanh_and_sigmoid_are_the_limits) {
    const float x[8] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 88.8f, -104.1f, 1e30f};
    float y[8];
    k.exp_f32(y, x, 8);
    CHECK(y[0] == INFINITY && y[1] == 0 && isnan(y[2]) && y[3] == 1 && y[4] == 1);
    CHECK(y[5] == INFINITY && y[6] == 0 && y[7] == INFINITY);
    k.tanh_f32(y, x, 8);
    CHECK(y[0] == 1 && y[1] == -1 && isnan(y[2]) && y[3] == 0 && y[4] == 0 && signbit(y[4]));
    k.sigmoid_f32(y, x, 8);
    CHECK(y[0] == 1 && y[1] == 0 && isnan(y[2]) && y[3] == 0.5f && y[4] == 0.5f && y[7] == 1);
}

enum { M = 7, N = 37, K = 700, PANELS = 3 };
static float x[M * K], w[N * K], panels[PANELS * 16 * K], y[M * N], z[M * N];

static void make_product(uint64_t *seed) {
    for (int i = 0; i < M * K; i++) x[i] = test_uniform(seed);
    for (int i = 0; i < N * K; i++) w[i] = test_uniform(seed);
    for (int n = 0; n < N; n += 16)
        k.pack_f32(panels + n * K, w + n * K, K, N - n < 16 ? N - n : 16, K);
}

/* K roundings of half an ulp of partial sums, each at most the sum of magnitudes. */
TEST(a_product_is_near_the_sum_in_double) {
    uint64_t seed = test_seed();
    make_product(&seed);
    k.gemm_f32(y, N, x, K, panels, 16 * K, M, N, K, false);
    for (int m = 0; m < M; m++) {
        for (int n = 0; n < N; n++) {
            double sum = 0, magnitude = 0;
            for (int i = 0; i < K; i++) {
                const double term = (double)x[m * K + i] * (double)w[n * K + i];
                sum += term, magnitude += fabs(term);
            }
            CHECK_NEAR(y[m * N + n], sum, K * 0x1p-24 * magnitude);
        }
    }
}

TEST(rows_apart_blocks_of_K_and_single_channels_give_the_same_bits) {
    uint64_t seed = test_seed();
    make_product(&seed);
    k.gemm_f32(y, N, x, K, panels, 16 * K, M, N, K, false);
    for (int m = 0; m < M; m++)
        k.gemm_f32(z + m * N, N, x + m * K, K, panels, 16 * K, 1, N, K, false);
    CHECK_BYTES(z, y, sizeof(y));
    for (int split = 0; split <= K; split += 70) {
        k.gemm_f32(z, N, x, K, panels, 16 * K, M, N, split, false);
        k.gemm_f32(z, N, x + split, K, panels + 16 * split, 16 * K, M, N, K - split, true);
        CHECK_BYTES(z, y, sizeof(y));
    }
    for (int n = 0; n < N; n++) { /* a channel does not care in which lane it lies */
        float alone[16 * K], one[M];
        k.pack_f32(alone, w + n * K, K, 1, K);
        k.gemm_f32(one, 1, x, K, alone, 16 * K, M, 1, K, false);
        for (int m = 0; m < M; m++) CHECK_BYTES(&one[m], &y[m * N + n], 4);
    }
}

TEST(a_range_knows_nan_infinity_and_the_zeros) {
    const float zeros[4] = {0.0f, -0.0f, 0.0f, 0.0f};
    const float bad[6] = {1, NAN, 2, -INFINITY, 3, 4};
    float low[2], high[2], most[2];
    k.minmax_f32(low, high, zeros, 1, 4);
    CHECK(low[0] == 0 && signbit(low[0]) && high[0] == 0 && !signbit(high[0]));
    k.minmax_f32(low, high, bad, 2, 3);
    CHECK(isnan(low[0]) && isnan(high[0]) && low[1] == -INFINITY && high[1] == 4);
    k.absmax_f32(most, bad, 2, 3);
    CHECK(isnan(most[0]) && most[1] == INFINITY);
    k.absmax_f32(most, zeros + 1, 1, 1);
    CHECK(most[0] == 0 && !signbit(most[0]));
}

TEST(codes_round_to_even_clamp_and_move_by_the_zero) {
    const float in[10] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 1e30f, -1e30f, INFINITY, NAN, 3.0f};
    const float one[1] = {1}, half[1] = {2};
    const int32_t zero[1] = {3};
    uint8_t q[10];
    const uint8_t plain[10] = {0, 2, 2, 0, 254, 127, 128, 127, 0, 3};
    k.quantize_scaled(q, in, 1, 10, one, NULL, -128, 127, NIB_F32);
    CHECK_BYTES(q, plain, 10);
    const uint8_t moved[10] = {3, 5, 5, 3, 1, 15, 0, 15, 0, 6};
    k.quantize_scaled(q, in, 1, 10, one, zero, 0, 15, NIB_F32);
    CHECK_BYTES(q, moved, 10);
    const float shift[1] = {-1};
    const uint8_t divided[10] = {1, 1, 2, 0, 0, 15, 0, 15, 0, 2}; /* (x + 1) / 2 */
    k.quantize_divided(q, in, 1, 10, shift, half, NULL, 0, 15, NIB_F32);
    CHECK_BYTES(q, divided, 10);
}

/* 0.33349609375 * 4.497 = 1.49973...; f16 has steps of 2^-10 here and bf16 of 2^-7, so both make
 * it 1.5 before it is rounded to an integer. */
TEST(every_step_is_rounded_to_the_dtype_asked_for) {
    const float in[1] = {0.33349609375f}, inverse[1] = {4.497f};
    uint8_t q[1];
    k.quantize_scaled(q, in, 1, 1, inverse, NULL, 0, 255, NIB_F32);
    CHECK_INT(q[0], 1);
    k.quantize_scaled(q, in, 1, 1, inverse, NULL, 0, 255, NIB_F16);
    CHECK_INT(q[0], 2);
    k.quantize_scaled(q, in, 1, 1, inverse, NULL, 0, 255, NIB_BF16);
    CHECK_INT(q[0], 2);
}

TEST(an_fp8_group_of_zeros_with_scale_zero_is_codes_of_zero) {
    const float in[4] = {0.0f, -0.0f, 1.0f, NAN}, none[1] = {0};
    const uint8_t want[4] = {0, 0, 0x7e, 0x7f};
    uint8_t q[4];
    k.quantize_f8(q, in, 1, 4, none, 448, NIB_F8_E4M3FN, NIB_F32);
    CHECK_BYTES(q, want, 4);
}

/* Two blocks merged are softmax over all: each of the roundings on the way is below 8 ulp here,
 * and the scores are small, so 1e-5 of the largest v is far above what is lost. */
TEST(attention_in_blocks_is_softmax_over_all_tokens) {
    enum { T = 150, D = 40 };
    static float q[D], keys[T * D], values[T * D];
    float out[D] = {0}, max = -INFINITY, sum = 0;
    uint64_t seed = test_seed();
    for (int i = 0; i < D; i++) q[i] = test_uniform(&seed);
    for (int i = 0; i < T * D; i++) keys[i] = test_uniform(&seed), values[i] = test_uniform(&seed);
    for (int t = 0; t < T; t += NIB_ATTENTION_BLOCK) {
        const int n = T - t < NIB_ATTENTION_BLOCK ? T - t : NIB_ATTENTION_BLOCK;
        k.attention_f32(out, &max, &sum,
                        &(nib_attention_rows){.rows = 1,
                                              .d = D,
                                              .first = &(int32_t){0},
                                              .end = &(int32_t){n},
                                              .q = q,
                                              .scale = 0.3f},
                        &(nib_kv_part){.k = keys + t * D, .v = values + t * D});
    }
    double total = 0, want[D] = {0};
    for (int t = 0; t < T; t++) {
        double score = 0;
        for (int i = 0; i < D; i++) score += (double)q[i] * (double)keys[t * D + i];
        const double p = exp(score * 0.3);
        total += p;
        for (int i = 0; i < D; i++) want[i] += p * (double)values[t * D + i];
    }
    for (int i = 0; i < D; i++) CHECK_NEAR(out[i] * (1.0f / sum), want[i] / total, 1e-5);
}

TEST(norms_and_rope_are_near_the_formula) {
    enum { L = 300 };
    float in[L], weight[L], bias[L], out[L], c[L / 2], s[L / 2];
    uint64_t seed = test_seed();
    double squares = 0, mean = 0, variance = 0;
    for (int i = 0; i < L; i++) {
        in[i] = test_uniform(&seed) * 3 + 1, weight[i] = test_uniform(&seed);
        bias[i] = test_uniform(&seed);
        squares += (double)in[i] * (double)in[i] / L, mean += (double)in[i] / L;
    }
    for (int i = 0; i < L; i++) variance += pow((double)in[i] - mean, 2) / L;
    k.rms_norm_f32(out, in, weight, L, 1e-5f);
    for (int i = 0; i < L; i++)
        CHECK_NEAR(out[i], (double)in[i] / sqrt(squares + 1e-5) * (double)weight[i], 1e-6);
    k.layer_norm_f32(out, in, weight, bias, L, 1e-5f);
    for (int i = 0; i < L; i++)
        CHECK_NEAR(out[i],
                   ((double)in[i] - mean) / sqrt(variance + 1e-5) * (double)weight[i] +
                       (double)bias[i],
                   2e-6);
    for (int i = 0; i < L / 2; i++) c[i] = cosf((float)i), s[i] = sinf((float)i);
    memcpy(out, in, sizeof(in));
    k.rope_f32(out, c, s, L / 2);
    for (int i = 0; i < L / 2; i++) {
        CHECK_NEAR(out[i], (double)in[i] * (double)c[i] - (double)in[i + L / 2] * (double)s[i],
                   1e-6);
        CHECK_NEAR(out[i + L / 2],
                   (double)in[i + L / 2] * (double)c[i] + (double)in[i] * (double)s[i], 1e-6);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        RUNS(exp_tanh_and_sigmoid_keep_their_distance_from_the_formula),
        RUNS(gelu_keeps_its_distance_from_the_formula),
        RUNS(the_ends_of_exp_tanh_and_sigmoid_are_the_limits),
        RUNS(a_product_is_near_the_sum_in_double),
        RUNS(rows_apart_blocks_of_K_and_single_channels_give_the_same_bits),
        RUNS(a_range_knows_nan_infinity_and_the_zeros),
        RUNS(codes_round_to_even_clamp_and_move_by_the_zero),
        RUNS(every_step_is_rounded_to_the_dtype_asked_for),
        RUNS(an_fp8_group_of_zeros_with_scale_zero_is_codes_of_zero),
        RUNS(attention_in_blocks_is_softmax_over_all_tokens),
        RUNS(norms_and_rope_are_near_the_formula),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
