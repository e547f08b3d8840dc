/* lanes_bits.c: sixteen rows of bytes, four bytes a word, are laid side by side as pack_f32 lays
 * floats; then the words of a panel are the nibbles (or pairs of bits) of neighbouring lines,
 * shifted into each other. Sums of codes come of the same words. */
#include "quant/lanes_bits.h"

#include <math.h>
#include <string.h>

#include "kernel/kernel.h"
#include "quant/codes.h"
#include "quant/layout_part.h"
#include "quant/layouts.h"

enum {
    BLOCK = 1024,      /* columns laid side by side at once: 16 KiB of words */
    WORDS = BLOCK / 4, /* of each channel */
    SPELL = 64,        /* columns whose codes of 4 bits add up in a byte */
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

/* Sums of four codes that lie in each word. */
static void add_sums(int64_t sums[NIB_PANEL], const uint32_t words[NIB_PANEL]) {
    for (int c = 0; c < NIB_PANEL; c++) {
        const uint32_t pairs = (words[c] & 0xff00ff) + (words[c] >> 8 & 0xff00ff);
        sums[c] += (pairs & 0xffff) + (pairs >> 16);
    }
}

/* The lines of both bands from so many columns of words [columns / 4, 16], and what the codes of
 * each channel add up to. */
static void open_words4(const float *words, int64_t columns, uint8_t *const to[],
                        int64_t sums[MOST_BANDS][NIB_PANEL]) {
    const uint32_t mask = 0x0f0f0f0f;
    uint32_t lows[NIB_PANEL] = {0}, highs[NIB_PANEL] = {0}; /* four sums a word, one a byte */
    for (int64_t k = 0; k < columns / 8; k++, words += 2 * NIB_PANEL) {
        uint32_t low[NIB_PANEL], high[NIB_PANEL];
        for (int c = 0; c < NIB_PANEL; c++) {
            uint32_t one, two; /* bits that are moved, no numbers */
            memcpy(&one, words + c, sizeof one);
            memcpy(&two, words + NIB_PANEL + c, sizeof two);
            const uint32_t a = one & mask, b = two & mask;
            const uint32_t x = one >> 4 & mask, y = two >> 4 & mask;
            low[c] = a | b << 4;
            high[c] = x | y << 4;
            lows[c] += a + b;
            highs[c] += x + y;
        }
        memcpy(to[0] + k * CELL, low, CELL);
        memcpy(to[1] + k * CELL, high, CELL);
    }
    add_sums(sums[0], lows);
    add_sums(sums[1], highs);
}

/* The same of one of four bands. */
static inline void open_band2(int band, const float *words, int64_t columns, uint8_t *to,
                              int64_t sums[NIB_PANEL]) {
    const uint32_t mask = 0x03030303;
    uint32_t sum[NIB_PANEL] = {0};
    for (int64_t k = 0; k < columns / 16; k++, words += 4 * NIB_PANEL) {
        uint32_t w[4 * NIB_PANEL], cell[NIB_PANEL];
        memcpy(w, words, sizeof w);
        for (int c = 0; c < NIB_PANEL; c++) {
            const uint32_t a = w[c] >> 2 * band & mask, b = w[NIB_PANEL + c] >> 2 * band & mask;
            const uint32_t x = w[2 * NIB_PANEL + c] >> 2 * band & mask;
            const uint32_t y = w[3 * NIB_PANEL + c] >> 2 * band & mask;
            cell[c] = a | b << 2 | x << 4 | y << 6;
            sum[c] += a + b + x + y;
        }
        memcpy(to + k * CELL, cell, CELL);
    }
    add_sums(sums, sum);
}
static void open_words2(const float *words, int64_t columns, uint8_t *const to[],
                        int64_t sums[MOST_BANDS][NIB_PANEL]) {
    for (int b = 0; b < MOST_BANDS; b++) open_band2(b, words, columns, to[b], sums[b]);
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

/* acc = fma(x, y, acc) of 16 channels. Products of floats are exact in double; where their sums are
 * too, rounding them once is the fma, and nothing need be called. */
static void multiply_add(float *acc, const float *x, const float *y) {
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

/* A panel of each band that is being made. */
typedef struct panels {
    const nib_qdesc *desc;
    int bands;
    const void *const *from;
    void *const *to;
    int64_t row[MOST_BANDS]; /* of the matrix */
    uint8_t *lanes[MOST_BANDS];
    float correction[MOST_BANDS][NIB_PANEL];
    int64_t sums[MOST_BANDS][NIB_PANEL]; /* of a group's codes so far */
    float scale[MOST_BANDS][GROUPS * NIB_PANEL], shift[MOST_BANDS][GROUPS * NIB_PANEL];
} panels;

/* A group ends: the i-th of those whose values are at hand. */
static void end_group(panels *p, int64_t i, int64_t columns) {
    for (int b = 0; b < p->bands; b++) {
        float sum[NIB_PANEL], offset[NIB_PANEL], all[NIB_PANEL];
        for (int c = 0; c < NIB_PANEL; c++) {
            sum[c] = (float)(int32_t)p->sums[b][c];
            offset[c] = -p->shift[b][i * NIB_PANEL + c];
            all[c] = (float)columns;
        }
        multiply_add(p->correction[b], p->scale[b] + i * NIB_PANEL, sum);
        multiply_add(p->correction[b], offset, all);
    }
    memset(p->sums, 0, sizeof p->sums);
}

/* Columns [k, k + n) whose words are at hand; groups end inside of them or at their end. */
static void open_block(panels *p, const float *words, int64_t k, int64_t n) {
    const nib_qdesc *d = p->desc;
    const int64_t G = d->block_cols, bits = nib_qdesc_bits(d), first = k / G;
    const int64_t count = (k + n - 1) / G + 1 - first;
    for (int b = 0; b < p->bands; b++) {
        lay_values(d, p->from[1], p->to[1], p->row[b], first, count, p->scale[b]);
        lay_values(d, p->from[2], p->to[2], p->row[b], first, count, p->shift[b]);
    }
    for (int64_t at = k, here; at < k + n; at += here) {
        const int64_t in_group = G - at % G, left = k + n - at;
        here = SPELL < left ? SPELL : left;
        if (here > in_group) here = in_group;
        (bits == 4 ? open_words4 : open_words2)(words + (at - k) / 4 * NIB_PANEL, here, p->lanes,
                                                p->sums);
        for (int b = 0; b < p->bands; b++) p->lanes[b] += here * bits / 32 * CELL;
        if (here == in_group) end_group(p, at / G - first, G);
    }
}

void nib_lanes_bits(const nib_qdesc *d, const void *const from[], void *const to[], int64_t row,
                    int64_t rows) {
    const nib_kernels *k = nib_codes_kernels();
    const int bands = 8 / nib_qdesc_bits(d);
    const int64_t band = d->rows / bands, size = d->cols * NIB_PANEL * nib_qdesc_bits(d) / 8;
    float words[WORDS * NIB_PANEL];
    for (int64_t r = row; r < row + rows; r += NIB_PANEL) {
        panels p = {.desc = d, .bands = bands, .from = from, .to = to};
        for (int b = 0; b < bands; b++) {
            p.row[b] = b * band + r;
            p.lanes[b] = (uint8_t *)to[0] + p.row[b] / NIB_PANEL * size;
        }
        const char *bytes = (const char *)from[0] + r * d->cols;
        for (int64_t at = 0; at < d->cols; at += BLOCK) {
            const int64_t n = d->cols - at < BLOCK ? d->cols - at : BLOCK;
            k->pack_f32(words, (const float *)(const void *)(bytes + at), d->cols / 4, NIB_PANEL,
                        n / 4);
            open_block(&p, words, at, n);
        }
        for (int b = 0; b < bands; b++)
            memcpy((float *)to[3] + p.row[b], p.correction[b], sizeof p.correction[b]);
    }
}
