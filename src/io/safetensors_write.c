/* safetensors_write.c: writing by a plan.
 *
 * The plan fixes every offset, so rows may come in any order and a dry run knows the size. The
 * bytes are those of the reference library: tensors by dtype rank downwards, then by name;
 * compact JSON with __metadata__ first; blanks up to a multiple of 8. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/text_util.h"
#include "io/given.h"
#include "io/safetensors.h"
#include "tensor/dtype.h"

/* One tensor of the file to be. */
typedef struct placed {
    const char *name;
    nib_dtype dtype;
    nib_shape shape;
    size_t offset, size; /* relative to the data */
    size_t index;        /* in the plan */
    nib_given given;
} placed;

/* Where everything goes. */
typedef struct layout {
    nib_mem *mem;
    placed *tensors; /* in the order of the file */
    size_t *place;   /* plan index -> index into tensors */
    const placed **by_name;
    size_t count, payload;
    char *names; /* copies, one after the other */
    size_t names_size;
    nib_text header; /* the 8 bytes of length included */
} layout;

struct nib_safetensors_writer {
    nib_mem *mem;
    nib_file_writer *file;
    layout layout;
};

static void layout_free(layout *l) {
    for (size_t i = 0; l->tensors && i < l->count; i++)
        nib_given_free(l->mem, &l->tensors[i].given);
    nib_mem_free(l->mem, l->tensors, l->count * sizeof *l->tensors);
    nib_mem_free(l->mem, l->place, l->count * sizeof *l->place);
    nib_mem_free(l->mem, l->by_name, l->count * sizeof *l->by_name);
    nib_mem_free(l->mem, l->names, l->names_size);
    nib_text_free(&l->header);
}

static int by_rank_then_name(const void *a, const void *b) {
    const placed *x = a, *y = b;
    const int rank_x = nib_safetensors_dtype_rank(x->dtype);
    const int rank_y = nib_safetensors_dtype_rank(y->dtype);
    return rank_x != rank_y ? rank_y - rank_x : strcmp(x->name, y->name);
}

static int by_name_only(const void *a, const void *b) {
    const placed *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static nib_status check_text(const char *text, const char *what) {
    const size_t length = strlen(text);
    if (nib_utf8_valid(text, length) == length) return NIB_OK;
    return NIB_RAISE(NIB_E_ARGUMENT, "%s is not valid UTF-8", what);
}

static nib_status place_one(const nib_safetensors_planned *planned, size_t index, placed *to) {
    int64_t count;
    size_t bits;
    *to = (placed){
        .name = planned->name, .dtype = planned->dtype, .shape = planned->shape, .index = index};
    NIB_TRY(check_text(planned->name, "a tensor's name"));
    if (strcmp(planned->name, "__metadata__") == 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "no tensor can have the name __metadata__");
    if (nib_safetensors_dtype_rank(planned->dtype) < 0)
        return NIB_RAISE(NIB_E_DTYPE, "safetensors cannot hold %s", nib_dtype_name(planned->dtype));
    if (planned->shape.ndim < 0 || planned->shape.ndim > NIB_MAX_DIMS ||
        nib_shape_count(&planned->shape, &count) || count < 0 ||
        nib_mul_size((size_t)count, (size_t)nib_dtype_bits(planned->dtype), &bits))
        return NIB_RAISE(NIB_E_SHAPE, "the number of elements overflows");
    if (bits % 8)
        return NIB_RAISE(NIB_E_SHAPE, "%lld elements of %d bits do not fill whole bytes",
                         (long long)count, nib_dtype_bits(planned->dtype));
    to->size = bits / 8;
    return NIB_OK;
}

static nib_status check_metadata(const nib_safetensors_plan *plan) {
    for (size_t i = 0; i < plan->metadata_count; i++) {
        NIB_TRY(check_text(plan->metadata[i].key, "a key of the metadata"));
        NIB_TRY(check_text(plan->metadata[i].value, "a value of the metadata"));
        for (size_t k = 0; k < i; k++) /* a handful of keys */
            if (strcmp(plan->metadata[i].key, plan->metadata[k].key) == 0)
                return NIB_RAISE(NIB_E_ARGUMENT, "the metadata has \"%.60s\" twice",
                                 plan->metadata[i].key);
    }
    return NIB_OK;
}

static void header_text(const layout *l, const nib_safetensors_plan *plan, nib_text *text) {
    nib_text_append(text, "\0\0\0\0\0\0\0\0{", 9); /* the length is filled in later */
    for (size_t i = 0; i < plan->metadata_count; i++) {
        nib_text_add(text, i ? "," : "\"__metadata__\":{");
        nib_text_json_string(text, plan->metadata[i].key, strlen(plan->metadata[i].key));
        nib_text_add(text, ":");
        nib_text_json_string(text, plan->metadata[i].value, strlen(plan->metadata[i].value));
    }
    if (plan->metadata_count) nib_text_add(text, "}");
    for (size_t i = 0; i < l->count; i++) {
        const placed *t = &l->tensors[i];
        if (i || plan->metadata_count) nib_text_add(text, ",");
        nib_text_json_string(text, t->name, strlen(t->name));
        nib_text_format(text, ":{\"dtype\":\"%s\",\"shape\":[",
                        nib_safetensors_dtype_name(t->dtype));
        for (int d = 0; d < t->shape.ndim; d++)
            nib_text_format(text, d ? ",%lld" : "%lld", (long long)t->shape.dim[d]);
        nib_text_format(text, "],\"data_offsets\":[%zu,%zu]}", t->offset, t->offset + t->size);
    }
    nib_text_add(text, "}");
    while (!text->failed && text->length % 8) nib_text_add(text, " ");
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
        at += size;
    }
    return NIB_OK;
}

static nib_status layout_make(nib_mem *mem, const nib_safetensors_plan *plan, layout *l) {
    *l = (layout){.mem = mem, .count = plan->count, .header = {.mem = mem}};
    NIB_TRY(check_metadata(plan));
    l->tensors = nib_mem_alloc_array(mem, plan->count, sizeof *l->tensors);
    l->place = l->tensors ? nib_mem_alloc_array(mem, plan->count, sizeof *l->place) : NULL;
    l->by_name = l->place ? nib_mem_alloc_array(mem, plan->count, sizeof *l->by_name) : NULL;
    if (!l->by_name) return NIB_E_MEMORY;
    for (size_t i = 0; i < plan->count; i++)
        if (place_one(&plan->tensors[i], i, &l->tensors[i]) < NIB_OK)
            return nib_error_at(NULL, plan->tensors[i].name, -1);
    NIB_TRY(keep_names(l));
    if (l->count) qsort(l->tensors, l->count, sizeof *l->tensors, by_rank_then_name);
    size_t end = 0;
    for (size_t i = 0; i < l->count; i++) {
        placed *t = &l->tensors[i];
        l->place[t->index] = i;
        l->by_name[i] = t;
        t->offset = end;
        if (nib_add_size(end, t->size, &end) || end > INT64_MAX) {
            NIB_RAISE(NIB_E_ARGUMENT, "the tensors together overflow a file");
            return nib_error_at(NULL, t->name, -1);
        }
    }
    l->payload = end;
    if (l->count) qsort(l->by_name, l->count, sizeof *l->by_name, by_name_only);
    header_text(l, plan, &l->header);
    if (l->header.failed) return NIB_E_MEMORY;
    const size_t length = l->header.length - 8;
    if (length > NIB_SAFETENSORS_MAX_HEADER)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "the header would have %zu bytes; %d is the limit",
                         length, NIB_SAFETENSORS_MAX_HEADER);
    for (int i = 0; i < 8; i++) l->header.data[i] = (char)(length >> 8 * i & 255);
    return NIB_OK;
}

nib_status nib_safetensors_plan_size(nib_mem *mem, const nib_safetensors_plan *plan, size_t *size,
                                     size_t *payload) {
    layout l;
    const nib_status status = layout_make(mem, plan, &l);
    if (status == NIB_OK) {
        *size = l.header.length + l.payload;
        if (payload) *payload = l.payload;
    }
    layout_free(&l);
    return status;
}

char *nib_safetensors_plan_header(nib_mem *mem, const nib_safetensors_plan *plan, size_t *size) {
    layout l;
    char *bytes = NULL;
    if (layout_make(mem, plan, &l) == NIB_OK) {
        *size = l.header.length;
        bytes = nib_mem_alloc(mem, *size);
        if (bytes) memcpy(bytes, l.header.data, *size);
    }
    layout_free(&l);
    return bytes;
}

/* The header must pass the reader's own checks; two tensors of one name are found there. */
static nib_status check_header(nib_mem *mem, const char *path, const layout *l) {
    nib_safetensors *back = nib_safetensors_parse(mem, path, l->header.data, l->header.length,
                                                  l->header.length + l->payload);
    if (!back) {
        const nib_error *why = nib_last_error();
        if (why->status != NIB_E_FORMAT) return why->status;
        return NIB_RAISE(NIB_E_ARGUMENT, "the plan makes no valid file: \"%.60s\": %.120s",
                         why->tensor, why->what);
    }
    nib_safetensors_close(back);
    return NIB_OK;
}

/* Does the continued file begin with the header of this plan? */
static nib_status same_header(const nib_safetensors_writer *writer, bool *same) {
    const nib_text *header = &writer->layout.header;
    char *bytes = nib_mem_alloc(writer->mem, header->length);
    if (!bytes) return NIB_E_MEMORY;
    const nib_status status = nib_file_writer_get(writer->file, bytes, header->length, 0);
    *same = status == NIB_OK && memcmp(bytes, header->data, header->length) == 0;
    nib_mem_free(writer->mem, bytes, header->length);
    return status;
}

/* `continued` NULL: a new file under a temporary name of its own. */
static nib_safetensors_writer *writer_open(nib_mem *mem, const char *path,
                                           const nib_safetensors_plan *plan, bool *continued) {
    nib_safetensors_writer *writer = nib_mem_alloc_zero(mem, sizeof *writer);
    if (!writer) goto fail;
    writer->mem = mem;
    layout *l = &writer->layout;
    if (layout_make(mem, plan, l) < NIB_OK || check_header(mem, path, l) < NIB_OK) goto fail;
    const size_t size = l->header.length + l->payload;
    writer->file = continued ? nib_file_writer_reopen(mem, path, size, continued)
                             : nib_file_writer_open(mem, path, size);
    if (!writer->file) goto fail;
    if (continued && *continued && same_header(writer, continued) < NIB_OK) goto fail;
    if (continued && *continued) return writer;
    if (nib_file_writer_put(writer->file, l->header.data, l->header.length, 0) == NIB_OK)
        return writer;
fail:
    nib_error_at(path, NULL, -1);
    if (continued)
        nib_safetensors_writer_leave(writer);
    else
        nib_safetensors_writer_abort(writer);
    return NULL;
}

nib_safetensors_writer *nib_safetensors_writer_open(nib_mem *mem, const char *path,
                                                    const nib_safetensors_plan *plan) {
    return writer_open(mem, path, plan, NULL);
}

nib_safetensors_writer *nib_safetensors_writer_reopen(nib_mem *mem, const char *path,
                                                      const nib_safetensors_plan *plan,
                                                      bool *continued) {
    *continued = false;
    return writer_open(mem, path, plan, continued);
}

void nib_safetensors_writer_size(const nib_safetensors_writer *writer, size_t *size,
                                 size_t *payload) {
    *payload = writer->layout.payload;
    *size = writer->layout.header.length + writer->layout.payload;
}

bool nib_safetensors_writer_find(const nib_safetensors_writer *writer, const char *name,
                                 size_t *index, nib_safetensors_planned *planned) {
    const layout *l = &writer->layout;
    const placed key = {.name = name}, *wanted = &key;
    const placed *const *found =
        bsearch(&wanted, l->by_name, l->count, sizeof *l->by_name, by_name_only);
    if (!found) return false;
    *index = (*found)->index;
    if (planned)
        *planned = (nib_safetensors_planned){(*found)->name, (*found)->dtype, (*found)->shape};
    return true;
}

nib_status nib_safetensors_writer_put(nib_safetensors_writer *writer, size_t index,
                                      const void *from, size_t size, size_t offset) {
    layout *l = &writer->layout;
    size_t end;
    if (index >= l->count)
        return NIB_RAISE(NIB_E_ARGUMENT, "tensor %zu of a plan of %zu", index, l->count);
    placed *t = &l->tensors[l->place[index]];
    nib_status status = NIB_OK;
    if (nib_add_size(offset, size, &end) || end > t->size)
        status = NIB_RAISE(NIB_E_ARGUMENT, "%zu bytes at %zu do not fit a tensor of %zu", size,
                           offset, t->size);
    else if (size)
        status = nib_given_note(writer->mem, &t->given, offset, end, NULL);
    if (status == NIB_OK)
        status =
            nib_file_writer_put(writer->file, from, size, l->header.length + t->offset + offset);
    return status < NIB_OK ? nib_error_at(NULL, t->name, -1) : NIB_OK;
}

nib_status nib_safetensors_writer_get(const nib_safetensors_writer *writer, size_t index, void *to,
                                      size_t size, size_t offset) {
    const layout *l = &writer->layout;
    size_t end;
    const placed *t = index < l->count ? &l->tensors[l->place[index]] : NULL;
    if (!t || nib_add_size(offset, size, &end) || end > t->size)
        return NIB_RAISE(NIB_E_ARGUMENT, "%zu bytes at %zu are not within tensor %zu of the plan",
                         size, offset, index);
    return nib_file_writer_get(writer->file, to, size, l->header.length + t->offset + offset);
}

nib_status nib_safetensors_writer_keep(nib_safetensors_writer *writer, size_t index) {
    layout *l = &writer->layout;
    if (index >= l->count)
        return NIB_RAISE(NIB_E_ARGUMENT, "tensor %zu of a plan of %zu", index, l->count);
    placed *t = &l->tensors[l->place[index]];
    return nib_given_note(writer->mem, &t->given, 0, t->size, NULL);
}

static nib_status check_given(const layout *l) {
    for (size_t i = 0; i < l->count; i++) {
        const placed *t = &l->tensors[i];
        if (nib_given_check(&t->given, t->size) < NIB_OK) return nib_error_at(NULL, t->name, -1);
    }
    return NIB_OK;
}

/* What lies on the disk is a valid file and begins with the header that was meant. */
static nib_status check_written(const nib_safetensors_writer *writer) {
    const nib_text *header = &writer->layout.header;
    nib_safetensors *back = nib_safetensors_open(writer->mem, nib_file_writer_temp(writer->file));
    if (!back) return nib_last_error()->status;
    char *bytes = nib_mem_alloc(writer->mem, header->length);
    nib_status status = bytes ? nib_file_read(&back->file, bytes, header->length, 0) : NIB_E_MEMORY;
    if (status == NIB_OK && memcmp(bytes, header->data, header->length) != 0) {
        status = NIB_RAISE(NIB_E_IO, "the file does not read back as it was written: is the disk "
                                     "failing, or something else writing to it?");
        nib_error_at(back->file.path, NULL, 0);
    }
    nib_mem_free(writer->mem, bytes, header->length);
    nib_safetensors_close(back);
    return status;
}

nib_status nib_safetensors_writer_finish(nib_safetensors_writer *writer) {
    nib_status status = check_given(&writer->layout);
    if (status == NIB_OK) status = nib_file_writer_sync(writer->file);
    if (status == NIB_OK) status = check_written(writer);
    if (status == NIB_OK) {
        status = nib_file_writer_commit(writer->file);
        writer->file = NULL;
    }
    nib_safetensors_writer_abort(writer);
    return status;
}

static void writer_free(nib_safetensors_writer *writer) {
    layout_free(&writer->layout);
    nib_mem_free(writer->mem, writer, sizeof *writer);
}

void nib_safetensors_writer_leave(nib_safetensors_writer *writer) {
    if (!writer) return;
    nib_file_writer_leave(writer->file);
    writer_free(writer);
}

void nib_safetensors_writer_abort(nib_safetensors_writer *writer) {
    if (!writer) return;
    nib_file_writer_abort(writer->file);
    writer_free(writer);
}
