/* softmax_ref.c: exp, what is made of it, and softmax over a row. */
#include "kernel/kernel.h"
#include "kernel/ref/float_ref.h"

static void exp_f32(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = ref_exp(x[i]);
}
static void tanh_f32(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = ref_tanh(x[i]);
}
static void sigmoid_f32(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = ref_sigmoid(x[i]);
}
static void silu_f32(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] * ref_sigmoid(x[i]);
}
static void gelu_f32(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = ref_gelu(x[i]);
}
static void gelu_tanh_f32(float *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = ref_gelu_tanh(x[i]);
}
static void silu_mul_f32(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = gate[i] * ref_sigmoid(gate[i]) * up[i];
}

static void softmax_f32(float *x, size_t n) {
    float max = -INFINITY, lane[16] = {0};
    for (size_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    for (size_t i = 0; i < n; i++) {
        x[i] = ref_exp(x[i] - max);
        lane[i % 16] += x[i];
    }
    const float inverse = 1.0f / ref_tree(lane);
    for (size_t i = 0; i < n; i++) x[i] *= inverse;
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
const nib_kernel_set nib_kernels_softmax_ref = {.name = "softmax_ref", .install = install};
