/* make_up.h: what a weight has to change by, so that its outputs make up for errors that its inputs
 * tell.
 *
 * D [N, K] = share * (sum of r^T x) (sum of x^T x + 0.003 of its mean diagonal)^-1: rows r [N] as
 * linear functions of rows x [K], by least squares, damped. Adding D to a weight adds what can be
 * known of r to its outputs. */
#ifndef NIB_QUANT_MAKE_UP_H
#define NIB_QUANT_MAKE_UP_H
#include <nibble/extend.h>

/* squares [K, K], as nib_sums_add makes them of so many rows, become the factor that D is found by.
 * False: these tell nothing, as fewer than four rows to each column, or inputs that are all zero.
 */
bool nib_make_up_factor(nib_ctx *ctx, double *squares, int64_t K, int64_t rows);

/* D by that factor and cross [N, K], as nib_sums_cross makes it, which is used up. */
void nib_make_up(nib_ctx *ctx, const double *factor, double *cross, int64_t N, int64_t K,
                 float share, float *D);
#endif
