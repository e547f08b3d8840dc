/* sums.h: sums of products over rows, in doubles, and their Cholesky factor: what fits by least
 * squares stand on. Results are the same for any number of threads. */
#ifndef NIB_QUANT_SUMS_H
#define NIB_QUANT_SUMS_H
#include <nibble/extend.h>

/* Grown by x [rows, K]: sums[i, j] += x[m, i] x[m, j] where j <= i, each row times its weight
 * [rows] first, or as it is where that is NULL. Fails: NIB_E_MEMORY. */
nib_status nib_sums_add(nib_ctx *ctx, double *sums, const float *x, const float *weight,
                        int64_t rows, int64_t K);

/* The same of two: sums[n, k] += r[m, n] x[m, k], r [rows, N], x [rows, K]. Fails: NIB_E_MEMORY. */
nib_status nib_sums_cross(nib_ctx *ctx, double *sums, const float *r, int64_t N, const float *x,
                          int64_t K, int64_t rows);

/* The lower triangle of a [K, K] becomes its Cholesky factor, in place. False: it is not positive.
 */
bool nib_cholesky(nib_ctx *ctx, double *a, int64_t K);

double nib_dot_f64(const double *x, const double *y, int64_t n);
#endif
