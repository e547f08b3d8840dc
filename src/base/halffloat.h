/* halffloat.h: narrow floats to and from f32, one value at a time, exact, as PyTorch casts them.
 *
 *   name      bits s e  m  bias largest  inf  NaN         from f32: beyond, inf    NaN
 *   f16       16   1 5 10  15   65504    yes  7c01..7fff  inf                      quiet, payload
 *   bf16      16   1 8  7  127  3.39e38  yes  7f81..7fff  inf                      ffff
 *   e4m3fn     8   1 4  3  7    448      no   7f, ff      448 (older torch: NaN)   7f with sign
 *   e5m2       8   1 5  2  15   57344    yes  7d..7f      inf                      7f with sign
 *   e4m3fnuz   8   1 4  3  8    240      no   80          NaN                      80
 *   e5m2fnuz   8   1 5  2  16   57344    no   80          NaN                      80
 *   e8m0       8   0 8  0  127  2^127    no   ff          NaN                      ff
 *   e2m3       6   1 2  3  1    7.5      no   none        7.5                      7.5
 *   e3m2       6   1 3  2  3    28       no   none        28                       28
 *   e2m1       4   1 2  1  1    6        no   none        6                        6
 *
 * Rounding is to nearest, ties to even. The fnuz kinds have one zero, without a sign. e8m0 drops
 * the sign and rounds a tie up; below 2^-126 it rounds up all that is over 2^-127, as torch does.
 * torch casts no f6 and no f4; they are as torchao's _f32_to_floatx_unpacked gives them, which does
 * not define NaN. A bf16 NaN is what torch's vector copy writes; its scalar copy writes 7fc0.
 * Sources: OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats 1.0; for fnuz
 * "8-bit Numerical Formats for Deep Neural Networks", 2022. Everything is integer arithmetic: no
 * flags, no rounding mode. */
#ifndef NIB_BASE_HALFFLOAT_H
#define NIB_BASE_HALFFLOAT_H
#include <stdint.h>
#include <string.h>

static inline uint32_t nib_f32_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static inline float nib_bits_f32(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* The magnitude of an f32 (sign bit cleared, not NaN) in a format of `m` fraction bits, rounded
 * to nearest even, as if the exponent field had no upper end: the caller saturates. */
static inline uint32_t nib_round_magnitude(uint32_t magnitude, int m, int bias) {
    const uint32_t first_normal = (uint32_t)(128 - bias) << 23;
    if (magnitude >= first_normal) {
        const int drop = 23 - m;
        const uint32_t odd = (magnitude >> drop) & 1;
        return ((magnitude + (1u << (drop - 1)) - 1 + odd) >> drop) - ((uint32_t)(127 - bias) << m);
    }
    /* Below: count steps of 2^(1 - bias - m). Rounding up to the first normal comes out right. */
    const int exponent = magnitude >> 23 ? (int)(magnitude >> 23) : 1;
    const uint32_t fraction = (magnitude & 0x7fffffu) | (magnitude >> 23 ? 0x800000u : 0);
    const int drop = 151 - bias - m - exponent;
    if (drop > 24) return 0;
    const uint32_t odd = (fraction >> drop) & 1;
    return (fraction + (1u << (drop - 1)) - 1 + odd) >> drop;
}

/* The value of a code without its sign, specials aside. Exact: every value is an f32. */
static inline float nib_widen_magnitude(uint32_t code, int m, int bias) {
    const uint32_t exponent = code >> m, fraction = code & ((1u << m) - 1);
    if (exponent)
        return nib_bits_f32(((exponent + 127 - (uint32_t)bias) << 23) | fraction << (23 - m));
    return (float)fraction * nib_bits_f32((uint32_t)(128 - bias - m) << 23);
}

static inline float nib_with_sign(float magnitude, uint32_t negative) {
    return nib_bits_f32(nib_f32_bits(magnitude) | negative << 31);
}

/* ---- 16 bits ---- */
static inline float nib_f16_to_f32(uint16_t code) {
    const uint32_t sign = code >> 15, magnitude = code & 0x7fffu;
    if (magnitude > 0x7c00) /* a NaN becomes quiet and keeps its payload */
        return nib_bits_f32(sign << 31 | 0x7fc00000u | (magnitude & 0x3ffu) << 13);
    if (magnitude == 0x7c00) return nib_bits_f32(sign << 31 | 0x7f800000u);
    return nib_with_sign(nib_widen_magnitude(magnitude, 10, 15), sign);
}

static inline uint16_t nib_f32_to_f16(float x) {
    const uint32_t bits = nib_f32_bits(x), magnitude = bits & 0x7fffffffu;
    const uint32_t sign = bits >> 16 & 0x8000u;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    const uint32_t code = nib_round_magnitude(magnitude, 10, 15);
    return (uint16_t)(sign | (code < 0x7c00u ? code : 0x7c00u));
}

static inline float nib_bf16_to_f32(uint16_t code) { return nib_bits_f32((uint32_t)code << 16); }

static inline uint16_t nib_f32_to_bf16(float x) {
    const uint32_t bits = nib_f32_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffff;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* ---- 8 bits ---- */
static inline float nib_f8_e4m3fn_to_f32(uint8_t code) {
    const uint32_t sign = code >> 7, magnitude = code & 0x7fu;
    if (magnitude == 0x7f) return nib_bits_f32(sign << 31 | 0x7ff00000u);
    return nib_with_sign(nib_widen_magnitude(magnitude, 3, 7), sign);
}

static inline uint8_t nib_f32_to_f8_e4m3fn(float x) {
    const uint32_t bits = nib_f32_bits(x), magnitude = bits & 0x7fffffffu,
                   sign = bits >> 24 & 0x80u;
    if (magnitude > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
    const uint32_t code = nib_round_magnitude(magnitude, 3, 7);
    return (uint8_t)(sign | (code < 0x7eu ? code : 0x7eu));
}

static inline float nib_f8_e5m2_to_f32(uint8_t code) {
    return nib_f16_to_f32((uint16_t)(code << 8)); /* the upper byte of an f16 */
}

static inline uint8_t nib_f32_to_f8_e5m2(float x) {
    const uint32_t bits = nib_f32_bits(x), magnitude = bits & 0x7fffffffu,
                   sign = bits >> 24 & 0x80u;
    if (magnitude > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
    const uint32_t code = nib_round_magnitude(magnitude, 2, 15);
    return (uint8_t)(sign | (code < 0x7cu ? code : 0x7cu));
}

static inline float nib_f8_e4m3fnuz_to_f32(uint8_t code) {
    if (code == 0x80) return nib_bits_f32(0x7f800001u);
    return nib_with_sign(nib_widen_magnitude(code & 0x7fu, 3, 8), code >> 7);
}

static inline float nib_f8_e5m2fnuz_to_f32(uint8_t code) {
    if (code == 0x80) return nib_bits_f32(0x7f800001u);
    return nib_with_sign(nib_widen_magnitude(code & 0x7fu, 2, 16), code >> 7);
}

static inline uint8_t nib_round_fnuz(float x, int m, int bias) {
    const uint32_t bits = nib_f32_bits(x), magnitude = bits & 0x7fffffffu;
    const uint32_t code = magnitude < 0x7f800000u ? nib_round_magnitude(magnitude, m, bias) : 0x80u;
    if (code > 0x7f) return 0x80;
    return (uint8_t)(code ? code | (bits >> 24 & 0x80u) : 0);
}

static inline uint8_t nib_f32_to_f8_e4m3fnuz(float x) { return nib_round_fnuz(x, 3, 8); }
static inline uint8_t nib_f32_to_f8_e5m2fnuz(float x) { return nib_round_fnuz(x, 2, 16); }

static inline float nib_f8_e8m0_to_f32(uint8_t code) {
    if (code == 0xff) return nib_bits_f32(0x7f800001u);
    return nib_bits_f32(code ? (uint32_t)code << 23 : 0x00400000u); /* code 0 is 2^-127, denormal */
}

static inline uint8_t nib_f32_to_f8_e8m0(float x) {
    const uint32_t bits = nib_f32_bits(x), exponent = bits >> 23 & 0xffu,
                   fraction = bits & 0x7fffffu;
    if (exponent == 0xff) return 0xff;
    const uint32_t half = 0x400000u;
    return (uint8_t)(exponent + (fraction > half || (fraction == half && exponent > 0)));
}

/* ---- 6 and 4 bits, in the low bits of a byte ---- */
static inline uint8_t nib_round_sub_byte(float x, int e, int m, int bias) {
    const uint32_t bits = nib_f32_bits(x), magnitude = bits & 0x7fffffffu;
    const uint32_t largest = (1u << (e + m)) - 1;
    const uint32_t code =
        magnitude < 0x7f800000u ? nib_round_magnitude(magnitude, m, bias) : largest;
    return (uint8_t)((code < largest ? code : largest) | (bits >> 31) << (e + m));
}

static inline float nib_f6_e2m3_to_f32(uint8_t code) {
    return nib_with_sign(nib_widen_magnitude(code & 31u, 3, 1), code >> 5 & 1u);
}
static inline float nib_f6_e3m2_to_f32(uint8_t code) {
    return nib_with_sign(nib_widen_magnitude(code & 31u, 2, 3), code >> 5 & 1u);
}
static inline float nib_f4_e2m1_to_f32(uint8_t code) {
    return nib_with_sign(nib_widen_magnitude(code & 7u, 1, 1), code >> 3 & 1u);
}
static inline uint8_t nib_f32_to_f6_e2m3(float x) { return nib_round_sub_byte(x, 2, 3, 1); }
static inline uint8_t nib_f32_to_f6_e3m2(float x) { return nib_round_sub_byte(x, 3, 2, 3); }
static inline uint8_t nib_f32_to_f4_e2m1(float x) { return nib_round_sub_byte(x, 2, 1, 1); }
#endif
