/* layer_dropout.c: Dropout. Each module draws from a stream of its own, each call from a new one.
 */
#include <stdio.h>

#include "base/error.h"
#include "nn/module.h"
#include "op/calls.h"

typedef struct dropout {
    double p;
    uint64_t stream, calls;
} dropout;

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    dropout *d = nib_module_self(m);
    if (!m->training || d->p == 0) return x;
    return nib_dropout(x, d->p, true, m->ctx->seed, d->stream << 32 | (d->calls++ & 0xffffffff));
}
static void describe(const nib_module *m, char *text, size_t room) {
    snprintf(text, room, "p=%g", ((const dropout *)nib_module_self(m))->p);
}
static void release(nib_module *m) { nib_layer_free(m, sizeof(dropout)); }

const nib_module_kind nib_kind_dropout = {
    .name = "Dropout", .forward = forward, .free = release, .describe = describe};

nib_module *nib_dropout_new(nib_ctx *ctx, double p) {
    if (!ctx) return NULL;
    if (!(p >= 0 && p <= 1))
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "a Dropout's probability is %g, want 0 to 1", p);
    nib_module *m = nib_layer_new(ctx, &nib_kind_dropout, sizeof(dropout), 0, 0, NULL, NULL);
    if (m) *(dropout *)nib_module_self(m) = (dropout){.p = p, .stream = ++ctx->streams};
    return m;
}
