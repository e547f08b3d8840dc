/* fuzz_config.c: config.json on any bytes. What stands behind the first form feed, for which JSON
 * has no place, is taken for generation_config.json. Hyper-parameters that are accepted hold what
 * hparams.h promises; a key that is set or removed changes nothing else of the document. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "io/config_text.h"
#include "model/arch.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) abort();                                                                 \
    } while (0)

static void check_rope(const nib_hparams *h) {
    float inv_freq[512]; /* of the widest head */
    for (int64_t length = 1; length <= 1 << 20; length <<= 20) {
        nib_rope_inv_freq(&h->rope, h->head_dim, length, inv_freq);
        for (int j = 0; j < h->head_dim / 2; j++) MUST(isfinite(inv_freq[j]) && inv_freq[j] >= 0);
    }
}

static void check_hparams(const nib_arch *arch, const json_t *config, const json_t *generation) {
    static nib_hparams h; /* 4 KiB: not on the stack of each run */
    const nib_status status = arch->read(config, generation, &h);
    if (status != NIB_OK) {
        MUST(status == NIB_E_FORMAT || status == NIB_E_UNSUPPORTED);
        MUST(nib_last_error()->status == status);
        return;
    }
    MUST(h.vocab_size > 0 && h.hidden_size > 0 && h.intermediate_size > 0);
    MUST(h.num_hidden_layers > 0 && h.num_hidden_layers <= NIB_MAX_LAYERS);
    MUST(h.num_key_value_heads > 0 && h.num_attention_heads % h.num_key_value_heads == 0);
    MUST(h.head_dim > 0 && h.head_dim <= NIB_MAX_HEAD);
    MUST(h.max_position_embeddings > 0 && h.window >= 0);
    MUST(h.rms_norm_eps >= 0 && h.rms_norm_eps <= 1);
    MUST(h.neos >= 0 && h.neos <= NIB_MAX_EOS);
    for (int i = 0; i < h.neos; i++) MUST(h.eos[i] >= 0 && h.eos[i] < h.vocab_size);
    MUST(h.bos >= -1 && h.bos < h.vocab_size);
    MUST(h.layer_norm_eps >= 0 && h.layer_norm_eps <= 1);
    MUST(h.learned_positions >= 0 && h.word_embed_proj_dim >= 0);
    if (strcmp(arch->name, "llama") != 0) return;
    MUST(h.head_dim % 2 == 0);
    check_rope(&h);
}

/* By every architecture, whatever its model_type says. */
static void check_all_hparams(const json_t *config, const json_t *generation) {
    for (size_t i = 0; nib_arch_at(i); i++) check_hparams(nib_arch_at(i), config, generation);
}

/* The text says what the document says, its keys in the same order. */
static void check_says(const char *text, const json_t *document) {
    MUST(text);
    json_t *read = nib_json_parse(text, strlen(text), NULL, 0);
    MUST(read);
    char *got = json_dumps(read, JSON_COMPACT), *want = json_dumps(document, JSON_COMPACT);
    MUST(got && want && strcmp(got, want) == 0);
    free(got);
    free(want);
    json_decref(read);
}

static void check_set(const char *text, size_t length, const json_t *document, const char *key) {
    json_t *want = json_copy((json_t *)(uintptr_t)document);
    json_t *value = json_pack("{s:s, s:[f, i]}", "quant_method", "nibble", "n", 1e-5, 4);
    MUST(want && value && json_object_set(want, key, value) == 0);
    char *changed = nib_config_text_set(NULL, text, length, key, value, NULL);
    check_says(changed, want);

    json_object_del(want, key);
    char *removed = nib_config_text_set(NULL, changed, strlen(changed), key, NULL, NULL);
    check_says(removed, want);
    nib_mem_strfree(NULL, changed);
    nib_mem_strfree(NULL, removed);
    json_decref(value);
    json_decref(want);
}

static void check_text(const char *text, size_t length, json_t *document) {
    const char *key, *first = NULL, *last = NULL;
    json_t *value;
    json_object_foreach(document, key, value) {
        if (!first) first = key;
        last = key;
    }
    check_set(text, length, document, "quantization_config");
    if (first) check_set(text, length, document, first);
    if (last != first) check_set(text, length, document, last);
    char *dumped = nib_config_text_dump(NULL, document);
    check_says(dumped, document);
    nib_mem_strfree(NULL, dumped);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    const char *feed = size ? memchr(text, '\f', size) : NULL;
    const size_t length = feed ? (size_t)(feed - text) : size;
    json_t *config = nib_json_parse(text, length, "fuzz", 0), *generation = NULL;
    if (!config) {
        MUST(nib_last_error()->status == NIB_E_FORMAT);
        MUST(strcmp(nib_last_error()->path, "fuzz") == 0);
        MUST(nib_last_error()->offset >= 0 && nib_last_error()->offset <= (int64_t)length);
    }
    if (feed) generation = nib_json_parse(feed + 1, size - length - 1, "fuzz", 0);
    if (json_is_object(config)) { /* both readers of the file refuse anything else */
        check_all_hparams(config, NULL);
        if (json_is_object(generation)) check_all_hparams(config, generation);
        check_text(text, length, config);
    } else {
        MUST(!nib_config_text_set(NULL, text, length, "quantization_config", NULL, "fuzz"));
        MUST(nib_last_error()->status == NIB_E_FORMAT);
    }
    json_decref(config);
    json_decref(generation);
    MUST(nib_mem_used(NULL) == 0);
    return 0;
}
