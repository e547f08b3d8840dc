/* hqq.h: half-quadratic quantization: choose zeros or scales that lessen the error of all weights,
 * without data. Both stop when the whole matrix no longer improves, so they need all rows at once.
 * Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023; constants
 * are those of torchao 0.18. Sums are taken in f64, so results may differ from torch's in the last
 * bit of a zero, and few codes by one. */
#ifndef NIB_QUANT_HQQ_H
#define NIB_QUANT_HQQ_H
#include <nibble/extend.h>

/* Unsigned codes with a float zero in the middle (NIB_ZERO_MID): move the zeros, keep the scales.
 */
nib_status nib_hqq_zero(const nib_tensor *rows, nib_codes *out);

/* Signed codes without a zero: move the scales to their least squares. */
nib_status nib_hqq_scale(const nib_tensor *rows, nib_codes *out);
#endif
