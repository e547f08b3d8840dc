/* float_ref.h: what several judges are made of: lanes, a tree, exp and its kin.
 * The order of operations is that of docs/numerics.md, line by line. */
#ifndef NIB_KERNEL_REF_FLOAT_REF_H
#define NIB_KERNEL_REF_FLOAT_REF_H
#include <math.h>
#include <stddef.h>

#include "base/halffloat.h"

/* Lane i + lane i + half, from 16 down to 1. */
static inline float ref_tree(float lane[16]) {
    for (int half = 8; half >= 1; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

static inline float ref_dot(const float *x, const float *y, size_t n) {
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++) lane[i % 16] = fmaf(x[i], y[i], lane[i % 16]);
    return ref_tree(lane);
}

static inline float ref_sum(const float *x, size_t n) {
    float lane[16] = {0};
    for (size_t i = 0; i < n; i++) lane[i % 16] += x[i];
    return ref_tree(lane);
}

/* Integers in the order of the floats, -0 before +0; NaN lies beyond the infinities. */
static inline int32_t ref_rank(float x) {
    const uint32_t bits = nib_f32_bits(x);
    return (int32_t)(bits ^ (bits >> 31 ? 0x7fffffffu : 0u));
}
static inline float ref_of_rank(int32_t rank) {
    return nib_bits_f32((uint32_t)rank ^ (rank < 0 ? 0x7fffffffu : 0u));
}

/* 2^n for n in [-126, 127] */
static inline float ref_power_of_two(int n) { return nib_bits_f32((uint32_t)(n + 127) << 23); }

/* e^x = 2^n e^r with |r| <= log(2) / 2, and e^r = 1 + r + r^2 q(r), q fitted so that the relative
 * error of the whole is least. 2^n is applied in two factors: the first never leaves the normal
 * range, so only the second rounds, once, when the result is denormal. At most 1.009 ulp off. */
static inline float ref_exp(float x) {
    if (isnan(x)) return x;
    const float clamped = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x; /* 0 and inf beyond */
    const float n = rintf(clamped * 0x1.715476p+0f);                     /* 1 / log(2) */
    float r = fmaf(-n, 0x1.62ep-1f, clamped); /* log(2), the upper 12 bits: n times it is exact */
    r = fmaf(-n, 0x1.0bfbe8p-15f, r);         /* and the rest */
    float q = 0x1.6a1a72p-10f;
    q = fmaf(q, r, 0x1.123fc6p-7f);
    q = fmaf(q, r, 0x1.555916p-5f);
    q = fmaf(q, r, 0x1.55548ap-3f);
    q = fmaf(q, r, 0x1.fffffcp-2f);
    const float e = 1.0f + fmaf(r * r, q, r);
    const int whole = (int)n, half = whole >> 1;
    return e * ref_power_of_two(half) * ref_power_of_two(whole - half);
}

/* Near 0 an odd polynomial, fitted for least relative error; else 1 - 2 / (e^2|x| + 1). */
static inline float ref_tanh(float x) {
    const float a = fabsf(x);
    if (a < 0.625f) {
        const float z = x * x;
        float p = -0x1.6f41eep-8f;
        p = fmaf(p, z, 0x1.50b82p-6f);
        p = fmaf(p, z, -0x1.b806a4p-5f);
        p = fmaf(p, z, 0x1.1105a2p-3f);
        p = fmaf(p, z, -0x1.55552cp-2f);
        return copysignf(fmaf(a * z, p, a), x);
    }
    return copysignf(1.0f - 2.0f / (ref_exp(a + a) + 1.0f), x);
}

/* 1 / (1 + e^-x), by e^-|x| so that neither side overflows. */
static inline float ref_sigmoid(float x) {
    const float e = ref_exp(-fabsf(x));
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

/* Near 0 an odd polynomial; else 1 - e^-a^2 r(u) with u = 1 / (1 + a / 2), both fitted for least
 * error. At most 1.7 ulp off. */
static inline float ref_erf(float x) {
    const float a = fabsf(x), z = a * a;
    if (a < 1.0f) {
        float p = -0x1.2740f2p-11f;
        p = fmaf(p, z, 0x1.424744p-8f);
        p = fmaf(p, z, -0x1.b5a37ap-6f);
        p = fmaf(p, z, 0x1.ce0946p-4f);
        p = fmaf(p, z, -0x1.812674p-2f);
        p = fmaf(p, z, 0x1.06eba2p-3f);
        return copysignf(fmaf(a, p, a), x);
    }
    const float u = 1.0f / fmaf(a, 0.5f, 1.0f);
    float r = -0x1.3d88fap-5f;
    r = fmaf(r, u, 0x1.72835ep-1f);
    r = fmaf(r, u, -0x1.f76690p-5f);
    r = fmaf(r, u, 0x1.91e13ap-2f);
    r = fmaf(r, u, -0x1.ba93bap-7f);
    return copysignf(1.0f - ref_exp(-z) * r, x);
}

/* x times the normal distribution below x; and the same by tanh. Hendrycks and Gimpel, "Gaussian
 * Error Linear Units", 2016. */
static inline float ref_gelu(float x) {
    return 0.5f * x * (1.0f + ref_erf(x * 0x1.6a09e6p-1f)); /* sqrt(1 / 2) */
}
static inline float ref_gelu_tanh(float x) {
    const float t = fmaf(x * x * 0x1.6e4e26p-5f, x, x);      /* 0.044715 */
    return 0.5f * x * (1.0f + ref_tanh(t * 0x1.988454p-1f)); /* sqrt(2 / pi) */
}
#endif
