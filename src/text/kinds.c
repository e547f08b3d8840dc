#include "text/kinds.h"

#include <string.h>

#include "base/error.h"
#include "text/pattern.h"

enum { MAX_DEPTH = 16 };

static nib_status read_one(const char *part, const nib_kind *kinds, const json_t *object,
                           const char *type, void *self) {
    for (const nib_kind *kind = kinds; kind->name; kind++)
        if (!strcmp(kind->name, type)) return kind->read(self, object);
    return NIB_RAISE(NIB_E_UNSUPPORTED, "%s: kind \"%.60s\" is not one that nibble knows", part,
                     type);
}

nib_status nib_kinds_read(const char *part, const char *list_key, const nib_kind *kinds,
                          const json_t *object, void *self) {
    struct {
        const json_t *list;
        size_t next;
    } open[MAX_DEPTH];
    int depth = 0;
    const json_t *at = object;
    if (!at || json_is_null(at)) return NIB_OK;
    for (;;) {
        const char *type = NULL;
        if (!json_is_object(at)) return NIB_RAISE(NIB_E_FORMAT, "%s: is not an object", part);
        NIB_TRY(nib_json_string(at, "type", true, &type));
        if (!strcmp(type, "Sequence")) {
            json_t *list = NULL;
            NIB_TRY(nib_json_array(at, list_key, true, &list));
            if (depth == MAX_DEPTH)
                return NIB_RAISE(NIB_E_FORMAT, "%s: sequences nest over %d deep", part, MAX_DEPTH);
            open[depth].list = list;
            open[depth++].next = 0;
        } else {
            NIB_TRY(read_one(part, kinds, at, type, self));
        }
        while (depth && open[depth - 1].next == json_array_size(open[depth - 1].list)) depth--;
        if (!depth) return NIB_OK;
        at = json_array_get(open[depth - 1].list, open[depth - 1].next++);
    }
}

nib_status nib_kinds_grow(nib_mem *mem, void **items, size_t count, size_t size) {
    void *grown = nib_mem_realloc(mem, *items, count * size, (count + 1) * size);
    if (!grown) return NIB_E_MEMORY;
    memset((char *)grown + count * size, 0, size);
    *items = grown;
    return NIB_OK;
}

nib_status nib_kinds_pattern(nib_mem *mem, const json_t *object, const char *key,
                             struct nib_pattern **pattern) {
    json_t *given = NULL;
    const char *text = NULL;
    NIB_TRY(nib_json_object(object, key, true, &given));
    NIB_TRY(nib_json_string(given, "Regex", false, &text));
    if (text) {
        *pattern = nib_pattern_regex(mem, text, strlen(text));
    } else {
        NIB_TRY(nib_json_string(given, "String", true, &text));
        *pattern = nib_pattern_string(mem, text, strlen(text));
    }
    return *pattern ? NIB_OK : nib_last_error()->status;
}
