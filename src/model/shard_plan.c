#include "model/shard_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/tensor_writer.h"
#include "model/file_config.h"
#include "tensor/dtype.h"

const char *nib_shard_plan_name(const nib_file_plan *plan, size_t shard) {
    return plan->source->is_file ? "model.safetensors" : plan->source->shards[shard].written;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* What a format says of its tensors, in a source that is quantized: not true of what is written. */
static bool of_a_format(const nib_file_plan *plan, const nib_tensor_pair *pair) {
    static const char *const keys[] = {"tensor_names", "nibble"};
    for (int i = 0; i < 2; i++)
        if (strcmp(pair->key, keys[i]) == 0) return true;
    return strncmp(pair->value, "{\"_type\"", 8) == 0 ||
           nib_manifest_find(&plan->manifest, pair->key);
}

/* All else that the source's file says of itself goes along, such as the other name of tied
 * weights. */
static nib_status carry_metadata(const nib_file_plan *plan, const nib_tensor_file *source,
                                 nib_metadata_list *out) {
    const size_t count = out->count;
    const char **keys = nib_mem_alloc_array(plan->mem, count, sizeof *keys);
    if (!keys) return nib_last_error()->status;
    for (size_t i = 0; i < count; i++) keys[i] = out->pairs[i].key;
    qsort(keys, count, sizeof *keys, by_text);
    nib_status status = NIB_OK;
    for (size_t i = 0; i < source->metadata_count && status >= NIB_OK; i++) {
        const nib_tensor_pair *pair = &source->metadata[i];
        if (!of_a_format(plan, pair) && !bsearch(&pair->key, keys, count, sizeof *keys, by_text))
            status = nib_metadata_add(out, pair->key, pair->value);
    }
    nib_mem_free(plan->mem, keys, count * sizeof *keys);
    return status;
}

nib_status nib_shard_plan_open(const nib_file_plan *plan, size_t shard, nib_shard_plan *out) {
    *out = (nib_shard_plan){.mem = plan->mem, .metadata = {.mem = plan->mem}};
    for (size_t i = 0; i < plan->manifest.count; i++)
        if (plan->manifest.items[i].shard == shard)
            out->room +=
                (size_t)plan->manifest.items[i].nparts + (size_t)plan->manifest.items[i].nconstants;
    out->planned = nib_mem_alloc_array(plan->mem, out->room, sizeof *out->planned);
    if (!out->planned) return nib_last_error()->status;
    for (size_t i = 0; i < plan->manifest.count; i++) {
        const nib_stored *item = &plan->manifest.items[i];
        for (int k = 0; item->shard == shard && k < item->nparts; k++)
            out->planned[out->count++] = (nib_safetensors_planned){
                item->parts[k].name, item->parts[k].part.dtype, item->parts[k].part.shape};
        for (int k = 0; item->shard == shard && k < item->nconstants; k++)
            out->planned[out->count++] =
                (nib_safetensors_planned){item->constants[k].name, item->constants[k].dtype, {0}};
    }
    const nib_format *format = plan->manifest.format;
    nib_status status = format ? format->metadata(&plan->manifest, shard, &out->metadata)
                               : nib_metadata_add(&out->metadata, "format", "pt");
    if (status >= NIB_OK)
        status = carry_metadata(plan, plan->source->shards[shard].file, &out->metadata);
    const nib_safetensors_plan whole = {out->planned, out->count, out->metadata.pairs,
                                        out->metadata.count};
    if (status >= NIB_OK)
        status = nib_tensor_plan_size(plan->mem, plan->to ? plan->to : "", &whole, &out->size,
                                      &out->payload);
    if (status < NIB_OK) nib_shard_plan_close(out);
    return status;
}

void nib_shard_plan_close(nib_shard_plan *s) {
    nib_mem_free(s->mem, s->planned, s->room * sizeof *s->planned);
    nib_metadata_free(&s->metadata);
    *s = (nib_shard_plan){.mem = s->mem};
}

/* The text of the index over all shards, or nothing appended when the source has none. */
static nib_status index_text(const nib_file_plan *plan, nib_text *out) {
    if (!plan->source->index_path) return NIB_OK;
    size_t count = 0, k = 0, total = 0;
    for (size_t i = 0; i < plan->manifest.count; i++)
        count +=
            (size_t)plan->manifest.items[i].nparts + (size_t)plan->manifest.items[i].nconstants;
    const char **names = nib_mem_alloc_array(plan->mem, count, 2 * sizeof *names);
    if (!names) return nib_last_error()->status;
    const char **files = names + count;
    for (size_t i = 0; i < plan->manifest.count; i++) {
        const nib_stored *item = &plan->manifest.items[i];
        total += nib_stored_bytes(item);
        for (int p = 0; p < item->nparts; p++, k++) {
            names[k] = item->parts[p].name;
            files[k] = nib_shard_plan_name(plan, item->shard);
        }
        for (int p = 0; p < item->nconstants; p++, k++) {
            names[k] = item->constants[p].name;
            files[k] = nib_shard_plan_name(plan, item->shard);
        }
    }
    char *text = nib_shard_index_text(plan->mem, names, files, count, total);
    if (text) nib_text_add(out, text);
    nib_mem_strfree(plan->mem, text);
    nib_mem_free(plan->mem, names, count * 2 * sizeof *names);
    return text && !out->failed ? NIB_OK : nib_last_error()->status;
}

nib_status nib_shard_plan_predict(const nib_file_plan *plan, size_t *weights, size_t *index,
                                  size_t *config) {
    nib_text text = {.mem = plan->mem};
    *weights = 0;
    for (size_t i = 0; i < plan->source->shard_count; i++) {
        nib_shard_plan shard;
        NIB_TRY(nib_shard_plan_open(plan, i, &shard));
        *weights += shard.size;
        nib_shard_plan_close(&shard);
    }
    nib_status status = index_text(plan, &text);
    *index = text.length;
    nib_text_free(&text);
    if (status >= NIB_OK && plan->config)
        status = nib_file_config_text(plan->config_text, plan->config, &text);
    *config = text.length;
    nib_text_free(&text);
    return status;
}

nib_status nib_shard_plan_constants(const nib_stored *item, size_t first,
                                    nib_checkpoint_writer *out) {
    for (int k = 0; k < item->nconstants; k++) {
        const nib_stored_constant *c = &item->constants[k];
        NIB_TRY(nib_checkpoint_writer_put(out, first + (size_t)(item->nparts + k), c->bytes,
                                          (size_t)nib_dtype_bits(c->dtype) / 8, 0));
    }
    return NIB_OK;
}

nib_status nib_shard_plan_texts(const nib_file_plan *plan, nib_checkpoint_writer *out) {
    nib_text text = {.mem = plan->mem};
    nib_status status = NIB_OK;
    const nib_format *format = plan->manifest.format;
    const char *side =
        format && format->side_file ? format->side_file(&plan->manifest, &text, &status) : NULL;
    if (side && status >= NIB_OK)
        status = nib_checkpoint_writer_file(out, side, text.data, text.length);
    nib_text_free(&text);
    if (status >= NIB_OK && !plan->source->is_file)
        status = nib_checkpoint_writer_carry(out, plan->source);
    if (status >= NIB_OK && plan->config) {
        status = nib_file_config_text(plan->config_text, plan->config, &text);
        if (status >= NIB_OK)
            status = nib_checkpoint_writer_file(out, "config.json", text.data, text.length);
        nib_text_free(&text);
    }
    return status;
}
