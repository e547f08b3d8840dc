/* op_linear_act.c: a linear with what follows it: an activation, a gate's other half, and codes of
 * one scale instead of floats, where what comes next takes codes. The product hands over each row
 * while it is in the cache; no float of it is kept.
 *
 *   y = act(x W^T + bias), or silu(x W^T + bias) * (x U^T + up_bias)
 *   codes of y by `scale`, as quantize_activation makes them, where there is one; `floor`: of
 *   these, as relu does to codes, 0 for what is below */
#include "base/error.h"
#include "op/calls.h"
#include "op/product.h"
#include "op/scale_input.h"
#include "quant/act8.h"
#include "tensor/context.h"

enum { INPUT, WEIGHT, BIAS, UP, UP_BIAS, SCALE, INPUTS };
enum { ACTIVATION, CODE, FLOOR, ATTRS };

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *const *in = args->in;
    const int64_t activation = args->attr[ACTIVATION].i;
    NIB_TRY(nib_product_shape(args->op, in[INPUT], in[WEIGHT], in[BIAS], out));
    if (in[UP] != NIB_NONE) {
        nib_shape up;
        NIB_TRY(nib_product_shape(args->op, in[INPUT], in[UP], in[UP_BIAS], &up));
        if (!nib_shape_equal(out, &up) || activation != NIB_SILU)
            return NIB_RAISE(NIB_E_SHAPE, "linear_act: gate and up differ, or no silu is between");
    }
    if (activation < NIB_IDENTITY || activation > NIB_SILU)
        return NIB_RAISE(NIB_E_ARGUMENT, "linear_act: there is no activation %lld",
                         (long long)activation);
    if (in[SCALE] != NIB_NONE)
        NIB_TRY(nib_scale_check(args->op, in[SCALE], (nib_dtype)args->attr[CODE].i));
    *dtype = NIB_F32;
    return NIB_OK;
}

static nib_tensor *output(const nib_call_args *args, int index, nib_dtype dtype, nib_shape shape) {
    (void)index;
    if (args->in[SCALE] == NIB_NONE) return nib_tensor_result(args->ctx, dtype, shape);
    return nib_act8_new(args->ctx, (nib_dtype)args->attr[CODE].i, dtype, shape,
                        nib_scale_value(args->in[SCALE], dtype));
}

static bool codes(const nib_call_args *args) {
    return nib_product_takes_codes(args->in[INPUT], args->in[WEIGHT]) &&
           (args->in[UP] == NIB_NONE || nib_product_takes_codes(args->in[INPUT], args->in[UP]));
}

const nib_op nib_op_linear_act = {
    .name = "linear_act",
    .nout = 1,
    .shape = shape,
    .output = output,
    .codes = codes,
    .schema = "nib::linear_act(Tensor input, Tensor weight, Tensor? bias, Tensor? up, "
              "Tensor? up_bias, Tensor? scale, int activation, ScalarType dtype, bool floor) -> "
              "Tensor",
};

static bool accepts(const nib_call_args *args) {
    return nib_product_takes(args->in[WEIGHT]) &&
           (args->in[UP] == NIB_NONE || nib_product_takes(args->in[UP]));
}

static nib_status run(const nib_call_args *args) {
    const bool quantizes = nib_act8_is(args->out[0]);
    nib_product product = {.weight = args->in[WEIGHT],
                           .bias = args->in[BIAS],
                           .activation = (nib_activation)args->attr[ACTIVATION].i,
                           .up = args->in[UP],
                           .up_bias = args->in[UP_BIAS],
                           .floor = args->attr[FLOOR].i != 0};
    if (quantizes) {
        product.y = nib_act8_data_mut(args->out[0]);
        product.dtype = args->out[0]->desc.code;
        product.scale = nib_act8_scale(args->out[0]);
    } else {
        product.y = nib_tensor_data_mut(args->out[0]);
    }
    return nib_products(args->ctx, args->in[INPUT], &product, 1);
}

const nib_impl nib_impl_linear_act_any = {.op = &nib_op_linear_act,
                                          .device = "cpu",
                                          .layouts = "input:dense f32 or int8 codes, weights:any, "
                                                     "biases, scale:dense",
                                          .accepts = accepts,
                                          .run = run,
                                          .variants = NIB_PRODUCT_VARIANTS};

int nib_linear_act_attrs(int activation, nib_dtype code, bool floor, nib_attr attr[]) {
    attr[ACTIVATION].i = activation;
    attr[CODE].i = code;
    attr[FLOOR].i = floor;
    return ATTRS;
}

bool nib_linear_act_set_floor(nib_attr attr[]) {
    if (attr[FLOOR].i || !nib_act8_integer((nib_dtype)attr[CODE].i)) return false;
    attr[FLOOR].i = true;
    return true;
}

nib_tensor *nib_linear_codes(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                             const nib_tensor *scale, nib_dtype code) {
    if (!x || !weight || !bias || !scale) return NULL;
    nib_attr attr[ATTRS];
    nib_linear_act_attrs(NIB_IDENTITY, code, false, attr);
    return nib_call_one(x->ctx, &nib_op_linear_act, INPUTS,
                        (const nib_tensor *[]){x, weight, bias, NIB_NONE, NIB_NONE, scale}, ATTRS,
                        attr);
}
