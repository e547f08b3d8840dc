/* hqq_shift.h: half-quadratic choice of the shift of w = s q - z. */
#ifndef NIB_QUANT_HQQ_SHIFT_H
#define NIB_QUANT_HQQ_SHIFT_H
#include <nibble/extend.h>

/* Move the shifts of `codes` so that the error has many small and few large entries, and round the
 * weight again with them. Scales stay.
 *   w       [rows, cols] as stored in codes->desc.math
 *   codes   of all rows, in groups of one row (ZERO_SHIFT), with q, scale and zero as min and max
 *           chose them; zero and q are replaced
 * Fails: NIB_E_MEMORY (one f32 a weight, two a group).
 * Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023,
 * with the constants, the roundings and the stopping rule of optimum-quanto's HqqOptimizer. */
nib_status nib_hqq_shift(nib_ctx *ctx, const void *w, nib_codes *codes);
#endif
