#include "model/shard_plan.h"

#include "base/error.h"

const char *nib_shard_plan_name(const nib_file_plan *plan, size_t shard) {
    return plan->source->is_file ? "model.safetensors" : plan->source->shards[shard].name;
}

nib_status nib_shard_plan_open(const nib_file_plan *plan, size_t shard, nib_shard_plan *out) {
    *out = (nib_shard_plan){ .mem = plan->mem, .metadata = { .mem = plan->mem } };
    for (size_t i = 0; i < plan->manifest.count; i++)
        if (plan->manifest.items[i].shard == shard)
            out->room += (size_t)plan->manifest.items[i].nparts + (size_t)plan->manifest.items[i].nconstants;
    out->planned = nib_mem_alloc_array(plan->mem, out->room, sizeof *out->planned);
    if (!out->planned) return nib_last_error()->status;
    for (size_t i = 0; i < plan->manifest.count; i++) {
        const nib_stored *item = &plan->manifest.items[i];
        for (int k = 0; item->shard == shard && k < item->nparts; k++)
            out->planned[out->count++] = (nib_safetensors_planned){ item->parts[k].name, item->parts[k].part.dtype,
                                                                    item->parts[k].part.shape };
        for (int k = 0; item->shard == shard && k < item->nconstants; k++)
            out->planned[out->count++] = (nib_safetensors_planned){ item->constants[k].name, item->constants[k].dtype,
                                                                    { 0 } };
    }
    nib_status status = plan->manifest.format->metadata(&plan->manifest, shard, &out->metadata);
    const nib_safetensors_plan whole = { out->planned, out->count, out->metadata.pairs, out->metadata.count };
    if (status >= NIB_OK) status = nib_safetensors_plan_size(plan->mem, &whole, &out->size, &out->payload);
    if (status < NIB_OK) nib_shard_plan_close(out);
    return status;
}

void nib_shard_plan_close(nib_shard_plan *s) {
    nib_mem_free(s->mem, s->planned, s->room * sizeof *s->planned);
    nib_metadata_free(&s->metadata);
    *s = (nib_shard_plan){ .mem = s->mem };
}

nib_status nib_shard_plan_index(const nib_file_plan *plan, nib_text *out) {
    if (!plan->source->index_path) return NIB_OK;
    size_t count = 0, k = 0, total = 0;
    for (size_t i = 0; i < plan->manifest.count; i++)
        count += (size_t)plan->manifest.items[i].nparts + (size_t)plan->manifest.items[i].nconstants;
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
