/* lane_blocks.h: many rows of 8-bit inputs with weights in lanes, block by block; what instruction
 * sets without a wide dot product share.
 *
 * A panel goes in blocks of K that stay in L1; all rows of a row block pass over it, a few at a
 * time. What waits between blocks lies in the scratch: f32 sums, and 32-bit ones where a block ends
 * inside a group. */
#ifndef NIB_KERNEL_LANE_BLOCKS_H
#define NIB_KERNEL_LANE_BLOCKS_H
#include <string.h>

#include "kernel/kernel.h"

enum {
    LANE_FEW = 4,               /* rows of a tile */
    LANE_KC = 1024,             /* columns of a block at most, */
    LANE_BLOCK_GROUPS = 32,     /* and its groups */
    LANE_ROWS = 256,            /* rows of a row block at most, */
    LANE_ROW_BYTES = 512 << 10, /* and its codes, which are to stay in L2 */
};

/* Scale and offset of 16 channels. */
typedef struct lane_values {
    float scale[NIB_PANEL], offset[NIB_PANEL];
} lane_values;

/* Columns [k, k + columns) of one panel: `segments` whole groups, or a piece of one. */
typedef struct lane_block {
    const nib_lane_weight *w;
    const uint8_t *codes;      /* as `codes` of the method made them */
    const lane_values *values; /* [segments] */
    int64_t k, columns, segments;
    int64_t cells;     /* fours of columns in each segment, the last one filled up */
    int64_t group;     /* of the first segment */
    bool starts, ends; /* a piece: whether the group begins, ends here */
} lane_block;

/* The block of at most `most` columns that begins at column k. */
static inline lane_block lane_next_block(const nib_lane_weight *w, int64_t k, int64_t most) {
    const int64_t G = w->G;
    lane_block b = {.w = w, .k = k, .starts = true, .ends = true, .segments = 1};
    if (G <= most) { /* whole groups; a weight without columns has one empty group */
        const int64_t fit = G ? most / G : 1, left = G ? (w->K - k) / G : 1;
        b.segments = fit < left ? fit : left;
        if (b.segments > LANE_BLOCK_GROUPS) b.segments = LANE_BLOCK_GROUPS;
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

/* Rows from row m on. */
static inline nib_rows_i8 lane_rows_from(const nib_rows_i8 *rows, int64_t m, int64_t groups) {
    nib_rows_i8 from = *rows;
    from.q += m * rows->ld, from.scale += m, from.sums += m * groups;
    if (rows->zero) from.zero += m;
    return from;
}

/* Few rows in turns of at most LANE_FEW, as even as can be: the rows of a turn. */
static inline int64_t lane_even_turns(int64_t M) {
    const int64_t turns = (M - 1) / LANE_FEW + 1;
    return (M - 1) / turns + 1;
}

/* How an instruction set does it. */
typedef struct lane_method {
    /* Columns [k, k + columns) of a panel as `rows` wants them, in `space` (16 LANE_KC bytes) or
     * where they are; k is a multiple of 32, columns at most LANE_KC. */
    const uint8_t *(*codes)(uint8_t *space, const nib_lane_weight *w, int64_t panel, int64_t k,
                            int64_t columns);
    /* Scales and offsets of groups [group, group + count) of a panel; offset 0 where none is. */
    void (*values)(lane_values *out, const nib_lane_weight *w, int64_t panel, int64_t group,
                   int64_t count);
    /* Add a block to M rows of sums: q at its first column, rows ldq bytes apart, `sums` at its
     * first group; y, parts [M][16]. */
    void (*rows)(const lane_block *b, const uint8_t *q, int64_t ldq, const int32_t *sums, int64_t M,
                 float *y, int32_t *parts);
    /* The steps after the last group of row m, from its 16 sums. */
    void (*finish)(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t m,
                   const nib_lane_weight *w, int64_t panel, const float *sums);
} lane_method;

typedef struct lane_scratch {
    uint8_t codes[LANE_KC * NIB_PANEL];
    lane_values values[LANE_BLOCK_GROUPS];
    float y[LANE_ROWS * NIB_PANEL];
    int32_t parts[LANE_ROWS * NIB_PANEL];
} lane_scratch;
_Static_assert(sizeof(lane_scratch) <= NIB_LANE_SCRATCH, "the scratch holds a block");

static inline void lane_many_rows(const lane_method *method, float *y, int64_t ldy,
                                  const nib_rows_i8 *rows, int64_t M, const nib_lane_weight *w,
                                  int64_t panel, int64_t panels, lane_scratch *at) {
    int64_t most = w->K ? LANE_ROW_BYTES / w->K / LANE_FEW * LANE_FEW : LANE_ROWS;
    most = most < 64 ? 64 : most > LANE_ROWS ? LANE_ROWS : most;
    for (int64_t m = 0; m < M; m += most)
        for (int64_t p = panel; p < panel + panels; p++) {
            const int64_t count = M - m < most ? M - m : most;
            memset(at->y, 0, (size_t)count * NIB_PANEL * sizeof(float));
            int64_t k = 0;
            do {
                lane_block b = lane_next_block(w, k, LANE_KC);
                b.codes = method->codes(at->codes, w, p, k, b.columns);
                b.values = at->values;
                method->values(at->values, w, p, b.group, b.segments);
                method->rows(&b, (const uint8_t *)rows->q + m * rows->ld + k, rows->ld,
                             rows->sums + m * w->groups + b.group, count, at->y, at->parts);
                k += b.columns;
            } while (k < w->K);
            for (int64_t i = 0; i < count; i++)
                method->finish(y, ldy, rows, m + i, w, p, at->y + i * NIB_PANEL);
        }
}
#endif
