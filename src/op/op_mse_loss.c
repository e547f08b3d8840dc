/* op_mse_loss.c: the mean of squared differences. */
#include <nibble/train.h>

#include "base/error.h"
#include "kernel/kernel.h"
#include "op/gradient.h"
#include "tensor/context.h"

enum { MEAN = 1 }; /* of ATen's reductions */

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    char one[96], other[96];
    NIB_TRY(nib_op_want_dense_f32(args->op, "self", a));
    NIB_TRY(nib_op_want_dense_f32(args->op, "target", b));
    if (!nib_shape_equal(&a->shape, &b->shape))
        return NIB_RAISE(NIB_E_SHAPE, "mse_loss: self is %s but target is %s",
                         nib_shape_text(&a->shape, one, sizeof one),
                         nib_shape_text(&b->shape, other, sizeof other));
    *out = (nib_shape){0};
    *dtype = NIB_F32;
    return NIB_OK;
}

typedef struct factor {
    float by;
} factor;
static void times(float *dx, const float *g, const float *v, int64_t n, const void *user) {
    const float by = ((const factor *)user)->by;
    for (int64_t i = 0; i < n; i++) dx[i] = (g[i] - v[i]) * by;
}

/* 2 (a - b) g / n, and its opposite. */
static nib_status backward(nib_backward_args *args) {
    const nib_tensor *a = args->call->in[0], *b = args->call->in[1];
    const float g = *(const float *)nib_tensor_data(args->out[0]);
    const factor f = {2.0f * g / (float)nib_tensor_count(a)};
    for (int i = 0; i < 2; i++) {
        if (!args->wants[i]) continue;
        args->in[i] = nib_gradient_each(i ? b : a, i ? a : b, times, &f);
        NIB_TRY(nib_gradient_made(args->in[i]));
    }
    return NIB_OK;
}

const nib_op nib_op_mse_loss = {
    .name = "mse_loss",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::mse_loss(Tensor self, Tensor target, int reduction=Mean) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    const int64_t n = nib_tensor_count(a);
    float *d = nib_ctx_workspace(args->ctx, (size_t)(n ? n : 1) * sizeof *d);
    if (!d) return nib_last_error()->status;
    const float *x = nib_tensor_data(a), *y = nib_tensor_data(b);
    for (int64_t i = 0; i < n; i++) d[i] = x[i] - y[i];
    float *out = nib_tensor_data_mut(args->out[0]);
    *out = args->ctx->kernels.sum_squares_f32(d, (size_t)n) / (float)n;
    return NIB_OK;
}

static bool accepts(const nib_call_args *args) { return args->attr[0].i == MEAN; }

const nib_impl nib_impl_mse_loss_f32 = {.op = &nib_op_mse_loss,
                                        .device = "cpu",
                                        .layouts = "self:dense f32, target:dense f32, mean",
                                        .accepts = accepts,
                                        .run = run};

nib_tensor *nib_mse(const nib_tensor *a, const nib_tensor *b) {
    if (!a || !b) return NULL;
    return nib_call_one(a->ctx, &nib_op_mse_loss, 2, (const nib_tensor *[]){a, b}, 1,
                        (nib_attr[]){{.i = MEAN}});
}
