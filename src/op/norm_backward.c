#include "op/norm_backward.h"

#include <math.h>

#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "tensor/context.h"

typedef struct job {
    const nib_kernels *k;
    const float *x, *t;
    float *hat, *dx, eps;
    int64_t D;
    bool centered;
} job;

static void rows(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const size_t n = (size_t)j->D;
    for (int64_t m = begin; m < end; m++) {
        const float *x = j->x + m * j->D, *t = j->t + m * j->D;
        float *hat = j->hat + m * j->D, *dx = j->dx + m * j->D;
        const float mean = j->centered ? j->k->sum_f32(x, n) / (float)j->D : 0.0f;
        for (size_t i = 0; i < n; i++) hat[i] = x[i] - mean;
        const float f = 1.0f / sqrtf(j->k->sum_squares_f32(hat, n) / (float)j->D + j->eps);
        for (size_t i = 0; i < n; i++) hat[i] *= f;
        const float along = j->k->dot_f32(t, hat, n) / (float)j->D;
        const float level = j->centered ? j->k->sum_f32(t, n) / (float)j->D : 0.0f;
        for (size_t i = 0; i < n; i++) dx[i] = f * (t[i] - level - hat[i] * along);
    }
}

nib_tensor *nib_norm_backward(const nib_tensor *x, const nib_tensor *t, int64_t D, float eps,
                              bool centered, nib_tensor **hat) {
    x = nib_gradient_floats(x);
    nib_tensor *dx = t ? nib_gradient_like(x) : NULL;
    *hat = nib_gradient_like(dx);
    if (!*hat) return NULL;
    job j = {.k = &x->ctx->kernels,
             .x = nib_tensor_data(x),
             .t = nib_tensor_data(t),
             .hat = nib_tensor_data_mut(*hat),
             .dx = nib_tensor_data_mut(dx),
             .eps = eps,
             .D = D,
             .centered = centered};
    if (D) nib_parallel_for(x->ctx->pool, nib_tensor_count(x) / D, 4, rows, &j);
    return dx;
}

enum { X, WEIGHT, BIAS };

nib_tensor *nib_norm_weighed(const nib_backward_args *args, const nib_shape *shape) {
    const nib_tensor *weight = args->call->in[WEIGHT], *g = args->out[0];
    if (weight == NIB_NONE) return (nib_tensor *)(uintptr_t)g; /* is only looked at */
    return nib_mul(g, nib_gradient_view(nib_gradient_floats(weight), *shape));
}

nib_status nib_norm_parameters(nib_backward_args *args, const nib_tensor *hat,
                               const nib_shape *shape) {
    for (int i = WEIGHT; i <= BIAS; i++) {
        if (!args->wants[i]) continue;
        const nib_tensor *g = i == WEIGHT ? nib_mul(args->out[0], hat) : args->out[0];
        args->in[i] =
            nib_gradient_view(nib_gradient_unbroadcast(g, shape), args->call->in[i]->shape);
        NIB_TRY(nib_gradient_made(args->in[i]));
    }
    return NIB_OK;
}
