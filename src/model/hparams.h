/* hparams.h: what config.json and generation_config.json of a decoder say, checked and complete. */
#ifndef NIB_MODEL_HPARAMS_H
#define NIB_MODEL_HPARAMS_H
#include <jansson.h>
#include <nibble/nibble.h>

#include "model/rope.h"

enum { NIB_MAX_LAYERS = 1024, NIB_MAX_EOS = 32 };

typedef struct nib_hparams {
    char model_type[32]; /* "qwen2" */
    /* Fields of config.json under their own names; ranges are checked. */
    int vocab_size, hidden_size, intermediate_size, num_hidden_layers;
    int num_attention_heads, num_key_value_heads, head_dim, max_position_embeddings;
    float rms_norm_eps;
    bool tie_word_embeddings, attention_bias, mlp_bias, use_sliding_window;
    int max_window_layers;

    nib_rope_params rope;
    bool qkv_bias, output_bias; /* what attention_bias means for this model_type */
    bool qk_norm;
    int64_t window; /* tokens that a sliding layer sees, itself included; 0: all */
    bool sliding[NIB_MAX_LAYERS];
    int32_t eos[NIB_MAX_EOS]; /* any of these ends a sequence */
    int neos;
    int32_t bos; /* -1: none */
} nib_hparams;

/* From a config.json that was parsed, and generation_config.json or NULL, whose list of ends
 * replaces that of config.json. Both spellings of rope_scaling and rope_parameters are read.
 * Fails: NIB_E_FORMAT for a field that is missing, out of range or contradicts another;
 * NIB_E_UNSUPPORTED for a kind of RoPE, activation or the like that is not known. The message
 * names the key; the caller adds the path. */
nib_status nib_hparams_read(const json_t *config, const json_t *generation, nib_hparams *out);
#endif
