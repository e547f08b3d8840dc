/* lane_floats_avx2.h: codes in lanes to floats, eight channels a vector: half a panel, an "eight".
 *
 * A code c = u - mid becomes a float in two steps: its byte goes to the top of its dword, zeros
 * below, and vcvtdq2ps makes it a float, 2^24 times too large. That is taken out of the scale once
 * a group, which is exact but for scales next to denormal ones. A narrow float becomes the f32 that
 * has its bits at the top of exponent and mantissa, 2^120 times too small or so; its denormals are
 * denormal there, which AMD's processors do not mind. */
#ifndef NIB_KERNEL_X86_LANE_FLOATS_AVX2_H
#define NIB_KERNEL_X86_LANE_FLOATS_AVX2_H
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernel/kernel.h"
#include "kernel/x86/float_avx2.h"

#define INLINE static inline __attribute__((always_inline))

/* What a cell holds, always a constant: integers with and without a mid; narrow floats. */
typedef enum lane_kind { INT8, UINT8, FLOAT8 } lane_kind;

enum { LANE_COLUMNS = 4 }; /* of a cell */

/* ---- groups ---- */

typedef struct lane_group {
    __m256 scale, offset; /* a weight is fma(scale, c, offset) */
} lane_group;

INLINE __m256 lane_eight_values(nib_dtype dtype, const void *values, int64_t i) {
    if (dtype == NIB_F32) return _mm256_loadu_ps((const float *)values + i);
    const __m128i half = _mm_loadu_si128((const void *)((const uint16_t *)values + i));
    if (dtype == NIB_F16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE lane_group lane_group_of(const nib_lane_weight *w, int64_t eight, int64_t g) {
    const int64_t at = (eight / 2 * w->groups + g) * NIB_PANEL + eight % 2 * 8;
    const __m256 minus = _mm256_set1_ps(-0.0f);
    lane_group r = {lane_eight_values(w->scale_dtype, w->scale, at), minus};
    if (w->offset_kind == NIB_OFFSET_NONE) return r;
    r.offset = lane_eight_values(w->scale_dtype, w->offset, at);
    if (w->offset_kind == NIB_OFFSET_POINT) r.offset = _mm256_mul_ps(r.scale, r.offset);
    if (w->offset_kind != NIB_OFFSET_ADD) r.offset = _mm256_xor_ps(r.offset, minus);
    return r;
}

/* ---- any code beside any scale: slow ---- */

/* Eight narrow floats of any format, special values and all. */
INLINE __m256 lane_narrow(nib_dtype format, const uint8_t *codes) {
    const bool five = format == NIB_F8_E5M2 || format == NIB_F8_E5M2FNUZ; /* bits of exponent */
    const bool fnuz = format == NIB_F8_E4M3FNUZ || format == NIB_F8_E5M2FNUZ;
    const __m256 to_bias = _mm256_set1_ps(format == NIB_F8_E5M2FNUZ   ? 0x1p111f
                                          : five                      ? 0x1p112f
                                          : format == NIB_F8_E4M3FNUZ ? 0x1p119f
                                                                      : 0x1p120f);
    const __m256i largest = _mm256_set1_epi32(five ? 0x7c : 0x7e);
    const __m256i q = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)codes));
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
    return _mm256_blendv_ps(x, _mm256_set1_ps(NAN), _mm256_castsi256_ps(nan));
}

/* Column k of an eight as integers c = u - mid. */
INLINE __m256 lane_integers(const nib_lane_weight *w, int64_t eight, int64_t k) {
    const uint8_t *codes = w->codes + eight / 2 * w->panel_bytes + eight % 2 * 32;
    const __m256i cell = _mm256_loadu_si256((const void *)(codes + k / LANE_COLUMNS * 64));
    const __m128i at = _mm_cvtsi32_si128((int)(k % LANE_COLUMNS) * 8);
    const __m256i u = _mm256_and_si256(_mm256_srl_epi32(cell, at), _mm256_set1_epi32(0xff));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(u, _mm256_set1_epi32(w->mid)));
}

/* Weights of columns [k, k + kc) of an eight, rows of `out` `step` floats apart. */
__attribute__((noinline)) static void lane_exact(float *out, int64_t step, const nib_lane_weight *w,
                                                 int64_t eight, int64_t k, int64_t kc) {
    for (const int64_t end = k + kc; k < end; k++, out += step) {
        const uint8_t *narrow =
            w->codes + eight / 2 * w->panel_bytes + k * NIB_PANEL + eight % 2 * 8;
        const lane_group at = lane_group_of(w, eight, k / w->G);
        const __m256 c =
            w->lane == NIB_LANE_F8 ? lane_narrow(w->code, narrow) : lane_integers(w, eight, k);
        _mm256_storeu_ps(out, _mm256_fmadd_ps(at.scale, c, at.offset));
    }
}

/* ---- cells ---- */

/* Constants that turn codes into floats that are too large or too small by a power of two, for
 * which `factor` makes up in the scale. */
typedef struct lane_codec {
    __m256i place[4]; /* how vpshufb moves the byte of column i; 3: a mask of the top byte */
    __m256i flip, mask, mid, shift;
    float factor;
    uint8_t odd; /* narrow floats: what lane_see gives from here on are no numbers */
} lane_codec;

INLINE lane_codec lane_codec_of(const lane_kind kind, const nib_lane_weight *w) {
    const __m256i zero = _mm256_setzero_si256(), none = _mm256_set1_epi8(-1);
    lane_codec d = {{zero, zero, zero, zero}, zero, zero, zero, zero, 1, 0};
    if (kind == FLOAT8) {
        const bool five = w->code == NIB_F8_E5M2 || w->code == NIB_F8_E5M2FNUZ;
        const bool fnuz = w->code == NIB_F8_E4M3FNUZ || w->code == NIB_F8_E5M2FNUZ;
        d.factor = (five ? 0x1p112f : 0x1p120f) * (fnuz ? 0.5f : 1.0f);
        d.shift = _mm256_set1_epi32(five ? 21 : 20);
        d.mask = _mm256_set1_epi32((int)(five ? 0x8fe00000u : 0x87f00000u));
        d.mid = _mm256_set1_epi8((char)(fnuz ? 0 : 0x80));
        d.flip = _mm256_set1_epi8(fnuz ? 0x7f : 0);
        d.odd = five && !fnuz ? 0xfc : 0xff; /* an infinity is no number either */
        return d;
    }
    d.mid = _mm256_set1_epi8((char)w->mid);
    d.factor = kind == UINT8 ? 0x1p-16f : 0x1p-24f;
    for (int i = 0; i < 4; i++) {
        const __m256i at =
            _mm256_add_epi32(_mm256_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12), _mm256_set1_epi32(i));
        d.place[i] = _mm256_or_si256(_mm256_slli_epi32(at, 24), _mm256_srli_epi32(none, 8));
        if (kind == UINT8) /* a byte without a sign stays below that bit */
            d.place[i] = _mm256_or_si256(_mm256_srli_epi32(d.place[i], 8),
                                         _mm256_set1_epi32((int)0xff000000u));
    }
    if (kind != UINT8) d.place[3] = _mm256_slli_epi32(none, 24);
    return d;
}

/* The scale with the factor; not zero in lanes where that is not exact. */
INLINE __m256i lane_rescale(const lane_kind kind, const lane_codec *d, __m256 *scale) {
    const __m256 magnitude = avx2_abs(*scale), zero = _mm256_setzero_ps();
    *scale = _mm256_mul_ps(*scale, _mm256_set1_ps(d->factor));
    if (kind == FLOAT8)
        return _mm256_castps_si256(_mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p7f), _CMP_GT_OQ));
    return _mm256_castps_si256(
        _mm256_and_ps(_mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p-102f), _CMP_LT_OQ),
                      _mm256_cmp_ps(magnitude, zero, _CMP_GT_OQ)));
}

/* Asks for what will be needed soon; an address outside the weights does nothing. */
INLINE void lane_fetch(const uint8_t *cell, int64_t ahead) {
    _mm_prefetch((const char *)((uintptr_t)cell + (uintptr_t)ahead), _MM_HINT_T0);
}

/* A cell of eight channels, a byte c each, `offset` bytes into it. */
INLINE __m256i lane_four_columns(const lane_kind kind, const lane_codec *d, const uint8_t *cell,
                                 int64_t offset) {
    if (kind == FLOAT8) return d->mask; /* lane_column reads them itself */
    const __m256i u = _mm256_loadu_si256((const void *)(cell + offset));
    return kind == UINT8 ? u : _mm256_xor_si256(u, d->mid);
}

/* Column i of a cell, i a constant, `four` what lane_four_columns gave. */
INLINE __m256 lane_column(const lane_kind kind, const lane_codec *d, const uint8_t *cell,
                          int64_t offset, __m256i four, const int i) {
    if (kind == FLOAT8) {
        const uint8_t *codes = cell + i * NIB_PANEL + offset;
        const __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)codes));
        return _mm256_castsi256_ps(_mm256_and_si256(_mm256_sllv_epi32(q, d->shift), d->mask));
    }
    /* a shift and a mask where they do, because vpshufb competes with fma for a unit */
    if (kind != UINT8 && i == 0) return _mm256_cvtepi32_ps(_mm256_slli_epi32(four, 24));
    if (kind != UINT8 && i == 3) return _mm256_cvtepi32_ps(_mm256_and_si256(four, d->place[3]));
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(four, d->place[i]));
}

/* Bytes of an eight within its panel's cells. */
INLINE int64_t lane_offset(const lane_kind kind, int64_t eight) {
    return eight % 2 * (kind == FLOAT8 ? 8 : 32);
}

/* What is greatest where lane_column makes a number of a NaN or an infinity of the 64 codes. */
INLINE __m256i lane_see(const lane_codec *d, __m256i seen, const uint8_t *cell) {
    for (int h = 0; h < 2; h++) {
        const __m256i codes = _mm256_loadu_si256((const void *)(cell + 32 * h));
        seen = _mm256_max_epu8(seen, _mm256_xor_si256(_mm256_or_si256(codes, d->mid), d->flip));
    }
    return seen;
}
INLINE bool lane_is_odd(const lane_codec *d, __m256i seen) {
    const __m256i limit = _mm256_set1_epi8((char)d->odd);
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(seen, limit), seen)) != 0;
}
#endif
