#include "io/pt_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/text_util.h"
#include "io/given.h"
#include "io/pt.h"
#include "io/pt_globals.h"
#include "io/zip.h"
#include "tensor/dtype.h"

#define PREFIX "archive/"
enum { ALIGN = 64, LOCAL_SIZE = 30, GLOBALS = sizeof nib_pt_globals / sizeof *nib_pt_globals };

/* An entry of the archive: a tensor's bytes, or a small text that is written whole. */
typedef struct entry {
    char name[40];
    size_t header, offset, size; /* local header and bytes in the file */
    size_t extra;                /* bytes of the local header's extra field */
    uint32_t crc;
} entry;

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
    entry *entries; /* [entry_count], in the order of the file */
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

/* ---- the pickle, protocol 2 as torch.save's ---- */
static void put_number(nib_text *t, uint64_t value, int width) {
    char bytes[8];
    for (int i = 0; i < width; i++) bytes[i] = (char)(value >> 8 * i & 255);
    nib_text_append(t, bytes, (size_t)width);
}

static void put_text(nib_text *t, const char *text) {
    nib_text_append(t, "X", 1);
    put_number(t, strlen(text), 4);
    nib_text_add(t, text);
}

static void put_int(nib_text *t, int64_t value) { /* from 0 on */
    const int width = value < 256 ? 1 : value < 65536 ? 2 : value <= INT32_MAX ? 4 : 8;
    nib_text_add(t, width == 1 ? "K" : width == 2 ? "M" : width == 4 ? "J" : "\x8a\x08");
    put_number(t, (uint64_t)value, width);
}

static void put_tuple(nib_text *t, const int64_t *values, int n) {
    static const char *const ends[] = {")", "\x85", "\x86", "\x87", "t"};
    if (n > 3) nib_text_add(t, "(");
    for (int i = 0; i < n; i++) put_int(t, values[i]);
    nib_text_add(t, ends[n > 3 ? 4 : n]);
}

/* The global of this place in the table: spelled once, then fetched from the memo. */
static void put_global(nib_text *t, bool *known, int index) {
    if (known[index]) {
        nib_text_add(t, "h");
        put_number(t, (uint64_t)index, 1);
        return;
    }
    const char *name = nib_pt_globals[index].name, *dot = strrchr(name, '.');
    nib_text_add(t, "c");
    nib_text_append(t, name, (size_t)(dot - name));
    nib_text_add(t, "\n");
    nib_text_add(t, dot + 1);
    nib_text_add(t, "\nq");
    put_number(t, (uint64_t)index, 1);
    known[index] = true;
}
_Static_assert(GLOBALS <= 256, "places of the memo fit one byte");

static int global_named(const char *name) {
    int i = 0;
    while (strcmp(nib_pt_globals[i].name, name) != 0) i++;
    return i;
}

/* The storage's class of a dtype, or the dtype itself where storages of bytes hold it; -1. */
static int global_of(nib_dtype dtype, int what) {
    for (int i = 0; i < GLOBALS; i++)
        if (nib_pt_globals[i].what == what && nib_pt_globals[i].about == (int)dtype) return i;
    return -1;
}

static void put_tensor(nib_text *t, bool *known, const placed *p, size_t key) {
    char digits[24];
    const int storage = global_of(p->dtype, NIB_PT_STORAGE);
    const bool v3 = storage < 0;
    int64_t stride[NIB_MAX_DIMS] = {0}, count = 1;
    for (int d = p->shape.ndim - 1; d >= 0; d--) {
        stride[d] = count;
        count *= p->shape.dim[d] ? p->shape.dim[d] : 1;
    }
    for (int d = 0; d < p->shape.ndim; d++)
        if (!p->shape.dim[d]) count = 0;
    put_text(t, p->name);
    put_global(
        t, known,
        global_named(v3 ? "torch._utils._rebuild_tensor_v3" : "torch._utils._rebuild_tensor_v2"));
    nib_text_add(t, "((");
    put_text(t, "storage");
    put_global(t, known, v3 ? global_named("torch.storage.UntypedStorage") : storage);
    nib_text key_text = {.mem = t->mem};
    nib_text_format(&key_text, "%zu", key);
    memcpy(digits, key_text.failed ? "" : key_text.data, key_text.failed ? 1 : key_text.length + 1);
    t->failed |= key_text.failed;
    nib_text_free(&key_text);
    put_text(t, digits);
    put_text(t, "cpu");
    put_int(t, v3 ? count * (nib_dtype_bits(p->dtype) / 8) : count);
    nib_text_add(t, "tQ");
    put_int(t, 0);
    put_tuple(t, p->shape.dim, p->shape.ndim);
    put_tuple(t, stride, p->shape.ndim);
    nib_text_add(t, "\x89"); /* requires no gradient; no hooks */
    put_global(t, known, global_named("collections.OrderedDict"));
    nib_text_add(t, ")R");
    if (v3) put_global(t, known, global_of(p->dtype, NIB_PT_DTYPE));
    nib_text_add(t, "tR");
}

static void put_pickle(layout *l, const nib_safetensors_plan *plan) {
    nib_text *t = &l->pickle;
    bool known[GLOBALS] = {false};
    nib_text_add(t, "\x80\x02");
    put_global(t, known, global_named("collections.OrderedDict"));
    nib_text_add(t, ")R(");
    for (size_t i = 0; i < l->count; i++) put_tensor(t, known, &l->tensors[i], i);
    nib_text_add(t, "u");
    if (plan->metadata_count) {
        nib_text_add(t, "}");
        put_text(t, "metadata");
        nib_text_add(t, "}(");
        for (size_t i = 0; i < plan->metadata_count; i++) {
            put_text(t, plan->metadata[i].key);
            put_text(t, plan->metadata[i].value);
        }
        nib_text_add(t, "usb");
    }
    nib_text_add(t, ".");
}

/* ---- the archive ---- */
/* Sizes and places over 32 bits: the field says 2^32 - 1, and an extra field the truth. */
static uint32_t field(size_t value) { return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX; }

static void put_common(nib_text *t, const entry *e) {
    const bool wide = e->size >= UINT32_MAX || e->header >= UINT32_MAX;
    put_number(t, wide ? 45 : 20, 2);
    put_number(t, 1 << 11, 2); /* names are UTF-8 */
    put_number(t, 0, 2);       /* stored */
    put_number(t, 0, 2);       /* 1980-01-01 00:00: equal plans give equal bytes */
    put_number(t, 1 << 5 | 1, 2);
    put_number(t, e->crc, 4);
    put_number(t, field(e->size), 4);
    put_number(t, field(e->size), 4);
    put_number(t, strlen(e->name), 2);
}

/* The local header, its extra field filled up so that the bytes behind it are aligned. */
static void put_local(nib_text *t, const entry *e) {
    const bool wide = e->size >= UINT32_MAX;
    nib_text_append(t, "PK\3\4", 4);
    put_common(t, e);
    put_number(t, e->extra, 2);
    nib_text_add(t, e->name);
    if (wide) {
        put_number(t, 1, 2);
        put_number(t, 16, 2);
        put_number(t, e->size, 8);
        put_number(t, e->size, 8);
    }
    const size_t fill = e->extra - (wide ? 20 : 0) - 4;
    nib_text_append(t, "FB", 2); /* as torch marks it */
    put_number(t, fill, 2);
    for (size_t i = 0; i < fill; i++) nib_text_add(t, "Z");
}

static void put_line(nib_text *t, const entry *e) {
    const bool wide = e->size >= UINT32_MAX, far = e->header >= UINT32_MAX;
    const size_t extra = (wide ? 16U : 0U) + (far ? 8U : 0U);
    nib_text_append(t, "PK\1\2", 4);
    put_number(t, wide || far ? 45 : 20, 2);
    put_common(t, e);
    put_number(t, extra ? extra + 4 : 0, 2);
    put_number(t, 0, 2); /* comment */
    put_number(t, 0, 2); /* disk */
    put_number(t, 0, 2); /* attributes */
    put_number(t, 0, 4);
    put_number(t, field(e->header), 4);
    nib_text_add(t, e->name);
    if (!extra) return;
    put_number(t, 1, 2);
    put_number(t, extra, 2);
    if (wide) {
        put_number(t, e->size, 8);
        put_number(t, e->size, 8);
    }
    if (far) put_number(t, e->header, 8);
}

static void put_directory(layout *l) {
    nib_text *t = &l->directory;
    t->length = 0;
    for (size_t i = 0; i < l->entry_count; i++) put_line(t, &l->entries[i]);
    const size_t size = t->length, end = l->directory_offset + size;
    if (l->entry_count >= UINT16_MAX || end >= UINT32_MAX) {
        nib_text_append(t, "PK\6\6", 4);
        put_number(t, 44, 8);
        put_number(t, 45, 2);
        put_number(t, 45, 2);
        put_number(t, 0, 8); /* disks */
        put_number(t, l->entry_count, 8);
        put_number(t, l->entry_count, 8);
        put_number(t, size, 8);
        put_number(t, l->directory_offset, 8);
        nib_text_append(t, "PK\6\7", 4);
        put_number(t, 0, 4);
        put_number(t, end, 8);
        put_number(t, 1, 4);
    }
    const bool many = l->entry_count >= UINT16_MAX;
    nib_text_append(t, "PK\5\6", 4);
    put_number(t, 0, 4);
    put_number(t, many ? UINT16_MAX : l->entry_count, 2);
    put_number(t, many ? UINT16_MAX : l->entry_count, 2);
    put_number(t, field(size), 4);
    put_number(t, end >= UINT32_MAX ? UINT32_MAX : l->directory_offset, 4);
    put_number(t, 0, 2);
}

static nib_status place_entry(layout *l, const char *name, size_t size, size_t *end, entry *e) {
    e->size = size;
    nib_text text = {.mem = l->mem};
    nib_text_format(&text, PREFIX "%s", name);
    const bool failed = text.failed;
    if (!failed) memcpy(e->name, text.data, text.length + 1);
    nib_text_free(&text);
    if (failed) return NIB_E_MEMORY;
    const size_t head = LOCAL_SIZE + strlen(e->name) + (size >= UINT32_MAX ? 20 : 0) + 4;
    e->header = *end;
    if (nib_add_size(*end, head, end) || nib_align_size(*end, ALIGN, &e->offset) ||
        nib_add_size(e->offset, size, end) || *end > INT64_MAX)
        return NIB_RAISE(NIB_E_ARGUMENT, "the tensors together overflow a file");
    e->extra = e->offset - e->header - LOCAL_SIZE - strlen(e->name);
    return NIB_OK;
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
    if (global_of(planned->dtype, NIB_PT_DTYPE) < 0)
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
    put_directory(l);
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
    if (status >= NIB_OK) put_pickle(l, plan);
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
    const entry *e = &l->entries[t->entry];
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
        entry *e = &l->entries[t->entry];
        if (nib_given_check(&t->given, e->size) < NIB_OK) return nib_error_at(NULL, t->name, -1);
        if (e->size) e->crc = t->given.ranges[0].crc;
    }
    for (size_t i = 0; i < l->entry_count; i++) {
        l->heads.length = 0;
        put_local(&l->heads, &l->entries[i]);
        if (l->heads.failed) return NIB_E_MEMORY;
        NIB_TRY(nib_file_writer_put(writer->file, l->heads.data, l->heads.length,
                                    l->entries[i].header));
    }
    const entry *last = &l->entries[l->entry_count - 1];
    NIB_TRY(
        nib_file_writer_put(writer->file, l->pickle.data, l->pickle.length, l->entries[0].offset));
    NIB_TRY(nib_file_writer_put(writer->file, "little", 6, l->entries[1].offset));
    NIB_TRY(nib_file_writer_put(writer->file, "3\n", 2, last->offset));
    put_directory(l);
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
