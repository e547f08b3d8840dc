/* op_linear_silu_mul.c: both halves of SwiGLU and what joins them, while the results of a piece of
 * channels are still at hand. */
#include "base/error.h"
#include "op/calls.h"
#include "op/product.h"
#include "tensor/tensor.h"

enum { INPUT, GATE, UP, GATE_BIAS, UP_BIAS, INPUTS };

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    nib_shape up;
    NIB_TRY(nib_product_shape(args->op, args->in[INPUT], args->in[UP], args->in[UP_BIAS], &up));
    NIB_TRY(nib_product_shape(args->op, args->in[INPUT], args->in[GATE], args->in[GATE_BIAS], out));
    char a[96], b[96];
    if (!nib_shape_equal(out, &up))
        return NIB_RAISE(NIB_E_SHAPE, "linear_silu_mul: gate gives %s but up %s",
                         nib_shape_text(out, a, sizeof a), nib_shape_text(&up, b, sizeof b));
    *dtype = NIB_F32;
    return NIB_OK;
}

const nib_op nib_op_linear_silu_mul = {
    .name = "linear_silu_mul",
    .nout = 1,
    .shape = shape,
    .schema = "nib::linear_silu_mul(Tensor input, Tensor gate, Tensor up, Tensor? gate_bias, "
              "Tensor? up_bias) -> Tensor",
};

static bool accepts(const nib_call_args *args) {
    return nib_product_takes(args->in[GATE]) && nib_product_takes(args->in[UP]);
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[INPUT];
    const nib_product product = {.weight = args->in[GATE],
                                 .bias = args->in[GATE_BIAS],
                                 .activation = NIB_SILU,
                                 .up = args->in[UP],
                                 .up_bias = args->in[UP_BIAS],
                                 .y = nib_tensor_data_mut(args->out[0])};
    return nib_products(args->ctx, x, &product, 1);
}

const nib_impl nib_impl_linear_silu_mul_any = {.op = &nib_op_linear_silu_mul,
                                               .device = "cpu",
                                               .layouts =
                                                   "input:dense f32, gate, up:any, biases:dense",
                                               .accepts = accepts,
                                               .run = run,
                                               .variants = NIB_PRODUCT_VARIANTS};

nib_tensor *nib_linear_silu_mul(const nib_tensor *x, const nib_tensor *gate, const nib_tensor *up,
                                const nib_tensor *gate_bias, const nib_tensor *up_bias) {
    if (!x) return NULL;
    return nib_call_one(x->ctx, &nib_op_linear_silu_mul, INPUTS,
                        (const nib_tensor *[]){x, gate, up, gate_bias, up_bias}, 0, NULL);
}
