/* bloom.c: BLOOM: no positions but slopes that lean each head towards near tokens (ALiBi), query,
 * key and value of each head side by side in one projection, a LayerNorm on the embedding.
 * Scao et al., "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model", 2022.
 *
 *   x = norm(embed(token));  for each layer:  x += dense(attention(norm(x)));  x += mlp(norm(x))
 *   logits = head(norm(x))
 *
 * apply_residual_connection_post_layernorm: what is added to is norm(x), not x. */
#include <math.h>

#include "base/error.h"
#include "model/decoder.h"
#include "op/calls.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

/* ---- config.json ---- */

/* As published: n_embed or hidden_size, n_layer or num_hidden_layers, n_head or
 * num_attention_heads; the first is what transformers goes by where there are two. */
static const char *const width[] = {"hidden_size", NULL};
static const char *const layers[] = {"num_hidden_layers", NULL};
static const char *const heads[] = {"num_attention_heads", NULL};
static const nib_field fields[] = {
    NIB_COUNT("vocab_size", vocab_size, .doc = "tokens of the vocabulary"),
    NIB_COUNT("n_embed", hidden_size, .names = width, .doc = "width of the residual stream"),
    NIB_COUNT("n_layer", num_hidden_layers, .names = layers, .doc = "decoder layers"),
    NIB_COUNT("n_head", num_attention_heads, .names = heads, .doc = "heads"),
    NIB_COUNT("seq_length", max_position_embeddings, .fallback = 2048,
              .doc = "tokens that the model was made for"),
    NIB_EPSILON("layer_norm_epsilon", layer_norm_eps, .fallback = 1e-5),
    NIB_SWITCH("apply_residual_connection_post_layernorm", apply_residual_connection_post_layernorm,
               .doc = "norms are what is added to"),
    NIB_SWITCH("tie_word_embeddings", tie_word_embeddings, .fallback = 1,
               .doc = "the output head is the embedding"),
};

static nib_status read(const json_t *config, const json_t *generation, nib_hparams *h) {
    NIB_TRY(nib_hparams_begin(config, h));
    NIB_TRY(nib_hparams_fields(config, fields, sizeof fields / sizeof *fields, h));
    NIB_TRY(nib_hparams_heads(h, "hidden_size", "n_head"));
    h->intermediate_size = 4 * h->hidden_size;
    return nib_hparams_ids(config, generation, 1, 2, h);
}

/* ---- building ---- */

static nib_status add_norm(const nib_builder *b, nib_module *parent, const char *at,
                           const char *name) {
    return nib_build_layer_norm(b, parent, at, name, b->h->hidden_size, true,
                                (double)b->h->layer_norm_eps);
}

static nib_status add_layer(const nib_builder *b, nib_module *layer, const char *at) {
    const int64_t D = b->h->hidden_size, F = b->h->intermediate_size;
    char path[NIB_NAME_ROOM];
    NIB_TRY(add_norm(b, layer, at, "input_layernorm"));
    nib_module *attention = nib_build_holder(b->ctx, layer, "self_attention", &nib_kind_attention);
    if (!attention) return nib_last_error()->status;
    nib_build_path(path, at, "self_attention");
    NIB_TRY(nib_build_linear(b, attention, path, "query_key_value", 3 * D, D, true));
    NIB_TRY(nib_build_linear(b, attention, path, "dense", D, D, true));
    NIB_TRY(add_norm(b, layer, at, "post_attention_layernorm"));
    nib_module *mlp = nib_build_holder(b->ctx, layer, "mlp", &nib_kind_mlp);
    if (!mlp) return nib_last_error()->status;
    nib_build_path(path, at, "mlp");
    NIB_TRY(nib_build_linear(b, mlp, path, "dense_h_to_4h", F, D, true));
    return nib_build_linear(b, mlp, path, "dense_4h_to_h", D, F, true);
}

static nib_status add_trunk(const nib_builder *b, nib_module *trunk, const char *prefix) {
    NIB_TRY(add_norm(b, trunk, prefix, "word_embeddings_layernorm"));
    NIB_TRY(nib_build_layers(b, trunk, prefix, "h", b->h->num_hidden_layers, add_layer));
    return add_norm(b, trunk, prefix, "ln_f");
}

/* Of BloomForCausalLM, and of BloomModel, which the published folders were saved as. */
static const char *const prefixes[] = {"transformer", "", NULL};

static nib_module *build(nib_ctx *ctx, const nib_hparams *h, nib_weights *weights) {
    const nib_builder b = {ctx, h, weights};
    return nib_build_causal_lm(&b, &(nib_trunk){.prefixes = prefixes,
                                                .table = "word_embeddings",
                                                .columns = h->hidden_size,
                                                .layers = "h",
                                                .of_layer = "input_layernorm.weight",
                                                .add = add_trunk});
}

/* ---- running ---- */

typedef struct step {
    const nib_hparams *h;
    const nib_batch *batch;
    const nib_tensor *slopes;
} step;

/* Of as many heads as the largest power of two below gives: 2^(-8 i / n), i = 1 .. n; the others
 * take every second slope of twice as many. */
static nib_tensor *slopes_of(nib_ctx *ctx, int64_t H) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {H}}));
    if (!t) return NULL;
    float *slope = nib_tensor_data_mut(t);
    int64_t n = 1;
    while (2 * n <= H) n *= 2;
    for (int64_t i = 0; i < H; i++)
        slope[i] = (float)(i < n ? exp2(-8.0 * (double)(i + 1) / (double)n)
                                 : exp2(-4.0 * (double)(2 * (i - n) + 1) / (double)n));
    return t;
}

static nib_tensor *attention(const step *s, nib_module *m, int layer, nib_tensor *x) {
    nib_ctx *ctx = s->batch->ctx;
    if (!x) return NULL;
    NIB_TRY_NULL(nib_modes_enter_module(ctx, m, &x));
    const nib_attending how = {.layer = layer,
                               .heads = s->h->num_attention_heads,
                               .scale = 1.0 / sqrt((double)s->h->head_dim),
                               .slopes = s->slopes};
    nib_tensor *qkv[3];
    NIB_TRY_NULL(nib_split_qkv(nib_run_child(m, "query_key_value", x), how.heads, true, qkv));
    nib_tensor *y =
        nib_run_child(m, "dense", nib_run_attention(s->batch, &how, qkv[0], qkv[1], qkv[2]));
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, m, &y));
    return y;
}

static nib_tensor *mlp(const step *s, nib_module *m, nib_tensor *x) {
    nib_ctx *ctx = s->batch->ctx;
    if (!x) return NULL;
    NIB_TRY_NULL(nib_modes_enter_module(ctx, m, &x));
    nib_tensor *y =
        nib_run_child(m, "dense_4h_to_h", nib_gelu(nib_run_child(m, "dense_h_to_4h", x), true));
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, m, &y));
    return y;
}

static nib_tensor *layer(const void *step_, nib_module *m, int index, nib_tensor *x) {
    const step *s = step_;
    const bool normed = s->h->apply_residual_connection_post_layernorm;
    nib_tensor *y = nib_run_child(m, "input_layernorm", x);
    x = nib_add(normed ? y : x, attention(s, nib_module_child(m, "self_attention"), index, y));
    y = nib_run_child(m, "post_attention_layernorm", x);
    return nib_add(normed ? y : x, mlp(s, nib_module_child(m, "mlp"), y));
}

static nib_status forward(const nib_hparams *h, nib_module *root, const nib_batch *b,
                          nib_tensor **logits) {
    const step s = {h, b, slopes_of(b->ctx, h->num_attention_heads)};
    if (!s.slopes) return nib_last_error()->status;
    const nib_module *trunk = nib_run_trunk(root, prefixes, "word_embeddings");
    nib_tensor *x = nib_run_child(trunk, "word_embeddings", nib_run_tokens(b));
    x = nib_run_child(trunk, "word_embeddings_layernorm", x);
    x = nib_run_layers(b->ctx, b->one, nib_module_child(trunk, "h"), h->num_hidden_layers, layer,
                       &s, x);
    if (!x) return nib_last_error()->status;
    if (b->logits == NIB_WANT_NOTHING) return NIB_OK;
    *logits = nib_run_child(root, "lm_head", nib_run_child(trunk, "ln_f", nib_run_wanted(b, x)));
    return *logits ? NIB_OK : nib_last_error()->status;
}

static const char *const model_types[] = {"bloom", NULL};

const nib_arch nib_arch_bloom = {
    .name = "bloom",
    .doc = "BLOOM",
    .model_types = model_types,
    .read = read,
    .build = build,
    .forward = forward,
};
