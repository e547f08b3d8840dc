/* pointwise.h: functions of every element: of floats, or of the codes of an activation, of which
 * there are 256: more elements than that are looked up in a table of what the function gives for
 * each, to the bit what it gives for the opened floats. */
#ifndef NIB_OP_POINTWISE_H
#define NIB_OP_POINTWISE_H
#include "op/op.h"

/* For nib_op: self is dense f32, or codes that stand for f32. */
nib_status nib_pointwise_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype);
bool nib_pointwise_codes(const nib_call_args *args);

/* out[i] = f(x[i]) for i < n */
typedef void nib_pointwise_run(const nib_call_args *args, float *out, const float *x, size_t n);

/* args->out[0] of args->in[0]. */
nib_status nib_pointwise(const nib_call_args *args, nib_pointwise_run *run);
#endif
