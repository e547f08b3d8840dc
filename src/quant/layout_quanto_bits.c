/* quanto_bits: 4- and 2-bit codes as optimum-quanto packs them, along the rows.
 *
 * The weight is seen as a matrix of groups [R, G]: each row cut into runs of G columns (G is all
 * of them where it is not grouped). The R groups are cut into v = 8 / bits equal planes of
 * P = ceil(R / v); byte (p, c) holds column c of group p of every plane, the first lowest:
 *
 *   4 bits   | group p + P              | group p     |     2 bits   | p + 3P | p + 2P | p + P | p
 * | 7 .. 4                     3 .. 0                       7 6      5 4      3 2     1 0
 *
 *   _data._data   [P, G]; where not grouped the first dimension of the weight's shape becomes P
 *   _scale        [R, 1], of the weight's rank where not grouped
 *   _shift        the same
 * Groups that the last plane lacks are zero bits. Row-major codes make it simpler than it looks:
 * byte j holds codes j, j + PG, j + 2PG ... of the flat matrix.
 *
 * Rows far apart share bytes. Where v divides the rows, row n of each v-th of the matrix does,
 * and those can be packed by themselves: v bands. Otherwise a plane ends inside a v-th, and all
 * rows are needed at once. */
#include <string.h>

#include "quant/codes.h"
#include "quant/layout_part.h"
#include "quant/quanto.h"

typedef struct planes {
    int bits, count;
    int64_t codes, span; /* of all planes together, and of one */
    uint8_t mask;
} planes;

static planes planes_of(const nib_qdesc *desc) {
    planes p = {.bits = desc->code == NIB_U4 ? 4 : 2};
    p.count = 8 / p.bits;
    p.mask = (uint8_t)((1 << p.bits) - 1);
    const int64_t groups = nib_qdesc_blocks(desc);
    p.codes = desc->rows * desc->cols;
    p.span = (groups + p.count - 1) / p.count * desc->block_cols;
    return p;
}

static bool holds(const nib_qdesc *desc) {
    return (desc->code == NIB_U4 || desc->code == NIB_U2) && desc->zero_kind == NIB_ZERO_SHIFT &&
           desc->outer == 0.0f && desc->scale_dtype == desc->math &&
           desc->zero_dtype == desc->math && nib_quanto_math(desc->math) && desc->block_rows == 1 &&
           desc->block_cols > 0 && desc->cols % desc->block_cols == 0;
}

static int parts(const nib_qdesc *desc, nib_part part[NIB_MAX_PARTS]) {
    const planes p = planes_of(desc);
    const int64_t groups = nib_qdesc_blocks(desc);
    nib_shape data = {.ndim = 2, .dim = {p.span / desc->block_cols, desc->block_cols}};
    nib_shape scale = {.ndim = 2, .dim = {groups, 1}};
    if (desc->block_cols == desc->cols) {
        scale = nib_quanto_row_shape(desc);
        if (scale.dim[0] == desc->rows) { /* else a stack of matrices: stays flat */
            data = desc->shape;
            data.dim[0] = p.span / desc->block_cols;
        }
    }
    part[0] = (nib_part){.suffix = "_data._data",
                         .dtype = NIB_U8,
                         .shape = data,
                         .row_dim = NIB_ROWS_FLAT,
                         .banded = true};
    part[1] = (nib_part){
        .suffix = "_scale", .dtype = desc->scale_dtype, .shape = scale, .row_dim = NIB_ROWS_FLAT};
    part[2] = (nib_part){
        .suffix = "_shift", .dtype = desc->zero_dtype, .shape = scale, .row_dim = NIB_ROWS_FLAT};
    return 3;
}

static void pack(void *const part[], const nib_codes *codes) {
    const nib_qdesc *desc = &codes->desc;
    const planes p = planes_of(desc);
    uint8_t *bytes = part[0];
    const uint8_t *q = codes->q;
    for (int64_t j = 0; j < p.span; j++) bytes[j] = q[j];
    for (int i = 1; i < p.count; i++) {
        const uint8_t *plane = q + i * p.span;
        const int64_t left = p.codes - i * p.span, n = left < p.span ? left : p.span;
        for (int64_t j = 0; j < n; j++) bytes[j] |= (uint8_t)(plane[j] << (i * p.bits));
    }
    nib_part_store(desc->scale_dtype, part[1], 0, codes->scale, nib_qdesc_blocks(desc));
    nib_part_store(desc->zero_dtype, part[2], 0, codes->zero, nib_qdesc_blocks(desc));
}

/* Codes of one plane: n bytes, eight at a time. */
static void open_plane(uint8_t *q, const uint8_t *bytes, int64_t n, int shift, uint8_t mask) {
    const uint64_t all = 0x0101010101010101u * mask;
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) {
        uint64_t w;
        memcpy(&w, bytes + j, 8);
        w = w >> shift & all;
        memcpy(q + j, &w, 8);
    }
    for (; j < n; j++) q[j] = (uint8_t)(bytes[j] >> shift & mask);
}

static void unpack(nib_codes *codes, const void *const part[], const nib_qdesc *desc, int64_t row) {
    const planes p = planes_of(desc);
    const uint8_t *bytes = part[0];
    uint8_t *q = codes->q;
    const int64_t first = row * desc->cols, count = codes->desc.rows * desc->cols;
    for (int64_t done = 0; done < count;) { /* one plane after the other */
        const int64_t plane = (first + done) / p.span, at = (first + done) % p.span;
        const int64_t n = count - done < p.span - at ? count - done : p.span - at;
        open_plane(q + done, bytes + at, n, (int)plane * p.bits, p.mask);
        done += n;
    }
    const int64_t per_row = nib_qdesc_block_cols(desc);
    nib_part_load(desc->scale_dtype, part[1], row * per_row, codes->scale,
                  codes->desc.rows * per_row);
    nib_part_load(desc->zero_dtype, part[2], row * per_row, codes->zero,
                  codes->desc.rows * per_row);
}

static int bands(const nib_qdesc *desc) {
    const int count = planes_of(desc).count;
    return desc->rows % count == 0 ? count : 0;
}

const nib_layout nib_layout_quanto_bits = {
    .name = "quanto_bits",
    .doc = "optimum-quanto's 4- and 2-bit weights: rows far apart share a byte",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
    .bands = bands,
};
