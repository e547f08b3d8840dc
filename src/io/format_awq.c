/* format_awq.c: AutoAWQ's checkpoints, version "gemm", which transformers and vLLM open on GPUs.
 *
 *   m.qweight  m.qzeros  m.scales     layout awq_gemm, in place of m.weight
 *
 * config.json has "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128,
 * "zero_point": true, "version": "gemm", "modules_to_not_convert": [...]}. One group size holds for
 * all weights, the head stays float, and modules are matched to the list by parts of their names.
 * Shapes follow from the tensors. How codes were chosen no such file tells, but for ours, whose
 * __metadata__["nibble"] names the scheme. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "io/format.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/dtype.h"

static const nib_layout *held(const nib_qdesc *desc) {
    const nib_layout *found = nib_layout_find("awq_gemm");
    return found && found->holds(desc) ? found : NULL;
}

/* Readers leave activations as they are, so a scheme that quantizes them would be another there. */
static const nib_layout *layout(const nib_config *config, const nib_qdesc *desc) {
    return nib_text_ends(config->scheme->name, "weight_only") ? held(desc) : NULL;
}

/* "a.weight" and "qzeros" make "a.qzeros"; with no suffix, the module's name. */
static char *name_of(nib_mem *mem, const char *weight, const char *dot, const char *suffix) {
    nib_text text = {.mem = mem};
    nib_text_format(&text, "%.*s%s%s", (int)nib_module_length(weight), weight, dot, suffix);
    return nib_text_take(&text);
}

static char *part_name(nib_mem *mem, const char *name, const nib_part *part) {
    return name_of(mem, name, ".", part->suffix);
}

/* ---- writing ---- */
static nib_status metadata(const nib_manifest *manifest, size_t shard, nib_metadata_list *out) {
    (void)shard;
    NIB_TRY(nib_metadata_add(out, "format", "pt"));
    return nib_format_note(manifest, NULL, out);
}

/* The group size that all weights share; -1 where each row has one scale. */
static nib_status group_of(const nib_manifest *manifest, int64_t *group) {
    const nib_stored *first = NULL, *other = NULL;
    bool rows = true;
    for (size_t i = 0; i < manifest->count; i++) {
        const nib_stored *item = &manifest->items[i];
        if (!item->layout) continue;
        if (strcmp(item->name, "lm_head.weight") == 0) {
            NIB_RAISE(NIB_E_ARGUMENT, "format awq keeps the output head float");
            return nib_error_at(NULL, item->name, -1);
        }
        if (!first) first = item;
        if (item->desc.block_cols != first->desc.block_cols) other = item;
        rows &= item->desc.block_cols == item->desc.cols;
    }
    *group = !first || rows ? -1 : first->desc.block_cols;
    if (rows || !other) return NIB_OK;
    NIB_RAISE(NIB_E_ARGUMENT,
              "format awq has one group size for all weights: %lld columns here, %lld in %.80s",
              (long long)other->desc.block_cols, (long long)first->desc.block_cols, first->name);
    return nib_error_at(NULL, other->name, -1);
}

/* Float matrices: what of them is a linear, the tensors do not tell, and readers skip the rest. */
static json_t *left_float(const nib_manifest *manifest) {
    json_t *names = json_array();
    bool ok = names != NULL;
    for (size_t i = 0; i < manifest->count && ok; i++) {
        const nib_stored *item = &manifest->items[i];
        if (item->layout || item->shape.ndim != 2 || !nib_text_ends(item->name, ".weight"))
            continue;
        char *module = name_of(manifest->mem, item->name, "", "");
        ok = module && json_array_append_new(names, json_string(module)) == 0;
        nib_mem_strfree(manifest->mem, module);
    }
    if (ok) return names;
    json_decref(names);
    return NULL;
}

static nib_status config(const nib_manifest *manifest, json_t *root) {
    int64_t group = 0;
    NIB_TRY(group_of(manifest, &group));
    json_t *names = left_float(manifest);
    json_t *about = names ? json_pack("{s:i, s:I, s:o, s:s, s:s, s:b}", "bits", 4, "group_size",
                                      (json_int_t)group, "modules_to_not_convert", names,
                                      "quant_method", "awq", "version", "gemm", "zero_point", 1)
                          : NULL;
    if (about && json_object_set_new(root, "quantization_config", about) == 0) return NIB_OK;
    return NIB_RAISE(NIB_E_MEMORY, "no memory for quantization_config");
}

/* ---- reading ---- */
static const nib_checkpoint_tensor *beside(const nib_checkpoint *checkpoint, const char *weight,
                                           const char *suffix) {
    char *name = name_of(checkpoint->mem, weight, ".", suffix);
    const nib_checkpoint_tensor *found = name ? nib_checkpoint_find(checkpoint, name) : NULL;
    nib_mem_strfree(checkpoint->mem, name);
    return found;
}

/* "a.b.weight" for the entry "a.b.qweight"; NULL without a raise for another entry. */
static char *weight_of(nib_mem *mem, const char *entry) {
    const size_t length = strlen(entry);
    if (!nib_text_ends(entry, ".qweight")) return NULL;
    char *name = nib_mem_strdup(mem, entry);
    if (name) memmove(name + length - strlen("qweight"), "weight", sizeof "weight");
    return name;
}

/* A single file has no config.json: GPTQ's names are the same, with eight columns in a word. */
static bool looks_like_it(const nib_checkpoint *checkpoint) {
    bool found = false;
    for (size_t i = 0; i < checkpoint->count && !found; i++) {
        const nib_tensor_entry *codes = checkpoint->tensors[i].entry;
        char *weight = weight_of(checkpoint->mem, codes->name);
        if (!weight) continue;
        const nib_checkpoint_tensor *zeros = beside(checkpoint, weight, "qzeros");
        found = zeros && codes->shape.ndim == 2 && zeros->entry->shape.ndim == 2 &&
                codes->dtype == NIB_I32 && codes->shape.dim[1] == zeros->entry->shape.dim[1];
        nib_mem_strfree(checkpoint->mem, weight);
    }
    return found;
}

static nib_status detect(const nib_checkpoint *checkpoint, const json_t *root, bool *speaks) {
    const char *method = nib_format_method(root);
    *speaks =
        method ? strcmp(method, "awq") == 0 : !nib_format_about(root) && looks_like_it(checkpoint);
    return NIB_OK;
}

/* The group size that config.json tells, -1 for whole rows; 0 when it tells none. */
static nib_status check_config(const json_t *root, int64_t *group) {
    const json_t *about = nib_format_about(root);
    const char *version = "gemm";
    bool zero_point = true;
    int64_t bits = 4;
    *group = 0;
    if (!about) return NIB_OK;
    NIB_TRY(nib_json_int(about, "bits", 1, 16, false, &bits));
    NIB_TRY(nib_json_int(about, "group_size", -1, INT32_MAX, false, group));
    NIB_TRY(nib_json_string(about, "version", false, &version));
    NIB_TRY(nib_json_bool(about, "zero_point", false, &zero_point));
    if (bits != 4 || !zero_point || (strcmp(version, "gemm") != 0 && strcmp(version, "GEMM") != 0))
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "awq of %lld bits, version \"%.40s\", %s zero points is not known here; 4 "
                         "bits, version \"gemm\", with zero points is",
                         (long long)bits, version, zero_point ? "with" : "without");
    return NIB_OK;
}

/* A matrix of that dtype, its dimensions in dim. */
static nib_status matrix(const nib_checkpoint *checkpoint, const char *weight, const char *suffix,
                         nib_dtype dtype, int64_t dim[2], size_t *shard) {
    const nib_checkpoint_tensor *t = beside(checkpoint, weight, suffix);
    if (!t) return NIB_RAISE(NIB_E_FORMAT, "%.160s has no part %s", weight, suffix);
    const nib_tensor_entry *e = t->entry;
    char text[96];
    if (e->dtype != dtype || e->shape.ndim != 2 || e->shape.dim[0] < 1 || e->shape.dim[1] < 1) {
        NIB_RAISE(e->dtype == NIB_BF16 ? NIB_E_UNSUPPORTED : NIB_E_FORMAT,
                  "%s of %.120s is %s %s, but awq has a matrix of %s there", suffix, weight,
                  nib_dtype_name(e->dtype), nib_shape_text(&e->shape, text, sizeof text),
                  nib_dtype_name(dtype));
        return nib_error_at(nib_checkpoint_file(checkpoint, t->shard), e->name,
                            (int64_t)e->header_offset);
    }
    memcpy(dim, e->shape.dim, 2 * sizeof *dim);
    *shard = t->shard;
    return NIB_OK;
}

static nib_status read_weight(const nib_checkpoint *checkpoint, const char *weight,
                              const char *noted, int64_t group, nib_manifest *out) {
    int64_t codes[2], scales[2];
    size_t shard;
    NIB_TRY(matrix(checkpoint, weight, "scales", NIB_F16, scales, &shard));
    NIB_TRY(matrix(checkpoint, weight, "qweight", NIB_I32, codes, &shard));
    const int64_t K = codes[0], groups = scales[0];
    if (codes[1] > INT64_MAX / 8 || codes[1] * 8 != scales[1] || K % groups != 0 ||
        (group && K / groups != (group < 0 ? K : group)))
        return NIB_RAISE(NIB_E_FORMAT,
                         "qweight [%lld, %lld] and scales [%lld, %lld] of %.120s do not agree%s",
                         (long long)K, (long long)codes[1], (long long)groups, (long long)scales[1],
                         weight, group ? " with each other and the group size" : "");
    nib_qdesc desc = {.code = NIB_U4,
                      .scale_dtype = NIB_F16,
                      .zero_dtype = NIB_I8,
                      .math = NIB_F16,
                      .zero_kind = NIB_ZERO_POINT,
                      .shape = {2, {scales[1], K}},
                      .rows = scales[1],
                      .cols = K,
                      .block_rows = 1,
                      .block_cols = K / groups};
    NIB_TRY(nib_qdesc_check(&desc));
    nib_config *config = NULL;
    if (noted) {
        const nib_site site = {"linear", weight, desc.shape, NIB_F16};
        nib_act in = {0}, act = {0};
        if (!(config = nib_manifest_config(noted))) return nib_last_error()->status;
        nib_status planned = config->scheme->plan(config, &site, &desc, &in, &act);
        if (planned >= NIB_OK && (!held(&desc) || desc.block_cols != K / groups))
            planned = NIB_RAISE(NIB_E_FORMAT, "the parts of %.120s are not those of %.80s", weight,
                                noted);
        if (planned < NIB_OK) {
            nib_config_free(config);
            return planned;
        }
    }
    const nib_layout *found = held(&desc);
    nib_status status = found ? nib_manifest_add_quantized(out, weight, config, found, &desc, shard)
                              : nib_layout_refuse(nib_layout_find("awq_gemm"), &desc);
    nib_config_free(config);
    NIB_TRY(status);
    return nib_manifest_check_parts(checkpoint, &out->items[out->count - 1]);
}

static nib_status read(const nib_checkpoint *checkpoint, const json_t *root, nib_manifest *out) {
    int64_t group;
    nib_status status = NIB_OK;
    if (!nib_layout_find("awq_gemm"))
        return NIB_RAISE(NIB_E_UNSUPPORTED, "this build lacks the layout awq_gemm");
    NIB_TRY(check_config(root, &group));
    json_t *notes = nib_format_noted(checkpoint, &status);
    for (size_t i = 0; i < checkpoint->count && status >= NIB_OK; i++) {
        const char *entry = checkpoint->tensors[i].entry->name;
        if (!nib_text_ends(entry, ".qweight")) continue;
        char *weight = weight_of(out->mem, entry);
        status = weight ? read_weight(checkpoint, weight,
                                      json_string_value(json_object_get(notes, weight)), group, out)
                        : nib_last_error()->status;
        if (status < NIB_OK && weight) nib_error_at(checkpoint->path, weight, -1);
        nib_mem_strfree(out->mem, weight);
    }
    if (notes) json_decref(notes);
    return status;
}

const nib_format nib_format_awq = {
    .name = "awq",
    .doc = "AutoAWQ's, version gemm: 4 bits with zero points in float16, for GPUs",
    .layout = layout,
    .wants = "float16 weights in 4-bit codes with zero points, activations float",
    .part_name = part_name,
    .metadata = metadata,
    .config = config,
    .detect = detect,
    .read = read,
};
