/* norm_backward.h: gradients of norms: rows that were brought to a mean of 0 (or left where they
 * are) and a mean square of 1. */
#ifndef NIB_OP_NORM_BACKWARD_H
#define NIB_OP_NORM_BACKWARD_H
#include "op/gradient.h"

/* From the gradient t of the normed rows, [rows, D] in any shape, that of x:
 *   hat = (x - mean) * f, f = 1 / sqrt(mean of squares + eps)        (not centered: mean 0)
 *   dx = f * (t - sum(t) / D - hat * (dot(t, hat) / D))              (not centered: no sum)
 * *hat is left for the gradient of the weight. Both belong to the open scope. */
nib_tensor *nib_norm_backward(const nib_tensor *x, const nib_tensor *t, int64_t D, float eps,
                              bool centered, nib_tensor **hat);

/* The rest of it for norms whose weight and bias, or NIB_NONE, broadcast to x as `shape`: t is g
 * times weight; then dw of g hat, db of g. Inputs: x, weight, bias. */
nib_tensor *nib_norm_weighed(const nib_backward_args *args, const nib_shape *shape);
nib_status nib_norm_parameters(nib_backward_args *args, const nib_tensor *hat,
                               const nib_shape *shape);
#endif
