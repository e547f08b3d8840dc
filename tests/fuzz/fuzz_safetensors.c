/* fuzz_safetensors.c: the header parser on any bytes.
 *
 * An input that begins with '{' is a header, and the file is taken to be as long as its largest
 * offset asks, so that mutations get past the size check; any other input is a whole file. What is
 * accepted must be what jansson reads too, cover the file exactly, and come back the same from the
 * writer's header. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) abort();                                                                 \
    } while (0)

static void check_cover(const nib_safetensors *file, size_t file_size) {
    size_t end = file->data_offset;
    for (size_t i = 0; i < file->count; i++) {
        const nib_safetensors_entry *entry = &file->entries[i];
        MUST(entry->offset == end);
        end += entry->size;
        MUST(end <= file_size);
        MUST(nib_safetensors_find(file, entry->name) == entry);
    }
    MUST(end == file_size);
}

static void check_jansson(const nib_safetensors *file, const uint8_t *bytes) {
    json_t *root =
        json_loadb((const char *)bytes + 8, file->data_offset - 8, JSON_REJECT_DUPLICATES, NULL);
    MUST(root);
    const json_t *metadata = json_object_get(root, "__metadata__");
    MUST(json_object_size(root) == file->count + (metadata ? 1 : 0));
    MUST(json_object_size(metadata) == file->metadata_count);
    for (size_t i = 0; i < file->count; i++) {
        const nib_safetensors_entry *entry = &file->entries[i];
        const json_t *read = json_object_get(root, entry->name);
        const json_t *shape = json_object_get(read, "shape");
        const json_t *offsets = json_object_get(read, "data_offsets");
        MUST(json_array_size(shape) == (size_t)entry->shape.ndim);
        for (size_t d = 0; d < json_array_size(shape); d++)
            MUST(json_integer_value(json_array_get(shape, d)) == entry->shape.dim[d]);
        MUST(json_integer_value(json_array_get(offsets, 0)) + (json_int_t)file->data_offset ==
             (json_int_t)entry->offset);
        MUST(strcmp(json_string_value(json_object_get(read, "dtype")),
                    nib_safetensors_dtype_name(entry->dtype)) == 0);
    }
    json_decref(root);
}

static void check_written(const nib_safetensors *file) {
    nib_safetensors_planned *tensors = calloc(file->count + 1, sizeof *tensors);
    for (size_t i = 0; i < file->count; i++)
        tensors[i] = (nib_safetensors_planned){file->entries[i].name, file->entries[i].dtype,
                                               file->entries[i].shape};
    const nib_safetensors_plan plan = {tensors, file->count, file->metadata, file->metadata_count};
    size_t header_size = 0, size = 0;
    char *header = nib_safetensors_plan_header(NULL, &plan, &header_size);
    MUST(header && nib_safetensors_plan_size(NULL, &plan, &size, NULL) == NIB_OK);
    nib_safetensors *back = nib_safetensors_parse(NULL, NULL, header, header_size, size);
    MUST(back && back->count == file->count && back->metadata_count == file->metadata_count);
    check_cover(back, size);
    for (size_t i = 0; i < file->count; i++) {
        const nib_safetensors_entry *entry = nib_safetensors_find(back, file->entries[i].name);
        MUST(entry && entry->dtype == file->entries[i].dtype);
        MUST(entry->size == file->entries[i].size);
    }
    nib_safetensors_close(back);
    nib_mem_free(NULL, header, header_size);
    free(tensors);
}

static void check(const uint8_t *bytes, size_t size, size_t file_size) {
    nib_safetensors *file = nib_safetensors_parse(NULL, "fuzz", bytes, size, file_size);
    if (file) {
        check_cover(file, file_size);
        check_jansson(file, bytes);
        check_written(file);
        nib_safetensors_close(file);
    } else {
        const nib_error *error = nib_last_error();
        MUST(error->status == NIB_E_FORMAT || error->status == NIB_E_UNSUPPORTED);
        MUST(strcmp(error->path, "fuzz") == 0);
        MUST(error->offset >= 0 && (size_t)error->offset <= file_size);
    }
    MUST(nib_mem_used(NULL) == 0);
}

/* The largest number of up to nine digits before a ']'. */
static size_t largest_end(const uint8_t *text, size_t size) {
    size_t largest = 0;
    for (size_t i = 0; i < size; i++) {
        size_t value = 0, n = 0;
        while (i < size && text[i] >= '0' && text[i] <= '9') {
            value = n++ < 9 ? 10 * value + (size_t)(text[i] - '0') : 0;
            i++;
        }
        if (i < size && text[i] == ']' && n <= 9 && value > largest) largest = value;
    }
    return largest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0 || data[0] != '{') {
        check(data, size, size);
        return 0;
    }
    uint8_t *file = malloc(8 + size);
    MUST(file);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)(size >> 8 * i);
    memcpy(file + 8, data, size);
    check(file, 8 + size, 8 + size + largest_end(data, size));
    free(file);
    return 0;
}
