#include "nn/module.h"
#include "op/calls.h"

static nib_tensor *forward(nib_module *m, nib_tensor *indices) {
    return nib_embedding(nib_module_parameter(m, "weight"), indices);
}

const nib_module_kind nib_kind_embedding = {.name = "Embedding", .forward = forward};

nib_module *nib_embedding_new(nib_ctx *ctx, nib_tensor *weight) {
    return nib_layer_new(ctx, &nib_kind_embedding, 0, 1, 1, (const char *[]){"weight"}, &weight);
}
