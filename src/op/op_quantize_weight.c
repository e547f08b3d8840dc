/* op_quantize_weight.c: a float weight as its config quantizes it: what a module that is not frozen
 * meets at each forward. Its gradient reaches the floats as it is: straight through.
 * Bengio, Leonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons
 * for Conditional Computation", 2013. */
#include "base/error.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "quant/scheme.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    *out = args->in[0]->shape;
    *dtype = args->in[0]->dtype;
    return NIB_OK;
}

/* The codes are made with the tensor that holds them. */
static nib_tensor *output(const nib_call_args *args, int index, nib_dtype dtype, nib_shape dims) {
    (void)index;
    (void)dtype;
    (void)dims;
    return nib_keep(
        nib_quantize_tensor(args->in[0], (const nib_config *)(const void *)args->attr[0].s));
}

const nib_op nib_op_quantize_weight = {
    .name = "quantize_weight",
    .nout = 1,
    .shape = shape,
    .output = output,
    .backward = nib_gradient_through,
    .schema = "nib::quantize_weight(Tensor self, str config) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    (void)args;
    return NIB_OK;
}

const nib_impl nib_impl_quantize_weight_any = {
    .op = &nib_op_quantize_weight, .device = "cpu", .layouts = "self:dense float", .run = run};

nib_tensor *nib_quantize_weight(const nib_tensor *weight, const nib_config *config) {
    if (!weight || !config) return NULL;
    return nib_call_one(weight->ctx, &nib_op_quantize_weight, 1, &weight, 1,
                        (nib_attr[]){{.s = (const char *)(const void *)config}});
}
