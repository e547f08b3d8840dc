/* format_native.c: our own checkpoints, for whatever no other system's format holds.
 *
 * A weight's parts are tensors named after it and the part: "a.weight.qdata". __metadata__ of each
 * file has one key "nibble", a JSON object that says all that must be known to read the codes:
 *
 *   {"version": 1, "tensors": {"a.weight": {"scheme": "qint4", "layout": "quanto_bits",
 *     "dtype": "bfloat16", "shape": [64, 256], "rows": 64, "cols": 256, "block": [1, 128],
 *     "code": "uint4", "scale": "bfloat16", "zero": "bfloat16", "zero_kind": "shift",
 *     "parts": ["a.weight._data._data", ...]}}}
 *
 * config.json has "quantization_config": {"quant_method": "nibble", "version": 1, "rules": [...]}.
 */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/json.h"
#include "base/text_util.h"
#include "io/format.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/dtype.h"

enum { VERSION = 1 };

static const char *const zero_names[] = {[NIB_ZERO_NONE] = "none",
                                         [NIB_ZERO_POINT] = "point",
                                         [NIB_ZERO_SHIFT] = "shift",
                                         [NIB_ZERO_MID] = "mid",
                                         NULL};

static const nib_layout *layout(const nib_config *config, const nib_qdesc *desc) {
    (void)config;
    return nib_layout_for(desc);
}

static char *part_name(nib_mem *mem, const char *name, const nib_part *part) {
    nib_text text = {.mem = mem};
    nib_text_format(&text, "%s.%s", name, part->suffix);
    return nib_text_take(&text);
}

/* ---- writing ---- */
static json_t *describe(nib_mem *mem, const nib_stored *item) {
    const nib_qdesc *d = &item->desc;
    char *scheme = nib_config_text(mem, item->config);
    json_t *shape = json_array(), *parts = json_array(), *row = NULL;
    int failed = !scheme;
    for (int i = 0; i < d->shape.ndim; i++)
        failed |= json_array_append_new(shape, json_integer(d->shape.dim[i]));
    for (int i = 0; i < item->nparts; i++)
        failed |= json_array_append_new(parts, json_string(item->parts[i].name));
    if (!failed)
        row = json_pack("{s:s, s:s, s:s, s:O, s:I, s:I, s:[I, I], s:s, s:s, s:s, s:s, s:f, s:O}",
                        "scheme", scheme, "layout", item->layout->name, "dtype",
                        nib_dtype_torch_name(d->math), "shape", shape, "rows", (json_int_t)d->rows,
                        "cols", (json_int_t)d->cols, "block", (json_int_t)d->block_rows,
                        (json_int_t)d->block_cols, "code", nib_dtype_torch_name(d->code), "scale",
                        nib_dtype_torch_name(d->scale_dtype), "zero",
                        d->zero_dtype ? nib_dtype_torch_name(d->zero_dtype) : "", "zero_kind",
                        zero_names[d->zero_kind], "outer", (double)d->outer, "parts", parts);
    json_decref(shape);
    json_decref(parts);
    nib_mem_strfree(mem, scheme);
    return row;
}

static nib_status metadata(const nib_manifest *manifest, size_t shard, nib_metadata_list *out) {
    json_t *tensors = json_object();
    bool ok = tensors != NULL;
    for (size_t i = 0; i < manifest->count && ok; i++) {
        const nib_stored *item = &manifest->items[i];
        if (!item->layout || item->shard != shard) continue;
        ok = json_object_set_new(tensors, item->name, describe(manifest->mem, item)) == 0;
    }
    json_t *root = ok ? json_pack("{s:i, s:o}", "version", VERSION, "tensors", tensors) : NULL;
    nib_text text = {.mem = manifest->mem};
    nib_status status = nib_json_text(root, JSON_COMPACT, &text);
    if (status >= NIB_OK) status = nib_metadata_add(out, "format", "pt");
    if (status >= NIB_OK) status = nib_metadata_add(out, "nibble", text.data);
    nib_text_free(&text);
    if (root)
        json_decref(root);
    else
        json_decref(tensors);
    return status;
}

/* The configs in use, each once, as globs that no reader needs: the metadata is what counts. */
static nib_status config(const nib_manifest *manifest, json_t *root) {
    json_t *rules = json_array();
    bool ok = rules != NULL;
    for (size_t i = 0; i < manifest->count && ok; i++) {
        const nib_stored *item = &manifest->items[i];
        if (!item->config) continue;
        char *text = nib_config_text(manifest->mem, item->config);
        bool known = false;
        for (size_t k = 0; text && k < json_array_size(rules) && !known; k++)
            known = strcmp(json_string_value(json_array_get(rules, k)), text) == 0;
        ok = text && (known || json_array_append_new(rules, json_string(text)) == 0);
        nib_mem_strfree(manifest->mem, text);
    }
    json_t *about = ok ? json_pack("{s:s, s:i, s:O}", "quant_method", "nibble", "version", VERSION,
                                   "rules", rules)
                       : NULL;
    json_decref(rules);
    if (!about || json_object_set_new(root, "quantization_config", about) != 0)
        return NIB_RAISE(NIB_E_MEMORY, "no memory for quantization_config");
    return NIB_OK;
}

/* ---- reading ---- */
static nib_status detect(const nib_checkpoint *checkpoint, const json_t *root, bool *speaks) {
    const char *method = nib_format_method(root);
    *speaks = method ? strcmp(method, "nibble") == 0
                     : nib_checkpoint_metadata(checkpoint, "nibble") != NULL;
    return NIB_OK;
}

static nib_status get_dtype(const json_t *row, const char *key, bool may_lack, nib_dtype *out) {
    const char *name;
    NIB_TRY(nib_json_string(row, key, true, &name));
    *out = nib_dtype_from_torch_name(name);
    if (!*out && !(may_lack && !*name))
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is \"%s\", no dtype", key, name);
    return NIB_OK;
}

static nib_status get_desc(const json_t *row, nib_qdesc *d) {
    json_t *shape, *block;
    const char *kind;
    double outer = 0;
    *d = (nib_qdesc){0};
    NIB_TRY(get_dtype(row, "dtype", false, &d->math));
    NIB_TRY(get_dtype(row, "code", false, &d->code));
    NIB_TRY(get_dtype(row, "scale", false, &d->scale_dtype));
    NIB_TRY(get_dtype(row, "zero", true, &d->zero_dtype));
    NIB_TRY(nib_json_int(row, "rows", 1, INT64_MAX, true, &d->rows));
    NIB_TRY(nib_json_int(row, "cols", 1, INT64_MAX, true, &d->cols));
    NIB_TRY(nib_json_double(row, "outer", false, &outer));
    d->outer = (float)outer;
    NIB_TRY(nib_json_string(row, "zero_kind", true, &kind));
    int z = 0;
    while (zero_names[z] && strcmp(zero_names[z], kind) != 0) z++;
    if (!zero_names[z]) return NIB_RAISE(NIB_E_FORMAT, "\"zero_kind\" is \"%s\"", kind);
    d->zero_kind = (nib_zero)z;
    NIB_TRY(nib_json_array(row, "shape", true, &shape));
    NIB_TRY(nib_json_array(row, "block", true, &block));
    if (json_array_size(shape) > NIB_MAX_DIMS || json_array_size(block) != 2)
        return NIB_RAISE(NIB_E_FORMAT, "\"shape\" or \"block\" has %zu and %zu numbers",
                         json_array_size(shape), json_array_size(block));
    d->shape.ndim = (int)json_array_size(shape);
    for (int i = 0; i < d->shape.ndim; i++)
        d->shape.dim[i] = json_integer_value(json_array_get(shape, (size_t)i));
    d->block_rows = json_integer_value(json_array_get(block, 0));
    d->block_cols = json_integer_value(json_array_get(block, 1));
    return nib_qdesc_check(d);
}

static nib_status read_row(const nib_checkpoint *checkpoint, const char *name, const json_t *row,
                           nib_manifest *out) {
    const char *layout_name, *scheme;
    nib_qdesc desc;
    NIB_TRY(nib_json_string(row, "layout", true, &layout_name));
    NIB_TRY(nib_json_string(row, "scheme", true, &scheme));
    NIB_TRY(get_desc(row, &desc));
    const nib_layout *held = nib_layout_find(layout_name);
    if (!held || !held->holds(&desc))
        return NIB_RAISE(NIB_E_FORMAT,
                         "layout \"%s\" is unknown or cannot hold what is said to be in it",
                         layout_name);
    nib_config *config = NULL;
    if (*scheme && !(config = nib_manifest_config(scheme))) return nib_last_error()->status;
    const nib_status status = nib_manifest_add_quantized(out, name, config, held, &desc, 0);
    nib_config_free(config);
    NIB_TRY(status);
    return nib_manifest_check_parts(checkpoint, &out->items[out->count - 1]);
}

static nib_status read(const nib_checkpoint *checkpoint, const json_t *root, nib_manifest *out) {
    (void)root;
    for (size_t i = 0; i < checkpoint->shard_count; i++) {
        const char *path = nib_checkpoint_file(checkpoint, i);
        const char *text = nib_safetensors_metadata(checkpoint->shards[i].file, "nibble");
        if (!text) continue;
        json_t *said = nib_json_parse(text, strlen(text), path, 0), *tensors = NULL, *row;
        if (!said) return nib_last_error()->status;
        int64_t version = 0;
        nib_status status = nib_json_int(said, "version", 0, INT64_MAX, true, &version);
        if (status >= NIB_OK && version != VERSION)
            status = NIB_RAISE(NIB_E_UNSUPPORTED,
                               "written as version %lld of nibble's format, this reads %d",
                               (long long)version, VERSION);
        if (status >= NIB_OK) status = nib_json_object(said, "tensors", true, &tensors);
        const char *name;
        if (status >= NIB_OK) {
            json_object_foreach(tensors, name, row) {
                status = read_row(checkpoint, name, row, out);
                if (status < NIB_OK) {
                    nib_error_at(path, name, -1);
                    break;
                }
            }
        }
        json_decref(said);
        if (status < NIB_OK) return nib_error_at(path, NULL, -1);
    }
    return NIB_OK;
}

const nib_format nib_format_native = {
    .name = "native",
    .doc = "nibble's own: any scheme, any mix, codes as compact as they are",
    .layout = layout,
    .part_name = part_name,
    .metadata = metadata,
    .config = config,
    .detect = detect,
    .read = read,
};
