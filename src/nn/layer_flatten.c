/* layer_flatten.c: Flatten and Identity. */
#include <stdio.h>

#include "nn/module.h"
#include "op/calls.h"

typedef struct flatten {
    int start, end;
} flatten;

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    const flatten *f = nib_module_self(m);
    return nib_flatten(x, f->start, f->end);
}
static nib_tensor *identity(nib_module *m, nib_tensor *x) {
    (void)m;
    return x;
}
static void describe(const nib_module *m, char *text, size_t room) {
    const flatten *f = nib_module_self(m);
    snprintf(text, room, "start_dim=%d, end_dim=%d", f->start, f->end);
}
static void release(nib_module *m) { nib_layer_free(m, sizeof(flatten)); }

const nib_module_kind nib_kind_flatten = {
    .name = "Flatten", .forward = forward, .free = release, .describe = describe};
const nib_module_kind nib_kind_identity = {.name = "Identity", .forward = identity};

nib_module *nib_flatten_new(nib_ctx *ctx, int start, int end) {
    nib_module *m = nib_layer_new(ctx, &nib_kind_flatten, sizeof(flatten), 0, 0, NULL, NULL);
    if (m) *(flatten *)nib_module_self(m) = (flatten){start, end};
    return m;
}
nib_module *nib_identity_new(nib_ctx *ctx) { return nib_module_new(ctx, &nib_kind_identity, NULL); }
