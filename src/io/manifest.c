#include "io/manifest.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/format.h"
#include "quant/codes.h"
#include "quant/scheme.h"
#include "tensor/dtype.h"

const char *nib_checkpoint_file(const nib_checkpoint *checkpoint, size_t shard) {
    return checkpoint->shards[shard].file->file.path;
}

static void free_item(nib_mem *mem, nib_stored *item) {
    nib_mem_strfree(mem, item->name);
    nib_config_free(item->config);
    for (int i = 0; i < item->nparts; i++) nib_mem_strfree(mem, item->parts[i].name);
    for (int i = 0; i < item->nconstants; i++) nib_mem_strfree(mem, item->constants[i].name);
}

void nib_manifest_free(nib_manifest *m) {
    for (size_t i = 0; i < m->count; i++) free_item(m->mem, &m->items[i]);
    for (size_t i = 0; i < m->nmodules; i++) {
        nib_mem_strfree(m->mem, m->modules[i].name);
        nib_config_free(m->modules[i].config);
    }
    nib_mem_free(m->mem, m->modules, m->modules_room * sizeof *m->modules);
    nib_mem_free(m->mem, m->items, m->room * sizeof *m->items);
    nib_mem_free(m->mem, m->by_name, m->by_name_count * sizeof *m->by_name);
    *m = (nib_manifest){.mem = m->mem};
}

/* A zeroed item at the end, counted only once it is whole. */
static nib_stored *next_item(nib_manifest *m) {
    if (m->count == m->room) {
        const size_t room = m->room ? m->room * 2 : 256;
        nib_stored *grown =
            nib_mem_realloc(m->mem, m->items, m->room * sizeof *grown, room * sizeof *grown);
        if (!grown) return NULL;
        m->items = grown;
        m->room = room;
    }
    m->items[m->count] = (nib_stored){0};
    return &m->items[m->count];
}

nib_status nib_manifest_add_dense(nib_manifest *m, const char *name, nib_dtype dtype,
                                  nib_shape shape, size_t shard) {
    nib_stored *item = next_item(m);
    if (!item) return nib_last_error()->status;
    *item = (nib_stored){.dtype = dtype, .shape = shape, .shard = shard};
    item->name = nib_mem_strdup(m->mem, name);
    item->parts[0] = (nib_stored_part){.name = item->name ? nib_mem_strdup(m->mem, name) : NULL,
                                       .part = {.suffix = "", .dtype = dtype, .shape = shape}};
    item->nparts = 1;
    if (item->parts[0].name) {
        m->count++;
        return NIB_OK;
    }
    free_item(m->mem, item);
    return NIB_E_MEMORY;
}

nib_status nib_manifest_add_quantized(nib_manifest *m, const char *name, const nib_config *config,
                                      const nib_layout *layout, const nib_qdesc *desc,
                                      size_t shard) {
    nib_stored *item = next_item(m);
    if (!item) return nib_last_error()->status;
    *item = (nib_stored){
        .dtype = desc->math, .shape = desc->shape, .layout = layout, .desc = *desc, .shard = shard};
    nib_part parts[NIB_MAX_PARTS];
    const int n = layout->parts(desc, parts);
    item->name = nib_mem_strdup(m->mem, name);
    if (!item->name) goto fail;
    if (config && !(item->config = nib_config_copy(config))) goto fail;
    for (int i = 0; i < n; i++) {
        char *part_name = m->format->part_name(m->mem, name, &parts[i]);
        if (!part_name) goto fail;
        item->parts[item->nparts++] = (nib_stored_part){part_name, parts[i]};
    }
    if (m->format->constants && m->format->constants(m->mem, item) < NIB_OK) goto fail;
    m->count++;
    return NIB_OK;
fail:
    free_item(m->mem, item);
    return nib_last_error()->status;
}

nib_status nib_manifest_add_module(nib_manifest *m, const nib_stored_module *module) {
    if (m->nmodules == m->modules_room) {
        const size_t room = m->modules_room ? m->modules_room * 2 : 64;
        nib_stored_module *grown = nib_mem_realloc(
            m->mem, m->modules, m->modules_room * sizeof *grown, room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        m->modules = grown;
        m->modules_room = room;
    }
    nib_stored_module *own = &m->modules[m->nmodules];
    *own = *module;
    own->name = nib_mem_strdup(m->mem, module->name);
    own->config = own->name ? nib_config_copy(module->config) : NULL;
    m->nmodules += own->name != NULL; /* what there is of it is released with the others */
    return own->config ? NIB_OK : nib_last_error()->status;
}

const nib_stored_module *nib_manifest_module(const nib_manifest *m, const char *name,
                                             size_t length) {
    for (size_t i = 0; i < m->nmodules; i++)
        if (strlen(m->modules[i].name) == length && !memcmp(m->modules[i].name, name, length))
            return &m->modules[i];
    return NULL;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const nib_stored *const *)a)->name, (*(const nib_stored *const *)b)->name);
}

nib_status nib_manifest_index(nib_manifest *m) {
    nib_mem_free(m->mem, m->by_name, m->by_name_count * sizeof *m->by_name);
    m->by_name_count = 0;
    m->by_name = nib_mem_alloc_array(m->mem, m->count, sizeof *m->by_name);
    if (!m->by_name) return nib_last_error()->status;
    m->by_name_count = m->count;
    for (size_t i = 0; i < m->count; i++) m->by_name[i] = &m->items[i];
    qsort(m->by_name, m->count, sizeof *m->by_name, by_name);
    for (size_t i = 1; i < m->count; i++)
        if (strcmp(m->by_name[i - 1]->name, m->by_name[i]->name) == 0)
            return NIB_RAISE(NIB_E_FORMAT,
                             "%s is in this checkpoint both float and quantized, or twice",
                             m->by_name[i]->name);
    return NIB_OK;
}

const nib_stored *nib_manifest_find(const nib_manifest *m, const char *name) {
    size_t low = 0, high = m->by_name_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(name, m->by_name[middle]->name);
        if (order == 0) return m->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

nib_config *nib_manifest_config(const char *text) {
    nib_config *config = nib_config_parse(text);
    if (config || nib_last_error()->status != NIB_E_ARGUMENT) return config;
    const nib_error cause = *nib_last_error();
    return NIB_RAISE_NULL(NIB_E_FORMAT, "%s", cause.what);
}

nib_status nib_manifest_check_parts(const nib_checkpoint *checkpoint, nib_stored *item) {
    for (int i = 0; i < item->nparts; i++) {
        const nib_stored_part *p = &item->parts[i];
        const nib_checkpoint_tensor *t = nib_checkpoint_find(checkpoint, p->name);
        if (!t) {
            NIB_RAISE(NIB_E_FORMAT, "%s has no part %s", item->name, p->name);
            return nib_error_at(checkpoint->path, item->name, -1);
        }
        char want[96], found[96];
        if (t->entry->dtype != p->part.dtype ||
            !nib_shape_equal(&t->entry->shape, &p->part.shape)) {
            NIB_RAISE(NIB_E_FORMAT, "%s is %s %s, but %s calls for %s %s", p->name,
                      nib_dtype_name(t->entry->dtype),
                      nib_shape_text(&t->entry->shape, found, sizeof found),
                      item->layout ? item->layout->name : "it", nib_dtype_name(p->part.dtype),
                      nib_shape_text(&p->part.shape, want, sizeof want));
            return nib_error_at(nib_checkpoint_file(checkpoint, t->shard), p->name,
                                (int64_t)t->entry->header_offset);
        }
        if (i == 0) item->shard = t->shard; /* the others may lie elsewhere: upstream splits them */
    }
    return NIB_OK;
}

nib_status nib_manifest_resolve(nib_manifest *m, const nib_checkpoint *checkpoint,
                                const nib_stored *found, const nib_shape *shape) {
    nib_stored *item = &m->items[found - m->items];
    if (!item->pending) return NIB_OK;
    const nib_site site = {shape->ndim == 4 ? "conv2d" : "linear", item->name, *shape, item->dtype};
    nib_act in = {0}, out = {0};
    nib_part parts[NIB_MAX_PARTS];
    if (item->config->scheme->plan(item->config, &site, &item->desc, &in, &out) < NIB_OK)
        return nib_error_at(nib_checkpoint_file(checkpoint, item->shard), item->name, -1);
    (void)item->layout->parts(&item->desc, parts);
    for (int i = 0; i < item->nparts; i++) item->parts[i].part = parts[i];
    NIB_TRY(nib_manifest_check_parts(checkpoint, item));
    item->shape = *shape;
    item->pending = false;
    return NIB_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* What no format claimed is a dense weight. */
static nib_status add_rest(nib_manifest *m, const nib_checkpoint *checkpoint) {
    size_t nparts = 0, k = 0;
    for (size_t i = 0; i < m->count; i++)
        nparts += (size_t)m->items[i].nparts + (size_t)m->items[i].nconstants;
    const char **taken = nib_mem_alloc_array(m->mem, nparts, sizeof *taken);
    if (!taken) return nib_last_error()->status;
    for (size_t i = 0; i < m->count; i++)
        for (int p = 0; p < m->items[i].nparts; p++) taken[k++] = m->items[i].parts[p].name;
    for (size_t i = 0; i < m->count; i++)
        for (int p = 0; p < m->items[i].nconstants; p++) taken[k++] = m->items[i].constants[p].name;
    qsort(taken, nparts, sizeof *taken, by_text);
    nib_status status = NIB_OK;
    for (size_t i = 0; i < checkpoint->count && status >= NIB_OK; i++) {
        const nib_checkpoint_tensor *t = &checkpoint->tensors[i];
        const char *name = t->entry->name;
        if (nparts && bsearch(&name, taken, nparts, sizeof *taken, by_text)) continue;
        status = nib_manifest_add_dense(m, name, t->entry->dtype, t->entry->shape, t->shard);
    }
    /* Names of items were copied, and so were those of their parts: `taken` still holds, but the
     * items may have moved. */
    nib_mem_free(m->mem, taken, nparts * sizeof *taken);
    return status;
}

nib_status nib_manifest_read(nib_mem *mem, const nib_checkpoint *checkpoint, const json_t *config,
                             nib_manifest *out) {
    *out = (nib_manifest){.mem = mem};
    nib_status status = NIB_OK;
    for (size_t i = 0; nib_format_at(i) && !out->format && status >= NIB_OK; i++) {
        bool speaks = false;
        status = nib_format_at(i)->detect(checkpoint, config, &speaks);
        if (speaks) out->format = nib_format_at(i);
    }
    if (status >= NIB_OK && out->format) status = out->format->read(checkpoint, config, out);
    if (status >= NIB_OK) status = add_rest(out, checkpoint);
    if (status >= NIB_OK) status = nib_manifest_index(out);
    if (status >= NIB_OK) return NIB_OK;
    nib_error_at(checkpoint->path, NULL, -1);
    nib_manifest_free(out);
    return status;
}

size_t nib_module_length(const char *weight) {
    return strlen(weight) - (nib_text_ends(weight, ".weight") ? strlen(".weight") : 0);
}

size_t nib_stored_bytes(const nib_stored *item) {
    size_t sum = 0;
    for (int i = 0; i < item->nparts; i++) {
        int64_t count = 1;
        size_t bytes = 0;
        for (int d = 0; d < item->parts[i].part.shape.ndim; d++)
            count *= item->parts[i].part.shape.dim[d];
        if (!nib_dtype_bytes(item->parts[i].part.dtype, count, &bytes)) sum += bytes;
    }
    for (int i = 0; i < item->nconstants; i++)
        sum += (size_t)nib_dtype_bits(item->constants[i].dtype) / 8;
    return sum;
}

int64_t nib_stored_count(const nib_stored *item) {
    int64_t count = 1;
    for (int i = 0; i < item->shape.ndim; i++) count *= item->shape.dim[i];
    return count;
}
