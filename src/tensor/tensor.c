#include "tensor/tensor.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "base/error.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

/* Bytes of each part that are asked for ahead: about what comes from memory while a call begins. */
enum { FETCHED = 1024 };

static nib_tensor none = {.scope_index = -1};
nib_tensor *const NIB_NONE = &none;

static bool shape_valid(nib_dtype dtype, const nib_shape *shape, int64_t *count, size_t *bytes) {
    if (shape->ndim < 0 || shape->ndim > NIB_MAX_DIMS) return false;
    return !nib_shape_count(shape, count) && !nib_dtype_bytes(dtype, *count, bytes);
}

static nib_tensor *header_new(nib_ctx *ctx, nib_dtype dtype, nib_shape shape) {
    nib_tensor *t = nib_mem_alloc_zero(&ctx->mem, sizeof *t);
    if (!t) return NULL;
    atomic_init(&t->refs, 1);
    t->ctx = ctx;
    t->scope_index = -1;
    t->dtype = dtype;
    t->shape = shape;
    int64_t stride = 1;
    for (int i = shape.ndim - 1; i >= 0; i--) {
        t->stride[i] = stride;
        stride *= shape.dim[i] ? shape.dim[i] : 1;
    }
    return t;
}

nib_tensor *nib_tensor_over(nib_ctx *ctx, nib_dtype dtype, nib_shape shape, nib_storage *storage,
                            size_t offset) {
    if (!ctx || !storage) return NULL;
    char text[96];
    int64_t count;
    size_t bytes, end;
    if (!nib_dtype_bits(dtype)) return NIB_RAISE_NULL(NIB_E_DTYPE, "%d is no dtype", (int)dtype);
    if (!shape_valid(dtype, &shape, &count, &bytes))
        return NIB_RAISE_NULL(NIB_E_SHAPE, "shape %s is not valid",
                              nib_shape_text(&shape, text, sizeof text));
    if (nib_add_size(offset, bytes, &end) || end > storage->size)
        return NIB_RAISE_NULL(NIB_E_SHAPE,
                              "shape %s of %s needs %zu bytes from %zu, storage has %zu",
                              nib_shape_text(&shape, text, sizeof text), nib_dtype_name(dtype),
                              bytes, offset, storage->size);
    nib_tensor *t = header_new(ctx, dtype, shape);
    if (!t) return NULL;
    t->nparts = 1;
    t->part[0] = nib_storage_retain(storage);
    t->data[0] = storage->data + offset;
    return t;
}

nib_tensor *nib_tensor_hollow(nib_ctx *ctx, nib_dtype dtype, nib_shape shape) {
    return header_new(ctx, dtype, shape);
}

static nib_tensor *dense(nib_ctx *ctx, nib_dtype dtype, nib_shape shape,
                         nib_storage *(*room)(nib_mem *mem, size_t size)) {
    if (!ctx) return NULL;
    char text[96];
    int64_t count;
    size_t bytes;
    if (!nib_dtype_bits(dtype)) return NIB_RAISE_NULL(NIB_E_DTYPE, "%d is no dtype", (int)dtype);
    if (!shape_valid(dtype, &shape, &count, &bytes))
        return NIB_RAISE_NULL(NIB_E_SHAPE, "shape %s is not valid",
                              nib_shape_text(&shape, text, sizeof text));
    nib_storage *storage = room(&ctx->mem, bytes);
    nib_tensor *t = storage ? header_new(ctx, dtype, shape) : NULL;
    if (!t) {
        nib_storage_release(storage);
        return NULL;
    }
    t->nparts = 1;
    t->part[0] = storage; /* its only reference */
    t->data[0] = storage->data;
    return t;
}

nib_tensor *nib_tensor_new(nib_ctx *ctx, nib_dtype dtype, nib_shape shape) {
    return dense(ctx, dtype, shape, nib_storage_brief);
}

nib_tensor *nib_tensor_result(nib_ctx *ctx, nib_dtype dtype, nib_shape shape) {
    return dense(ctx, dtype, shape, nib_storage_result);
}

nib_tensor *nib_tensor_wrap(nib_ctx *ctx, nib_dtype dtype, nib_shape shape, const void *data,
                            void (*release)(void *user), void *user) {
    if (!ctx || !data) return NULL;
    int64_t count;
    size_t bytes;
    char text[96];
    if (!shape_valid(dtype, &shape, &count, &bytes))
        return NIB_RAISE_NULL(NIB_E_SHAPE, "shape %s is not valid",
                              nib_shape_text(&shape, text, sizeof text));
    nib_storage *storage = nib_storage_lend(&ctx->mem, data, bytes, NULL, NULL);
    if (!storage) return NULL;
    nib_tensor *t = nib_tensor_over(ctx, dtype, shape, storage, 0);
    if (t) {
        storage->release = release; /* only a tensor that was made gives the bytes back */
        storage->user = user;
    }
    nib_storage_release(storage);
    return t;
}

nib_tensor *nib_tensor_quantized(nib_ctx *ctx, const nib_layout *layout, const nib_qdesc *desc,
                                 nib_storage *const part[], const size_t part_offset[]) {
    if (!ctx || !layout) return NULL;
    nib_part parts[NIB_MAX_PARTS];
    const int n = layout->parts(desc, parts);
    nib_tensor *t = header_new(ctx, desc->math, desc->shape);
    if (!t) return NULL;
    t->layout = layout;
    t->desc = *desc;
    for (int i = 0; i < n; i++) {
        int64_t count;
        size_t bytes, end;
        if (!shape_valid(parts[i].dtype, &parts[i].shape, &count, &bytes) ||
            nib_add_size(part_offset[i], bytes, &end) || end > part[i]->size) {
            nib_tensor_free(t);
            return NIB_RAISE_NULL(NIB_E_SHAPE, "part %s of a %s tensor does not fit its %zu bytes",
                                  parts[i].suffix, layout->name, part[i]->size);
        }
        t->part[i] = nib_storage_retain(part[i]);
        t->data[i] = part[i]->data + part_offset[i];
        t->nparts = i + 1;
    }
    return t;
}

nib_tensor *nib_tensor_retain(const nib_tensor *t) {
    nib_tensor *shared = (nib_tensor *)(uintptr_t)t;
    if (t && t != NIB_NONE) atomic_fetch_add_explicit(&shared->refs, 1, memory_order_relaxed);
    return shared;
}

void nib_tensor_free(nib_tensor *t) {
    if (!t || t == NIB_NONE) return;
    if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1) return;
    if (t->scope_index >= 0) t->ctx->owned[t->scope_index] = NULL;
    for (int i = 0; i < t->nparts; i++) nib_storage_release(t->part[i]);
    nib_storage_release(t->kept);
    if (t->config) nib_mem_free(NULL, t->config, t->config->size); /* as nib_config_copy made it */
    nib_mem_free(&t->ctx->mem, t, sizeof *t);
}

nib_dtype nib_tensor_dtype(const nib_tensor *t) { return t ? t->dtype : (nib_dtype)0; }
nib_shape nib_tensor_shape(const nib_tensor *t) { return t ? t->shape : (nib_shape){0}; }
const char *nib_tensor_layout(const nib_tensor *t) {
    return !t ? NULL : t->layout ? t->layout->name : "dense";
}

void nib_tensor_fetch(const nib_tensor *t) {
    nib_cpu_fetch(t, sizeof *t);
    for (int i = 0; i < t->nparts; i++) nib_cpu_fetch(t->data[i], FETCHED);
}

void *nib_tensor_data_mut(nib_tensor *t) {
    if (!t) return NULL;
    if (t->part[0]->constant)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT,
                              "this tensor wraps data that must not change; copy it first");
    t->part[0]->version++;
    return t->data[0];
}

int64_t nib_tensor_count(const nib_tensor *t) {
    int64_t count = 1;
    for (int i = 0; i < t->shape.ndim; i++) count *= t->shape.dim[i];
    return count;
}

size_t nib_tensor_bytes(const nib_tensor *t) {
    size_t sum = 0, bytes;
    if (!t->layout) return nib_dtype_bytes(t->dtype, nib_tensor_count(t), &bytes) ? 0 : bytes;
    nib_part parts[NIB_MAX_PARTS];
    const int n = t->layout->parts(&t->desc, parts);
    for (int i = 0; i < n; i++) {
        int64_t count;
        if (shape_valid(parts[i].dtype, &parts[i].shape, &count, &bytes)) sum += bytes;
    }
    return sum;
}

bool nib_tensor_contiguous(const nib_tensor *t) {
    if (nib_tensor_count(t) == 0) return true;
    int64_t stride = 1;
    for (int i = t->shape.ndim - 1; i >= 0; i--) {
        if (t->shape.dim[i] != 1 && t->stride[i] != stride) return false;
        stride *= t->shape.dim[i];
    }
    return true;
}

nib_status nib_tensor_read(const nib_tensor *t, void *to, size_t size) {
    if (!t) return nib_last_error()->status;
    if (t == NIB_NONE) return NIB_RAISE(NIB_E_ARGUMENT, "NIB_NONE has nothing to read");
    if (t->layout)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "a quantized tensor (%s) is read once it is dequantized", t->layout->name);
    if (size != nib_tensor_bytes(t))
        return NIB_RAISE(NIB_E_SHAPE, "the tensor has %zu bytes, the room for it %zu",
                         nib_tensor_bytes(t), size);
    if (!to && size) return NIB_RAISE(NIB_E_ARGUMENT, "no room was given for %zu bytes", size);
    const char *from = nib_tensor_data(t);
    const bool contiguous = nib_tensor_contiguous(t);
    const size_t bits = (size_t)nib_dtype_bits(t->dtype), width = bits / 8;
    if (!contiguous && bits % 8 != 0)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "elements of %zu bits are read from contiguous tensors only", bits);
    if (contiguous && size) memcpy(to, from, size);
    if (contiguous) return NIB_OK;
    char *out = to;
    int64_t at[NIB_MAX_DIMS] = {0}, offset = 0;
    for (size_t done = 0; done < size; done += width) {
        memcpy(out + done, from + offset * (int64_t)width, width);
        for (int i = t->shape.ndim - 1; i >= 0; i--) { /* the next element, as an odometer counts */
            offset += t->stride[i];
            if (++at[i] < t->shape.dim[i]) break;
            offset -= t->stride[i] * at[i];
            at[i] = 0;
        }
    }
    return NIB_OK;
}

bool nib_shape_equal(const nib_shape *a, const nib_shape *b) {
    if (a->ndim != b->ndim) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

const char *nib_shape_text(const nib_shape *shape, char *text, size_t room) {
    size_t at = 0;
    const int n = shape->ndim < 0 ? 0 : shape->ndim > NIB_MAX_DIMS ? NIB_MAX_DIMS : shape->ndim;
    at += (size_t)snprintf(text, room, "[");
    for (int i = 0; i < n && at < room; i++)
        at +=
            (size_t)snprintf(text + at, room - at, i ? ", %lld" : "%lld", (long long)shape->dim[i]);
    if (at < room) snprintf(text + at, room - at, "]");
    return text;
}
