#include "io/format.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "quant/scheme.h"

#define X(name) extern const nib_format nib_format_##name;
#include "io/format_list.h"
#undef X

static const nib_format *const formats[] = {
#define X(name) &nib_format_##name,
#include "io/format_list.h"
#undef X
    NULL};

const nib_format *nib_format_at(size_t i) {
    return i < sizeof formats / sizeof *formats ? formats[i] : NULL;
}

const nib_format *nib_format_find(const char *name) {
    for (size_t i = 0; formats[i]; i++)
        if (strcmp(formats[i]->name, name) == 0) return formats[i];
    return NULL;
}

const json_t *nib_format_about(const json_t *config) {
    return json_object_get(config, "quantization_config");
}

const char *nib_format_method(const json_t *config) {
    return json_string_value(json_object_get(nib_format_about(config), "quant_method"));
}

nib_status nib_metadata_add(nib_metadata_list *m, const char *key, const char *value) {
    if (m->count == m->room) {
        const size_t room = m->room ? m->room * 2 : 16;
        nib_safetensors_pair *grown =
            nib_mem_realloc(m->mem, m->pairs, m->room * sizeof *grown, room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        m->pairs = grown;
        m->room = room;
    }
    char *k = nib_mem_strdup(m->mem, key), *v = k ? nib_mem_strdup(m->mem, value) : NULL;
    if (!v) {
        nib_mem_strfree(m->mem, k);
        return nib_last_error()->status;
    }
    m->pairs[m->count++] = (nib_safetensors_pair){k, v};
    return NIB_OK;
}

void nib_metadata_free(nib_metadata_list *m) {
    for (size_t i = 0; i < m->count; i++) {
        nib_mem_strfree(m->mem, (char *)(uintptr_t)m->pairs[i].key);
        nib_mem_strfree(m->mem, (char *)(uintptr_t)m->pairs[i].value);
    }
    nib_mem_free(m->mem, m->pairs, m->room * sizeof *m->pairs);
    *m = (nib_metadata_list){.mem = m->mem};
}

enum { NOTE_VERSION = 1 };

nib_status nib_format_note(const nib_manifest *m,
                           nib_status (*spell)(const nib_manifest *, const nib_stored *,
                                               nib_text *),
                           nib_metadata_list *out) {
    json_t *schemes = json_object(), *note = NULL;
    nib_text text = {.mem = out->mem};
    nib_status status =
        schemes ? NIB_OK : NIB_RAISE(NIB_E_MEMORY, "no memory for a note on schemes");
    for (size_t i = 0; i < m->count && status >= NIB_OK; i++) {
        const nib_stored *item = &m->items[i];
        if (!item->layout) continue;
        nib_text spelled = {.mem = out->mem}, back = {.mem = out->mem}, own = {.mem = out->mem};
        if (spell) status = spell(m, item, &spelled);
        nib_config *config = spell && status >= NIB_OK ? nib_config_parse(spelled.data) : NULL;
        if (config) nib_config_print(config, &back);
        nib_config_print(item->config, &own);
        if (status >= NIB_OK && ((spell && !config) || back.failed || own.failed))
            status = nib_last_error()->status;
        if (status >= NIB_OK && (!spell || strcmp(back.data, own.data) != 0) &&
            json_object_set_new(schemes, item->name, json_string(own.data)) != 0)
            status = NIB_RAISE(NIB_E_MEMORY, "no memory for a note on schemes");
        nib_config_free(config);
        nib_text_free(&spelled);
        nib_text_free(&back);
        nib_text_free(&own);
    }
    if (status >= NIB_OK && json_object_size(schemes)) {
        note = json_pack("{s:i, s:O}", "version", NOTE_VERSION, "schemes", schemes);
        status = nib_json_text(note, JSON_COMPACT, &text);
        if (status >= NIB_OK) status = nib_metadata_add(out, "nibble", text.data);
    }
    nib_text_free(&text);
    if (note) json_decref(note);
    if (schemes) json_decref(schemes);
    return status;
}

json_t *nib_format_noted(const nib_checkpoint *checkpoint, nib_status *status) {
    const char *text = nib_checkpoint_metadata(checkpoint, "nibble");
    int64_t version = 0;
    json_t *schemes = NULL;
    *status = NIB_OK;
    if (!text) return NULL;
    json_t *note = nib_json_parse(text, strlen(text), checkpoint->path, 0);
    *status = note ? nib_json_int(note, "version", 0, INT64_MAX, true, &version)
                   : nib_last_error()->status;
    if (*status >= NIB_OK && version != NOTE_VERSION)
        *status = NIB_RAISE(NIB_E_UNSUPPORTED, "a note of version %lld, this reads %d",
                            (long long)version, NOTE_VERSION);
    if (*status >= NIB_OK) *status = nib_json_object(note, "schemes", true, &schemes);
    const char *name;
    json_t *scheme;
    json_object_foreach(schemes, name, scheme) {
        if (*status >= NIB_OK && !json_is_string(scheme))
            *status = NIB_RAISE(NIB_E_FORMAT, "the scheme of %.160s in the note is no text", name);
    }
    if (*status >= NIB_OK)
        json_incref(schemes);
    else
        nib_error_at(checkpoint->path, NULL, -1);
    if (note) json_decref(note);
    return *status >= NIB_OK ? schemes : NULL;
}
