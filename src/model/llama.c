/* llama.c: the Llama family: Llama, Mistral (a sliding window), Qwen2 (biases on q, k and v) and
 * Qwen3 (norms on each head of q and k). One tree of modules, one forward; what differs are the
 * hyper-parameters.
 *
 *   x = embed(token);  for each layer:  x += attention(norm(x));  x += mlp(norm(x))
 *   logits = head(norm(x))
 *
 * Every step is defined row by row, but for attention, which is defined by what a row sees; so a
 * row's bits are the same in any batch and any cut of the prompt. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "model/decoder.h"
#include "op/calls.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

static nib_tensor *mlp_forward(nib_module *m, nib_tensor *x);
static const nib_module_kind kind_mlp = {.name = "MLP", .forward = mlp_forward};

/* ---- building ---- */

static nib_status add_norm(const nib_builder *b, nib_module *parent, const char *at,
                           const char *name, int64_t D) {
    return nib_build_rms_norm(b, parent, at, name, D, (double)b->h->rms_norm_eps);
}

static nib_status add_layer(const nib_builder *b, nib_module *layer, const char *at) {
    const nib_hparams *h = b->h;
    const int64_t D = h->hidden_size, F = h->intermediate_size, d = h->head_dim;
    const int64_t Q = h->num_attention_heads * d, KV = h->num_key_value_heads * d;
    char path[NIB_NAME_ROOM];
    nib_module *attention = nib_build_holder(b->ctx, layer, "self_attn", &nib_kind_attention);
    if (!attention) return nib_last_error()->status;
    nib_build_path(path, at, "self_attn");
    NIB_TRY(nib_build_linear(b, attention, path, "q_proj", Q, D, h->qkv_bias));
    NIB_TRY(nib_build_linear(b, attention, path, "k_proj", KV, D, h->qkv_bias));
    NIB_TRY(nib_build_linear(b, attention, path, "v_proj", KV, D, h->qkv_bias));
    NIB_TRY(nib_build_linear(b, attention, path, "o_proj", D, Q, h->output_bias));
    if (h->qk_norm) {
        NIB_TRY(add_norm(b, attention, path, "q_norm", d));
        NIB_TRY(add_norm(b, attention, path, "k_norm", d));
    }
    nib_module *mlp = nib_build_holder(b->ctx, layer, "mlp", &kind_mlp);
    if (!mlp) return nib_last_error()->status;
    nib_build_path(path, at, "mlp");
    NIB_TRY(nib_build_linear(b, mlp, path, "gate_proj", F, D, h->mlp_bias));
    NIB_TRY(nib_build_linear(b, mlp, path, "up_proj", F, D, h->mlp_bias));
    NIB_TRY(nib_build_linear(b, mlp, path, "down_proj", D, F, h->mlp_bias));
    NIB_TRY(add_norm(b, layer, at, "input_layernorm", D));
    return add_norm(b, layer, at, "post_attention_layernorm", D);
}

static nib_status add_trunk(const nib_builder *b, nib_module *trunk, const char *prefix) {
    NIB_TRY(nib_build_layers(b, trunk, prefix, "layers", b->h->num_hidden_layers, add_layer));
    return add_norm(b, trunk, prefix, "norm", b->h->hidden_size);
}

static nib_module *build(nib_ctx *ctx, const nib_hparams *h, nib_weights *weights) {
    static const char *const prefixes[] = {"model", NULL};
    const nib_builder b = {ctx, h, weights};
    return nib_build_causal_lm(&b, &(nib_trunk){.prefixes = prefixes,
                                                .table = "embed_tokens",
                                                .columns = h->hidden_size,
                                                .layers = "layers",
                                                .of_layer = "input_layernorm.weight",
                                                .add = add_trunk});
}

/* ---- running ---- */

static nib_tensor *mlp_forward(nib_module *m, nib_tensor *x) {
    return nib_run_child(
        m, "down_proj",
        nib_silu_mul(nib_run_child(m, "gate_proj", x), nib_run_child(m, "up_proj", x)));
}

/* What the layers of one step share. */
typedef struct step {
    const nib_hparams *h;
    const nib_batch *batch;
    nib_tensor *angles; /* [M, 2, d / 2] */
} step;

static nib_tensor *reshaped(nib_ctx *ctx, nib_tensor *t, int64_t M, int64_t D) {
    return t ? nib_scope_own(ctx, nib_tensor_reshape(t, (nib_shape){2, {M, D}})) : NULL;
}

/* A projection of all rows, with Qwen3's norm of each head where there is one. */
static nib_tensor *heads_of(const step *s, nib_module *m, const char *projection, const char *norm,
                            int64_t heads, nib_tensor *x) {
    nib_tensor *y = nib_run_child(m, projection, x);
    if (!y || !norm || !s->h->qk_norm) return y;
    nib_ctx *ctx = s->batch->ctx;
    const int64_t M = s->batch->M, d = s->h->head_dim;
    y = nib_run_child(m, norm, reshaped(ctx, y, M * heads, d));
    return reshaped(ctx, y, M, heads * d);
}

static nib_tensor *attention(const step *s, nib_module *m, int layer, nib_tensor *x) {
    const nib_batch *b = s->batch;
    const nib_hparams *h = s->h;
    NIB_TRY_NULL(nib_modes_enter_module(b->ctx, m, &x));
    const int64_t H = h->num_attention_heads, Hk = h->num_key_value_heads;
    const nib_attending how = {.layer = layer,
                               .heads = H,
                               .window = h->sliding[layer] ? h->window : 0,
                               .scale = 1.0 / sqrt((double)h->head_dim),
                               .slopes = NIB_NONE};
    nib_tensor *q = heads_of(s, m, "q_proj", "q_norm", H, x);
    nib_tensor *k = heads_of(s, m, "k_proj", "k_norm", Hk, x);
    nib_tensor *v = heads_of(s, m, "v_proj", NULL, 0, x);
    q = nib_rope(q, s->angles, H);
    k = nib_rope(k, s->angles, Hk);
    nib_tensor *y = nib_run_child(m, "o_proj", nib_run_attention(b, &how, q, k, v));
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(b->ctx, m, &y));
    return y;
}

static nib_tensor *layer(const void *step_, nib_module *m, int index, nib_tensor *x) {
    const step *s = step_;
    x = nib_add(x, attention(s, nib_module_child(m, "self_attn"), index,
                             nib_run_child(m, "input_layernorm", x)));
    return nib_add(x, nib_run_child(m, "mlp", nib_run_child(m, "post_attention_layernorm", x)));
}

/* Of a sequence of `length` tokens; 0: of any short one. */
static nib_tensor *frequencies(nib_ctx *ctx, const nib_hparams *h, int64_t length) {
    const int64_t half = h->head_dim / 2;
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {half}}));
    if (t) nib_rope_inv_freq(&h->rope, h->head_dim, length, nib_tensor_data_mut(t));
    return t;
}

/* By what the rows turn. Sequences that have grown long may have frequencies of their own. */
static nib_tensor *angles_of(const nib_hparams *h, const nib_batch *b, nib_tensor *positions) {
    bool grown = false;
    for (size_t i = 0; i < b->nsegments; i++)
        grown |= nib_rope_grows(&h->rope, b->segments[i].length);
    if (!grown) return nib_rope_angles(positions, frequencies(b->ctx, h, 0), 1.0);
    const size_t size = b->nsegments * sizeof(nib_tensor *);
    nib_tensor **parts = nib_mem_alloc(nib_ctx_mem(b->ctx), size), *angles = NULL;
    if (!parts) return NULL;
    int64_t at = 0;
    size_t i = 0;
    for (; i < b->nsegments; at += b->segments[i++].count) {
        const nib_segment *s = &b->segments[i];
        parts[i] = nib_rope_angles(nib_run_rows(b->ctx, positions, at, s->count),
                                   frequencies(b->ctx, h, s->length), 1.0);
        if (!parts[i]) break;
    }
    if (i == b->nsegments) angles = nib_run_joined(parts, i);
    nib_mem_free(nib_ctx_mem(b->ctx), parts, size);
    return angles;
}

static nib_status forward(const nib_hparams *h, nib_module *root, const nib_batch *b,
                          nib_tensor **logits) {
    step s = {.h = h, .batch = b};
    nib_tensor *ids = nib_run_tokens(b), *positions = nib_run_positions(b);
    if (!ids || !positions) return nib_last_error()->status;
    s.angles = angles_of(h, b, positions);
    if (!s.angles) return nib_last_error()->status;

    const nib_module *model = nib_module_child(root, "model");
    nib_tensor *x = nib_run_child(model, "embed_tokens", ids);
    x = nib_run_layers(b->ctx, b->one, nib_module_child(model, "layers"), h->num_hidden_layers,
                       layer, &s, x);
    if (!x) return nib_last_error()->status;
    if (b->logits == NIB_WANT_NOTHING) return NIB_OK;
    x = nib_run_wanted(b, x);
    *logits = nib_run_child(root, "lm_head", nib_run_child(model, "norm", x));
    return *logits ? NIB_OK : nib_last_error()->status;
}

static const char *const model_types[] = {"llama", "mistral", "qwen2", "qwen3", NULL};

const nib_arch nib_arch_llama = {
    .name = "llama",
    .doc = "Llama, Mistral, Qwen2 and Qwen3",
    .model_types = model_types,
    .read = nib_hparams_read,
    .build = build,
    .forward = forward,
};
