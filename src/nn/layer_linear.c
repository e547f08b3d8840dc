/* layer_linear.c: y = x W^T + b. The weight is [N, K], dense or quantized; a quantized weight
 * needs no other module, since the op takes any layout. */
#include <nibble/nn.h>

#include "base/error.h"
#include "tensor/tensor.h"

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    const nib_tensor *bias = nib_module_parameter(m, "bias");
    return nib_linear(x, nib_module_parameter(m, "weight"), bias ? bias : NIB_NONE);
}

const nib_module_kind nib_kind_linear = {.name = "Linear", .forward = forward};

nib_module *nib_linear_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias) {
    nib_module *m = weight && bias ? nib_module_new(ctx, &nib_kind_linear, NULL) : NULL;
    if (!m) {
        nib_tensor_free(weight);
        nib_tensor_free(bias);
        return NULL;
    }
    nib_status status = nib_module_set(m, "weight", weight);
    if (bias != NIB_NONE) {
        if (status < NIB_OK)
            nib_tensor_free(bias);
        else
            status = nib_module_set(m, "bias", bias);
    }
    if (status >= NIB_OK) return m;
    nib_module_free(m);
    return NULL;
}
