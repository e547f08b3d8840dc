/* layer_norm.c: RMSNorm and LayerNorm. */
#include <nibble/nn.h>

#include "base/error.h"
#include "base/mem.h"
#include "op/calls.h"
#include "tensor/context.h"

typedef struct norm {
    double eps;
    int dims; /* LayerNorm: how many of the last dimensions */
} norm;

static void release(nib_module *m) {
    nib_mem_free(nib_ctx_mem(nib_module_ctx(m)), nib_module_self(m), sizeof(norm));
}

static nib_tensor *parameter_or_none(const nib_module *m, const char *name) {
    nib_tensor *t = nib_module_parameter(m, name);
    return t ? t : NIB_NONE;
}

static nib_tensor *rms_norm_forward(nib_module *m, nib_tensor *x) {
    const norm *self = nib_module_self(m);
    return nib_rms_norm(x, nib_module_parameter(m, "weight"), self->eps);
}

static nib_tensor *layer_norm_forward(nib_module *m, nib_tensor *x) {
    const norm *self = nib_module_self(m);
    return nib_layer_norm(x, parameter_or_none(m, "weight"), parameter_or_none(m, "bias"),
                          self->dims, self->eps);
}

const nib_module_kind nib_kind_rms_norm = {
    .name = "RMSNorm", .forward = rms_norm_forward, .free = release};
const nib_module_kind nib_kind_layer_norm = {
    .name = "LayerNorm", .forward = layer_norm_forward, .free = release};

/* A norm with its weight and bias, either of which may be NIB_NONE; takes both in any case. */
static nib_module *norm_new(nib_ctx *ctx, const nib_module_kind *kind, nib_tensor *weight,
                            nib_tensor *bias, norm options) {
    norm *self = ctx && weight && bias ? nib_mem_alloc(nib_ctx_mem(ctx), sizeof *self) : NULL;
    nib_module *m = self ? nib_module_new(ctx, kind, self) : NULL;
    if (!m) {
        nib_mem_free(nib_ctx_mem(ctx), self, sizeof *self);
        goto fail;
    }
    *self = options;
    if (weight != NIB_NONE) {
        nib_tensor *given = weight;
        weight = NIB_NONE;
        if (nib_module_set(m, "weight", given) < NIB_OK) goto fail;
    }
    if (bias != NIB_NONE) {
        nib_tensor *given = bias;
        bias = NIB_NONE;
        if (nib_module_set(m, "bias", given) < NIB_OK) goto fail;
    }
    return m;
fail:
    nib_module_free(m);
    nib_tensor_free(weight);
    nib_tensor_free(bias);
    return NULL;
}

nib_module *nib_rms_norm_new(nib_ctx *ctx, nib_tensor *weight, double eps) {
    if (weight == NIB_NONE)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "an RMSNorm's weight cannot be NIB_NONE");
    return norm_new(ctx, &nib_kind_rms_norm, weight, NIB_NONE, (norm){.eps = eps});
}

nib_module *nib_layer_norm_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias, int dims,
                               double eps) {
    return norm_new(ctx, &nib_kind_layer_norm, weight, bias, (norm){.eps = eps, .dims = dims});
}
