/* layer_linear.c: y = x W^T + b. The weight is [N, K], dense or quantized; a quantized weight
 * needs no other module, since the op takes any layout. */
#include "nn/module.h"
#include "nn/quantized.h"
#include "op/calls.h"

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    if (nib_quantized_makes_codes(m, x))
        return nib_linear_codes(x, nib_module_weight(m), nib_layer_bias(m),
                                nib_module_buffer(m, "output_scale"),
                                nib_module_quantized(m)->output);
    return nib_linear(x, nib_module_weight(m), nib_layer_bias(m));
}

const nib_module_kind nib_kind_linear = {.name = "Linear", .forward = forward};

nib_module *nib_linear_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias) {
    return nib_layer_new(ctx, &nib_kind_linear, 0, 2, 1, (const char *[]){"weight", "bias"},
                         (nib_tensor *[]){weight, bias});
}
