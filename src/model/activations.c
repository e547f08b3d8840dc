/* activations.c: static activations of a checkpoint, put on the modules that it names. */
#include "base/error.h"
#include "io/manifest.h"
#include "model/arch.h"
#include "nn/quantized.h"

static nib_status attach(nib_module *root, const nib_weights *weights,
                         const nib_stored_module *stored) {
    nib_module *m = nib_module_child(root, stored->name);
    float input, output;
    if (!m) return NIB_RAISE(NIB_E_FORMAT, "the map names a module that this model does not have");
    if (!nib_module_site(m))
        return NIB_RAISE(NIB_E_FORMAT,
                         "the map quantizes activations of a %s, which is no Linear, "
                         "Conv2d or LayerNorm",
                         nib_module_kind_of(m)->name);
    NIB_TRY(nib_weights_scale(weights, stored->name, "input_scale", &input));
    NIB_TRY(nib_weights_scale(weights, stored->name, "output_scale", &output));
    NIB_TRY(nib_module_quantize(m, stored->config));
    nib_quantized *q = nib_module_quantized(m);
    q->input_known = q->output_known = true;
    if (!stored->outputs) q->output = (nib_dtype)0;
    NIB_TRY(nib_module_set_scale(m, "input_scale", input));
    return nib_module_set_scale(m, "output_scale", output);
}

nib_status nib_model_attach_activations(nib_module *root, const nib_weights *weights) {
    const nib_stored_module *stored;
    for (size_t i = 0; (stored = nib_weights_module(weights, i)); i++)
        if (attach(root, weights, stored) < NIB_OK)
            return nib_error_at(nib_weights_checkpoint(weights)->path, stored->name, -1);
    return NIB_OK;
}
