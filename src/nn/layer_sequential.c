#include "nn/module.h"
#include "nn/quantized.h"

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    for (size_t i = 0; i < m->nchildren && x; i++) {
        nib_module *one = m->children[i].module;
        const nib_module *next = i + 1 < m->nchildren ? m->children[i + 1].module : NULL;
        const bool both = next && next->kind == &nib_kind_relu && nib_conv_module_floors(one, x);
        x = both ? nib_conv_module_floored(one, x) : nib_module_forward(one, x);
        i += both;
    }
    return x;
}

const nib_module_kind nib_kind_sequential = {.name = "Sequential", .forward = forward};

nib_module *nib_sequential_new(nib_ctx *ctx) {
    return nib_module_new(ctx, &nib_kind_sequential, NULL);
}

nib_module *nib_sequential_of(nib_ctx *ctx, nib_module *const modules[], size_t count) {
    bool given = ctx && (modules || !count);
    for (size_t i = 0; given && i < count; i++) given = modules[i] != NULL;
    nib_module *m = given ? nib_sequential_new(ctx) : NULL;
    nib_status status = m ? NIB_OK : NIB_E_ARGUMENT;
    for (size_t i = 0; modules && i < count; i++)
        if (status >= NIB_OK)
            status = nib_module_append(m, modules[i]);
        else
            nib_module_free(modules[i]);
    if (status >= NIB_OK) return m;
    nib_module_free(m);
    return NULL;
}
