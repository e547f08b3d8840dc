/* softmax_neon.c: exp, what is made of it, and softmax over a row. */
#include "kernel/arm/float_neon.h"
#include "kernel/kernel.h"

#define ELEMENTWISE(name, result)                                                                  \
    static void name(float *out, const float *x, size_t n) {                                       \
        for (size_t i = 0; i < n; i += 4) {                                                        \
            const float32x4_t v = neon_load_first(x + i, n - i);                                   \
            neon_store_first(out + i, n - i, result);                                              \
        }                                                                                          \
    }
ELEMENTWISE(exp_f32, neon_exp(v))
ELEMENTWISE(tanh_f32, neon_tanh(v))
ELEMENTWISE(sigmoid_f32, neon_sigmoid(v))
ELEMENTWISE(silu_f32, vmulq_f32(v, neon_sigmoid(v)))
ELEMENTWISE(gelu_f32, neon_gelu(v))
ELEMENTWISE(gelu_tanh_f32, neon_gelu_tanh(v))

static void silu_mul_f32(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += 4) {
        const float32x4_t g = neon_load_first(gate + i, n - i), u = neon_load_first(up + i, n - i);
        neon_store_first(out + i, n - i, vmulq_f32(vmulq_f32(g, neon_sigmoid(g)), u));
    }
}

static void softmax_f32(float *x, size_t n) {
    const float32x4_t max = vdupq_n_f32(neon_max(x, n));
    for (size_t i = 0; i < n; i += 4) {
        const float32x4_t below = vsubq_f32(neon_load_first(x + i, n - i), max);
        neon_store_first(x + i, n - i, neon_exp(below));
    }
    const float32x4_t inverse = vdupq_n_f32(1.0f / neon_sum(x, n));
    for (size_t i = 0; i < n; i += 4)
        neon_store_first(x + i, n - i, vmulq_f32(neon_load_first(x + i, n - i), inverse));
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
const nib_kernel_set nib_kernels_softmax_neon = {
    .name = "softmax_neon", .needs = NIB_CPU_NEON, .install = install};
