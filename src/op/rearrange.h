/* rearrange.h: elements of a dense tensor in other places. What permute, expand and split do. */
#ifndef NIB_OP_REARRANGE_H
#define NIB_OP_REARRANGE_H
#include "op/op.h"

/* The element of `out` at index i comes from that of x at `first` + the sum of i[d] * step[d], in
 * elements. Both dense and contiguous, of one dtype of whole bytes. On all threads. */
void nib_rearrange(nib_ctx *ctx, const nib_tensor *x, int64_t first, const int64_t step[],
                   nib_tensor *out);

/* Elements from one index of each dimension to the next, in a contiguous tensor. */
void nib_rearrange_steps(const nib_shape *shape, int64_t step[NIB_MAX_DIMS]);
#endif
