/* op_dequantize.c: a quantized tensor as a dense one of the dtype that its weight had. */
#include <string.h>

#include "base/error.h"
#include "op/calls.h"
#include "quant/layouts.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    *out = args->in[0]->shape;
    *dtype = args->in[0]->dtype;
    return NIB_OK;
}

const nib_op nib_op_dequantize = {
    .name = "dequantize",
    .nout = 1,
    .shape = shape,
    .schema = "nib::dequantize(Tensor self) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    nib_tensor *dense = nib_dequantize_tensor(args->in[0]);
    if (!dense) return nib_last_error()->status;
    memcpy(nib_tensor_data_mut(args->out[0]), nib_tensor_data(dense), nib_tensor_bytes(dense));
    nib_tensor_free(dense);
    return NIB_OK;
}

const nib_impl nib_impl_dequantize_any = {
    .op = &nib_op_dequantize, .device = "cpu", .layouts = "self:any", .run = run};

nib_tensor *nib_dequantize(const nib_tensor *t) {
    if (!t) return NULL;
    return nib_call_one(t->ctx, &nib_op_dequantize, 1, (const nib_tensor *[]){t}, 0, NULL);
}
