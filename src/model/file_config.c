#include "model/file_config.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/path.h"

nib_status nib_file_config_load(nib_mem *mem, const nib_checkpoint *checkpoint, json_t **config,
                                char **text_out) {
    *config = NULL;
    if (text_out) *text_out = NULL;
    if (checkpoint->is_file) return NIB_OK;
    char *path = nib_checkpoint_path(checkpoint, "config.json");
    if (!path) return nib_last_error()->status;
    nib_path_kind kind = NIB_PATH_NONE;
    nib_status status = nib_path_look(path, true, &kind);
    if (status >= NIB_OK && kind == NIB_PATH_FILE) {
        size_t size;
        char *text = nib_file_read_whole(mem, path, NIB_JSON_MAX_BYTES, &size);
        if (text) {
            *config = nib_json_parse(text, size, path, 0);
            if (*config && text_out) *text_out = nib_mem_strdup(mem, text);
            if (*config && text_out && !*text_out) {
                json_decref(*config);
                *config = NULL;
            }
            nib_mem_free(mem, text, size + 1);
        }
        if (!*config) {
            status = nib_last_error()->status;
        } else if (!json_is_object(*config)) {
            if (text_out) nib_mem_strfree(mem, *text_out);
            if (text_out) *text_out = NULL;
            json_decref(*config);
            *config = NULL;
            NIB_RAISE(NIB_E_FORMAT, "config.json is not an object");
            status = nib_error_at(path, NULL, 0);
        }
    }
    nib_mem_strfree(mem, path);
    return status;
}

/* Just behind the colon of a key of the outermost object, or NULL. The text is valid JSON. */
static const char *after_key(const char *text, const char *key) {
    const size_t length = strlen(key);
    int depth = 0;
    for (const char *p = text; *p; p++) {
        if (*p == '{' || *p == '[') depth++;
        if (*p == '}' || *p == ']') depth--;
        if (*p != '"') continue;
        const char *start = p + 1;
        for (p++; *p && *p != '"'; p++)
            if (*p == '\\') p++;
        if (depth != 1 || (size_t)(p - start) != length || memcmp(start, key, length) != 0) continue;
        const char *next = p + 1 + strspn(p + 1, " \t\r\n");
        if (*next == ':') return next + 1;
    }
    return NULL;
}

nib_status nib_file_config_text(const char *text, const json_t *config, nib_text *out) {
    const char *from = text, *tie = after_key(text, "tie_word_embeddings");
    const json_t *added = json_object_get(config, "quantization_config");
    if (tie && json_is_false(json_object_get(config, "tie_word_embeddings"))) {
        tie += strspn(tie, " \t\r\n");
        if (strncmp(tie, "true", 4) == 0) {
            nib_text_append(out, from, (size_t)(tie - from));
            nib_text_add(out, "false");
            from = tie + 4;
        }
    }
    const char *end = strrchr(from, '}');
    const char *last = end;            /* behind the last value */
    while (last > from && strchr(" \t\r\n", last[-1])) last--;
    nib_text_append(out, from, (size_t)(last - from));
    if (added) {
        nib_text value = { .mem = out->mem };
        const nib_status status = nib_json_text(added, JSON_INDENT(2) | JSON_REAL_PRECISION(9), &value);
        nib_text_format(out, "%s\n  \"quantization_config\": ", json_object_size(config) > 1 ? "," : "");
        for (const char *p = value.data; status >= NIB_OK && *p; p++) {
            nib_text_append(out, p, 1);
            if (*p == '\n') nib_text_add(out, "  ");
        }
        nib_text_free(&value);
        NIB_TRY(status);
        nib_text_add(out, "\n");
        nib_text_add(out, end);
    } else {
        nib_text_add(out, last);
    }
    return out->failed ? nib_last_error()->status : NIB_OK;
}
