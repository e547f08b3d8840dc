/* awq_v2: 4-bit weights as optimum-quanto hands them to its AWQ kernels for GPUs (llm-awq's second
 * packing, AutoAWQ's gemv_fast). Four rows share 16-bit words; a run of 64 columns of each is 64
 * words, those of row 0 the first 16 of them.
 *
 *   _data._data  i16 [rows / 4, cols]
 *     word (r, 64 b + 16 i + w):  row 4 r + i,  codes 4 w .. 4 w + 3 of its run b, lowest first,
 *     the columns of each 32 put in the order  0 8 16 24  1 9 17 25  2 10 18 26 ..  7 15 23 31
 *   _scale       f16 [cols / 128, rows]
 *   _shift       f16 [cols / 128, rows]      negated: the kernel adds it
 *
 * w = s q - z with z the shift of quanto_bits; the kernels want groups of 128 columns. */
#include "quant/codes.h"
#include "quant/layout_part.h"
#include "quant/nibbles.h"

enum { ROWS = 4, RUN = 64, GROUP = 128 };

static bool holds(const nib_qdesc *d) {
    return d->code == NIB_U4 && d->zero_kind == NIB_ZERO_SHIFT && d->math == NIB_F16 &&
           d->scale_dtype == NIB_F16 && d->zero_dtype == NIB_F16 && d->outer == 0.0f &&
           d->shape.ndim == 2 && d->rows % ROWS == 0 && d->block_rows == 1 &&
           d->block_cols == GROUP && d->cols % GROUP == 0;
}

static int parts(const nib_qdesc *d, nib_part part[NIB_MAX_PARTS]) {
    const nib_shape words = {2, {d->rows / ROWS, d->cols}};
    part[0] = nib_part_of(d, "_data._data", NIB_I16, 0, ROWS, words);
    part[1] = nib_part_across(d, "_scale", NIB_F16);
    part[2] = nib_part_across(d, "_shift", NIB_F16);
    return 3;
}

static int64_t place(const nib_qdesc *d, int64_t n, int64_t k) {
    const int64_t in_32 = k % 8 * 4 + k % 32 / 8, in_run = k % RUN / 32 * 32 + in_32;
    return (n / ROWS * d->cols + k / RUN * RUN) * 4 + n % ROWS * RUN + in_run;
}

static void pack(void *const part[], const nib_codes *c) {
    nib_nibbles_put(part[0], c, place, 0);
    nib_part_store_across(&c->desc, NIB_F16, part[1], c->scale);
    nib_part_store_across(&c->desc, NIB_F16, part[2], c->zero);
    uint16_t *shift = part[2];
    for (int64_t i = 0; i < nib_qdesc_blocks(&c->desc); i++) shift[i] ^= 0x8000;
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    nib_nibbles_get(c, part[0], d, row, place, 0);
    nib_part_load_across(d, NIB_F16, part[1], row, c->desc.rows, c->scale);
    nib_part_load_across(d, NIB_F16, part[2], row, c->desc.rows, c->zero);
    for (int64_t i = 0; i < nib_qdesc_blocks(&c->desc); i++) c->zero[i] = -c->zero[i];
}

const nib_layout nib_layout_awq_v2 = {
    .name = "awq_v2",
    .doc = "optimum-quanto's 4-bit weights for its AWQ kernels of GPUs: four rows interleaved",
    .wants = "uint4 codes with float16 scales and shifts, in groups of 128 columns of a matrix, "
             "rows a multiple of 4",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
