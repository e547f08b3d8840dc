#include "model/file_config.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/path.h"
#include "io/config_text.h"

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

/* `text` with one key set, appended to `out`, which is emptied first. */
static nib_status set_key(const char *text, size_t length, const char *key, const json_t *value, nib_text *out) {
    char *changed = nib_config_text_set(out->mem, text, length, key, value, "config.json");
    if (!changed) return nib_last_error()->status;
    nib_text_free(out);
    nib_text_add(out, changed);
    nib_mem_strfree(out->mem, changed);
    return out->failed ? nib_last_error()->status : NIB_OK;
}

nib_status nib_file_config_text(const char *text, const json_t *config, nib_text *out) {
    static const char tie[] = "tie_word_embeddings", about[] = "quantization_config";
    nib_text_add(out, text);
    if (out->failed) return nib_last_error()->status;
    if (json_object_get(config, about))
        NIB_TRY(set_key(out->data, out->length, about, json_object_get(config, about), out));
    if (json_is_false(json_object_get(config, tie)))
        NIB_TRY(set_key(out->data, out->length, tie, json_object_get(config, tie), out));
    return NIB_OK;
}
