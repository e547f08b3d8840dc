/* lanes_panel.c: bytes of sixteen rows, four a word, are laid side by side as pack_f32 lays floats;
 * lines and sums of codes are made of these words. */
#include "quant/lanes_panel.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "quant/codes.h"

enum {
    BLOCK = 1024,      /* columns laid side by side at once: 16 KiB of words */
    WORDS = BLOCK / 4, /* of each channel */
    CELL = 64,         /* bytes of a line */
};

/* Products of floats are exact in double; where their sums are too, rounding them once is the fma,
 * and nothing need be called. */
void nib_lanes_multiply_add(float *acc, const float *x, const float *y) {
    double sum[NIB_PANEL], lost[NIB_PANEL];
    bool exact = true;
    for (int c = 0; c < NIB_PANEL; c++) {
        const double product = (double)x[c] * (double)y[c], add = (double)acc[c];
        const double whole = product + add, part = whole - product;
        sum[c] = whole;
        lost[c] = (product - (whole - part)) + (add - part);
    }
    for (int c = 0; c < NIB_PANEL; c++) exact &= lost[c] == 0.0; /* NaN and infinity are not */
    if (exact) {
        for (int c = 0; c < NIB_PANEL; c++) acc[c] = (float)sum[c];
        return;
    }
    for (int c = 0; c < NIB_PANEL; c++) acc[c] = fmaf(x[c], y[c], acc[c]);
}

/* Words of columns [k, k + n) of a panel: what is not there has code `mid`. */
static void lay_words(const nib_panel_kind *kind, const nib_codes *codes, int64_t row, int64_t k,
                      int64_t n, uint32_t *words) {
    const nib_qdesc *d = &codes->desc;
    const uint8_t *q = (const uint8_t *)codes->q + row * d->cols + k;
    const int64_t rows = d->rows - row < NIB_PANEL ? d->rows - row : NIB_PANEL;
    const int64_t there = d->cols - k < n ? d->cols - k : n;
    const nib_kernels *kernels = nib_codes_kernels();
    if (rows == NIB_PANEL && there == n && d->cols % 4 == 0 && (uintptr_t)q % 4 == 0) {
        kernels->pack_f32((float *)(void *)words, (const float *)(const void *)q, d->cols / 4,
                          NIB_PANEL, n / 4);
        return;
    }
    float held[NIB_PANEL * WORDS];
    for (int64_t r = 0; r < NIB_PANEL; r++) {
        memset(held + r * WORDS, kind->mid ^ kind->bias, BLOCK);
        if (r < rows) memcpy(held + r * WORDS, q + r * d->cols, (size_t)there);
    }
    kernels->pack_f32((float *)(void *)words, held, WORDS, NIB_PANEL, n / 4);
}

/* A group of so many columns ends: correction = fma(scale, sum of c), then fma(offset, columns). */
static void end_group(const nib_panel_kind *kind, const nib_codes *codes, int64_t row, int64_t g,
                      int64_t columns, const int32_t sums[NIB_PANEL], float *correction) {
    const nib_qdesc *d = &codes->desc;
    const int64_t groups = nib_qdesc_block_cols(d);
    float scale[NIB_PANEL] = {0}, sum[NIB_PANEL], offset[NIB_PANEL] = {0}, all[NIB_PANEL];
    for (int64_t c = 0; c < NIB_PANEL; c++) {
        sum[c] = (float)(int32_t)(sums[c] - kind->mid * columns);
        all[c] = (float)columns;
        if (row + c >= d->rows) continue;
        const int64_t block = (row + c) / d->block_rows * groups + g;
        scale[c] = codes->scale[block];
        offset[c] = nib_codes_offset(codes, block);
    }
    nib_lanes_multiply_add(correction, scale, sum);
    if (d->zero_kind != NIB_ZERO_NONE) nib_lanes_multiply_add(correction, offset, all);
}

void nib_lanes_panel(const nib_panel_kind *kind, const nib_codes *codes, int64_t row,
                     uint8_t *panel, float *correction) {
    const nib_qdesc *d = &codes->desc;
    const nib_kernels *kernels = nib_codes_kernels();
    const int64_t groups = nib_qdesc_block_cols(d), G = groups == 1 ? d->cols : d->block_cols;
    const int64_t step = 32 / kind->bits; /* columns of a line */
    const uint32_t flip = 0x01010101u * (uint32_t)kind->bias;
    const bool floats = kind->lane == NIB_LANE_F8;
    _Alignas(NIB_MEM_ALIGN) uint32_t words[WORDS * NIB_PANEL]; /* bits that are moved, no floats */
    float acc[NIB_PANEL] = {0};
    int32_t sums[NIB_PANEL] = {0};
    int64_t g = 0;
    for (int64_t k = 0; k < kind->columns; k += BLOCK) {
        const int64_t n = kind->columns - k < BLOCK ? kind->columns - k : BLOCK;
        lay_words(kind, codes, row, k, n, words);
        for (int64_t at = 0, here; at < n; at += here, panel += here / step * CELL) {
            const int64_t left = (g + 1) * G - k - at; /* the last group has what fills a cell */
            here = !floats && g + 1 < groups && left < n - at ? left : n - at;
            kernels->lay_lines(panel, words + at / 4 * NIB_PANEL, here / step, kind->lane, flip, 0,
                               sums);
            if (here < left || floats) continue;
            for (int c = 0; c < NIB_PANEL; c++) sums[c] -= kind->mid * (int32_t)(here - left);
            end_group(kind, codes, row, g++, G, sums, acc);
            memset(sums, 0, sizeof sums);
        }
    }
    kernels->lines_laid();
    for (int64_t c = 0; c < NIB_PANEL; c++) correction[c] = row + c < d->rows ? acc[c] : 0.0f;
}
