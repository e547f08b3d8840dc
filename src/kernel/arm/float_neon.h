/* float_neon.h: what several NEON kernels are made of; step for step what ref/float_ref.h is.
 * The sixteen lanes of a sum are four vectors. */
#ifndef NIB_KERNEL_ARM_FLOAT_NEON_H
#define NIB_KERNEL_ARM_FLOAT_NEON_H
#include <arm_neon.h>
#include <math.h>
#include <nibble/nibble.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The first n elements of a vector of 4; the rest 0, and not touched in memory. */
static inline uint32x4_t neon_first(size_t n) {
    static const uint32_t index[4] = {0, 1, 2, 3};
    return vcgtq_u32(vdupq_n_u32(n < 4 ? (uint32_t)n : 4), vld1q_u32(index));
}
static inline float32x4_t neon_load_first(const float *x, size_t n) {
    if (n >= 4) return vld1q_f32(x);
    float v[4] = {0};
    memcpy(v, x, n * sizeof(float));
    return vld1q_f32(v);
}
static inline void neon_store_first(float *out, size_t n, float32x4_t v) {
    if (n >= 4) {
        vst1q_f32(out, v);
        return;
    }
    float rest[4];
    vst1q_f32(rest, v);
    memcpy(out, rest, n * sizeof(float));
}

/* Lanes 0-3, 4-7, 8-11, 12-15 by the tree: 16 -> 8 -> 4 -> 2 -> 1. */
static inline float neon_tree(const float32x4_t lane[4]) {
    const float32x4_t four = vaddq_f32(vaddq_f32(lane[0], lane[2]), vaddq_f32(lane[1], lane[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static inline float neon_dot(const float *x, const float *y, size_t n) {
    float32x4_t lane[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 4; j++)
            lane[j] = vfmaq_f32(lane[j], vld1q_f32(x + i + 4 * j), vld1q_f32(y + i + 4 * j));
    for (int j = 0; i < n; i += 4, j++) { /* a missing element leaves its lane alone */
        const float32x4_t a = neon_load_first(x + i, n - i), b = neon_load_first(y + i, n - i);
        lane[j] = vbslq_f32(neon_first(n - i), vfmaq_f32(lane[j], a, b), lane[j]);
    }
    return neon_tree(lane);
}

static inline float neon_sum(const float *x, size_t n) {
    float32x4_t lane[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 4; j++) lane[j] = vaddq_f32(lane[j], vld1q_f32(x + i + 4 * j));
    for (int j = 0; i < n; i += 4, j++) {
        const float32x4_t sum = vaddq_f32(lane[j], neon_load_first(x + i, n - i));
        lane[j] = vbslq_f32(neon_first(n - i), sum, lane[j]);
    }
    return neon_tree(lane);
}

/* The largest, NaN passed over; -inf for none. Which zero is left open. */
static inline float neon_max(const float *x, size_t n) {
    float32x4_t most = vdupq_n_f32(-INFINITY);
    for (size_t i = 0; i < n; i += 4) {
        const float32x4_t v = neon_load_first(x + i, n - i);
        most = vbslq_f32(vandq_u32(vcgtq_f32(v, most), neon_first(n - i)), v, most);
    }
    return vmaxvq_f32(most);
}

static inline float32x4_t neon_power_of_two(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

static inline float32x4_t neon_exp(float32x4_t x) {
    const uint32x4_t number = vceqq_f32(x, x);
    const float32x4_t clamped = vminq_f32(vdupq_n_f32(89), vmaxq_f32(vdupq_n_f32(-104), x));
    const float32x4_t n = vrndnq_f32(vmulq_f32(clamped, vdupq_n_f32(0x1.715476p+0f)));
    float32x4_t r = vfmsq_f32(clamped, n, vdupq_n_f32(0x1.62ep-1f));
    r = vfmsq_f32(r, n, vdupq_n_f32(0x1.0bfbe8p-15f));
    float32x4_t q = vdupq_n_f32(0x1.6a1a72p-10f);
    q = vfmaq_f32(vdupq_n_f32(0x1.123fc6p-7f), q, r);
    q = vfmaq_f32(vdupq_n_f32(0x1.555916p-5f), q, r);
    q = vfmaq_f32(vdupq_n_f32(0x1.55548ap-3f), q, r);
    q = vfmaq_f32(vdupq_n_f32(0x1.fffffcp-2f), q, r);
    const float32x4_t e = vaddq_f32(vdupq_n_f32(1), vfmaq_f32(r, vmulq_f32(r, r), q));
    const int32x4_t whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    const float32x4_t scaled =
        vmulq_f32(vmulq_f32(e, neon_power_of_two(half)), neon_power_of_two(vsubq_s32(whole, half)));
    return vbslq_f32(number, scaled, x);
}

static inline float32x4_t neon_with_sign(float32x4_t x, float32x4_t sign) {
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, x);
}

static inline float32x4_t neon_sigmoid(float32x4_t x) {
    const float32x4_t one = vdupq_n_f32(1), e = neon_exp(vnegq_f32(vabsq_f32(x)));
    return vdivq_f32(vbslq_f32(vcltzq_f32(x), e, one), vaddq_f32(one, e));
}

static inline float32x4_t neon_tanh(float32x4_t x) {
    const float32x4_t one = vdupq_n_f32(1), a = vabsq_f32(x), z = vmulq_f32(x, x);
    float32x4_t p = vdupq_n_f32(-0x1.6f41eep-8f);
    p = vfmaq_f32(vdupq_n_f32(0x1.50b82p-6f), p, z);
    p = vfmaq_f32(vdupq_n_f32(-0x1.b806a4p-5f), p, z);
    p = vfmaq_f32(vdupq_n_f32(0x1.1105a2p-3f), p, z);
    p = vfmaq_f32(vdupq_n_f32(-0x1.55552cp-2f), p, z);
    const float32x4_t near = vfmaq_f32(a, vmulq_f32(a, z), p);
    const float32x4_t e = neon_exp(vaddq_f32(a, a));
    const float32x4_t far = vsubq_f32(one, vdivq_f32(vdupq_n_f32(2), vaddq_f32(e, one)));
    return neon_with_sign(vbslq_f32(vcltq_f32(a, vdupq_n_f32(0.625f)), near, far), x);
}

static inline float32x4_t neon_erf(float32x4_t x) {
    const float32x4_t one = vdupq_n_f32(1), a = vabsq_f32(x), z = vmulq_f32(a, a);
    float32x4_t p = vdupq_n_f32(-0x1.2740f2p-11f);
    p = vfmaq_f32(vdupq_n_f32(0x1.424744p-8f), p, z);
    p = vfmaq_f32(vdupq_n_f32(-0x1.b5a37ap-6f), p, z);
    p = vfmaq_f32(vdupq_n_f32(0x1.ce0946p-4f), p, z);
    p = vfmaq_f32(vdupq_n_f32(-0x1.812674p-2f), p, z);
    p = vfmaq_f32(vdupq_n_f32(0x1.06eba2p-3f), p, z);
    const float32x4_t near = vfmaq_f32(a, a, p);
    const float32x4_t u = vdivq_f32(one, vfmaq_f32(one, a, vdupq_n_f32(0.5f)));
    float32x4_t r = vdupq_n_f32(-0x1.3d88fap-5f);
    r = vfmaq_f32(vdupq_n_f32(0x1.72835ep-1f), r, u);
    r = vfmaq_f32(vdupq_n_f32(-0x1.f76690p-5f), r, u);
    r = vfmaq_f32(vdupq_n_f32(0x1.91e13ap-2f), r, u);
    r = vfmaq_f32(vdupq_n_f32(-0x1.ba93bap-7f), r, u);
    const float32x4_t far = vsubq_f32(one, vmulq_f32(neon_exp(vnegq_f32(z)), r));
    return neon_with_sign(vbslq_f32(vcltq_f32(a, one), near, far), x);
}

static inline float32x4_t neon_gelu(float32x4_t x) {
    const float32x4_t below = neon_erf(vmulq_f32(x, vdupq_n_f32(0x1.6a09e6p-1f)));
    return vmulq_f32(vmulq_f32(vdupq_n_f32(0.5f), x), vaddq_f32(vdupq_n_f32(1), below));
}
static inline float32x4_t neon_gelu_tanh(float32x4_t x) {
    const float32x4_t cube = vmulq_f32(vmulq_f32(x, x), vdupq_n_f32(0x1.6e4e26p-5f));
    const float32x4_t t = vfmaq_f32(x, cube, x);
    const float32x4_t below = neon_tanh(vmulq_f32(t, vdupq_n_f32(0x1.988454p-1f)));
    return vmulq_f32(vmulq_f32(vdupq_n_f32(0.5f), x), vaddq_f32(vdupq_n_f32(1), below));
}

/* Every result of a float step rounded to bf16 and back; a NaN becomes ffff0000. */
static inline uint32x4_t neon_bf16_bits(float32x4_t x) { /* the code in the upper half */
    const uint32x4_t bits = vreinterpretq_u32_f32(x), number = vceqq_f32(x, x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    return vandq_u32(vornq_u32(rounded, number), vdupq_n_u32(0xffff0000u));
}
static inline float32x4_t neon_round_bf16(float32x4_t x) {
    return vreinterpretq_f32_u32(neon_bf16_bits(x));
}
static inline float32x4_t neon_round_f16(float32x4_t x) { return vcvt_f32_f16(vcvt_f16_f32(x)); }

/* ref: nib_round_magnitude and what follows it, for 4 values; a code in each element.
 * Below the first normal number, adding a power of two whose last place is the format's smallest
 * step makes the addition itself round to nearest even. */
static inline uint32x4_t neon_f8_codes(float32x4_t x, const nib_dtype format) {
    const int m = format == NIB_F8_E5M2 ? 2 : 3;
    const int bias = format == NIB_F8_E4M3FN ? 7 : format == NIB_F8_E5M2 ? 15 : 8;
    const int most = format == NIB_F8_E4M3FN ? 0x7e : format == NIB_F8_E5M2 ? 0x7c : 0x80;
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t magnitude = vandq_u32(bits, vdupq_n_u32(0x7fffffff));
    const uint32x4_t sign = vandq_u32(vshrq_n_u32(bits, 24), vdupq_n_u32(0x80));

    const int32x4_t down = vdupq_n_s32(m - 23);
    const uint32x4_t odd = vandq_u32(vshlq_u32(magnitude, down), vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(odd, vdupq_n_u32((1u << (22 - m)) - 1));
    const uint32x4_t normal = vsubq_u32(vshlq_u32(vaddq_u32(magnitude, up), down),
                                        vdupq_n_u32((uint32_t)(127 - bias) << m));
    const uint32x4_t step = vdupq_n_u32((uint32_t)(151 - bias - m) << 23);
    const float32x4_t sum =
        vaddq_f32(vreinterpretq_f32_u32(magnitude), vreinterpretq_f32_u32(step));
    const uint32x4_t below = vsubq_u32(vreinterpretq_u32_f32(sum), step);
    const uint32x4_t is_below = vcltq_u32(magnitude, vdupq_n_u32((uint32_t)(128 - bias) << 23));
    /* as signed numbers: where `below` is chosen, `normal` may have wrapped */
    const int32x4_t chosen = vreinterpretq_s32_u32(vbslq_u32(is_below, below, normal));
    uint32x4_t code = vreinterpretq_u32_s32(vminq_s32(chosen, vdupq_n_s32(most)));

    const uint32x4_t nan = vcgtq_u32(magnitude, vdupq_n_u32(0x7f800000));
    if (format == NIB_F8_E4M3FNUZ) { /* one zero without a sign, one NaN: 80 */
        code = vbslq_u32(nan, vdupq_n_u32(0x80), code);
        return vorrq_u32(code, vandq_u32(sign, vtstq_u32(code, code)));
    }
    return vorrq_u32(vbslq_u32(nan, vdupq_n_u32(0x7f), code), sign);
}

/* The low bytes of 16 integers, in order. */
static inline uint8x16_t neon_low_bytes(uint32x4_t a, uint32x4_t b, uint32x4_t c, uint32x4_t d) {
    const uint16x8_t ab = vcombine_u16(vmovn_u32(a), vmovn_u32(b));
    const uint16x8_t cd = vcombine_u16(vmovn_u32(c), vmovn_u32(d));
    return vcombine_u8(vmovn_u16(ab), vmovn_u16(cd));
}
#endif
