/* cast.h: floats in another dtype. */
#ifndef NIB_QUANT_CAST_H
#define NIB_QUANT_CAST_H
#include "tensor/tensor.h"

/* A dense tensor of f32, f16 or bf16 in another of the three, by way of f32; caller owns. Integers
 * stay as they are, and so does what has the dtype: that is `t` once more. Of a quantized tensor
 * the codes stay, and its scales are rounded. */
nib_tensor *nib_tensor_cast(const nib_tensor *t, nib_dtype dtype);
#endif
