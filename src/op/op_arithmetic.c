/* op_arithmetic.c: a + b, a - b, a * b, a / b with ATen's broadcasting, one rounding each. */
#include "base/error.h"
#include "op/broadcast.h"
#include "op/calls.h"
#include "op/gradient.h"

/* What an input gets, where it was repeated added up. */
static nib_status give(nib_backward_args *args, int i, const nib_tensor *g) {
    if (!args->wants[i]) return NIB_OK;
    args->in[i] = nib_gradient_unbroadcast(g, &args->call->in[i]->shape);
    return nib_gradient_made(args->in[i]);
}
static void negated(float *dx, const float *g, const float *v, int64_t n, const void *user) {
    (void)v;
    (void)user;
    for (int64_t i = 0; i < n; i++) dx[i] = -g[i];
}
static const nib_tensor *minus(const nib_tensor *g) {
    return g ? nib_gradient_each(g, g, negated, NULL) : NULL;
}

static nib_status add_backward(nib_backward_args *args) {
    NIB_TRY(give(args, 0, args->out[0]));
    return give(args, 1, args->out[0]);
}
static nib_status sub_backward(nib_backward_args *args) {
    NIB_TRY(give(args, 0, args->out[0]));
    return args->wants[1] ? give(args, 1, minus(args->out[0])) : NIB_OK;
}
static nib_status mul_backward(nib_backward_args *args) {
    for (int i = 0; i < 2; i++)
        if (args->wants[i])
            NIB_TRY(
                give(args, i, nib_mul(args->out[0], nib_gradient_floats(args->call->in[1 - i]))));
    return NIB_OK;
}
/* g / b, and -(g ((a / b) / b)) */
static nib_status div_backward(nib_backward_args *args) {
    const nib_tensor *a = nib_gradient_floats(args->call->in[0]),
                     *b = nib_gradient_floats(args->call->in[1]), *g = args->out[0];
    if (args->wants[0]) NIB_TRY(give(args, 0, nib_div(g, b)));
    if (!args->wants[1]) return NIB_OK;
    return give(args, 1, minus(nib_mul(g, nib_div(nib_div(a, b), b))));
}

const nib_op nib_op_add = {
    .name = "add",
    .nout = 1,
    .shape = nib_broadcast_shape,
    .backward = add_backward,
    .schema = "aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
};
const nib_op nib_op_sub = {
    .name = "sub",
    .nout = 1,
    .shape = nib_broadcast_shape,
    .backward = sub_backward,
    .schema = "aten::sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
};
const nib_op nib_op_mul = {
    .name = "mul",
    .nout = 1,
    .shape = nib_broadcast_shape,
    .backward = mul_backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::mul.Tensor(Tensor self, Tensor other) -> Tensor",
};
const nib_op nib_op_div = {
    .name = "div",
    .nout = 1,
    .shape = nib_broadcast_shape,
    .backward = div_backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::div.Tensor(Tensor self, Tensor other) -> Tensor",
};

static bool accepts(const nib_call_args *args) { return args->attr[0].d == 1.0; }

/* Three loops each, so that compilers see plain arrays. */
#define RUN(id, op)                                                                                \
    static void id##_run(const nib_call_args *args, const nib_run *r) {                            \
        const float *a = (const float *)nib_tensor_data(args->in[0]) + r->at[0],                   \
                    *b = (const float *)nib_tensor_data(args->in[1]) + r->at[1];                   \
        float *y = (float *)r->out + r->y;                                                         \
        const int64_t n = r->n;                                                                    \
        if (r->step[0] && r->step[1])                                                              \
            for (int64_t i = 0; i < n; i++) y[i] = a[i] op b[i];                                   \
        else if (r->step[0])                                                                       \
            for (int64_t i = 0; i < n; i++) y[i] = a[i] op * b;                                    \
        else                                                                                       \
            for (int64_t i = 0; i < n; i++) y[i] = *a op b[i * r->step[1]];                        \
    }                                                                                              \
    static nib_status run_##id(const nib_call_args *args) {                                        \
        nib_broadcast(args, id##_run);                                                             \
        return NIB_OK;                                                                             \
    }
RUN(add, +)
RUN(sub, -)
RUN(mul, *)
RUN(div, /)

const nib_impl nib_impl_add_f32 = {.op = &nib_op_add,
                                   .device = "cpu",
                                   .layouts = "self:dense f32, other:dense f32, alpha 1",
                                   .accepts = accepts,
                                   .run = run_add};
const nib_impl nib_impl_sub_f32 = {.op = &nib_op_sub,
                                   .device = "cpu",
                                   .layouts = "self:dense f32, other:dense f32, alpha 1",
                                   .accepts = accepts,
                                   .run = run_sub};
const nib_impl nib_impl_mul_f32 = {.op = &nib_op_mul,
                                   .device = "cpu",
                                   .layouts = "self:dense f32, other:dense f32",
                                   .run = run_mul};
const nib_impl nib_impl_div_f32 = {.op = &nib_op_div,
                                   .device = "cpu",
                                   .layouts = "self:dense f32, other:dense f32",
                                   .run = run_div};

static nib_tensor *call(const nib_op *op, const nib_tensor *a, const nib_tensor *b, int nattr) {
    if (!a || !b) return NULL;
    return nib_call_one(a->ctx, op, 2, (const nib_tensor *[]){a, b}, nattr,
                        (nib_attr[]){{.d = 1.0}});
}
nib_tensor *nib_add(const nib_tensor *a, const nib_tensor *b) { return call(&nib_op_add, a, b, 1); }
nib_tensor *nib_sub(const nib_tensor *a, const nib_tensor *b) { return call(&nib_op_sub, a, b, 1); }
nib_tensor *nib_mul(const nib_tensor *a, const nib_tensor *b) { return call(&nib_op_mul, a, b, 0); }
nib_tensor *nib_div(const nib_tensor *a, const nib_tensor *b) { return call(&nib_op_div, a, b, 0); }
