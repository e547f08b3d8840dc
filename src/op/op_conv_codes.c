/* op_conv_codes.c: a convolution with what follows it where the next op takes codes: those that
 * quantize_activation makes of its floats, of which no tensor is made. Over one dimension or two,
 * as the weight has. With a scale for the input, too, that is f32, and quantized where it is read.
 * `floor`: of integer codes only those that are not below 0, as relu makes them.
 */
#include "base/error.h"
#include "op/calls.h"
#include "op/conv.h"
#include "op/scale_input.h"
#include "tensor/context.h"

enum { INPUT, WEIGHT, BIAS, SCALE, ENTRY, INPUTS };
enum { STRIDE, PADDING = 2, DILATION = 4, GROUPS = 6, CODE, ENTRY_CODE, FLOOR, ATTRS };

/* Pairs, of which one dimension has the second. */
static nib_conv conv_of(const nib_call_args *args) {
    const nib_shape *w = &args->in[WEIGHT]->shape;
    const nib_attr *a = args->attr;
    nib_conv conv = {.dims = w->ndim == 3 ? 1 : 2, .groups = a[GROUPS].i};
    for (int i = 0; i < 2; i++) {
        conv.window.size[i] = conv.dims == 2 ? w->dim[2 + i] : i ? w->dim[2] : 1;
        conv.window.stride[i] = a[STRIDE + i].i;
        conv.window.padding[i] = a[PADDING + i].i;
        conv.window.dilation[i] = a[DILATION + i].i;
    }
    return conv;
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    *dtype = NIB_F32;
    const nib_conv conv = conv_of(args);
    NIB_TRY(
        nib_conv_shape(args->op, &conv, args->in[INPUT], args->in[WEIGHT], args->in[BIAS], out));
    NIB_TRY(nib_scale_check(args->op, args->in[SCALE], (nib_dtype)args->attr[CODE].i));
    if (args->attr[FLOOR].i && !nib_act8_integer((nib_dtype)args->attr[CODE].i))
        return NIB_RAISE(NIB_E_DTYPE, "%s: only integer codes have a floor", args->op->name);
    if (args->in[ENTRY] == NIB_NONE) return NIB_OK;
    const nib_dtype code = (nib_dtype)args->attr[ENTRY_CODE].i;
    NIB_TRY(nib_scale_check(args->op, args->in[ENTRY], code));
    if (nib_conv_quantizes(&conv, args->in[INPUT], args->in[WEIGHT], code)) return NIB_OK;
    return NIB_RAISE(NIB_E_UNSUPPORTED,
                     "%s: such an input, or weight, is not quantized on the way; quantize it first",
                     args->op->name);
}

static nib_tensor *output(const nib_call_args *args, int index, nib_dtype dtype, nib_shape shape) {
    (void)index;
    return nib_act8_new(args->ctx, (nib_dtype)args->attr[CODE].i, dtype, shape,
                        nib_scale_value(args->in[SCALE], dtype));
}

static bool codes(const nib_call_args *args) {
    return nib_conv_takes_codes(args->in[INPUT], args->in[WEIGHT]);
}

const nib_op nib_op_conv_codes = {
    .name = "conv_codes",
    .nout = 1,
    .shape = shape,
    .output = output,
    .codes = codes,
    .schema = "nib::conv_codes(Tensor input, Tensor weight, Tensor? bias, Tensor scale, "
              "Tensor? input_scale, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, "
              "SymInt groups, ScalarType dtype, ScalarType input_dtype, bool floor) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    const nib_conv conv = conv_of(args);
    nib_conv_entry entry = {.code = (nib_dtype)args->attr[ENTRY_CODE].i};
    const bool enters = args->in[ENTRY] != NIB_NONE;
    if (enters) entry.scale = nib_scale_value(args->in[ENTRY], NIB_F32);
    return nib_conv_run(args->ctx, &conv, args->in[INPUT], args->in[WEIGHT], args->in[BIAS],
                        enters ? &entry : NULL, args->attr[FLOOR].i != 0, args->out[0]);
}

const nib_impl nib_impl_conv_codes_any = {.op = &nib_op_conv_codes,
                                          .device = "cpu",
                                          .layouts = "input:dense f32 or int8 codes, weight:any, "
                                                     "bias, scales:dense",
                                          .accepts = nib_conv_accepts,
                                          .run = run};

int nib_conv_codes_attrs(const nib_call_args *conv, nib_dtype code, nib_attr attr[]) {
    const bool two = conv->nattr > 4; /* conv1d: of each pair one */
    for (int pair = 0; pair < 3; pair++)
        for (int i = 0; i < 2; i++) {
            const int64_t none = pair == PADDING / 2 ? 0 : 1;
            attr[2 * pair + i].i = two ? conv->attr[2 * pair + i].i : i ? conv->attr[pair].i : none;
        }
    attr[GROUPS].i = conv->attr[two ? 6 : 3].i;
    attr[CODE].i = code;
    attr[ENTRY_CODE].i = attr[FLOOR].i = 0;
    return ATTRS;
}

bool nib_conv_codes_set_floor(nib_attr attr[]) {
    if (attr[FLOOR].i || !nib_act8_integer((nib_dtype)attr[CODE].i)) return false;
    attr[FLOOR].i = true;
    return true;
}

nib_tensor *nib_conv_codes(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                           const nib_window *w, int64_t groups, const nib_tensor *scale,
                           nib_dtype code, const nib_tensor *entry, nib_dtype entry_code,
                           bool floor) {
    if (!x || !weight || !bias || !scale || !entry) return NULL;
    nib_attr attr[ATTRS] = {
        [GROUPS].i = groups, [CODE].i = code, [ENTRY_CODE].i = entry_code, [FLOOR].i = floor};
    for (int i = 0; i < 2; i++) {
        attr[STRIDE + i].i = w->stride[i];
        attr[PADDING + i].i = w->padding[i];
        attr[DILATION + i].i = w->dilation[i];
    }
    return nib_call_one(x->ctx, &nib_op_conv_codes, INPUTS,
                        (const nib_tensor *[]){x, weight, bias, scale, entry}, ATTRS, attr);
}
