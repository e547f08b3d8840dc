/* op_where.c: what is smaller, and one of two by what holds; with ATen's broadcasting. */
#include "base/error.h"
#include "op/broadcast.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

static nib_status lt_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    if (a->dtype == NIB_I8 && b->dtype == NIB_I8) {
        NIB_TRY(nib_op_want_dense(args->op, "self", a));
        NIB_TRY(nib_op_want_dense(args->op, "other", b));
        *out = a->shape;
        NIB_TRY(nib_broadcast_with(args->op, out, &b->shape));
    } else {
        NIB_TRY(nib_broadcast_shape(args, out, dtype));
    }
    *dtype = NIB_BOOL;
    return NIB_OK;
}

const nib_op nib_op_lt = {
    .name = "lt",
    .nout = 1,
    .shape = lt_shape,
    .schema = "aten::lt.Tensor(Tensor self, Tensor other) -> Tensor",
};

static nib_status where_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    NIB_TRY(nib_op_want_dense(args->op, "condition", args->in[0]));
    if (args->in[0]->dtype != NIB_BOOL)
        return NIB_RAISE(NIB_E_DTYPE, "where: condition is %s, want bool",
                         nib_dtype_name(args->in[0]->dtype));
    NIB_TRY(nib_op_want_dense_f32(args->op, "self", args->in[1]));
    NIB_TRY(nib_op_want_dense_f32(args->op, "other", args->in[2]));
    *out = args->in[1]->shape;
    *dtype = NIB_F32;
    NIB_TRY(nib_broadcast_with(args->op, out, &args->in[2]->shape));
    return nib_broadcast_with(args->op, out, &args->in[0]->shape);
}

/* What was not taken gets zeros; what was repeated, its sum. */
static nib_status where_backward(nib_backward_args *args) {
    const nib_tensor *g = args->out[0], *condition = args->call->in[0];
    nib_tensor *zero = nib_scope_own(g->ctx, nib_tensor_new(g->ctx, NIB_F32, (nib_shape){0}));
    NIB_TRY(nib_gradient_made(zero));
    *(float *)nib_tensor_data_mut(zero) = 0;
    for (int i = 1; i < 3; i++) {
        if (!args->wants[i]) continue;
        const nib_tensor *taken =
            i == 1 ? nib_where(condition, g, zero) : nib_where(condition, zero, g);
        args->in[i] = nib_gradient_unbroadcast(taken, &args->call->in[i]->shape);
        NIB_TRY(nib_gradient_made(args->in[i]));
    }
    return NIB_OK;
}

const nib_op nib_op_where = {
    .name = "where",
    .nout = 1,
    .shape = where_shape,
    .backward = where_backward,
    .saves = NIB_SAVES_IN(0),
    .schema = "aten::where.self(Tensor condition, Tensor self, Tensor other) -> Tensor",
};

#define LESS(id, type)                                                                             \
    static void id(const nib_call_args *args, const nib_run *r) {                                  \
        const type *a = (const type *)nib_tensor_data(args->in[0]) + r->at[0],                     \
                   *b = (const type *)nib_tensor_data(args->in[1]) + r->at[1];                     \
        unsigned char *y = (unsigned char *)r->out + r->y;                                         \
        for (int64_t i = 0; i < r->n; i++) y[i] = a[i * r->step[0]] < b[i * r->step[1]];           \
    }                                                                                              \
    static nib_status run_##id(const nib_call_args *args) {                                        \
        nib_broadcast(args, id);                                                                   \
        return NIB_OK;                                                                             \
    }
LESS(lt_f32, float)
LESS(lt_i8, int8_t)

static bool accepts_i8(const nib_call_args *args) { return args->in[0]->dtype == NIB_I8; }

static bool accepts_f32(const nib_call_args *args) { return args->in[0]->dtype == NIB_F32; }

static void choose(const nib_call_args *args, const nib_run *r) {
    const unsigned char *c = (const unsigned char *)nib_tensor_data(args->in[0]) + r->at[0];
    const float *a = (const float *)nib_tensor_data(args->in[1]) + r->at[1],
                *b = (const float *)nib_tensor_data(args->in[2]) + r->at[2];
    float *y = (float *)r->out + r->y;
    for (int64_t i = 0; i < r->n; i++)
        y[i] = c[i * r->step[0]] ? a[i * r->step[1]] : b[i * r->step[2]];
}

static nib_status run_where(const nib_call_args *args) {
    nib_broadcast(args, choose);
    return NIB_OK;
}

const nib_impl nib_impl_lt_i8 = {.op = &nib_op_lt,
                                 .device = "cpu",
                                 .layouts = "self:dense i8, other:dense i8",
                                 .accepts = accepts_i8,
                                 .run = run_lt_i8};
const nib_impl nib_impl_lt_f32 = {.op = &nib_op_lt,
                                  .device = "cpu",
                                  .layouts = "self:dense f32, other:dense f32",
                                  .accepts = accepts_f32,
                                  .run = run_lt_f32};
const nib_impl nib_impl_where_f32 = {.op = &nib_op_where,
                                     .device = "cpu",
                                     .layouts =
                                         "condition:dense bool, self:dense f32, other:dense f32",
                                     .run = run_where};

nib_tensor *nib_lt(const nib_tensor *a, const nib_tensor *b) {
    if (!a || !b) return NULL;
    return nib_call_one(a->ctx, &nib_op_lt, 2, (const nib_tensor *[]){a, b}, 0, NULL);
}

nib_tensor *nib_where(const nib_tensor *condition, const nib_tensor *self,
                      const nib_tensor *other) {
    if (!condition || !self || !other) return NULL;
    return nib_call_one(condition->ctx, &nib_op_where, 3,
                        (const nib_tensor *[]){condition, self, other}, 0, NULL);
}
