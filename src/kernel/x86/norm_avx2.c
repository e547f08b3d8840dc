/* norm_avx2.c: normalising a row, and rotating pairs by their position. */
#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

static void rms_norm_f32(float *out, const float *x, const float *weight, size_t n, float epsilon) {
    const __m256 factor = _mm256_set1_ps(1.0f / sqrtf(avx2_dot(x, x, n) / (float)n + epsilon));
    for (size_t i = 0; i < n; i += 8) {
        __m256 y = _mm256_mul_ps(avx2_load_first(x + i, n - i), factor);
        if (weight) y = _mm256_mul_ps(y, avx2_load_first(weight + i, n - i));
        avx2_store_first(out + i, n - i, y);
    }
}

/* Sum of (x - mean)^2 in 16 lanes. */
static float spread(const float *x, __m256 mean, size_t n) {
    __m256 lane[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < n; i += 8) {
        const __m256 d = _mm256_sub_ps(avx2_load_first(x + i, n - i), mean);
        __m256 *sum = &lane[i / 8 % 2];
        *sum = _mm256_blendv_ps(*sum, _mm256_fmadd_ps(d, d, *sum),
                                _mm256_castsi256_ps(avx2_first(n - i)));
    }
    return avx2_tree(lane[0], lane[1]);
}

static void layer_norm_f32(float *out, const float *x, const float *weight, const float *bias,
                           size_t n, float epsilon) {
    const __m256 mean = _mm256_set1_ps(avx2_sum(x, n) / (float)n);
    const __m256 factor = _mm256_set1_ps(1.0f / sqrtf(spread(x, mean, n) / (float)n + epsilon));
    for (size_t i = 0; i < n; i += 8) {
        const __m256 d = _mm256_sub_ps(avx2_load_first(x + i, n - i), mean);
        __m256 y = _mm256_mul_ps(d, factor);
        if (weight) y = _mm256_mul_ps(y, avx2_load_first(weight + i, n - i));
        if (bias) y = _mm256_add_ps(y, avx2_load_first(bias + i, n - i));
        avx2_store_first(out + i, n - i, y);
    }
}

static void rope_f32(float *x, const float *cos, const float *sin, size_t half) {
    for (size_t i = 0; i < half; i += 8) {
        const size_t rest = half - i;
        const __m256 a = avx2_load_first(x + i, rest), b = avx2_load_first(x + half + i, rest);
        const __m256 c = avx2_load_first(cos + i, rest), s = avx2_load_first(sin + i, rest);
        avx2_store_first(x + i, rest, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        avx2_store_first(x + half + i, rest, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
}

static void install(nib_kernels *k) {
    k->rms_norm_f32 = rms_norm_f32;
    k->layer_norm_f32 = layer_norm_f32;
    k->rope_f32 = rope_f32;
}
const nib_kernel_set nib_kernels_norm_avx2 = {
    .name = "norm_avx2", .needs = NIB_CPU_AVX2, .install = install};
