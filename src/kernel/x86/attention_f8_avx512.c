/* attention_f8_avx512.c: queries against a part of a cache of e4m3fn. Tokens (keys) and columns
 * (values) are the lanes.
 *
 * A code's bits, moved to where a float has its exponent, are the float 2^120 times smaller,
 * denormals included: a load, a shift and a mask, and no conversion. The judge has codes 256 times
 * smaller; so queries and weights are taken 2^112 times larger here. A power of two changes no
 * product, and so no rounding, unless it overflows: rows that hold something of 2^16 or more, an
 * infinity or a NaN go the slow way, where the code is multiplied instead. */
#include <string.h>

#include "kernel/x86/attention_avx512.h"

#define APART static __attribute__((noinline)) /* see attention_avx512vnni.c */
enum { HEAD = NIB_ATTENTION_HEAD };
#define LARGER 0x1p112f

/* 16 codes, 2^120 times smaller, or 2^8 when `slow`; `there`: which of them are. */
INLINE __m512 floats_of(const uint8_t *codes, const __mmask16 there, const bool slow) {
    const __m128i bytes = there == 0xffff ? _mm_loadu_si128((const __m128i *)codes)
                                          : _mm_maskz_loadu_epi8(there, codes);
    const __m512 x = _mm512_castsi512_ps(_mm512_and_si512(
        _mm512_slli_epi32(_mm512_cvtepi8_epi32(bytes), 20), _mm512_set1_epi32((int)0x87f00000u)));
    return slow ? _mm512_mul_ps(x, _mm512_set1_ps(LARGER)) : x;
}

/* n factors times 2^112, or as they are; -> whether that would overflow. */
APART bool enlarge(float *out, const float *x, int64_t n) {
    const __m512 by = _mm512_set1_ps(LARGER);
    __m512i most = _mm512_setzero_si512(); /* as bits without a sign: a NaN is the largest */
    for (int64_t i = 0; i < n; i += 16) {
        const __m512 larger = _mm512_mul_ps(avx512_load_first(x + i, (size_t)(n - i)), by);
        avx512_store_first(out + i, (size_t)(n - i), larger);
        most = _mm512_max_epu32(
            most, _mm512_and_si512(_mm512_castps_si512(larger), _mm512_set1_epi32(0x7fffffff)));
    }
    if (!_mm512_cmpge_epu32_mask(most, _mm512_set1_epi32(0x7f800000))) return false;
    memcpy(out, x, (size_t)n * sizeof *out);
    return true;
}

/* sums[r][c] = chains over n cells of P vectors of codes: cells `step` bytes apart, vectors
 * `stride`, rows' factors `ld` floats. n lines of `next` are fetched meanwhile. */
INLINE void product(__m512 sums[R_MOST][4], const int R, const int P, const bool slow,
                    const uint8_t *x, int64_t step, int64_t stride, int64_t n, const float *by,
                    int64_t ld, __mmask16 last, const uint8_t *next) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < P; c++) sums[r][c] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i++, x += step) {
        __m512 codes[4];
#pragma GCC unroll 4
        for (int c = 0; c < P; c++)
            codes[c] = floats_of(x + c * stride, P == 4 ? 0xffff : last, slow);
        fetch(next + i * 64);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m512 factor = _mm512_set1_ps(by[r * ld + i]);
#pragma GCC unroll 4
            for (int c = 0; c < P; c++) sums[r][c] = _mm512_fmadd_ps(factor, codes[c], sums[r][c]);
        }
    }
}

/* Scores of all 64 tokens. */
INLINE void scores(float p[R_MOST][BLOCK], const int R, const bool slow, const float *q, int64_t d,
                   const nib_kv_part *part, float scale) {
    __m512 sums[R_MOST][4];
    product(sums, R, 4, slow, part->k, 16, d * 16, d, q, d, 0xffff, part->v);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 by = _mm512_loadu_ps((const float *)part->k_scale + 16 * j);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            _mm512_storeu_ps(p[r] + 16 * j, _mm512_mul_ps(_mm512_mul_ps(sums[r][j], by),
                                                          _mm512_set1_ps(scale * 256)));
    }
}

/* Columns of the weighted values of tokens [first, end). */
INLINE void values(float *out, int64_t d, const int R, const bool slow, const uint8_t *v,
                   float w[R_MOST][BLOCK], int first, int end, const merge *by,
                   const uint8_t *next) {
    __m512 sums[R_MOST][4];
    int64_t i = 0;
    for (; i + 64 <= d; i += 64) {
        product(sums, R, 4, slow, v + first * d + i, d, 16, end - first, w[0] + first, BLOCK,
                0xffff, next + i * BLOCK);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int c = 0; c < 4; c++)
                merge_columns(out + r * d + i + 16 * c, 16, by, r, sums[r][c]);
    }
    for (; i < d; i += 16) {
        product(sums, R, 1, slow, v + first * d + i, d, 16, end - first, w[0] + first, BLOCK,
                avx512_first((size_t)(d - i)), next + i * BLOCK);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) merge_columns(out + r * d + i, d - i, by, r, sums[r][0]);
    }
}

/* p times the scales of the values and 256. */
INLINE void scale_weights(float p[R_MOST][BLOCK], const int R, const float *scale) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512 by = _mm512_loadu_ps(scale + 16 * j);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m512 w = _mm512_mul_ps(_mm512_loadu_ps(p[r] + 16 * j), by);
            _mm512_storeu_ps(p[r] + 16 * j, _mm512_mul_ps(w, _mm512_set1_ps(256)));
        }
    }
}

#define ROWS(R)                                                                                    \
    APART void scores_##R(float p[R_MOST][BLOCK], bool slow, const float *q, int64_t d,            \
                          const nib_kv_part *part, float scale) {                                  \
        if (slow)                                                                                  \
            scores(p, R, true, q, d, part, scale);                                                 \
        else                                                                                       \
            scores(p, R, false, q, d, part, scale);                                                \
    }                                                                                              \
    APART void values_##R(float *out, int64_t d, bool slow, const uint8_t *v,                      \
                          float w[R_MOST][BLOCK], int first, int end, const merge *by,             \
                          const uint8_t *next) {                                                   \
        if (slow)                                                                                  \
            values(out, d, R, true, v, w, first, end, by, next);                                   \
        else                                                                                       \
            values(out, d, R, false, v, w, first, end, by, next);                                  \
    }                                                                                              \
    APART void rows_##R(float *out, float *max, float *sum, const nib_attention_rows *a,           \
                        int64_t row, const nib_kv_part *part) {                                    \
        const int64_t d = a->d;                                                                    \
        const int first = a->first[row], end = a->end[row];                                        \
        float q[R * HEAD], p[R_MOST][BLOCK], w[R_MOST][BLOCK];                                     \
        uint64_t seen[R_MOST];                                                                     \
        for (int j = 0; j < BLOCK; j += 16) {                                                      \
            fetch((const float *)part->k_scale + BLOCK + j);                                       \
            fetch((const float *)part->v_scale + BLOCK + j);                                       \
        }                                                                                          \
        for (int r = 0; r < R; r++) seen[r] = seen_of(first, end);                                 \
        const bool large = enlarge(q, a->q + row * d, R * d);                                      \
        scores_##R(p, large, q, d, part, a->scale);                                                \
        if (a->slope) lean(p, R, a, row);                                                          \
        const merge by = weigh(p, R, seen, max + row, sum + row, NULL, 0);                         \
        scale_weights(p, R, part->v_scale);                                                        \
        values_##R(out + row * d, d, enlarge(w[0], p[0], R * BLOCK), part->v, w, first, end, &by,  \
                   (const uint8_t *)part->k + BLOCK * d);                                          \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)

static void attention_f8(float *out, float *max, float *sum, const nib_attention_rows *a,
                         const nib_kv_part *part) {
    static rows_function *const of[R_MOST] = {rows_1, rows_2, rows_3, rows_4};
    all_rows(of, out, max, sum, a, part);
}

static void install(nib_kernels *k) { k->attention_f8 = attention_f8; }
const nib_kernel_set nib_kernels_attention_f8_avx512 = {
    .name = "attention_f8_avx512", .needs = NIB_CPU_AVX512, .install = install};
