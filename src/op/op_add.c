/* op_add.c: a + b of equal shapes. */
#include "base/error.h"
#include "op/calls.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    NIB_TRY(nib_op_want_dense_f32(args->op, "self", args->in[0]));
    NIB_TRY(nib_op_want_dense_f32(args->op, "other", args->in[1]));
    char a[96], b[96];
    if (!nib_shape_equal(&args->in[0]->shape, &args->in[1]->shape))
        return NIB_RAISE(NIB_E_SHAPE, "add: self is %s but other is %s",
                         nib_shape_text(&args->in[0]->shape, a, sizeof a),
                         nib_shape_text(&args->in[1]->shape, b, sizeof b));
    *out = args->in[0]->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

const nib_op nib_op_add = {
    .name = "add",
    .nout = 1,
    .shape = shape,
    .schema = "aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
};

static bool accepts(const nib_call_args *args) { return args->attr[0].d == 1.0; }

static nib_status run(const nib_call_args *args) {
    const float *a = nib_tensor_data(args->in[0]), *b = nib_tensor_data(args->in[1]);
    float *y = nib_tensor_data_mut(args->out[0]);
    const int64_t count = nib_tensor_count(args->out[0]);
    for (int64_t i = 0; i < count; i++) y[i] = a[i] + b[i];
    return NIB_OK;
}

const nib_impl nib_impl_add_f32 = {.op = &nib_op_add,
                                   .device = "cpu",
                                   .layouts = "self:dense f32, other:dense f32, alpha 1",
                                   .accepts = accepts,
                                   .run = run};

nib_tensor *nib_add(const nib_tensor *a, const nib_tensor *b) {
    if (!a || !b) return NULL;
    return nib_call_one(a->ctx, &nib_op_add, 2, (const nib_tensor *[]){a, b}, 1,
                        (nib_attr[]){{.d = 1.0}});
}
