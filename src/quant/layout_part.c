#include "quant/layout_part.h"

#include <math.h>
#include <string.h>

#include "base/halffloat.h"
#include "quant/codes.h"

nib_part nib_part_of(const nib_qdesc *desc, const char *suffix, nib_dtype dtype, int row_dim,
                     int row_unit, nib_shape matrix) {
    nib_part part = {.suffix = suffix, .dtype = dtype, .row_dim = row_dim, .row_unit = row_unit};
    const int lead = desc->shape.ndim > 2 ? desc->shape.ndim - 2 : 0;
    for (int i = 0; i < lead; i++) part.shape.dim[i] = row_dim < 0 ? 1 : desc->shape.dim[i];
    for (int i = 0; i < matrix.ndim && lead + i < NIB_MAX_DIMS; i++)
        part.shape.dim[lead + i] = matrix.dim[i];
    part.shape.ndim = lead + matrix.ndim < NIB_MAX_DIMS ? lead + matrix.ndim : NIB_MAX_DIMS;
    return part;
}

nib_part nib_part_rows(const nib_qdesc *desc, const char *suffix, nib_dtype dtype, int64_t cols) {
    const nib_shape matrix = {2, {nib_qdesc_matrix_rows(desc), cols}};
    return nib_part_of(desc, suffix, dtype, 0, 1, matrix);
}

nib_part nib_part_blocks(const nib_qdesc *desc, const char *suffix, nib_dtype dtype) {
    const int64_t rows = nib_qdesc_matrix_rows(desc), unit = desc->block_rows;
    if (desc->block_rows >= desc->rows && desc->rows > 1) {
        const nib_shape shared = {2, {1, nib_qdesc_block_cols(desc)}};
        return nib_part_of(desc, suffix, dtype, -1, 1, shared);
    }
    const nib_shape grid = {2, {(rows + unit - 1) / unit, nib_qdesc_block_cols(desc)}};
    return nib_part_of(desc, suffix, dtype, 0, (int)unit, grid);
}

void nib_part_store(nib_dtype dtype, void *part, int64_t at, const float *values, int64_t n) {
    const nib_kernels *k = nib_codes_kernels();
    switch (dtype) {
    case NIB_F32:
        memcpy((float *)part + at, values, (size_t)n * sizeof(float));
        break;
    case NIB_F16:
        k->f32_to_f16((uint16_t *)part + at, values, (size_t)n);
        break;
    case NIB_BF16:
        k->f32_to_bf16((uint16_t *)part + at, values, (size_t)n);
        break;
    default:
        for (int64_t i = 0; i < n; i++) ((int8_t *)part)[at + i] = (int8_t)values[i];
    }
}

void nib_part_load(nib_dtype dtype, const void *part, int64_t at, float *values, int64_t n) {
    if (dtype == NIB_I8)
        for (int64_t i = 0; i < n; i++) values[i] = ((const int8_t *)part)[at + i];
    else
        nib_to_f32(dtype, values, (const char *)part + at * (dtype == NIB_F32 ? 4 : 2), (size_t)n);
}

void nib_part_load_blocks(const nib_qdesc *desc, nib_dtype dtype, const void *part, int64_t row,
                          int64_t rows, float *values) {
    const int64_t cols = nib_qdesc_block_cols(desc), first = row / desc->block_rows;
    const int64_t last = (row + rows - 1) / desc->block_rows;
    nib_part_load(dtype, part, first * cols, values, (last - first + 1) * cols);
}
