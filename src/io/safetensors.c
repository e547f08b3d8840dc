/* safetensors.c: reading.
 *
 * What is checked, all of it before the first tensor is read: the header's length against the
 * file and the limit; its grammar; names unique; dtypes known; shape times bits a whole number of
 * bytes without overflow and equal to the range's length; the ranges, sorted, beginning at 0 and
 * each where the last one ended; the last one ending with the file. So no byte of the file is
 * unaccounted for, and none is part of two tensors. Empty tensors may share an offset. */
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/json_scan.h"
#include "tensor/dtype.h"

/* The format's names in the order of the reference library's type ranks, narrowest first. */
static const struct {
    const char *name;
    nib_dtype dtype;
} dtypes[] = {
    {"BOOL", NIB_BOOL},
    {"F4", NIB_F4_E2M1},
    {"F6_E2M3", NIB_F6_E2M3},
    {"F6_E3M2", NIB_F6_E3M2},
    {"U8", NIB_U8},
    {"I8", NIB_I8},
    {"F8_E5M2", NIB_F8_E5M2},
    {"F8_E4M3", NIB_F8_E4M3FN},
    {"F8_E8M0", NIB_F8_E8M0},
    {"F8_E4M3FNUZ", NIB_F8_E4M3FNUZ},
    {"F8_E5M2FNUZ", NIB_F8_E5M2FNUZ},
    {"I16", NIB_I16},
    {"U16", NIB_U16},
    {"F16", NIB_F16},
    {"BF16", NIB_BF16},
    {"I32", NIB_I32},
    {"U32", NIB_U32},
    {"F32", NIB_F32},
    {"C64", NIB_C64},
    {"F64", NIB_F64},
    {"I64", NIB_I64},
    {"U64", NIB_U64},
};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

int nib_safetensors_dtype_rank(nib_dtype dtype) {
    for (int i = 0; i < DTYPES; i++)
        if (dtypes[i].dtype == dtype) return i;
    return -1;
}

const char *nib_safetensors_dtype_name(nib_dtype dtype) {
    const int rank = nib_safetensors_dtype_rank(dtype);
    return rank < 0 ? "" : dtypes[rank].name;
}

static nib_dtype dtype_of(const char *name) {
    for (int i = 0; i < DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0) return dtypes[i].dtype;
    return (nib_dtype)0;
}

/* ---- the header's grammar ---- */
typedef struct parser {
    nib_scan scan;
    nib_safetensors *file;
    size_t names_used;
} parser;

/* The next string, kept in file->names. */
static nib_status kept_string(parser *p, const char **string) {
    size_t length;
    *string = p->file->names + p->names_used;
    NIB_TRY(nib_scan_string(&p->scan, p->file->names + p->names_used, &length));
    p->names_used += length + 1;
    return NIB_OK;
}

static nib_status wrong(const parser *p, const nib_safetensors_entry *entry) {
    return nib_error_at(p->scan.path, entry->name, (int64_t)entry->header_offset);
}

static nib_status scan_dtype(parser *p, nib_dtype *dtype) {
    const char *spelled;
    nib_scan_space(&p->scan);
    const size_t start = p->scan.at, used = p->names_used;
    NIB_TRY(kept_string(p, &spelled));
    p->names_used = used; /* looked up at once, not kept */
    *dtype = dtype_of(spelled);
    if (*dtype) return NIB_OK;
    NIB_RAISE(NIB_E_FORMAT, "unknown dtype \"%.40s\"", spelled);
    return nib_error_at(p->scan.path, NULL, (int64_t)(p->scan.base + start));
}

/* [2, 3] into at most `most` numbers. */
static nib_status scan_counts(parser *p, int64_t *values, int most, int *count) {
    *count = 0;
    NIB_TRY(nib_scan_expect(&p->scan, '['));
    if (nib_scan_take(&p->scan, ']')) return NIB_OK;
    do {
        int64_t value;
        NIB_TRY(nib_scan_count(&p->scan, &value));
        if (*count == most) {
            NIB_RAISE(most == 2 ? NIB_E_FORMAT : NIB_E_UNSUPPORTED,
                      most == 2 ? "data_offsets are more than %d numbers"
                                : "more than %d dimensions",
                      most);
            return nib_error_at(p->scan.path, NULL, (int64_t)(p->scan.base + p->scan.at));
        }
        values[(*count)++] = value;
    } while (nib_scan_take(&p->scan, ','));
    return nib_scan_expect(&p->scan, ']');
}

/* {"dtype": .., "shape": [..], "data_offsets": [begin, end]}, each key once, in any order. */
static nib_status scan_entry(parser *p, nib_safetensors_entry *entry, int64_t offsets[2]) {
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    int seen = 0, count;
    NIB_TRY(nib_scan_expect(&p->scan, '{'));
    bool more = !nib_scan_take(&p->scan, '}');
    while (more) {
        const char *key;
        nib_scan_space(&p->scan);
        const size_t start = p->scan.at, used = p->names_used;
        NIB_TRY(kept_string(p, &key));
        p->names_used = used;
        int k = 0;
        while (k < 3 && strcmp(key, keys[k]) != 0) k++;
        if (k == 3 || (seen & 1 << k)) {
            NIB_RAISE(NIB_E_FORMAT, k == 3 ? "unknown key \"%.40s\"" : "\"%.40s\" is there twice",
                      key);
            return nib_error_at(p->scan.path, NULL, (int64_t)(p->scan.base + start));
        }
        seen |= 1 << k;
        NIB_TRY(nib_scan_expect(&p->scan, ':'));
        if (k == 0) NIB_TRY(scan_dtype(p, &entry->dtype));
        if (k == 1) NIB_TRY(scan_counts(p, entry->shape.dim, NIB_MAX_DIMS, &entry->shape.ndim));
        if (k == 2) {
            NIB_TRY(scan_counts(p, offsets, 2, &count));
            if (count != 2) return NIB_RAISE(NIB_E_FORMAT, "data_offsets are not two numbers");
        }
        more = nib_scan_take(&p->scan, ',');
        if (!more) NIB_TRY(nib_scan_expect(&p->scan, '}'));
    }
    for (int k = 0; k < 3; k++)
        if (!(seen & 1 << k)) return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is missing", keys[k]);
    return NIB_OK;
}

/* Does the range fit the dtype and shape? Leaves offset relative to the data. */
static nib_status check_range(nib_safetensors_entry *entry, const int64_t offsets[2]) {
    int64_t count;
    size_t bits;
    if (nib_shape_count(&entry->shape, &count) ||
        nib_mul_size((size_t)count, (size_t)nib_dtype_bits(entry->dtype), &bits))
        return NIB_RAISE(NIB_E_FORMAT, "the number of elements overflows");
    if (bits % 8)
        return NIB_RAISE(NIB_E_FORMAT, "%lld elements of %d bits do not fill whole bytes",
                         (long long)count, nib_dtype_bits(entry->dtype));
    if (offsets[1] < offsets[0])
        return NIB_RAISE(NIB_E_FORMAT, "data_offsets end at %lld before they begin at %lld",
                         (long long)offsets[1], (long long)offsets[0]);
    entry->offset = (size_t)offsets[0];
    entry->size = (size_t)(offsets[1] - offsets[0]);
    if (entry->size != bits / 8)
        return NIB_RAISE(NIB_E_FORMAT, "shape and dtype make %zu bytes, data_offsets hold %zu",
                         bits / 8, entry->size);
    return NIB_OK;
}

static nib_status scan_metadata(parser *p) {
    nib_safetensors *file = p->file;
    NIB_TRY(nib_scan_expect(&p->scan, '{'));
    if (nib_scan_take(&p->scan, '}')) return NIB_OK;
    do {
        nib_safetensors_pair *pairs = nib_tensor_file_grown(
            file->mem, file->metadata, file->metadata_count, &file->metadata_room, sizeof *pairs);
        if (!pairs) return NIB_E_MEMORY;
        file->metadata = pairs;
        nib_safetensors_pair *pair = &pairs[file->metadata_count];
        NIB_TRY(kept_string(p, &pair->key));
        NIB_TRY(nib_scan_expect(&p->scan, ':'));
        NIB_TRY(kept_string(p, &pair->value));
        file->metadata_count++;
    } while (nib_scan_take(&p->scan, ','));
    return nib_scan_expect(&p->scan, '}');
}

static nib_status scan_tensor(parser *p, const char *name, size_t header_offset) {
    nib_safetensors *file = p->file;
    nib_safetensors_entry *entries =
        nib_tensor_file_grown(file->mem, file->entries, file->count, &file->room, sizeof *entries);
    if (!entries) return NIB_E_MEMORY;
    file->entries = entries;
    nib_safetensors_entry *entry = &entries[file->count];
    *entry = (nib_safetensors_entry){.name = name, .header_offset = header_offset};
    int64_t offsets[2];
    nib_status status = scan_entry(p, entry, offsets);
    if (status == NIB_OK) status = check_range(entry, offsets);
    if (status < NIB_OK) return wrong(p, entry);
    file->count++;
    return NIB_OK;
}

static nib_status scan_header(parser *p) {
    if (p->scan.length == 0 || p->scan.text[0] != '{')
        return nib_scan_unexpected(&p->scan, "'{' as the header's first byte");
    NIB_TRY(nib_scan_expect(&p->scan, '{'));
    bool had_metadata = false, more = !nib_scan_take(&p->scan, '}');
    while (more) {
        const char *name;
        nib_scan_space(&p->scan);
        const size_t start = p->scan.base + p->scan.at;
        NIB_TRY(kept_string(p, &name));
        NIB_TRY(nib_scan_expect(&p->scan, ':'));
        if (strcmp(name, "__metadata__") != 0) {
            NIB_TRY(scan_tensor(p, name, start));
        } else if (had_metadata) {
            NIB_RAISE(NIB_E_FORMAT, "__metadata__ is there twice");
            return nib_error_at(p->scan.path, NULL, (int64_t)start);
        } else {
            NIB_TRY(scan_metadata(p));
            had_metadata = true;
        }
        more = nib_scan_take(&p->scan, ',');
        if (!more) NIB_TRY(nib_scan_expect(&p->scan, '}'));
    }
    while (p->scan.at < p->scan.length && p->scan.text[p->scan.at] == ' ') p->scan.at++;
    if (p->scan.at < p->scan.length)
        return nib_scan_unexpected(&p->scan, "nothing but blanks behind the header's last '}'");
    return NIB_OK;
}

/* ---- what only shows when all entries are known ---- */
static nib_status check_cover(const parser *p, size_t file_size) {
    const nib_safetensors *file = p->file;
    const size_t data_size = file_size - file->data_offset;
    size_t end = 0;
    for (size_t i = 0; i < file->count; i++) {
        const nib_safetensors_entry *entry = &file->entries[i];
        if (entry->offset < end) {
            NIB_RAISE(NIB_E_FORMAT, "begins at %zu, within \"%.60s\", which ends at %zu",
                      entry->offset, file->entries[i - 1].name, end);
            return wrong(p, entry);
        }
        if (entry->offset > end) {
            NIB_RAISE(NIB_E_FORMAT, "begins at %zu, but the tensors before it end at %zu",
                      entry->offset, end);
            return wrong(p, entry);
        }
        end = entry->offset + entry->size; /* both at most 2^63 - 1 */
        if (end > data_size) {
            const size_t need =
                file->entries[file->count - 1].offset + file->entries[file->count - 1].size;
            NIB_RAISE(NIB_E_FORMAT, "the file is %zu bytes short: it ends within this tensor",
                      need - data_size);
            return nib_error_at(p->scan.path, entry->name, (int64_t)file_size);
        }
    }
    if (end == data_size) return NIB_OK;
    NIB_RAISE(NIB_E_FORMAT, "the file has %zu bytes that belong to no tensor", data_size - end);
    return nib_error_at(p->scan.path, NULL, (int64_t)(file->data_offset + end));
}

/* ---- the length in front ---- */
static size_t little_endian(const unsigned char *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | bytes[i];
    return (size_t)value;
}

/* The bytes up to the first tensor; 0 after raising. */
static size_t checked_data_offset(const char *path, const unsigned char *bytes, size_t size,
                                  size_t file_size) {
    if (file_size < 8 || size < 8) {
        NIB_RAISE(NIB_E_FORMAT, "not a safetensors file: %zu bytes cannot hold the header's length",
                  file_size);
        nib_error_at(path, NULL, (int64_t)file_size);
        return 0;
    }
    const size_t length = little_endian(bytes);
    if (length > NIB_SAFETENSORS_MAX_HEADER) {
        NIB_RAISE(NIB_E_FORMAT,
                  "a header of %zu bytes is over the limit of %d, or this is not a "
                  "safetensors file",
                  length, NIB_SAFETENSORS_MAX_HEADER);
        nib_error_at(path, NULL, 0);
        return 0;
    }
    if (length > file_size - 8) {
        NIB_RAISE(NIB_E_FORMAT, "the file is %zu bytes short: it ends within its header of %zu",
                  length - (file_size - 8), length);
        nib_error_at(path, NULL, (int64_t)file_size);
        return 0;
    }
    return 8 + length;
}

nib_safetensors *nib_safetensors_parse(nib_mem *mem, const char *path, const void *bytes,
                                       size_t size, size_t file_size) {
    const size_t data_offset = checked_data_offset(path, bytes, size, file_size);
    if (!data_offset) return NULL;
    if (size < data_offset) {
        NIB_RAISE(NIB_E_ARGUMENT, "%zu bytes given of a header of %zu", size, data_offset);
        return NULL;
    }
    nib_safetensors *file = nib_mem_alloc_zero(mem, sizeof *file);
    if (!file) return NULL;
    *file = (nib_safetensors){.mem = mem, .data_offset = data_offset};
    parser p = {
        .file = file,
        .scan = {
            .text = (const char *)bytes + 8, .length = data_offset - 8, .path = path, .base = 8}};
    file->names_size = data_offset; /* a string never gets longer by decoding */
    file->names = nib_mem_alloc(mem, file->names_size);
    if (!file->names || scan_header(&p) < NIB_OK) goto fail;
    if (nib_tensor_file_index(file, path) < NIB_OK) {
        nib_error_at(path, NULL, 8); /* a key that is there twice: somewhere in the header */
        goto fail;
    }
    if (check_cover(&p, file_size) < NIB_OK) goto fail;
    for (size_t i = 0; i < file->count; i++) file->entries[i].offset += data_offset;
    return file;
fail:
    nib_safetensors_close(file);
    nib_error_at(path, NULL, -1);
    return NULL;
}

nib_safetensors *nib_safetensors_open(nib_mem *mem, const char *path) {
    nib_file file;
    NIB_TRY_NULL(nib_file_open(mem, path, &file));
    unsigned char length[8] = {0};
    char *header = NULL;
    size_t size = 0;
    nib_safetensors *parsed = NULL;
    if (file.size >= 8 && nib_file_read(&file, length, 8, 0) < NIB_OK) goto done;
    size = checked_data_offset(path, length, 8, file.size);
    if (!size) goto done;
    header = nib_mem_alloc(mem, size);
    if (!header || nib_file_read(&file, header, size, 0) < NIB_OK) goto done;
    parsed = nib_safetensors_parse(mem, path, header, size, file.size);
done:
    nib_mem_free(mem, header, size);
    if (parsed)
        parsed->file = file;
    else
        nib_file_close(&file);
    return parsed;
}
