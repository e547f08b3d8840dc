/* vocab_merges.c: GPT-2's tokenizer as its first files have it, which is how OPT was published:
 * vocab.json, merges.txt and tokenizer_config.json, put together as the tokenizer.json that
 * transformers would make of them. */
#include <string.h>

#include "base/error.h"
#include "text/tokenizer.h"

static const char *const kinds[] = {"GPT2Tokenizer", "GPT2TokenizerFast", NULL};

/* Other tokenizers come as the same two files and cut text in another way. */
static nib_status check_kind(const json_t *config) {
    const char *kind = json_string_value(json_object_get(config, "tokenizer_class"));
    if (!kind) return NIB_OK;
    for (const char *const *known = kinds; *known; known++)
        if (strcmp(kind, *known) == 0) return NIB_OK;
    return NIB_RAISE(NIB_E_UNSUPPORTED,
                     "there is no tokenizer.json, and of vocab.json and merges.txt nibble makes a "
                     "GPT2Tokenizer, not a %.60s; save the tokenizer with a newer transformers",
                     kind);
}

/* Lines of two pieces; the head line and empty lines say nothing. */
static json_t *merges_of(const char *text, size_t length) {
    json_t *merges = json_array();
    for (size_t at = 0; merges && at < length;) {
        const char *line = text + at, *end = memchr(line, '\n', length - at);
        size_t n = end ? (size_t)(end - line) : length - at;
        at += n + 1;
        if (n && line[n - 1] == '\r') n--;
        if (!n || (line == text && n >= 8 && memcmp(line, "#version", 8) == 0)) continue;
        if (json_array_append_new(merges, json_stringn(line, n)) == 0) continue;
        json_decref(merges); /* no memory, or no UTF-8 */
        return NULL;
    }
    return merges;
}

static const char *content_of(const json_t *config, const char *key, const char *fallback) {
    const json_t *value = json_object_get(config, key);
    if (!value) return fallback;
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

/* The special tokens that the vocabulary has, each once, by id. */
static json_t *added_tokens(const json_t *config, const json_t *vocab) {
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    const char *content[4] = {0};
    json_int_t id[4];
    int count = 0;
    for (int i = 0; i < 4; i++) {
        const char *text = content_of(config, keys[i], i < 3 ? "<|endoftext|>" : NULL);
        const json_t *known = text ? json_object_get(vocab, text) : NULL;
        if (!json_is_integer(known)) continue;
        int at = 0;
        while (at < count && id[at] < json_integer_value(known)) at++;
        if (at < count && id[at] == json_integer_value(known)) continue;
        memmove(content + at + 1, content + at, (size_t)(count - at) * sizeof *content);
        memmove(id + at + 1, id + at, (size_t)(count - at) * sizeof *id);
        content[at] = text;
        id[at] = json_integer_value(known);
        count++;
    }
    json_t *added = json_array();
    for (int i = 0; added && i < count; i++)
        if (json_array_append_new(added,
                                  json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id[i],
                                            "content", content[i], "single_word", 0, "lstrip", 0,
                                            "rstrip", 0, "normalized", 0, "special", 1)) != 0) {
            json_decref(added);
            return NULL;
        }
    return added;
}

/* The beginning of a sequence before each text, where the config asks for it. */
static json_t *post_processor(const json_t *config, const json_t *vocab) {
    const char *bos = content_of(config, "bos_token", "<|endoftext|>");
    const json_t *id = bos ? json_object_get(vocab, bos) : NULL;
    if (!json_is_true(json_object_get(config, "add_bos_token")) || !json_is_integer(id))
        return json_null();
    return json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:[], s:{s:{s:s, s:[I], s:[s]}}}",
                     "type", "TemplateProcessing", "single", "SpecialToken", "id", bos, "type_id",
                     0, "Sequence", "id", "A", "type_id", 0, "pair", "special_tokens", bos, "id",
                     bos, "ids", json_integer_value(id), "tokens", bos);
}

json_t *nib_vocab_merges_json(const json_t *vocab, const char *merges, size_t length,
                              const json_t *config) {
    NIB_TRY_NULL(check_kind(config));
    if (!json_is_object(vocab)) return NIB_RAISE_NULL(NIB_E_FORMAT, "not a JSON object");
    json_t *list = merges_of(merges, length);
    json_t *added = list ? added_tokens(config, vocab) : NULL;
    json_t *post = added ? post_processor(config, vocab) : NULL;
    const int spaced = json_is_true(json_object_get(config, "add_prefix_space"));
    if (!post) {
        json_decref(list);
        json_decref(added);
        return NIB_RAISE_NULL(NIB_E_FORMAT,
                              "merges.txt is not UTF-8, or there is no memory for it");
    }
    json_t *root = json_pack("{s:s, s:o, s:n, s:{s:s, s:b, s:b, s:b}, s:o, s:{s:s, s:b, s:b, s:b}, "
                             "s:{s:s, s:n, s:O, s:o}}",
                             "version", "1.0", "added_tokens", added, "normalizer", "pre_tokenizer",
                             "type", "ByteLevel", "add_prefix_space", spaced, "trim_offsets", 1,
                             "use_regex", 1, "post_processor", post, "decoder", "type", "ByteLevel",
                             "add_prefix_space", spaced, "trim_offsets", 1, "use_regex", 1, "model",
                             "type", "BPE", "unk_token", "vocab", vocab, "merges", list);
    return root ? root : NIB_RAISE_NULL(NIB_E_MEMORY, "no memory for the tokenizer");
}
