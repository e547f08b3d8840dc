/* norm_avx512.c: normalising a row, and rotating pairs by their position. */
#include "kernel/kernel.h"
#include "kernel/x86/float_avx512.h"

static void rms_norm_f32(float *out, const float *x, const float *weight, size_t n, float epsilon) {
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(avx512_dot(x, x, n) / (float)n + epsilon));
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 first = avx512_first(n - i);
        __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(first, x + i), factor);
        if (weight) y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(first, weight + i));
        _mm512_mask_storeu_ps(out + i, first, y);
    }
}

/* Sum of (x - mean)^2 in 16 lanes. */
static float spread(const float *x, __m512 mean, size_t n) {
    __m512 lanes = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 first = avx512_first(n - i);
        const __m512 d = _mm512_sub_ps(_mm512_maskz_loadu_ps(first, x + i), mean);
        lanes = _mm512_mask3_fmadd_ps(d, d, lanes, first);
    }
    return avx512_tree(lanes);
}

static void layer_norm_f32(float *out, const float *x, const float *weight, const float *bias,
                           size_t n, float epsilon) {
    const __m512 mean = _mm512_set1_ps(avx512_sum(x, n) / (float)n);
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(spread(x, mean, n) / (float)n + epsilon));
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 first = avx512_first(n - i);
        __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(first, x + i), mean), factor);
        if (weight) y = _mm512_mul_ps(y, _mm512_maskz_loadu_ps(first, weight + i));
        if (bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(first, bias + i));
        _mm512_mask_storeu_ps(out + i, first, y);
    }
}

static void rope_f32(float *x, const float *cos, const float *sin, size_t half) {
    for (size_t i = 0; i < half; i += 16) {
        const __mmask16 first = avx512_first(half - i);
        const __m512 a = _mm512_maskz_loadu_ps(first, x + i);
        const __m512 b = _mm512_maskz_loadu_ps(first, x + half + i);
        const __m512 c = _mm512_maskz_loadu_ps(first, cos + i);
        const __m512 s = _mm512_maskz_loadu_ps(first, sin + i);
        _mm512_mask_storeu_ps(x + i, first, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + half + i, first, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

static void install(nib_kernels *k) {
    k->rms_norm_f32 = rms_norm_f32;
    k->layer_norm_f32 = layer_norm_f32;
    k->rope_f32 = rope_f32;
}
const nib_kernel_set nib_kernels_norm_avx512 = {
    .name = "norm_avx512", .needs = NIB_CPU_AVX512, .install = install};
