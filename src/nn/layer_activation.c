/* layer_activation.c: activations as modules, for Sequential. */
#include <stdio.h>

#include "nn/module.h"
#include "op/calls.h"

typedef struct activation {
    double a, b; /* the function's numbers */
    int dim;     /* Softmax */
    bool by_tanh;
} activation;

#define SELF(m) ((const activation *)nib_module_self(m))
static nib_tensor *relu(nib_module *m, nib_tensor *x) {
    (void)m;
    return nib_relu(x);
}
static nib_tensor *hardtanh(nib_module *m, nib_tensor *x) {
    return nib_hardtanh(x, SELF(m)->a, SELF(m)->b);
}
static nib_tensor *leaky_relu(nib_module *m, nib_tensor *x) {
    return nib_leaky_relu(x, SELF(m)->a);
}
static nib_tensor *elu(nib_module *m, nib_tensor *x) { return nib_elu(x, SELF(m)->a); }
static nib_tensor *gelu(nib_module *m, nib_tensor *x) { return nib_gelu(x, SELF(m)->by_tanh); }
static nib_tensor *silu(nib_module *m, nib_tensor *x) {
    (void)m;
    return nib_silu(x);
}
static nib_tensor *by_tanh(nib_module *m, nib_tensor *x) {
    (void)m;
    return nib_tanh(x);
}
static nib_tensor *sigmoid(nib_module *m, nib_tensor *x) {
    (void)m;
    return nib_sigmoid(x);
}
static nib_tensor *hardswish(nib_module *m, nib_tensor *x) {
    (void)m;
    return nib_hardswish(x);
}
static nib_tensor *hardsigmoid(nib_module *m, nib_tensor *x) {
    (void)m;
    return nib_hardsigmoid(x);
}
static nib_tensor *softmax(nib_module *m, nib_tensor *x) { return nib_softmax(x, SELF(m)->dim); }

static void describe_a(const nib_module *m, char *text, size_t room) {
    snprintf(text, room, "%g", SELF(m)->a);
}
static void describe_both(const nib_module *m, char *text, size_t room) {
    snprintf(text, room, "%g, %g", SELF(m)->a, SELF(m)->b);
}
static void describe_gelu(const nib_module *m, char *text, size_t room) {
    if (SELF(m)->by_tanh) snprintf(text, room, "approximate=tanh");
}
static void describe_dim(const nib_module *m, char *text, size_t room) {
    snprintf(text, room, "dim=%d", SELF(m)->dim);
}
static void release(nib_module *m) { nib_layer_free(m, sizeof(activation)); }

const nib_module_kind nib_kind_relu = {.name = "ReLU", .forward = relu, .free = release};
const nib_module_kind nib_kind_relu6 = {.name = "ReLU6", .forward = hardtanh, .free = release};
const nib_module_kind nib_kind_hardtanh = {
    .name = "Hardtanh", .forward = hardtanh, .free = release, .describe = describe_both};
const nib_module_kind nib_kind_leaky_relu = {
    .name = "LeakyReLU", .forward = leaky_relu, .free = release, .describe = describe_a};
const nib_module_kind nib_kind_elu = {
    .name = "ELU", .forward = elu, .free = release, .describe = describe_a};
const nib_module_kind nib_kind_gelu = {
    .name = "GELU", .forward = gelu, .free = release, .describe = describe_gelu};
const nib_module_kind nib_kind_silu = {.name = "SiLU", .forward = silu, .free = release};
const nib_module_kind nib_kind_tanh = {.name = "Tanh", .forward = by_tanh, .free = release};
const nib_module_kind nib_kind_sigmoid = {.name = "Sigmoid", .forward = sigmoid, .free = release};
const nib_module_kind nib_kind_hardswish = {
    .name = "Hardswish", .forward = hardswish, .free = release};
const nib_module_kind nib_kind_hardsigmoid = {
    .name = "Hardsigmoid", .forward = hardsigmoid, .free = release};
const nib_module_kind nib_kind_softmax = {
    .name = "Softmax", .forward = softmax, .free = release, .describe = describe_dim};

static nib_module *make(nib_ctx *ctx, const nib_module_kind *kind, activation options) {
    nib_module *m = nib_layer_new(ctx, kind, sizeof(activation), 0, 0, NULL, NULL);
    if (m) *(activation *)nib_module_self(m) = options;
    return m;
}

nib_module *nib_relu_new(nib_ctx *ctx) { return make(ctx, &nib_kind_relu, (activation){0}); }
nib_module *nib_relu6_new(nib_ctx *ctx) { return make(ctx, &nib_kind_relu6, (activation){.b = 6}); }
nib_module *nib_hardtanh_new(nib_ctx *ctx, double low, double high) {
    return make(ctx, &nib_kind_hardtanh, (activation){.a = low, .b = high});
}
nib_module *nib_leaky_relu_new(nib_ctx *ctx, double slope) {
    return make(ctx, &nib_kind_leaky_relu, (activation){.a = slope});
}
nib_module *nib_elu_new(nib_ctx *ctx, double alpha) {
    return make(ctx, &nib_kind_elu, (activation){.a = alpha});
}
nib_module *nib_gelu_new(nib_ctx *ctx, bool tanh) {
    return make(ctx, &nib_kind_gelu, (activation){.by_tanh = tanh});
}
nib_module *nib_silu_new(nib_ctx *ctx) { return make(ctx, &nib_kind_silu, (activation){0}); }
nib_module *nib_tanh_new(nib_ctx *ctx) { return make(ctx, &nib_kind_tanh, (activation){0}); }
nib_module *nib_sigmoid_new(nib_ctx *ctx) { return make(ctx, &nib_kind_sigmoid, (activation){0}); }
nib_module *nib_hardswish_new(nib_ctx *ctx) {
    return make(ctx, &nib_kind_hardswish, (activation){0});
}
nib_module *nib_hardsigmoid_new(nib_ctx *ctx) {
    return make(ctx, &nib_kind_hardsigmoid, (activation){0});
}
nib_module *nib_softmax_new(nib_ctx *ctx, int dim) {
    return make(ctx, &nib_kind_softmax, (activation){.dim = dim});
}
