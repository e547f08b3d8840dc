/* op_cat.c: tensors one after another: along a dimension that they have, or along a new one. */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "op/rearrange.h"
#include "tensor/dtype.h"

static nib_status want_all_alike(const nib_call_args *args) {
    if (args->nin < 1)
        return NIB_RAISE(NIB_E_ARGUMENT, "%s: want at least one tensor", args->op->name);
    for (int i = 0; i < args->nin; i++) {
        NIB_TRY(nib_op_want_dense(args->op, "tensors", args->in[i]));
        if (args->in[i]->dtype != args->in[0]->dtype)
            return NIB_RAISE(NIB_E_DTYPE, "%s of %s and %s", args->op->name,
                             nib_dtype_name(args->in[0]->dtype),
                             nib_dtype_name(args->in[i]->dtype));
    }
    return NIB_OK;
}

static nib_status no_dim(const nib_call_args *args) {
    char text[96];
    return NIB_RAISE(NIB_E_SHAPE, "%s: tensors of shape %s have no dimension %lld for it",
                     args->op->name, nib_shape_text(&args->in[0]->shape, text, sizeof text),
                     (long long)args->attr[0].i);
}

static nib_status cat_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    int64_t along = 0;
    const int64_t dim = args->attr[0].i;
    NIB_TRY(want_all_alike(args));
    if (dim < 0 || dim >= args->in[0]->shape.ndim) return no_dim(args);
    for (int i = 0; i < args->nin; i++) {
        nib_shape like = args->in[i]->shape;
        const bool over = nib_add_i64(along, like.dim[dim], &along);
        like.dim[dim] = args->in[0]->shape.dim[dim];
        char a[96], b[96];
        if (over || !nib_shape_equal(&like, &args->in[0]->shape))
            return NIB_RAISE(NIB_E_SHAPE, "cat: %s and %s differ in more than dimension %lld",
                             nib_shape_text(&args->in[0]->shape, a, sizeof a),
                             nib_shape_text(&args->in[i]->shape, b, sizeof b), (long long)dim);
    }
    *out = args->in[0]->shape;
    out->dim[dim] = along;
    *dtype = args->in[0]->dtype;
    return NIB_OK;
}

static nib_status stack_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const int64_t dim = args->attr[0].i;
    NIB_TRY(want_all_alike(args));
    const nib_shape *like = &args->in[0]->shape;
    if (dim < 0 || dim > like->ndim || like->ndim == NIB_MAX_DIMS) return no_dim(args);
    for (int i = 1; i < args->nin; i++) {
        char a[96], b[96];
        if (!nib_shape_equal(&args->in[i]->shape, like))
            return NIB_RAISE(NIB_E_SHAPE, "stack: %s and %s differ",
                             nib_shape_text(like, a, sizeof a),
                             nib_shape_text(&args->in[i]->shape, b, sizeof b));
    }
    *out = (nib_shape){.ndim = like->ndim + 1};
    for (int64_t i = 0; i < out->ndim; i++)
        out->dim[i] = i < dim ? like->dim[i] : i == dim ? args->nin : like->dim[i - 1];
    *dtype = args->in[0]->dtype;
    return NIB_OK;
}

/* Each input gets the gradient of what it became. */
static nib_status backward(nib_backward_args *args) {
    const nib_tensor *g = args->out[0];
    const int64_t dim = args->call->attr[0].i;
    const bool stacked = args->call->op == &nib_op_stack;
    int64_t step[NIB_MAX_DIMS], first = 0;
    nib_rearrange_steps(&g->shape, step);
    const int64_t along = step[dim];
    for (int64_t d = dim; stacked && d + 1 < g->shape.ndim; d++) step[d] = step[d + 1];
    for (int i = 0; i < args->call->nin; i++) {
        const nib_tensor *x = args->call->in[i];
        if (args->wants[i]) {
            args->in[i] = nib_gradient_like(x);
            NIB_TRY(nib_gradient_made(args->in[i]));
            nib_rearrange(g->ctx, g, first * along, step, args->in[i]);
        }
        first += stacked ? 1 : x->shape.dim[dim];
    }
    return NIB_OK;
}

const nib_op nib_op_cat = {
    .name = "cat",
    .nout = 1,
    .shape = cat_shape,
    .backward = backward,
    .schema = "aten::cat(Tensor[] tensors, int dim=0) -> Tensor",
};

const nib_op nib_op_stack = {
    .name = "stack",
    .nout = 1,
    .shape = stack_shape,
    .backward = backward,
    .schema = "aten::stack(Tensor[] tensors, int dim=0) -> Tensor",
};

/* What a tensor has from `dim` on is a run of the result, in either op. */
static nib_status run(const nib_call_args *args) {
    unsigned char *to = nib_tensor_data_mut(args->out[0]);
    int64_t outer = 1;
    for (int64_t i = 0; i < args->attr[0].i; i++) outer *= args->in[0]->shape.dim[i];
    for (int64_t o = 0; o < outer; o++)
        for (int i = 0; i < args->nin; i++) {
            const size_t size = nib_tensor_bytes(args->in[i]) / (size_t)outer;
            memcpy(to, (const unsigned char *)nib_tensor_data(args->in[i]) + (size_t)o * size,
                   size);
            to += size;
        }
    return NIB_OK;
}

const nib_impl nib_impl_cat_any = {
    .op = &nib_op_cat, .device = "cpu", .layouts = "tensors:dense of one dtype", .run = run};
const nib_impl nib_impl_stack_any = {
    .op = &nib_op_stack, .device = "cpu", .layouts = "tensors:dense of one dtype", .run = run};

static nib_tensor *join(const nib_op *op, const nib_tensor *const tensors[], size_t count,
                        int dim) {
    if (!count || count > NIB_MAX_INPUTS)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "%s: %zu tensors, want 1 to %d", op->name, count,
                              NIB_MAX_INPUTS);
    for (size_t i = 0; i < count; i++)
        if (!tensors[i]) return NULL;
    if (dim < 0) dim += tensors[0]->shape.ndim + (op == &nib_op_stack);
    return nib_call_one(tensors[0]->ctx, op, (int)count, tensors, 1, (nib_attr[]){{.i = dim}});
}

nib_tensor *nib_cat(const nib_tensor *const tensors[], size_t count) {
    return join(&nib_op_cat, tensors, count, 0);
}
nib_tensor *nib_cat_along(const nib_tensor *const tensors[], size_t count, int dim) {
    return join(&nib_op_cat, tensors, count, dim);
}
nib_tensor *nib_stack(const nib_tensor *const tensors[], size_t count, int dim) {
    return join(&nib_op_stack, tensors, count, dim);
}
