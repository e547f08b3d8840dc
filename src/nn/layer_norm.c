#include <nibble/nn.h>

#include "base/mem.h"
#include "op/calls.h"
#include "tensor/context.h"

typedef struct rms_norm {
    double eps;
} rms_norm;

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    const rms_norm *self = nib_module_self(m);
    return nib_rms_norm(x, nib_module_parameter(m, "weight"), self->eps);
}

static void release(nib_module *m) {
    nib_mem_free(nib_ctx_mem(nib_module_ctx(m)), nib_module_self(m), sizeof(rms_norm));
}

const nib_module_kind nib_kind_rms_norm = {.name = "RMSNorm", .forward = forward, .free = release};

nib_module *nib_rms_norm_new(nib_ctx *ctx, nib_tensor *weight, double eps) {
    rms_norm *self = ctx && weight ? nib_mem_alloc(nib_ctx_mem(ctx), sizeof *self) : NULL;
    nib_module *m = self ? nib_module_new(ctx, &nib_kind_rms_norm, self) : NULL;
    if (!m) {
        nib_mem_free(nib_ctx_mem(ctx), self, sizeof *self);
        nib_tensor_free(weight);
        return NULL;
    }
    self->eps = eps;
    if (nib_module_set(m, "weight", weight) >= NIB_OK) return m;
    nib_module_free(m);
    return NULL;
}
