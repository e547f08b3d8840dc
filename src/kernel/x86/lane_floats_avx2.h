/* lane_floats_avx2.h: codes in lanes to floats, sixteen channels as two vectors. */
#ifndef NIB_KERNEL_X86_LANE_FLOATS_AVX2_H
#define NIB_KERNEL_X86_LANE_FLOATS_AVX2_H
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct lanes16 { /* channels 0 to 7 and 8 to 15 */
    __m256 v[2];
} lanes16;

/* Sixteen scales or offsets. */
INLINE lanes16 lane_values(nib_dtype dtype, const void *values, int64_t i) {
    lanes16 r;
    for (int h = 0; h < 2; h++, i += 8) {
        if (dtype == NIB_F32) {
            r.v[h] = _mm256_loadu_ps((const float *)values + i);
            continue;
        }
        const __m128i half = _mm_loadu_si128((const void *)((const uint16_t *)values + i));
        r.v[h] = dtype == NIB_F16
                     ? _mm256_cvtph_ps(half)
                     : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
    }
    return r;
}

typedef struct lane_group {
    lanes16 scale, offset; /* a weight is fma(scale, c, offset) */
} lane_group;

INLINE lane_group lane_group_of(const nib_lane_weight *w, int64_t panel, int64_t g) {
    const int64_t at = (panel * w->groups + g) * NIB_PANEL;
    const __m256 minus = _mm256_set1_ps(-0.0f);
    lane_group r = {lane_values(w->scale_dtype, w->scale, at), {{minus, minus}}};
    if (w->offset_kind == NIB_OFFSET_NONE) return r;
    r.offset = lane_values(w->scale_dtype, w->offset, at);
    for (int h = 0; h < 2; h++) {
        __m256 *z = &r.offset.v[h];
        if (w->offset_kind == NIB_OFFSET_POINT) *z = _mm256_mul_ps(r.scale.v[h], *z);
        if (w->offset_kind != NIB_OFFSET_ADD) *z = _mm256_xor_ps(*z, minus);
    }
    return r;
}

/* The channels of half h that there are, as a mask. */
INLINE __m256i lane_mask(const nib_lane_weight *w, int64_t panel, int h) {
    const int64_t left = w->N - panel * NIB_PANEL - 8 * h;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(left < 8 ? (int)left : 8),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* ---- cells of 64 bytes ---- */

/* What a cell holds, always a constant. */
typedef enum lane_kind { INT8, INT4, INT2, FLOAT8 } lane_kind;

INLINE int lane_columns(const lane_kind kind) { return kind == INT4 ? 8 : kind == INT2 ? 16 : 4; }

/* Constants that turn a code into c = u - mid. A code is put under the exponent of a power of two
 * whose last place it then counts, at most 15 bits up; the power and mid are subtracted exactly.
 * Two bits are looked up: a permutation reads three bits of each dword and ignores the rest.
 * A narrow float is read as f16 with its bits in the upper places, which is exact for denormals
 * too, but off by a power of two, `factor`; where that makes a number of a NaN, lane_see finds it.
 */
typedef struct lane_codec {
    __m256i mask[2], magic[2];
    __m256 bias[2];
    __m128i shift;
    float factor;
} lane_codec;

INLINE lane_codec lane_codec_of(const lane_kind kind, const nib_lane_weight *w) {
    const int step = kind == INT8 ? 8 : 4, ones = kind == INT8 ? 0xff : 0xf, mid = w->mid;
    lane_codec d = {.factor = 1};
    if (kind == FLOAT8) {
        const bool e5m2 = w->code == NIB_F8_E5M2, fnuz = w->code == NIB_F8_E4M3FNUZ;
        d.factor = e5m2 ? 1.0f : fnuz ? 128.0f : 256.0f;
        d.shift = _mm_cvtsi32_si128(e5m2 ? 8 : 7);
        d.mask[0] = _mm256_set1_epi16((short)(e5m2 ? 0xffff : 0xbfff));
        /* (code | mask[1]) ^ magic[1] is ff where a NaN would become a number, only there */
        d.mask[1] = _mm256_set1_epi8((char)(e5m2 ? 0xff : fnuz ? 0 : 0x80));
        d.magic[1] = _mm256_set1_epi8((char)(e5m2 ? 0xff : fnuz ? 0x7f : 0));
        return d;
    }
    for (int i = 0; i < 2; i++) {
        d.mask[i] = _mm256_set1_epi32(ones << (i * step));
        d.magic[i] = _mm256_set1_epi32((127 + 23 - i * step) << 23);
        d.bias[i] = _mm256_set1_ps((float)((1 << (23 - i * step)) + mid));
    }
    if (kind == INT2)
        d.bias[0] = _mm256_cvtepi32_ps(
            _mm256_sub_epi32(_mm256_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3), _mm256_set1_epi32(mid)));
    return d;
}

/* Column i of a cell, i a constant. Of integers its byte is i mod 4, its place there i / 4. */
INLINE lanes16 lane_column(const lane_kind kind, const lane_codec *d, const uint8_t *cell,
                           const int i) {
    lanes16 r;
    if (kind == FLOAT8) {
        const __m128i codes = _mm_loadu_si128((const void *)(cell + i * NIB_PANEL));
        /* the sign ends in bit 15 and, where the shift is 7, unwanted in 14 */
        const __m256i half =
            _mm256_and_si256(_mm256_sll_epi16(_mm256_cvtepi8_epi16(codes), d->shift), d->mask[0]);
        r.v[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(half));
        r.v[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1));
        return r;
    }
    for (int h = 0; h < 2; h++) {
        __m256i codes = _mm256_loadu_si256((const void *)(cell + 32 * h));
        if (kind == INT2) {
            const int at = i % 4 * 8 + i / 4 * 2;
            if (at) codes = _mm256_srli_epi32(codes, at);
            r.v[h] = _mm256_permutevar8x32_ps(d->bias[0], codes);
            continue;
        }
        /* bytes 0 and 1 stay where they are in 8 bits, one byte is looked at in 4 */
        const int shift = kind == INT8 ? i / 2 * 16 : i % 4 * 8,
                  place = kind == INT8 ? i % 2 : i / 4;
        if (shift) codes = _mm256_srli_epi32(codes, shift);
        codes = _mm256_or_si256(_mm256_and_si256(codes, d->mask[place]), d->magic[place]);
        r.v[h] = _mm256_sub_ps(_mm256_castsi256_ps(codes), d->bias[place]);
    }
    return r;
}

/* Is there a NaN that lane_column makes a number in one of the cells that `seen` was shown? */
INLINE __m256i lane_see(const lane_codec *d, __m256i seen, const uint8_t *cell) {
    for (int h = 0; h < 2; h++) {
        const __m256i codes = _mm256_loadu_si256((const void *)(cell + 32 * h));
        seen = _mm256_max_epu8(seen,
                               _mm256_xor_si256(_mm256_or_si256(codes, d->mask[1]), d->magic[1]));
    }
    return seen;
}
INLINE bool lane_is_odd(__m256i seen) {
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(seen, _mm256_set1_epi8(-1))) != 0;
}

/* Sixteen narrow floats of any format, special values and all; slow where they are denormal. */
INLINE lanes16 lane_narrow(nib_dtype format, const uint8_t *codes) {
    const bool five = format == NIB_F8_E5M2 || format == NIB_F8_E5M2FNUZ; /* bits of exponent */
    const bool fnuz = format == NIB_F8_E4M3FNUZ || format == NIB_F8_E5M2FNUZ;
    const __m256 to_bias = _mm256_set1_ps(format == NIB_F8_E5M2FNUZ   ? 0x1p111f
                                          : five                      ? 0x1p112f
                                          : format == NIB_F8_E4M3FNUZ ? 0x1p119f
                                                                      : 0x1p120f);
    const __m256i largest = _mm256_set1_epi32(five ? 0x7c : 0x7e);
    lanes16 r;
    for (int h = 0; h < 2; h++) {
        const __m256i q = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(codes + 8 * h)));
        const __m256i magnitude = _mm256_and_si256(q, _mm256_set1_epi32(0x7f));
        const __m256i sign = _mm256_slli_epi32(_mm256_sub_epi32(q, magnitude), 24);
        const __m256 at_zero = _mm256_castsi256_ps(_mm256_slli_epi32(magnitude, five ? 21 : 20));
        __m256 x = _mm256_mul_ps(at_zero, to_bias);
        if (format == NIB_F8_E5M2) {
            const __m256i infinite = _mm256_cmpeq_epi32(magnitude, largest);
            x = _mm256_blendv_ps(x, _mm256_set1_ps(INFINITY), _mm256_castsi256_ps(infinite));
        }
        x = _mm256_or_ps(x, _mm256_castsi256_ps(sign));
        const __m256i nan = fnuz ? _mm256_cmpeq_epi32(q, _mm256_set1_epi32(0x80))
                                 : _mm256_cmpgt_epi32(magnitude, largest);
        r.v[h] = _mm256_blendv_ps(x, _mm256_set1_ps(NAN), _mm256_castsi256_ps(nan));
    }
    return r;
}

/* Multiply the scale with `factor`; true where that may overflow, so that it must not be used. */
INLINE bool lane_rescale(const lane_codec *d, lane_group *at) {
    const __m256 most = _mm256_set1_ps(0x1p118f), minus = _mm256_set1_ps(-0.0f);
    bool large = false;
    for (int h = 0; h < 2; h++) {
        const __m256 magnitude = _mm256_andnot_ps(minus, at->scale.v[h]);
        large |= _mm256_movemask_ps(_mm256_cmp_ps(magnitude, most, _CMP_GT_OQ)) != 0;
        at->scale.v[h] = _mm256_mul_ps(at->scale.v[h], _mm256_set1_ps(d->factor));
    }
    return large;
}

/* fma(scale, c, offset) */
INLINE lanes16 lane_weights(const lane_group *at, lanes16 c) {
    for (int h = 0; h < 2; h++) c.v[h] = _mm256_fmadd_ps(at->scale.v[h], c.v[h], at->offset.v[h]);
    return c;
}
#endif
