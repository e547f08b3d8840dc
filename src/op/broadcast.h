/* broadcast.h: two tensors element by element, ATen's way: dimensions are matched from the last,
 * and one of length 1, or none, is repeated. */
#ifndef NIB_OP_BROADCAST_H
#define NIB_OP_BROADCAST_H
#include "op/op.h"

/* The shape of `self` with `other`, both dense f32; also sets the dtype. */
nib_status nib_broadcast_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype);

/* A run of n elements: a and b `step` 0 (one number for all) or 1 apart. */
typedef void nib_broadcast_run(float *y, const float *a, int64_t step_a, const float *b,
                               int64_t step_b, int64_t n);
void nib_broadcast(const nib_call_args *args, nib_broadcast_run *run);
#endif
