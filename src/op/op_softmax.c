/* op_softmax.c: exp of each number by the sum of all along one dimension. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0];
    NIB_TRY(nib_op_want_dense_f32(args->op, "self", x));
    const int64_t dim = args->attr[0].i, n = x->shape.ndim;
    if (dim < -n || dim >= n)
        return NIB_RAISE(NIB_E_ARGUMENT, "softmax: there is no dimension %lld of %lld",
                         (long long)dim, (long long)n);
    *out = x->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

typedef struct lines { /* [outer, L, inner] */
    const nib_kernels *k;
    const float *y, *g;
    float *dx;
    int64_t L, inner;
} lines;

/* y (g - sum of g y) along a line. */
static void line_gradients(void *user, int64_t begin, int64_t end) {
    const lines *l = user;
    for (int64_t at = begin; at < end; at++) {
        const int64_t first = at / l->inner * l->L * l->inner + at % l->inner, step = l->inner;
        const float *y = l->y + first, *g = l->g + first;
        float *dx = l->dx + first, sum = 0;
        if (step == 1)
            sum = l->k->dot_f32(g, y, (size_t)l->L);
        else
            for (int64_t i = 0; i < l->L; i++) sum = fmaf(g[i * step], y[i * step], sum);
        for (int64_t i = 0; i < l->L; i++) dx[i * step] = y[i * step] * (g[i * step] - sum);
    }
}

static nib_status backward(nib_backward_args *args) {
    const nib_tensor *g = args->out[0], *y = nib_gradient_floats(args->call->out[0]);
    const int64_t given = args->call->attr[0].i, n = g->shape.ndim;
    nib_tensor *dx = args->in[0] = y ? nib_gradient_like(g) : NULL;
    if (!dx) return nib_last_error()->status;
    const int64_t dim = given < 0 ? given + n : given, count = nib_tensor_count(g);
    lines l = {.k = &g->ctx->kernels,
               .y = nib_tensor_data(y),
               .g = nib_tensor_data(g),
               .dx = nib_tensor_data_mut(dx),
               .L = g->shape.dim[dim],
               .inner = 1};
    for (int64_t i = dim + 1; i < n; i++) l.inner *= g->shape.dim[i];
    if (count) nib_parallel_for(g->ctx->pool, count / l.L, 16, line_gradients, &l);
    return NIB_OK;
}

const nib_op nib_op_softmax = {
    .name = "softmax",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_OUT(0),
    .schema = "aten::softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor",
};

typedef struct job {
    const nib_kernels *k;
    const float *x;
    float *y;
    int64_t n, step; /* numbers that share a sum, and how far apart they lie */
    nib_scratch scratch;
} job;

static void rows(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    for (int64_t r = begin; r < end; r++) {
        float *y = j->y + r * j->n;
        memcpy(y, j->x + r * j->n, (size_t)j->n * sizeof *y);
        j->k->softmax_f32(y, (size_t)j->n);
    }
}

/* Along another dimension than the last: gathered, and put back. */
static void columns(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int index;
    float *row = nib_scratch_take(&j->scratch, &index);
    for (int64_t r = begin; r < end; r++) {
        const int64_t first = r / j->step * j->n * j->step + r % j->step;
        for (int64_t i = 0; i < j->n; i++) row[i] = j->x[first + i * j->step];
        j->k->softmax_f32(row, (size_t)j->n);
        for (int64_t i = 0; i < j->n; i++) j->y[first + i * j->step] = row[i];
    }
    nib_scratch_give(&j->scratch, index);
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[0];
    const int last = x->shape.ndim - 1;
    const int64_t count = nib_tensor_count(x);
    const int dim = (int)(args->attr[0].i < 0 ? args->attr[0].i + x->shape.ndim : args->attr[0].i);
    if (!count) return NIB_OK;
    job j = {.k = &args->ctx->kernels,
             .x = nib_tensor_data(x),
             .y = nib_tensor_data_mut(args->out[0]),
             .n = x->shape.dim[dim],
             .step = 1};
    for (int i = dim + 1; i <= last; i++) j.step *= x->shape.dim[i];
    const int64_t grain = 1 + 4096 / j.n, all = count / j.n;
    if (dim == last) {
        nib_parallel_for(args->ctx->pool, all, grain, rows, &j);
        return NIB_OK;
    }
    const size_t size = (size_t)j.n * sizeof(float);
    const size_t room = nib_scratch_room(args->ctx->pool, all, size);
    void *space = nib_ctx_workspace(args->ctx, room);
    if (!space) return nib_last_error()->status;
    nib_scratch_over(args->ctx->pool, all, size, space, &j.scratch);
    nib_parallel_for(args->ctx->pool, all, grain, columns, &j);
    return NIB_OK;
}

const nib_impl nib_impl_softmax_f32 = {
    .op = &nib_op_softmax, .device = "cpu", .layouts = "self:dense f32", .run = run};

nib_tensor *nib_softmax(const nib_tensor *x, int dim) {
    if (!x) return NULL;
    return nib_call_one(x->ctx, &nib_op_softmax, 1, &x, 2, (nib_attr[]){{.i = dim}, {.i = 0}});
}
