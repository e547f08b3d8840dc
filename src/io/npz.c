#include "io/npz.h"

#include <string.h>

#include "base/error.h"
#include "base/text_util.h"
#include "io/npy.h"
#include "io/zip.h"

#define ENDING ".npy"

bool nib_npz_is_name(const char *name) { return nib_text_ends(name, ".npz"); }

/* The description stands at the beginning of the entry's bytes: say where that is in the file. */
static nib_status parse_at(const nib_source *source, const void *bytes, size_t size,
                           const nib_zip_entry *z, size_t base, nib_npy *array) {
    if (nib_npy_parse(source->path, bytes, size, z->size, array) >= NIB_OK) return NIB_OK;
    nib_error why = *nib_last_error();
    if (why.offset >= 0) why.offset += (int64_t)base;
    nib_error_restore(&why);
    return nib_error_at(NULL, z->name, -1);
}

static nib_status take_stored(nib_mem *mem, const nib_source *source, const nib_zip_entry *z,
                              nib_tensor_entry *entry) {
    nib_npy array;
    const size_t room = z->size < NIB_NPY_MAX_HEADER ? z->size : NIB_NPY_MAX_HEADER;
    char *head = nib_mem_alloc(mem, room);
    nib_status status = head ? nib_source_read(source, head, room, z->offset) : NIB_E_MEMORY;
    if (status >= NIB_OK) status = parse_at(source, head, room, z, z->offset, &array);
    if (status >= NIB_OK) {
        entry->dtype = array.dtype;
        entry->shape = array.shape;
        entry->offset = z->offset + array.offset;
        entry->size = array.size;
    }
    nib_mem_free(mem, head, room);
    return status;
}

/* Offsets within compressed bytes mean nothing: an error there names where the entry begins. */
static nib_status take_deflated(const nib_zip *zip, const nib_source *source,
                                const nib_zip_entry *z, nib_tensor_entry *entry) {
    nib_npy array;
    unsigned char *bytes = nib_zip_load(zip, source, z, SIZE_MAX);
    if (!bytes) return nib_last_error()->status;
    nib_status status = parse_at(source, bytes, z->size, z, 0, &array);
    if (status >= NIB_OK) {
        entry->memory = nib_mem_alloc(zip->mem, array.size);
        if (!entry->memory) status = NIB_E_MEMORY;
    } else {
        nib_error why = *nib_last_error();
        why.offset = (int64_t)z->offset;
        nib_error_restore(&why);
    }
    if (status >= NIB_OK) {
        if (array.size) memcpy(entry->memory, bytes + array.offset, array.size);
        entry->dtype = array.dtype;
        entry->shape = array.shape;
        entry->offset = z->offset;
        entry->size = array.size;
    }
    nib_mem_free(zip->mem, bytes, z->size);
    return status;
}

static nib_status take_all(const nib_zip *zip, const nib_source *source, nib_tensor_file *file) {
    nib_mem *mem = zip->mem;
    for (size_t i = 0; i < zip->count; i++) file->names_size += strlen(zip->entries[i].name) + 1;
    file->names = nib_mem_alloc(mem, file->names_size);
    file->entries =
        file->names ? nib_mem_alloc_array(mem, zip->count, sizeof *file->entries) : NULL;
    if (!file->entries) return NIB_E_MEMORY;
    file->room = zip->count;
    char *at = file->names;
    for (size_t i = 0; i < zip->count; i++) {
        const nib_zip_entry *z = &zip->entries[i];
        const size_t length = strlen(z->name);
        if (!nib_text_ends(z->name, ENDING) || nib_utf8_valid(z->name, length) != length) {
            NIB_RAISE(NIB_E_FORMAT, "an entry that is no .npy file: not what numpy.savez writes");
            nib_error_at(zip->path, nib_utf8_valid(z->name, length) == length ? z->name : "?", -1);
            return nib_zip_error_at(zip, z);
        }
        nib_tensor_entry *entry = &file->entries[file->count++];
        *entry = (nib_tensor_entry){.name = at, .header_offset = z->header_offset};
        memcpy(at, z->name, length + 1);
        at[length - strlen(ENDING)] = '\0';
        at += length + 1;
        NIB_TRY(z->deflated ? take_deflated(zip, source, z, entry)
                            : take_stored(mem, source, z, entry));
    }
    return NIB_OK;
}

static nib_tensor_file *parse(nib_mem *mem, const nib_source *source) {
    nib_tensor_file *file = nib_mem_alloc_zero(mem, sizeof *file);
    if (!file) return NULL;
    file->mem = mem;
    nib_zip zip = {.mem = mem};
    nib_status status = nib_zip_read(mem, source, &zip);
    if (status >= NIB_OK) status = take_all(&zip, source, file);
    if (status >= NIB_OK) status = nib_tensor_file_index(file, source->path);
    nib_zip_free(&zip);
    if (status >= NIB_OK) return file;
    nib_tensor_file_close(file);
    nib_error_at(source->path, NULL, -1);
    return NULL;
}

nib_tensor_file *nib_npz_parse(nib_mem *mem, const char *path, const void *bytes, size_t size) {
    const nib_source source = {.path = path, .bytes = bytes, .size = size};
    return parse(mem, &source);
}

nib_tensor_file *nib_npz_open(nib_mem *mem, const char *path) {
    nib_file open;
    NIB_TRY_NULL(nib_file_open(mem, path, &open));
    const nib_source source = {.path = path, .file = &open, .size = open.size};
    nib_tensor_file *file = parse(mem, &source);
    if (file)
        file->file = open;
    else
        nib_file_close(&open);
    return file;
}
