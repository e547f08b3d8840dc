/* opt.c: OPT: learned positions, LayerNorms before or after each half, ReLU.
 * Zhang et al., "OPT: Open Pre-trained Transformer Language Models", 2022.
 *
 *   x = project_in(embed(token)) + embed(position + 2)
 *   for each layer:  x += attention(norm(x));  x += fc2(act(fc1(norm(x))))
 *   logits = head(project_out(norm(x)))
 *
 * The 350M model norms after each half instead, and is the one with projections. */
#include <math.h>

#include "base/error.h"
#include "model/decoder.h"
#include "op/calls.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { OFFSET = 2 };        /* rows of the table of positions that no token has */
#define LAYER_NORM_EPS 1e-5 /* of torch's LayerNorm: config.json has no word for it */

/* ---- config.json ---- */

static const nib_field fields[] = {
    NIB_COUNT("vocab_size", vocab_size, .doc = "tokens of the vocabulary"),
    NIB_COUNT("hidden_size", hidden_size, .doc = "width of the residual stream"),
    NIB_COUNT("ffn_dim", intermediate_size, .doc = "width inside the second half"),
    NIB_COUNT("num_hidden_layers", num_hidden_layers, .doc = "decoder layers"),
    NIB_COUNT("num_attention_heads", num_attention_heads, .doc = "heads"),
    NIB_COUNT("max_position_embeddings", max_position_embeddings, .fallback = 2048,
              .doc = "positions that there are"),
    NIB_COUNT("word_embed_proj_dim", word_embed_proj_dim, .fallback = -1,
              .doc = "columns of the embedding; hidden_size"),
    NIB_SWITCH("do_layer_norm_before", do_layer_norm_before, .fallback = 1,
               .doc = "norms come before what they norm for"),
    NIB_SWITCH("layer_norm_elementwise_affine", layer_norm_elementwise_affine, .fallback = 1,
               .doc = "norms have weights"),
    NIB_SWITCH("enable_bias", enable_bias, .fallback = 1, .doc = "linears have biases"),
    NIB_SWITCH("tie_word_embeddings", tie_word_embeddings, .fallback = 1,
               .doc = "the output head is the embedding"),
};

static nib_status read(const json_t *config, const json_t *generation, nib_hparams *h) {
    bool removed = false;
    NIB_TRY(nib_hparams_begin(config, h));
    NIB_TRY(nib_hparams_fields(config, fields, sizeof fields / sizeof *fields, h));
    NIB_TRY(nib_hparams_heads(h, "hidden_size", "num_attention_heads"));
    NIB_TRY(nib_hparams_activation(config, "activation_function", "relu", &h->activation));
    NIB_TRY(nib_hparams_switch(config, "_remove_final_layer_norm", false, &removed));
    if (h->word_embed_proj_dim < 0) h->word_embed_proj_dim = h->hidden_size;
    h->final_layer_norm = h->do_layer_norm_before && !removed;
    h->learned_positions = h->max_position_embeddings;
    return nib_hparams_ids(config, generation, 2, 2, h);
}

/* ---- building ---- */

static nib_status add_norm(const nib_builder *b, nib_module *parent, const char *at,
                           const char *name) {
    return nib_build_layer_norm(b, parent, at, name, b->h->hidden_size,
                                b->h->layer_norm_elementwise_affine, LAYER_NORM_EPS);
}

static nib_status add_layer(const nib_builder *b, nib_module *layer, const char *at) {
    static const char *const projections[] = {"k_proj", "v_proj", "q_proj", "out_proj"};
    const nib_hparams *h = b->h;
    const int64_t D = h->hidden_size, F = h->intermediate_size;
    char path[NIB_NAME_ROOM];
    nib_module *attention = nib_build_holder(b->ctx, layer, "self_attn", &nib_kind_attention);
    if (!attention) return nib_last_error()->status;
    nib_build_path(path, at, "self_attn");
    for (int k = 0; k < 4; k++)
        NIB_TRY(nib_build_linear(b, attention, path, projections[k], D, D, h->enable_bias));
    NIB_TRY(add_norm(b, layer, at, "self_attn_layer_norm"));
    NIB_TRY(nib_build_linear(b, layer, at, "fc1", F, D, h->enable_bias));
    NIB_TRY(nib_build_linear(b, layer, at, "fc2", D, F, h->enable_bias));
    return add_norm(b, layer, at, "final_layer_norm");
}

static nib_status add_trunk(const nib_builder *b, nib_module *trunk, const char *prefix) {
    const nib_hparams *h = b->h;
    const int64_t D = h->hidden_size, E = h->word_embed_proj_dim;
    NIB_TRY(nib_build_embedding(b, trunk, prefix, "embed_positions",
                                h->max_position_embeddings + OFFSET, D));
    if (E != D) {
        NIB_TRY(nib_build_linear(b, trunk, prefix, "project_out", E, D, false));
        NIB_TRY(nib_build_linear(b, trunk, prefix, "project_in", D, E, false));
    }
    if (h->final_layer_norm) NIB_TRY(add_norm(b, trunk, prefix, "final_layer_norm"));
    return nib_build_layers(b, trunk, prefix, "layers", h->num_hidden_layers, add_layer);
}

/* Of OPTForCausalLM, and of OPTModel, which some folders were saved as. */
static const char *const prefixes[] = {"model.decoder", "decoder", NULL};

static nib_module *build(nib_ctx *ctx, const nib_hparams *h, nib_weights *weights) {
    const nib_builder b = {ctx, h, weights};
    return nib_build_causal_lm(&b, &(nib_trunk){.prefixes = prefixes,
                                                .table = "embed_tokens",
                                                .columns = h->word_embed_proj_dim,
                                                .layers = "layers",
                                                .of_layer = "fc1.weight",
                                                .add = add_trunk});
}

/* ---- running ---- */

typedef struct step {
    const nib_hparams *h;
    const nib_batch *batch;
} step;

static nib_tensor *attention(const step *s, nib_module *m, int layer, nib_tensor *x) {
    nib_ctx *ctx = s->batch->ctx;
    if (!x) return NULL;
    NIB_TRY_NULL(nib_modes_enter_module(ctx, m, &x));
    const nib_attending how = {.layer = layer,
                               .heads = s->h->num_attention_heads,
                               .scale = 1.0 / sqrt((double)s->h->head_dim),
                               .slopes = NIB_NONE};
    nib_tensor *q = nib_run_child(m, "q_proj", x), *k = nib_run_child(m, "k_proj", x),
               *v = nib_run_child(m, "v_proj", x);
    nib_tensor *y = nib_run_child(m, "out_proj", nib_run_attention(s->batch, &how, q, k, v));
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, m, &y));
    return y;
}

static nib_tensor *layer(const void *step_, nib_module *m, int index, nib_tensor *x) {
    const step *s = step_;
    const bool before = s->h->do_layer_norm_before;
    nib_tensor *y = before ? nib_run_child(m, "self_attn_layer_norm", x) : x;
    x = nib_add(x, attention(s, nib_module_child(m, "self_attn"), index, y));
    if (!before) x = nib_run_child(m, "self_attn_layer_norm", x);
    y = before ? nib_run_child(m, "final_layer_norm", x) : x;
    y = nib_run_activation(s->h->activation, nib_run_child(m, "fc1", y));
    x = nib_add(x, nib_run_child(m, "fc2", y));
    return before ? x : nib_run_child(m, "final_layer_norm", x);
}

static nib_status forward(const nib_hparams *h, nib_module *root, const nib_batch *b,
                          nib_tensor **logits) {
    const step s = {h, b};
    const nib_module *decoder = nib_run_trunk(root, prefixes, "embed_tokens");
    nib_tensor *x = nib_run_child(decoder, "embed_tokens", nib_run_tokens(b));
    if (h->word_embed_proj_dim != h->hidden_size) x = nib_run_child(decoder, "project_in", x);
    x = nib_add(x, nib_run_learned(b, nib_module_child(decoder, "embed_positions"), OFFSET));
    x = nib_run_layers(b->ctx, b->one, nib_module_child(decoder, "layers"), h->num_hidden_layers,
                       layer, &s, x);
    if (!x) return nib_last_error()->status;
    if (b->logits == NIB_WANT_NOTHING) return NIB_OK;
    x = nib_run_wanted(b, x);
    if (h->final_layer_norm) x = nib_run_child(decoder, "final_layer_norm", x);
    if (h->word_embed_proj_dim != h->hidden_size) x = nib_run_child(decoder, "project_out", x);
    *logits = nib_run_child(root, "lm_head", x);
    return *logits ? NIB_OK : nib_last_error()->status;
}

static const char *const model_types[] = {"opt", NULL};

const nib_arch nib_arch_opt = {
    .name = "opt",
    .doc = "OPT",
    .model_types = model_types,
    .read = read,
    .build = build,
    .forward = forward,
};
