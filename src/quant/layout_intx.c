/* intx: B bits a code for B of 1 to 8, as dense as it gets; nibble's own.
 *
 *   qdata       u8 [rows, ceil(cols * B / 8)]   lowest bit first, each row from a byte on:
 *                                               B = 3:  | c2[1:0] c1 c0 | ... c2[2] | ...
 *   scale       f  [rows, cols / G]             f: as the descriptor says
 *   zero        z  [rows, cols / G]             only where there is one
 *
 * A row that ends inside a byte leaves its upper bits zero. Signed codes are two's complement. */
#include <string.h>

#include "base/bits.h"
#include "quant/codes.h"
#include "quant/layout_part.h"
#include "tensor/dtype.h"

static bool stored(nib_dtype dtype) {
    return dtype == NIB_F32 || dtype == NIB_F16 || dtype == NIB_BF16 || dtype == NIB_I8;
}

static bool holds(const nib_qdesc *d) {
    return nib_qdesc_integer(d) && nib_qdesc_bits(d) <= 8 && stored(d->scale_dtype) &&
           d->scale_dtype != NIB_I8 && (d->zero_kind == NIB_ZERO_NONE || stored(d->zero_dtype)) &&
           d->outer == 0;
}

static int64_t row_bytes(const nib_qdesc *d) {
    return (int64_t)nib_bits_size((size_t)d->cols, nib_qdesc_bits(d));
}

static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    parts[0] = nib_part_rows(d, "qdata", NIB_U8, row_bytes(d));
    parts[1] = nib_part_blocks(d, "scale", d->scale_dtype);
    if (d->zero_kind == NIB_ZERO_NONE) return 2;
    parts[2] = nib_part_blocks(d, "zero", d->zero_dtype);
    return 3;
}

static void pack(void *const part[], const nib_codes *c) {
    const nib_qdesc *d = &c->desc;
    const int bits = nib_qdesc_bits(d);
    const int64_t bytes = row_bytes(d);
    for (int64_t r = 0; r < d->rows; r++) {
        const uint8_t *q_r = (const uint8_t *)c->q + r * d->cols;
        uint8_t *b_r = (uint8_t *)part[0] + r * bytes;
        if (bits == 4)
            nib_codes_kernels()->pack_u4(b_r, q_r, (size_t)d->cols);
        else if (bits == 8)
            memcpy(b_r, q_r, (size_t)d->cols);
        else
            nib_bits_put(b_r, q_r, (size_t)d->cols, bits);
    }
    nib_part_store(d->scale_dtype, part[1], 0, c->scale, nib_qdesc_blocks(d));
    if (c->zero) nib_part_store(d->zero_dtype, part[2], 0, c->zero, nib_qdesc_blocks(d));
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    const int bits = nib_qdesc_bits(d);
    const int64_t bytes = row_bytes(d);
    const uint8_t sign = (uint8_t)(nib_qdesc_signed(d) ? 1 << (bits - 1) : 0);
    for (int64_t r = 0; r < c->desc.rows; r++) {
        uint8_t *q_r = (uint8_t *)c->q + r * d->cols;
        const uint8_t *b_r = (const uint8_t *)part[0] + (row + r) * bytes;
        if (bits == 4)
            nib_codes_kernels()->unpack_u4(q_r, b_r, (size_t)d->cols);
        else if (bits == 8)
            memcpy(q_r, b_r, (size_t)d->cols);
        else
            nib_codes_kernels()->unpack_bits(q_r, b_r, (size_t)d->cols, bits);
        for (int64_t i = 0; sign && bits < 8 && i < d->cols; i++)
            q_r[i] = (uint8_t)((q_r[i] ^ sign) - sign);
    }
    nib_part_load_blocks(d, d->scale_dtype, part[1], row, c->desc.rows, c->scale);
    if (c->zero) nib_part_load_blocks(d, d->zero_dtype, part[2], row, c->desc.rows, c->zero);
}

const nib_layout nib_layout_intx = {
    .name = "intx",
    .doc = "nibble's own: codes of 1 to 8 bits without gaps",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
