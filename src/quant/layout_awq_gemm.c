/* awq_gemm: 4-bit weights in AutoAWQ's checkpoints, version "gemm". Columns come first: a word
 * holds the codes that one column has in eight rows.
 *
 *   qweight  i32 [cols, rows / 8]      rows 8 r .. 8 r + 7, bit 31 .. 0: | 7 5 3 1 6 4 2 0 |
 *   qzeros   i32 [cols / G, rows / 8]  zero points, in the same order
 *   scales   f16 [cols / G, rows]
 *
 * w = s (q - z), q and z in 0..15; signed codes and their points lie 8 higher here. */
#include <string.h>

#include "quant/codes.h"
#include "quant/layout_part.h"
#include "quant/nibbles.h"

enum { ROWS = 8 };

static bool holds(const nib_qdesc *d) {
    return (d->code == NIB_U4 || d->code == NIB_I4) && d->zero_kind == NIB_ZERO_POINT &&
           d->math == NIB_F16 && d->scale_dtype == NIB_F16 && d->zero_dtype == NIB_I8 &&
           d->outer == 0.0f && d->shape.ndim == 2 && d->rows % ROWS == 0 && d->block_rows == 1 &&
           d->cols % d->block_cols == 0;
}

static int parts(const nib_qdesc *d, nib_part part[NIB_MAX_PARTS]) {
    const nib_shape codes = {2, {d->cols, d->rows / ROWS}};
    const nib_shape zeros = {2, {nib_qdesc_block_cols(d), d->rows / ROWS}};
    part[0] = nib_part_of(d, "qweight", NIB_I32, 1, ROWS, codes);
    part[1] = nib_part_of(d, "qzeros", NIB_I32, 1, ROWS, zeros);
    part[2] = nib_part_across(d, "scales", NIB_F16);
    return 3;
}

static int64_t place(const nib_qdesc *d, int64_t n, int64_t k) {
    return k * d->rows + n / ROWS * ROWS + nib_nibble_interleaved((int)(n % ROWS));
}

static int bias(const nib_qdesc *d) { return nib_qdesc_signed(d) ? 8 : 0; }

static void pack(void *const part[], const nib_codes *c) {
    const nib_qdesc *d = &c->desc;
    const int64_t groups = nib_qdesc_block_cols(d);
    nib_nibbles_put(part[0], c, place, bias(d));
    uint8_t *zeros = part[1];
    memset(zeros, 0, (size_t)(groups * d->rows / 2));
    for (int64_t n = 0; n < d->rows; n++)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t at = place(d, n, g);
            const int point = ((int)c->zero[n * groups + g] + bias(d)) & 15;
            zeros[at / 2] |= (uint8_t)(at % 2 ? point << 4 : point);
        }
    nib_part_store_across(d, NIB_F16, part[2], c->scale);
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    const int64_t groups = nib_qdesc_block_cols(d);
    const uint8_t *zeros = part[1];
    float *zero = c->zero;
    nib_nibbles_get(c, part[0], d, row, place, bias(d));
    for (int64_t n = row; n < row + c->desc.rows; n++)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t at = place(d, n, g);
            *zero++ = (float)((at % 2 ? zeros[at / 2] >> 4 : zeros[at / 2] & 15) - bias(d));
        }
    nib_part_load_across(d, NIB_F16, part[2], row, c->desc.rows, c->scale);
}

const nib_layout nib_layout_awq_gemm = {
    .name = "awq_gemm",
    .doc = "AutoAWQ's 4-bit weights, version gemm: eight rows of a column in a word",
    .wants = "4-bit codes with float16 scales and zero points, in groups of columns of a matrix, "
             "rows a multiple of 8",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
