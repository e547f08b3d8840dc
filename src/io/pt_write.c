#include "io/pt_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/text_util.h"
#include "io/given.h"
#include "io/pickle.h"
#include "io/pt.h"
#include "io/pt_pickle.h"
#include "io/zip.h"
#include "io/zip_write.h"
#include "tensor/dtype.h"

#define PREFIX "archive/"

typedef struct placed {
    const char *name; /* among names */
    nib_dtype dtype;
    nib_shape shape;
    size_t entry; /* index */
    nib_given given;
} placed;

/* Where everything goes; known before the first byte. */
typedef struct layout {
    nib_mem *mem;
    placed *tensors; /* [count], in the order of the plan */
    const placed **by_name;
    size_t count;
    nib_zip_place *entries; /* [entry_count], in the order of the file */
    size_t entry_count;
    char *names;
    size_t names_size;
    nib_text pickle, heads, directory;
    size_t payload, directory_offset, size;
} layout;

struct nib_pt_writer {
    nib_mem *mem;
    nib_file_writer *file;
    layout layout;
};

static void layout_free(layout *l) {
    for (size_t i = 0; l->tensors && i < l->count; i++)
        nib_given_free(l->mem, &l->tensors[i].given);
    nib_mem_free(l->mem, l->tensors, l->count * sizeof *l->tensors);
    nib_mem_free(l->mem, l->by_name, l->count * sizeof *l->by_name);
    nib_mem_free(l->mem, l->entries, l->entry_count * sizeof *l->entries);
    nib_mem_free(l->mem, l->names, l->names_size);
    nib_text_free(&l->pickle);
    nib_text_free(&l->heads);
    nib_text_free(&l->directory);
}

/* ---- the plan ---- */
static nib_status check_text(const char *text, const char *what) {
    const size_t length = strlen(text);
    if (nib_utf8_valid(text, length) != length)
        return NIB_RAISE(NIB_E_ARGUMENT, "%s is not valid UTF-8", what);
    return length <= UINT32_MAX ? NIB_OK : NIB_RAISE(NIB_E_ARGUMENT, "%s is too long", what);
}

static nib_status check_planned(const nib_safetensors_planned *planned, placed *to, size_t *bytes) {
    int64_t count;
    *to = (placed){.name = planned->name, .dtype = planned->dtype, .shape = planned->shape};
    NIB_TRY(check_text(planned->name, "a tensor's name"));
    if (!nib_pt_holds(planned->dtype))
        return NIB_RAISE(NIB_E_DTYPE, "torch.save cannot hold %s", nib_dtype_name(planned->dtype));
    if (planned->shape.ndim < 0 || planned->shape.ndim > NIB_MAX_DIMS ||
        nib_shape_count(&planned->shape, &count) || nib_dtype_bytes(planned->dtype, count, bytes))
        return NIB_RAISE(NIB_E_SHAPE, "the number of elements overflows");
    return NIB_OK;
}

static int by_name(const void *a, const void *b) {
    const placed *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* The caller's names may be gone when the tensors come. */
static nib_status keep_names(layout *l) {
    for (size_t i = 0; i < l->count; i++) l->names_size += strlen(l->tensors[i].name) + 1;
    l->names = nib_mem_alloc(l->mem, l->names_size);
    if (!l->names) return NIB_E_MEMORY;
    char *at = l->names;
    for (size_t i = 0; i < l->count; i++) {
        const size_t size = strlen(l->tensors[i].name) + 1;
        l->tensors[i].name = memcpy(at, l->tensors[i].name, size);
        l->by_name[i] = &l->tensors[i];
        at += size;
    }
    if (l->count) qsort(l->by_name, l->count, sizeof *l->by_name, by_name);
    for (size_t i = 1; i < l->count; i++)
        if (strcmp(l->by_name[i - 1]->name, l->by_name[i]->name) == 0) {
            NIB_RAISE(NIB_E_ARGUMENT, "two tensors have this name");
            return nib_error_at(NULL, l->by_name[i]->name, -1);
        }
    return NIB_OK;
}

static nib_status place_entry(const layout *l, const char *name, size_t size, size_t *end,
                              nib_zip_place *e) {
    nib_text text = {.mem = l->mem};
    nib_text_format(&text, PREFIX "%s", name);
    const bool failed = text.failed;
    if (!failed) memcpy(e->name, text.data, text.length + 1);
    nib_text_free(&text);
    return failed ? NIB_E_MEMORY : nib_zip_place_next(e, size, end);
}

static nib_status place_all(layout *l, const size_t *bytes) {
    size_t end = 0, n = 0;
    NIB_TRY(place_entry(l, "data.pkl", l->pickle.length, &end, &l->entries[n++]));
    NIB_TRY(place_entry(l, "byteorder", 6, &end, &l->entries[n++]));
    for (size_t i = 0; i < l->count; i++) {
        nib_text name = {.mem = l->mem};
        nib_text_format(&name, "data/%zu", i);
        l->tensors[i].entry = n;
        const nib_status status = name.failed
                                      ? NIB_E_MEMORY
                                      : place_entry(l, name.data, bytes[i], &end, &l->entries[n++]);
        nib_text_free(&name);
        NIB_TRY(status);
        l->payload += bytes[i];
    }
    NIB_TRY(place_entry(l, "version", 2, &end, &l->entries[n++]));
    l->entries[0].crc = nib_zip_crc(l->pickle.data, l->pickle.length);
    l->entries[1].crc = nib_zip_crc("little", 6);
    l->entries[n - 1].crc = nib_zip_crc("3\n", 2);
    l->directory_offset = end;
    l->directory.length = 0;
    nib_zip_put_directory(&l->directory, l->entries, l->entry_count, l->directory_offset);
    if (l->directory.failed) return NIB_E_MEMORY;
    l->size = end + l->directory.length;
    return NIB_OK;
}

static nib_status layout_make(nib_mem *mem, const nib_safetensors_plan *plan, layout *l) {
    *l = (layout){.mem = mem,
                  .count = plan->count,
                  .pickle = {.mem = mem},
                  .heads = {.mem = mem},
                  .directory = {.mem = mem}};
    for (size_t i = 0; i < plan->metadata_count; i++) {
        NIB_TRY(check_text(plan->metadata[i].key, "a key of the metadata"));
        NIB_TRY(check_text(plan->metadata[i].value, "a value of the metadata"));
        for (size_t k = 0; k < i; k++) /* a handful of keys */
            if (strcmp(plan->metadata[i].key, plan->metadata[k].key) == 0)
                return NIB_RAISE(NIB_E_ARGUMENT, "the metadata has \"%.60s\" twice",
                                 plan->metadata[i].key);
    }
    l->tensors = nib_mem_alloc_array(mem, plan->count, sizeof *l->tensors);
    l->by_name = l->tensors ? nib_mem_alloc_array(mem, plan->count, sizeof *l->by_name) : NULL;
    l->entries = l->by_name ? nib_mem_alloc_array(mem, plan->count + 3, sizeof *l->entries) : NULL;
    if (!l->entries) return NIB_E_MEMORY;
    l->entry_count = plan->count + 3;
    size_t *bytes = nib_mem_alloc_array(mem, plan->count, sizeof *bytes);
    if (!bytes) return NIB_E_MEMORY;
    nib_status status = NIB_OK;
    for (size_t i = 0; i < plan->count && status >= NIB_OK; i++) {
        status = check_planned(&plan->tensors[i], &l->tensors[i], &bytes[i]);
        if (status < NIB_OK) nib_error_at(NULL, plan->tensors[i].name, -1);
    }
    if (status >= NIB_OK) status = keep_names(l);
    if (status >= NIB_OK) nib_pt_put_pickle(&l->pickle, plan);
    if (status >= NIB_OK && l->pickle.failed) status = NIB_E_MEMORY;
    if (status >= NIB_OK && l->pickle.length > NIB_PICKLE_MAX)
        status = NIB_RAISE(NIB_E_UNSUPPORTED, "the pickle would have %zu bytes; %d is the limit",
                           l->pickle.length, NIB_PICKLE_MAX);
    if (status >= NIB_OK) status = place_all(l, bytes);
    nib_mem_free(mem, bytes, plan->count * sizeof *bytes);
    return status;
}

nib_status nib_pt_plan_size(nib_mem *mem, const nib_safetensors_plan *plan, size_t *size,
                            size_t *payload) {
    layout l;
    const nib_status status = layout_make(mem, plan, &l);
    if (status >= NIB_OK) {
        *size = l.size;
        if (payload) *payload = l.payload;
    }
    layout_free(&l);
    return status;
}

/* ---- the file ---- */
nib_pt_writer *nib_pt_writer_open(nib_mem *mem, const char *path,
                                  const nib_safetensors_plan *plan) {
    nib_pt_writer *writer = nib_mem_alloc_zero(mem, sizeof *writer);
    if (!writer) goto fail;
    writer->mem = mem;
    if (layout_make(mem, plan, &writer->layout) < NIB_OK) goto fail;
    writer->file = nib_file_writer_open(mem, path, writer->layout.size);
    if (writer->file) return writer;
fail:
    nib_error_at(path, NULL, -1);
    nib_pt_writer_abort(writer);
    return NULL;
}

void nib_pt_writer_size(const nib_pt_writer *writer, size_t *size, size_t *payload) {
    *size = writer->layout.size;
    *payload = writer->layout.payload;
}

bool nib_pt_writer_find(const nib_pt_writer *writer, const char *name, size_t *index,
                        nib_safetensors_planned *planned) {
    const layout *l = &writer->layout;
    const placed key = {.name = name}, *wanted = &key;
    const placed *const *found =
        l->count ? bsearch(&wanted, l->by_name, l->count, sizeof *l->by_name, by_name) : NULL;
    if (!found) return false;
    *index = (size_t)(*found - l->tensors);
    if (planned)
        *planned = (nib_safetensors_planned){(*found)->name, (*found)->dtype, (*found)->shape};
    return true;
}

nib_status nib_pt_writer_put(nib_pt_writer *writer, size_t index, const void *from, size_t size,
                             size_t offset) {
    layout *l = &writer->layout;
    size_t end;
    if (index >= l->count)
        return NIB_RAISE(NIB_E_ARGUMENT, "tensor %zu of a plan of %zu", index, l->count);
    placed *t = &l->tensors[index];
    const nib_zip_place *e = &l->entries[t->entry];
    nib_status status = NIB_OK;
    if (nib_add_size(offset, size, &end) || end > e->size)
        status = NIB_RAISE(NIB_E_ARGUMENT, "%zu bytes at %zu do not fit a tensor of %zu", size,
                           offset, e->size);
    else
        status = nib_given_note(writer->mem, &t->given, offset, end, from);
    if (status >= NIB_OK)
        status = nib_file_writer_put(writer->file, from, size, e->offset + offset);
    return status < NIB_OK ? nib_error_at(NULL, t->name, -1) : NIB_OK;
}

/* All that is not payload, now that CRCs are known. */
static nib_status put_frame(nib_pt_writer *writer) {
    layout *l = &writer->layout;
    for (size_t i = 0; i < l->count; i++) {
        placed *t = &l->tensors[i];
        nib_zip_place *e = &l->entries[t->entry];
        if (nib_given_check(&t->given, e->size) < NIB_OK) return nib_error_at(NULL, t->name, -1);
        if (e->size) e->crc = t->given.ranges[0].crc;
    }
    for (size_t i = 0; i < l->entry_count; i++) {
        l->heads.length = 0;
        nib_zip_put_local(&l->heads, &l->entries[i]);
        if (l->heads.failed) return NIB_E_MEMORY;
        NIB_TRY(nib_file_writer_put(writer->file, l->heads.data, l->heads.length,
                                    l->entries[i].header));
    }
    const nib_zip_place *last = &l->entries[l->entry_count - 1];
    NIB_TRY(
        nib_file_writer_put(writer->file, l->pickle.data, l->pickle.length, l->entries[0].offset));
    NIB_TRY(nib_file_writer_put(writer->file, "little", 6, l->entries[1].offset));
    NIB_TRY(nib_file_writer_put(writer->file, "3\n", 2, last->offset));
    l->directory.length = 0;
    nib_zip_put_directory(&l->directory, l->entries, l->entry_count, l->directory_offset);
    if (l->directory.failed) return NIB_E_MEMORY;
    return nib_file_writer_put(writer->file, l->directory.data, l->directory.length,
                               l->directory_offset);
}

/* What lies on the disk is read by our own checks, and has every tensor where it was put. */
static nib_status check_written(const nib_pt_writer *writer) {
    const layout *l = &writer->layout;
    nib_tensor_file *back = nib_pt_open(writer->mem, nib_file_writer_temp(writer->file));
    if (!back) return nib_last_error()->status;
    bool same = back->count == l->count;
    for (size_t i = 0; i < l->count && same; i++) {
        const placed *t = &l->tensors[i];
        const nib_tensor_entry *e = nib_tensor_file_find(back, t->name);
        same = e && e->dtype == t->dtype && e->offset == l->entries[t->entry].offset &&
               e->size == l->entries[t->entry].size;
    }
    nib_status status = NIB_OK;
    if (!same) {
        status = NIB_RAISE(NIB_E_IO, "the file does not read back as it was written: is the disk "
                                     "failing, or something else writing to it?");
        nib_error_at(back->file.path, NULL, 0);
    }
    nib_tensor_file_close(back);
    return status;
}

nib_status nib_pt_writer_finish(nib_pt_writer *writer) {
    nib_status status = put_frame(writer);
    if (status >= NIB_OK) status = nib_file_writer_sync(writer->file);
    if (status >= NIB_OK) status = check_written(writer);
    if (status >= NIB_OK) {
        status = nib_file_writer_commit(writer->file);
        writer->file = NULL;
    }
    nib_pt_writer_abort(writer);
    return status;
}

void nib_pt_writer_abort(nib_pt_writer *writer) {
    if (!writer) return;
    nib_file_writer_abort(writer->file);
    layout_free(&writer->layout);
    nib_mem_free(writer->mem, writer, sizeof *writer);
}
