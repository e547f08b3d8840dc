/* scale_input.h: the one scale of an activation as an input of the ops that make its codes. */
#ifndef NIB_OP_SCALE_INPUT_H
#define NIB_OP_SCALE_INPUT_H
#include "base/error.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "quant/quanto.h"
#include "tensor/dtype.h"

static inline nib_status nib_scale_check(const nib_op *op, const nib_tensor *scale,
                                         nib_dtype code) {
    if (scale->layout || !nib_quanto_math(scale->dtype) || nib_tensor_count(scale) != 1)
        return NIB_RAISE(NIB_E_SHAPE, "%s: the scale is one float", op->name);
    if (nib_act8_largest(code) == 0)
        return NIB_RAISE(NIB_E_DTYPE,
                         "activations are quantized to 8 bits: int8 or an 8-bit float, not %s",
                         nib_dtype_name(code));
    return NIB_OK;
}

/* As floats of dtype `math` meet it. */
static inline float nib_scale_value(const nib_tensor *scale, nib_dtype math) {
    float value;
    nib_to_f32(scale->dtype, &value, nib_tensor_data(scale), 1);
    return nib_round_to(value, math);
}
#endif
