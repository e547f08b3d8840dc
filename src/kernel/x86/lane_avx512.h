/* lane_avx512.h: codes in lanes to floats, sixteen channels a vector. */
#ifndef NIB_KERNEL_X86_LANE_AVX512_H
#define NIB_KERNEL_X86_LANE_AVX512_H
#include <immintrin.h>
#include <math.h>

#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))

/* Sixteen scales or offsets. */
INLINE __m512 lane_values(nib_dtype dtype, const void *values, int64_t i) {
    if (dtype == NIB_F32) return _mm512_loadu_ps((const float *)values + i);
    const __m256i half = _mm256_loadu_si256((const void *)((const uint16_t *)values + i));
    if (dtype == NIB_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

typedef struct lane_group {
    __m512 scale, offset; /* a weight is fma(scale, c, offset) */
} lane_group;

INLINE lane_group lane_group_of(const nib_lane_weight *w, int64_t panel, int64_t g) {
    const int64_t at = (panel * w->groups + g) * NIB_PANEL;
    const __m512 minus = _mm512_set1_ps(-0.0f);
    lane_group r = {lane_values(w->scale_dtype, w->scale, at), minus};
    if (w->offset_kind == NIB_OFFSET_NONE) return r;
    r.offset = lane_values(w->scale_dtype, w->offset, at);
    if (w->offset_kind == NIB_OFFSET_POINT) r.offset = _mm512_mul_ps(r.scale, r.offset);
    if (w->offset_kind != NIB_OFFSET_ADD) r.offset = _mm512_xor_ps(r.offset, minus);
    return r;
}

INLINE __mmask16 lane_mask(const nib_lane_weight *w, int64_t panel) {
    const int64_t left = w->N - panel * NIB_PANEL;
    return (__mmask16)((1u << (left < NIB_PANEL ? left : NIB_PANEL)) - 1);
}

/* ---- cells of 64 bytes ---- */

/* What a cell holds, always a constant. */
typedef enum lane_kind { INT8, FLOAT8 } lane_kind;

enum { LANE_COLUMNS = 4 }; /* of a cell */

/* Constants that turn a code into c = u - mid. Bytes are put under the exponent of 2^23 or 2^15. A
 * narrow float is read as f16 with its bits in the upper places, which is exact for denormals
 * too, but off by a power of two, `factor`; where that makes a number of a NaN, lane_see finds it.
 */
typedef struct lane_codec {
    __m512 table[2];
    __m512i mask[2], magic[2];
    __m128i shift;
    float factor;
} lane_codec;

INLINE lane_codec lane_codec_of(const lane_kind kind, const nib_lane_weight *w) {
    const int mid = w->mid;
    lane_codec d = {.factor = 1};
    if (kind == FLOAT8) {
        const bool e5m2 = w->code == NIB_F8_E5M2, fnuz = w->code == NIB_F8_E4M3FNUZ;
        d.factor = e5m2 ? 1.0f : fnuz ? 128.0f : 256.0f;
        d.shift = _mm_cvtsi32_si128(e5m2 ? 8 : 7);
        d.mask[0] = _mm512_set1_epi16((short)(e5m2 ? 0xffff : 0xbfff));
        /* (code | mask[1]) ^ magic[1] is ff where a NaN would become a number, only there */
        d.mask[1] = _mm512_set1_epi8((char)(e5m2 ? 0xff : fnuz ? 0 : 0x80));
        d.magic[1] = _mm512_set1_epi8((char)(e5m2 ? 0xff : fnuz ? 0x7f : 0));
        d.magic[0] = d.magic[1];
        d.table[0] = d.table[1] = _mm512_setzero_ps();
        return d;
    }
    d.mask[0] = _mm512_set1_epi32(0xff);
    d.mask[1] = _mm512_set1_epi32(0xff00);
    d.magic[0] = _mm512_set1_epi32((127 + 23) << 23);
    d.magic[1] = _mm512_set1_epi32((127 + 15) << 23);
    d.table[0] = _mm512_set1_ps((float)((1 << 23) + mid));
    d.table[1] = _mm512_set1_ps((float)((1 << 15) + mid));
    return d;
}

/* Column i of a cell, i a constant. */
INLINE __m512 lane_column(const lane_kind kind, const lane_codec *d, const uint8_t *cell,
                          const int i) {
    if (kind == FLOAT8) {
        const __m256i two = _mm256_loadu_si256((const void *)(cell + i / 2 * 32)); /* columns */
        /* the sign ends in bit 15 and, where the shift is 7, unwanted in 14 */
        const __m512i half =
            _mm512_and_si512(_mm512_sll_epi16(_mm512_cvtepi8_epi16(two), d->shift), d->mask[0]);
        return _mm512_cvtph_ps(i % 2 ? _mm512_extracti64x4_epi64(half, 1)
                                     : _mm512_castsi512_si256(half));
    }
    const __m512i codes = _mm512_loadu_si512(cell);
    const __m512i pair = i < 2 ? codes : _mm512_srli_epi32(codes, 16);
    const __m512i number =
        _mm512_ternarylogic_epi32(pair, d->mask[i % 2], d->magic[i % 2], 0xea); /* a & b | c */
    return _mm512_sub_ps(_mm512_castsi512_ps(number), d->table[i % 2]);
}

/* Is there a NaN that lane_column makes a number in one of the cells that `seen` was shown? */
INLINE __m512i lane_see(const lane_codec *d, __m512i seen, const uint8_t *cell) {
    const __m512i codes = _mm512_loadu_si512(cell);
    return _mm512_max_epu8(
        seen, _mm512_ternarylogic_epi32(codes, d->mask[1], d->magic[1], 0x56)); /* (a | b) ^ c */
}
INLINE bool lane_is_odd(__m512i seen) {
    return _mm512_cmpeq_epi8_mask(seen, _mm512_set1_epi8(-1)) != 0;
}

/* Sixteen narrow floats of any format, special values and all; slow where they are denormal. */
INLINE __m512 lane_narrow(nib_dtype format, const uint8_t *codes) {
    const bool five = format == NIB_F8_E5M2 || format == NIB_F8_E5M2FNUZ; /* bits of exponent */
    const bool fnuz = format == NIB_F8_E4M3FNUZ || format == NIB_F8_E5M2FNUZ;
    const __m512 to_bias = _mm512_set1_ps(format == NIB_F8_E5M2FNUZ   ? 0x1p111f
                                          : five                      ? 0x1p112f
                                          : format == NIB_F8_E4M3FNUZ ? 0x1p119f
                                                                      : 0x1p120f);
    const __m512i q = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)codes));
    const __m512i magnitude = _mm512_and_si512(q, _mm512_set1_epi32(0x7f));
    const __m512i sign = _mm512_slli_epi32(_mm512_sub_epi32(q, magnitude), 24);
    __m512 x = _mm512_castsi512_ps(_mm512_slli_epi32(magnitude, five ? 21 : 20));
    x = _mm512_mul_ps(x, to_bias);
    x = _mm512_or_ps(x, _mm512_castsi512_ps(sign));
    if (format == NIB_F8_E5M2) {
        const __mmask16 infinite = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7c));
        const __m512i inf = _mm512_or_si512(sign, _mm512_set1_epi32(0x7f800000));
        x = _mm512_mask_mov_ps(x, infinite, _mm512_castsi512_ps(inf));
    }
    const __mmask16 nan =
        fnuz ? _mm512_cmpeq_epi32_mask(q, _mm512_set1_epi32(0x80))
             : _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(five ? 0x7c : 0x7e));
    return _mm512_mask_mov_ps(x, nan, _mm512_set1_ps(NAN));
}

/* May the scale be multiplied with factor? Lanes where not; where it is NaN it may. */
INLINE __mmask16 lane_too_large(__m512 scale) {
    return _mm512_cmp_ps_mask(_mm512_abs_ps(scale), _mm512_set1_ps(0x1p118f), _CMP_GT_OQ);
}
#endif
