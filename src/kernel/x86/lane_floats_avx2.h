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

/* What a cell holds, always a constant: the bits of its codes, of which 1, 3, 5, 6 and 7 stand in
 * planes; 8 with and without a mid; narrow floats. */
typedef enum lane_kind {
    BITS1 = 1,
    BITS2,
    BITS3,
    BITS4,
    BITS5,
    BITS6,
    BITS7,
    INT8,
    UINT8,
    FLOAT8
} lane_kind;

/* Columns that are met together: of a cell, or of a cell of each plane. */
INLINE int lane_columns(const lane_kind kind) {
    return kind >= INT8 ? 4 : kind == BITS4 ? 8 : kind == BITS2 ? 16 : 32;
}

INLINE int lane_bits(const lane_kind kind) { return kind >= INT8 ? 8 : (int)kind; }

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
    const uint8_t *plane = w->codes + eight / 2 * w->panel_bytes + eight % 2 * 32;
    __m256i u = _mm256_set1_epi32(-w->mid);
    int up = 0;
    for (int bits = 8; bits; bits /= 2) {
        if (!(w->bits & bits)) continue;
        const int columns = 32 / bits, at = (int)(k % 4) * 8 + (int)(k % columns) / 4 * bits;
        const __m256i cell = _mm256_loadu_si256((const void *)(plane + k / columns * 64));
        const __m256i code = _mm256_and_si256(_mm256_srl_epi32(cell, _mm_cvtsi32_si128(at)),
                                              _mm256_set1_epi32((1 << bits) - 1));
        u = _mm256_add_epi32(u, _mm256_sll_epi32(code, _mm_cvtsi32_si128(up)));
        plane += (w->K + 31) / 32 * 32 * bits * NIB_PANEL / 8;
        up += bits;
    }
    return _mm256_cvtepi32_ps(u);
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
    __m256 table;
    float factor;
    uint8_t odd; /* narrow floats: what lane_see gives from here on are no numbers */
} lane_codec;

INLINE lane_codec lane_codec_of(const lane_kind kind, const nib_lane_weight *w) {
    const __m256i zero = _mm256_setzero_si256(), none = _mm256_set1_epi8(-1);
    lane_codec d = {{zero, zero, zero, zero}, zero, zero, zero, zero, _mm256_setzero_ps(), 1, 0};
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
    if (kind == BITS2) { /* vpermps reads three bits of a dword and ignores the rest */
        const __m256i codes = _mm256_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3);
        d.table = _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, _mm256_set1_epi32(w->mid)));
        return d;
    }
    d.mask = _mm256_set1_epi8(0x0f);
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
    if (kind == BITS2) return _mm256_setzero_si256();
    *scale = _mm256_mul_ps(*scale, _mm256_set1_ps(d->factor));
    if (kind == FLOAT8)
        return _mm256_castps_si256(_mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p7f), _CMP_GT_OQ));
    return _mm256_castps_si256(
        _mm256_and_ps(_mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p-102f), _CMP_LT_OQ),
                      _mm256_cmp_ps(magnitude, zero, _CMP_GT_OQ)));
}

/* Where the codes of a panel stand; of planes, that of four, two and one bits. */
typedef struct lane_place {
    const uint8_t *cell, *two, *one;
} lane_place;

INLINE lane_place lane_place_of(const lane_kind kind, const nib_lane_weight *w, int64_t panel,
                                int64_t k) {
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    const int64_t Kp = (w->K + 31) / 32 * 32;
    if (kind >= INT8) return (lane_place){codes + k * 16, NULL, NULL};
    const uint8_t *two = codes + (kind & 4 ? Kp * 8 : 0), *one = two + (kind & 2 ? Kp * 4 : 0);
    return (lane_place){codes + k * 8, two + k * 4, one + k * 2};
}
INLINE void lane_advance(const lane_kind kind, lane_place *at) {
    const int columns = lane_columns(kind);
    if (kind >= INT8) at->cell += 64;
    if (kind >= INT8) return;
    if (kind & 4) at->cell += columns * 8;
    if (kind & 2) at->two += columns * 4;
    if (kind & 1) at->one += columns * 2;
}

/* Asks for what will be needed soon; an address outside the weights does nothing. */
INLINE void lane_fetch_line(const uint8_t *codes, int64_t ahead) {
    _mm_prefetch((const char *)((uintptr_t)codes + (uintptr_t)ahead), _MM_HINT_T0);
}
INLINE void lane_fetch(const lane_kind kind, const lane_place *at, int64_t ahead) {
    if (kind >= INT8 || kind == BITS4) lane_fetch_line(at->cell, ahead);
    if (kind == BITS2) lane_fetch_line(at->two, ahead);
    if (lane_columns(kind) < 32) return;
    for (int i = 0; i < 4 && kind & 4; i++) lane_fetch_line(at->cell + 64 * i, ahead);
    for (int i = 0; i < 2 && kind & 2; i++) lane_fetch_line(at->two + 64 * i, ahead / 2);
    if (kind & 1) lane_fetch_line(at->one, ahead / 4);
}

/* Bits [0, count) of the codes at bit `from` of every byte, moved to bit `to`. */
INLINE __m256i lane_some_bits(const uint8_t *at, const int from, const int count, const int to) {
    const __m256i mask = _mm256_set1_epi8((char)(((1 << count) - 1) << to));
    const __m256i v = _mm256_loadu_si256((const void *)at);
    return _mm256_and_si256(from > to   ? _mm256_srli_epi16(v, from - to)
                            : from < to ? _mm256_slli_epi16(v, to - from)
                                        : v,
                            mask);
}

/* Columns [4 j, 4 j + 4) of eight channels, a byte c each, `offset` bytes into their cells. */
INLINE __m256i lane_four_columns(const lane_kind kind, const lane_codec *d, const lane_place *at,
                                 int64_t offset, const int j) {
    if (kind == FLOAT8 || kind == BITS2) return d->mask; /* lane_column reads them itself */
    if (kind >= INT8) {
        const __m256i u = _mm256_loadu_si256((const void *)(at->cell + offset));
        return kind == UINT8 ? u : _mm256_xor_si256(u, d->mid);
    }
    if (kind == BITS4) {
        const __m256i v = _mm256_loadu_si256((const void *)(at->cell + j / 2 * 64 + offset));
        return _mm256_sub_epi8(_mm256_and_si256(j % 2 ? _mm256_srli_epi16(v, 4) : v, d->mask),
                               d->mid);
    }
    __m256i u = _mm256_setzero_si256();
    if (kind & 4) u = lane_some_bits(at->cell + j / 2 * 64 + offset, j % 2 * 4, 4, 0);
    if (kind & 2)
        u = _mm256_or_si256(u,
                            lane_some_bits(at->two + j / 4 * 64 + offset, j % 4 * 2, 2, kind & 4));
    if (kind & 1) u = _mm256_or_si256(u, lane_some_bits(at->one + offset, j, 1, kind & 6));
    return _mm256_sub_epi8(u, d->mid);
}

/* Column i of a cell, i a constant, `four` what lane_four_columns gave for i / 4. */
INLINE __m256 lane_column(const lane_kind kind, const lane_codec *d, const lane_place *at,
                          int64_t offset, __m256i four, const int i) {
    if (kind == FLOAT8) {
        const uint8_t *codes = at->cell + i * NIB_PANEL + offset;
        const __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)codes));
        return _mm256_castsi256_ps(_mm256_and_si256(_mm256_sllv_epi32(q, d->shift), d->mask));
    }
    if (kind == BITS2) {
        const int bit = i % 4 * 8 + i / 4 * 2;
        __m256i codes = _mm256_loadu_si256((const void *)(at->two + offset));
        if (bit) codes = _mm256_srli_epi32(codes, bit);
        return _mm256_permutevar8x32_ps(d->table, codes);
    }
    /* a shift and a mask where they do, because vpshufb competes with fma for a unit */
    if (kind != UINT8 && i % 4 == 0) return _mm256_cvtepi32_ps(_mm256_slli_epi32(four, 24));
    if (kind != UINT8 && i % 4 == 3) return _mm256_cvtepi32_ps(_mm256_and_si256(four, d->place[3]));
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(four, d->place[i % 4]));
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
