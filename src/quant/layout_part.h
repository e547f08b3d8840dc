/* layout_part.h: what parts() functions of layouts are made of. */
#ifndef NIB_QUANT_LAYOUT_PART_H
#define NIB_QUANT_LAYOUT_PART_H
#include <nibble/extend.h>

/* A part of one matrix [d0, d1, ...] with the leading dimensions of a stack put before it, or as
 * many 1s when row_dim is -1. */
nib_part nib_part_of(const nib_qdesc *desc, const char *suffix, nib_dtype dtype, int row_dim,
                     int row_unit, nib_shape matrix);

/* [rows, cols] of a matrix. */
nib_part nib_part_rows(const nib_qdesc *desc, const char *suffix, nib_dtype dtype, int64_t cols);

/* One value a block, [block rows, block columns] of a matrix; one for all is [1, 1]. */
nib_part nib_part_blocks(const nib_qdesc *desc, const char *suffix, nib_dtype dtype);

/* The same transposed, [block columns, rows], of blocks that are one row high: a kernel that walks
 * along columns reads the values of all rows at once. */
nib_part nib_part_across(const nib_qdesc *desc, const char *suffix, nib_dtype dtype);

/* n values between f32 and what a part stores: f32, f16, bf16 (exact: the values are such) or i8.
 */
void nib_part_store(nib_dtype dtype, void *part, int64_t at, const float *values, int64_t n);
void nib_part_load(nib_dtype dtype, const void *part, int64_t at, float *values, int64_t n);

/* Values of rows [row, row + rows) of a part made by nib_part_blocks. */
void nib_part_load_blocks(const nib_qdesc *desc, nib_dtype dtype, const void *part, int64_t row,
                          int64_t rows, float *values);

/* All values of a part made by nib_part_across (f32, f16 or bf16), and those of some rows back. */
void nib_part_store_across(const nib_qdesc *desc, nib_dtype dtype, void *part, const float *values);
void nib_part_load_across(const nib_qdesc *desc, nib_dtype dtype, const void *part, int64_t row,
                          int64_t rows, float *values);
#endif
