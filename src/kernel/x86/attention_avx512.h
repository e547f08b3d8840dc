/* attention_avx512.h: what the AVX-512 kernels of attention share: the softmax of up to four rows
 * over the tokens of a part. The chains of one row are long, so each step is taken for all rows
 * before the next, and what crosses lanes is done for four rows in one vector. */
#ifndef NIB_KERNEL_X86_ATTENTION_AVX512_H
#define NIB_KERNEL_X86_ATTENTION_AVX512_H
#include "kernel/kernel.h"
#include "kernel/x86/float_avx512.h"

#define INLINE static inline __attribute__((always_inline))
enum { BLOCK = NIB_ATTENTION_BLOCK, R_MOST = 4 };

/* A part is too short for the hardware to see the stream of a head's parts. */
INLINE void fetch(const void *x) { _mm_prefetch((const char *)x, _MM_HINT_T0); }

/* Tokens [first, end) as bits; those of vector j. */
INLINE uint64_t seen_of(int first, int end) { return ~0ull << first & ~0ull >> (BLOCK - end); }
INLINE __mmask16 seen_at(uint64_t seen, int j) { return (__mmask16)(seen >> 16 * j); }

/* Element r of the result is the largest of rows[r]; no NaN. */
INLINE __m128 four_max(const __m512 rows[R_MOST]) {
    const __m512 ab =
        _mm512_max_ps(_mm512_unpacklo_ps(rows[0], rows[1]), _mm512_unpackhi_ps(rows[0], rows[1]));
    const __m512 cd =
        _mm512_max_ps(_mm512_unpacklo_ps(rows[2], rows[3]), _mm512_unpackhi_ps(rows[2], rows[3]));
    const __m512 all =
        _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* The same for unsigned integers, and for sums of them. */
#define FOUR(name, op)                                                                             \
    INLINE __m128i name(const __m512i rows[R_MOST]) {                                              \
        const __m512i ab = _mm512_##op(_mm512_unpacklo_epi32(rows[0], rows[1]),                    \
                                       _mm512_unpackhi_epi32(rows[0], rows[1]));                   \
        const __m512i cd = _mm512_##op(_mm512_unpacklo_epi32(rows[2], rows[3]),                    \
                                       _mm512_unpackhi_epi32(rows[2], rows[3]));                   \
        const __m512i all =                                                                        \
            _mm512_##op(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));             \
        const __m256i half =                                                                       \
            _mm256_##op(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));           \
        return _mm_##op(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));          \
    }
FOUR(four_max_bits, max_epu32)
FOUR(four_sum, add_epi32)
#undef FOUR

/* Element r of the result is avx512_tree(rows[r]). */
INLINE __m128 four_tree(const __m512 rows[R_MOST]) {
    __m128 four[R_MOST];
#pragma GCC unroll 4
    for (int r = 0; r < R_MOST; r++) {
        const __m256 eight =
            _mm256_add_ps(_mm512_castps512_ps256(rows[r]), _mm512_extractf32x8_ps(rows[r], 1));
        four[r] = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    }
    const __m128 ab = _mm_add_ps(_mm_movelh_ps(four[0], four[1]), _mm_movehl_ps(four[1], four[0]));
    const __m128 cd = _mm_add_ps(_mm_movelh_ps(four[2], four[3]), _mm_movehl_ps(four[3], four[2]));
    return _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd));
}

/* The first R elements of a vector into memory that holds no more. */
INLINE void store_rows(float *out, const int R, __m128 x) {
    float all[4];
    _mm_storeu_ps(all, x);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) out[r] = all[r];
}

/* Scores of 64 tokens to weights in place, 0 for those that are not seen; their maxima, sums. */
INLINE void weigh(float p[R_MOST][BLOCK], const int R, const uint64_t seen[R_MOST], float *max,
                  float *sum) {
    __m512 rows[R_MOST];
    float top[R_MOST], lanes[R_MOST][16];
#pragma GCC unroll 4
    for (int r = 0; r < R_MOST; r++) {
        rows[r] = _mm512_set1_ps(-INFINITY);
#pragma GCC unroll 4
        for (int j = 0; r < R && j < 4; j++)
            rows[r] = _mm512_mask_max_ps(rows[r], seen_at(seen[r], j),
                                         _mm512_loadu_ps(p[r] + 16 * j), rows[r]);
    }
    const __m128 most = four_max(rows);
    _mm_storeu_ps(top, most);
    store_rows(max, R, _mm_add_ps(most, _mm_setzero_ps()));
    for (int r = 0; r < R; r++) {
        const __m512 by = _mm512_set1_ps(top[r]);
        __m512 all = _mm512_setzero_ps();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512 e = _mm512_maskz_mov_ps(
                seen_at(seen[r], j), avx512_exp(_mm512_sub_ps(_mm512_loadu_ps(p[r] + 16 * j), by)));
            _mm512_storeu_ps(p[r] + 16 * j, e);
            all = _mm512_add_ps(all, e); /* adding +0 changes no lane */
        }
        _mm512_storeu_ps(lanes[r], all);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R_MOST; r++) rows[r] = _mm512_loadu_ps(lanes[r < R ? r : 0]);
    store_rows(sum, R, four_tree(rows));
}
#endif
