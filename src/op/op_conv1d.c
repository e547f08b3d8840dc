/* op_conv1d.c: convolution over one dimension; conv.c has the work. */
#include "base/error.h"
#include "op/calls.h"
#include "op/conv.h"

/* Attributes: [0] stride, [1] padding, [2] dilation, [3] groups. Only for a weight of 3 dimensions.
 */
static nib_conv conv_of(const nib_call_args *args) {
    const nib_tensor *weight = args->in[1];
    const nib_attr *a = args->attr;
    return (nib_conv){.dims = 1,
                      .window = {.size = {1, weight->shape.dim[2]},
                                 .stride = {1, a[0].i},
                                 .padding = {0, a[1].i},
                                 .dilation = {1, a[2].i}},
                      .groups = a[3].i};
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    *dtype = NIB_F32;
    const nib_conv conv = conv_of(args);
    return nib_conv_shape(args->op, &conv, args->in[0], args->in[1], args->in[2], out);
}

static nib_status backward(nib_backward_args *args) {
    const nib_conv conv = conv_of(args->call);
    return nib_conv_backward(args, &conv);
}

static bool codes(const nib_call_args *args) {
    return nib_conv_takes_codes(args->in[0], args->in[1]);
}

const nib_op nib_op_conv1d = {
    .name = "conv1d",
    .codes = codes,
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::conv1d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[1] stride=1, "
              "SymInt[1] padding=0, SymInt[1] dilation=1, SymInt groups=1) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    const nib_conv conv = conv_of(args);
    return nib_conv_run(args->ctx, &conv, args->in[0], args->in[1], args->in[2], NULL, false,
                        args->out[0]);
}

const nib_impl nib_impl_conv1d_any = {.op = &nib_op_conv1d,
                                      .device = "cpu",
                                      .layouts =
                                          "input:dense f32 or int8 codes, weight:any, bias:dense",
                                      .accepts = nib_conv_accepts,
                                      .run = run};

nib_tensor *nib_conv1d(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                       const nib_window *w, int64_t groups) {
    if (!x || !weight || !bias) return NULL;
    return nib_call_one(
        x->ctx, &nib_op_conv1d, 3, (const nib_tensor *[]){x, weight, bias}, 4,
        (nib_attr[]){
            {.i = w->stride[1]}, {.i = w->padding[1]}, {.i = w->dilation[1]}, {.i = groups}});
}
