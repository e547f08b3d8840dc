/* op_expand.c: dimensions of length 1, or that are not there yet, repeated. Elements are copied. */
#include "base/error.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "op/rearrange.h"

/* Attributes: the sizes, -1 for one that stays, then `implicit`. */
static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0];
    NIB_TRY(nib_op_want_dense(args->op, "self", x));
    char text[96], other[96];
    const int n = args->nattr - 1, more = n - x->shape.ndim;
    *out = (nib_shape){.ndim = n};
    bool fits = more >= 0 && n <= NIB_MAX_DIMS;
    for (int i = 0; i < n && fits; i++) {
        const int64_t asked = args->attr[i].i, have = i < more ? -1 : x->shape.dim[i - more];
        out->dim[i] = asked == -1 ? have : asked;
        fits = out->dim[i] >= 0 && (i < more || have == 1 || out->dim[i] == have);
    }
    if (!fits) {
        nib_shape asked = {.ndim = n < NIB_MAX_DIMS ? n : NIB_MAX_DIMS};
        for (int i = 0; i < asked.ndim; i++) asked.dim[i] = args->attr[i].i;
        return NIB_RAISE(NIB_E_SHAPE, "expand: %s does not repeat to %s",
                         nib_shape_text(&x->shape, text, sizeof text),
                         nib_shape_text(&asked, other, sizeof other));
    }
    *dtype = x->dtype;
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args) {
    args->in[0] = nib_gradient_unbroadcast(args->out[0], &args->call->in[0]->shape);
    return nib_gradient_made(args->in[0]);
}

const nib_op nib_op_expand = {
    .name = "expand",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .schema = "aten::expand(Tensor self, SymInt[] size, *, bool implicit=False) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    const nib_shape *from = &args->in[0]->shape, *to = &args->out[0]->shape;
    int64_t stride[NIB_MAX_DIMS], step[NIB_MAX_DIMS] = {0};
    nib_rearrange_steps(from, stride);
    for (int i = 0, more = to->ndim - from->ndim; i < from->ndim; i++)
        step[i + more] = from->dim[i] == 1 ? 0 : stride[i];
    nib_rearrange(args->ctx, args->in[0], 0, step, args->out[0]);
    return NIB_OK;
}

const nib_impl nib_impl_expand_any = {
    .op = &nib_op_expand, .device = "cpu", .layouts = "self:dense", .run = run};

nib_tensor *nib_expand(const nib_tensor *x, const nib_shape *size) {
    if (!x) return NULL;
    nib_attr attr[NIB_MAX_DIMS + 1] = {{0}};
    if (size->ndim < 0 || size->ndim > NIB_MAX_DIMS)
        return NIB_RAISE_NULL(NIB_E_SHAPE, "expand: a shape of %d dimensions", size->ndim);
    for (int i = 0; i < size->ndim; i++) attr[i].i = size->dim[i];
    return nib_call_one(x->ctx, &nib_op_expand, 1, &x, size->ndim + 1, attr);
}
