/* pool_backward.c: gradients of pooling, plane by plane: each output hands what it got to the input
 * that it was, or to all that it is the mean of, outputs row by row. */
#include <string.h>

#include "base/parallel.h"
#include "op/gradient.h"
#include "op/pool.h"
#include "tensor/context.h"

typedef struct job {
    nib_pool_job pool; /* y: the gradient of x */
    const float *g;
    nib_pool_share *share;
} job;

static void planes(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const nib_pool_job *p = &j->pool;
    for (int64_t n = begin; n < end; n++) {
        float *dx = p->y + n * p->H * p->W;
        const float *x = p->x ? p->x + n * p->H * p->W : NULL, *g = j->g + n * p->OH * p->OW;
        memset(dx, 0, (size_t)(p->H * p->W) * sizeof *dx);
        for (int64_t o = 0; o < p->OH * p->OW; o++) j->share(p, x, dx, o / p->OW, o % p->OW, g[o]);
    }
}

nib_status nib_pool_backward(nib_backward_args *args, nib_pool_job pool, bool reads,
                             nib_pool_share *share) {
    const nib_tensor *x = args->call->in[0], *g = args->out[0];
    const int n = x->shape.ndim;
    nib_tensor *dx = args->in[0] = nib_gradient_like(x);
    const nib_tensor *floats = reads ? nib_gradient_floats(x) : x;
    if (!dx || !floats) return nib_last_error()->status;
    pool.x = reads ? nib_tensor_data(floats) : NULL;
    pool.y = nib_tensor_data_mut(dx);
    pool.planes = x->shape.dim[n - 3] * (n == 4 ? x->shape.dim[0] : 1);
    pool.H = x->shape.dim[n - 2];
    pool.W = x->shape.dim[n - 1];
    pool.OH = g->shape.dim[n - 2];
    pool.OW = g->shape.dim[n - 1];
    job j = {.pool = pool, .g = nib_tensor_data(g), .share = share};
    nib_parallel_for(args->call->ctx->pool, pool.planes, 1, planes, &j);
    return NIB_OK;
}
