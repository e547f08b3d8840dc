/* op_norm.c: root mean square normalization of the last dimension. */
#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/norm_backward.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

nib_status nib_rms_norm_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0], *w = args->in[1];
    NIB_TRY(nib_op_want_dense_f32(args->op, "input", x));
    char text[96], other[96];
    const int last = x->shape.ndim - 1;
    if (last < 0 || w->shape.ndim != 1 || w->shape.dim[0] != x->shape.dim[last])
        return NIB_RAISE(NIB_E_SHAPE, "%s: input is %s but weight is %s", args->op->name,
                         nib_shape_text(&x->shape, text, sizeof text),
                         nib_shape_text(&w->shape, other, sizeof other));
    *out = x->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args) {
    const nib_tensor *x = args->call->in[0];
    const nib_shape last = args->call->in[1]->shape;
    nib_tensor *hat;
    args->in[0] = nib_norm_backward(x, nib_norm_weighed(args, &last), last.dim[0],
                                    (float)args->call->attr[1].d, false, &hat);
    NIB_TRY(nib_gradient_made(args->in[0]));
    return nib_norm_parameters(args, hat, &last);
}

const nib_op nib_op_rms_norm = {
    .name = "rms_norm",
    .nout = 1,
    .shape = nib_rms_norm_shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, "
              "float? eps=None) -> Tensor",
};

typedef struct norm {
    const nib_kernels *k;
    const float *x, *weight;
    float *y, eps;
    int64_t D;
} norm;

static void rows(void *user, int64_t begin, int64_t end) {
    const norm *n = user;
    for (int64_t m = begin; m < end; m++)
        n->k->rms_norm_f32(n->y + m * n->D, n->x + m * n->D, n->weight, (size_t)n->D, n->eps);
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[0], *w = args->in[1];
    const int64_t D = w->shape.dim[0], M = D ? nib_tensor_count(x) / D : 0;
    size_t size;
    if (nib_mul_size((size_t)D, sizeof(float), &size))
        return NIB_RAISE(NIB_E_MEMORY, "rms_norm: %lld columns overflow", (long long)D);
    const float *weight = w->dtype == NIB_F32 ? nib_tensor_data(w) : NULL;
    if (!weight) {
        float *widened = nib_ctx_workspace(args->ctx, size);
        if (!widened) return nib_last_error()->status;
        nib_rows_to_f32(w, 0, 1, widened, NULL);
        weight = widened;
    }
    norm n = {&args->ctx->kernels,
              nib_tensor_data(x),
              weight,
              nib_tensor_data_mut(args->out[0]),
              (float)args->attr[1].d,
              D};
    nib_parallel_for(args->ctx->pool, M, 16, rows, &n);
    return NIB_OK;
}

bool nib_rms_norm_accepts(const nib_call_args *args) {
    return !args->in[1]->layout && nib_tensor_contiguous(args->in[1]);
}

const nib_impl nib_impl_rms_norm_f32 = {.op = &nib_op_rms_norm,
                                        .device = "cpu",
                                        .layouts = "input:dense f32, weight:dense",
                                        .accepts = nib_rms_norm_accepts,
                                        .run = run};

nib_tensor *nib_rms_norm(const nib_tensor *x, const nib_tensor *weight, double eps) {
    if (!x || !weight) return NULL;
    return nib_call_one(x->ctx, &nib_op_rms_norm, 2, (const nib_tensor *[]){x, weight}, 2,
                        (nib_attr[]){{.i = weight->shape.dim[0]}, {.d = eps}});
}
