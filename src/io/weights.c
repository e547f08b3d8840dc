/* weights.c: from names to tensors over mapped files.
 *
 * Mapped bytes are lent to tensors without a copy, so a running model stands in memory once, as it
 * is stored. What must be copied goes through the context's memory and shows in its account. */
#include "io/weights.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/halffloat.h"
#include "base/mem.h"
#include "io/format.h"
#include "io/manifest.h"
#include "quant/cast.h"
#include "quant/codes.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

struct nib_weights {
    nib_ctx *ctx;
    nib_checkpoint *checkpoint;
    nib_manifest manifest; /* which tensors are parts of which weight */
    nib_dtype dtype;
    bool no_mmap;
};

/* A system whose format nobody here reads: what its tensors mean is not known, whatever their
 * names. */
static nib_status refuse_unknown(const nib_weights *w, const json_t *config) {
    const char *method = nib_format_method(config);
    if (w->manifest.format || !method) return NIB_OK;
    NIB_RAISE(NIB_E_UNSUPPORTED,
              "config.json says that \"%.60s\" quantized this checkpoint, whose format is not read "
              "here; `nibble list formats` shows those that are",
              method);
    return nib_error_at(w->checkpoint->path, NULL, -1);
}

nib_weights *nib_weights_open(nib_ctx *ctx, const char *path, const json_t *config, nib_dtype dtype,
                              bool no_mmap) {
    if (dtype && dtype != NIB_F32 && dtype != NIB_F16 && dtype != NIB_BF16)
        return NIB_RAISE_NULL(NIB_E_DTYPE, "weights cannot be loaded as %s; want f32, f16 or bf16",
                              nib_dtype_name(dtype));
    nib_weights *w = nib_mem_alloc_zero(&ctx->mem, sizeof *w);
    if (!w) return NULL;
    *w = (nib_weights){.ctx = ctx, .dtype = dtype, .no_mmap = no_mmap};
    w->manifest.mem = &ctx->mem;
    w->checkpoint = nib_checkpoint_open(&ctx->mem, path);
    if (w->checkpoint &&
        nib_manifest_read(&ctx->mem, w->checkpoint, config, &w->manifest) >= NIB_OK &&
        refuse_unknown(w, config) >= NIB_OK)
        return w;
    nib_weights_close(w);
    return NULL;
}

void nib_weights_close(nib_weights *w) {
    if (!w) return;
    nib_manifest_free(&w->manifest);
    nib_checkpoint_close(w->checkpoint);
    nib_mem_free(&w->ctx->mem, w, sizeof *w);
}

void nib_weights_settle(nib_weights *w) { nib_manifest_free(&w->manifest); }

bool nib_weights_has(const nib_weights *w, const char *name) {
    return nib_manifest_find(&w->manifest, name) != NULL;
}

const char *nib_weights_metadata(const nib_weights *w, const char *key) {
    return nib_checkpoint_metadata(w->checkpoint, key);
}

const nib_stored_module *nib_weights_module(const nib_weights *w, size_t i) {
    return i < w->manifest.nmodules ? &w->manifest.modules[i] : NULL;
}

nib_status nib_weights_scale(const nib_weights *w, const char *module, const char *scale,
                             float *value) {
    nib_text name = {.mem = w->manifest.mem};
    nib_text_format(&name, "%s%s%s", module, *module ? "." : "", scale);
    if (name.failed) return nib_last_error()->status;
    const nib_checkpoint_tensor *t = nib_checkpoint_find(w->checkpoint, name.data);
    const nib_dtype dtype = t ? t->entry->dtype : (nib_dtype)0;
    unsigned char bytes[4];
    nib_status status = NIB_OK;
    if (!t)
        status = NIB_RAISE(NIB_E_FORMAT,
                           "the map says that this module quantizes its activations, "
                           "but there is no %s",
                           name.data);
    else if ((dtype != NIB_F32 && dtype != NIB_F16 && dtype != NIB_BF16) ||
             t->entry->size != (size_t)nib_dtype_bits(dtype) / 8)
        status = NIB_RAISE(NIB_E_FORMAT, "%s is %zu bytes of %s, want one float", name.data,
                           t->entry->size, nib_dtype_name(dtype));
    if (status >= NIB_OK) status = nib_checkpoint_read(w->checkpoint, t, bytes, t->entry->size, 0);
    if (status >= NIB_OK) {
        nib_to_f32(dtype, value, bytes, 1);
        if (!(*value >= 0 && *value <= FLT_MAX))
            status =
                NIB_RAISE(NIB_E_FORMAT, "%s is %g, which is no scale", name.data, (double)*value);
    }
    if (status < NIB_OK) nib_weights_error_at(w, name.data);
    nib_text_free(&name);
    return status;
}

const nib_checkpoint *nib_weights_checkpoint(const nib_weights *w) { return w->checkpoint; }

size_t nib_weights_file_bytes(const nib_weights *w) { return w->checkpoint->payload; }

nib_status nib_weights_error_at(const nib_weights *w, const char *name) {
    const nib_checkpoint *c = w->checkpoint;
    const nib_stored *item = nib_manifest_find(&w->manifest, name);
    const nib_checkpoint_tensor *t = nib_checkpoint_find(c, item ? item->parts[0].name : name);
    if (!t) return nib_error_at(c->path, name, -1);
    return nib_error_at(c->shards[t->shard].file->file.path, name, (int64_t)t->entry->offset);
}

/* The bytes of a tensor as a storage: lent by the map, or a copy where alignment or the caller
 * asks for one. */
static nib_storage *bytes_of(const nib_weights *w, const nib_checkpoint_tensor *t) {
    const size_t size = t->entry->size, align = (size_t)nib_dtype_bits(t->entry->dtype) / 8;
    if (!w->no_mmap && nib_tensor_entry_dense(t->entry)) {
        const void *data = nib_checkpoint_data(w->checkpoint, t);
        if (!data) return NULL;
        if (align <= 1 || (uintptr_t)data % align == 0) {
            nib_storage *lent = nib_storage_lend(&w->ctx->mem, data, size, NULL, NULL);
            if (lent) lent->mapped = true;
            return lent;
        }
    }
    nib_storage *copy = nib_storage_new(&w->ctx->mem, size);
    if (!copy || nib_checkpoint_read(w->checkpoint, t, copy->data, size, 0) >= NIB_OK) return copy;
    nib_storage_release(copy);
    return NULL;
}

/* A dense float tensor in another dtype. Takes `t`. */
static nib_tensor *cast(nib_tensor *t, nib_dtype dtype) {
    nib_tensor *out = nib_tensor_cast(t, dtype);
    nib_tensor_free(t);
    return out;
}

/* A dense tensor as the file has it. */
static nib_tensor *dense(const nib_weights *w, const nib_checkpoint_tensor *found) {
    nib_storage *bytes = bytes_of(w, found);
    nib_tensor *t =
        bytes ? nib_tensor_over(w->ctx, found->entry->dtype, found->entry->shape, bytes, 0) : NULL;
    nib_storage_release(bytes);
    return t;
}

/* A quantized weight over its parts, each where it lies. It keeps the dtype that its codes stand
 * for, whatever dtype was asked of float weights. */
static nib_tensor *quantized(const nib_weights *w, const nib_stored *item) {
    nib_storage *part[NIB_MAX_PARTS] = {0};
    const size_t offset[NIB_MAX_PARTS] = {0};
    bool all = true;
    for (int i = 0; i < item->nparts && all; i++) {
        part[i] = bytes_of(w, nib_checkpoint_find(w->checkpoint, item->parts[i].name));
        all = part[i] != NULL;
    }
    nib_tensor *t =
        all ? nib_tensor_quantized(w->ctx, item->layout, &item->desc, part, offset) : NULL;
    for (int i = 0; i < item->nparts; i++) nib_storage_release(part[i]);
    if (t && item->config && nib_scheme_note(t, item->config) < NIB_OK) {
        nib_tensor_free(t);
        return NULL;
    }
    return t;
}

/* Is a weight there in parts, as optimum-quanto saves it, but not the map that tells their type? */
static bool lacks_map(const nib_weights *w, const char *name) {
    char scale[1024]; /* longer names get the plain error */
    const int length = snprintf(scale, sizeof scale, "%s._scale", name);
    return length > 0 && (size_t)length < sizeof scale && nib_checkpoint_find(w->checkpoint, scale);
}

static nib_tensor *missing(const nib_weights *w, const char *name) {
    if (lacks_map(w, name))
        NIB_RAISE(NIB_E_FORMAT,
                  "%s is quantized by optimum-quanto, but quanto_qmap.json, which holds its type, "
                  "is not beside it or does not name it; save the map too",
                  name);
    else
        NIB_RAISE(NIB_E_FORMAT, "there is no tensor %s", name);
    nib_weights_error_at(w, name);
    return NULL;
}

nib_tensor *nib_weights_get(nib_weights *w, const char *name, const nib_shape *shape) {
    const nib_stored *item = nib_manifest_find(&w->manifest, name);
    if (!item) return missing(w, name);
    if (item->layout) {
        const bool known = nib_manifest_resolve(&w->manifest, w->checkpoint, item, shape) >= NIB_OK;
        nib_tensor *t = known ? quantized(w, item) : NULL;
        if (!t) nib_weights_error_at(w, name);
        return t;
    }
    const nib_checkpoint_tensor *found = nib_checkpoint_find(w->checkpoint, name);
    const nib_tensor_entry *entry = found->entry;
    const bool wide =
        entry->dtype == NIB_F32 || entry->dtype == NIB_F16 || entry->dtype == NIB_BF16;
    if (!wide) {
        NIB_RAISE(NIB_E_UNSUPPORTED,
                  "%s is %s; a weight that runs is f32, f16, bf16 or quantized in a "
                  "known format",
                  name, nib_dtype_name(entry->dtype));
        nib_weights_error_at(w, name);
        return NULL;
    }
    nib_tensor *t = dense(w, found);
    if (t && w->dtype && w->dtype != entry->dtype) t = cast(t, w->dtype);
    if (!t) nib_weights_error_at(w, name);
    return t;
}

nib_tensor *nib_weights_get_any(nib_weights *w, const char *name, const nib_shape *shape) {
    const nib_stored *item = nib_manifest_find(&w->manifest, name);
    if (!item || item->layout) return nib_weights_get(w, name, shape);
    nib_tensor *t = dense(w, nib_checkpoint_find(w->checkpoint, name));
    if (!t) nib_weights_error_at(w, name);
    return t;
}

size_t nib_weights_count(const nib_weights *w) { return w->manifest.count; }
const char *nib_weights_name(const nib_weights *w, size_t i) { return w->manifest.items[i].name; }
