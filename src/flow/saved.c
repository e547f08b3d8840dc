/* saved.c: a tree taken apart as optimum-quanto's state_dict() is: dense tensors as they are, a
 * quantized weight in its parts, "fc.weight._data" and "fc.weight._scale", and beside a weight that
 * is quantized or waits to be the two scales of activations, 1 where there are none. */
#include "flow/saved.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "nn/quantized.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"

enum { MAX_NAME = 640 };

const nib_layout *nib_saved_layout(const nib_qdesc *desc) {
    static const char *const names[] = {"quanto_bytes", "quanto_bits"};
    for (int i = 0; i < 2; i++) {
        const nib_layout *found = nib_layout_find(names[i]);
        if (found && found->holds(desc)) return found;
    }
    return NULL;
}

typedef struct walk {
    nib_parameter_visit *visit;
    void *user;
} walk;

/* The same codes in upstream's parts; caller owns. */
static nib_tensor *in_parts(nib_tensor *t) {
    const nib_layout *layout = nib_saved_layout(&t->desc);
    if (!layout)
        return NIB_RAISE_NULL(NIB_E_UNSUPPORTED,
                              "a weight of layout %s has no form in optimum-quanto's state",
                              t->layout->name);
    if (layout == t->layout) return nib_tensor_retain(t);
    nib_codes codes;
    NIB_TRY_NULL(nib_unpack_rows(t, 0, t->desc.rows, &codes));
    codes.desc.shape = t->desc.shape;
    nib_tensor *packed = nib_pack_tensor(t->ctx, layout, &codes);
    nib_codes_free(nib_ctx_mem(t->ctx), &codes);
    return packed;
}

static nib_status give_parts(const walk *w, const char *dotted, nib_module *owner, const char *name,
                             nib_tensor *t) {
    nib_tensor *packed = in_parts(t);
    if (!packed) return nib_error_at(NULL, dotted, -1);
    nib_part parts[NIB_MAX_PARTS];
    const int count = packed->layout->parts(&packed->desc, parts);
    nib_status status = NIB_OK;
    for (int i = 0; i < count && status >= NIB_OK; i++) {
        char part[MAX_NAME];
        snprintf(part, sizeof part, "%s.%s", dotted, parts[i].suffix);
        nib_tensor *dense = nib_tensor_over(packed->ctx, parts[i].dtype, parts[i].shape,
                                            packed->part[i], nib_tensor_offset(packed, i));
        status = dense ? w->visit(w->user, part, owner, name, dense) : nib_last_error()->status;
        nib_tensor_free(dense);
    }
    nib_tensor_free(packed);
    return status;
}

/* Upstream writes scales of 1 beside weights whose activations stay float. */
static nib_status give_ones(const walk *w, const char *dotted, nib_module *owner,
                            const nib_tensor *t) {
    static const char *const names[] = {"input_scale", "output_scale"};
    const size_t length = strlen(dotted) - strlen("weight");
    nib_status status = NIB_OK;
    for (int i = 0; i < 2 && status >= NIB_OK; i++) {
        char name[MAX_NAME];
        snprintf(name, sizeof name, "%.*s%s", (int)length, dotted, names[i]);
        nib_tensor *one = nib_scale_tensor(t->ctx, t->dtype, 1);
        status = one ? w->visit(w->user, name, owner, names[i], one) : nib_last_error()->status;
        nib_tensor_free(one);
    }
    return status;
}

static nib_status give(void *user, const char *dotted, nib_module *owner, const char *name,
                       nib_tensor *t) {
    const walk *w = user;
    if (!t->layout) return w->visit(w->user, dotted, owner, name, t);
    NIB_TRY(give_parts(w, dotted, owner, name, t));
    if (strcmp(name, "weight") != 0 || nib_module_buffer(owner, "input_scale")) return NIB_OK;
    return give_ones(w, dotted, owner, t);
}

nib_status nib_module_walk_saved(nib_module *root, nib_parameter_visit *visit, void *user) {
    if (!root) return nib_last_error()->status;
    if (!visit) return NIB_RAISE(NIB_E_ARGUMENT, "walking needs a function to visit tensors with");
    walk w = {visit, user};
    return nib_module_walk_state(root, give, &w);
}

/* ---- the map ---- */

static const char *word(const nib_config *config, const char *field) {
    static const char *const words[] = {"qint8",          "qint4",        "qint2",
                                        "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz"};
    for (size_t i = 0; config && i < sizeof words / sizeof *words; i++)
        if (nib_config_option_is(config, field, words[i])) return words[i];
    return "none";
}

static nib_status add_entry(void *user, const char *dotted, nib_module *module) {
    json_t *map = user;
    const nib_quantized *q = nib_module_quantized(module);
    const nib_tensor *weight = nib_module_parameter(module, "weight");
    const nib_config *config = q ? q->config : weight && weight->layout ? weight->config : NULL;
    if (!q && !(weight && weight->layout)) return NIB_OK;
    if (!config || strcmp(config->scheme->system, "quanto") != 0) {
        NIB_RAISE(NIB_E_UNSUPPORTED, "this weight was quantized by %s; the map is optimum-quanto's",
                  config ? config->scheme->name : "a scheme that is not known");
        return nib_error_at(NULL, dotted, -1);
    }
    json_t *row =
        json_pack("{s:s, s:s}", "weights", q && !q->weight ? "none" : word(config, "weights"),
                  "activations", word(config, "activations"));
    if (row && q && q->activations && !q->output &&
        json_object_set_new(row, "outputs", json_false()) != 0) {
        json_decref(row);
        row = NULL;
    }
    const bool convolves = nib_conv_module_groups(module) > 0;
    if (row && q && convolves && q->input && json_object_set_new(row, "inputs", json_true()) != 0) {
        json_decref(row);
        row = NULL;
    }
    if (row && nib_config_option_int(config, "reduce_range") &&
        json_object_set_new(row, "reduce_range", json_true()) != 0) {
        json_decref(row);
        row = NULL;
    }
    return json_object_set_new(map, dotted, row) == 0
               ? NIB_OK
               : NIB_RAISE(NIB_E_MEMORY, "no memory for the map of quantized modules");
}

char *nib_quantization_map(nib_module *root) {
    if (!root) return NULL;
    json_t *map = json_object();
    nib_text text = {0};
    char *out = NULL;
    if (!map) return NIB_RAISE_NULL(NIB_E_MEMORY, "no memory for the map of quantized modules");
    if (nib_module_walk(root, add_entry, map) >= NIB_OK &&
        nib_json_text(map, JSON_INDENT(4), &text) >= NIB_OK)
        out = nib_mem_strdup(NULL, text.data);
    nib_text_free(&text);
    json_decref(map);
    return out;
}
