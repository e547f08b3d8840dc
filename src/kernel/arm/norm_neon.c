/* norm_neon.c: normalising a row, and rotating pairs by their position. */
#include "kernel/arm/float_neon.h"
#include "kernel/kernel.h"

static void rms_norm_f32(float *out, const float *x, const float *weight, size_t n, float epsilon) {
    const float32x4_t factor = vdupq_n_f32(1.0f / sqrtf(neon_dot(x, x, n) / (float)n + epsilon));
    for (size_t i = 0; i < n; i += 4) {
        float32x4_t y = vmulq_f32(neon_load_first(x + i, n - i), factor);
        if (weight) y = vmulq_f32(y, neon_load_first(weight + i, n - i));
        neon_store_first(out + i, n - i, y);
    }
}

/* Sum of (x - mean)^2 in 16 lanes. */
static float spread(const float *x, float32x4_t mean, size_t n) {
    float32x4_t lane[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (size_t i = 0; i < n; i += 4) {
        const float32x4_t d = vsubq_f32(neon_load_first(x + i, n - i), mean);
        float32x4_t *sum = &lane[i / 4 % 4];
        *sum = vbslq_f32(neon_first(n - i), vfmaq_f32(*sum, d, d), *sum);
    }
    return neon_tree(lane);
}

static void layer_norm_f32(float *out, const float *x, const float *weight, const float *bias,
                           size_t n, float epsilon) {
    const float32x4_t mean = vdupq_n_f32(neon_sum(x, n) / (float)n);
    const float32x4_t factor = vdupq_n_f32(1.0f / sqrtf(spread(x, mean, n) / (float)n + epsilon));
    for (size_t i = 0; i < n; i += 4) {
        float32x4_t y = vmulq_f32(vsubq_f32(neon_load_first(x + i, n - i), mean), factor);
        if (weight) y = vmulq_f32(y, neon_load_first(weight + i, n - i));
        if (bias) y = vaddq_f32(y, neon_load_first(bias + i, n - i));
        neon_store_first(out + i, n - i, y);
    }
}

static void rope_f32(float *x, const float *cos, const float *sin, size_t half) {
    for (size_t i = 0; i < half; i += 4) {
        const size_t rest = half - i;
        const float32x4_t a = neon_load_first(x + i, rest), b = neon_load_first(x + half + i, rest);
        const float32x4_t c = neon_load_first(cos + i, rest), s = neon_load_first(sin + i, rest);
        neon_store_first(x + i, rest, vfmaq_f32(vnegq_f32(vmulq_f32(b, s)), a, c));
        neon_store_first(x + half + i, rest, vfmaq_f32(vmulq_f32(a, s), b, c));
    }
}

static void install(nib_kernels *k) {
    k->rms_norm_f32 = rms_norm_f32;
    k->layer_norm_f32 = layer_norm_f32;
    k->rope_f32 = rope_f32;
}
const nib_kernel_set nib_kernels_norm_neon = {
    .name = "norm_neon", .needs = NIB_CPU_NEON, .install = install};
