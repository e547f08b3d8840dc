/* hparams.h: what config.json and generation_config.json of a decoder say, checked and complete. */
#ifndef NIB_MODEL_HPARAMS_H
#define NIB_MODEL_HPARAMS_H
#include <jansson.h>
#include <nibble/extend.h>

#include "model/picture.h"
#include "model/rope.h"
#include "model/speech.h"

enum { NIB_MAX_LAYERS = 1024, NIB_MAX_EOS = 32, NIB_MAX_HEAD = 1024 /* columns */ };

typedef enum nib_activation {
    NIB_ACTIVATION_RELU = 0,
    NIB_ACTIVATION_GELU,      /* by erf */
    NIB_ACTIVATION_GELU_TANH, /* by tanh */
    NIB_ACTIVATION_SILU,
} nib_activation;

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
    /* OPT, BLOOM and GPT-2; fields under the name that says most. */
    nib_activation activation;
    float layer_norm_eps;
    int word_embed_proj_dim;   /* OPT: columns of the embedding */
    bool do_layer_norm_before; /* OPT: norms before attention and MLP, not after them */
    bool final_layer_norm;     /* OPT: one after all layers */
    bool layer_norm_elementwise_affine, enable_bias;          /* OPT */
    bool apply_residual_connection_post_layernorm;            /* BLOOM */
    bool scale_attn_weights, scale_attn_by_inverse_layer_idx; /* GPT-2 */
    nib_speech speech;                                        /* Whisper */
    nib_picture picture;      /* of models that see; vocab_size is their num_labels */
    const json_t *layers;     /* of sequential, borrowed from config.json while it is loaded */
    int learned_positions;    /* rows of that table: no sequence can be longer; 0: there is none */
    int32_t eos[NIB_MAX_EOS]; /* any of these ends a sequence */
    int neos;
    int32_t bos; /* -1: none */
} nib_hparams;

/* For architectures with fields of their own: numbers and switches by their key in config.json. A
 * count without a fallback must be there. `names`, ended by NULL: other keys that stand for it. */
#define NIB_COUNT(key, member, ...)                                                                \
    {                                                                                              \
        .name = key, .offset = offsetof(nib_hparams, member), .type = NIB_FIELD_INT, .min = 1,     \
        .max = 1 << 24, __VA_ARGS__                                                                \
    }
#define NIB_SWITCH(key, member, ...)                                                               \
    { .name = key, .offset = offsetof(nib_hparams, member), .type = NIB_FIELD_BOOL, __VA_ARGS__ }
#define NIB_EPSILON(key, member, ...)                                                              \
    {                                                                                              \
        .name = key, .offset = offsetof(nib_hparams, member), .type = NIB_FIELD_FLOAT, .max = 1.0, \
        __VA_ARGS__                                                                                \
    }
nib_status nib_hparams_begin(const json_t *config, nib_hparams *out); /* zeroes it; model_type */
nib_status nib_hparams_fields(const json_t *config, const nib_field *fields, size_t count,
                              nib_hparams *out);
nib_status nib_hparams_switch(const json_t *config, const char *key, bool fallback, bool *value);
nib_status nib_hparams_activation(const json_t *config, const char *key, const char *fallback,
                                  nib_activation *out);
/* Heads of one width that fill hidden_size, as many of keys as of queries. */
nib_status nib_hparams_heads(nib_hparams *h, const char *width, const char *heads);
/* Ends and begin of a sequence: `bos`, `eos` where config.json has none; -1: none. */
nib_status nib_hparams_ids(const json_t *config, const json_t *generation, int32_t bos, int32_t eos,
                           nib_hparams *h);

/* The Llama family: from a config.json that was parsed, and generation_config.json or NULL, whose
 * list of ends replaces that of config.json. Both spellings of rope_scaling and rope_parameters are
 * read. Fails: NIB_E_FORMAT for a field that is missing, out of range or contradicts another;
 * NIB_E_UNSUPPORTED for a kind of RoPE, activation or the like that is not known. The message
 * names the key; the caller adds the path. */
nib_status nib_hparams_read(const json_t *config, const json_t *generation, nib_hparams *out);
#endif
