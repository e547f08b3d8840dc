/* op_split.c: a tensor cut along one dimension, each piece by itself. */
#include "base/error.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "op/rearrange.h"

enum { SIZE, DIM }; /* attributes: the length of all pieces but the last */

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0];
    const int64_t size = args->attr[SIZE].i, dim = args->attr[DIM].i;
    char text[96];
    NIB_TRY(nib_op_want_dense(args->op, "self", x));
    if (dim < 0 || dim >= x->shape.ndim || size < 1)
        return NIB_RAISE(NIB_E_ARGUMENT, "split of dimension %lld of %s in pieces of %lld",
                         (long long)dim, nib_shape_text(&x->shape, text, sizeof text),
                         (long long)size);
    const int64_t whole = x->shape.dim[dim], pieces = whole ? (whole - 1) / size + 1 : 1;
    if (pieces > NIB_MAX_OUTPUTS)
        return NIB_RAISE(NIB_E_ARGUMENT, "split: %lld in pieces of %lld are %lld, most are %d",
                         (long long)whole, (long long)size, (long long)pieces, NIB_MAX_OUTPUTS);
    for (int64_t i = 0; i < pieces; i++) {
        const int64_t left = whole - i * size;
        out[i] = x->shape;
        out[i].dim[dim] = left < size ? left : size;
        dtype[i] = x->dtype;
    }
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args) {
    args->in[0] = nib_cat_along(args->out, (size_t)args->call->nout, (int)args->call->attr[DIM].i);
    return nib_gradient_made(args->in[0]);
}

const nib_op nib_op_split = {
    .name = "split",
    .nout = -1,
    .shape = shape,
    .backward = backward,
    .schema = "aten::split.Tensor(Tensor self, SymInt split_size, int dim=0) -> Tensor[]",
};

static nib_status run(const nib_call_args *args) {
    int64_t step[NIB_MAX_DIMS];
    nib_rearrange_steps(&args->in[0]->shape, step);
    for (int i = 0; i < args->nout; i++)
        nib_rearrange(args->ctx, args->in[0], i * args->attr[SIZE].i * step[args->attr[DIM].i],
                      step, args->out[i]);
    return NIB_OK;
}

const nib_impl nib_impl_split_any = {
    .op = &nib_op_split, .device = "cpu", .layouts = "self:dense", .run = run};

int nib_split(const nib_tensor *x, int64_t size, int dim, nib_tensor *out[NIB_MAX_OUTPUTS]) {
    for (int i = 0; i < NIB_MAX_OUTPUTS; i++) out[i] = NULL;
    if (!x) return 0;
    nib_call_args args = {.ctx = x->ctx,
                          .op = &nib_op_split,
                          .nin = 1,
                          .in = {x},
                          .nattr = 2,
                          .attr = {{.i = size}, {.i = dim < 0 ? dim + x->shape.ndim : dim}}};
    if (nib_call(&args) != NIB_OK) return 0;
    for (int i = 0; i < args.nout; i++) out[i] = args.out[i];
    return args.nout;
}
