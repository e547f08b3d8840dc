/* quanto.h: what optimum-quanto's scheme and its two layouts share. */
#ifndef NIB_QUANT_QUANTO_H
#define NIB_QUANT_QUANTO_H
#include <nibble/extend.h>

/* F32, F16 or BF16: what a weight, and so its scales, may be. */
bool nib_quanto_math(nib_dtype dtype);

/* The shape of one number for each row, of the weight's own rank: [rows, 1] for a matrix,
 * [rows, 1, 1, 1] for a convolution, [experts, rows, 1] for a stack of matrices. */
nib_shape nib_quanto_row_shape(const nib_qdesc *desc);

/* Columns that share a scale in 4 and 2 bits when an output has `cols` of them: all up to 128,
 * then the first of 128, 96, 64 and 32 that divides them, or else all. Upstream stores no group
 * size, so whoever reads finds it by this rule. */
int64_t nib_quanto_group(int64_t cols);
#endif
