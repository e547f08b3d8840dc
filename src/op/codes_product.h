/* codes_product.h: products of quantized activations, as the table of on_codes.c wants them. */
#ifndef NIB_OP_CODES_PRODUCT_H
#define NIB_OP_CODES_PRODUCT_H
#include "op/op.h"

/* args->out[0] is made, f32, owned by the open scope. NIB_END: not in integers. */
nib_status nib_codes_bmm(nib_call_args *args); /* int8 codes by int8 codes: bmm and mm */
#endif
