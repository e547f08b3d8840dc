/* golden_model.h: what the tests of models share: the cases of tests/golden/model, and logits of
 * sessions. */
#ifndef NIB_TESTS_GOLDEN_MODEL_H
#define NIB_TESTS_GOLDEN_MODEL_H
#include "io/safetensors.h"
#include "test.h"

#define GOLDEN "tests/golden/model/"
static const char *const golden_cases[] = {
    "llama_mha_f32",
    "llama_gqa_bf16",
    "llama_mqa_f16",
    "llama_tied_as_embed",
    "llama_tied_as_head",
    "llama_tied_as_both",
    "llama_attention_bias",
    "llama_mlp_bias",
    "llama_head_dim",
    "llama_head_size_odd_half",
    "llama_rope_linear",
    "llama_rope_linear_new",
    "llama_rope_dynamic",
    "llama_rope_dynamic_grows",
    "llama_rope_llama3",
    "llama_rope_llama3_new",
    "llama_sharded",
    "mistral_window",
    "mistral_no_window",
    "qwen2_bias",
    "qwen2_window_from_layer",
    "qwen2_layer_types",
    "qwen3_qk_norm",
    "qwen3_bias_tied",
    "qwen3_window",
    "opt_norm_before",
    "opt_norm_after_projected",
    "opt_no_last_norm_untied",
    "opt_no_bias_bare_norms",
    "opt_trunk_names",
    "gpt2_trunk_names",
    "gpt2_inner",
    "gpt2_by_layer_upcast",
    "gpt2_unscaled_untied",
    "bloom_trunk_names",
    "bloom_six_heads",
    "bloom_residual_after_norm",
    "bloom_old_spelling_untied",
};
enum { GOLDEN_CASES = sizeof golden_cases / sizeof *golden_cases, GOLDEN_MOST = 64 };

typedef struct golden {
    char folder[256];
    int32_t prompt[GOLDEN_MOST], greedy[GOLDEN_MOST];
    size_t nprompt, ngreedy, vocab;
    float *logits; /* [nprompt, vocab] */
} golden;

static inline size_t golden_ids(const nib_safetensors *file, const char *name, int32_t *out) {
    const nib_safetensors_entry *entry = nib_safetensors_find(file, name);
    int64_t ids[GOLDEN_MOST];
    if (!entry || entry->size > sizeof ids ||
        nib_safetensors_read(file, entry, ids, entry->size, 0))
        return 0;
    for (size_t i = 0; i < entry->size / sizeof *ids; i++) out[i] = (int32_t)ids[i];
    return entry->size / sizeof *ids;
}

static inline bool golden_open(const char *name, golden *g) {
    char path[300];
    snprintf(g->folder, sizeof g->folder, GOLDEN "%s", name);
    snprintf(path, sizeof path, "%s/reference.safetensors", g->folder);
    nib_safetensors *file = nib_safetensors_open(NULL, path);
    const nib_safetensors_entry *entry = file ? nib_safetensors_find(file, "logits") : NULL;
    g->logits = NULL;
    if (entry) {
        g->nprompt = golden_ids(file, "input_ids", g->prompt);
        g->ngreedy = golden_ids(file, "greedy", g->greedy);
        g->vocab = (size_t)entry->shape.dim[1];
        g->logits = malloc(entry->size);
        if (nib_safetensors_read(file, entry, g->logits, entry->size, 0) < NIB_OK) g->nprompt = 0;
    }
    nib_safetensors_close(file);
    return g->logits && g->nprompt && g->ngreedy;
}
static inline void golden_close(golden *g) { free(g->logits); }
#endif
