/* layer_norm.c: RMSNorm and LayerNorm. */
#include "nn/module.h"
#include "nn/quantized.h"
#include "op/calls.h"

typedef struct norm {
    double eps;
    int dims; /* LayerNorm: how many of the last dimensions */
} norm;

static void release(nib_module *m) { nib_layer_free(m, sizeof(norm)); }

static nib_tensor *rms_norm_forward(nib_module *m, nib_tensor *x) {
    const norm *self = nib_module_self(m);
    return nib_rms_norm(x, m->weight, self->eps);
}

static nib_tensor *layer_norm_forward(nib_module *m, nib_tensor *x) {
    const norm *self = nib_module_self(m);
    if (nib_quantized_makes_codes(m, x))
        return nib_layer_norm_codes(x, nib_layer_weight(m), nib_layer_bias(m), self->dims,
                                    self->eps, nib_module_buffer(m, "output_scale"),
                                    nib_module_quantized(m)->output);
    return nib_layer_norm(x, nib_layer_weight(m), nib_layer_bias(m), self->dims, self->eps);
}

const nib_module_kind nib_kind_rms_norm = {
    .name = "RMSNorm", .forward = rms_norm_forward, .free = release};
const nib_module_kind nib_kind_layer_norm = {
    .name = "LayerNorm", .forward = layer_norm_forward, .free = release};

/* Takes weight and bias, of which the first `required` must be there. */
static nib_module *norm_new(nib_ctx *ctx, const nib_module_kind *kind, nib_tensor *weight,
                            nib_tensor *bias, int required, norm options) {
    nib_module *m =
        nib_layer_new(ctx, kind, sizeof(norm), 2, required, (const char *[]){"weight", "bias"},
                      (nib_tensor *[]){weight, bias});
    if (m) *(norm *)nib_module_self(m) = options;
    return m;
}

nib_module *nib_rms_norm_new(nib_ctx *ctx, nib_tensor *weight, double eps) {
    return norm_new(ctx, &nib_kind_rms_norm, weight, NIB_NONE, 1, (norm){.eps = eps});
}

nib_module *nib_layer_norm_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias, int dims,
                               double eps) {
    return norm_new(ctx, &nib_kind_layer_norm, weight, bias, 0, (norm){.eps = eps, .dims = dims});
}
