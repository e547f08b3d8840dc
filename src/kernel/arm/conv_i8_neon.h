/* conv_i8_neon.h: what follows the sums of codes in a convolution, 16 positions at a time. */
#ifndef NIB_KERNEL_ARM_CONV_I8_NEON_H
#define NIB_KERNEL_ARM_CONV_I8_NEON_H
#include <arm_neon.h>
#include <string.h>

#include "kernel/kernel.h"

enum { CONV_QUARTERS = 4 }; /* vectors of a panel */

static inline float32x4_t conv_value(const nib_conv_i8 *c, int64_t m, int32x4_t sum) {
    const float32x4_t v = vmulq_f32(vcvtq_f32_s32(sum), vdupq_n_f32(c->scale[m]));
    return vaddq_f32(vmulq_f32(v, vdupq_n_f32(c->x_scale)),
                     vdupq_n_f32(c->bias ? c->bias[m] : -0.0f));
}

static inline int16x4_t conv_code(const nib_conv_i8 *c, int64_t m, int32x4_t sum) {
    const float32x4_t d = vdivq_f32(conv_value(c, m, sum), vdupq_n_f32(c->y_scale));
    const float32x4_t low = vdupq_n_f32((float)c->low), high = vdupq_n_f32((float)c->high);
    const int32x4_t codes = vcvtnq_s32_f32(vminq_f32(vmaxq_f32(d, low), high)); /* NaN: 0 */
    return vmovn_s32(codes);
}

/* The results of n <= 16 neighbours of filter m, to element `to`. */
static inline void conv_put(const nib_conv_i8 *c, int64_t m, const int32x4_t acc[CONV_QUARTERS],
                            int64_t to, int64_t n) {
    if (c->y) {
        float y[NIB_PANEL], *out = n < NIB_PANEL ? y : c->y + to;
        for (int i = 0; i < CONV_QUARTERS; i++) vst1q_f32(out + 4 * i, conv_value(c, m, acc[i]));
        if (n < NIB_PANEL) memcpy(c->y + to, y, (size_t)n * sizeof *y);
        return;
    }
    int8_t q[NIB_PANEL], *out = n < NIB_PANEL ? q : c->q + to;
    const int16x8_t low = vcombine_s16(conv_code(c, m, acc[0]), conv_code(c, m, acc[1]));
    const int16x8_t high = vcombine_s16(conv_code(c, m, acc[2]), conv_code(c, m, acc[3]));
    vst1q_s8(out, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    if (n < NIB_PANEL) memcpy(c->q + to, q, (size_t)n);
}
#endif
