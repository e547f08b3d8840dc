/* attention_avx512.c: queries against a part of a float cache; head elements in lanes. Rows that
 * see the same tokens meet them together, four at a time, so that a part is read once. */
#include "kernel/x86/attention_avx512.h"

#define APART static __attribute__((noinline)) /* see attention_avx512vnni.c */

/* Floats from what is met to what is fetched: 4 KiB, since a part is larger than the nearest cache.
 * Values are met 64 columns at a time, and fetched 128. */
enum { AHEAD = 1024 };

/* Element 4 r + t of the result is avx512_tree(lanes[r][t]): each step of the tree puts the halves
 * of two sums beside each other. */
INLINE __m512 trees(__m512 lanes[R_MOST][4]) {
    __m512 a[2][4], b[4], c[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++)
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) { /* rows 2 h and 2 h + 1 */
            const __m512 x = lanes[2 * h][t], y = lanes[2 * h + 1][t];
            a[h][t] =
                _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
        }
#pragma GCC unroll 4
    for (int t = 0; t < 4; t++) /* a quarter of b is a row */
        b[t] = _mm512_add_ps(_mm512_shuffle_f32x4(a[0][t], a[1][t], 0x88),
                             _mm512_shuffle_f32x4(a[0][t], a[1][t], 0xdd));
#pragma GCC unroll 2
    for (int t = 0; t < 2; t++) /* tokens 2 t and 2 t + 1 */
        c[t] = _mm512_add_ps(_mm512_shuffle_ps(b[2 * t], b[2 * t + 1], 0x44),
                             _mm512_shuffle_ps(b[2 * t], b[2 * t + 1], 0xee));
    return _mm512_add_ps(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
}

/* Scores of tokens [first, end). */
INLINE void scores(float p[R_MOST][BLOCK], const int R, const float *q, const float *k, int64_t d,
                   int first, int end, float scale) {
    for (int at = first & ~3; at < end; at += 4) {
        __m512 lanes[R_MOST][4];
        const float *k_t[4]; /* a token that is not seen may not even be there */
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++)
            k_t[t] = k + (at + t < first ? first : at + t < end ? at + t : end - 1) * d;
#pragma GCC unroll 4
        for (int r = 0; r < R_MOST; r++)
#pragma GCC unroll 4
            for (int t = 0; t < 4; t++) lanes[r][t] = _mm512_setzero_ps();
        int64_t i = 0;
        for (; i + 16 <= d; i += 16) {
            __m512 x[4];
#pragma GCC unroll 4
            for (int t = 0; t < 4; t++) {
                x[t] = _mm512_loadu_ps(k_t[t] + i);
                fetch(k_t[t] + i + AHEAD);
            }
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const __m512 q_r = _mm512_loadu_ps(q + r * d + i);
#pragma GCC unroll 4
                for (int t = 0; t < 4; t++) lanes[r][t] = _mm512_fmadd_ps(q_r, x[t], lanes[r][t]);
            }
        }
        if (i < d) { /* a missing element leaves its lane alone */
            const __mmask16 there = avx512_first((size_t)(d - i));
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const __m512 q_r = _mm512_maskz_loadu_ps(there, q + r * d + i);
#pragma GCC unroll 4
                for (int t = 0; t < 4; t++)
                    lanes[r][t] = _mm512_mask3_fmadd_ps(
                        q_r, _mm512_maskz_loadu_ps(there, k_t[t] + i), lanes[r][t], there);
            }
        }
        const __m512 all = _mm512_mul_ps(trees(lanes), _mm512_set1_ps(scale));
        float by_row[R_MOST][4];
        _mm512_storeu_ps(by_row, all);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) _mm_storeu_ps(p[r] + at, _mm_loadu_ps(by_row[r]));
    }
}

/* Columns [i, i + 16 P), of which `there` are in the last vector: chains over the tokens. */
INLINE void some_values(float *out, int64_t d, int64_t i, const int R, const int P, const float *v,
                        float p[R_MOST][BLOCK], int first, int end, const merge *by) {
    __m512 sums[R_MOST][4];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < P; c++) sums[r][c] = _mm512_setzero_ps();
    const __mmask16 last = avx512_first((size_t)(d - i - 16 * (P - 1)));
    const float *x = v + first * d + i;
    for (int t = first; t < end; t++, x += d) {
        __m512 v_t[4];
#pragma GCC unroll 4
        for (int c = 0; c < P; c++) {
            v_t[c] = P == 4 ? _mm512_loadu_ps(x + 16 * c) : _mm512_maskz_loadu_ps(last, x + 16 * c);
            if (i % 128 == 0) fetch(x + 16 * c + AHEAD), fetch(x + 16 * c + AHEAD + 64);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const __m512 w = _mm512_set1_ps(p[r][t]);
#pragma GCC unroll 4
            for (int c = 0; c < P; c++) sums[r][c] = _mm512_fmadd_ps(w, v_t[c], sums[r][c]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < P; c++)
            merge_columns(out + r * d + i + 16 * c, d - i - 16 * c, by, r, sums[r][c]);
}
INLINE void values(float *out, int64_t d, const int R, const float *v, float p[R_MOST][BLOCK],
                   int first, int end, const merge *by) {
    int64_t i = 0;
    for (; i + 64 <= d; i += 64) some_values(out, d, i, R, 4, v, p, first, end, by);
    for (; i < d; i += 16) some_values(out, d, i, R, 1, v, p, first, end, by);
}

#define ROWS(R)                                                                                    \
    APART void scores_##R(float p[R_MOST][BLOCK], const float *q, const float *k, int64_t d,       \
                          int first, int end, float scale) {                                       \
        scores(p, R, q, k, d, first, end, scale);                                                  \
    }                                                                                              \
    APART void values_##R(float *out, int64_t d, const float *v, float p[R_MOST][BLOCK],           \
                          int first, int end, const merge *by) {                                   \
        values(out, d, R, v, p, first, end, by);                                                   \
    }                                                                                              \
    APART void rows_##R(float *out, float *max, float *sum, const nib_attention_rows *a,           \
                        int64_t row, const nib_kv_part *part) {                                    \
        const int first = a->first[row], end = a->end[row];                                        \
        float p[R_MOST][BLOCK];                                                                    \
        uint64_t seen[R_MOST];                                                                     \
        for (int r = 0; r < R; r++) seen[r] = seen_of(first, end);                                 \
        scores_##R(p, a->q + row * a->d, part->k, a->d, first, end, a->scale);                     \
        if (a->slope) lean(p, R, a, row);                                                          \
        const merge by = weigh(p, R, seen, max + row, sum + row, NULL, 0);                         \
        values_##R(out + row * a->d, a->d, part->v, p, first, end, &by);                           \
    }
ROWS(1)
ROWS(2)
ROWS(3)
ROWS(4)

static void attention_f32(float *out, float *max, float *sum, const nib_attention_rows *a,
                          const nib_kv_part *part) {
    static rows_function *const of[R_MOST] = {rows_1, rows_2, rows_3, rows_4};
    all_rows(of, out, max, sum, a, part);
}

static void attention_merge_f32(float *out, float *max, float *sum, const float *part,
                                float part_max, float part_sum, int64_t d) {
    const merge by = merge_rows(max, sum, 1, _mm_set1_ps(part_max), _mm_set1_ps(part_sum));
    for (int64_t i = 0; i < d; i += 16)
        merge_columns(out + i, d - i, &by, 0, avx512_load_first(part + i, (size_t)(d - i)));
}

static void install(nib_kernels *k) {
    k->attention_f32 = attention_f32;
    k->attention_merge_f32 = attention_merge_f32;
}
const nib_kernel_set nib_kernels_attention_avx512 = {
    .name = "attention_avx512", .needs = NIB_CPU_AVX512, .install = install};
