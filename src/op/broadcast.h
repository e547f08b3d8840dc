/* broadcast.h: tensors element by element, ATen's way: dimensions are matched from the last, and
 * one of length 1, or none, is repeated. */
#ifndef NIB_OP_BROADCAST_H
#define NIB_OP_BROADCAST_H
#include "op/op.h"

/* The shape of `self` with `other`, both dense f32; also sets the dtype. */
nib_status nib_broadcast_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype);

/* *out and `next` matched; NIB_E_SHAPE names both. Begin with the shape of the first. */
nib_status nib_broadcast_with(const nib_op *op, nib_shape *out, const nib_shape *next);

/* A run of n elements of the result `out`, from `y` on. Those of input i begin at at[i] and lie
 * step[i], 0 (one number for all) or 1, apart. */
enum { NIB_BROADCAST_INPUTS = 3 };
typedef struct nib_run {
    void *out; /* asked for once, by the caller of the threads: asking counts as a change */
    int64_t y, n, at[NIB_BROADCAST_INPUTS], step[NIB_BROADCAST_INPUTS];
} nib_run;
typedef void nib_broadcast_run(const nib_call_args *args, const nib_run *run);
void nib_broadcast(const nib_call_args *args, nib_broadcast_run *run); /* on all threads */
#endif
