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

INLINE void fetch_lines(const void *x, const int lines) {
#pragma GCC unroll 4
    for (int i = 0; i < lines; i++) fetch((const char *)x + 64 * i);
}

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

/* How many rows from r on, at most four, see the same tokens. */
INLINE int64_t same_tokens(const nib_attention_rows *a, int64_t r) {
    int64_t n = 1;
    while (n < R_MOST && r + n < a->rows && a->first[r + n] == a->first[r] &&
           a->end[r + n] == a->end[r])
        n++;
    return n;
}

/* Rows [row, row + n), which see the same tokens, by of[n - 1]; so all rows are met. */
typedef void rows_function(float *out, float *max, float *sum, const nib_attention_rows *a,
                           int64_t row, const nib_kv_part *part);
INLINE void all_rows(rows_function *const of[R_MOST], float *out, float *max, float *sum,
                     const nib_attention_rows *a, const nib_kv_part *part) {
    for (int64_t r = 0; r < a->rows;) {
        const int64_t n = same_tokens(a, r);
        of[n - 1](out, max, sum, a, r, part);
        r += n;
    }
}

/* What merging multiplies with: results so far, and those of the part. */
typedef struct merge {
    float old[R_MOST], new[R_MOST];
} merge;

/* kernel.h: attention_merge_f32, but for its loop over columns. */
INLINE merge merge_rows(float *max, float *sum, const int R, __m128 part_max, __m128 part_sum) {
    float was[R_MOST] = {0}, had[R_MOST] = {0};
    merge by;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) was[r] = max[r], had[r] = sum[r];
    const __m128 before = _mm_loadu_ps(was), most = _mm_max_ps(part_max, before);
    const __m256 below = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_sub_ps(before, most)),
                                              _mm_sub_ps(part_max, most), 1);
    const __m256 both = _mm512_castps512_ps256(avx512_exp(_mm512_castps256_ps512(below)));
    const __m128 old = _mm256_castps256_ps128(both), new = _mm256_extractf128_ps(both, 1);
    _mm_storeu_ps(by.old, old);
    _mm_storeu_ps(by.new, new);
    store_rows(max, R, most);
    store_rows(sum, R, _mm_fmadd_ps(part_sum, new, _mm_mul_ps(_mm_loadu_ps(had), old)));
    return by;
}

/* The first `rest` columns of row r's results, y those of the part. */
INLINE void merge_columns(float *out, int64_t rest, const merge *by, int r, __m512 y) {
    const __m512 old = _mm512_set1_ps(by->old[r]), new = _mm512_set1_ps(by->new[r]);
    if (rest >= 16) {
        const __m512 kept = _mm512_mul_ps(_mm512_loadu_ps(out), old);
        _mm512_storeu_ps(out, _mm512_fmadd_ps(y, new, kept));
    } else {
        const __m512 kept = _mm512_mul_ps(avx512_load_first(out, (size_t)rest), old);
        avx512_store_first(out, (size_t)rest, _mm512_fmadd_ps(y, new, kept));
    }
}

/* What ALiBi adds to the scores of rows [row, row + R). */
static __attribute__((noinline)) void lean(float p[R_MOST][BLOCK], int R,
                                           const nib_attention_rows *a, int64_t row) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int r = 0; r < R; r++)
        for (int t = 0; t < BLOCK; t += 16) {
            const __m512i from = _mm512_add_epi32(lane, _mm512_set1_epi32(t - a->own[row + r]));
            _mm512_storeu_ps(p[r] + t,
                             _mm512_fmadd_ps(_mm512_set1_ps(a->slope[row + r]),
                                             _mm512_cvtepi32_ps(from), _mm512_loadu_ps(p[r] + t)));
        }
}

/* Scores of 64 tokens to weights in place, 0 for those that are not seen; rows' maxima and sums
 * are brought up to date. Meanwhile 4 R times `lines` lines of `next` are fetched. */
INLINE merge weigh(float p[R_MOST][BLOCK], const int R, const uint64_t seen[R_MOST], float *max,
                   float *sum, const uint8_t *next, const int lines) {
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
    for (int r = 0; r < R; r++) {
        const __m512 by = _mm512_set1_ps(top[r]);
        __m512 all = _mm512_setzero_ps();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512 below = _mm512_sub_ps(_mm512_loadu_ps(p[r] + 16 * j), by);
            const __m512 e = _mm512_maskz_mov_ps(
                seen_at(seen[r], j),
                avx512_exp_within(_mm512_max_ps(_mm512_set1_ps(-104.0f), below)));
            fetch_lines(next, lines), next += 64 * lines;
            _mm512_storeu_ps(p[r] + 16 * j, e);
            all = _mm512_add_ps(all, e); /* adding +0 changes no lane */
        }
        _mm512_storeu_ps(lanes[r], all);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R_MOST; r++) rows[r] = _mm512_loadu_ps(lanes[r < R ? r : 0]);
    return merge_rows(max, sum, R, _mm_add_ps(most, _mm_setzero_ps()), four_tree(rows));
}
#endif
