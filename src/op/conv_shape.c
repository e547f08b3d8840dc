/* conv_shape.c: windows that slide, and which tensors a convolution takes. */
#include "base/error.h"
#include "op/conv.h"
#include "quant/act8.h"
#include "tensor/dtype.h"

enum { MOST = 1 << 20 }; /* of a stride, padding, dilation */

nib_status nib_window_check(const nib_op *op, const nib_window *w) {
    for (int i = 0; i < 2; i++)
        if (w->stride[i] < 1 || w->dilation[i] < 1 || w->padding[i] < 0 || w->size[i] < 1 ||
            w->stride[i] > MOST || w->dilation[i] > MOST || w->padding[i] > MOST ||
            w->size[i] > INT32_MAX)
            return NIB_RAISE(NIB_E_ARGUMENT,
                             "%s: size %lld, stride %lld, padding %lld, dilation %lld; want at "
                             "least 1, 1, 0, 1 and no more than %d",
                             op->name, (long long)w->size[i], (long long)w->stride[i],
                             (long long)w->padding[i], (long long)w->dilation[i], (int)MOST);
    return NIB_OK;
}

int64_t nib_window_count(const nib_window *w, int i, int64_t length, bool ceil) {
    const int64_t room = length + 2 * w->padding[i] - w->dilation[i] * (w->size[i] - 1) - 1;
    if (room < 0) return -1;
    int64_t count = (room + (ceil ? w->stride[i] - 1 : 0)) / w->stride[i] + 1;
    if (ceil && (count - 1) * w->stride[i] >= length + w->padding[i]) count--;
    return count;
}

nib_status nib_conv_shape(const nib_op *op, const nib_conv *conv, const nib_tensor *x,
                          const nib_tensor *weight, const nib_tensor *bias, nib_shape *out) {
    if (!nib_act8_is(x)) NIB_TRY(nib_op_want_dense_f32(op, "input", x));
    char a[96], b[96];
    const int dims = conv->dims;
    const nib_shape *s = &x->shape, *w = &weight->shape;
    if ((s->ndim != dims + 2 && s->ndim != dims + 1) || w->ndim != dims + 2)
        return NIB_RAISE(NIB_E_SHAPE,
                         "%s: input is %s and weight %s; want %d or %d dimensions, and %d",
                         op->name, nib_shape_text(s, a, sizeof a), nib_shape_text(w, b, sizeof b),
                         dims + 1, dims + 2, dims + 2);
    const int64_t C = s->dim[s->ndim - dims - 1], groups = conv->groups;
    if (groups < 1 || C % groups || w->dim[0] % groups || w->dim[1] != C / groups)
        return NIB_RAISE(NIB_E_SHAPE,
                         "%s: %lld channels in %lld groups do not meet weight %s, which wants "
                         "[out, channels / groups, ...] with out a multiple of groups",
                         op->name, (long long)C, (long long)groups, nib_shape_text(w, b, sizeof b));
    if (bias != NIB_NONE && (bias->shape.ndim != 1 || bias->shape.dim[0] != w->dim[0]))
        return NIB_RAISE(NIB_E_SHAPE, "%s: bias is %s, want one for each of %lld channels",
                         op->name, nib_shape_text(&bias->shape, a, sizeof a), (long long)w->dim[0]);
    NIB_TRY(nib_window_check(op, &conv->window));
    *out = *s;
    out->dim[s->ndim - dims - 1] = w->dim[0];
    for (int i = 0; i < dims; i++) {
        const int at = s->ndim - dims + i;
        out->dim[at] = nib_window_count(&conv->window, i + 2 - dims, s->dim[at], false);
        if (out->dim[at] < 0)
            return NIB_RAISE(NIB_E_SHAPE, "%s: weight %s is larger than the padded input %s",
                             op->name, nib_shape_text(w, b, sizeof b),
                             nib_shape_text(s, a, sizeof a));
    }
    return NIB_OK;
}

static bool is_float(const nib_tensor *t) {
    return !t->layout && nib_tensor_contiguous(t) &&
           (t->dtype == NIB_F32 || t->dtype == NIB_F16 || t->dtype == NIB_BF16);
}
bool nib_conv_accepts(const nib_call_args *args) {
    const nib_tensor *weight = args->in[1], *bias = args->in[2];
    return (weight->layout || is_float(weight)) && (bias == NIB_NONE || is_float(bias));
}
