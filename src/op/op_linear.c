/* op_linear.c: y = x W^T + b for weights of any layout; product.c has the work. */
#include "base/error.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "op/product.h"
#include "tensor/tensor.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    *dtype = NIB_F32;
    if (!nib_product_takes_codes(args->in[0], args->in[1]))
        NIB_TRY(nib_op_want_dense_f32(args->op, "input", args->in[0]));
    return nib_product_shape(args->op, args->in[0], args->in[1], args->in[2], out);
}

static bool codes(const nib_call_args *args) {
    return nib_product_takes_codes(args->in[0], args->in[1]);
}

/* dx = g W, dW = g^T x, db = the rows of g: each a product of the same kernels as the forward's. A
 * quantized weight or input counts as what it dequantizes to. */
static nib_status backward(nib_backward_args *args) {
    enum { X, WEIGHT, BIAS };
    const nib_tensor *x = args->call->in[X], *w = args->call->in[WEIGHT];
    const int64_t N = w->shape.dim[0], K = w->shape.dim[1], M = nib_product_rows(args->out[0]);
    const nib_tensor *g = nib_gradient_view(args->out[0], (nib_shape){2, {M, N}});
    if (args->wants[X]) {
        const nib_tensor *wt = nib_gradient_transposed(nib_gradient_floats(w));
        args->in[X] = nib_gradient_view(nib_gradient_product(g, wt), x->shape);
        NIB_TRY(nib_gradient_made(args->in[X]));
    }
    if (args->wants[WEIGHT]) {
        const nib_tensor *rows = nib_gradient_view(nib_gradient_floats(x), (nib_shape){2, {M, K}});
        args->in[WEIGHT] =
            nib_gradient_product(nib_gradient_transposed(g), nib_gradient_transposed(rows));
        NIB_TRY(nib_gradient_made(args->in[WEIGHT]));
    }
    if (args->wants[BIAS]) args->in[BIAS] = nib_gradient_sum_rows(g);
    return args->wants[BIAS] ? nib_gradient_made(args->in[BIAS]) : NIB_OK;
}

const nib_op nib_op_linear = {
    .name = "linear",
    .codes = codes,
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor",
};

static bool accepts(const nib_call_args *args) { return nib_product_takes(args->in[1]); }

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[0], *w = args->in[1];
    const nib_product product = {.weight = w,
                                 .bias = args->in[2],
                                 .up = NIB_NONE,
                                 .up_bias = NIB_NONE,
                                 .y = nib_tensor_data_mut(args->out[0])};
    return nib_products(args->ctx, x, &product, 1);
}

const nib_impl nib_impl_linear_any = {.op = &nib_op_linear,
                                      .device = "cpu",
                                      .layouts =
                                          "input:dense f32 or int8 codes, weight:any, bias:dense",
                                      .accepts = accepts,
                                      .run = run,
                                      .variants = NIB_PRODUCT_VARIANTS};

nib_tensor *nib_linear(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias) {
    if (!x || !weight || !bias) return NULL;
    nib_tensor_fetch(weight);
    return nib_call_one(x->ctx, &nib_op_linear, 3, (const nib_tensor *[]){x, weight, bias}, 0,
                        NULL);
}
