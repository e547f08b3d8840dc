#include "model/file_config.h"

#include "base/error.h"
#include "io/config_text.h"

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
