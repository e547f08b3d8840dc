/* lane_tiles_avx2.h: many rows of 8-bit inputs with weights in lanes, in tiles of 4 rows by 16
 * channels.
 *
 * A panel goes in blocks of K that stay in L1, unpacked to a byte or to 16 bits a code; all rows of
 * a row block pass over it. What waits between blocks lies in the scratch: f32 sums, and 32-bit
 * ones where a block ends inside a group. */
#ifndef NIB_KERNEL_X86_LANE_TILES_AVX2_H
#define NIB_KERNEL_X86_LANE_TILES_AVX2_H
#include <string.h>

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

/* Keeps the compiler from moving the products of several steps before the sums c of R rows, for
 * which the registers do not suffice, */
INLINE void lane_keep(const int R, __m256i c[4][2]) {
    if (R == 1) __asm__ volatile("" : "+x"(c[0][0]), "+x"(c[0][1]));
    if (R == 2) __asm__ volatile("" : "+x"(c[0][0]), "+x"(c[0][1]), "+x"(c[1][0]), "+x"(c[1][1]));
    if (R == 3)
        __asm__ volatile(""
                         : "+x"(c[0][0]), "+x"(c[0][1]), "+x"(c[1][0]), "+x"(c[1][1]),
                           "+x"(c[2][0]), "+x"(c[2][1]));
    if (R == 4)
        __asm__ volatile(""
                         : "+x"(c[0][0]), "+x"(c[0][1]), "+x"(c[1][0]), "+x"(c[1][1]),
                           "+x"(c[2][0]), "+x"(c[2][1]), "+x"(c[3][0]), "+x"(c[3][1]));
}
/* from loading or unpacking two vectors again for every use, */
INLINE void lane_keep_two(__m256i *a, __m256i *b) { __asm__ volatile("" : "+x"(*a), "+x"(*b)); }
/* and from computing the addresses of rows from one another at every step. */
INLINE void lane_keep_rows(const int R, const uint8_t *q[4]) {
    if (R == 1) __asm__ volatile("" : "+r"(q[0]));
    if (R == 2) __asm__ volatile("" : "+r"(q[0]), "+r"(q[1]));
    if (R == 3) __asm__ volatile("" : "+r"(q[0]), "+r"(q[1]), "+r"(q[2]));
    if (R == 4) __asm__ volatile("" : "+r"(q[0]), "+r"(q[1]), "+r"(q[2]), "+r"(q[3]));
}

/* What four columns of 16 channels do to R rows of sums, q[r] + at being their inputs. `ahead`:
 * bytes from these codes to those that are to be fetched, or 0. */
INLINE void lane_cell(const lane_step step, const int ahead, const int R, const bool begin,
                      __m256i c[4][2], const uint8_t *w, const uint8_t *const q[4], const int at) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i low = lane_load(w), high = lane_load(w + 32);
    if (ahead) lane_fetch(w, ahead);
    lane_keep_two(&low, &high);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const __m256i x = lane_four(q[r] + at);
        if (step == LANE_WIDE) {
            c[r][0] = _mm256_add_epi32(c[r][0], _mm256_madd_epi16(low, x));
            c[r][1] = _mm256_add_epi32(c[r][1], _mm256_madd_epi16(high, x));
            continue;
        }
        const __m256i a = _mm256_maddubs_epi16(low, x), b = _mm256_maddubs_epi16(high, x);
        if (step == LANE_SINGLE) {
            c[r][0] = _mm256_add_epi32(c[r][0], _mm256_madd_epi16(a, ones));
            c[r][1] = _mm256_add_epi32(c[r][1], _mm256_madd_epi16(b, ones));
        } else {
            c[r][0] = begin ? a : _mm256_add_epi16(c[r][0], a);
            c[r][1] = begin ? b : _mm256_add_epi16(c[r][1], b);
        }
    }
    lane_keep(R, c);
}

/* `cells` of them, on from *w and q. */
INLINE void lane_cells(const lane_step step, const int ahead, const int R, __m256i c[4][2],
                       const uint8_t **w, const uint8_t *q[4], int64_t cells) {
    bool begin = step == LANE_DEEP;
    if (begin && cells >= 8) {
        lane_keep_rows(R, q);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) lane_cell(step, ahead, R, j == 0, c, *w + 64 * j, q, 4 * j);
        cells -= 8, *w += 512, begin = false;
        for (int r = 0; r < R; r++) q[r] += 32;
    }
    if (begin)
        for (int r = 0; r < R; r++) c[r][0] = c[r][1] = _mm256_setzero_si256();
    for (; cells >= 8; cells -= 8, *w += 512) {
        lane_keep_rows(R, q);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) lane_cell(step, ahead, R, false, c, *w + 64 * j, q, 4 * j);
        for (int r = 0; r < R; r++) q[r] += 32;
    }
    for (; cells; cells--, *w += 64) {
        lane_keep_rows(R, q);
        lane_cell(step, ahead, R, false, c, *w, q, 0);
        for (int r = 0; r < R; r++) q[r] += 4;
    }
}

/* R rows of a block: q at its first column, rows ldq bytes apart; sums at its first group. */
INLINE void lane_tile(const lane_step step, const int ahead, const int R, const lane_block *b,
                      const uint8_t *q_0, int64_t ldq, const int32_t *sums, float *y,
                      int32_t *parts) {
    const __m256i ones = _mm256_set1_epi16(1), minus_mid = _mm256_set1_epi32(-b->w->mid);
    const int64_t depth = step == LANE_DEEP ? b->depth : INT64_MAX;
    const int64_t cells = step == LANE_WIDE ? 2 * b->cells : b->cells, groups = b->w->groups;
    const uint8_t *w = b->codes, *q[4];
    for (int r = 0; r < 4; r++) q[r] = q_0 + (r < R ? r : 0) * ldq;
    for (int64_t s = 0; s < b->segments; s++, sums++) {
        bool begun = !b->starts; /* the sum of this group, whose beginning is in `parts` */
        int64_t left = cells;
        do {
            __m256i c[4][2], t[4][2];
            const int64_t run = left < depth ? left : depth;
            left -= run;
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) c[r][0] = c[r][1] = _mm256_setzero_si256();
            lane_cells(step, ahead, R, c, &w, q, run);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const __m256i zero =
                    _mm256_mullo_epi32(_mm256_set1_epi32(sums[r * groups]), minus_mid);
                for (int h = 0; h < 2; h++) {
                    t[r][h] = step == LANE_DEEP ? _mm256_madd_epi16(c[r][h], ones) : c[r][h];
                    t[r][h] = _mm256_add_epi32(
                        t[r][h], begun ? lane_load(parts + r * NIB_PANEL + 8 * h) : zero);
                }
            }
            if (left || !b->ends) {
#pragma GCC unroll 4
                for (int r = 0; r < R; r++)
                    for (int h = 0; h < 2; h++)
                        _mm256_storeu_si256((__m256i *)(parts + r * NIB_PANEL + 8 * h), t[r][h]);
                begun = true;
                continue;
            }
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                for (int h = 0; h < 2; h++) {
                    float *at = y + r * NIB_PANEL + 8 * h;
                    _mm256_storeu_ps(at, lane_flush(b->w, b->values + s, h, t[r][h],
                                                    sums[r * groups], _mm256_loadu_ps(at)));
                }
        } while (left);
    }
}

/* M rows of a block. */
INLINE void lane_block_rows(const lane_step step, const int ahead, const lane_block *b,
                            const uint8_t *q, int64_t ldq, const int32_t *sums, int64_t M, float *y,
                            int32_t *parts) {
    const int64_t groups = b->w->groups;
    int64_t m = 0;
    for (; m + LANE_TILE <= M; m += LANE_TILE)
        lane_tile(step, ahead, LANE_TILE, b, q + m * ldq, ldq, sums + m * groups, y + m * NIB_PANEL,
                  parts + m * NIB_PANEL);
    q += m * ldq, sums += m * groups, y += m * NIB_PANEL, parts += m * NIB_PANEL;
    switch (M - m) {
    case 3:
        lane_tile(step, ahead, 3, b, q, ldq, sums, y, parts);
        break;
    case 2:
        lane_tile(step, ahead, 2, b, q, ldq, sums, y, parts);
        break;
    case 1:
        lane_tile(step, ahead, 1, b, q, ldq, sums, y, parts);
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

/* ---- from panels of bytes ---- */

enum { LANE_KC = 1024, LANE_ROWS = 256, LANE_ROW_BYTES = 512 << 10 };

typedef struct lane_scratch {
    uint8_t codes[LANE_KC * NIB_PANEL];
    lane_values values[LANE_BLOCK_MAX];
    float y[LANE_ROWS * NIB_PANEL];
    int32_t parts[LANE_ROWS * NIB_PANEL];
} lane_scratch;
_Static_assert(sizeof(lane_scratch) <= NIB_LANE_SCRATCH, "the scratch holds a block");

/* Columns [k, k + columns) of a panel as cells of one byte a code, in `space` or where they are;
 * k is a multiple of 32, columns at most LANE_KC. */
typedef const uint8_t *lane_bytes(uint8_t *space, const nib_lane_weight *w, int64_t panel,
                                  int64_t k, int64_t columns);

/* Any number of rows; LANE_DEEP with `depth` or LANE_SINGLE. */
INLINE void lane_many_rows(const lane_step step, const int ahead, int depth, lane_bytes *bytes,
                           float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                           const nib_lane_weight *w, int64_t panel, int64_t panels,
                           lane_scratch *at) {
    /* Rows whose codes stay in L2 while the panels pass. */
    int64_t most = w->K ? LANE_ROW_BYTES / w->K / LANE_TILE * LANE_TILE : LANE_ROWS;
    most = most < 64 ? 64 : most > LANE_ROWS ? LANE_ROWS : most;
    for (int64_t m = 0; m < M; m += most)
        for (int64_t p = panel; p < panel + panels; p++) {
            const int64_t count = M - m < most ? M - m : most;
            memset(at->y, 0, (size_t)count * NIB_PANEL * sizeof(float));
            int64_t k = 0;
            do {
                lane_block b = lane_next_block(w, k, LANE_KC);
                b.depth = depth, b.values = at->values;
                b.codes = bytes(at->codes, w, p, k, b.columns);
                for (int64_t s = 0; s < b.segments; s++)
                    at->values[s] = lane_group(w, p, b.group + s);
                lane_block_rows(step, ahead, &b, (const uint8_t *)rows->q + m * rows->ld + k,
                                rows->ld, rows->sums + m * w->groups + b.group, count, at->y,
                                at->parts);
                k += b.columns;
            } while (k < w->K);
            for (int64_t i = 0; i < count; i++)
                lane_finish(y, ldy, rows, m + i, w, p, _mm256_loadu_ps(at->y + i * NIB_PANEL),
                            _mm256_loadu_ps(at->y + i * NIB_PANEL + 8));
        }
}
#endif
