/* tensor_stream.c: the public reader and writer of io.h over checkpoints and safetensors files. */
#include <nibble/io.h>

#include <string.h>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/config_text.h"
#include "io/format.h"
#include "io/manifest.h"
#include "io/npy.h"
#include "io/tensor_writer.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

struct nib_reader {
    nib_ctx *ctx;
    nib_checkpoint *checkpoint;
    nib_manifest manifest;
    char *config;   /* text of config.json, or NULL */
    char **schemes; /* [manifest.count], as text; NULL: float */
    size_t schemes_count;
    const nib_stored **owner; /* [checkpoint->count], whose part a tensor is; NULL: plain */
    size_t owner_count, next, next_weight;
};

static void own(nib_reader *r, const nib_stored *item, const char *name) {
    const nib_checkpoint_tensor *t = nib_checkpoint_find(r->checkpoint, name);
    if (t) r->owner[t - r->checkpoint->tensors] = item;
}

/* Which weights there are, and which tensors are their parts. */
static nib_status read_weights(nib_reader *r) {
    nib_mem *mem = nib_ctx_mem(r->ctx);
    json_t *config = NULL;
    nib_status status = nib_config_text_load(mem, r->checkpoint, &config, &r->config);
    if (status >= NIB_OK) status = nib_manifest_read(mem, r->checkpoint, config, &r->manifest);
    json_decref(config);
    NIB_TRY(status);
    r->schemes = nib_mem_alloc_array(mem, r->manifest.count, sizeof *r->schemes);
    if (!r->schemes) return nib_last_error()->status;
    r->schemes_count = r->manifest.count;
    r->owner = nib_mem_alloc_array(mem, r->checkpoint->count, sizeof *r->owner);
    if (!r->owner) return nib_last_error()->status;
    r->owner_count = r->checkpoint->count;
    for (size_t i = 0; i < r->manifest.count; i++) {
        const nib_stored *item = &r->manifest.items[i];
        if (!item->layout) continue;
        r->schemes[i] = nib_config_text(mem, item->config);
        if (!r->schemes[i]) return nib_last_error()->status;
        for (int k = 0; k < item->nparts; k++) own(r, item, item->parts[k].name);
        for (int k = 0; k < item->nconstants; k++) own(r, item, item->constants[k].name);
    }
    return NIB_OK;
}

nib_reader *nib_reader_open(nib_ctx *ctx, const char *path) {
    if (!path) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "no path to read from");
    nib_mem *mem = nib_ctx_mem(ctx);
    nib_reader *reader = nib_mem_alloc_zero(mem, sizeof *reader);
    if (!reader) return NULL;
    reader->ctx = ctx;
    reader->manifest.mem = mem;
    reader->checkpoint = nib_checkpoint_open(mem, path);
    if (reader->checkpoint && read_weights(reader) >= NIB_OK) return reader;
    nib_reader_free(reader);
    return NULL;
}

void nib_reader_free(nib_reader *r) {
    if (!r) return;
    nib_mem *mem = nib_ctx_mem(r->ctx);
    for (size_t i = 0; i < r->schemes_count; i++) nib_mem_strfree(mem, r->schemes[i]);
    nib_mem_free(mem, r->schemes, r->schemes_count * sizeof *r->schemes);
    nib_mem_free(mem, r->owner, r->owner_count * sizeof *r->owner);
    nib_mem_strfree(mem, r->config);
    nib_manifest_free(&r->manifest);
    nib_checkpoint_close(r->checkpoint);
    nib_mem_free(mem, r, sizeof *r);
}

const char *nib_reader_format(const nib_reader *r) {
    return r && r->manifest.format ? r->manifest.format->name : NULL;
}

const char *nib_reader_config(const nib_reader *r) { return r ? r->config : NULL; }

nib_status nib_reader_next_weight(nib_reader *r, nib_weight_info *info) {
    if (!r) return nib_last_error()->status;
    const nib_stored *item = NULL;
    while (!item) { /* a weight comes where its first part lies */
        if (r->next_weight == r->checkpoint->count) return NIB_END;
        const char *name = r->checkpoint->tensors[r->next_weight].entry->name;
        const nib_stored *part_of = r->owner[r->next_weight++];
        if (!part_of)
            item = nib_manifest_find(&r->manifest, name);
        else if (strcmp(part_of->parts[0].name, name) == 0)
            item = part_of;
    }
    size_t bytes = 0; /* as the files have them: a pending weight's parts are not known by shape */
    for (int k = 0; k < item->nparts + item->nconstants; k++) {
        const char *name =
            k < item->nparts ? item->parts[k].name : item->constants[k - item->nparts].name;
        const nib_checkpoint_tensor *t = nib_checkpoint_find(r->checkpoint, name);
        if (t) bytes += t->entry->size;
    }
    if (!info) return NIB_OK;
    *info = (nib_weight_info){
        .name = item->name,
        .dtype = item->dtype,
        .shape_known = !item->pending,
        .shape = item->shape,
        .bytes = bytes,
        .file = r->checkpoint->shards[item->shard].name,
        .scheme = r->schemes[item - r->manifest.items],
        .layout = item->layout ? item->layout->name : NULL,
    };
    return NIB_OK;
}

size_t nib_reader_count(const nib_reader *reader) { return reader ? reader->checkpoint->count : 0; }

const char *nib_reader_metadata(const nib_reader *reader, const char *key) {
    return reader && key ? nib_checkpoint_metadata(reader->checkpoint, key) : NULL;
}

static nib_tensor *load(nib_reader *reader, const nib_checkpoint_tensor *from) {
    const nib_tensor_entry *entry = from->entry;
    nib_tensor *t = nib_tensor_new(reader->ctx, entry->dtype, entry->shape);
    if (!t) {
        nib_error_at(NULL, entry->name, -1);
        return NULL;
    }
    void *data = nib_tensor_data_mut(t);
    if (data && nib_checkpoint_read(reader->checkpoint, from, data, entry->size, 0) == NIB_OK)
        return t;
    nib_tensor_free(t);
    return NULL;
}

nib_status nib_reader_next(nib_reader *reader, nib_tensor_info *info, nib_tensor **tensor) {
    if (!reader) return nib_last_error()->status;
    if (reader->next == reader->checkpoint->count) return NIB_END;
    const nib_checkpoint_tensor *at = &reader->checkpoint->tensors[reader->next];
    if (tensor && !(*tensor = load(reader, at))) return nib_last_error()->status;
    if (info)
        *info = (nib_tensor_info){
            .name = at->entry->name,
            .dtype = at->entry->dtype,
            .shape = at->entry->shape,
            .bytes = at->entry->size,
            .file = reader->checkpoint->shards[at->shard].name,
            .scheme = reader->owner[reader->next]
                          ? reader->schemes[reader->owner[reader->next] - reader->manifest.items]
                          : NULL,
        };
    reader->next++;
    return NIB_OK;
}

void nib_reader_rewind(nib_reader *reader) {
    if (reader) reader->next = reader->next_weight = 0;
}

nib_tensor *nib_reader_load(nib_reader *reader, const char *name) {
    if (!reader || !name) return NULL;
    const nib_checkpoint_tensor *found = nib_checkpoint_find(reader->checkpoint, name);
    if (found) return load(reader, found);
    NIB_RAISE(NIB_E_ARGUMENT, "there is no tensor of this name");
    nib_error_at(reader->checkpoint->path, name, -1);
    return NULL;
}

/* ---- writing ---- */
struct nib_writer {
    nib_mem *mem;
    nib_tensor_writer *file;
    char *path;
};

/* The plan in the words of safetensors.h; give back both arrays with free_plan. */
static nib_status make_plan(nib_mem *mem, const nib_tensor_info *plan, size_t n,
                            const nib_metadata *metadata, size_t nmetadata,
                            nib_safetensors_plan *to) {
    *to = (nib_safetensors_plan){0};
    if ((n && !plan) || (nmetadata && !metadata))
        return NIB_RAISE(NIB_E_ARGUMENT, "the plan is missing");
    for (size_t i = 0; i < n; i++)
        if (!plan[i].name)
            return NIB_RAISE(NIB_E_ARGUMENT, "tensor %zu of the plan has no name", i);
    for (size_t i = 0; i < nmetadata; i++)
        if (!metadata[i].key || !metadata[i].value)
            return NIB_RAISE(NIB_E_ARGUMENT, "pair %zu of the metadata lacks its key or value", i);
    nib_safetensors_planned *tensors = nib_mem_alloc_array(mem, n, sizeof *tensors);
    if (!tensors) return NIB_E_MEMORY;
    for (size_t i = 0; i < n; i++)
        tensors[i] = (nib_safetensors_planned){plan[i].name, plan[i].dtype, plan[i].shape};
    nib_safetensors_pair *pairs = nib_mem_alloc_array(mem, nmetadata, sizeof *pairs);
    if (!pairs) {
        nib_mem_free(mem, tensors, n * sizeof *tensors);
        return NIB_E_MEMORY;
    }
    for (size_t i = 0; i < nmetadata; i++)
        pairs[i] = (nib_safetensors_pair){metadata[i].key, metadata[i].value};
    *to = (nib_safetensors_plan){tensors, n, pairs, nmetadata};
    return NIB_OK;
}

static void free_plan(nib_mem *mem, nib_safetensors_plan *plan) {
    nib_mem_free(mem, (void *)(uintptr_t)plan->tensors, plan->count * sizeof *plan->tensors);
    nib_mem_free(mem, (void *)(uintptr_t)plan->metadata,
                 plan->metadata_count * sizeof *plan->metadata);
}

nib_status nib_writer_predict(nib_ctx *ctx, const nib_tensor_info *plan, size_t n,
                              const nib_metadata *metadata, size_t nmetadata, size_t *bytes) {
    if (!bytes) return NIB_RAISE(NIB_E_ARGUMENT, "no room for the number of bytes");
    nib_mem *mem = nib_ctx_mem(ctx);
    nib_safetensors_plan safe;
    NIB_TRY(make_plan(mem, plan, n, metadata, nmetadata, &safe));
    const nib_status status = nib_safetensors_plan_size(mem, &safe, bytes, NULL);
    free_plan(mem, &safe);
    return status;
}

nib_writer *nib_writer_open(nib_ctx *ctx, const char *path, const nib_tensor_info *plan, size_t n,
                            const nib_metadata *metadata, size_t nmetadata) {
    if (!path) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "no path to write to");
    nib_mem *mem = nib_ctx_mem(ctx);
    nib_safetensors_plan safe;
    NIB_TRY_NULL(make_plan(mem, plan, n, metadata, nmetadata, &safe));
    nib_writer *writer = nib_mem_alloc_zero(mem, sizeof *writer);
    if (!writer) goto fail;
    writer->mem = mem;
    writer->path = nib_mem_strdup(mem, path);
    writer->file = writer->path ? nib_tensor_writer_open(mem, path, &safe) : NULL;
    if (!writer->file) goto fail;
    free_plan(mem, &safe);
    return writer;
fail:
    free_plan(mem, &safe);
    nib_writer_cancel(writer);
    return NULL;
}

/* Do the rows agree with the plan in everything but their number? */
static nib_status check_rows(const nib_safetensors_planned *planned, int64_t first_row,
                             const nib_tensor *rows) {
    char want[96], got[96];
    if (rows->layout || !nib_tensor_contiguous(rows))
        return NIB_RAISE(NIB_E_ARGUMENT, "rows to write must be dense and contiguous");
    if (rows->dtype != planned->dtype)
        return NIB_RAISE(NIB_E_DTYPE, "planned as %s, given as %s", nib_dtype_name(planned->dtype),
                         nib_dtype_name(rows->dtype));
    bool fits = rows->shape.ndim == planned->shape.ndim && first_row >= 0;
    for (int d = 1; fits && d < planned->shape.ndim; d++)
        fits = rows->shape.dim[d] == planned->shape.dim[d];
    if (fits && planned->shape.ndim > 0)
        fits = first_row <= planned->shape.dim[0] &&
               rows->shape.dim[0] <= planned->shape.dim[0] - first_row;
    if (fits && planned->shape.ndim == 0) fits = first_row == 0;
    if (fits) return NIB_OK;
    return NIB_RAISE(NIB_E_SHAPE, "%s at row %lld does not fit the planned %s",
                     nib_shape_text(&rows->shape, got, sizeof got), (long long)first_row,
                     nib_shape_text(&planned->shape, want, sizeof want));
}

nib_status nib_writer_put(nib_writer *writer, const char *name, int64_t first_row,
                          const nib_tensor *rows) {
    if (!writer || !rows) return nib_last_error()->status;
    if (!name) return NIB_RAISE(NIB_E_ARGUMENT, "no name of a tensor");
    size_t index;
    nib_safetensors_planned planned;
    if (!nib_tensor_writer_find(writer->file, name, &index, &planned)) {
        NIB_RAISE(NIB_E_ARGUMENT, "this tensor is not in the plan");
        return nib_error_at(writer->path, name, -1);
    }
    nib_status status = check_rows(&planned, first_row, rows);
    /* A row of sub-byte elements may end within a byte; only whole bytes can be placed. The
     * products fit: the plan's own were checked, and these are parts of them. */
    size_t row_bits = (size_t)nib_dtype_bits(planned.dtype);
    for (int d = 1; d < planned.shape.ndim; d++) row_bits *= (size_t)planned.shape.dim[d];
    if (status == NIB_OK && (row_bits * (size_t)first_row) % 8)
        status = NIB_RAISE(NIB_E_SHAPE, "row %lld begins within a byte", (long long)first_row);
    if (status == NIB_OK)
        status = nib_tensor_writer_put(writer->file, index, nib_tensor_data(rows),
                                       nib_tensor_bytes(rows), row_bits * (size_t)first_row / 8);
    return status < NIB_OK ? nib_error_at(writer->path, name, -1) : NIB_OK;
}

static void writer_free(nib_writer *writer) {
    nib_mem_strfree(writer->mem, writer->path);
    nib_mem_free(writer->mem, writer, sizeof *writer);
}

nib_status nib_writer_finish(nib_writer *writer) {
    if (!writer) return nib_last_error()->status;
    const nib_status status = nib_tensor_writer_finish(writer->file);
    if (status < NIB_OK) nib_error_at(writer->path, NULL, -1);
    writer_free(writer);
    return status;
}

void nib_writer_cancel(nib_writer *writer) {
    if (!writer) return;
    nib_tensor_writer_abort(writer->file);
    writer_free(writer);
}

/* ---- NumPy ---- */
nib_tensor *nib_npy_load(nib_ctx *ctx, const char *path) {
    if (!ctx) return NULL;
    if (!path) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "no path to read from");
    nib_npy array;
    void *data;
    nib_mem *mem = nib_ctx_mem(ctx);
    NIB_TRY_NULL(nib_npy_read(mem, path, &array, &data));
    nib_tensor *t = nib_tensor_new(ctx, array.dtype, array.shape);
    if (t && array.size) memcpy(nib_tensor_data_mut(t), data, array.size);
    if (!t) nib_error_at(path, NULL, -1);
    nib_mem_free(mem, data, array.size);
    return t;
}

nib_status nib_npy_save(const nib_tensor *t, const char *path) {
    if (!t) return nib_last_error()->status;
    if (!path) return NIB_RAISE(NIB_E_ARGUMENT, "no path to write to");
    if (t->layout || !nib_tensor_contiguous(t))
        return NIB_RAISE(NIB_E_ARGUMENT, "a tensor to save must be dense and contiguous");
    return nib_npy_write(nib_ctx_mem(t->ctx), path, t->dtype, &t->shape, nib_tensor_data(t),
                         nib_tensor_bytes(t));
}
