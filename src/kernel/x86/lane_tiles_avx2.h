/* lane_tiles_avx2.h: many rows of 8-bit inputs with weights in lanes, in tiles of 4 rows by 16
 * channels.
 *
 * A panel goes in blocks of K that stay in L1, unpacked to a byte or to 16 bits a code; all rows of
 * a row block pass over it. What waits between blocks lies in the scratch: f32 sums, and 32-bit
 * ones where a block ends inside a group. */
#ifndef NIB_KERNEL_X86_LANE_TILES_AVX2_H
#define NIB_KERNEL_X86_LANE_TILES_AVX2_H
#include "kernel/x86/lane_i8_avx2.h"

enum {
    LANE_TILE = 4,       /* rows of a tile */
    LANE_BLOCK_MAX = 32, /* groups of a block, at most */
};

/* How a tile multiplies four columns of 16 channels with a row. */
typedef enum lane_step {
    LANE_DEEP,   /* vpmaddubsw, sums of `depth` cells in 16 bits */
    LANE_SINGLE, /* vpmaddubsw, then vpmaddwd with ones at once */
    LANE_WIDE,   /* codes and inputs widened to 16 bits as columns (0, 2), (1, 3): vpmaddwd */
} lane_step;

/* One panel's columns [k, k + segments * 4 cells): whole groups, or a piece of one. */
typedef struct lane_block {
    const nib_lane_weight *w;
    const uint8_t *codes;      /* [cells][16][4] bytes, or [cells][2][16][2] of 16 bits */
    const lane_values *values; /* [segments] */
    int64_t k, columns, segments, cells;
    int64_t group;     /* of the first segment */
    int depth;         /* LANE_DEEP: cells that are summed in 16 bits */
    bool starts, ends; /* a piece: whether the group begins, ends here */
} lane_block;

/* Keeps the compiler from moving the products of several steps before their sums, for which the
 * registers do not suffice. */
#define LANE_KEEP(c)                                                                               \
    __asm__ volatile(""                                                                            \
                     : "+x"((c)[0][0]), "+x"((c)[0][1]), "+x"((c)[1][0]), "+x"((c)[1][1]),         \
                       "+x"((c)[2][0]), "+x"((c)[2][1]), "+x"((c)[3][0]), "+x"((c)[3][1]))

/* One cell into 16-bit sums c. */
INLINE void lane_step_deep(const int R, __m256i c[4][2], const uint8_t *w, const uint8_t *q,
                           int64_t ldq) {
    const __m256i low = lane_load(w), high = lane_load(w + 32);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const __m256i x = lane_four(q + r * ldq);
        c[r][0] = _mm256_add_epi16(c[r][0], _mm256_maddubs_epi16(low, x));
        c[r][1] = _mm256_add_epi16(c[r][1], _mm256_maddubs_epi16(high, x));
    }
    LANE_KEEP(c);
}

/* One cell into 32-bit sums t. */
INLINE void lane_step_single(const int R, __m256i t[4][2], const uint8_t *w, const uint8_t *q,
                             int64_t ldq) {
    const __m256i low = lane_load(w), high = lane_load(w + 32), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const __m256i x = lane_four(q + r * ldq);
        const __m256i a = _mm256_maddubs_epi16(low, x), b = _mm256_maddubs_epi16(high, x);
        t[r][0] = _mm256_add_epi32(t[r][0], _mm256_madd_epi16(a, ones));
        t[r][1] = _mm256_add_epi32(t[r][1], _mm256_madd_epi16(b, ones));
    }
    LANE_KEEP(t);
}

/* Half a cell, two columns, into 32-bit sums t. */
INLINE void lane_step_wide(const int R, __m256i t[4][2], const uint8_t *w, const uint8_t *q,
                           int64_t ldq) {
    const __m256i low = lane_load(w), high = lane_load(w + 32);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const __m256i x = lane_four(q + r * ldq);
        t[r][0] = _mm256_add_epi32(t[r][0], _mm256_madd_epi16(low, x));
        t[r][1] = _mm256_add_epi32(t[r][1], _mm256_madd_epi16(high, x));
    }
    LANE_KEEP(t);
}

/* R rows of a block: q at its first column, rows ldq bytes apart; sums at its first group. */
INLINE void lane_tile(const lane_step step, const int R, const lane_block *b, const uint8_t *q,
                      int64_t ldq, const int32_t *sums, float *y, int32_t *parts) {
    const __m256i ones = _mm256_set1_epi16(1), minus_mid = _mm256_set1_epi32(-b->w->mid);
    const uint8_t *w = b->codes;
    for (int64_t s = 0; s < b->segments; s++) {
        __m256i t[LANE_TILE][2];
#pragma GCC unroll 4
        for (int r = 0; r < LANE_TILE; r++)
            for (int h = 0; h < 2; h++)
                t[r][h] = r >= R ? _mm256_setzero_si256()
                          : b->starts
                              ? _mm256_mullo_epi32(_mm256_set1_epi32(sums[r * b->w->groups + s]),
                                                   minus_mid)
                              : lane_load(parts + r * NIB_PANEL + 8 * h);
        if (step == LANE_DEEP) {
            int64_t run;
            for (int64_t left = b->cells; left; left -= run) {
                run = left < b->depth ? left : b->depth;
                __m256i c[LANE_TILE][2];
#pragma GCC unroll 4
                for (int r = 0; r < LANE_TILE; r++) c[r][0] = c[r][1] = _mm256_setzero_si256();
                int64_t i = run;
                for (; i >= 4; i -= 4, w += 256, q += 16) {
                    lane_step_deep(R, c, w, q, ldq);
                    lane_step_deep(R, c, w + 64, q + 4, ldq);
                    lane_step_deep(R, c, w + 128, q + 8, ldq);
                    lane_step_deep(R, c, w + 192, q + 12, ldq);
                }
                for (; i; i--, w += 64, q += 4) lane_step_deep(R, c, w, q, ldq);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++)
                    for (int h = 0; h < 2; h++)
                        t[r][h] = _mm256_add_epi32(t[r][h], _mm256_madd_epi16(c[r][h], ones));
            }
        } else {
            const int64_t steps = step == LANE_WIDE ? 2 * b->cells : b->cells;
            int64_t i = steps;
            for (; i >= 4; i -= 4, w += 256, q += 16)
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++)
                    if (step == LANE_WIDE)
                        lane_step_wide(R, t, w + 64 * j, q + 4 * j, ldq);
                    else
                        lane_step_single(R, t, w + 64 * j, q + 4 * j, ldq);
            for (; i; i--, w += 64, q += 4)
                if (step == LANE_WIDE)
                    lane_step_wide(R, t, w, q, ldq);
                else
                    lane_step_single(R, t, w, q, ldq);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            for (int h = 0; h < 2; h++) {
                float *at = y + r * NIB_PANEL + 8 * h;
                if (b->ends)
                    _mm256_storeu_ps(at,
                                     lane_flush(b->w, b->values + s, h, t[r][h],
                                                sums[r * b->w->groups + s], _mm256_loadu_ps(at)));
                else
                    _mm256_storeu_si256((__m256i *)(parts + r * NIB_PANEL + 8 * h), t[r][h]);
            }
    }
}

/* M rows of a block. */
INLINE void lane_block_rows(const lane_step step, const lane_block *b, const uint8_t *q,
                            int64_t ldq, const int32_t *sums, int64_t M, float *y, int32_t *parts) {
    const int64_t groups = b->w->groups;
    int64_t m = 0;
    for (; m + LANE_TILE <= M; m += LANE_TILE)
        lane_tile(step, LANE_TILE, b, q + m * ldq, ldq, sums + m * groups, y + m * NIB_PANEL,
                  parts + m * NIB_PANEL);
    q += m * ldq, sums += m * groups, y += m * NIB_PANEL, parts += m * NIB_PANEL;
    switch (M - m) {
    case 3:
        lane_tile(step, 3, b, q, ldq, sums, y, parts);
        break;
    case 2:
        lane_tile(step, 2, b, q, ldq, sums, y, parts);
        break;
    case 1:
        lane_tile(step, 1, b, q, ldq, sums, y, parts);
        break;
    default:
        break;
    }
}

/* The block of at most `most` columns that begins at column k. */
INLINE lane_block lane_next_block(const nib_lane_weight *w, int64_t k, int64_t most) {
    const int64_t G = w->G;
    lane_block b = {.w = w, .k = k, .starts = true, .ends = true, .segments = 1};
    if (G <= most) { /* whole groups; a weight without columns has one empty group */
        const int64_t fit = G ? most / G : 1, left = G ? (w->K - k) / G : 1;
        b.segments = fit < left ? fit : left;
        if (b.segments > LANE_BLOCK_MAX) b.segments = LANE_BLOCK_MAX;
        b.columns = b.segments * G;
        b.cells = (G + 3) / 4;
        b.group = G ? k / G : 0;
    } else {
        const int64_t done = k % G, left = G - done;
        b.columns = left < most ? left : most;
        b.cells = (b.columns + 3) / 4;
        b.group = k / G;
        b.starts = done == 0;
        b.ends = b.columns == left;
    }
    return b;
}
#endif
