/* freeze.c: the weights of modules that carry a config are quantized for good, all of them or none,
 * to the codes that each forward made until now. */
#include <nibble/nn.h>

#include "base/error.h"
#include "nn/quantized.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

typedef struct frozen {
    nib_module *module;
    nib_tensor *weight;
} frozen;

typedef struct work {
    nib_mem *mem;
    frozen *made;
    size_t count, room;
    int carrying;
} work;

static nib_status keep(work *w, nib_module *module, nib_tensor *weight) {
    if (w->count == w->room) {
        const size_t room = w->room ? w->room * 2 : 32;
        frozen *grown =
            nib_mem_realloc(w->mem, w->made, w->room * sizeof *grown, room * sizeof *grown);
        if (!grown) {
            nib_tensor_free(weight);
            return nib_last_error()->status;
        }
        w->made = grown;
        w->room = room;
    }
    w->made[w->count++] = (frozen){module, weight};
    return NIB_OK;
}

static nib_status check(const char *dotted, const nib_quantized *q) {
    if ((!q->input || q->input_known) && (!q->output || q->output_known)) return NIB_OK;
    NIB_RAISE(NIB_E_ARGUMENT, "the activations of this module were never calibrated; run data "
                              "through it between nib_calibrate_begin and _end, or exclude it");
    return nib_error_at(NULL, *dotted ? dotted : "(the root)", -1);
}

static nib_status visit(void *user, const char *dotted, nib_module *module) {
    work *w = user;
    const nib_quantized *q = nib_module_quantized(module);
    if (!q) return NIB_OK;
    w->carrying++;
    NIB_TRY(check(dotted, q));
    const nib_tensor *weight = nib_module_parameter(module, "weight");
    if (!q->weight || !weight || weight->layout) return NIB_OK;
    for (size_t i = 0; i < w->count; i++) /* one module under two names */
        if (w->made[i].module == module) return NIB_OK;
    nib_tensor *made = nib_keep(nib_module_frozen_weight(module));
    if (!made) return nib_error_at(NULL, dotted, -1);
    return keep(w, module, made);
}

nib_status nib_freeze(nib_module *root) {
    if (!root) return nib_last_error()->status;
    work w = {.mem = nib_ctx_mem(nib_module_ctx(root))};
    nib_status status = nib_module_walk(root, visit, &w);
    if (status >= NIB_OK && !w.carrying)
        status = NIB_RAISE(NIB_E_ARGUMENT, "no module is waiting to be frozen; quantize the model "
                                           "with activations, or with unfrozen, first");
    for (size_t i = 0; i < w.count; i++) {
        if (status >= NIB_OK) nib_quantized_forget_inputs(w.made[i].module);
        if (status >= NIB_OK) /* replaces a parameter that is there: cannot fail */
            (void)nib_module_set(w.made[i].module, "weight", w.made[i].weight);
        else
            nib_tensor_free(w.made[i].weight);
    }
    nib_mem_free(w.mem, w.made, w.room * sizeof *w.made);
    return status;
}
