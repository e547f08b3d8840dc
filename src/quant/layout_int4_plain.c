/* int4_plain: torchao's Int4Tensor. Two signed codes a byte, even column in the low half; scales
 * and zeros transposed, so that a kernel that walks along columns reads those of all rows at once.
 *
 *   qdata       i8 [rows, cols / 2]         | c1 c0 | c3 c2 | ...    two's complement nibbles
 *   scale       f  [cols / G, rows]         f: the weight's dtype
 *   zero_point  f  [cols / G, rows]         w = s c + z */
#include "quant/codes.h"
#include "quant/layout_part.h"

static bool holds(const nib_qdesc *d) {
    return d->code == NIB_I4 && d->zero_kind == NIB_ZERO_MID && d->block_rows == 1 &&
           d->cols % d->block_cols == 0 && d->cols % 2 == 0 && d->zero_dtype == d->scale_dtype &&
           (d->scale_dtype == NIB_F32 || d->scale_dtype == NIB_F16 || d->scale_dtype == NIB_BF16);
}

static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    parts[0] = nib_part_rows(d, "qdata", NIB_I8, d->cols / 2);
    parts[1] = nib_part_across(d, "scale", d->scale_dtype);
    parts[2] = nib_part_across(d, "zero_point", d->zero_dtype);
    return 3;
}

static void pack(void *const part[], const nib_codes *c) {
    nib_codes_kernels()->pack_u4(part[0], c->q, (size_t)(c->desc.rows * c->desc.cols));
    nib_part_store_across(&c->desc, c->desc.scale_dtype, part[1], c->scale);
    nib_part_store_across(&c->desc, c->desc.zero_dtype, part[2], c->zero);
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    const size_t count = (size_t)(c->desc.rows * d->cols);
    uint8_t *q = c->q;
    nib_codes_kernels()->unpack_u4(q, (const uint8_t *)part[0] + row * d->cols / 2, count);
    for (size_t i = 0; i < count; i++) q[i] = (uint8_t)((q[i] ^ 8) - 8); /* 8..15 are -8..-1 */
    nib_part_load_across(d, d->scale_dtype, part[1], row, c->desc.rows, c->scale);
    nib_part_load_across(d, d->zero_dtype, part[2], row, c->desc.rows, c->zero);
}

const nib_layout nib_layout_int4_plain = {
    .name = "int4_plain",
    .doc = "torchao's Int4Tensor: two codes a byte, scales and zeros transposed",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
