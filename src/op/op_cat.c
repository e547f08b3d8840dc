/* op_cat.c: tensors one after another along the first dimension. */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    int64_t rows = 0;
    if (args->nin < 1 || args->in[0]->shape.ndim < 1)
        return NIB_RAISE(NIB_E_SHAPE, "cat: want at least one tensor of at least one dimension");
    for (int i = 0; i < args->nin; i++) {
        NIB_TRY(nib_op_want_dense_f32(args->op, "tensors", args->in[i]));
        nib_shape like = args->in[i]->shape;
        const bool over = nib_add_i64(rows, like.dim[0], &rows);
        like.dim[0] = args->in[0]->shape.dim[0];
        char a[96], b[96];
        if (over || !nib_shape_equal(&like, &args->in[0]->shape))
            return NIB_RAISE(NIB_E_SHAPE, "cat: %s and %s differ in more than the first dimension",
                             nib_shape_text(&args->in[0]->shape, a, sizeof a),
                             nib_shape_text(&args->in[i]->shape, b, sizeof b));
    }
    *out = args->in[0]->shape;
    out->dim[0] = rows;
    *dtype = NIB_F32;
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args) {
    int64_t row = 0;
    for (int i = 0; i < args->call->nin; i++) {
        const int64_t rows = args->call->in[i]->shape.dim[0];
        const nib_tensor *g = args->out[0];
        if (args->wants[i]) {
            args->in[i] = nib_scope_own(g->ctx, nib_tensor_slice(g, 0, row, rows));
            NIB_TRY(nib_gradient_made(args->in[i]));
        }
        row += rows;
    }
    return NIB_OK;
}

const nib_op nib_op_cat = {
    .name = "cat",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .schema = "aten::cat(Tensor[] tensors, int dim=0) -> Tensor",
};

static bool accepts(const nib_call_args *args) { return args->attr[0].i == 0; }

static nib_status run(const nib_call_args *args) {
    unsigned char *to = nib_tensor_data_mut(args->out[0]);
    for (int i = 0; i < args->nin; i++) {
        const size_t size = nib_tensor_bytes(args->in[i]);
        memcpy(to, nib_tensor_data(args->in[i]), size);
        to += size;
    }
    return NIB_OK;
}

const nib_impl nib_impl_cat_f32 = {.op = &nib_op_cat,
                                   .device = "cpu",
                                   .layouts = "tensors:dense f32, dim 0",
                                   .accepts = accepts,
                                   .run = run};

nib_tensor *nib_cat(const nib_tensor *const tensors[], size_t count) {
    if (!count || count > NIB_MAX_INPUTS)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "cat: %zu tensors, want 1 to %d", count,
                              NIB_MAX_INPUTS);
    for (size_t i = 0; i < count; i++)
        if (!tensors[i]) return NULL;
    return nib_call_one(tensors[0]->ctx, &nib_op_cat, (int)count, tensors, 1,
                        (nib_attr[]){{.i = 0}});
}
