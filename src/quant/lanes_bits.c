/* lanes_bits.c: sixteen rows of bytes, four bytes a word, are laid side by side as pack_f32 lays
 * floats; then the words of a panel are the nibbles (or pairs of bits) of neighbouring lines,
 * shifted into each other. Sums of codes come of the same words. */
#include "quant/lanes_bits.h"

#include <string.h>

#include "kernel/kernel.h"
#include "quant/codes.h"
#include "quant/lanes_panel.h"
#include "quant/layout_part.h"
#include "quant/layouts.h"

enum {
    BLOCK = 1024,      /* columns laid side by side at once: 16 KiB of words */
    WORDS = BLOCK / 4, /* of each channel */
    CELL = 64,         /* bytes of a cell of all channels */
    MOST_BANDS = 4,    /* codes of a byte */
    LEAST_GROUP = 32,  /* columns, which all lanes ask for */
    GROUPS = BLOCK / LEAST_GROUP,
};

bool nib_lanes_bits_fit(const nib_qdesc *d, const void *const from[]) {
    const int bits = nib_qdesc_bits(d), bands = 8 / bits;
    return (bits == 4 || bits == 2) && d->shape.ndim == 2 && d->block_rows == 1 &&
           d->zero_kind == NIB_ZERO_SHIFT && d->rows % (bands * NIB_PANEL) == 0 &&
           d->cols % (4 * bands) == 0 && (uintptr_t)from[0] % 4 == 0 &&
           (d->block_cols == d->cols || d->block_cols % LEAST_GROUP == 0);
}

/* Values of groups [g, g + n) of 16 rows, laid side by side, as f32 and where they go. */
static void lay_values(const nib_qdesc *d, const void *from, void *to, int64_t row, int64_t g,
                       int64_t n, float *values) {
    const int64_t groups = nib_qdesc_block_cols(d), first = row * groups + g;
    const int64_t place = (row / NIB_PANEL * groups + g) * NIB_PANEL;
    if (d->scale_dtype == NIB_F32) {
        for (int64_t i = 0; i < n; i++)
            for (int64_t c = 0; c < NIB_PANEL; c++)
                memcpy(values + i * NIB_PANEL + c,
                       (const char *)from + (size_t)(first + c * groups + i) * 4, 4);
    } else {
        uint16_t halves[GROUPS * NIB_PANEL];
        for (int64_t i = 0; i < n; i++)
            for (int64_t c = 0; c < NIB_PANEL; c++)
                memcpy(halves + i * NIB_PANEL + c,
                       (const char *)from + (size_t)(first + c * groups + i) * 2, 2);
        nib_part_load(d->scale_dtype, halves, 0, values, n * NIB_PANEL);
        bool numbers = true; /* which come back as they were; what a NaN is may change */
        for (int64_t i = 0; i < n * NIB_PANEL; i++) numbers &= values[i] == values[i];
        if (numbers) {
            memcpy((char *)to + (size_t)place * 2, halves, (size_t)(n * NIB_PANEL) * 2);
            return;
        }
    }
    nib_part_store(d->scale_dtype, to, place, values, n * NIB_PANEL);
}

/* A panel of each band that is being made. */
typedef struct panels {
    const nib_qdesc *desc;
    int bands;
    const void *const *from;
    void *const *to;
    int64_t row[MOST_BANDS]; /* of the matrix */
    uint8_t *lanes[MOST_BANDS];
    float correction[MOST_BANDS][NIB_PANEL];
    int32_t sums[MOST_BANDS][NIB_PANEL]; /* of a group's codes so far */
    float scale[MOST_BANDS][GROUPS * NIB_PANEL], shift[MOST_BANDS][GROUPS * NIB_PANEL];
} panels;

/* A group ends: the i-th of those whose values are at hand. */
static void end_group(panels *p, int64_t i, int64_t columns) {
    for (int b = 0; b < p->bands; b++) {
        float sum[NIB_PANEL], offset[NIB_PANEL], all[NIB_PANEL];
        for (int c = 0; c < NIB_PANEL; c++) {
            sum[c] = (float)p->sums[b][c];
            offset[c] = -p->shift[b][i * NIB_PANEL + c];
            all[c] = (float)columns;
        }
        nib_lanes_multiply_add(p->correction[b], p->scale[b] + i * NIB_PANEL, sum);
        nib_lanes_multiply_add(p->correction[b], offset, all);
    }
    memset(p->sums, 0, sizeof p->sums);
}

/* Columns [k, k + n) whose words are at hand; groups end inside of them or at their end. */
static void open_block(panels *p, const uint32_t *words, int64_t k, int64_t n) {
    const nib_qdesc *d = p->desc;
    const int64_t G = d->block_cols, bits = nib_qdesc_bits(d), first = k / G;
    const int64_t count = (k + n - 1) / G + 1 - first;
    for (int b = 0; b < p->bands; b++) {
        lay_values(d, p->from[1], p->to[1], p->row[b], first, count, p->scale[b]);
        lay_values(d, p->from[2], p->to[2], p->row[b], first, count, p->shift[b]);
    }
    for (int64_t at = k, here; at < k + n; at += here) {
        const int64_t in_group = G - at % G, left = k + n - at;
        here = in_group < left ? in_group : left;
        for (int b = 0; b < p->bands; b++) {
            const int64_t lines = here * bits / 32;
            nib_codes_kernels()->lay_lines(p->lanes[b], words + (at - k) / 4 * NIB_PANEL, lines,
                                           bits == 4 ? NIB_LANE_W4 : NIB_LANE_W2, 0, (int)bits * b,
                                           p->sums[b]);
            p->lanes[b] += lines * CELL;
        }
        if (here == in_group) end_group(p, at / G - first, G);
    }
}

void nib_lanes_bits(const nib_qdesc *d, const void *const from[], void *const to[], int64_t row,
                    int64_t rows) {
    const nib_kernels *k = nib_codes_kernels();
    const int bands = 8 / nib_qdesc_bits(d);
    const int64_t band = d->rows / bands, size = d->cols * NIB_PANEL * nib_qdesc_bits(d) / 8;
    uint32_t words[WORDS * NIB_PANEL]; /* bits that are moved, no floats */
    for (int64_t r = row; r < row + rows; r += NIB_PANEL) {
        panels p = {.desc = d, .bands = bands, .from = from, .to = to};
        for (int b = 0; b < bands; b++) {
            p.row[b] = b * band + r;
            p.lanes[b] = (uint8_t *)to[0] + p.row[b] / NIB_PANEL * size;
        }
        const char *bytes = (const char *)from[0] + r * d->cols;
        for (int64_t at = 0; at < d->cols; at += BLOCK) {
            const int64_t n = d->cols - at < BLOCK ? d->cols - at : BLOCK;
            k->pack_f32((float *)(void *)words, (const float *)(const void *)(bytes + at),
                        d->cols / 4, NIB_PANEL, n / 4);
            open_block(&p, words, at, n);
        }
        for (int b = 0; b < bands; b++)
            memcpy((float *)to[3] + p.row[b], p.correction[b], sizeof p.correction[b]);
    }
    k->lines_laid();
}
