/* conv_i8_avx512vnni.h: what follows the exact sums of a convolution by codes, in registers.
 *
 * A code is the whole number nearest to ((float(sum) * scale) * x_scale + bias) / y_scale, four
 * roundings that one fma cannot repeat. So one fma gives the quotient in fixed point, 16 bits after
 * the point,
 *   f = float(sum) * (2^16 scale x_scale / y_scale) + (2^16 (bias / y_scale + 1/2) + 8)
 * whose upper half is the code unless the quotient is too near to a tie. In steps of 2^-16, with
 * quotients within 129 and |bias / y_scale| <= 256, what f and the four roundings are off by is
 * below (775 + 4 * 256) * 2^-8 + 1/2 < 8: where the lower half of f is 16 or more, the upper half
 * is right, and one time in 4096 it has to be made by divisions. Beyond 129 both end at the bounds.
 */
#ifndef NIB_KERNEL_X86_CONV_I8_AVX512VNNI_H
#define NIB_KERNEL_X86_CONV_I8_AVX512VNNI_H
#include <math.h>
#include <string.h>

#include "kernel/x86/lane_avx512vnni.h"

typedef struct finish { /* what all filters share */
    const nib_conv_i8 *c;
    __m512i low, high; /* bytes */
    double by_scale, by_bias;
} finish;

typedef struct one { /* filter */
    float factor, offset;
    int32_t start; /* of its sums: u = q + 128 is what they count */
    int64_t m;
} one;

enum { POINT = 1 << 16, NEAR = 16 };

/* Is neither a product of it with others nor their quotient anywhere near what floats cannot hold?
 */
INLINE bool moderate(float x) { return fabsf(x) >= 0x1p-60f && fabsf(x) <= 0x1p40f; }

INLINE finish finish_of(const nib_conv_i8 *c) {
    finish f = {.c = c,
                .low = _mm512_set1_epi8((char)c->low),
                .high = _mm512_set1_epi8((char)c->high),
                .by_bias = POINT / (double)c->y_scale};
    f.by_scale = c->x_scale * f.by_bias;
    if (!moderate(c->x_scale) || !moderate(c->y_scale)) f.by_scale = f.by_bias = NAN;
    return f;
}

/* Of a filter with which this does not do, every sum is near to a tie. */
INLINE one one_of(const finish *f, int64_t m) {
    const float scale = f->c->scale[m], bias = f->c->bias ? f->c->bias[m] : 0;
    const double factor = scale * f->by_scale, offset = bias * f->by_bias;
    const bool does =
        fabs(factor) <= 0x1p60 && fabs(offset) <= 256.0 * POINT && (scale == 0 || moderate(scale));
    return (one){.factor = does ? (float)factor : 0,
                 .offset = does ? (float)(offset + (POINT + NEAR) / 2) : 0,
                 .start = -128 * f->c->sums[m],
                 .m = m};
}

INLINE __m512 value_of(__m512i sum, const finish *f, const one *o) {
    const nib_conv_i8 *c = f->c;
    const __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(c->scale[o->m]));
    return _mm512_add_ps(_mm512_mul_ps(v, _mm512_set1_ps(c->x_scale)),
                         _mm512_set1_ps(c->bias ? c->bias[o->m] : -0.0f));
}

/* The same as `fixed` of `count` sums by the steps themselves. */
static __attribute__((noinline)) void divided(int count, __m512i *fixed, const __m512i *sums,
                                              const finish *f, const one *o) {
    const __m512 low = _mm512_set1_ps((float)f->c->low), high = _mm512_set1_ps((float)f->c->high);
    for (int i = 0; i < count; i++) {
        const __m512 d = _mm512_div_ps(value_of(sums[i], f, o), _mm512_set1_ps(f->c->y_scale));
        const __mmask16 number = _mm512_cmp_ps_mask(d, d, _CMP_ORD_Q);
        const __m512 in_range = _mm512_min_ps(_mm512_max_ps(d, low), high);
        fixed[i] =
            _mm512_slli_epi32(_mm512_maskz_mov_epi32(number, _mm512_cvtps_epi32(in_range)), 16);
    }
}

/* Codes in the upper halves of lanes, not held to the bounds yet; `count` is constant. */
INLINE void fixed_of(const int count, __m512i *fixed, const __m512i *sums, const finish *f,
                     const one *o) {
    const __m512 most = _mm512_set1_ps(128.5f * POINT);
    const __m512 factor = _mm512_set1_ps(o->factor), offset = _mm512_set1_ps(o->offset);
    const __m512i far = _mm512_set1_epi32(POINT - NEAR); /* its bits */
    __mmask16 near = 0;
    UNROLL
    for (int i = 0; i < count; i++) {
        const __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), factor, offset);
        fixed[i] = _mm512_cvtps_epi32(_mm512_min_ps(v, most)); /* too small ones: INT32_MIN */
        near |= _mm512_cmpeq_epi32_mask(_mm512_and_si512(fixed[i], far), _mm512_setzero_si512());
    }
    if (__builtin_expect(near, 0)) {
        __m512i again[4], kept[4];
        for (int i = 0; i < count; i++) kept[i] = sums[i];
        divided(count, again, kept, f, o);
        for (int i = 0; i < count; i++) fixed[i] = again[i];
    }
}

INLINE __m512i in_bounds(__m512i codes, const finish *f) {
    return _mm512_min_epi8(_mm512_max_epi8(codes, f->low), f->high);
}
#endif
