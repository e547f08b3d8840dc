/* layer_pool.c: MaxPool2d, AvgPool2d, AdaptiveAvgPool2d. */
#include <stdio.h>

#include "base/error.h"
#include "nn/module.h"
#include "op/calls.h"

typedef struct pool {
    nib_window window; /* adaptive: size is that of the result */
    bool ceil, padding_counts;
    int64_t divisor;
} pool;

#define SELF(m) ((const pool *)nib_module_self(m))
static nib_tensor *max_forward(nib_module *m, nib_tensor *x) {
    return nib_max_pool2d(x, &SELF(m)->window, SELF(m)->ceil);
}
static nib_tensor *avg_forward(nib_module *m, nib_tensor *x) {
    const pool *p = SELF(m);
    return nib_avg_pool2d(x, &p->window, p->ceil, p->padding_counts, p->divisor);
}
static nib_tensor *adaptive_forward(nib_module *m, nib_tensor *x) {
    if (!x) return NULL;
    const nib_window *w = &SELF(m)->window;
    const nib_shape s = nib_tensor_shape(x);
    const int n = s.ndim;
    return nib_adaptive_avg_pool2d(x, w->size[0] || n < 2 ? w->size[0] : s.dim[n - 2],
                                   w->size[1] || n < 1 ? w->size[1] : s.dim[n - 1]);
}

static void describe(const nib_module *m, char *text, size_t room) {
    const nib_window *w = &SELF(m)->window;
    snprintf(text, room,
             "kernel_size=(%lld, %lld), stride=(%lld, %lld), padding=(%lld, %lld), "
             "dilation=(%lld, %lld), ceil_mode=%s",
             (long long)w->size[0], (long long)w->size[1], (long long)w->stride[0],
             (long long)w->stride[1], (long long)w->padding[0], (long long)w->padding[1],
             (long long)w->dilation[0], (long long)w->dilation[1],
             SELF(m)->ceil ? "True" : "False");
}
static void describe_adaptive(const nib_module *m, char *text, size_t room) {
    const nib_window *w = &SELF(m)->window;
    snprintf(text, room, "output_size=(%lld, %lld)", (long long)w->size[0], (long long)w->size[1]);
}
static void release(nib_module *m) { nib_layer_free(m, sizeof(pool)); }

const nib_module_kind nib_kind_max_pool2d = {
    .name = "MaxPool2d", .forward = max_forward, .free = release, .describe = describe};
const nib_module_kind nib_kind_avg_pool2d = {
    .name = "AvgPool2d", .forward = avg_forward, .free = release, .describe = describe};
const nib_module_kind nib_kind_adaptive_avg_pool2d = {.name = "AdaptiveAvgPool2d",
                                                      .forward = adaptive_forward,
                                                      .free = release,
                                                      .describe = describe_adaptive};

static nib_module *pool_new(nib_ctx *ctx, const nib_module_kind *kind,
                            const nib_pool_options *options) {
    nib_pool_options o = {0};
    if (!ctx) return NULL;
    if (!options || options->kernel_size[0] < 1)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "a %s wants kernel_size", kind->name);
    nib_layer_options(&o, sizeof o, options);
    nib_module *m = nib_layer_new(ctx, kind, sizeof(pool), 0, 0, NULL, NULL);
    if (!m) return NULL;
    pool *p = nib_module_self(m);
    *p = (pool){.ceil = o.ceil_mode, .padding_counts = !o.padding_left_out, .divisor = o.divisor};
    nib_window *w = &p->window;
    for (int i = 0; i < 2; i++) {
        w->size[i] = o.kernel_size[i] ? o.kernel_size[i] : o.kernel_size[0];
        w->stride[i] = o.stride[i] ? o.stride[i] : o.stride[0] ? o.stride[0] : w->size[i];
        w->padding[i] = o.padding[i];
        w->dilation[i] = o.dilation[i] ? o.dilation[i] : o.dilation[0] ? o.dilation[0] : 1;
    }
    return m;
}

nib_module *nib_max_pool2d_new(nib_ctx *ctx, const nib_pool_options *options) {
    return pool_new(ctx, &nib_kind_max_pool2d, options);
}
nib_module *nib_avg_pool2d_new(nib_ctx *ctx, const nib_pool_options *options) {
    return pool_new(ctx, &nib_kind_avg_pool2d, options);
}
nib_module *nib_adaptive_avg_pool2d_new(nib_ctx *ctx, int64_t rows, int64_t columns) {
    nib_module *m =
        nib_layer_new(ctx, &nib_kind_adaptive_avg_pool2d, sizeof(pool), 0, 0, NULL, NULL);
    if (m) *(pool *)nib_module_self(m) = (pool){.window = {.size = {rows, columns}}};
    return m;
}
