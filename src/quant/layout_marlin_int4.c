/* marlin_int4: 4-bit weights as optimum-quanto hands them to its fork of the Marlin kernel for
 * GPUs, which adds a shift.
 *
 *   _data._data  i32 [cols / 16, 2 rows]    a word is a piece of marlin.h, its eight values from
 *                                           the lowest 4 bits up: | 7 | 5 | 3 | 1 | 6 | 4 | 2 | 0 |
 *   _scale       f16 [cols / 128, rows]     rows in the order of marlin.h
 *   _shift       f16 [cols / 128, rows]     negated, in the same order
 *
 * w = s q - z with z the shift of quanto_bits. Rows of 64 share a tile and columns come first, so
 * that all rows are packed at once. */
#include "quant/codes.h"
#include "quant/layout_part.h"
#include "quant/marlin.h"
#include "quant/nibbles.h"

enum { GROUP = 128 };

static bool holds(const nib_qdesc *d) {
    return d->code == NIB_U4 && d->zero_kind == NIB_ZERO_SHIFT && d->math == NIB_F16 &&
           d->scale_dtype == NIB_F16 && d->zero_dtype == NIB_F16 && d->outer == 0.0f &&
           d->shape.ndim == 2 && d->rows % NIB_MARLIN_ROWS == 0 && d->block_rows == 1 &&
           d->block_cols == GROUP && d->cols % GROUP == 0;
}

static int parts(const nib_qdesc *d, nib_part part[NIB_MAX_PARTS]) {
    part[0] = (nib_part){.suffix = "_data._data",
                         .dtype = NIB_I32,
                         .shape = {2, {d->cols / NIB_MARLIN_COLS, 2 * d->rows}},
                         .row_dim = NIB_ROWS_FLAT};
    part[1] = nib_part_across(d, "_scale", NIB_F16);
    part[2] = nib_part_across(d, "_shift", NIB_F16);
    return 3;
}

static int64_t place(const nib_qdesc *d, int64_t n, int64_t k) {
    return nib_marlin_piece(d->rows, n, k) * 8 + nib_nibble_interleaved(nib_marlin_value(n, k));
}

static int64_t scale_at(const nib_qdesc *d, int64_t n, int64_t g) {
    return g * d->rows + nib_marlin_scale(n, d->cols > GROUP);
}

static void pack(void *const part[], const nib_codes *c) {
    const nib_qdesc *d = &c->desc;
    const int64_t groups = nib_qdesc_block_cols(d);
    nib_nibbles_put(part[0], c, place, 0);
    for (int64_t n = 0; n < d->rows; n++)
        for (int64_t g = 0; g < groups; g++) {
            const float shift = -c->zero[n * groups + g];
            nib_part_store(NIB_F16, part[1], scale_at(d, n, g), &c->scale[n * groups + g], 1);
            nib_part_store(NIB_F16, part[2], scale_at(d, n, g), &shift, 1);
        }
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    const int64_t groups = nib_qdesc_block_cols(d);
    float *scale = c->scale, *zero = c->zero;
    nib_nibbles_get(c, part[0], d, row, place, 0);
    for (int64_t n = row; n < row + c->desc.rows; n++)
        for (int64_t g = 0; g < groups; g++, scale++, zero++) {
            nib_part_load(NIB_F16, part[1], scale_at(d, n, g), scale, 1);
            nib_part_load(NIB_F16, part[2], scale_at(d, n, g), zero, 1);
            *zero = -*zero;
        }
}

static int bands(const nib_qdesc *d) {
    (void)d;
    return 0;
}

const nib_layout nib_layout_marlin_int4 = {
    .name = "marlin_int4",
    .doc = "optimum-quanto's 4-bit weights for its Marlin kernel of GPUs: tiles of tensor cores",
    .wants = "uint4 codes with float16 scales and shifts, in groups of 128 columns of a matrix, "
             "rows a multiple of 64",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
    .bands = bands,
};
