/* codes_product.h: products of quantized activations in integers: of int8 codes by int8 codes. */
#ifndef NIB_OP_CODES_PRODUCT_H
#define NIB_OP_CODES_PRODUCT_H
#include "op/op.h"

/* A call of bmm or mm: are its inputs such codes? Its result, f32. */
bool nib_codes_bmm_takes(const nib_call_args *args);
nib_status nib_codes_bmm(const nib_call_args *args);
#endif
