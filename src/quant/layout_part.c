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

nib_part nib_part_across(const nib_qdesc *desc, const char *suffix, nib_dtype dtype) {
    const nib_shape matrix = {2, {nib_qdesc_block_cols(desc), nib_qdesc_matrix_rows(desc)}};
    return nib_part_of(desc, suffix, dtype, 1, 1, matrix);
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

/* Where the value of group 0 of a row lies in a transposed part: those of more groups N apart. */
static int64_t first_of(const nib_qdesc *d, int64_t row) {
    const int64_t N = nib_qdesc_matrix_rows(d);
    return row / N * N * nib_qdesc_block_cols(d) + row % N;
}

enum { RUN = 128 }; /* values converted at once */

void nib_part_store_across(const nib_qdesc *d, nib_dtype dtype, void *part, const float *values) {
    const int64_t groups = nib_qdesc_block_cols(d), N = nib_qdesc_matrix_rows(d);
    const size_t width = dtype == NIB_F32 ? 4 : 2;
    float held[RUN]; /* room for RUN of the widest */
    for (int64_t r = 0; r < d->rows; r++)
        for (int64_t g = 0; g < groups; g += RUN) {
            const int64_t n = groups - g < RUN ? groups - g : RUN, at = first_of(d, r) + g * N;
            nib_part_store(dtype, held, 0, values + r * groups + g, n);
            for (int64_t i = 0; i < n; i++)
                memcpy((char *)part + (size_t)(at + i * N) * width,
                       (const char *)held + (size_t)i * width, width);
        }
}

void nib_part_load_across(const nib_qdesc *d, nib_dtype dtype, const void *part, int64_t row,
                          int64_t rows, float *values) {
    const int64_t groups = nib_qdesc_block_cols(d), N = nib_qdesc_matrix_rows(d);
    const size_t width = dtype == NIB_F32 ? 4 : 2;
    float held[RUN];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t g = 0; g < groups; g += RUN) {
            const int64_t n = groups - g < RUN ? groups - g : RUN,
                          at = first_of(d, row + r) + g * N;
            for (int64_t i = 0; i < n; i++)
                memcpy((char *)held + (size_t)i * width,
                       (const char *)part + (size_t)(at + i * N) * width, width);
            nib_part_load(dtype, held, 0, values + r * groups + g, n);
        }
}
