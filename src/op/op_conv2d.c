/* op_conv2d.c: convolution over rows and columns; conv.c has the work. */
#include "base/error.h"
#include "op/calls.h"
#include "op/conv.h"

/* Attributes: [0..1] stride, [2..3] padding, [4..5] dilation, [6] groups. Only for a weight of 4
 * dimensions. */
static nib_conv conv_of(const nib_call_args *args) {
    const nib_tensor *weight = args->in[1];
    const nib_attr *a = args->attr;
    return (nib_conv){.dims = 2,
                      .window = {.size = {weight->shape.dim[2], weight->shape.dim[3]},
                                 .stride = {a[0].i, a[1].i},
                                 .padding = {a[2].i, a[3].i},
                                 .dilation = {a[4].i, a[5].i}},
                      .groups = a[6].i};
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

const nib_op nib_op_conv2d = {
    .name = "conv2d",
    .codes = codes,
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::conv2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, "
              "SymInt[2] padding=0, SymInt[2] dilation=1, SymInt groups=1) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    const nib_conv conv = conv_of(args);
    return nib_conv_run(args->ctx, &conv, args->in[0], args->in[1], args->in[2], NULL, false,
                        args->out[0]);
}

const nib_impl nib_impl_conv2d_any = {.op = &nib_op_conv2d,
                                      .device = "cpu",
                                      .layouts =
                                          "input:dense f32 or int8 codes, weight:any, bias:dense",
                                      .accepts = nib_conv_accepts,
                                      .run = run};

nib_tensor *nib_conv2d(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                       const nib_window *w, int64_t groups) {
    if (!x || !weight || !bias) return NULL;
    return nib_call_one(x->ctx, &nib_op_conv2d, 3, (const nib_tensor *[]){x, weight, bias}, 7,
                        (nib_attr[]){{.i = w->stride[0]},
                                     {.i = w->stride[1]},
                                     {.i = w->padding[0]},
                                     {.i = w->padding[1]},
                                     {.i = w->dilation[0]},
                                     {.i = w->dilation[1]},
                                     {.i = groups}});
}
