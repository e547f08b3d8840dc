/* quantize_rows.h: inputs of a product as 8-bit codes, the way a weight asks for them. */
#ifndef NIB_OP_QUANTIZE_ROWS_H
#define NIB_OP_QUANTIZE_ROWS_H
#include <nibble/extend.h>

#include "kernel/kernel.h"

/* Bytes that the codes, scales and zeros of M rows of K take; 0: overflow. 64-byte aligned parts.
 */
size_t nib_quantize_rows_size(int64_t M, int64_t K);

/* x [M, K] contiguous -> codes, scales and, unless act->symmetric, zeros in `memory`; sums stay
 * NULL. On all threads of the context. Rows are padded with zeros to rows->ld. */
void nib_quantize_rows(nib_ctx *ctx, const float *x, int64_t M, int64_t K, const nib_act *act,
                       void *memory, nib_rows_i8 *rows);

/* sums [M, K / G] of the codes of each group. */
void nib_sum_rows(nib_ctx *ctx, const nib_rows_i8 *rows, int64_t M, int64_t K, int64_t G,
                  int32_t *sums);
#endif
