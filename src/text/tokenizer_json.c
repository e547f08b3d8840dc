/* tokenizer.json, read part by part; each part's own file knows its kinds. */
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/path.h"
#include "tensor/context.h"
#include "text/tokenizer.h"

const char *const nib_token_roles[NIB_ROLES] = {"bos", "eos", "unk", "pad"};
static const char *const role_keys[NIB_ROLES] = {"bos_token", "eos_token", "unk_token",
                                                 "pad_token"};

static nib_status read_model(nib_tokenizer *t, const json_t *root) {
    json_t *model = NULL;
    const char *type = NULL;
    NIB_TRY(nib_json_object(root, "model", true, &model));
    NIB_TRY(nib_json_string(model, "type", false, &type));
    if (!type) {
        /* old files name no type; merges are what only this kind has */
        if (!json_object_get(model, "merges"))
            return NIB_RAISE(NIB_E_UNSUPPORTED, "model: has neither a type nor merges");
    } else if (strcmp(type, "BPE") != 0) {
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "model: kind \"%.60s\" is not one that nibble knows "
                         "(BPE is)",
                         type);
    }
    return nib_bpe_read(&t->bpe, t->mem, model);
}

static nib_status read_all(nib_tokenizer *t, const json_t *root) {
    const char *version = NULL;
    json_t *added = NULL;
    if (!json_is_object(root)) return NIB_RAISE(NIB_E_FORMAT, "not a JSON object");
    NIB_TRY(nib_json_string(root, "version", false, &version));
    if (version && strcmp(version, "1.0") != 0)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "version \"%.20s\" of tokenizer.json", version);
    NIB_TRY(read_model(t, root));
    NIB_TRY(nib_normalizer_read(&t->normalizer, t->mem, json_object_get(root, "normalizer")));
    NIB_TRY(nib_json_array(root, "added_tokens", false, &added));
    NIB_TRY(nib_added_tokens_read(&t->added, t->mem, added, &t->bpe.vocabulary, &t->normalizer));
    t->size = t->bpe.vocabulary.size;
    if (t->added.count && (size_t)t->added.tokens[t->added.count - 1].id >= t->size)
        t->size = (size_t)t->added.tokens[t->added.count - 1].id + 1;
    NIB_TRY(
        nib_pretokenizer_read(&t->pretokenizer, t->mem, json_object_get(root, "pre_tokenizer")));
    NIB_TRY(
        nib_postprocessor_read(&t->post, t->mem, json_object_get(root, "post_processor"), t->size));
    NIB_TRY(nib_token_decoder_read(&t->decoder, t->mem, json_object_get(root, "decoder")));
    for (int i = 0; i < NIB_ROLES; i++) t->roles[i] = -1;
    t->roles[2] = t->bpe.unknown;
    return NIB_OK;
}

/* "bos_token": "<s>" or {"content": "<s>", ...} or null. */
static nib_status read_roles(nib_tokenizer *t, const json_t *config) {
    if (!json_is_object(config)) return NIB_RAISE(NIB_E_FORMAT, "not a JSON object");
    for (int i = 0; i < NIB_ROLES; i++) {
        const char *key = role_keys[i];
        const json_t *value = json_object_get(config, key);
        if (!value || json_is_null(value)) continue;
        const char *content = json_string_value(value);
        if (json_is_object(value)) NIB_TRY(nib_json_string(value, "content", true, &content));
        if (!content)
            return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is neither a string nor an object", key);
        const int32_t id = nib_tokenizer_id(t, content, strlen(content));
        if (id >= 0) t->roles[i] = id;
    }
    return NIB_OK;
}

/* Takes `root`, which may be NULL after a failure. */
static nib_tokenizer *from_json(nib_ctx *ctx, json_t *root, const char *name) {
    nib_mem *mem = nib_ctx_mem(ctx);
    if (!root) return NULL;
    nib_tokenizer *t = nib_mem_alloc_zero(mem, sizeof *t);
    if (t) {
        t->mem = mem;
        if (read_all(t, root) < NIB_OK) {
            nib_error_at(name, NULL, -1);
            nib_tokenizer_free(t);
            t = NULL;
        }
    }
    json_decref(root);
    return t;
}

static nib_tokenizer *parse(nib_ctx *ctx, const char *json, size_t length, const char *name) {
    return from_json(ctx, nib_json_parse(json, length, name, 0), name);
}

nib_tokenizer *nib_tokenizer_parse(nib_ctx *ctx, const char *json, size_t length,
                                   const char *name) {
    if (!json) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "tokenizer: no JSON was given");
    return parse(ctx, json, length, name ? name : "tokenizer.json");
}

static nib_tokenizer *load_json(nib_ctx *ctx, const char *path) {
    nib_mem *mem = nib_ctx_mem(ctx);
    size_t size = 0;
    char *bytes = nib_file_read_whole(mem, path, NIB_JSON_MAX_BYTES, &size);
    if (!bytes) return NULL;
    nib_tokenizer *t = parse(ctx, bytes, size, path);
    nib_mem_free(mem, bytes, size + 1);
    return t;
}

/* *json is NULL where there is no such file and none is needed. */
static nib_status read_json(nib_mem *mem, const char *path, bool required, json_t **json) {
    size_t size = 0;
    nib_path_kind kind;
    *json = NULL;
    NIB_TRY(nib_path_look(path, true, &kind));
    if (kind == NIB_PATH_NONE && !required) return NIB_OK;
    char *bytes = nib_file_read_whole(mem, path, NIB_JSON_MAX_BYTES, &size);
    if (!bytes) return nib_last_error()->status;
    *json = nib_json_parse(bytes, size, path, 0);
    nib_mem_free(mem, bytes, size + 1);
    return *json ? NIB_OK : nib_last_error()->status;
}

/* The older files of a folder; `config` is the path of its tokenizer_config.json. */
static nib_tokenizer *load_vocab_merges(nib_ctx *ctx, const char *vocab_path, const char *path,
                                        const char *config_path) {
    nib_mem *mem = nib_ctx_mem(ctx);
    json_t *vocab = NULL, *config = NULL, *root = NULL;
    size_t size = 0;
    char *merges = nib_file_read_whole(mem, path, NIB_JSON_MAX_BYTES, &size);
    if (merges && read_json(mem, vocab_path, true, &vocab) >= NIB_OK &&
        read_json(mem, config_path, false, &config) >= NIB_OK) {
        root = nib_vocab_merges_json(vocab, merges, size, config);
        if (!root) nib_error_at(path, NULL, -1);
    }
    nib_tokenizer *t = from_json(ctx, root, path);
    json_decref(vocab);
    json_decref(config);
    if (merges) nib_mem_free(mem, merges, size + 1);
    return t;
}

static nib_status load_roles(nib_tokenizer *t, const char *path) {
    json_t *config;
    NIB_TRY(read_json(t->mem, path, false, &config));
    if (!config) return NIB_OK;
    nib_status status = read_roles(t, config);
    json_decref(config);
    return status < NIB_OK ? nib_error_at(path, NULL, -1) : NIB_OK;
}

/* A file of the folder that is there; *path is NULL where it is not. */
static nib_status find(nib_mem *mem, const char *dir, const char *name, char **path) {
    nib_path_kind kind;
    *path = nib_path_join(mem, dir, name);
    if (!*path) return nib_last_error()->status;
    NIB_TRY(nib_path_look(*path, true, &kind));
    if (kind != NIB_PATH_NONE) return NIB_OK;
    nib_mem_strfree(mem, *path);
    *path = NULL;
    return NIB_OK;
}

static nib_tokenizer *load_folder(nib_ctx *ctx, const char *dir, const char *config) {
    nib_mem *mem = nib_ctx_mem(ctx);
    char *file = NULL, *vocab = NULL, *merges = NULL;
    nib_tokenizer *t = NULL;
    nib_status status = find(mem, dir, "tokenizer.json", &file);
    if (status >= NIB_OK && !file) status = find(mem, dir, "vocab.json", &vocab);
    if (status >= NIB_OK && vocab) status = find(mem, dir, "merges.txt", &merges);
    if (status >= NIB_OK && merges) {
        t = load_vocab_merges(ctx, vocab, merges, config);
    } else if (status >= NIB_OK) {
        if (!file) file = nib_path_join(mem, dir, "tokenizer.json"); /* the error names it */
        t = file ? load_json(ctx, file) : NULL;
    }
    nib_mem_strfree(mem, merges);
    nib_mem_strfree(mem, vocab);
    nib_mem_strfree(mem, file);
    return t;
}

nib_tokenizer *nib_tokenizer_load(nib_ctx *ctx, const char *path) {
    if (!path) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "tokenizer: no path was given");
    nib_mem *mem = nib_ctx_mem(ctx);
    nib_path_kind kind;
    NIB_TRY_NULL(nib_path_look(path, true, &kind));
    const bool folder = kind == NIB_PATH_FOLDER;
    char *dir = folder ? nib_mem_strdup(mem, path) : nib_path_parent(mem, path);
    char *config = dir ? nib_path_join(mem, dir, "tokenizer_config.json") : NULL;
    nib_tokenizer *t = NULL;
    if (config) t = folder ? load_folder(ctx, dir, config) : load_json(ctx, path);
    if (t && load_roles(t, config) < NIB_OK) {
        nib_tokenizer_free(t);
        t = NULL;
    }
    nib_mem_strfree(mem, config);
    nib_mem_strfree(mem, dir);
    return t;
}
