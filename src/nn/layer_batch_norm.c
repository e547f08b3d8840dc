/* layer_batch_norm.c: BatchNorm1d, BatchNorm2d and GroupNorm. */
#include <stdio.h>

#include "base/error.h"
#include "nn/module.h"
#include "op/calls.h"

typedef struct norm {
    int64_t groups; /* GroupNorm */
    double eps, momentum;
    bool cumulative;
} norm;

/* How far this batch moves the running statistics, and one more batch seen. */
static double next_momentum(nib_module *m, const norm *n) {
    nib_tensor *seen = nib_module_buffer(m, "num_batches_tracked");
    int64_t *count = seen ? nib_tensor_data_mut(seen) : NULL;
    if (!count) return n->momentum;
    ++*count;
    return n->cumulative ? 1 / (double)*count : n->momentum;
}

static nib_tensor *batch_norm(nib_module *m, nib_tensor *x) {
    const norm *n = nib_module_self(m);
    nib_tensor *mean = nib_module_buffer(m, "running_mean"),
               *variance = nib_module_buffer(m, "running_var");
    const bool running = mean && variance, training = m->training || !running;
    const double momentum = m->training && running ? next_momentum(m, n) : n->momentum;
    return nib_batch_norm(x, nib_layer_weight(m), nib_layer_bias(m), running ? mean : NIB_NONE,
                          running ? variance : NIB_NONE, training, momentum, n->eps);
}

static nib_tensor *batch_norm1d(nib_module *m, nib_tensor *x) {
    const int ndim = nib_tensor_shape(x).ndim;
    if (x && ndim != 2 && ndim != 3)
        return NIB_RAISE_NULL(NIB_E_SHAPE,
                              "a BatchNorm1d takes [N, C] or [N, C, L], not %d dimensions", ndim);
    return batch_norm(m, x);
}
static nib_tensor *batch_norm2d(nib_module *m, nib_tensor *x) {
    const int ndim = nib_tensor_shape(x).ndim;
    if (x && ndim != 4)
        return NIB_RAISE_NULL(NIB_E_SHAPE, "a BatchNorm2d takes [N, C, H, W], not %d dimensions",
                              ndim);
    return batch_norm(m, x);
}
static nib_tensor *group_norm(nib_module *m, nib_tensor *x) {
    const norm *n = nib_module_self(m);
    return nib_group_norm(x, n->groups, nib_layer_weight(m), nib_layer_bias(m), n->eps);
}

static void describe(const nib_module *m, char *text, size_t room) {
    const norm *n = nib_module_self(m);
    snprintf(text, room, "eps=%g, momentum=%g", n->eps, n->momentum);
}
static void describe_group(const nib_module *m, char *text, size_t room) {
    const norm *n = nib_module_self(m);
    snprintf(text, room, "%lld, eps=%g", (long long)n->groups, n->eps);
}
static void release(nib_module *m) { nib_layer_free(m, sizeof(norm)); }

const nib_module_kind nib_kind_batch_norm1d = {
    .name = "BatchNorm1d", .forward = batch_norm1d, .free = release, .describe = describe};
const nib_module_kind nib_kind_batch_norm2d = {
    .name = "BatchNorm2d", .forward = batch_norm2d, .free = release, .describe = describe};
const nib_module_kind nib_kind_group_norm = {
    .name = "GroupNorm", .forward = group_norm, .free = release, .describe = describe_group};

/* The buffers are the caller's to give or leave out together; the counter is ours. */
static nib_status add_running(nib_module *m, nib_tensor *mean, nib_tensor *variance) {
    nib_status status = NIB_OK;
    if ((mean == NIB_NONE) != (variance == NIB_NONE)) {
        NIB_RAISE(NIB_E_ARGUMENT, "running_mean and running_var come together, or neither");
        nib_tensor_free(mean);
        nib_tensor_free(variance);
        return NIB_E_ARGUMENT;
    }
    if (mean == NIB_NONE) return NIB_OK;
    status = nib_module_set_buffer(m, "running_mean", mean);
    if (status < NIB_OK)
        nib_tensor_free(variance);
    else
        status = nib_module_set_buffer(m, "running_var", variance);
    if (status < NIB_OK) return status;
    nib_tensor *seen = nib_tensor_new(m->ctx, NIB_I64, (nib_shape){0});
    int64_t *count = seen ? nib_tensor_data_mut(seen) : NULL;
    if (count) *count = 0;
    return nib_module_set_buffer(m, "num_batches_tracked", seen);
}

static nib_module *batch_norm_new(nib_ctx *ctx, const nib_module_kind *kind, nib_tensor *weight,
                                  nib_tensor *bias, nib_tensor *mean, nib_tensor *variance,
                                  const nib_batch_norm_options *options) {
    nib_batch_norm_options o = {0};
    nib_layer_options(&o, sizeof o, options);
    nib_module *m = mean && variance ? nib_layer_new(ctx, kind, sizeof(norm), 2, 0,
                                                     (const char *[]){"weight", "bias"},
                                                     (nib_tensor *[]){weight, bias})
                                     : NULL;
    if (!m) {
        if (!mean || !variance) {
            nib_tensor_free(weight);
            nib_tensor_free(bias);
        }
        nib_tensor_free(mean);
        nib_tensor_free(variance);
        return NULL;
    }
    *(norm *)nib_module_self(m) = (norm){.eps = o.eps != 0 ? o.eps : 1e-5,
                                         .momentum = o.momentum != 0 ? o.momentum : 0.1,
                                         .cumulative = o.cumulative};
    if (add_running(m, mean, variance) >= NIB_OK) return m;
    nib_module_free(m);
    return NULL;
}

nib_module *nib_batch_norm1d_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias,
                                 nib_tensor *mean, nib_tensor *variance,
                                 const nib_batch_norm_options *options) {
    return batch_norm_new(ctx, &nib_kind_batch_norm1d, weight, bias, mean, variance, options);
}
nib_module *nib_batch_norm2d_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias,
                                 nib_tensor *mean, nib_tensor *variance,
                                 const nib_batch_norm_options *options) {
    return batch_norm_new(ctx, &nib_kind_batch_norm2d, weight, bias, mean, variance, options);
}

nib_module *nib_group_norm_new(nib_ctx *ctx, int64_t groups, nib_tensor *weight, nib_tensor *bias,
                               double eps) {
    nib_module *m =
        nib_layer_new(ctx, &nib_kind_group_norm, sizeof(norm), 2, 0,
                      (const char *[]){"weight", "bias"}, (nib_tensor *[]){weight, bias});
    if (m) *(norm *)nib_module_self(m) = (norm){.groups = groups, .eps = eps};
    return m;
}
