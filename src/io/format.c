#include "io/format.h"

#include <string.h>

#include "base/error.h"

#define X(name) extern const nib_format nib_format_##name;
#include "io/format_list.h"
#undef X

static const nib_format *const formats[] = {
#define X(name) &nib_format_##name,
#include "io/format_list.h"
#undef X
    NULL
};

const nib_format *nib_format_at(size_t i) {
    return i < sizeof formats / sizeof *formats ? formats[i] : NULL;
}

const nib_format *nib_format_find(const char *name) {
    for (size_t i = 0; formats[i]; i++)
        if (strcmp(formats[i]->name, name) == 0) return formats[i];
    return NULL;
}

nib_status nib_metadata_add(nib_metadata_list *m, const char *key, const char *value) {
    if (m->count == m->room) {
        const size_t room = m->room ? m->room * 2 : 16;
        nib_safetensors_pair *grown = nib_mem_realloc(m->mem, m->pairs, m->room * sizeof *grown,
                                                      room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        m->pairs = grown;
        m->room = room;
    }
    char *k = nib_mem_strdup(m->mem, key), *v = k ? nib_mem_strdup(m->mem, value) : NULL;
    if (!v) {
        nib_mem_strfree(m->mem, k);
        return nib_last_error()->status;
    }
    m->pairs[m->count++] = (nib_safetensors_pair){ k, v };
    return NIB_OK;
}

void nib_metadata_free(nib_metadata_list *m) {
    for (size_t i = 0; i < m->count; i++) {
        nib_mem_strfree(m->mem, (char *)(uintptr_t)m->pairs[i].key);
        nib_mem_strfree(m->mem, (char *)(uintptr_t)m->pairs[i].value);
    }
    nib_mem_free(m->mem, m->pairs, m->room * sizeof *m->pairs);
    *m = (nib_metadata_list){ .mem = m->mem };
}
