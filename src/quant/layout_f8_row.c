/* f8_row: torchao's Float8Tensor. One byte a code, one f32 scale a block.
 *
 *   qdata  f8  [rows, cols]
 *   scale  f32 [rows, cols / G]        G = cols for a scale a row; [1, 1] for one in all */
#include <string.h>

#include "quant/codes.h"
#include "quant/layout_part.h"

static bool holds(const nib_qdesc *d) {
    return (d->code == NIB_F8_E4M3FN || d->code == NIB_F8_E5M2 || d->code == NIB_F8_E4M3FNUZ ||
            d->code == NIB_F8_E5M2FNUZ) &&
           d->scale_dtype == NIB_F32 && d->zero_kind == NIB_ZERO_NONE && nib_qdesc_stack(d);
}

static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    parts[0] = nib_part_rows(d, "qdata", d->code, d->cols);
    parts[1] = nib_part_blocks(d, "scale", NIB_F32);
    return 2;
}

static void pack(void *const part[], const nib_codes *c) {
    memcpy(part[0], c->q, (size_t)(c->desc.rows * c->desc.cols));
    nib_part_store(NIB_F32, part[1], 0, c->scale, nib_qdesc_blocks(&c->desc));
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    memcpy(c->q, (const uint8_t *)part[0] + row * d->cols, (size_t)(c->desc.rows * d->cols));
    nib_part_load_blocks(d, NIB_F32, part[1], row, c->desc.rows, c->scale);
}

const nib_layout nib_layout_f8_row = {
    .name = "f8_row",
    .doc = "torchao's Float8Tensor: fp8 codes, f32 scales",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
