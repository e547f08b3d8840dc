/* format_quanto.c: what optimum-quanto's state_dict() holds after freeze(), as safetensors, with
 * quanto_qmap.json beside it: which module has which type.
 *
 *   8 bits     m.weight._data, m.weight._scale
 *   4, 2 bits  m.weight._data._data, m.weight._scale, m.weight._shift
 *   always     m.input_scale, m.output_scale: scalars, 1 where activations are not quantized
 *
 * Nothing in the tensors tells the weight's shape or group size in 4 and 2 bits: those follow from
 * the model, so such weights are pending until it asks for them. */
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/halffloat.h"
#include "base/json.h"
#include "base/path.h"
#include "io/format.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/dtype.h"

#define QMAP "quanto_qmap.json"

static const nib_layout *layout(const nib_config *config, const nib_qdesc *desc) {
    static const char *const names[] = {"quanto_bytes", "quanto_bits"};
    if (strcmp(config->scheme->system, "quanto") != 0 || desc->shape.ndim == 3) return NULL;
    for (int i = 0; i < 2; i++) {
        const nib_layout *found = nib_layout_find(names[i]);
        if (found && found->holds(desc)) return found;
    }
    return NULL;
}

static char *joined(nib_mem *mem, const char *a, size_t length, const char *b) {
    char *text = nib_mem_alloc(mem, length + strlen(b) + 1);
    if (!text) return NULL;
    memcpy(text, a, length);
    memcpy(text + length, b, strlen(b) + 1);
    return text;
}

static char *part_name(nib_mem *mem, const char *name, const nib_part *part) {
    nib_text text = {.mem = mem};
    nib_text_format(&text, "%s.%s", name, part->suffix);
    return nib_text_take(&text);
}

static void put_scale(nib_stored_constant *c, float scale) {
    const uint16_t half = c->dtype == NIB_F16 ? nib_f32_to_f16(scale) : nib_f32_to_bf16(scale);
    if (c->dtype == NIB_F32)
        memcpy(c->bytes, &scale, sizeof scale);
    else
        memcpy(c->bytes, &half, sizeof half);
}

static nib_status constants(nib_mem *mem, nib_stored *item) {
    static const char *const names[] = {".input_scale", ".output_scale"};
    for (int i = 0; i < 2; i++) {
        nib_stored_constant *c = &item->constants[i];
        c->name = joined(mem, item->name, nib_module_length(item->name), names[i]);
        if (!c->name) return nib_last_error()->status;
        item->nconstants = i + 1;
        c->dtype = item->dtype;
        put_scale(c, 1);
    }
    return NIB_OK;
}

static void scales(nib_stored *item, const nib_stored_module *module) {
    for (int i = 0; i < item->nconstants; i++) put_scale(&item->constants[i], module->scale[i]);
}

/* How the types that the map has words for are spelled there, of weights and of activations. */
static const char *word(const nib_config *config, const char *field) {
    static const char *const words[] = {"qint8",          "qint4",        "qint2",
                                        "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (nib_config_option_is(config, field, words[i])) return words[i];
    return "none";
}

static bool reduced(const nib_config *config) {
    return nib_config_option_int(config, "reduce_range") != 0;
}

/* What a reader makes of a module's entry: "qint4:activations=qint8". The rest of a config goes
 * into a note. */
static nib_status spell(const nib_manifest *manifest, const nib_stored *item, nib_text *out) {
    (void)manifest;
    nib_text_add(out, word(item->config, "weights"));
    if (!nib_config_option_is(item->config, "activations", "none"))
        nib_text_format(out, ":activations=%s%s", word(item->config, "activations"),
                        reduced(item->config) ? ",reduce_range=true" : "");
    return out->failed ? nib_last_error()->status : NIB_OK;
}

static nib_status metadata(const nib_manifest *manifest, size_t shard, nib_metadata_list *out) {
    (void)shard;
    NIB_TRY(nib_metadata_add(out, "format", "pt"));
    return nib_format_note(manifest, spell, out);
}

/* {"weights": "qint8", "activations": "qint8"}; "outputs": false is our word for a module whose
 * outputs stay float, "reduce_range": true for activations of 7 bits; upstream has no words for
 * these and passes over ours. */
static json_t *entry(const nib_config *config, bool weights, bool outputs) {
    json_t *row = json_pack("{s:s, s:s}", "weights", weights ? word(config, "weights") : "none",
                            "activations", word(config, "activations"));
    if (row && ((!outputs && json_object_set_new(row, "outputs", json_false()) != 0) ||
                (reduced(config) && json_object_set_new(row, "reduce_range", json_true()) != 0))) {
        json_decref(row);
        return NULL;
    }
    return row;
}

static const char *side_file(const nib_manifest *manifest, nib_text *text, nib_status *status) {
    json_t *map = json_object();
    bool ok = map != NULL;
    for (size_t i = 0; i < manifest->count && ok; i++) {
        const nib_stored *item = &manifest->items[i];
        if (!item->layout) continue;
        char *module = joined(manifest->mem, item->name, nib_module_length(item->name), "");
        const nib_stored_module *about =
            module ? nib_manifest_module(manifest, module, strlen(module)) : NULL;
        ok = module && json_object_set_new(
                           map, module, entry(item->config, true, !about || about->outputs)) == 0;
        nib_mem_strfree(manifest->mem, module);
    }
    for (size_t i = 0; i < manifest->nmodules && ok; i++) {
        const nib_stored_module *m = &manifest->modules[i];
        if (!m->weights)
            ok = json_object_set_new(map, m->name, entry(m->config, false, m->outputs)) == 0;
    }
    *status = ok ? nib_json_text(map, JSON_INDENT(4), text)
                 : NIB_RAISE(NIB_E_MEMORY, "no memory for " QMAP);
    json_decref(map);
    return QMAP;
}

/* ---- reading ---- */
/* A map that lies beside a single file need not be about it: one with parts of weights it is. */
static bool has_scales(const nib_checkpoint *checkpoint) {
    for (size_t i = 0; i < checkpoint->count; i++)
        if (nib_text_ends(checkpoint->tensors[i].entry->name, ".weight._scale")) return true;
    return false;
}

static nib_status detect(const nib_checkpoint *checkpoint, const json_t *config, bool *speaks) {
    (void)config;
    if (checkpoint->is_file && !has_scales(checkpoint)) return NIB_OK;
    char *path = nib_checkpoint_path(checkpoint, QMAP);
    nib_path_kind kind = NIB_PATH_NONE;
    const nib_status status = path ? nib_path_look(path, true, &kind) : nib_last_error()->status;
    *speaks = status >= NIB_OK && kind == NIB_PATH_FILE;
    nib_mem_strfree(checkpoint->mem, path);
    return status;
}

/* A pending item with what the parts themselves tell. */
static nib_status add_weight(const nib_checkpoint *checkpoint, const char *weight,
                             const nib_config *config, const char *type, nib_manifest *out) {
    const bool packed = strcmp(type, "qint4") == 0 || strcmp(type, "qint2") == 0;
    char *scale_name = joined(out->mem, weight, strlen(weight), "._scale");
    char *data_name =
        scale_name ? joined(out->mem, weight, strlen(weight), packed ? "._data._data" : "._data")
                   : NULL;
    const nib_checkpoint_tensor *scale =
        data_name ? nib_checkpoint_find(checkpoint, scale_name) : NULL;
    const nib_checkpoint_tensor *data =
        data_name ? nib_checkpoint_find(checkpoint, data_name) : NULL;
    nib_status status = data_name ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK && (!scale || !data)) {
        status = NIB_RAISE(NIB_E_FORMAT, "%s says that this weight is %s, but it has no %s", QMAP,
                           type, scale ? data_name : scale_name);
    }
    if (status >= NIB_OK) {
        /* The narrowest shape that has such parts, to have names and count; the real one follows.
         */
        const int64_t codes = packed ? 0 : 1;
        const nib_shape narrow = codes ? data->entry->shape : (nib_shape){2, {1, 32}};
        const nib_site site = {narrow.ndim == 4 ? "conv2d" : "linear", weight, narrow,
                               scale->entry->dtype};
        nib_qdesc desc;
        nib_act in = {0}, act = {0};
        status = config->scheme->plan(config, &site, &desc, &in, &act);
        const nib_layout *held = status >= NIB_OK ? layout(config, &desc) : NULL;
        if (status >= NIB_OK && !held) status = NIB_RAISE(NIB_E_FORMAT, "no layout holds %s", type);
        if (status >= NIB_OK)
            status = nib_manifest_add_quantized(out, weight, config, held, &desc, scale->shard);
        if (status >= NIB_OK) {
            nib_stored *item = &out->items[out->count - 1];
            item->pending = packed;
            if (packed)
                item->shape = (nib_shape){0};
            else
                status = nib_manifest_check_parts(checkpoint, item);
        }
    }
    nib_mem_strfree(out->mem, scale_name);
    nib_mem_strfree(out->mem, data_name);
    return status;
}

static const char *full(const char *type) {
    return strcmp(type, "qfloat8") == 0 ? "qfloat8_e4m3fn" : type;
}

/* "none" for the weights: a norm, of which only the activations are quantized. */
static nib_config *config_of(const char *weights, const char *activations, bool reduce_range) {
    nib_text text = {0};
    nib_text_format(&text, "quanto:weights=%s,activations=%s,reduce_range=%s",
                    strcmp(weights, "none") == 0 ? "qint8" : full(weights), full(activations),
                    reduce_range ? "true" : "false");
    nib_config *config = text.failed ? NULL : nib_manifest_config(text.data);
    nib_text_free(&text);
    return config;
}

/* What a word of ours says, if it is there. */
static nib_status own_word(const json_t *row, const char *key, bool *value) {
    const json_t *said = json_object_get(row, key);
    if (said && !json_is_boolean(said))
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is neither true nor false", key);
    if (said) *value = json_is_true(said);
    return NIB_OK;
}

static nib_status read_module(const nib_checkpoint *checkpoint, const char *module,
                              const json_t *row, const json_t *notes, nib_manifest *out) {
    const char *type, *activations = "none";
    bool outputs = true, reduce_range = false;
    if (!json_is_object(row)) return NIB_RAISE(NIB_E_FORMAT, "the entry is not an object");
    NIB_TRY(nib_json_string(row, "weights", true, &type));
    NIB_TRY(nib_json_string(row, "activations", false, &activations));
    NIB_TRY(own_word(row, "outputs", &outputs));
    NIB_TRY(own_word(row, "reduce_range", &reduce_range));
    const bool active = strcmp(activations, "none") != 0, frozen = strcmp(type, "none") != 0;
    if (!active && !frozen) return NIB_OK;
    char *weight = joined(out->mem, module, strlen(module), ".weight");
    if (!weight) return nib_last_error()->status;
    const char *noted = json_string_value(json_object_get(notes, weight));
    nib_config *config =
        noted ? nib_manifest_config(noted) : config_of(type, activations, reduce_range);
    nib_status status = config ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK && strcmp(config->scheme->system, "quanto") != 0)
        status = NIB_RAISE(NIB_E_FORMAT, "\"%s\" is no type of quanto's", type);
    /* A weight that is there as it is was never frozen, and is float. */
    const bool packed = status >= NIB_OK && frozen && !nib_checkpoint_find(checkpoint, weight);
    if (status >= NIB_OK && frozen && !packed && active)
        status = NIB_RAISE(NIB_E_UNSUPPORTED, "this weight was saved before it was frozen, and its "
                                              "activations are quantized; freeze the model first");
    if (packed) status = add_weight(checkpoint, weight, config, type, out);
    if (status >= NIB_OK && active)
        status =
            nib_manifest_add_module(out, &(nib_stored_module){.name = (char *)(uintptr_t)module,
                                                              .config = config,
                                                              .weights = packed,
                                                              .outputs = outputs});
    nib_mem_strfree(out->mem, weight);
    nib_config_free(config);
    return status;
}

static nib_status read(const nib_checkpoint *checkpoint, const json_t *config, nib_manifest *out) {
    (void)config;
    char *path = nib_checkpoint_path(checkpoint, QMAP), *text = NULL;
    size_t size = 0;
    if (path) text = nib_file_read_whole(out->mem, path, NIB_JSON_MAX_BYTES, &size);
    json_t *map = text ? nib_json_parse(text, size, path, 0) : NULL, *row;
    nib_status status = map ? NIB_OK : nib_last_error()->status;
    if (map && !json_is_object(map)) status = NIB_RAISE(NIB_E_FORMAT, QMAP " is not an object");
    json_t *notes = status >= NIB_OK ? nib_format_noted(checkpoint, &status) : NULL;
    const char *module;
    if (status >= NIB_OK) {
        json_object_foreach(map, module, row) {
            status = read_module(checkpoint, module, row, notes, out);
            if (status >= NIB_OK) continue;
            nib_error_at(path, module, -1);
            break;
        }
    }
    if (status < NIB_OK && path) nib_error_at(path, NULL, -1);
    if (notes) json_decref(notes);
    if (map) json_decref(map);
    if (text) nib_mem_free(out->mem, text, size + 1);
    nib_mem_strfree(out->mem, path);
    return status;
}

const nib_format nib_format_quanto = {
    .name = "quanto",
    .doc = "optimum-quanto's tensors and quanto_qmap.json",
    .layout = layout,
    .part_name = part_name,
    .constants = constants,
    .scales = scales,
    .metadata = metadata,
    .side_file = side_file,
    .detect = detect,
    .read = read,
};
