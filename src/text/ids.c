#include "text/ids.h"

#include <string.h>

#include "base/checked.h"
#include "base/error.h"

void nib_ids_open(nib_ids *ids, nib_mem *mem) {
    if (!ids->data) ids->owner = mem;
}

void nib_string_open(nib_string *string, nib_mem *mem) {
    if (!string->data) string->owner = mem;
}

nib_status nib_ids_append(nib_ids *ids, const int32_t *more, size_t count) {
    if (count > ids->room - ids->count) {
        size_t room = ids->room ? ids->room * 2 : 64, bytes;
        while (room - ids->count < count) room *= 2;
        if (nib_mul_size(room, sizeof *more, &bytes))
            return NIB_RAISE(NIB_E_MEMORY, "%zu ids are too many", room);
        int32_t *grown = nib_mem_realloc(ids->owner, ids->data, ids->room * sizeof *more, bytes);
        if (!grown) return NIB_E_MEMORY;
        ids->data = grown;
        ids->room = room;
    }
    if (count) memcpy(ids->data + ids->count, more, count * sizeof *more);
    ids->count += count;
    return NIB_OK;
}

nib_status nib_string_append(nib_string *string, const char *bytes, size_t length) {
    if (!string->data || length >= string->room - string->length) {
        size_t room = string->room ? string->room * 2 : 64;
        while (room - string->length <= length) room *= 2;
        char *grown = nib_mem_realloc(string->owner, string->data, string->room, room);
        if (!grown) return NIB_E_MEMORY;
        string->data = grown;
        string->room = room;
    }
    if (length) memcpy(string->data + string->length, bytes, length);
    string->length += length;
    string->data[string->length] = '\0';
    return NIB_OK;
}

void nib_ids_free(nib_ids *ids) {
    if (!ids) return;
    nib_mem_free(ids->owner, ids->data, ids->room * sizeof *ids->data);
    *ids = (nib_ids){0};
}

void nib_string_free(nib_string *string) {
    if (!string) return;
    nib_mem_free(string->owner, string->data, string->room);
    *string = (nib_string){0};
}
