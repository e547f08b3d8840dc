/* norm_ref.c: normalising a row, and rotating pairs by their position. */
#include "kernel/kernel.h"
#include "kernel/ref/float_ref.h"

static void rms_norm_f32(float *out, const float *x, const float *weight, size_t n, float epsilon) {
    const float factor = 1.0f / sqrtf(ref_dot(x, x, n) / (float)n + epsilon);
    for (size_t i = 0; i < n; i++) out[i] = weight ? x[i] * factor * weight[i] : x[i] * factor;
}

static void layer_norm_f32(float *out, const float *x, const float *weight, const float *bias,
                           size_t n, float epsilon) {
    const float mean = ref_sum(x, n) / (float)n;
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++) {
        const float d = x[i] - mean;
        lane[i % 16] = fmaf(d, d, lane[i % 16]);
    }
    const float factor = 1.0f / sqrtf(ref_tree(lane) / (float)n + epsilon);
    for (size_t i = 0; i < n; i++) {
        const float scaled = (x[i] - mean) * factor * (weight ? weight[i] : 1.0f);
        out[i] = bias ? scaled + bias[i] : scaled;
    }
}

static void rope_f32(float *x, const float *cos, const float *sin, size_t half) {
    for (size_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = fmaf(a, cos[i], -(b * sin[i]));
        x[i + half] = fmaf(b, cos[i], a * sin[i]);
    }
}

static void install(nib_kernels *k) {
    k->rms_norm_f32 = rms_norm_f32;
    k->layer_norm_f32 = layer_norm_f32;
    k->rope_f32 = rope_f32;
}
const nib_kernel_set nib_kernels_norm_ref = {.name = "norm_ref", .install = install};
