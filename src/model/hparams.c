/* hparams.c: config.json to hyper-parameters. Defaults are those of the configuration classes of
 * transformers, for those keys that published folders do leave out. */
#include "model/hparams.h"

#include <math.h>
#include <nibble/extend.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"

enum { MOST = 1 << 24 }; /* of any count: products of two stay within int64 */

/* A fallback of 0 means that the field must be there; sizes agree with the tensors or loading
 * fails. */
#define COUNT(field, ...)                                                                          \
    NIB_FIELD(nib_hparams, field, .type = NIB_FIELD_INT, .min = 1, .max = MOST, __VA_ARGS__)
#define SWITCH(field, ...) NIB_FIELD(nib_hparams, field, .type = NIB_FIELD_BOOL, __VA_ARGS__)
static const nib_field fields[] = {
    COUNT(vocab_size, .doc = "tokens of the vocabulary"),
    COUNT(hidden_size, .doc = "width of the residual stream"),
    COUNT(intermediate_size, .doc = "width inside the gated half"),
    COUNT(num_hidden_layers, .doc = "decoder layers"),
    COUNT(num_attention_heads, .doc = "query heads"),
    COUNT(num_key_value_heads, .fallback = -1,
          .doc = "key and value heads; as many as query heads"),
    COUNT(head_dim, .fallback = -1, .doc = "columns of a head; hidden_size / num_attention_heads"),
    COUNT(max_position_embeddings, .fallback = 2048, .doc = "tokens that the model was made for"),
    NIB_FIELD(nib_hparams, rms_norm_eps, .type = NIB_FIELD_FLOAT, .fallback = 1e-6, .max = 1.0,
              .doc = "added to the mean square"),
    SWITCH(tie_word_embeddings, .doc = "the output head is the embedding"),
    SWITCH(attention_bias, .doc = "projections of attention have biases"),
    SWITCH(mlp_bias, .doc = "projections of the gated half have biases"),
    SWITCH(use_sliding_window, .doc = "Qwen: some layers see a window only"),
    NIB_FIELD(nib_hparams, max_window_layers, .type = NIB_FIELD_INT, .fallback = 28, .max = MOST,
              .doc = "Qwen: layers from this one on see the window"),
};

/* The key under which config.json has a field. */
static const char *key_of(const json_t *config, const nib_field *f) {
    for (const char *const *other = f->names; other && *other; other++)
        if (!json_object_get(config, f->name) && json_object_get(config, *other)) return *other;
    return f->name;
}

static nib_status read_field(const json_t *config, const nib_field *f, nib_hparams *out) {
    char *at = (char *)out + f->offset;
    const char *key = key_of(config, f);
    if (f->type == NIB_FIELD_BOOL)
        return nib_hparams_switch(config, key, f->fallback != 0, (bool *)(void *)at);
    if (f->type == NIB_FIELD_INT) {
        int64_t value = (int64_t)f->fallback;
        if (f->fallback != 0 && json_is_null(json_object_get(config, key)))
            ; /* as good as absent */
        else
            NIB_TRY(nib_json_int(config, key, (int64_t)f->min, (int64_t)f->max, f->fallback == 0,
                                 &value));
        *(int *)(void *)at = (int)value;
        return NIB_OK;
    }
    double value = f->fallback;
    NIB_TRY(nib_json_double(config, key, false, &value));
    if (!(value >= f->min && value <= f->max))
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is %g, which is not from %g to %g", key, value,
                         f->min, f->max);
    *(float *)(void *)at = (float)value;
    return NIB_OK;
}

nib_status nib_hparams_begin(const json_t *config, nib_hparams *out) {
    memset(out, 0, sizeof *out);
    const char *type;
    NIB_TRY(nib_json_string(config, "model_type", true, &type));
    if (strlen(type) >= sizeof out->model_type)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "\"model_type\" of %zu bytes is not known",
                         strlen(type));
    memcpy(out->model_type, type, strlen(type) + 1);
    return NIB_OK;
}

nib_status nib_hparams_fields(const json_t *config, const nib_field *list, size_t count,
                              nib_hparams *out) {
    for (size_t i = 0; i < count; i++) NIB_TRY(read_field(config, &list[i], out));
    return NIB_OK;
}

nib_status nib_hparams_switch(const json_t *config, const char *key, bool fallback, bool *value) {
    *value = fallback;
    if (json_is_null(json_object_get(config, key))) return NIB_OK;
    return nib_json_bool(config, key, false, value);
}

/* Names of transformers' table of activations that mean the same function of a float. */
nib_status nib_hparams_activation(const json_t *config, const char *key, const char *fallback,
                                  nib_activation *out) {
    static const struct {
        const char *name;
        nib_activation kind;
    } known[] = {
        {"relu", NIB_ACTIVATION_RELU},           {"gelu", NIB_ACTIVATION_GELU},
        {"gelu_python", NIB_ACTIVATION_GELU},    {"gelu_new", NIB_ACTIVATION_GELU_TANH},
        {"gelu_fast", NIB_ACTIVATION_GELU_TANH}, {"gelu_pytorch_tanh", NIB_ACTIVATION_GELU_TANH},
        {"silu", NIB_ACTIVATION_SILU},           {"swish", NIB_ACTIVATION_SILU}};
    const char *name = fallback;
    NIB_TRY(nib_json_string(config, key, false, &name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) != 0) continue;
        *out = known[i].kind;
        return NIB_OK;
    }
    return NIB_RAISE(NIB_E_UNSUPPORTED,
                     "\"%s\" is \"%s\"; known are relu, gelu, gelu_new, gelu_fast, "
                     "gelu_pytorch_tanh and silu",
                     key, name);
}

static nib_status check_layers(const nib_hparams *h, const char *key) {
    if (h->num_hidden_layers > NIB_MAX_LAYERS)
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is %d, want at most %d", key, h->num_hidden_layers,
                         NIB_MAX_LAYERS);
    return NIB_OK;
}

nib_status nib_hparams_heads(nib_hparams *h, const char *width, const char *heads) {
    if (h->hidden_size % h->num_attention_heads != 0)
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is %d, no multiple of \"%s\", %d", width,
                         h->hidden_size, heads, h->num_attention_heads);
    h->num_key_value_heads = h->num_attention_heads;
    h->head_dim = h->hidden_size / h->num_attention_heads;
    if (h->head_dim > NIB_MAX_HEAD)
        return NIB_RAISE(NIB_E_FORMAT, "heads of %d columns; want at most %d", h->head_dim,
                         NIB_MAX_HEAD);
    return check_layers(h, "num_hidden_layers");
}

static nib_status read_heads(nib_hparams *h) {
    if (h->num_key_value_heads < 0) h->num_key_value_heads = h->num_attention_heads;
    if (h->num_attention_heads % h->num_key_value_heads != 0)
        return NIB_RAISE(NIB_E_FORMAT,
                         "\"num_attention_heads\" is %d, no multiple of "
                         "\"num_key_value_heads\", %d",
                         h->num_attention_heads, h->num_key_value_heads);
    if (h->head_dim < 0) {
        if (h->hidden_size % h->num_attention_heads != 0)
            return NIB_RAISE(NIB_E_FORMAT,
                             "\"hidden_size\" is %d, no multiple of "
                             "\"num_attention_heads\", %d, and there is no \"head_dim\"",
                             h->hidden_size, h->num_attention_heads);
        h->head_dim = h->hidden_size / h->num_attention_heads;
    }
    if (h->head_dim % 2 != 0 || h->head_dim > NIB_MAX_HEAD)
        return NIB_RAISE(NIB_E_FORMAT, "\"head_dim\" is %d, want an even number up to %d",
                         h->head_dim, NIB_MAX_HEAD);
    return check_layers(h, "num_hidden_layers");
}

/* A number of the RoPE entry that must be positive. */
static nib_status positive(const json_t *rope, const char *key, bool required, double *value) {
    NIB_TRY(nib_json_double(rope, key, required, value));
    if (!(*value > 0 && *value < 1e12))
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is %g, want a positive number", key, *value);
    return NIB_OK;
}

static nib_status read_rope(const json_t *config, nib_hparams *h) {
    nib_rope_params *p = &h->rope;
    p->theta = 10000;
    p->factor = 1;
    p->max_positions = h->max_position_embeddings;
    NIB_TRY(positive(config, "rope_theta", false, &p->theta));
    json_t *rope = NULL, *scaling = NULL;
    NIB_TRY(nib_json_object(config, "rope_parameters", false, &rope));
    NIB_TRY(nib_json_object(config, "rope_scaling", false, &scaling));
    if (scaling && json_object_size(scaling)) rope = scaling;
    double partial = 1;
    NIB_TRY(nib_json_double(config, "partial_rotary_factor", false, &partial));
    if (rope) {
        const char *kind = "default";
        NIB_TRY(nib_json_string(rope, "type", false, &kind));
        NIB_TRY(nib_json_string(rope, "rope_type", false, &kind));
        if (!nib_rope_kind_from_name(kind, &p->kind))
            return NIB_RAISE(NIB_E_UNSUPPORTED,
                             "rope type \"%s\" is not known; known are default, "
                             "linear, dynamic and llama3",
                             kind);
        NIB_TRY(positive(rope, "rope_theta", false, &p->theta));
        NIB_TRY(nib_json_double(rope, "partial_rotary_factor", false, &partial));
        if (p->kind == NIB_ROPE_DEFAULT && json_is_object(json_object_get(rope, "full_attention")))
            return NIB_RAISE(NIB_E_UNSUPPORTED, "\"rope_parameters\" differ by type of layer");
        if (p->kind != NIB_ROPE_DEFAULT) NIB_TRY(positive(rope, "factor", true, &p->factor));
        if (p->kind == NIB_ROPE_LLAMA3) {
            p->original_positions = h->max_position_embeddings;
            NIB_TRY(positive(rope, "low_freq_factor", true, &p->low_freq_factor));
            NIB_TRY(positive(rope, "high_freq_factor", true, &p->high_freq_factor));
            NIB_TRY(
                positive(rope, "original_max_position_embeddings", false, &p->original_positions));
            NIB_TRY(positive(config, "original_max_position_embeddings", false,
                             &p->original_positions));
            if (p->high_freq_factor <= p->low_freq_factor)
                return NIB_RAISE(NIB_E_FORMAT,
                                 "\"high_freq_factor\" %g is not over "
                                 "\"low_freq_factor\" %g",
                                 p->high_freq_factor, p->low_freq_factor);
        }
        if (p->kind == NIB_ROPE_DYNAMIC && (h->head_dim <= 2 || p->factor < 1))
            return NIB_RAISE(NIB_E_FORMAT,
                             "dynamic RoPE wants a \"factor\" of at least 1 and heads "
                             "of more than 2 columns; they are %g and %d",
                             p->factor, h->head_dim);
    }
    if (partial != 1)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "\"partial_rotary_factor\" is %g; only whole heads are "
                         "rotated here",
                         partial);
    return NIB_OK;
}

/* Which layers see a window only: all of Mistral's, and those of Qwen that layer_types names or
 * that follow max_window_layers. */
static nib_status read_window(const json_t *config, nib_hparams *h, bool mistral, bool qwen) {
    if (!mistral && !(qwen && h->use_sliding_window)) {
        json_t *types = NULL;
        if (qwen) NIB_TRY(nib_json_array(config, "layer_types", false, &types));
        for (size_t i = 0; types && i < json_array_size(types); i++) {
            const char *type = json_string_value(json_array_get(types, i));
            if (type && strcmp(type, "full_attention") != 0)
                return NIB_RAISE(NIB_E_FORMAT,
                                 "\"layer_types\" has \"%s\" at %zu but "
                                 "\"use_sliding_window\" is false",
                                 type, i);
        }
        return NIB_OK;
    }
    if (json_is_null(json_object_get(config, "sliding_window"))) return NIB_OK;
    h->window = 4096; /* of the configuration classes */
    NIB_TRY(nib_json_int(config, "sliding_window", 1, MOST, false, &h->window));
    json_t *types = NULL;
    if (qwen) NIB_TRY(nib_json_array(config, "layer_types", false, &types));
    if (types && json_array_size(types) != (size_t)h->num_hidden_layers)
        return NIB_RAISE(NIB_E_FORMAT, "\"layer_types\" has %zu entries for %d layers",
                         json_array_size(types), h->num_hidden_layers);
    for (int i = 0; i < h->num_hidden_layers; i++) {
        const char *type = types ? json_string_value(json_array_get(types, (size_t)i)) : NULL;
        h->sliding[i] = mistral || i >= h->max_window_layers;
        if (!types) continue;
        h->sliding[i] = type && strcmp(type, "sliding_attention") == 0;
        if (!type || (!h->sliding[i] && strcmp(type, "full_attention") != 0))
            return NIB_RAISE(NIB_E_UNSUPPORTED,
                             "\"layer_types\" has \"%s\" at %d; known are "
                             "full_attention and sliding_attention",
                             type ? type : "?", i);
    }
    return NIB_OK;
}

static nib_status token_id(const json_t *value, const char *key, const nib_hparams *h,
                           int32_t *id) {
    if (!json_is_integer(value))
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is neither an id nor a list of ids", key);
    const json_int_t given = json_integer_value(value);
    if (given < 0 || given >= h->vocab_size)
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is %lld, the vocabulary has %d tokens", key,
                         (long long)given, h->vocab_size);
    *id = (int32_t)given;
    return NIB_OK;
}

/* One id, a list of them, or null; -1 counts as none, as some folders write it. */
static nib_status read_eos(const json_t *config, nib_hparams *h) {
    const json_t *eos = config ? json_object_get(config, "eos_token_id") : NULL;
    if (!eos || json_is_null(eos)) return NIB_OK;
    h->neos = 0;
    if (json_is_integer(eos) && json_integer_value(eos) == -1) return NIB_OK;
    const size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    if (n > NIB_MAX_EOS)
        return NIB_RAISE(NIB_E_FORMAT, "\"eos_token_id\" lists %zu ids, want at most %d", n,
                         NIB_MAX_EOS);
    for (size_t i = 0; i < n; i++)
        NIB_TRY(token_id(json_is_array(eos) ? json_array_get(eos, i) : eos, "eos_token_id", h,
                         &h->eos[h->neos++]));
    return NIB_OK;
}

static nib_status read_bos(const json_t *config, nib_hparams *h) {
    const json_t *bos = json_object_get(config, "bos_token_id");
    h->bos = -1;
    if (!bos || json_is_null(bos) || (json_is_integer(bos) && json_integer_value(bos) == -1))
        return NIB_OK;
    return token_id(bos, "bos_token_id", h, &h->bos);
}

nib_status nib_hparams_ids(const json_t *config, const json_t *generation, int32_t bos, int32_t eos,
                           nib_hparams *h) {
    NIB_TRY(read_bos(config, h));
    if (!json_object_get(config, "bos_token_id") && bos < h->vocab_size) h->bos = bos;
    if (!json_object_get(config, "eos_token_id") && eos >= 0 && eos < h->vocab_size)
        h->eos[h->neos++] = eos;
    NIB_TRY(read_eos(config, h));
    return read_eos(generation, h);
}

nib_status nib_hparams_read(const json_t *config, const json_t *generation, nib_hparams *out) {
    const char *activation = "silu";
    NIB_TRY(nib_hparams_begin(config, out));
    const char *type = out->model_type;
    NIB_TRY(nib_hparams_fields(config, fields, sizeof fields / sizeof *fields, out));
    NIB_TRY(nib_json_string(config, "hidden_act", false, &activation));
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "\"hidden_act\" is \"%s\"; known is silu", activation);
    const bool llama = strcmp(type, "llama") == 0, mistral = strcmp(type, "mistral") == 0;
    const bool qwen2 = strcmp(type, "qwen2") == 0, qwen3 = strcmp(type, "qwen3") == 0;
    if (qwen3 && out->head_dim < 0) out->head_dim = 128; /* of Qwen3Config */
    NIB_TRY(read_heads(out));
    NIB_TRY(read_rope(config, out));
    NIB_TRY(read_window(config, out, mistral, qwen2 || qwen3));
    NIB_TRY(nib_hparams_ids(config, generation, -1, -1, out));
    out->qkv_bias = qwen2 || ((llama || qwen3) && out->attention_bias);
    out->output_bias = (llama || qwen3) && out->attention_bias;
    out->mlp_bias = llama && out->mlp_bias;
    out->qk_norm = qwen3;
    return NIB_OK;
}
