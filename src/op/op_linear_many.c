/* op_linear_many.c: several linears of one input: one parallel loop, the input quantized once.
 * What a fused query, key and value projection is. */
#include "base/error.h"
#include "op/calls.h"
#include "op/product.h"
#include "tensor/tensor.h"

/* in: input, weights, biases. */
static int count_of(const nib_call_args *args) { return (args->nin - 1) / 2; }

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const int n = count_of(args);
    if (n < 1 || n > NIB_MOST_LINEARS || args->nin != 1 + 2 * n)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "linear_many: %d tensors, want an input and 1 to %d "
                         "weights with their biases",
                         args->nin, NIB_MOST_LINEARS);
    for (int i = 0; i < n; i++) {
        NIB_TRY(nib_product_shape(args->op, args->in[0], args->in[1 + i], args->in[1 + n + i],
                                  &out[i]));
        dtype[i] = NIB_F32;
    }
    return NIB_OK;
}

const nib_op nib_op_linear_many = {
    .name = "linear_many",
    .nout = -1,
    .shape = shape,
    .schema = "nib::linear_many(Tensor input, Tensor[] weights, Tensor?[] biases) -> Tensor[]",
};

static bool accepts(const nib_call_args *args) {
    for (int i = 0; i < count_of(args); i++)
        if (!nib_product_takes(args->in[1 + i])) return false;
    return true;
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[0];
    const int n = count_of(args);
    nib_product products[NIB_MOST_LINEARS];
    for (int i = 0; i < n; i++)
        products[i] = (nib_product){.weight = args->in[1 + i],
                                    .bias = args->in[1 + n + i],
                                    .up = NIB_NONE,
                                    .up_bias = NIB_NONE,
                                    .y = nib_tensor_data_mut(args->out[i])};
    return nib_products(args->ctx, x, products, n);
}

const nib_impl nib_impl_linear_many_any = {.op = &nib_op_linear_many,
                                           .device = "cpu",
                                           .layouts = "input:dense f32, weights:any, biases:dense",
                                           .accepts = accepts,
                                           .run = run,
                                           .variants = NIB_PRODUCT_VARIANTS};

nib_status nib_linear_many(const nib_tensor *x, const nib_tensor *const weights[],
                           const nib_tensor *const biases[], int count, nib_tensor *out[]) {
    if (!x) return nib_last_error()->status;
    if (count < 1 || count > NIB_MOST_LINEARS)
        return NIB_RAISE(NIB_E_ARGUMENT, "linear_many: %d weights, want 1 to %d", count,
                         NIB_MOST_LINEARS);
    nib_call_args args = {.ctx = x->ctx, .op = &nib_op_linear_many, .nin = 1 + 2 * count};
    args.in[0] = x;
    for (int i = 0; i < count; i++) {
        args.in[1 + i] = weights[i];
        args.in[1 + count + i] = biases[i];
    }
    NIB_TRY(nib_call(&args));
    for (int i = 0; i < count; i++) out[i] = args.out[i];
    return NIB_OK;
}
