/* quanto_bytes: one code a byte, one scale for each row; optimum-quanto's 8-bit weights.
 *
 *   _data    the weight's shape   int8 or float8 codes, row-major
 *   _scale   [rows, 1 ...]        one for each row, of the weight's rank; 0-dim where the weight
 *                                 has a single row, which quanto quantizes per tensor
 * Rows are whole in every part, so any run of them stands by itself. */
#include <string.h>

#include "quant/codes.h"
#include "quant/layout_part.h"
#include "quant/quanto.h"

static bool holds(const nib_qdesc *desc) {
    const bool byte = desc->code == NIB_I8 || desc->code == NIB_F8_E4M3FN ||
                      desc->code == NIB_F8_E5M2 || desc->code == NIB_F8_E4M3FNUZ;
    return byte && desc->zero_kind == NIB_ZERO_NONE && desc->outer == 0.0f &&
           desc->scale_dtype == desc->math && nib_quanto_math(desc->math) &&
           desc->block_rows == 1 && desc->block_cols == desc->cols && desc->cols > 0;
}

static int parts(const nib_qdesc *desc, nib_part part[NIB_MAX_PARTS]) {
    nib_shape scale = nib_quanto_row_shape(desc);
    if (desc->rows == 1) scale.ndim = 0;
    part[0] = (nib_part){
        .suffix = "_data", .dtype = desc->code, .shape = desc->shape, .row_dim = NIB_ROWS_FLAT};
    part[1] = (nib_part){
        .suffix = "_scale", .dtype = desc->scale_dtype, .shape = scale, .row_dim = NIB_ROWS_FLAT};
    return 2;
}

static void pack(void *const part[], const nib_codes *codes) {
    const nib_qdesc *desc = &codes->desc;
    memcpy(part[0], codes->q, (size_t)(desc->rows * desc->cols));
    nib_part_store(desc->scale_dtype, part[1], 0, codes->scale, desc->rows);
}

static void unpack(nib_codes *codes, const void *const part[], const nib_qdesc *desc, int64_t row) {
    const uint8_t *q = part[0];
    const int64_t rows = codes->desc.rows;
    memcpy(codes->q, q + row * desc->cols, (size_t)(rows * desc->cols));
    nib_part_load(desc->scale_dtype, part[1], row, codes->scale, rows);
}

const nib_layout nib_layout_quanto_bytes = {
    .name = "quanto_bytes",
    .doc = "optimum-quanto's 8-bit weights: a byte a code, a scale a row",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
