#include "io/tensor_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/text_util.h"
#include "io/npz.h"
#include "io/pt.h"
#include "io/safetensors.h"
#include "tensor/dtype.h"

/* ---- opening and closing ---- */
nib_tensor_file *nib_tensor_file_open(nib_mem *mem, const char *path) {
    nib_file file;
    unsigned char first[32] = {0};
    NIB_TRY_NULL(nib_file_open(mem, path, &file));
    const size_t size = file.size < sizeof first ? file.size : sizeof first;
    const nib_status status = nib_file_read(&file, first, size, 0);
    nib_file_close(&file);
    if (status < NIB_OK) return NULL;
    if (nib_npz_is_name(path)) return nib_npz_open(mem, path);
    return nib_pt_looks_like(first, size) || nib_pt_is_name(path) ? nib_pt_open(mem, path)
                                                                  : nib_safetensors_open(mem, path);
}

void nib_tensor_file_close(nib_tensor_file *file) {
    if (!file) return;
    nib_mem *mem = file->mem;
    nib_map_close(&file->map);
    nib_file_close(&file->file);
    for (size_t i = 0; i < file->count; i++)
        nib_mem_free(mem, file->entries[i].memory, file->entries[i].size);
    nib_mem_free(mem, file->entries, file->room * sizeof *file->entries);
    nib_mem_free(mem, file->by_name, file->count * sizeof *file->by_name);
    nib_mem_free(mem, file->metadata, file->metadata_room * sizeof *file->metadata);
    nib_mem_free(mem, file->by_key, file->metadata_count * sizeof *file->by_key);
    nib_mem_free(mem, file->names, file->names_size);
    nib_mem_free(mem, file->strides, file->strides_count * sizeof *file->strides);
    nib_mem_free(mem, file, sizeof *file);
}

/* ---- the tables ---- */
static int by_offset(const void *a, const void *b) {
    const nib_tensor_entry *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->size != y->size) return x->size < y->size ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}
static int by_name(const void *a, const void *b) {
    const nib_tensor_entry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}
static int by_key(const void *a, const void *b) {
    const nib_tensor_pair *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

/* torchao's metadata has a key for each tensor: they are looked up as tensors are. */
static nib_status index_keys(nib_tensor_file *file, const char *path) {
    file->by_key = nib_mem_alloc_array(file->mem, file->metadata_count, sizeof *file->by_key);
    if (!file->by_key) return NIB_E_MEMORY;
    for (size_t i = 0; i < file->metadata_count; i++) file->by_key[i] = &file->metadata[i];
    if (file->metadata_count)
        qsort(file->by_key, file->metadata_count, sizeof *file->by_key, by_key);
    for (size_t i = 1; i < file->metadata_count; i++) {
        const char *key = file->by_key[i]->key;
        if (strcmp(file->by_key[i - 1]->key, key) != 0) continue;
        NIB_RAISE(NIB_E_FORMAT, "the metadata has \"%.60s\" twice", key);
        return nib_error_at(path, NULL, -1);
    }
    return NIB_OK;
}

/* Sorting finds names that are there twice without a hash that a hostile file could defeat. */
nib_status nib_tensor_file_index(nib_tensor_file *file, const char *path) {
    if (file->count) qsort(file->entries, file->count, sizeof *file->entries, by_offset);
    file->by_name = nib_mem_alloc_array(file->mem, file->count, sizeof *file->by_name);
    if (!file->by_name) return NIB_E_MEMORY;
    for (size_t i = 0; i < file->count; i++) file->by_name[i] = &file->entries[i];
    if (file->count) qsort(file->by_name, file->count, sizeof *file->by_name, by_name);
    for (size_t i = 1; i < file->count; i++) {
        const nib_tensor_entry *a = file->by_name[i - 1], *b = file->by_name[i];
        if (strcmp(a->name, b->name) != 0) continue;
        NIB_RAISE(NIB_E_FORMAT, "two tensors have this name");
        return nib_error_at(
            path, a->name,
            (int64_t)(a->header_offset > b->header_offset ? a->header_offset : b->header_offset));
    }
    return index_keys(file, path);
}

void *nib_tensor_file_grown(nib_mem *mem, void *array, size_t count, size_t *room, size_t size) {
    if (count < *room) return array;
    const size_t more = *room ? 2 * *room : 16;
    void *moved = nib_mem_realloc(mem, array, *room * size, more * size);
    if (moved) *room = more;
    return moved;
}

const nib_tensor_entry *nib_tensor_file_find(const nib_tensor_file *file, const char *name) {
    for (size_t low = 0, high = file->count; low < high;) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(name, file->by_name[middle]->name);
        if (order == 0) return file->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *nib_tensor_file_metadata(const nib_tensor_file *file, const char *key) {
    for (size_t low = 0, high = file->metadata_count; low < high;) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(key, file->by_key[middle]->key);
        if (order == 0) return file->by_key[middle]->value;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- bytes ---- */
/* Bytes [offset, offset + size) of what the view is when dense. The index of the first element is
 * found by division, the others as an odometer turns. */
static void gather(const unsigned char *base, const nib_tensor_entry *entry, unsigned char *to,
                   size_t size, size_t offset) {
    const size_t width = (size_t)nib_dtype_bits(entry->dtype) / 8;
    const nib_shape *shape = &entry->shape;
    int64_t index[NIB_MAX_DIMS] = {0}, place = 0;
    int64_t rest = (int64_t)(offset / width);
    for (int d = shape->ndim - 1; d >= 0; d--) {
        index[d] = rest % shape->dim[d];
        rest /= shape->dim[d];
        place += index[d] * entry->stride[d];
    }
    for (size_t skip = offset % width; size; skip = 0) {
        const size_t n = width - skip < size ? width - skip : size;
        memcpy(to, base + (size_t)place * width + skip, n);
        to += n;
        size -= n;
        for (int d = shape->ndim - 1; d >= 0; d--) {
            place += entry->stride[d];
            if (++index[d] < shape->dim[d]) break;
            place -= shape->dim[d] * entry->stride[d];
            index[d] = 0;
        }
    }
}

nib_status nib_tensor_file_read(const nib_tensor_file *file, const nib_tensor_entry *entry,
                                void *to, size_t size, size_t offset) {
    size_t end;
    if (nib_add_size(offset, size, &end) || end > entry->size) {
        NIB_RAISE(NIB_E_ARGUMENT, "%zu bytes from %zu on were asked of a tensor of %zu", size,
                  offset, entry->size);
        return nib_error_at(file->file.path, entry->name, -1);
    }
    if (size == 0) return NIB_OK;
    if (entry->memory) {
        memcpy(to, entry->memory + offset, size);
        return NIB_OK;
    }
    if (entry->stride) { /* the reader mapped the file: single elements are not asked of pread */
        gather(file->map.data + entry->offset, entry, to, size, offset);
        return NIB_OK;
    }
    if (nib_file_read(&file->file, to, size, entry->offset + offset) == NIB_OK) return NIB_OK;
    return nib_error_at(NULL, entry->name, -1);
}

const void *nib_tensor_file_data(nib_tensor_file *file, const nib_tensor_entry *entry) {
    static const char nothing = 0;
    if (entry->size == 0) return &nothing;
    if (entry->memory) return entry->memory;
    if (entry->stride) {
        NIB_RAISE(NIB_E_ARGUMENT, "a view with strides is read, it cannot be mapped");
        nib_error_at(file->file.path, entry->name, -1);
        return NULL;
    }
    if (!file->map.data && nib_file_map(&file->file, &file->map) < NIB_OK) return NULL;
    return file->map.data + entry->offset;
}

nib_status nib_source_read(const nib_source *source, void *to, size_t size, size_t offset) {
    if (source->file) return nib_file_read(source->file, to, size, offset);
    size_t end;
    if (nib_add_size(offset, size, &end) || end > source->size) {
        NIB_RAISE(NIB_E_FORMAT, "ends within %zu bytes that begin at %zu", size, offset);
        return nib_error_at(source->path, NULL, (int64_t)source->size);
    }
    if (size) memcpy(to, source->bytes + offset, size);
    return NIB_OK;
}
