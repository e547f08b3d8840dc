/* requantize.c: a tree of float modules becomes the quantized one that a state and a map describe,
 * all or nothing. What 4 and 2 bits pack tells no shape; the tree does. */
#include <nibble/nn.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/path.h"
#include "flow/saved.h"
#include "io/checkpoint.h"
#include "nn/quantized.h"
#include "nn/state.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum { MAX_NAME = 640 };

typedef struct named_config {
    char *module;
    nib_module *at;
    nib_config *config;
    bool frozen;  /* the state has the weight's parts */
    bool carried; /* the module carries the config since this call */
    bool outputs;
} named_config;

typedef struct work {
    nib_ctx *ctx;
    nib_mem *mem;
    nib_module *root;
    const nib_named_tensor *tensors;
    size_t count;
    named_config *modules;
    size_t nmodules, room;
} work;

/* ---- the map ---- */

static const char *full(const char *type) {
    return strcmp(type, "qfloat8") == 0 ? "qfloat8_e4m3fn" : type;
}

static nib_tensor *find(const work *w, const char *name) {
    for (size_t i = 0; i < w->count; i++)
        if (w->tensors[i].name && strcmp(w->tensors[i].name, name) == 0)
            return w->tensors[i].tensor;
    return NULL;
}

static const char *joined(char name[MAX_NAME], const char *module, const char *last) {
    snprintf(name, MAX_NAME, "%s%s%s", module, *module ? "." : "", last);
    return name;
}

/* What is wrong with a config that the map asked for is wrong with the map. */
static nib_status maps_fault(void) {
    const nib_error cause = *nib_last_error();
    if (cause.status != NIB_E_ARGUMENT) return cause.status;
    return NIB_RAISE(NIB_E_FORMAT, "%s", cause.what);
}

static nib_status read_entry(work *w, const char *name, const json_t *row) {
    const char *weights, *activations = "none";
    bool outputs = true, inputs = false, reduced = false;
    if (!json_is_object(row)) return NIB_RAISE(NIB_E_FORMAT, "the entry is not an object");
    NIB_TRY(nib_json_string(row, "weights", true, &weights));
    NIB_TRY(nib_json_string(row, "activations", false, &activations));
    NIB_TRY(nib_json_bool(row, "outputs", false, &outputs));
    NIB_TRY(nib_json_bool(row, "inputs", false, &inputs));
    NIB_TRY(nib_json_bool(row, "reduce_range", false, &reduced));
    nib_module *module = nib_module_child(w->root, name);
    if (!module)
        return NIB_RAISE(NIB_E_FORMAT, "the map names a module that this tree does not have");
    nib_text text = {.mem = w->mem};
    const bool norm = strcmp(weights, "none") == 0;
    nib_text_format(&text, "quanto:weights=%s,activations=%s,inputs=%s,reduce_range=%s",
                    norm ? "qint8" : full(weights), full(activations), inputs ? "all" : "linear",
                    reduced ? "true" : "false");
    nib_config *config = text.failed ? NULL : nib_config_parse(text.data);
    nib_text_free(&text);
    if (!config) return maps_fault();
    named_config *m = &w->modules[w->nmodules++];
    char whole[MAX_NAME];
    *m = (named_config){
        .module = nib_mem_strdup(w->mem, name), .at = module, .config = config, .outputs = outputs};
    if (!m->module) return nib_last_error()->status;
    m->frozen = !norm && !find(w, joined(whole, name, "weight"));
    const nib_tensor *weight = nib_module_parameter(module, "weight");
    if (!norm && (!weight || weight->layout || !nib_module_site(module)))
        return NIB_RAISE(NIB_E_FORMAT, "the map gives %s weights to a %s %s", weights,
                         nib_module_kind_of(module)->name,
                         weight && weight->layout ? "that is quantized already"
                                                  : "that has none to quantize");
    return NIB_OK;
}

static nib_status read_map(work *w, const char *text) {
    json_t *map = nib_json_parse(text, strlen(text), NULL, 0), *row;
    if (!map) return nib_last_error()->status;
    nib_status status = NIB_OK;
    const char *name;
    if (!json_is_object(map)) status = NIB_RAISE(NIB_E_FORMAT, "the map is not an object");
    if (status >= NIB_OK) {
        w->room = json_object_size(map);
        w->modules = nib_mem_alloc_array(w->mem, w->room, sizeof *w->modules);
        if (!w->modules) status = nib_last_error()->status;
    }
    if (status >= NIB_OK) json_object_foreach(map, name, row) {
            status = read_entry(w, name, row);
            if (status >= NIB_OK) continue;
            nib_error_at(NULL, name, -1);
            break;
        }
    json_decref(map);
    return status;
}

/* ---- the state, with weights put together from their parts ---- */

static named_config *module_of(const work *w, const char *name, const char *last) {
    const size_t length = strlen(name), tail = strlen(last);
    if (length < tail || strcmp(name + length - tail, last) != 0) return NULL;
    const size_t stem = length == tail ? 0 : length - tail - 1;
    for (size_t i = 0; i < w->nmodules; i++)
        if (strlen(w->modules[i].module) == stem && !memcmp(w->modules[i].module, name, stem))
            return &w->modules[i];
    return NULL;
}

static bool has(void *self, const char *name) {
    const work *w = self;
    const named_config *m = module_of(w, name, "weight");
    char part[MAX_NAME];
    if (!m || !m->frozen) return find(w, name) != NULL;
    snprintf(part, sizeof part, "%s._scale", name); /* its absence is told with what lacks */
    return find(w, part) != NULL;
}

static nib_tensor *assemble(const work *w, const named_config *m, const char *name,
                            const nib_shape *shape) {
    char part[MAX_NAME], got[96], want[96];
    snprintf(part, sizeof part, "%s._scale", name);
    const nib_tensor *scale = find(w, part);
    const nib_site site = {nib_module_site(m->at), name, *shape, scale->dtype};
    nib_qdesc desc;
    nib_act in = {0}, out = {0};
    NIB_TRY_NULL(nib_scheme_plan(m->config, &site, &desc, &in, &out));
    const nib_layout *layout = nib_saved_layout(&desc);
    if (!layout)
        return NIB_RAISE_NULL(NIB_E_FORMAT, "scales of %s do not go with a weight %s",
                              nib_dtype_name(scale->dtype),
                              nib_shape_text(shape, want, sizeof want));
    nib_part parts[NIB_MAX_PARTS];
    nib_storage *storage[NIB_MAX_PARTS];
    size_t offset[NIB_MAX_PARTS];
    const int count = layout->parts(&desc, parts);
    for (int i = 0; i < count; i++) {
        snprintf(part, sizeof part, "%s.%s", name, parts[i].suffix);
        const nib_tensor *t = find(w, part);
        if (!t) return NIB_RAISE_NULL(NIB_E_FORMAT, "the state has no %s", part);
        if (t->layout || t->dtype != parts[i].dtype ||
            !nib_shape_equal(&t->shape, &parts[i].shape) || !nib_tensor_contiguous(t))
            return NIB_RAISE_NULL(
                NIB_E_FORMAT, "%s is %s %s, but this weight calls for %s %s", part,
                nib_dtype_name(t->dtype), nib_shape_text(&t->shape, got, sizeof got),
                nib_dtype_name(parts[i].dtype), nib_shape_text(&parts[i].shape, want, sizeof want));
        storage[i] = t->part[0];
        offset[i] = nib_tensor_offset(t, 0);
    }
    nib_tensor *t = nib_tensor_quantized(w->ctx, layout, &desc, storage, offset);
    if (t && nib_scheme_note(t, m->config) < NIB_OK) {
        nib_tensor_free(t);
        return NULL;
    }
    return t;
}

static nib_tensor *get(void *self, const char *name, const nib_shape *shape) {
    const work *w = self;
    const named_config *m = module_of(w, name, "weight");
    if (m && m->frozen) return assemble(w, m, name, shape);
    nib_tensor *t = find(w, name);
    if (t == NIB_NONE) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "%s cannot be NIB_NONE", name);
    return nib_tensor_retain(t);
}

static const char *no_name(void *self, size_t i) { /* what upstream passes over, so do we */
    (void)self, (void)i;
    return "";
}

/* ---- all of it ---- */

static nib_status take(work *w) {
    for (size_t i = 0; i < w->nmodules; i++) {
        named_config *m = &w->modules[i];
        const bool active = !nib_config_option_is(m->config, "activations", "none");
        if (!active && m->frozen) continue; /* its weight is all there is to it */
        if (nib_module_quantize(m->at, m->config) < NIB_OK) {
            maps_fault();
            return nib_error_at(NULL, m->module, -1);
        }
        m->carried = true;
    }
    const nib_state_source source = {w, 0, no_name, has, get};
    NIB_TRY(nib_state_take(w->root, &source, NULL));
    for (size_t i = 0; i < w->nmodules; i++) {
        nib_quantized *q = nib_module_quantized(w->modules[i].at);
        if (!w->modules[i].carried) continue;
        q->input_known = q->output_known = true;
        if (!w->modules[i].outputs) q->output = (nib_dtype)0;
    }
    return NIB_OK;
}

nib_status nib_requantize(nib_module *root, const nib_named_tensor *tensors, size_t count,
                          const char *map, const char *device) {
    if (!root) return nib_last_error()->status;
    if (!map || (!tensors && count))
        return NIB_RAISE(NIB_E_ARGUMENT, "requantizing needs tensors and the map of modules");
    for (size_t i = 0; i < count; i++)
        if (!tensors[i].tensor) return nib_last_error()->status;
    NIB_TRY(nib_module_to_device(root, device ? device : "cpu"));
    nib_ctx *ctx = nib_module_ctx(root);
    work w = {
        .ctx = ctx, .mem = nib_ctx_mem(ctx), .root = root, .tensors = tensors, .count = count};
    nib_status status = read_map(&w, map);
    if (status >= NIB_OK) status = take(&w);
    for (size_t i = 0; i < w.nmodules; i++) {
        if (status < NIB_OK && w.modules[i].carried) nib_module_unquantize(w.modules[i].at);
        nib_mem_strfree(w.mem, w.modules[i].module);
        nib_config_free(w.modules[i].config);
    }
    nib_mem_free(w.mem, w.modules, w.room * sizeof *w.modules);
    return status;
}

/* ---- from files ---- */

static nib_tensor *read_tensor(nib_ctx *ctx, const nib_checkpoint *c,
                               const nib_checkpoint_tensor *from) {
    nib_tensor *t = nib_tensor_new(ctx, from->entry->dtype, from->entry->shape);
    if (!t || nib_checkpoint_read(c, from, nib_tensor_data_mut(t), from->entry->size, 0) >= NIB_OK)
        return t;
    nib_tensor_free(t);
    return NULL;
}

nib_status nib_requantize_file(nib_module *root, const char *path, const char *device) {
    if (!root) return nib_last_error()->status;
    if (!path) return NIB_RAISE(NIB_E_ARGUMENT, "no path to read the quantized state from");
    nib_ctx *ctx = nib_module_ctx(root);
    nib_mem *mem = nib_ctx_mem(ctx);
    nib_checkpoint *c = nib_checkpoint_open(mem, path);
    if (!c) return nib_last_error()->status;
    size_t size = 0, made = 0;
    char *at = nib_checkpoint_path(c, "quanto_qmap.json");
    char *map = at ? nib_file_read_whole(mem, at, NIB_JSON_MAX_BYTES, &size) : NULL;
    nib_named_tensor *tensors = map ? nib_mem_alloc_array(mem, c->count, sizeof *tensors) : NULL;
    nib_status status = tensors ? NIB_OK : nib_last_error()->status;
    for (; made < c->count && status >= NIB_OK; made++) {
        tensors[made] = (nib_named_tensor){c->tensors[made].entry->name,
                                           read_tensor(ctx, c, &c->tensors[made])};
        if (!tensors[made].tensor) status = nib_last_error()->status;
    }
    if (status >= NIB_OK) status = nib_requantize(root, tensors, c->count, map, device);
    if (status < NIB_OK) nib_error_at(at ? at : path, NULL, -1);
    for (size_t i = 0; i < made; i++) nib_tensor_free(tensors[i].tensor);
    nib_mem_free(mem, tensors, c->count * sizeof *tensors);
    if (map) nib_mem_free(mem, map, size + 1);
    nib_mem_strfree(mem, at);
    nib_checkpoint_close(c);
    return status;
}
