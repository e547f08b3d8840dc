/* int8_row: torchao's Int8Tensor. One byte a code, one f32 scale a block, and a zero point that is
 * written even where it is always 0.
 *
 *   qdata       i8  [rows, cols]            | q0 | q1 | q2 | ...     signed
 *   scale       f32 [rows, cols / G]        G = cols for a scale a row; [1, 1] for one in all
 *   zero_point  i8  like scale */
#include <string.h>

#include "quant/codes.h"
#include "quant/layout_part.h"

static bool holds(const nib_qdesc *d) {
    return d->code == NIB_I8 && d->scale_dtype == NIB_F32 && nib_qdesc_stack(d) &&
           (d->zero_kind == NIB_ZERO_NONE ||
            (d->zero_kind == NIB_ZERO_POINT && d->zero_dtype == NIB_I8));
}

static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    parts[0] = nib_part_rows(d, "qdata", NIB_I8, d->cols);
    parts[1] = nib_part_blocks(d, "scale", NIB_F32);
    parts[2] = nib_part_blocks(d, "zero_point", NIB_I8);
    return 3;
}

static void pack(void *const part[], const nib_codes *c) {
    const int64_t blocks = nib_qdesc_blocks(&c->desc);
    memcpy(part[0], c->q, (size_t)(c->desc.rows * c->desc.cols));
    nib_part_store(NIB_F32, part[1], 0, c->scale, blocks);
    if (c->zero)
        nib_part_store(NIB_I8, part[2], 0, c->zero, blocks);
    else
        memset(part[2], 0, (size_t)blocks);
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    const int64_t rows = c->desc.rows;
    memcpy(c->q, (const int8_t *)part[0] + row * d->cols, (size_t)(rows * d->cols));
    nib_part_load_blocks(d, NIB_F32, part[1], row, rows, c->scale);
    if (c->zero) nib_part_load_blocks(d, NIB_I8, part[2], row, rows, c->zero);
}

const nib_layout nib_layout_int8_row = {
    .name = "int8_row",
    .doc = "torchao's Int8Tensor: int8 codes, f32 scales, int8 zero points",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
