/* op_linear.c: y = x W^T + b for weights of any layout; product.c has the work. */
#include "base/error.h"
#include "op/calls.h"
#include "op/product.h"
#include "tensor/tensor.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0], *w = args->in[1], *bias = args->in[2];
    NIB_TRY(nib_op_want_dense_f32(args->op, "input", x));
    char text[96], other[96];
    const int last = x->shape.ndim - 1;
    if (last < 0 || w->shape.ndim != 2 || x->shape.dim[last] != w->shape.dim[1])
        return NIB_RAISE(NIB_E_SHAPE, "linear: input is %s but weight is %s",
                         nib_shape_text(&x->shape, text, sizeof text),
                         nib_shape_text(&w->shape, other, sizeof other));
    if (bias != NIB_NONE && (bias->shape.ndim != 1 || bias->shape.dim[0] != w->shape.dim[0]))
        return NIB_RAISE(NIB_E_SHAPE, "linear: bias is %s but weight is %s",
                         nib_shape_text(&bias->shape, text, sizeof text),
                         nib_shape_text(&w->shape, other, sizeof other));
    *out = x->shape;
    out->dim[last] = w->shape.dim[0];
    *dtype = NIB_F32;
    return NIB_OK;
}

const nib_op nib_op_linear = {
    .name = "linear",
    .nout = 1,
    .shape = shape,
    .schema = "aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor",
};

static bool accepts(const nib_call_args *args) { return nib_product_takes(args->in[1]); }

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[0], *w = args->in[1];
    int64_t M = 1;
    for (int i = 0; i + 1 < x->shape.ndim; i++) M *= x->shape.dim[i];
    const nib_product product = {.weight = w,
                                 .bias = args->in[2],
                                 .up = NIB_NONE,
                                 .up_bias = NIB_NONE,
                                 .y = nib_tensor_data_mut(args->out[0])};
    return nib_products(args->ctx, nib_tensor_data(x), M, w->shape.dim[1], &product, 1);
}

const nib_impl nib_impl_linear_any = {.op = &nib_op_linear,
                                      .device = "cpu",
                                      .layouts = "input:dense f32, weight:any, bias:dense",
                                      .accepts = accepts,
                                      .run = run};

nib_tensor *nib_linear(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias) {
    if (!x || !weight || !bias) return NULL;
    return nib_call_one(x->ctx, &nib_op_linear, 3, (const nib_tensor *[]){x, weight, bias}, 0,
                        NULL);
}
