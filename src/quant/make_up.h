/* make_up.h: what a weight has to change by, so that its outputs make up for errors that its inputs
 * tell. */
#ifndef NIB_QUANT_MAKE_UP_H
#define NIB_QUANT_MAKE_UP_H
#include <nibble/extend.h>

/* D [N, K] = share * (sum of r^T x) (sum of x^T x + 0.003 of its mean diagonal)^-1: rows r
 * [rows, N] as linear functions of rows x [rows, K], by least squares, damped. Adding it to a
 * weight adds what can be known of r to the outputs. Zeros where there are fewer than four rows to
 * each column of x, which tell too little. Fails: NIB_E_MEMORY (two doubles for each number of x^T
 * x and one of D). */
nib_status nib_make_up(nib_ctx *ctx, const float *r, int64_t N, const float *x, int64_t K,
                       int64_t rows, float share, float *D);
#endif
