/* gpt2.c: GPT-2: learned positions, one projection for query, key and value, GELU. Its linears are
 * called Conv1D and lie across in files, [in, out]; here they are Linears, [out, in], and a
 * quantized one is [out, in] in files too.
 * Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
 *
 *   x = embed(token) + embed(position)
 *   for each layer:  x += c_proj(attention(c_attn(norm(x))));  x += c_proj(act(c_fc(norm(x))))
 *   logits = head(norm(x)) */
#include <math.h>

#include "base/error.h"
#include "model/decoder.h"
#include "op/calls.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

/* ---- config.json ---- */

static const char *const width[] = {"hidden_size", NULL};
static const char *const layers[] = {"num_hidden_layers", NULL};
static const char *const heads[] = {"num_attention_heads", NULL};
static const char *const positions[] = {"n_ctx", "max_position_embeddings", NULL};
static const nib_field fields[] = {
    NIB_COUNT("vocab_size", vocab_size, .doc = "tokens of the vocabulary"),
    NIB_COUNT("n_embd", hidden_size, .names = width, .doc = "width of the residual stream"),
    NIB_COUNT("n_layer", num_hidden_layers, .names = layers, .doc = "decoder layers"),
    NIB_COUNT("n_head", num_attention_heads, .names = heads, .doc = "heads"),
    NIB_COUNT("n_positions", max_position_embeddings, .names = positions, .fallback = 1024,
              .doc = "positions that there are"),
    NIB_COUNT("n_inner", intermediate_size, .fallback = -1,
              .doc = "width inside the second half; 4 n_embd"),
    NIB_EPSILON("layer_norm_epsilon", layer_norm_eps, .fallback = 1e-5),
    NIB_SWITCH("scale_attn_weights", scale_attn_weights, .fallback = 1,
               .doc = "scores are divided by the root of a head's columns"),
    NIB_SWITCH("scale_attn_by_inverse_layer_idx", scale_attn_by_inverse_layer_idx,
               .doc = "and by the layer's number, from 1"),
    NIB_SWITCH("tie_word_embeddings", tie_word_embeddings, .fallback = 1,
               .doc = "the output head is the embedding"),
};

/* reorder_and_upcast_attn changes where transformers rounds below f32, which nothing here does. */
static nib_status read(const json_t *config, const json_t *generation, nib_hparams *h) {
    bool crossed = false;
    NIB_TRY(nib_hparams_begin(config, h));
    NIB_TRY(nib_hparams_fields(config, fields, sizeof fields / sizeof *fields, h));
    NIB_TRY(nib_hparams_heads(h, "n_embd", "n_head"));
    NIB_TRY(nib_hparams_activation(config, "activation_function", "gelu_new", &h->activation));
    NIB_TRY(nib_hparams_switch(config, "reorder_and_upcast_attn", false, &crossed));
    NIB_TRY(nib_hparams_switch(config, "add_cross_attention", false, &crossed));
    if (crossed)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "\"add_cross_attention\" is true; there is no encoder here to attend to");
    if (h->intermediate_size < 0) h->intermediate_size = 4 * h->hidden_size;
    h->learned_positions = h->max_position_embeddings;
    return nib_hparams_ids(config, generation, 50256, 50256, h);
}

/* ---- building ---- */

static nib_status add_conv1d(const nib_builder *b, nib_module *parent, const char *at,
                             const char *name, int64_t N, int64_t K) {
    char module[NIB_NAME_ROOM], path[NIB_NAME_ROOM];
    nib_build_path(module, at, name);
    nib_tensor *bias = nib_build_weight(b, nib_build_path(path, module, "bias"), N, 0);
    if (!bias) return nib_last_error()->status;
    nib_tensor *w = nib_build_across(b, nib_build_path(path, module, "weight"), N, K);
    if (w) return nib_module_add(parent, name, nib_linear_new(b->ctx, w, bias));
    nib_tensor_free(bias);
    return nib_last_error()->status;
}

static nib_status add_norm(const nib_builder *b, nib_module *parent, const char *at,
                           const char *name) {
    return nib_build_layer_norm(b, parent, at, name, b->h->hidden_size, true,
                                (double)b->h->layer_norm_eps);
}

static nib_status add_layer(const nib_builder *b, nib_module *layer, const char *at) {
    const int64_t D = b->h->hidden_size, F = b->h->intermediate_size;
    char path[NIB_NAME_ROOM];
    NIB_TRY(add_norm(b, layer, at, "ln_1"));
    nib_module *attention = nib_build_holder(b->ctx, layer, "attn", &nib_kind_attention);
    if (!attention) return nib_last_error()->status;
    nib_build_path(path, at, "attn");
    NIB_TRY(add_conv1d(b, attention, path, "c_attn", 3 * D, D));
    NIB_TRY(add_conv1d(b, attention, path, "c_proj", D, D));
    NIB_TRY(add_norm(b, layer, at, "ln_2"));
    nib_module *mlp = nib_build_holder(b->ctx, layer, "mlp", &nib_kind_mlp);
    if (!mlp) return nib_last_error()->status;
    nib_build_path(path, at, "mlp");
    NIB_TRY(add_conv1d(b, mlp, path, "c_fc", F, D));
    return add_conv1d(b, mlp, path, "c_proj", D, F);
}

static nib_status add_trunk(const nib_builder *b, nib_module *trunk, const char *prefix) {
    const nib_hparams *h = b->h;
    NIB_TRY(
        nib_build_embedding(b, trunk, prefix, "wpe", h->max_position_embeddings, h->hidden_size));
    NIB_TRY(nib_build_layers(b, trunk, prefix, "h", h->num_hidden_layers, add_layer));
    return add_norm(b, trunk, prefix, "ln_f");
}

/* Of GPT2LMHeadModel, and of GPT2Model, which the published folders were saved as. */
static const char *const prefixes[] = {"transformer", "", NULL};

static nib_module *build(nib_ctx *ctx, const nib_hparams *h, nib_weights *weights) {
    const nib_builder b = {ctx, h, weights};
    return nib_build_causal_lm(&b, &(nib_trunk){.prefixes = prefixes,
                                                .table = "wte",
                                                .columns = h->hidden_size,
                                                .layers = "h",
                                                .of_layer = "ln_1.weight",
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
    nib_attending how = {
        .layer = layer, .heads = s->h->num_attention_heads, .scale = 1, .slopes = NIB_NONE};
    if (s->h->scale_attn_weights) how.scale /= sqrt((double)s->h->head_dim);
    if (s->h->scale_attn_by_inverse_layer_idx) how.scale /= layer + 1;
    nib_tensor *qkv[3];
    NIB_TRY_NULL(nib_split_qkv(nib_run_child(m, "c_attn", x), how.heads, false, qkv));
    nib_tensor *y =
        nib_run_child(m, "c_proj", nib_run_attention(s->batch, &how, qkv[0], qkv[1], qkv[2]));
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, m, &y));
    return y;
}

static nib_tensor *mlp(const step *s, nib_module *m, nib_tensor *x) {
    nib_ctx *ctx = s->batch->ctx;
    if (!x) return NULL;
    NIB_TRY_NULL(nib_modes_enter_module(ctx, m, &x));
    nib_tensor *y = nib_run_activation(s->h->activation, nib_run_child(m, "c_fc", x));
    y = nib_run_child(m, "c_proj", y);
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(ctx, m, &y));
    return y;
}

static nib_tensor *layer(const void *step_, nib_module *m, int index, nib_tensor *x) {
    const step *s = step_;
    x = nib_add(x, attention(s, nib_module_child(m, "attn"), index, nib_run_child(m, "ln_1", x)));
    return nib_add(x, mlp(s, nib_module_child(m, "mlp"), nib_run_child(m, "ln_2", x)));
}

static nib_status forward(const nib_hparams *h, nib_module *root, const nib_batch *b,
                          nib_tensor **logits) {
    const step s = {h, b};
    const nib_module *trunk = nib_run_trunk(root, prefixes, "wte");
    nib_tensor *x = nib_run_child(trunk, "wte", nib_run_tokens(b));
    x = nib_add(x, nib_run_learned(b, nib_module_child(trunk, "wpe"), 0));
    x = nib_run_layers(b->ctx, b->one, nib_module_child(trunk, "h"), h->num_hidden_layers, layer,
                       &s, x);
    if (!x) return nib_last_error()->status;
    if (b->logits == NIB_WANT_NOTHING) return NIB_OK;
    *logits = nib_run_child(root, "lm_head", nib_run_child(trunk, "ln_f", nib_run_wanted(b, x)));
    return *logits ? NIB_OK : nib_last_error()->status;
}

static const char *const model_types[] = {"gpt2", NULL};

const nib_arch nib_arch_gpt2 = {
    .name = "gpt2",
    .doc = "GPT-2",
    .model_types = model_types,
    .read = read,
    .build = build,
    .forward = forward,
    .across = true,
};
