/* softmax_avx512.c: exp, what is made of it, and softmax over a row. */
#include "kernel/kernel.h"
#include "kernel/x86/float_avx512.h"

#define ELEMENTWISE(name, result)                                                                  \
    static void name(float *out, const float *x, size_t n) {                                       \
        size_t i = 0;                                                                              \
        for (; i + 16 <= n; i += 16) {                                                             \
            const __m512 v = _mm512_loadu_ps(x + i);                                               \
            _mm512_storeu_ps(out + i, result);                                                     \
        }                                                                                          \
        if (i < n) {                                                                               \
            const __m512 v = avx512_load_first(x + i, n - i);                                      \
            avx512_store_first(out + i, n - i, result);                                            \
        }                                                                                          \
    }
ELEMENTWISE(exp_f32, avx512_exp(v))
ELEMENTWISE(tanh_f32, avx512_tanh(v))
ELEMENTWISE(sigmoid_f32, avx512_sigmoid(v))
ELEMENTWISE(silu_f32, _mm512_mul_ps(v, avx512_sigmoid(v)))
ELEMENTWISE(gelu_f32, avx512_gelu(v))
ELEMENTWISE(gelu_tanh_f32, avx512_gelu_tanh(v))

static __m512 silu_mul(__m512 gate, __m512 up) {
    return _mm512_mul_ps(_mm512_mul_ps(gate, avx512_sigmoid(gate)), up);
}

static void silu_mul_f32(float *out, const float *gate, const float *up, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(out + i, silu_mul(_mm512_loadu_ps(gate + i), _mm512_loadu_ps(up + i)));
    if (i < n)
        avx512_store_first(
            out + i, n - i,
            silu_mul(avx512_load_first(gate + i, n - i), avx512_load_first(up + i, n - i)));
}

static void softmax_f32(float *x, size_t n) {
    const __m512 max = _mm512_set1_ps(avx512_max(x, n));
    __m512 lanes = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512 e = avx512_exp(_mm512_sub_ps(_mm512_loadu_ps(x + i), max));
        _mm512_storeu_ps(x + i, e);
        lanes = _mm512_add_ps(lanes, e);
    }
    if (i < n) {
        const __mmask16 first = avx512_first(n - i);
        const __m512 e = avx512_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(first, x + i), max));
        _mm512_mask_storeu_ps(x + i, first, e);
        lanes = _mm512_mask_add_ps(lanes, first, lanes, e);
    }
    const __m512 inverse = _mm512_set1_ps(1.0f / avx512_tree(lanes));
    for (i = 0; i + 16 <= n; i += 16)
        _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_loadu_ps(x + i), inverse));
    if (i < n)
        avx512_store_first(x + i, n - i, _mm512_mul_ps(avx512_load_first(x + i, n - i), inverse));
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
const nib_kernel_set nib_kernels_softmax_avx512 = {
    .name = "softmax_avx512", .needs = NIB_CPU_AVX512, .install = install};
