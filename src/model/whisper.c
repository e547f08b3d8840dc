/* whisper.c: Whisper: an encoder of sound, and a decoder that reads it by cross attention.
 * Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022.
 *
 *   e = gelu(conv2(gelu(conv1(mel))))^T + embed(position)
 *   for each encoder layer:  e += attention(norm(e));  e += fc2(act(fc1(norm(e))))
 *   x = embed(token) + embed(position)
 *   for each decoder layer:  x += attention(norm(x));  x += cross_attention(norm(x), norm(e))
 *                            x += fc2(act(fc1(norm(x))))
 *   logits = head(norm(x))
 *
 * Legend: T rows of the encoder, half as many as frames; H heads of d columns. */
#include <math.h>
#include <stdio.h>

#include "base/error.h"
#include "model/decoder.h"
#include "op/calls.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { MOST_BANDS = 128 /* of nib_log_mel */, MOST_ROWS = 1 << 20 /* almost six hours */ };
#define LAYER_NORM_EPS 1e-5 /* of torch's LayerNorm: config.json has no word for it */

/* ---- config.json ---- */

/* "scale_embedding" is there, but the models of transformers do not look at it. */
static const nib_field fields[] = {
    NIB_COUNT("vocab_size", vocab_size, .doc = "tokens of the vocabulary"),
    NIB_COUNT("d_model", hidden_size, .doc = "width of both residual streams"),
    NIB_COUNT("decoder_ffn_dim", intermediate_size, .doc = "width inside the decoder's MLP"),
    NIB_COUNT("decoder_layers", num_hidden_layers, .doc = "decoder layers"),
    NIB_COUNT("decoder_attention_heads", num_attention_heads, .doc = "heads of the decoder"),
    NIB_COUNT("max_target_positions", max_position_embeddings, .fallback = 448,
              .doc = "ids of a window"),
    NIB_COUNT("encoder_layers", speech.encoder_layers, .doc = "encoder layers"),
    NIB_COUNT("encoder_attention_heads", speech.encoder_attention_heads,
              .doc = "heads of the encoder"),
    NIB_COUNT("encoder_ffn_dim", speech.encoder_ffn_dim, .doc = "width inside the encoder's MLP"),
    NIB_COUNT("num_mel_bins", speech.num_mel_bins, .fallback = 80, .doc = "bands of a sound"),
    NIB_COUNT("max_source_positions", speech.max_source_positions, .fallback = 1500,
              .doc = "rows of the encoder"),
    NIB_SWITCH("tie_word_embeddings", tie_word_embeddings, .fallback = 1,
               .doc = "the output head is the embedding"),
};

static nib_status read(const json_t *config, const json_t *generation, nib_hparams *h) {
    NIB_TRY(nib_hparams_begin(config, h));
    NIB_TRY(nib_hparams_fields(config, fields, sizeof fields / sizeof *fields, h));
    NIB_TRY(nib_hparams_heads(h, "d_model", "decoder_attention_heads"));
    NIB_TRY(nib_hparams_activation(config, "activation_function", "gelu", &h->activation));
    const nib_speech *s = &h->speech;
    if (h->hidden_size % s->encoder_attention_heads != 0)
        return NIB_RAISE(NIB_E_FORMAT,
                         "\"d_model\" is %d, no multiple of \"encoder_attention_heads\", %d",
                         h->hidden_size, s->encoder_attention_heads);
    if (s->num_mel_bins > MOST_BANDS || s->max_source_positions > MOST_ROWS)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "\"num_mel_bins\" is %d, \"max_source_positions\" is %d; want at most %d "
                         "and %d",
                         s->num_mel_bins, s->max_source_positions, MOST_BANDS, MOST_ROWS);
    if (s->encoder_layers > NIB_MAX_LAYERS)
        return NIB_RAISE(NIB_E_FORMAT, "\"encoder_layers\" is %d, want at most %d",
                         s->encoder_layers, NIB_MAX_LAYERS);
    h->learned_positions = h->max_position_embeddings;
    NIB_TRY(nib_hparams_ids(config, generation, 50257, 50256, h));
    return nib_speech_read(config, generation, h->vocab_size, &h->speech);
}

/* ---- building ---- */

static nib_status add_norm(const nib_builder *b, nib_module *parent, const char *at,
                           const char *name) {
    return nib_build_layer_norm(b, parent, at, name, b->h->hidden_size, true, LAYER_NORM_EPS);
}

static nib_status add_attention(const nib_builder *b, nib_module *layer, const char *at,
                                const char *name) {
    static const char *const projections[] = {"k_proj", "v_proj", "q_proj", "out_proj"};
    const int64_t D = b->h->hidden_size;
    char path[NIB_NAME_ROOM];
    nib_build_path(path, at, name);
    nib_module *attention = nib_build_holder(b->ctx, layer, name, &nib_kind_attention);
    if (!attention) return nib_last_error()->status;
    for (int k = 0; k < 4; k++)
        NIB_TRY(nib_build_linear(b, attention, path, projections[k], D, D, k > 0));
    return NIB_OK;
}

static nib_status add_layer(const nib_builder *b, nib_module *layer, const char *at, int64_t F,
                            bool crosses) {
    const int64_t D = b->h->hidden_size;
    NIB_TRY(add_attention(b, layer, at, "self_attn"));
    NIB_TRY(add_norm(b, layer, at, "self_attn_layer_norm"));
    if (crosses) {
        NIB_TRY(add_attention(b, layer, at, "encoder_attn"));
        NIB_TRY(add_norm(b, layer, at, "encoder_attn_layer_norm"));
    }
    NIB_TRY(nib_build_linear(b, layer, at, "fc1", F, D, true));
    NIB_TRY(nib_build_linear(b, layer, at, "fc2", D, F, true));
    return add_norm(b, layer, at, "final_layer_norm");
}

static nib_status add_decoder_layer(const nib_builder *b, nib_module *layer, const char *at) {
    return add_layer(b, layer, at, b->h->intermediate_size, true);
}

static nib_status add_encoder_layer(const nib_builder *b, nib_module *layer, const char *at) {
    return add_layer(b, layer, at, b->h->speech.encoder_ffn_dim, false);
}

static nib_status add_trunk(const nib_builder *b, nib_module *trunk, const char *prefix) {
    const nib_hparams *h = b->h;
    NIB_TRY(nib_build_embedding(b, trunk, prefix, "embed_positions", h->max_position_embeddings,
                                h->hidden_size));
    NIB_TRY(nib_build_layers(b, trunk, prefix, "layers", h->num_hidden_layers, add_decoder_layer));
    return add_norm(b, trunk, prefix, "layer_norm");
}

static nib_status add_conv(const nib_builder *b, nib_module *encoder, const char *at,
                           const char *name, int64_t in, int64_t stride) {
    const int64_t D = b->h->hidden_size;
    char module[NIB_NAME_ROOM], path[NIB_NAME_ROOM];
    nib_build_path(module, at, name);
    nib_tensor *w =
        nib_build_tensor(b, nib_build_path(path, module, "weight"), (nib_shape){3, {D, in, 3}});
    if (!w) return nib_last_error()->status;
    nib_tensor *bias = nib_build_weight(b, nib_build_path(path, module, "bias"), D, 0);
    if (!bias) {
        nib_tensor_free(w);
        return nib_last_error()->status;
    }
    return nib_module_add(
        encoder, name,
        nib_conv1d_new(b->ctx, w, bias, &(nib_conv_options){.stride = {stride}, .padding = {1}}));
}

static nib_status add_encoder(const nib_builder *b, nib_module *encoder, const char *at) {
    const nib_hparams *h = b->h;
    const nib_speech *s = &h->speech;
    char beyond[NIB_NAME_ROOM], name[64];
    snprintf(name, sizeof name, "layers.%d.fc1.weight", s->encoder_layers);
    if (nib_weights_has(b->weights, nib_build_path(beyond, at, name))) {
        NIB_RAISE(NIB_E_FORMAT, "there is a tensor %s but \"encoder_layers\" is %d", beyond,
                  s->encoder_layers);
        return nib_weights_error_at(b->weights, beyond);
    }
    NIB_TRY(add_conv(b, encoder, at, "conv1", s->num_mel_bins, 1));
    NIB_TRY(add_conv(b, encoder, at, "conv2", h->hidden_size, NIB_FRAMES_A_STEP));
    NIB_TRY(nib_build_embedding(b, encoder, at, "embed_positions", s->max_source_positions,
                                h->hidden_size));
    NIB_TRY(nib_build_layers(b, encoder, at, "layers", s->encoder_layers, add_encoder_layer));
    return add_norm(b, encoder, at, "layer_norm");
}

/* Of WhisperForConditionalGeneration, and of WhisperModel. */
static const char *const prefixes[] = {"model.decoder", "decoder", NULL};
static const char *const encoders[] = {"model.encoder", "encoder", NULL};

static nib_module *build(nib_ctx *ctx, const nib_hparams *h, nib_weights *weights) {
    const nib_builder b = {ctx, h, weights};
    nib_module *root = nib_build_causal_lm(&b, &(nib_trunk){.prefixes = prefixes,
                                                            .table = "embed_tokens",
                                                            .columns = h->hidden_size,
                                                            .layers = "layers",
                                                            .of_layer = "fc1.weight",
                                                            .head = "proj_out",
                                                            .add = add_trunk});
    if (!root) return NULL;
    nib_module *model = nib_module_child(root, "model");
    nib_module *encoder = nib_build_holder(ctx, model ? model : root, "encoder", &nib_kind_decoder);
    if (encoder && add_encoder(&b, encoder, encoders[model ? 0 : 1]) >= NIB_OK) return root;
    nib_module_free(root);
    return NULL;
}

/* ---- running the encoder ---- */

/* [T, H * d] -> [H, T, d] */
static nib_tensor *by_head(nib_tensor *x, int64_t heads) {
    if (!x) return NULL;
    const nib_shape split = {3, {x->shape.dim[0], heads, x->shape.dim[1] / heads}};
    return nib_permute(nib_reshape(x, &split), (int[]){1, 0, 2});
}

static nib_tensor *full_attention(const nib_hparams *h, nib_module *m, nib_tensor *x) {
    const int64_t heads = h->speech.encoder_attention_heads;
    if (!x) return NULL;
    nib_ctx *ctx = x->ctx;
    NIB_TRY_NULL(nib_modes_enter_module(ctx, m, &x));
    nib_tensor *q = by_head(nib_run_child(m, "q_proj", x), heads),
               *k = by_head(nib_run_child(m, "k_proj", x), heads),
               *v = by_head(nib_run_child(m, "v_proj", x), heads);
    nib_tensor *y = nib_permute(nib_scaled_dot_product_attention(q, k, v, NIB_NONE, false, 0),
                                (int[]){1, 0, 2});
    if (!y) return NULL;
    const nib_shape joined = {2, {y->shape.dim[0], h->hidden_size}};
    y = nib_run_child(m, "out_proj", nib_reshape(y, &joined));
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, m, &y));
    return y;
}

static nib_tensor *mlp(const nib_hparams *h, const nib_module *m, nib_tensor *x) {
    nib_tensor *y = nib_run_child(m, "fc1", nib_run_child(m, "final_layer_norm", x));
    return nib_add(x, nib_run_child(m, "fc2", nib_run_activation(h->activation, y)));
}

static nib_tensor *encoder_layer(const void *hparams, nib_module *m, int index, nib_tensor *x) {
    (void)index;
    const nib_hparams *h = hparams;
    nib_tensor *y = nib_run_child(m, "self_attn_layer_norm", x);
    return mlp(h, m, nib_add(x, full_attention(h, nib_module_child(m, "self_attn"), y)));
}

static nib_tensor *encode(const nib_hparams *h, nib_module *root, nib_tensor *mel) {
    if (!mel) return NULL;
    const int64_t T = h->speech.max_source_positions;
    nib_ctx *ctx = mel->ctx;
    if (mel->shape.ndim != 2 || mel->shape.dim[0] != h->speech.num_mel_bins ||
        mel->shape.dim[1] != T * NIB_FRAMES_A_STEP) {
        char text[96];
        return NIB_RAISE_NULL(NIB_E_SHAPE, "what was heard is %s; want [%d, %lld]",
                              nib_shape_text(&mel->shape, text, sizeof text),
                              h->speech.num_mel_bins, (long long)(T * NIB_FRAMES_A_STEP));
    }
    nib_module *encoder = nib_run_trunk(root, encoders, "conv1");
    NIB_TRY_NULL(nib_modes_enter_module(ctx, encoder, &mel));
    nib_tensor *x = nib_gelu(nib_run_child(encoder, "conv1", mel), false);
    x = nib_gelu(nib_run_child(encoder, "conv2", x), false);
    if (!x) return NULL;
    nib_tensor *positions = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_I32, (nib_shape){1, {T}}));
    if (!positions) return NULL;
    int32_t *position = nib_tensor_data_mut(positions);
    for (int64_t t = 0; t < T; t++) position[t] = (int32_t)t;
    x = nib_add(nib_transpose(x, 0, 1), nib_run_child(encoder, "embed_positions", positions));
    x = nib_run_layers(ctx, NULL, nib_module_child(encoder, "layers"), h->speech.encoder_layers,
                       encoder_layer, h, x);
    x = nib_run_child(encoder, "layer_norm", x);
    if (!x) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, encoder, &x));
    return x;
}

static nib_status hear(const nib_hparams *h, nib_module *root, nib_tensor *encoded,
                       nib_kvcache *heard) {
    if (!encoded) return nib_last_error()->status;
    const nib_module *layers =
        nib_module_child(nib_run_trunk(root, prefixes, "embed_tokens"), "layers");
    for (int i = 0; i < h->num_hidden_layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "%d.encoder_attn", i);
        const nib_module *m = nib_module_child(layers, name);
        const size_t mark = nib_scope_begin(encoded->ctx);
        nib_status status = nib_kv_append(heard->keys[i], nib_run_child(m, "k_proj", encoded), 0);
        if (status >= NIB_OK)
            status = nib_kv_append(heard->values[i], nib_run_child(m, "v_proj", encoded), 0);
        nib_scope_end(encoded->ctx, mark);
        NIB_TRY(status);
    }
    return NIB_OK;
}

/* ---- running the decoder ---- */

typedef struct step {
    const nib_hparams *h;
    const nib_batch *batch;
} step;

static nib_attending how(const nib_hparams *h, int layer) {
    return (nib_attending){.layer = layer,
                           .heads = h->num_attention_heads,
                           .scale = 1.0 / sqrt((double)h->head_dim),
                           .slopes = NIB_NONE};
}

/* Every row sees all of the sound: each by itself is the last one of what causal attention sees. */
static nib_tensor *look_up(const step *s, int layer, nib_tensor *q) {
    const nib_batch *b = s->batch;
    const nib_attending a = how(s->h, layer);
    const size_t size = (size_t)b->M * sizeof(nib_tensor *);
    if (!q) return NULL;
    nib_tensor **rows = nib_mem_alloc(nib_ctx_mem(b->ctx), size), *y = NULL;
    if (!rows) return NULL;
    int64_t m = 0;
    for (size_t i = 0; i < b->nsegments; i++) {
        const nib_kvcache *heard = b->segments[i].cache->heard;
        for (int64_t k = 0; k < b->segments[i].count; k++) {
            nib_tensor *row = nib_run_rows(b->ctx, q, m, 1);
            rows[m] = nib_attention(row, heard->keys[layer], heard->values[layer], a.heads,
                                    s->h->speech.max_source_positions - 1, 0, a.scale);
            if (!rows[m++]) goto done;
        }
    }
    y = nib_run_joined(rows, (size_t)m);
done:
    nib_mem_free(nib_ctx_mem(b->ctx), rows, size);
    return y;
}

static nib_tensor *attention(const step *s, nib_module *m, int layer, bool crosses, nib_tensor *x) {
    nib_ctx *ctx = s->batch->ctx;
    if (!x) return NULL;
    NIB_TRY_NULL(nib_modes_enter_module(ctx, m, &x));
    nib_tensor *q = nib_run_child(m, "q_proj", x), *y;
    if (crosses) {
        y = look_up(s, layer, q);
    } else {
        const nib_attending a = how(s->h, layer);
        nib_tensor *k = nib_run_child(m, "k_proj", x), *v = nib_run_child(m, "v_proj", x);
        y = nib_run_attention(s->batch, &a, q, k, v);
    }
    y = nib_run_child(m, "out_proj", y);
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, m, &y));
    return y;
}

static nib_tensor *decoder_layer(const void *step_, nib_module *m, int index, nib_tensor *x) {
    const step *s = step_;
    nib_tensor *y = nib_run_child(m, "self_attn_layer_norm", x);
    x = nib_add(x, attention(s, nib_module_child(m, "self_attn"), index, false, y));
    y = nib_run_child(m, "encoder_attn_layer_norm", x);
    x = nib_add(x, attention(s, nib_module_child(m, "encoder_attn"), index, true, y));
    return mlp(s->h, m, x);
}

static nib_status forward(const nib_hparams *h, nib_module *root, const nib_batch *b,
                          nib_tensor **logits) {
    const step s = {h, b};
    for (size_t i = 0; i < b->nsegments; i++)
        if (!b->segments[i].cache->heard)
            return NIB_RAISE(NIB_E_UNSUPPORTED, "this model goes on from a sound, not from text: "
                                                "see nib_transcribe, or nibble transcribe");
    nib_module *decoder = nib_run_trunk(root, prefixes, "embed_tokens");
    nib_tensor *x = nib_run_tokens(b);
    if (!x) return nib_last_error()->status;
    NIB_TRY(nib_modes_enter_module(b->ctx, decoder, &x));
    x = nib_run_child(decoder, "embed_tokens", x);
    x = nib_add(x, nib_run_learned(b, nib_module_child(decoder, "embed_positions"), 0));
    x = nib_run_layers(b->ctx, b->one, nib_module_child(decoder, "layers"), h->num_hidden_layers,
                       decoder_layer, &s, x);
    /* Of all rows, as modes that watch the norm see them elsewhere. */
    x = nib_run_child(decoder, "layer_norm", x);
    if (!x) return nib_last_error()->status;
    NIB_TRY(nib_modes_leave_module(b->ctx, decoder, &x));
    if (b->logits == NIB_WANT_NOTHING) return NIB_OK;
    *logits = nib_run_child(root, "proj_out", nib_run_wanted(b, x));
    return *logits ? NIB_OK : nib_last_error()->status;
}

static const char *const model_types[] = {"whisper", NULL};

const nib_arch nib_arch_whisper = {
    .name = "whisper",
    .doc = "Whisper",
    .model_types = model_types,
    .read = read,
    .build = build,
    .forward = forward,
    .encode = encode,
    .hear = hear,
};
