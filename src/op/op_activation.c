/* op_activation.c: a function of every element. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "op/pointwise.h"
#include "quant/act8.h"
#include "tensor/context.h"

/* Gradients by what was saved: the input x, or where it is enough the result y. */
#define GRADIENT(op, saved, expression)                                                            \
    static void op##_gradient(float *dx, const float *g, const float *v, int64_t n,                \
                              const void *user) {                                                  \
        (void)user;                                                                                \
        for (int64_t i = 0; i < n; i++) dx[i] = expression;                                        \
    }                                                                                              \
    static nib_status op##_backward(nib_backward_args *args) {                                     \
        args->in[0] = nib_gradient_each(args->out[0], args->call->saved, op##_gradient, NULL);     \
        return nib_gradient_made(args->in[0]);                                                     \
    }
GRADIENT(relu, out[0], v[i] <= 0 ? 0 : g[i])
GRADIENT(tanh, out[0], g[i] * (1.0f - v[i] * v[i]))
GRADIENT(sigmoid, out[0], g[i] * ((1.0f - v[i]) * v[i]))

/* s (1 + x (1 - s)), s = sigmoid(x) */
static void silu_gradient(float *dx, const float *g, const float *x, int64_t n, const void *user) {
    ((const nib_kernels *)user)->sigmoid_f32(dx, x, (size_t)n);
    for (int64_t i = 0; i < n; i++) dx[i] = g[i] * (dx[i] * (1.0f + x[i] * (1.0f - dx[i])));
}
static nib_status silu_backward(nib_backward_args *args) {
    args->in[0] = nib_gradient_each(args->out[0], args->call->in[0], silu_gradient,
                                    &args->call->ctx->kernels);
    return nib_gradient_made(args->in[0]);
}

/* By tanh, with u = c (x + a x^3):  0.5 (1 + tanh(u)) + 0.5 x (1 - tanh(u)^2) c (1 + 3 a x^2). */
static void gelu_tanh_gradient(float *dx, const float *g, const float *x, int64_t n,
                               const void *user) {
    const float c = 0x1.988454p-1f, a = 0x1.6e4e26p-5f;
    for (int64_t i = 0; i < n; i++) dx[i] = fmaf(x[i] * x[i] * a, x[i], x[i]) * c;
    ((const nib_kernels *)user)->tanh_f32(dx, dx, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        const float t = dx[i], slope = c * (1.0f + 3.0f * a * x[i] * x[i]);
        dx[i] = g[i] * (0.5f * (1.0f + t) + 0.5f * x[i] * (1.0f - t * t) * slope);
    }
}

/* By erf: the normal distribution's P(x) + x p(x), p(x) = exp(-x^2 / 2) / sqrt(2 pi); gelu(x) is
 * x P(x), and P comes from it, but near 0, where P(x) = 1/2 + x p(0) to f32. */
static void gelu_gradient(float *dx, const float *g, const float *x, int64_t n, const void *user) {
    const nib_kernels *k = user;
    enum { RUN = 256 };
    const float root = 0x1.988454p-2f; /* 1 / sqrt(2 pi) */
    float y[RUN], p[RUN];
    for (int64_t i = 0; i < n; i += RUN) {
        const int64_t here = n - i < RUN ? n - i : RUN;
        const float *v = x + i;
        k->gelu_f32(y, v, (size_t)here);
        for (int64_t j = 0; j < here; j++) p[j] = v[j] * v[j] * -0.5f;
        k->exp_f32(p, p, (size_t)here);
        for (int64_t j = 0; j < here; j++) {
            const float whole = fabsf(v[j]) < 0x1p-12f ? fmaf(v[j], root, 0.5f) : y[j] / v[j];
            dx[i + j] = g[i + j] * (whole + v[j] * (p[j] * root));
        }
    }
}
static nib_status gelu_backward(nib_backward_args *args) {
    const bool by_tanh = strcmp(args->call->attr[0].s, "tanh") == 0;
    args->in[0] =
        nib_gradient_each(args->out[0], args->call->in[0],
                          by_tanh ? gelu_tanh_gradient : gelu_gradient, &args->call->ctx->kernels);
    return nib_gradient_made(args->in[0]);
}

static nib_status gelu_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const char *how = args->attr[0].s;
    if (strcmp(how, "none") != 0 && strcmp(how, "tanh") != 0)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "gelu: approximate is \"%s\"; there are \"none\" and \"tanh\"", how);
    return nib_pointwise_shape(args, out, dtype);
}

/* Integer codes stay codes, of the same scale. */
static bool integer_codes(const nib_call_args *args) {
    return nib_act8_is(args->in[0]) && nib_act8_integer(args->in[0]->desc.code);
}

static nib_status codes_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    if (!integer_codes(args)) return nib_pointwise_shape(args, out, dtype);
    *out = args->in[0]->shape;
    *dtype = args->in[0]->dtype;
    return NIB_OK;
}

static nib_tensor *codes_output(const nib_call_args *args, int index, nib_dtype dtype,
                                nib_shape shape) {
    (void)index;
    if (!integer_codes(args)) return nib_tensor_result(args->ctx, dtype, shape);
    return nib_act8_new(args->ctx, args->in[0]->desc.code, dtype, shape,
                        nib_act8_scale(args->in[0]));
}

const nib_op nib_op_relu = {
    .name = "relu",
    .nout = 1,
    .shape = codes_shape,
    .codes = integer_codes,
    .output = codes_output,
    .backward = relu_backward,
    .saves = NIB_SAVES_OUT(0),
    .schema = "aten::relu(Tensor self) -> Tensor",
};

const nib_op nib_op_neg = {
    .name = "neg",
    .nout = 1,
    .shape = codes_shape,
    .codes = integer_codes,
    .output = codes_output,
    .schema = "aten::neg(Tensor self) -> Tensor",
};

/* Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016. */
const nib_op nib_op_gelu = {
    .name = "gelu",
    .nout = 1,
    .shape = gelu_shape,
    .codes = nib_pointwise_codes,
    .backward = gelu_backward,
    .saves = NIB_SAVES_IN(0),
    .schema = "aten::gelu(Tensor self, *, str approximate='none') -> Tensor",
};

const nib_op nib_op_silu = {
    .name = "silu",
    .nout = 1,
    .shape = nib_pointwise_shape,
    .codes = nib_pointwise_codes,
    .backward = silu_backward,
    .saves = NIB_SAVES_IN(0),
    .schema = "aten::silu(Tensor self) -> Tensor",
};

const nib_op nib_op_tanh = {
    .name = "tanh",
    .nout = 1,
    .shape = nib_pointwise_shape,
    .codes = nib_pointwise_codes,
    .backward = tanh_backward,
    .saves = NIB_SAVES_OUT(0),
    .schema = "aten::tanh(Tensor self) -> Tensor",
};

const nib_op nib_op_sigmoid = {
    .name = "sigmoid",
    .nout = 1,
    .shape = nib_pointwise_shape,
    .codes = nib_pointwise_codes,
    .backward = sigmoid_backward,
    .saves = NIB_SAVES_OUT(0),
    .schema = "aten::sigmoid(Tensor self) -> Tensor",
};

/* -0 stays and NaN stays, as in ATen. */
static void relu_f32(const nib_call_args *args, float *out, const float *x, size_t n) {
    (void)args;
    for (size_t i = 0; i < n; i++) out[i] = x[i] < 0 ? 0 : x[i];
}

static void neg_f32(const nib_call_args *args, float *out, const float *x, size_t n) {
    (void)args;
    for (size_t i = 0; i < n; i++) out[i] = -x[i];
}

static nib_status run_relu(const nib_call_args *args) { return nib_pointwise(args, relu_f32); }

typedef struct codes {
    const int8_t *x;
    int8_t *y;
} codes;

static void relu_i8(void *user, int64_t begin, int64_t end) {
    const int8_t *x = ((const codes *)user)->x;
    int8_t *y = ((const codes *)user)->y;
    for (int64_t i = begin; i < end; i++) y[i] = x[i] < 0 ? 0 : x[i];
}

/* -128 stays. */
static void neg_i8(void *user, int64_t begin, int64_t end) {
    const int8_t *x = ((const codes *)user)->x;
    int8_t *y = ((const codes *)user)->y;
    for (int64_t i = begin; i < end; i++) y[i] = (int8_t)(uint8_t)(0u - (uint8_t)x[i]);
}

/* -64 of a reduced range, which has no 64, becomes 63. */
static void neg_i7(void *user, int64_t begin, int64_t end) {
    const int8_t *x = ((const codes *)user)->x;
    int8_t *y = ((const codes *)user)->y;
    for (int64_t i = begin; i < end; i++) y[i] = (int8_t)(x[i] == -64 ? 63 : -x[i]);
}

static nib_status each_code(const nib_call_args *args, void (*body)(void *, int64_t, int64_t)) {
    codes c = {nib_act8_data(args->in[0]), nib_act8_data_mut(args->out[0])};
    nib_parallel_for(args->ctx->pool, nib_tensor_count(args->out[0]), 1 << 16, body, &c);
    return NIB_OK;
}

static nib_status run_relu_codes(const nib_call_args *args) { return each_code(args, relu_i8); }
static nib_status run_neg_codes(const nib_call_args *args) {
    return each_code(args, args->in[0]->desc.code == NIB_I7 ? neg_i7 : neg_i8);
}

static nib_status run_neg(const nib_call_args *args) { return nib_pointwise(args, neg_f32); }
#define BY_KERNEL(name, kernel)                                                                    \
    static void name(const nib_call_args *args, float *out, const float *x, size_t n) {            \
        args->ctx->kernels.kernel(out, x, n);                                                      \
    }                                                                                              \
    static nib_status run_##name(const nib_call_args *args) { return nib_pointwise(args, name); }
BY_KERNEL(silu, silu_f32)
BY_KERNEL(tanh_of, tanh_f32)
BY_KERNEL(sigmoid, sigmoid_f32)
BY_KERNEL(gelu_by_erf, gelu_f32)
BY_KERNEL(gelu_by_tanh, gelu_tanh_f32)

static nib_status run_gelu(const nib_call_args *args) {
    return strcmp(args->attr[0].s, "tanh") == 0 ? run_gelu_by_tanh(args) : run_gelu_by_erf(args);
}

const nib_impl nib_impl_relu_i8 = {.op = &nib_op_relu,
                                   .device = "cpu",
                                   .layouts = "self:int8 codes",
                                   .accepts = integer_codes,
                                   .run = run_relu_codes};
const nib_impl nib_impl_relu_f32 = {
    .op = &nib_op_relu, .device = "cpu", .layouts = "self:dense f32", .run = run_relu};
const nib_impl nib_impl_neg_i8 = {.op = &nib_op_neg,
                                  .device = "cpu",
                                  .layouts = "self:int8 codes",
                                  .accepts = integer_codes,
                                  .run = run_neg_codes};
const nib_impl nib_impl_neg_f32 = {
    .op = &nib_op_neg, .device = "cpu", .layouts = "self:dense f32", .run = run_neg};
const nib_impl nib_impl_gelu_f32 = {
    .op = &nib_op_gelu, .device = "cpu", .layouts = "self:dense f32 or codes", .run = run_gelu};
const nib_impl nib_impl_silu_f32 = {
    .op = &nib_op_silu, .device = "cpu", .layouts = "self:dense f32 or codes", .run = run_silu};
const nib_impl nib_impl_tanh_f32 = {
    .op = &nib_op_tanh, .device = "cpu", .layouts = "self:dense f32 or codes", .run = run_tanh_of};
const nib_impl nib_impl_sigmoid_f32 = {.op = &nib_op_sigmoid,
                                       .device = "cpu",
                                       .layouts = "self:dense f32 or codes",
                                       .run = run_sigmoid};

nib_tensor *nib_relu(const nib_tensor *x) {
    return x ? nib_call_one(x->ctx, &nib_op_relu, 1, &x, 0, NULL) : NULL;
}

nib_tensor *nib_neg(const nib_tensor *x) {
    return x ? nib_call_one(x->ctx, &nib_op_neg, 1, &x, 0, NULL) : NULL;
}

nib_tensor *nib_gelu(const nib_tensor *x, bool by_tanh) {
    return x ? nib_call_one(x->ctx, &nib_op_gelu, 1, &x, 1,
                            (nib_attr[]){{.s = by_tanh ? "tanh" : "none"}})
             : NULL;
}

nib_tensor *nib_silu(const nib_tensor *x) {
    return x ? nib_call_one(x->ctx, &nib_op_silu, 1, &x, 0, NULL) : NULL;
}

nib_tensor *nib_tanh(const nib_tensor *x) {
    return x ? nib_call_one(x->ctx, &nib_op_tanh, 1, &x, 0, NULL) : NULL;
}

nib_tensor *nib_sigmoid(const nib_tensor *x) {
    return x ? nib_call_one(x->ctx, &nib_op_sigmoid, 1, &x, 0, NULL) : NULL;
}
