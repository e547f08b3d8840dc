/* format_torchao.c: checkpoints as transformers and torchao write them, safetensors only.
 *
 * A weight "a.b.weight" is stored as "a.b._weight_qdata", "a.b._weight_scale" ... __metadata__ has
 * a JSON text for every tensor of the model, {"_type": "Tensor"} for a plain one, and for a
 * quantized one its class, the attributes that are not tensors, and the names of those that are;
 * "tensor_names" lists them all. Every file repeats all of it, since a reader merges the files.
 * config.json has "quantization_config" with quant_method "torchao" and one config for all, or
 * FqnToConfig with one for each module. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "io/format.h"
#include "io/torchao_config.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/dtype.h"

/* Which class holds which schemes in which layout, and its data names in upstream's order. */
static const struct tensor_class {
    const char *type, *layout, *data_names[4];
    const char *weight_only, *dynamic; /* schemes; NULL: none with activations quantized */
} classes[] = {
    {"Int8Tensor",
     "int8_row",
     {"zero_point", "qdata", "scale"},
     "int8_weight_only",
     "int8_dynamic_activation_int8_weight"},
    {"IntxUnpackedToInt8Tensor",
     "intx_unpacked",
     {"qdata", "scale", "zero_point"},
     "intx_weight_only",
     "int8_dynamic_activation_int4_weight"},
    {"Float8Tensor", "f8_row", {"qdata", "scale"}, "float8_weight_only", NULL},
    {"Int4Tensor", "int4_plain", {"qdata", "scale", "zero_point"}, "int4_weight_only", NULL},
    {"Int4TilePackedTo4dTensor",
     "int4_tile_packed",
     {"qdata", "scale_and_zero"},
     "int4_weight_only",
     NULL},
};
enum { CLASSES = sizeof classes / sizeof *classes };

static bool holds_scheme(const struct tensor_class *c, const char *scheme) {
    return strcmp(c->weight_only, scheme) == 0 || (c->dynamic && strcmp(c->dynamic, scheme) == 0);
}

static bool tiled(const struct tensor_class *c) {
    return strcmp(c->layout, "int4_tile_packed") == 0;
}

static const nib_layout *layout(const nib_config *config, const nib_qdesc *desc) {
    if (desc->shape.ndim != 2) return NULL;
    for (int i = 0; i < CLASSES; i++) {
        if (!holds_scheme(&classes[i], config->scheme->name)) continue;
        if (tiled(&classes[i]) != nib_config_option_is(config, "numerics", "tinygemm")) continue;
        const nib_layout *found = nib_layout_find(classes[i].layout);
        if (found && found->holds(desc)) return found;
    }
    return NULL;
}

static const struct tensor_class *class_of(const nib_stored *item) {
    for (int i = 0; i < CLASSES; i++)
        if (strcmp(classes[i].layout, item->layout->name) == 0) return &classes[i];
    return NULL;
}

/* "a.b.weight" and "qdata" -> "a.b._weight_qdata" */
static char *flat_name(nib_mem *mem, const char *name, const char *data) {
    const char *dot = strrchr(name, '.');
    nib_text text = {.mem = mem};
    if (!dot)
        return NIB_RAISE_NULL(
            NIB_E_UNSUPPORTED,
            "torchao's format needs a dot in the name of a weight, \"%s\" has none", name);
    nib_text_format(&text, "%.*s._%s_%s", (int)(dot - name), name, dot + 1, data);
    return nib_text_take(&text);
}

static char *part_name(nib_mem *mem, const char *name, const nib_part *part) {
    return flat_name(mem, name, part->suffix);
}

/* ---- writing ---- */
static json_t *list_of(const int64_t *values, int count) {
    json_t *list = json_array();
    int failed = 0;
    for (int i = 0; i < count; i++) failed |= json_array_append_new(list, json_integer(values[i]));
    if (!failed) return list;
    json_decref(list);
    return NULL;
}

/* The attributes in the order in which upstream's classes name them. */
static json_t *attributes(const nib_stored *item, const struct tensor_class *c) {
    const nib_qdesc *d = &item->desc;
    const int64_t block[2] = {d->block_rows, d->block_cols}, shape[2] = {d->rows, d->cols};
    const bool dynamic = c->dynamic && strcmp(item->config->scheme->name, c->dynamic) == 0;
    if (strcmp(c->type, "Int8Tensor") == 0)
        return json_pack("{s:o, s:b, s:o, s:o}", "act_quant_kwargs",
                         dynamic ? nib_torchao_act(item->config) : json_null(), "reduce_range",
                         dynamic && nib_config_option_int(item->config, "reduce_range"),
                         "block_size", list_of(block, 2), "dtype", nib_torchao_dtype(d->math));
    if (strcmp(c->type, "Float8Tensor") == 0)
        return json_pack("{s:o, s:n, s:n, s:{s:s, s:s}, s:o}", "block_size", list_of(block, 2),
                         "mm_config", "act_quant_kwargs", "kernel_preference", "_type",
                         "KernelPreference", "_data", "AUTO", "dtype", nib_torchao_dtype(d->math));
    if (strcmp(c->type, "IntxUnpackedToInt8Tensor") == 0)
        return json_pack("{s:o, s:o, s:o, s:s?}", "target_dtype", nib_torchao_dtype(d->code),
                         "block_size", list_of(block, 2), "dtype", nib_torchao_dtype(d->math),
                         "activation_quantization", dynamic ? "int8_asym_per_token" : NULL);
    if (strcmp(c->type, "Int4Tensor") == 0)
        return json_pack("{s:o, s:o, s:o}", "activation_dtype", nib_torchao_dtype(NIB_BF16),
                         "block_size", list_of(block, 2), "shape",
                         list_of(shape, 2)); /* bf16 whatever the weight's */
    return json_pack("{s:o, s:o}", "block_size", list_of(block, 2), "shape", list_of(shape, 2));
}

static json_t *describe(const nib_stored *item) {
    const struct tensor_class *c = item->layout ? class_of(item) : NULL;
    if (!c) return json_pack("{s:s}", "_type", "Tensor");
    json_t *names = json_array();
    int failed = 0;
    for (int i = 0; i < 4 && c->data_names[i]; i++)
        failed |= json_array_append_new(names, json_string(c->data_names[i]));
    if (failed) {
        json_decref(names);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:o}", "_type", c->type, "_data", attributes(item, c),
                     "_tensor_data_names", names);
}

static nib_status add_text(nib_metadata_list *out, const char *key, json_t *value) {
    nib_text text = {.mem = out->mem};
    nib_status status = nib_json_text(value, 0, &text); /* ", " and ": ", as Python's json */
    if (status >= NIB_OK) status = nib_metadata_add(out, key, text.data);
    nib_text_free(&text);
    json_decref(value);
    return status;
}

static nib_status spell(const nib_manifest *manifest, const nib_stored *item, nib_text *out);

static nib_status metadata(const nib_manifest *manifest, size_t shard, nib_metadata_list *out) {
    (void)shard;
    json_t *names = json_array();
    NIB_TRY_GOTO(nib_metadata_add(out, "format", "pt"), fail);
    for (size_t i = 0; i < manifest->count; i++) {
        if (json_array_append_new(names, json_string(manifest->items[i].name)) != 0) goto full;
        NIB_TRY_GOTO(add_text(out, manifest->items[i].name, describe(&manifest->items[i])), fail);
    }
    if (manifest->tied) { /* upstream goes by the model's state_dict(), where it is */
        if (json_array_append_new(names, json_string(manifest->tied)) != 0) goto full;
        NIB_TRY_GOTO(add_text(out, manifest->tied, describe(&(nib_stored){0})), fail);
    }
    NIB_TRY(add_text(out, "tensor_names", names));
    return nib_format_note(manifest, spell, out);
full:
    NIB_RAISE(NIB_E_MEMORY, "no memory for \"tensor_names\"");
fail:
    json_decref(names);
    return nib_last_error()->status;
}

/* The config that all quantized weights share, when all other matrices are of kinds that are left
 * anyway; else NULL. */
static const nib_config *shared_config(const nib_manifest *manifest) {
    const nib_config *first = NULL;
    for (size_t i = 0; i < manifest->count; i++) {
        const nib_stored *item = &manifest->items[i];
        bool same = true;
        if (!item->config) {
            if (item->shape.ndim == 2 && nib_text_ends(item->name, "_proj.weight")) return NULL;
            continue;
        }
        if (strcmp(item->name, "lm_head.weight") == 0) return NULL;
        if (first)
            same = nib_config_same(first, item->config);
        else
            first = item->config;
        if (!same) return NULL;
    }
    return first;
}

/* One config for all, or a config or null for each module; NULL: no memory. */
static json_t *quant_type(const nib_manifest *manifest) {
    const nib_config *shared = shared_config(manifest);
    if (shared) return nib_torchao_config(shared);
    json_t *map = json_object();
    bool ok = map != NULL;
    for (size_t i = 0; i < manifest->count && ok; i++) {
        const nib_stored *item = &manifest->items[i];
        if (item->shape.ndim != 2) continue;
        char *module = nib_mem_strdup(manifest->mem, item->name);
        if (module) {
            const char end = module[nib_module_length(item->name)];
            module[nib_module_length(item->name)] = '\0';
            ok = json_object_set_new(map, module,
                                     item->config ? nib_torchao_config(item->config)
                                                  : json_null()) == 0;
            module[nib_module_length(item->name)] = end;
        }
        ok = ok && module;
        nib_mem_strfree(manifest->mem, module);
    }
    if (!ok) {
        json_decref(map);
        return NULL;
    }
    return json_pack("{s:{s:O, s:o}, s:s, s:i}", "_data", "fqn_to_config", map,
                     "module_fqn_to_config", map, "_type", "FqnToConfig", "_version", 1);
}

static nib_status config(const nib_manifest *manifest, json_t *root) {
    bool head = false; /* null leaves the head out, so that [] must say: nothing */
    for (size_t i = 0; i < manifest->count; i++)
        head |= manifest->items[i].layout && strcmp(manifest->items[i].name, "lm_head.weight") == 0;
    json_t *type = quant_type(manifest);
    if (!type) return NIB_RAISE(NIB_E_MEMORY, "no memory for quantization_config");
    json_t *about =
        json_pack("{s:b, s:o, s:s, s:{s:o}, s:b}", "include_input_output_embeddings", 0,
                  "modules_to_not_convert", head ? json_array() : json_null(), "quant_method",
                  "torchao", "quant_type", "default", type, "untie_embedding_weights", 0);
    if (about && json_object_set_new(root, "quantization_config", about) == 0) return NIB_OK;
    return NIB_RAISE(NIB_E_MEMORY, "no memory for quantization_config");
}

/* ---- reading ---- */
static const json_t *default_config(const json_t *root) {
    return json_object_get(json_object_get(nib_format_about(root), "quant_type"), "default");
}

static nib_status detect(const nib_checkpoint *checkpoint, const json_t *root, bool *speaks) {
    const char *method = nib_format_method(root);
    *speaks = method ? strcmp(method, "torchao") == 0
                     : nib_checkpoint_metadata(checkpoint, "tensor_names") != NULL;
    return NIB_OK;
}

/* The config of one weight's module, for what its own metadata does not tell; NULL: none. */
static const json_t *module_config(const json_t *root, const char *weight) {
    const json_t *whole = default_config(root), *data = json_object_get(whole, "_data");
    const json_t *map = json_object_get(data, "fqn_to_config");
    if (!map) return data;
    const char *module;
    json_t *own;
    json_object_foreach((json_t *)(uintptr_t)map, module, own) {
        const size_t length = strlen(module);
        if (length == nib_module_length(weight) && memcmp(module, weight, length) == 0)
            return json_object_get(own, "_data");
    }
    return json_object_get(json_object_get(map, "_default"), "_data");
}

static nib_status get_dims(const json_t *data, const char *key, int64_t out[2]) {
    json_t *list;
    NIB_TRY(nib_json_array(data, key, true, &list));
    if (json_array_size(list) != 2)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "\"%s\" has %zu dimensions; only matrices are known here", key,
                         json_array_size(list));
    for (size_t i = 0; i < 2; i++) {
        out[i] = json_integer_value(json_array_get(list, i));
        if (out[i] < 1) return NIB_RAISE(NIB_E_FORMAT, "\"%s\" holds %lld", key, (long long)out[i]);
    }
    return NIB_OK;
}

/* What reading will make of a weight as it is written. */
static nib_status spell(const nib_manifest *manifest, const nib_stored *item, nib_text *out) {
    const nib_qdesc *d = &item->desc;
    json_t *said = describe(item),
           *whole = manifest->alone ? NULL : nib_torchao_config(item->config);
    nib_status status = said && (whole || manifest->alone)
                            ? NIB_OK
                            : NIB_RAISE(NIB_E_MEMORY, "no memory for a config");
    if (status >= NIB_OK)
        status =
            nib_torchao_config_text(&(nib_torchao_tensor){.scheme = item->config->scheme->name,
                                                          .tiled = tiled(class_of(item)),
                                                          .data = json_object_get(said, "_data"),
                                                          .from = json_object_get(whole, "_data"),
                                                          .shape = {d->rows, d->cols},
                                                          .block = {d->block_rows, d->block_cols},
                                                          .code = d->code},
                                    out);
    json_decref(said);
    json_decref(whole);
    return status;
}

/* A part that no class here has, such as a factor for inputs, would change what is computed. */
static nib_status only_known_parts(const json_t *said, const struct tensor_class *c) {
    const json_t *names = json_object_get(said, "_tensor_data_names");
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        bool known = false;
        for (int k = 0; name && k < 4 && c->data_names[k]; k++)
            known |= strcmp(name, c->data_names[k]) == 0;
        if (!known)
            return NIB_RAISE(NIB_E_UNSUPPORTED, "%s with \"%.60s\" is not known here yet", c->type,
                             name ? name : "");
    }
    return NIB_OK;
}

static nib_status read_weight(const nib_checkpoint *checkpoint, const char *name,
                              const json_t *said, const json_t *root, const char *noted,
                              nib_manifest *out) {
    const char *type;
    NIB_TRY(nib_json_string(said, "_type", true, &type));
    if (strcmp(type, "Tensor") == 0) return NIB_OK;
    const struct tensor_class *c = NULL;
    for (int i = 0; i < CLASSES; i++)
        if (strcmp(classes[i].type, type) == 0) c = &classes[i];
    if (!c)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "a torchao tensor of class %s is not known here", type);
    json_t *data;
    NIB_TRY(nib_json_object(said, "_data", true, &data));
    NIB_TRY(only_known_parts(said, c));
    bool dynamic;
    NIB_TRY(nib_torchao_dynamic(data, &dynamic));
    if (dynamic && !c->dynamic)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "%s whose activations are quantized is not known here yet", type);
    nib_dtype multiplied; /* int4 for fp8 activations is quantized by another rule */
    NIB_TRY(nib_torchao_dtype_of(data, "activation_dtype", NIB_BF16, &multiplied));
    if (multiplied != NIB_BF16)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%s for activations of %s is not known here yet", type,
                         nib_dtype_name(multiplied));
    char *qdata = flat_name(out->mem, name, "qdata");
    char *scale_name =
        qdata ? flat_name(out->mem, name,
                          c->data_names[1] && strcmp(c->data_names[1], "scale_and_zero") == 0
                              ? "scale_and_zero"
                              : "scale")
              : NULL;
    if (!scale_name) {
        nib_mem_strfree(out->mem, qdata);
        return nib_last_error()->status;
    }
    const nib_checkpoint_tensor *codes = nib_checkpoint_find(checkpoint, qdata);
    const nib_checkpoint_tensor *scale = nib_checkpoint_find(checkpoint, scale_name);
    nib_text text = {.mem = out->mem};
    nib_config *config = NULL;
    nib_status status = NIB_OK;
    if (!codes || !scale) {
        status = NIB_RAISE(NIB_E_FORMAT, "%s has no part %s", name, codes ? scale_name : qdata);
        goto done;
    }
    nib_torchao_tensor tensor = {
        .scheme = dynamic ? c->dynamic : c->weight_only,
        .tiled = tiled(c),
        .data = data,
        .from = module_config(root, name),
        .shape = {codes->entry->shape.dim[0], codes->entry->shape.dim[1]},
        .code = codes->entry->dtype,
    };
    int64_t *const block = tensor.block, *const shape = tensor.shape;
    nib_dtype dtype;
    NIB_TRY_GOTO(get_dims(data, "block_size", block), fail);
    if (json_object_get(data, "shape")) NIB_TRY_GOTO(get_dims(data, "shape", shape), fail);
    NIB_TRY_GOTO(nib_torchao_dtype_of(data, "dtype", scale->entry->dtype, &dtype), fail);
    NIB_TRY_GOTO(nib_torchao_config_text(&tensor, &text), fail);
    config = nib_manifest_config(noted ? noted : text.data);
    if (!config) goto fail;
    const nib_site site = {"linear", name, {2, {shape[0], shape[1]}}, dtype};
    nib_qdesc desc;
    nib_act in = {0}, act = {0};
    NIB_TRY_GOTO(config->scheme->plan(config, &site, &desc, &in, &act), fail);
    const nib_layout *held = nib_layout_find(c->layout);
    if (!held || !held->holds(&desc)) {
        status = NIB_RAISE(NIB_E_FORMAT, "layout %s cannot hold %s", c->layout,
                           noted ? noted : text.data);
        goto done;
    }
    if (block[0] != desc.block_rows || block[1] != desc.block_cols) {
        status = NIB_RAISE(NIB_E_UNSUPPORTED,
                           "blocks of %lld x %lld in a weight of %lld x %lld are not known here",
                           (long long)block[0], (long long)block[1], (long long)shape[0],
                           (long long)shape[1]);
        goto done;
    }
    NIB_TRY_GOTO(nib_manifest_add_quantized(out, name, config, held, &desc, codes->shard), fail);
    status = nib_manifest_check_parts(checkpoint, &out->items[out->count - 1]);
    goto done;
fail:
    status = nib_last_error()->status;
done:
    nib_config_free(config);
    nib_text_free(&text);
    nib_mem_strfree(out->mem, qdata);
    nib_mem_strfree(out->mem, scale_name);
    return status;
}

static nib_status read(const nib_checkpoint *checkpoint, const json_t *root, nib_manifest *out) {
    const char *listed = nib_checkpoint_metadata(checkpoint, "tensor_names");
    if (!listed)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "config.json says torchao, but no file has its metadata; checkpoints of "
                         "pickled tensors are not read here");
    json_t *names = nib_json_parse(listed, strlen(listed), checkpoint->path, 0), *notes = NULL;
    nib_status status = names ? NIB_OK : nib_last_error()->status;
    if (names && !json_is_array(names))
        status = NIB_RAISE(NIB_E_FORMAT, "\"tensor_names\" is no list");
    if (status >= NIB_OK) notes = nib_format_noted(checkpoint, &status);
    for (size_t i = 0; i < json_array_size(names) && status >= NIB_OK; i++) {
        const char *name = json_string_value(json_array_get(names, i));
        const char *text = name ? nib_checkpoint_metadata(checkpoint, name) : NULL;
        if (!text) {
            status = NIB_RAISE(NIB_E_FORMAT, "\"tensor_names\" lists %s, which has no metadata",
                               name ? name : "no text");
            break;
        }
        json_t *said = nib_json_parse(text, strlen(text), checkpoint->path, 0);
        const char *noted = json_string_value(json_object_get(notes, name));
        status =
            said ? read_weight(checkpoint, name, said, root, noted, out) : nib_last_error()->status;
        if (said) json_decref(said);
        if (status < NIB_OK) nib_error_at(checkpoint->path, name, -1);
    }
    if (names) json_decref(names);
    if (notes) json_decref(notes);
    return status;
}

const nib_format nib_format_torchao = {
    .name = "torchao",
    .doc = "what transformers with torchao save and load: safetensors and config.json",
    .layout = layout,
    .part_name = part_name,
    .metadata = metadata,
    .config = config,
    .detect = detect,
    .read = read,
};
