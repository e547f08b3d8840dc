#include <nibble/nn.h>

#include "op/calls.h"

static nib_tensor *forward(nib_module *m, nib_tensor *indices) {
    return nib_embedding(nib_module_parameter(m, "weight"), indices);
}

const nib_module_kind nib_kind_embedding = {.name = "Embedding", .forward = forward};

nib_module *nib_embedding_new(nib_ctx *ctx, nib_tensor *weight) {
    nib_module *m = weight ? nib_module_new(ctx, &nib_kind_embedding, NULL) : NULL;
    if (!m) {
        nib_tensor_free(weight);
        return NULL;
    }
    if (nib_module_set(m, "weight", weight) >= NIB_OK) return m;
    nib_module_free(m);
    return NULL;
}
