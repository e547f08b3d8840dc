/* op_dropout.c: while training, each number is left out with probability p and the others grow by
 * 1 / (1 - p). Which ones, is a function of seed, stream and place alone: the same on every machine
 * and for every number of threads. Srivastava et al., "Dropout", 2014. */
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    NIB_TRY(nib_op_want_dense_f32(args->op, "input", args->in[0]));
    const double p = args->attr[0].d;
    if (!(p >= 0 && p <= 1))
        return NIB_RAISE(NIB_E_ARGUMENT, "dropout: probability is %g, want 0 to 1", p);
    *out = args->in[0]->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

/* The same numbers are left out. */
static nib_status backward(nib_backward_args *args) {
    const nib_attr *a = args->call->attr;
    args->in[0] =
        nib_dropout(args->out[0], a[0].d, a[1].i != 0, (uint64_t)a[2].i, (uint64_t)a[3].i);
    return nib_gradient_made(args->in[0]);
}

const nib_op nib_op_dropout = {
    .name = "dropout",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .schema = "nib::dropout(Tensor input, float p, bool train, int seed, int stream) -> Tensor",
};

typedef struct dropping {
    const float *x;
    float *y, p, scale;
    nib_rng rng;
} dropping;

static void elements(void *user, int64_t begin, int64_t end) {
    enum { RUN = 256 };
    const dropping *d = user;
    float u[RUN];
    for (int64_t i = begin; i < end; i += RUN) {
        const int64_t n = end - i < RUN ? end - i : RUN;
        nib_rng_uniform(&d->rng, (uint64_t)i, (size_t)n, u);
        for (int64_t k = 0; k < n; k++) d->y[i + k] = u[k] < d->p ? 0.0f : d->x[i + k] * d->scale;
    }
}

static nib_status run(const nib_call_args *args) {
    const int64_t count = nib_tensor_count(args->in[0]);
    const double p = args->attr[0].d;
    dropping d = {.x = nib_tensor_data(args->in[0]),
                  .y = nib_tensor_data_mut(args->out[0]),
                  .p = (float)p,
                  .scale = p < 1 ? (float)(1 / (1 - p)) : 0.0f,
                  .rng = {(uint64_t)args->attr[2].i, (uint64_t)args->attr[3].i}};
    if (!args->attr[1].i || p == 0)
        memcpy(d.y, d.x, (size_t)count * sizeof(float));
    else
        nib_parallel_for(args->ctx->pool, count, 8192, elements, &d);
    return NIB_OK;
}

const nib_impl nib_impl_dropout_f32 = {
    .op = &nib_op_dropout, .device = "cpu", .layouts = "input:dense f32", .run = run};

nib_tensor *nib_dropout(const nib_tensor *x, double p, bool train, uint64_t seed, uint64_t stream) {
    if (!x) return NULL;
    return nib_call_one(
        x->ctx, &nib_op_dropout, 1, &x, 4,
        (nib_attr[]){{.d = p}, {.i = train}, {.i = (int64_t)seed}, {.i = (int64_t)stream}});
}
