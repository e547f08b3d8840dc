/* op_linear_add.c: a linear whose result is added to what it stands beside: residual + x W^T + b,
 * the sum taken last. */
#include "base/error.h"
#include "op/calls.h"
#include "op/product.h"
#include "tensor/tensor.h"

enum { INPUT, WEIGHT, BIAS, RESIDUAL, INPUTS };

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *residual = args->in[RESIDUAL];
    NIB_TRY(nib_product_shape(args->op, args->in[INPUT], args->in[WEIGHT], args->in[BIAS], out));
    NIB_TRY(nib_op_want_dense_f32(args->op, "residual", residual));
    char a[96], b[96];
    if (!nib_shape_equal(out, &residual->shape))
        return NIB_RAISE(NIB_E_SHAPE, "linear_add: the product is %s but the residual %s",
                         nib_shape_text(out, a, sizeof a),
                         nib_shape_text(&residual->shape, b, sizeof b));
    *dtype = NIB_F32;
    return NIB_OK;
}

const nib_op nib_op_linear_add = {
    .name = "linear_add",
    .nout = 1,
    .shape = shape,
    .schema = "nib::linear_add(Tensor input, Tensor weight, Tensor? bias, Tensor residual) -> "
              "Tensor",
};

static bool accepts(const nib_call_args *args) { return nib_product_takes(args->in[WEIGHT]); }

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[INPUT];
    const nib_product product = {.weight = args->in[WEIGHT],
                                 .bias = args->in[BIAS],
                                 .up = NIB_NONE,
                                 .up_bias = NIB_NONE,
                                 .residual = nib_tensor_data(args->in[RESIDUAL]),
                                 .y = nib_tensor_data_mut(args->out[0])};
    return nib_products(args->ctx, x, &product, 1);
}

const nib_impl nib_impl_linear_add_any = {.op = &nib_op_linear_add,
                                          .device = "cpu",
                                          .layouts =
                                              "input, residual:dense f32, weight:any, bias:dense",
                                          .accepts = accepts,
                                          .run = run,
                                          .variants = NIB_PRODUCT_VARIANTS};

nib_tensor *nib_linear_add(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                           const nib_tensor *residual) {
    if (!x) return NULL;
    return nib_call_one(x->ctx, &nib_op_linear_add, INPUTS,
                        (const nib_tensor *[]){x, weight, bias, residual}, 0, NULL);
}
