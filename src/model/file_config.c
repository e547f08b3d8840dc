#include "model/file_config.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "io/config_text.h"

/* `text` with one key set, appended to `out`, which is emptied first. */
static nib_status set_key(const char *text, size_t length, const char *key, const json_t *value,
                          nib_text *out) {
    char *changed = nib_config_text_set(out->mem, text, length, key, value, "config.json");
    if (!changed) return nib_last_error()->status;
    nib_text_free(out);
    nib_text_add(out, changed);
    nib_mem_strfree(out->mem, changed);
    return out->failed ? nib_last_error()->status : NIB_OK;
}

nib_status nib_file_config_text(const char *text, const json_t *config, nib_text *out) {
    static const char *const keys[] = {"quantization_config", "tie_word_embeddings", "torch_dtype",
                                       "dtype"};
    json_t *before = nib_json_parse(text, strlen(text), "config.json", 0);
    nib_status status = before ? NIB_OK : nib_last_error()->status;
    nib_text_add(out, text);
    if (out->failed) status = nib_last_error()->status;
    for (size_t i = 0; i < sizeof keys / sizeof *keys && status >= NIB_OK; i++) {
        const json_t *was = json_object_get(before, keys[i]),
                     *is = json_object_get(config, keys[i]);
        if (was != is && !(was && is && json_equal(was, is)))
            status = set_key(out->data, out->length, keys[i], is, out);
    }
    json_decref(before);
    return status;
}
