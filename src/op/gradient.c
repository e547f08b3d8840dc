#include "op/gradient.h"

#include <string.h>

#include "base/parallel.h"
#include "op/calls.h"
#include "op/product.h"
#include "quant/codes.h"
#include "tensor/context.h"

nib_tensor *nib_gradient_like(const nib_tensor *t) {
    return t ? nib_scope_own(t->ctx, nib_tensor_result(t->ctx, NIB_F32, t->shape)) : NULL;
}

nib_tensor *nib_gradient_view(const nib_tensor *t, nib_shape shape) {
    return t ? nib_scope_own(t->ctx, nib_tensor_reshape(t, shape)) : NULL;
}

const nib_tensor *nib_gradient_floats(const nib_tensor *t) {
    if (!t) return NULL;
    if (t->layout) t = nib_dequantize(t);
    if (!t || (t->dtype == NIB_F32 && nib_tensor_contiguous(t))) return t;
    nib_tensor *floats = nib_gradient_like(t);
    if (!floats) return NULL;
    if (t->dtype == NIB_F32) {
        const nib_status status =
            nib_tensor_read(t, nib_tensor_data_mut(floats), nib_tensor_bytes(floats));
        return status >= NIB_OK ? floats : NULL;
    }
    if (!nib_tensor_contiguous(t))
        return NIB_RAISE_NULL(NIB_E_UNSUPPORTED, "no gradient by a tensor that is not contiguous");
    nib_to_f32(t->dtype, nib_tensor_data_mut(floats), nib_tensor_data(t),
               (size_t)nib_tensor_count(t));
    return floats;
}

nib_tensor *nib_gradient_product(const nib_tensor *x, const nib_tensor *w) {
    if (!x || !w) return NULL;
    nib_tensor *y = nib_scope_own(
        x->ctx,
        nib_tensor_result(x->ctx, NIB_F32, (nib_shape){2, {x->shape.dim[0], w->shape.dim[0]}}));
    if (!y) return NULL;
    const nib_product product = {.weight = w,
                                 .bias = NIB_NONE,
                                 .up = NIB_NONE,
                                 .up_bias = NIB_NONE,
                                 .y = nib_tensor_data_mut(y)};
    return nib_products(x->ctx, x, &product, 1) >= NIB_OK ? y : NULL;
}

nib_tensor *nib_gradient_transposed(const nib_tensor *x) { return nib_transpose(x, 0, 1); }

typedef struct summing {
    const float *x;
    float *y;
    int64_t M, N;
} summing;

static void sum_columns(void *user, int64_t begin, int64_t end) {
    const summing *s = user;
    float *y = s->y;
    memset(y + begin, 0, (size_t)(end - begin) * sizeof *y);
    for (int64_t m = 0; m < s->M; m++) {
        const float *x = s->x + m * s->N;
        for (int64_t n = begin; n < end; n++) y[n] += x[n];
    }
}

nib_tensor *nib_gradient_sum_rows(const nib_tensor *x) {
    if (!x) return NULL;
    const int64_t N = x->shape.dim[1];
    nib_tensor *y = nib_scope_own(x->ctx, nib_tensor_result(x->ctx, NIB_F32, (nib_shape){1, {N}}));
    if (!y) return NULL;
    summing s = {nib_tensor_data(x), nib_tensor_data_mut(y), x->shape.dim[0], N};
    nib_parallel_for(x->ctx->pool, N, 64, sum_columns, &s);
    return y;
}

typedef struct reducing { /* [before, length, after] -> [before, after] */
    const float *x;
    float *y;
    int64_t length, after;
} reducing;

static void reduce_some(void *user, int64_t begin, int64_t end) {
    const reducing *r = user;
    const int64_t after = r->after;
    for (int64_t o = begin, n; o < end; o += n) {
        const int64_t a = o % after;
        n = after - a < end - o ? after - a : end - o;
        const float *x = r->x + o / after * r->length * after + a;
        float *y = r->y + o;
        memset(y, 0, (size_t)n * sizeof *y);
        for (int64_t l = 0; l < r->length; l++, x += after)
            for (int64_t i = 0; i < n; i++) y[i] += x[i];
    }
}

/* Dimension `dim` of g added up to a length of 1. */
static nib_tensor *reduce(const nib_tensor *g, int dim) {
    nib_shape shape = g->shape;
    reducing r = {.x = nib_tensor_data(g), .length = shape.dim[dim], .after = 1};
    for (int i = dim + 1; i < shape.ndim; i++) r.after *= shape.dim[i];
    shape.dim[dim] = 1;
    nib_tensor *y = nib_scope_own(g->ctx, nib_tensor_result(g->ctx, NIB_F32, shape));
    if (!y) return NULL;
    r.y = nib_tensor_data_mut(y);
    const int64_t count = nib_tensor_count(y);
    if (count) nib_parallel_for(g->ctx->pool, count, 1024, reduce_some, &r);
    return y;
}

nib_tensor *nib_gradient_unbroadcast(const nib_tensor *g, const nib_shape *shape) {
    nib_tensor *sum = (nib_tensor *)(uintptr_t)g; /* is only looked at */
    if (!g) return NULL;
    const int more = g->shape.ndim - shape->ndim;
    for (int i = 0; i < g->shape.ndim && sum; i++)
        if (g->shape.dim[i] != 1 && (i < more || shape->dim[i - more] == 1)) sum = reduce(sum, i);
    return nib_shape_equal(&g->shape, shape) ? sum : nib_gradient_view(sum, *shape);
}

typedef struct each {
    nib_gradient_run *run;
    const void *user;
    const float *g, *v;
    float *dx;
} each;

static void some(void *user, int64_t begin, int64_t end) {
    const each *e = user;
    e->run(e->dx + begin, e->g + begin, e->v + begin, end - begin, e->user);
}

nib_tensor *nib_gradient_each(const nib_tensor *g, const nib_tensor *v, nib_gradient_run *run,
                              const void *user) {
    v = nib_gradient_floats(v);
    nib_tensor *dx = v ? nib_gradient_like(g) : NULL;
    if (!dx) return NULL;
    each e = {run, user, nib_tensor_data(g), nib_tensor_data(v), nib_tensor_data_mut(dx)};
    nib_parallel_for(g->ctx->pool, nib_tensor_count(dx), 8192, some, &e);
    return dx;
}

nib_status nib_gradient_through(nib_backward_args *args) {
    args->in[0] = (nib_tensor *)(uintptr_t)args->out[0]; /* may be one of `out` */
    return NIB_OK;
}
