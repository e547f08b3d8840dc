#include "model/file_config.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "io/config_text.h"

const char *const nib_tied_tables[] = {"model.embed_tokens.weight",
                                       "model.decoder.embed_tokens.weight",
                                       "decoder.embed_tokens.weight",
                                       "transformer.wte.weight",
                                       "wte.weight",
                                       "transformer.word_embeddings.weight",
                                       "word_embeddings.weight",
                                       NULL};

static bool is_type(const json_t *config, const char *type) {
    const char *said = json_string_value(json_object_get(config, "model_type"));
    return said && strcmp(said, type) == 0;
}

const char *nib_file_config_head(const json_t *config) {
    return is_type(config, "whisper") ? "proj_out.weight" : "lm_head.weight";
}

bool nib_file_config_tied(const json_t *config) {
    static const char *const by_default[] = {"opt", "gpt2", "bloom", "whisper", NULL};
    const json_t *said = json_object_get(config, "tie_word_embeddings");
    if (json_is_boolean(said)) return json_is_true(said);
    for (const char *const *t = by_default; *t; t++)
        if (is_type(config, *t)) return true;
    return false;
}

const nib_checkpoint_tensor *nib_tied_table_of(const nib_checkpoint *checkpoint) {
    const nib_checkpoint_tensor *found = NULL;
    for (const char *const *name = nib_tied_tables; !found && *name; name++)
        found = nib_checkpoint_find(checkpoint, *name);
    return found;
}

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
