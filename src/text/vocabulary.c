#include "text/vocabulary.h"

#include <string.h>

#include "base/error.h"

enum { NO_PIECE = -1 };

/* A table at most half full needs some dozens of steps; a file made to need more is refused. */
enum { MAX_STEPS = 1000 };
static const uint32_t NO_ID = UINT32_MAX;

/* FNV-1a, 64 bits: Fowler, Noll, Vo. The upper half is folded in, as slots use the lower. */
static size_t hash(const char *bytes, size_t length) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++) h = (h ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32);
}

static nib_status measure(nib_vocabulary *v, json_t *object) {
    const char *piece;
    json_t *id;
    json_object_foreach(object, piece, id) {
        if (!json_is_integer(id))
            return NIB_RAISE(NIB_E_FORMAT, "vocab: the id of \"%.60s\" is not an integer", piece);
        const int64_t value = json_integer_value(id);
        if (value < 0 || value >= NIB_MAX_TOKENS)
            return NIB_RAISE(NIB_E_FORMAT, "vocab: the id of \"%.60s\" is %lld, not from 0 to %d",
                             piece, (long long)value, NIB_MAX_TOKENS - 1);
        if ((size_t)value >= v->size) v->size = (size_t)value + 1;
        v->bytes_size += strlen(piece) + 1;
        v->count++;
    }
    if (!v->count) return NIB_RAISE(NIB_E_FORMAT, "vocab: holds no pieces");
    return NIB_OK;
}

static nib_status fill(nib_vocabulary *v, json_t *object) {
    const char *piece;
    json_t *value;
    uint32_t at = 0;
    for (size_t i = 0; i < v->size; i++) v->entries[i].length = NO_ID;
    for (size_t i = 0; i < v->slot_count; i++) v->slots[i] = NO_PIECE;
    json_object_foreach(object, piece, value) {
        const int32_t id = (int32_t)json_integer_value(value);
        const size_t length = strlen(piece);
        nib_vocabulary_entry *entry = &v->entries[id];
        if (entry->length != NO_ID)
            return NIB_RAISE(NIB_E_FORMAT, "vocab: id %d belongs to \"%.60s\" and to \"%.60s\"",
                             (int)id, v->bytes + entry->start, piece);
        memcpy(v->bytes + at, piece, length + 1);
        *entry = (nib_vocabulary_entry){at, (uint32_t)length};
        at += (uint32_t)length + 1;
        size_t slot = hash(piece, length) & (v->slot_count - 1);
        int steps = 0;
        for (; v->slots[slot] != NO_PIECE; slot = (slot + 1) & (v->slot_count - 1))
            if (++steps > MAX_STEPS)
                return NIB_RAISE(NIB_E_FORMAT,
                                 "vocab: pieces chosen to share one hash, such as "
                                 "\"%.60s\"",
                                 piece);
        v->slots[slot] = id;
    }
    return NIB_OK;
}

nib_status nib_vocabulary_read(nib_vocabulary *v, nib_mem *mem, const json_t *object) {
    *v = (nib_vocabulary){.mem = mem, .slot_count = 16};
    json_t *pieces = (json_t *)(uintptr_t)object; /* jansson's walk wants it, and only reads */
    NIB_TRY_GOTO(measure(v, pieces), fail);
    while (v->slot_count < v->count * 2) v->slot_count *= 2;
    v->bytes = nib_mem_alloc(mem, v->bytes_size);
    if (!v->bytes) goto fail;
    v->entries = nib_mem_alloc_array(mem, v->size, sizeof *v->entries);
    if (!v->entries) goto fail;
    v->slots = nib_mem_alloc_array(mem, v->slot_count, sizeof *v->slots);
    if (!v->slots) goto fail;
    NIB_TRY_GOTO(fill(v, pieces), fail);
    return NIB_OK;
fail:
    nib_vocabulary_free(v);
    return nib_last_error()->status;
}

void nib_vocabulary_free(nib_vocabulary *v) {
    nib_mem_free(v->mem, v->slots, v->slot_count * sizeof *v->slots);
    nib_mem_free(v->mem, v->entries, v->size * sizeof *v->entries);
    nib_mem_free(v->mem, v->bytes, v->bytes_size);
    *v = (nib_vocabulary){0};
}

int32_t nib_vocabulary_id(const nib_vocabulary *v, const char *piece, size_t length) {
    size_t slot = hash(piece, length) & (v->slot_count - 1);
    for (; v->slots[slot] != NO_PIECE; slot = (slot + 1) & (v->slot_count - 1)) {
        const nib_vocabulary_entry *entry = &v->entries[v->slots[slot]];
        if (entry->length == length && !memcmp(v->bytes + entry->start, piece, length))
            return v->slots[slot];
    }
    return -1;
}

const char *nib_vocabulary_piece(const nib_vocabulary *v, int32_t id, size_t *length) {
    if (id < 0 || (size_t)id >= v->size || v->entries[id].length == NO_ID) return NULL;
    if (length) *length = v->entries[id].length;
    return v->bytes + v->entries[id].start;
}
