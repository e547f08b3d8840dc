/* op_activation_more.c: functions of every element that are made of comparisons and few steps, each
 * rounded as it is written. NaN stays NaN. */
#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "op/pointwise.h"
#include "tensor/context.h"

/* Slopes by x, and by the op's numbers a and b. */
typedef struct numbers {
    const nib_kernels *k;
    float a, b, c;
} numbers;
#define GRADIENT(id, slope)                                                                        \
    static void id##_gradient(float *dx, const float *g, const float *v, int64_t n,                \
                              const void *user) {                                                  \
        const float a = ((const numbers *)user)->a, b = ((const numbers *)user)->b;                \
        (void)a, (void)b;                                                                          \
        for (int64_t i = 0; i < n; i++) {                                                          \
            const float x = v[i];                                                                  \
            dx[i] = g[i] * (slope);                                                                \
        }                                                                                          \
    }
GRADIENT(leaky_relu, x > 0 ? 1.0f : a)
GRADIENT(hardtanh, x <= a || x >= b ? 0.0f : 1.0f)
GRADIENT(hardsigmoid, x > -3.0f && x < 3.0f ? 1.0f / 6.0f : 0.0f)
GRADIENT(hardswish, x < -3.0f ? 0.0f : x <= 3.0f ? x / 3.0f + 0.5f : 1.0f)

static void elu_gradient(float *dx, const float *g, const float *x, int64_t n, const void *user) {
    const numbers *e = user;
    for (int64_t i = 0; i < n; i++) dx[i] = x[i] * e->c;
    e->k->exp_f32(dx, dx, (size_t)n);
    for (int64_t i = 0; i < n; i++) dx[i] = g[i] * (x[i] > 0 ? e->b : dx[i] * (e->a * e->b * e->c));
}

static nib_status by_slope(nib_backward_args *args, nib_gradient_run *run) {
    const nib_attr *a = args->call->attr;
    const numbers by = {&args->call->ctx->kernels, (float)a[0].d, (float)a[1].d, (float)a[2].d};
    args->in[0] = nib_gradient_each(args->out[0], args->call->in[0], run, &by);
    return nib_gradient_made(args->in[0]);
}

#define OP(id, text)                                                                               \
    static nib_status id##_backward(nib_backward_args *args) {                                     \
        return by_slope(args, id##_gradient);                                                      \
    }                                                                                              \
    const nib_op nib_op_##id = {.name = #id,                                                       \
                                .nout = 1,                                                         \
                                .codes = nib_pointwise_codes,                                      \
                                .shape = nib_pointwise_shape,                                      \
                                .backward = id##_backward,                                         \
                                .saves = NIB_SAVES_IN(0),                                          \
                                .schema = text}
OP(leaky_relu, "aten::leaky_relu(Tensor self, Scalar negative_slope=0.01) -> Tensor");
OP(hardtanh, "aten::hardtanh(Tensor self, Scalar min_val=-1, Scalar max_val=1) -> Tensor");
OP(elu, "aten::elu(Tensor self, Scalar alpha=1, Scalar scale=1, Scalar input_scale=1) -> Tensor");
OP(hardsigmoid, "aten::hardsigmoid(Tensor self) -> Tensor");
OP(hardswish, "aten::hardswish(Tensor self) -> Tensor");

static float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* One of them, `value` of x and the numbers a, b. Locals, so that compilers see plain arrays. */
#define EACH(id, value)                                                                            \
    static void id(const nib_call_args *args, float *out, const float *from, size_t n) {           \
        const float a = (float)args->attr[0].d, b = (float)args->attr[1].d;                        \
        (void)a, (void)b;                                                                          \
        for (size_t i = 0; i < n; i++) {                                                           \
            const float x = from[i];                                                               \
            out[i] = (value);                                                                      \
        }                                                                                          \
    }
EACH(leaky_relu, x > 0 ? x : x * a)
EACH(hardtanh, clamp(x, a, b))
EACH(hardsigmoid, clamp(x + 3.0f, 0.0f, 6.0f) / 6.0f)
EACH(hardswish, x *clamp(x + 3.0f, 0.0f, 6.0f) / 6.0f)

/* Clevert, Unterthiner and Hochreiter, "Exponential Linear Units", 2015. */
static void elu(const nib_call_args *args, float *out, const float *x, size_t n) {
    enum { RUN = 256 };
    const float positive = (float)args->attr[1].d, by = (float)args->attr[0].d * positive,
                scale = (float)args->attr[2].d;
    float e[RUN];
    for (size_t i = 0; i < n; i += RUN) {
        const size_t here = n - i < RUN ? n - i : RUN;
        for (size_t k = 0; k < here; k++) e[k] = x[i + k] * scale;
        args->ctx->kernels.exp_f32(e, e, here);
        for (size_t k = 0; k < here; k++)
            out[i + k] = x[i + k] > 0 ? x[i + k] * positive : (e[k] - 1.0f) * by;
    }
}

#define IMPL(id)                                                                                   \
    static nib_status run_##id(const nib_call_args *args) { return nib_pointwise(args, id); }      \
    const nib_impl nib_impl_##id##_f32 = {.op = &nib_op_##id,                                      \
                                          .device = "cpu",                                         \
                                          .layouts = "self:dense f32 or codes",                    \
                                          .run = run_##id}
IMPL(leaky_relu);
IMPL(hardtanh);
IMPL(elu);
IMPL(hardsigmoid);
IMPL(hardswish);

static nib_tensor *call(const nib_tensor *x, const nib_op *op, int count, double a, double b,
                        double c) {
    if (!x) return NULL;
    return nib_call_one(x->ctx, op, 1, &x, count, (nib_attr[]){{.d = a}, {.d = b}, {.d = c}});
}
nib_tensor *nib_leaky_relu(const nib_tensor *x, double slope) {
    return call(x, &nib_op_leaky_relu, 1, slope, 0, 0);
}
nib_tensor *nib_hardtanh(const nib_tensor *x, double low, double high) {
    return call(x, &nib_op_hardtanh, 2, low, high, 0);
}
nib_tensor *nib_elu(const nib_tensor *x, double alpha) {
    return call(x, &nib_op_elu, 3, alpha, 1, 1);
}
nib_tensor *nib_hardsigmoid(const nib_tensor *x) {
    return call(x, &nib_op_hardsigmoid, 0, 0, 0, 0);
}
nib_tensor *nib_hardswish(const nib_tensor *x) { return call(x, &nib_op_hardswish, 0, 0, 0, 0); }
