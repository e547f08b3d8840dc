/* softmax_avx2.c: exp, what is made of it, and softmax over a row. */
#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

#define ELEMENTWISE(name, result)                                                                  \
    static void name(float *out, const float *x, size_t n) {                                       \
        size_t i = 0;                                                                              \
        for (; i + 8 <= n; i += 8) {                                                               \
            const __m256 v = _mm256_loadu_ps(x + i);                                               \
            _mm256_storeu_ps(out + i, result);                                                     \
        }                                                                                          \
        if (i < n) {                                                                               \
            const __m256 v = avx2_load_first(x + i, n - i);                                        \
            avx2_store_first(out + i, n - i, result);                                              \
        }                                                                                          \
    }
ELEMENTWISE(exp_f32, avx2_exp(v))
ELEMENTWISE(tanh_f32, avx2_tanh(v))
ELEMENTWISE(sigmoid_f32, avx2_sigmoid(v))
ELEMENTWISE(silu_f32, _mm256_mul_ps(v, avx2_sigmoid(v)))
ELEMENTWISE(gelu_f32, avx2_gelu(v))
ELEMENTWISE(gelu_tanh_f32, avx2_gelu_tanh(v))

static __m256 silu_mul(__m256 gate, __m256 up) {
    return _mm256_mul_ps(_mm256_mul_ps(gate, avx2_sigmoid(gate)), up);
}

static void silu_mul_f32(float *out, const float *gate, const float *up, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, silu_mul(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i < n)
        avx2_store_first(
            out + i, n - i,
            silu_mul(avx2_load_first(gate + i, n - i), avx2_load_first(up + i, n - i)));
}

static void softmax_f32(float *x, size_t n) {
    const float max = avx2_max(x, n);
    for (size_t i = 0; i < n; i += 8) {
        const size_t rest = n - i;
        const __m256 e = avx2_exp(_mm256_sub_ps(avx2_load_first(x + i, rest), _mm256_set1_ps(max)));
        avx2_store_first(x + i, rest, e);
    }
    const __m256 inverse = _mm256_set1_ps(1.0f / avx2_sum(x, n));
    for (size_t i = 0; i < n; i += 8)
        avx2_store_first(x + i, n - i, _mm256_mul_ps(avx2_load_first(x + i, n - i), inverse));
}

static void install(nib_kernels *k) {
    k->exp_f32 = exp_f32;
    k->tanh_f32 = tanh_f32;
    k->sigmoid_f32 = sigmoid_f32;
    k->silu_f32 = silu_f32;
    k->gelu_f32 = gelu_f32;
    k->gelu_tanh_f32 = gelu_tanh_f32;
    k->silu_mul_f32 = silu_mul_f32;
    k->softmax_f32 = softmax_f32;
}
const nib_kernel_set nib_kernels_softmax_avx2 = {
    .name = "softmax_avx2", .needs = NIB_CPU_AVX2, .install = install};
