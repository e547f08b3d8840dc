/* inputs.c: weight-only quantized Linears of a tree meet inputs that are quantized as they come.
 * Only what a weight says of its input changes; its codes stay where and what they are. */
#include <nibble/nn.h>
#include <string.h>

#include "base/error.h"
#include "nn/quantized.h"
#include "quant/codes.h"
#include "tensor/tensor.h"

/* As int8_dynamic_activation_int8_weight has it: each token by itself, without a zero point. */
static nib_act each_token(const nib_tensor *weight) {
    return (nib_act){.when = NIB_ACT_DYNAMIC,
                     .dtype = NIB_I8,
                     .symmetric = true,
                     .block = {2, {1, weight->desc.cols}},
                     .eps = 0x1p-23f};
}

static nib_tensor *weight_of(const nib_module *module) {
    return nib_module_kind_of(module) == &nib_kind_linear ? nib_module_parameter(module, "weight")
                                                          : NULL;
}

/* Every weight is looked at before the first one changes. */
static nib_status check(void *user, const char *dotted, nib_module *module) {
    const nib_tensor *weight = weight_of(module);
    if (!weight || !weight->layout) return NIB_OK;
    if (!nib_qdesc_integer(&weight->desc))
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "%s has weights of %s; inputs in int8 go with weights of integer codes",
                         dotted, nib_dtype_name(weight->desc.code));
    ++*(int64_t *)user;
    return NIB_OK;
}

static nib_status set(void *user, const char *dotted, nib_module *module) {
    nib_tensor *weight = weight_of(module);
    (void)user;
    (void)dotted;
    if (weight && weight->layout && weight->act.when == NIB_ACT_NONE)
        weight->act = each_token(weight);
    return NIB_OK;
}

typedef struct tally {
    int64_t codes, floats, fixed; /* fixed: with static scales */
} tally;

static nib_status count(void *user, const char *dotted, nib_module *module) {
    tally *t = user;
    const nib_tensor *weight = weight_of(module);
    (void)dotted;
    const nib_quantized *q = nib_module_quantized(module);
    if (q && q->input)
        t->fixed++;
    else if (weight && weight->layout)
        ++*(weight->act.when ? &t->codes : &t->floats);
    return NIB_OK;
}

const char *nib_inputs_name(nib_module *root) {
    tally t = {0};
    if (!root || nib_module_walk(root, count, &t) < NIB_OK) return NULL;
    if (t.fixed) return t.floats || t.codes ? "static 8 bits and others" : "static 8 bits";
    return !t.codes ? "float" : !t.floats ? "int8" : "int8 and float";
}

nib_status nib_quantize_inputs(nib_module *root, const char *how) {
    if (!root) return nib_last_error()->status;
    if (!how || strcmp(how, "int8") != 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "activations can be \"int8\", not \"%.40s\"",
                         how ? how : "");
    int64_t quantized = 0;
    NIB_TRY(nib_module_walk(root, check, &quantized));
    if (!quantized)
        return NIB_RAISE(NIB_E_ARGUMENT, "activations in int8 go with integer weights, and no "
                                         "Linear has any; quantize the model first");
    return nib_module_walk(root, set, NULL);
}
