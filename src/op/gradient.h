/* gradient.h: what the backwards of ops are made of. Results belong to the open scope, are dense
 * f32 and contiguous; NULL after a failure, and NULL in, NULL out. Sums have one order
 * (docs/numerics.md, "Gradients"). */
#ifndef NIB_OP_GRADIENT_H
#define NIB_OP_GRADIENT_H
#include "base/error.h"
#include "op/op.h"

/* The values of a tensor of any layout and float dtype, as floats: itself where it is that. */
const nib_tensor *nib_gradient_floats(const nib_tensor *t);

/* Not yet filled, in the shape of another tensor; and a view under another shape. */
nib_tensor *nib_gradient_like(const nib_tensor *t);
nib_tensor *nib_gradient_view(const nib_tensor *t, nib_shape shape);

/* x [M, K] w [N, K]^T -> [M, N], by the kernels of linear; x^T of [M, N] -> [N, M]. */
nib_tensor *nib_gradient_product(const nib_tensor *x, const nib_tensor *w);
nib_tensor *nib_gradient_transposed(const nib_tensor *x);

/* Rows of x [M, N] added up, the first one first -> [N]. */
nib_tensor *nib_gradient_sum_rows(const nib_tensor *x);

/* What a broadcast repeated is added up again: g -> `shape`, of which g's is a broadcast. */
nib_tensor *nib_gradient_unbroadcast(const nib_tensor *g, const nib_shape *shape);

/* dx[i] = of(g[i], v[i], user), v what the op saved; in parallel. */
typedef void nib_gradient_run(float *dx, const float *g, const float *v, int64_t n,
                              const void *user);
nib_tensor *nib_gradient_each(const nib_tensor *g, const nib_tensor *v, nib_gradient_run *run,
                              const void *user);

/* The gradient of an op that hands its first input on as it is, rounded or not: straight through.
 */
nib_status nib_gradient_through(nib_backward_args *args);

static inline nib_status nib_gradient_made(const nib_tensor *t) {
    return t ? NIB_OK : nib_last_error()->status;
}
#endif
