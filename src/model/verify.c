/* verify.c: derive every tensor of a quantized checkpoint again from the float one it came from,
 * as a stream, and compare bytes. How anyone can know that a file is what it says. */
#include <string.h>

#include "base/error.h"
#include "base/text_util.h"
#include "io/config_text.h"
#include "io/format.h"
#include "io/manifest.h"
#include "model/across.h"
#include "model/file_config.h"
#include "model/stream.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum { COMPARE_BYTES = 1 << 20 };

typedef struct verification {
    nib_ctx *ctx;
    nib_mem *mem;
    nib_checkpoint *path, *source;
    nib_manifest manifest;
    const char *head;       /* the weight of one */
    const nib_stored *item; /* the one at work */
    const nib_checkpoint_tensor *from;
    bool has_across, across; /* the source has linears that lie across; the one at work does */
    unsigned char *buffer;   /* COMPARE_BYTES of the file */
    double done, total;
    nib_report *report;
} verification;

/* The bytes that were derived against those of a tensor in the file. */
static nib_status compare(verification *v, const char *tensor, const unsigned char *want,
                          size_t size, size_t offset) {
    const nib_checkpoint_tensor *t = nib_checkpoint_find(v->path, tensor);
    for (size_t at = 0; at < size; at += COMPARE_BYTES) {
        const size_t n = size - at < COMPARE_BYTES ? size - at : COMPARE_BYTES;
        NIB_TRY(nib_checkpoint_read(v->path, t, v->buffer, n, offset + at));
        if (memcmp(v->buffer, want + at, n) == 0) continue;
        size_t i = 0;
        while (v->buffer[i] == want[at + i]) i++;
        NIB_RAISE(NIB_E_DIFFERS, "byte %zu is 0x%02x, the source gives 0x%02x%s%s", offset + at + i,
                  v->buffer[i], want[at + i], v->item->layout ? " for " : "",
                  v->item->layout ? v->item->name : "");
        return nib_error_at(nib_checkpoint_file(v->path, t->shard), tensor,
                            (int64_t)(t->entry->offset + offset + at + i));
    }
    return NIB_OK;
}

static nib_status read_source(void *user, void *to, size_t size, size_t offset) {
    verification *v = user;
    return v->across ? nib_across_read(v->source, v->from, to, size, offset)
                     : nib_checkpoint_read(v->source, v->from, to, size, offset);
}

static nib_status compare_part(void *user, int part, const void *bytes, size_t size,
                               size_t offset) {
    verification *v = user;
    return compare(v, v->item->parts[part].name, bytes, size, offset);
}

static nib_status step(void *user, size_t bytes) {
    verification *v = user;
    v->done += (double)bytes;
    return nib_ctx_progress(v->ctx, "verify", v->done, v->total);
}

static nib_status differs(const verification *v, const char *what) {
    NIB_RAISE(NIB_E_DIFFERS, "%s", what);
    return nib_error_at(v->path->path, v->item->name, -1);
}

static nib_status verify_dense(verification *v, unsigned char *bytes) {
    const nib_checkpoint_tensor *t = nib_checkpoint_find(v->path, v->item->name);
    if (t->entry->dtype != v->from->entry->dtype || t->entry->size != v->from->entry->size)
        return differs(v, "this weight has another dtype or shape in the source");
    for (size_t at = 0; at < t->entry->size; at += COMPARE_BYTES) {
        const size_t n = t->entry->size - at < COMPARE_BYTES ? t->entry->size - at : COMPARE_BYTES;
        NIB_TRY(nib_checkpoint_read(v->source, v->from, bytes, n, at));
        NIB_TRY(compare(v, v->item->name, bytes, n, at));
        NIB_TRY(step(v, n));
    }
    return NIB_OK;
}

static nib_status verify_quantized(verification *v) {
    const nib_stored *item = v->item;
    nib_text scheme = {.mem = v->mem};
    nib_shape shape = v->from->entry->shape;
    v->across = v->has_across && shape.ndim == 2 && nib_across_name(item->name);
    if (v->across) shape = nib_across_shape(&shape);
    NIB_TRY(nib_manifest_resolve(&v->manifest, v->path, item, &shape));
    if (!item->config) {
        NIB_RAISE(NIB_E_UNSUPPORTED, "this checkpoint does not say how this weight was quantized");
        return nib_error_at(v->path->path, item->name, -1);
    }
    if (!nib_shape_equal(&item->shape, &shape) || item->dtype != v->from->entry->dtype)
        return differs(v, "this weight has another dtype or shape in the source");
    nib_stream s = {.ctx = v->ctx,
                    .config = item->config,
                    .layout = item->layout,
                    .desc = item->desc,
                    .site = {item->shape.ndim == 3 ? "experts" : "linear", item->name, item->shape,
                             item->dtype},
                    .nonfinite = NIB_NONFINITE_KEEP,
                    .read = read_source,
                    .across = v->across,
                    .put = compare_part,
                    .step = step,
                    .user = v,
                    .measure = v->report && v->report->row};
    const nib_status status = nib_stream_run(&s);
    if (status < NIB_OK) return nib_error_at(NULL, item->name, -1);
    nib_config_print(item->config, &scheme);
    if (v->report && v->report->row)
        v->report->row(v->report->user, &(nib_report_row){.name = item->name,
                                                          .scheme = scheme.data ? scheme.data : "",
                                                          .bytes_before = v->from->entry->size,
                                                          .bytes_after = nib_stored_bytes(item),
                                                          .sqnr_db = nib_measure_sqnr_db(&s.cost),
                                                          .max_error = s.cost.max_error,
                                                          .weights = nib_stored_count(item)});
    nib_text_free(&scheme);
    return NIB_OK;
}

/* The tensor of the source that an item came from; a head that was untied came from the table. */
static const nib_checkpoint_tensor *source_of(const verification *v, const nib_stored *item) {
    const nib_checkpoint_tensor *t = nib_checkpoint_find(v->source, item->name);
    if (!t && strcmp(item->name, v->head) == 0) t = nib_tied_table_of(v->source);
    return t;
}

/* A scale of a module without quantized weights, such as a norm's: it came from data, not from the
 * source. */
static bool is_scale(const verification *v, const nib_stored *item) {
    const char *dot = strrchr(item->name, '.');
    return dot && (strcmp(dot, ".input_scale") == 0 || strcmp(dot, ".output_scale") == 0) &&
           nib_manifest_module(&v->manifest, item->name, (size_t)(dot - item->name));
}

static nib_status verify_all(verification *v, unsigned char *bytes) {
    v->total = (double)v->source->payload;
    if (v->report) { /* what an earlier call left there is not ours to add to */
        v->report->matched = v->report->quantized = v->report->left = 0;
        v->report->bytes_before = v->report->bytes_after = 0;
    }
    for (size_t i = 0; i < v->manifest.count; i++) {
        v->item = &v->manifest.items[i];
        if (is_scale(v, v->item)) continue;
        v->from = source_of(v, v->item);
        if (!v->from) return differs(v, "this weight is not in the source");
        NIB_TRY(v->item->layout ? verify_quantized(v) : verify_dense(v, bytes));
        if (!v->report) continue;
        v->report->bytes_before += v->from->entry->size;
        v->report->bytes_after += nib_stored_bytes(v->item);
        v->report->matched++;
        if (v->item->layout)
            v->report->quantized++;
        else
            v->report->left++;
    }
    for (size_t i = 0; i < v->source->count; i++) {
        const char *name = v->source->tensors[i].entry->name;
        if (nib_manifest_find(&v->manifest, name)) continue;
        NIB_RAISE(NIB_E_DIFFERS, "this weight of the source is missing");
        return nib_error_at(v->path->path, name, -1);
    }
    return NIB_OK;
}

nib_status nib_verify_file(nib_ctx *ctx, const char *path, const char *source, nib_report *report) {
    if (!ctx || !path || !source)
        return NIB_RAISE(NIB_E_ARGUMENT, "verify needs a context and two paths");
    verification v = {.ctx = ctx, .mem = nib_ctx_mem(ctx), .report = report};
    unsigned char *bytes = NULL;
    json_t *config = NULL;
    nib_status status = NIB_E_MEMORY;
    v.path = nib_checkpoint_open(v.mem, path);
    v.source = v.path ? nib_checkpoint_open(v.mem, source) : NULL;
    if (!v.source) goto done;
    v.has_across = nib_across_checkpoint(v.source);
    NIB_TRY_GOTO(nib_config_text_load(v.mem, v.path, &config, NULL), done);
    v.head = nib_file_config_head(config);
    NIB_TRY_GOTO(nib_manifest_read(v.mem, v.path, config, &v.manifest), done);
    if (!v.manifest.format) {
        NIB_RAISE(NIB_E_FORMAT, "this checkpoint is not quantized in a format known here");
        nib_error_at(path, NULL, -1);
        goto done;
    }
    v.buffer = nib_mem_alloc(v.mem, COMPARE_BYTES);
    bytes = v.buffer ? nib_mem_alloc(v.mem, COMPARE_BYTES) : NULL;
    if (!bytes) goto done;
    status = verify_all(&v, bytes);
    goto free;
done:
    status = nib_last_error()->status;
free:
    nib_mem_free(v.mem, bytes, COMPARE_BYTES);
    nib_mem_free(v.mem, v.buffer, COMPARE_BYTES);
    if (v.manifest.mem) nib_manifest_free(&v.manifest);
    if (config) json_decref(config);
    nib_checkpoint_close(v.source);
    nib_checkpoint_close(v.path);
    return status;
}
