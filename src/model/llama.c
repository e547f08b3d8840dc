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
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/arch.h"
#include "op/calls.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

static const nib_module_kind kind_model = {.name = "CausalLM"};
static const nib_module_kind kind_decoder = {.name = "Decoder"};
static const nib_module_kind kind_list = {.name = "ModuleList"};
static const nib_module_kind kind_layer = {.name = "DecoderLayer"};
static const nib_module_kind kind_attention = {.name = "Attention"};
static nib_tensor *mlp_forward(nib_module *m, nib_tensor *x);
static const nib_module_kind kind_mlp = {.name = "MLP", .forward = mlp_forward};

/* ---- building ---- */

typedef struct builder {
    nib_ctx *ctx;
    const nib_hparams *h;
    nib_weights *weights;
} builder;

/* The tensor of that name, its shape as config.json says; a vector when cols is 0. */
static nib_tensor *weight(const builder *b, const char *name, int64_t rows, int64_t cols) {
    const nib_shape want = {cols ? 2 : 1, {rows, cols}};
    nib_tensor *t = nib_weights_get(b->weights, name, &want);
    if (!t) return NULL;
    if (nib_shape_equal(&t->shape, &want)) return t;
    char got[96], wanted[96];
    NIB_RAISE(NIB_E_FORMAT, "%s is %s but config.json asks for %s", name,
              nib_shape_text(&t->shape, got, sizeof got),
              nib_shape_text(&want, wanted, sizeof wanted));
    nib_weights_error_at(b->weights, name);
    nib_tensor_free(t);
    return NULL;
}

enum { NAME_ROOM = 160 };

/* A Linear under `name`. A bias that the file holds and the config denies, or the other way
 * round, means that the two do not belong together. */
static nib_status add_linear(const builder *b, nib_module *parent, const char *prefix,
                             const char *name, int64_t N, int64_t K, bool biased) {
    char path[NAME_ROOM];
    snprintf(path, sizeof path, "%s.%s.bias", prefix, name);
    if (!biased && nib_weights_has(b->weights, path)) {
        NIB_RAISE(NIB_E_FORMAT, "there is a tensor %s but config.json asks for no such bias", path);
        return nib_weights_error_at(b->weights, path);
    }
    nib_tensor *bias = biased ? weight(b, path, N, 0) : NIB_NONE;
    if (!bias) return nib_last_error()->status;
    snprintf(path, sizeof path, "%s.%s.weight", prefix, name);
    nib_tensor *w = weight(b, path, N, K);
    if (!w) {
        nib_tensor_free(bias);
        return nib_last_error()->status;
    }
    return nib_module_add(parent, name, nib_linear_new(b->ctx, w, bias));
}

static nib_status add_norm(const builder *b, nib_module *parent, const char *prefix,
                           const char *name, int64_t D) {
    char path[NAME_ROOM];
    snprintf(path, sizeof path, "%s.%s.weight", prefix, name);
    nib_tensor *w = weight(b, path, D, 0);
    if (!w) return nib_last_error()->status;
    return nib_module_add(parent, name, nib_rms_norm_new(b->ctx, w, (double)b->h->rms_norm_eps));
}

/* A module that holds others, given to its parent; NULL after a failure. */
static nib_module *add_holder(nib_ctx *ctx, nib_module *parent, const char *name,
                              const nib_module_kind *kind) {
    nib_module *m = nib_module_new(ctx, kind, NULL);
    if (!m || nib_module_add(parent, name, m) < NIB_OK) return NULL;
    return m;
}

static nib_status add_layer(const builder *b, nib_module *layers, int i) {
    const nib_hparams *h = b->h;
    const int64_t D = h->hidden_size, F = h->intermediate_size, d = h->head_dim;
    const int64_t Q = h->num_attention_heads * d, KV = h->num_key_value_heads * d;
    char index[16], at[64], path[96];
    snprintf(index, sizeof index, "%d", i);
    snprintf(at, sizeof at, "model.layers.%d", i);
    nib_module *layer = add_holder(b->ctx, layers, index, &kind_layer);
    nib_module *attention = layer ? add_holder(b->ctx, layer, "self_attn", &kind_attention) : NULL;
    if (!attention) return nib_last_error()->status;
    snprintf(path, sizeof path, "%s.self_attn", at);
    NIB_TRY(add_linear(b, attention, path, "q_proj", Q, D, h->qkv_bias));
    NIB_TRY(add_linear(b, attention, path, "k_proj", KV, D, h->qkv_bias));
    NIB_TRY(add_linear(b, attention, path, "v_proj", KV, D, h->qkv_bias));
    NIB_TRY(add_linear(b, attention, path, "o_proj", D, Q, h->output_bias));
    if (h->qk_norm) {
        NIB_TRY(add_norm(b, attention, path, "q_norm", d));
        NIB_TRY(add_norm(b, attention, path, "k_norm", d));
    }
    nib_module *mlp = add_holder(b->ctx, layer, "mlp", &kind_mlp);
    if (!mlp) return nib_last_error()->status;
    snprintf(path, sizeof path, "%s.mlp", at);
    NIB_TRY(add_linear(b, mlp, path, "gate_proj", F, D, h->mlp_bias));
    NIB_TRY(add_linear(b, mlp, path, "up_proj", F, D, h->mlp_bias));
    NIB_TRY(add_linear(b, mlp, path, "down_proj", D, F, h->mlp_bias));
    NIB_TRY(add_norm(b, layer, at, "input_layernorm", D));
    return add_norm(b, layer, at, "post_attention_layernorm", D);
}

static bool same_values(const nib_tensor *a, const nib_tensor *b) {
    return !a->layout && !b->layout && a->dtype == b->dtype &&
           nib_shape_equal(&a->shape, &b->shape) &&
           memcmp(nib_tensor_data(a), nib_tensor_data(b), nib_tensor_bytes(a)) == 0;
}

/* Embedding and head. Tied ones stand in the file under either name, or under both; two that
 * differ are used as they are, which is also what transformers does. Metadata of a file may say
 * of either name that it stands for the other. */
static nib_status table_and_head(const builder *b, nib_tensor **table, nib_tensor **head) {
    static const char embed[] = "model.embed_tokens.weight", lm_head[] = "lm_head.weight";
    const int64_t V = b->h->vocab_size, D = b->h->hidden_size;
    const bool has_embed = nib_weights_has(b->weights, embed);
    const bool has_head = nib_weights_has(b->weights, lm_head);
    const char *alias = nib_weights_metadata(b->weights, has_embed ? lm_head : embed);
    const bool tied =
        b->h->tie_word_embeddings || (alias && strcmp(alias, has_embed ? embed : lm_head) == 0);
    *table = *head = NULL;
    if (!tied || has_embed || !has_head) {
        *table = weight(b, embed, V, D);
        if (!*table) return nib_last_error()->status;
    }
    if (!tied && !has_head) {
        NIB_RAISE(NIB_E_FORMAT, "there is no tensor %s and \"tie_word_embeddings\" is not true",
                  lm_head);
        return nib_weights_error_at(b->weights, lm_head);
    }
    if (has_head) {
        *head = weight(b, lm_head, V, D);
        if (!*head) return nib_last_error()->status;
    }
    if (!*table) *table = nib_tensor_retain(*head);
    if (!*head || (tied && *head != *table && same_values(*table, *head))) {
        nib_tensor_free(*head);
        *head = nib_tensor_retain(*table);
    }
    return NIB_OK;
}

static nib_module *build(nib_ctx *ctx, const nib_hparams *h, nib_weights *weights) {
    const builder b = {ctx, h, weights};
    nib_tensor *table = NULL, *head = NULL;
    char beyond[96];
    nib_module *root = nib_module_new(ctx, &kind_model, NULL), *lm_head;
    nib_module *model = root ? add_holder(ctx, root, "model", &kind_decoder) : NULL;
    if (!model) goto fail;
    snprintf(beyond, sizeof beyond, "model.layers.%d.input_layernorm.weight", h->num_hidden_layers);
    if (nib_weights_has(weights, beyond)) {
        NIB_RAISE(NIB_E_FORMAT, "there is a tensor %s but \"num_hidden_layers\" is %d", beyond,
                  h->num_hidden_layers);
        nib_weights_error_at(weights, beyond);
        goto fail;
    }
    NIB_TRY_GOTO(table_and_head(&b, &table, &head), fail);
    NIB_TRY_GOTO(nib_module_add(model, "embed_tokens", nib_embedding_new(ctx, table)), fail_head);
    table = NULL;
    nib_module *layers = add_holder(ctx, model, "layers", &kind_list);
    if (!layers) goto fail_head;
    for (int i = 0; i < h->num_hidden_layers; i++)
        NIB_TRY_GOTO(add_layer(&b, layers, i), fail_head);
    NIB_TRY_GOTO(add_norm(&b, model, "model", "norm", h->hidden_size), fail_head);
    lm_head = nib_linear_new(ctx, head, NIB_NONE);
    head = NULL;
    if (!lm_head) goto fail;
    nib_module_set_head(lm_head, true);
    NIB_TRY_GOTO(nib_module_add(root, "lm_head", lm_head), fail);
    return root;
fail_head:
    table = NULL; /* the embedding took it, whatever came of that */
fail:
    nib_tensor_free(table);
    nib_tensor_free(head);
    nib_module_free(root);
    return NULL;
}

/* ---- running ---- */

static nib_tensor *run(const nib_module *parent, const char *child, nib_tensor *x) {
    return x ? nib_module_forward(nib_module_child(parent, child), x) : NULL;
}

static nib_tensor *mlp_forward(nib_module *m, nib_tensor *x) {
    return run(m, "down_proj", nib_silu_mul(run(m, "gate_proj", x), run(m, "up_proj", x)));
}

/* What the layers of one step share. */
typedef struct step {
    const nib_hparams *h;
    const nib_batch *batch;
    nib_tensor *angles; /* [M, 2, d / 2] */
} step;

/* Rows [start, start + count) as a view in the open scope; all of them as they are. */
static nib_tensor *rows(nib_ctx *ctx, nib_tensor *t, int64_t start, int64_t count) {
    if (!t || (start == 0 && count == t->shape.dim[0])) return t;
    return nib_scope_own(ctx, nib_tensor_slice(t, 0, start, count));
}

static nib_tensor *reshaped(nib_ctx *ctx, nib_tensor *t, int64_t M, int64_t D) {
    return t ? nib_scope_own(ctx, nib_tensor_reshape(t, (nib_shape){2, {M, D}})) : NULL;
}

/* A projection of all rows, with Qwen3's norm of each head where there is one. */
static nib_tensor *heads_of(const step *s, nib_module *m, const char *projection, const char *norm,
                            int64_t heads, nib_tensor *x) {
    nib_tensor *y = run(m, projection, x);
    if (!y || !norm || !s->h->qk_norm) return y;
    nib_ctx *ctx = s->batch->ctx;
    const int64_t M = s->batch->M, d = s->h->head_dim;
    y = run(m, norm, reshaped(ctx, y, M * heads, d));
    return reshaped(ctx, y, M, heads * d);
}

/* One tensor from the rows of n, up to NIB_MAX_INPUTS at a time. */
static nib_tensor *joined(nib_tensor **parts, size_t n) {
    while (n > 1) {
        size_t fewer = 0;
        for (size_t i = 0; i < n; i += NIB_MAX_INPUTS) {
            const size_t some = n - i < NIB_MAX_INPUTS ? n - i : NIB_MAX_INPUTS;
            parts[fewer] =
                some == 1 ? parts[i] : nib_cat((const nib_tensor *const *)&parts[i], some);
            if (!parts[fewer++]) return NULL;
        }
        n = fewer;
    }
    return parts[0];
}

static nib_tensor *attend(const step *s, int layer, nib_tensor *q, nib_tensor *k, nib_tensor *v,
                          const nib_segment *segment, int64_t at) {
    const nib_hparams *h = s->h;
    nib_ctx *ctx = s->batch->ctx;
    nib_kvcache *cache = segment->cache;
    q = rows(ctx, q, at, segment->count);
    k = rows(ctx, k, at, segment->count);
    v = rows(ctx, v, at, segment->count);
    if (!q || !k || !v) return NULL;
    NIB_TRY_NULL(nib_kv_append(cache->keys[layer], k, segment->start));
    NIB_TRY_NULL(nib_kv_append(cache->values[layer], v, segment->start));
    return nib_attention(q, cache->keys[layer], cache->values[layer], h->num_attention_heads,
                         segment->start, h->sliding[layer] ? h->window : 0,
                         1.0 / sqrt((double)h->head_dim));
}

static nib_tensor *attention(const step *s, nib_module *m, int layer, nib_tensor *x) {
    const nib_batch *b = s->batch;
    NIB_TRY_NULL(nib_modes_enter_module(b->ctx, m, &x));
    const int64_t H = s->h->num_attention_heads, Hk = s->h->num_key_value_heads;
    nib_tensor *q = heads_of(s, m, "q_proj", "q_norm", H, x);
    nib_tensor *k = heads_of(s, m, "k_proj", "k_norm", Hk, x);
    nib_tensor *v = heads_of(s, m, "v_proj", NULL, 0, x);
    q = nib_rope(q, s->angles, H);
    k = nib_rope(k, s->angles, Hk);
    if (!q || !k || !v) return NULL;
    const size_t size = b->nsegments * sizeof(nib_tensor *);
    nib_tensor **parts = nib_mem_alloc(nib_ctx_mem(b->ctx), size);
    if (!parts) return NULL;
    nib_tensor *y = NULL;
    int64_t at = 0;
    size_t i = 0;
    for (; i < b->nsegments; at += b->segments[i++].count) {
        parts[i] = attend(s, layer, q, k, v, &b->segments[i], at);
        if (!parts[i]) break;
    }
    if (i == b->nsegments) y = run(m, "o_proj", joined(parts, i));
    nib_mem_free(nib_ctx_mem(b->ctx), parts, size);
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(b->ctx, m, &y));
    return y;
}

/* Everything a layer made is let go but its result. */
static nib_tensor *decoder_layer(const step *s, nib_module *m, int layer, nib_tensor *x) {
    nib_ctx *ctx = s->batch->ctx;
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *out = NULL;
    if (nib_modes_enter_module(ctx, m, &x) >= NIB_OK) {
        x = nib_add(
            x, attention(s, nib_module_child(m, "self_attn"), layer, run(m, "input_layernorm", x)));
        out = nib_add(x, run(m, "mlp", run(m, "post_attention_layernorm", x)));
        if (out && nib_modes_leave_module(ctx, m, &out) < NIB_OK) out = NULL;
    }
    nib_keep(out);
    nib_scope_end(ctx, mark);
    return nib_scope_own(ctx, out);
}

static nib_tensor *of_integers(nib_ctx *ctx, int64_t count) {
    return nib_scope_own(ctx, nib_tensor_new(ctx, NIB_I32, (nib_shape){1, {count}}));
}

static nib_tensor *tokens_of(const nib_batch *b) {
    if (b->ids) return b->ids;
    nib_tensor *ids = of_integers(b->ctx, b->M);
    if (ids) memcpy(nib_tensor_data_mut(ids), b->tokens, (size_t)b->M * sizeof *b->tokens);
    return ids;
}

static nib_tensor *positions_of(const nib_batch *b) {
    if (b->positions) return b->positions;
    nib_tensor *positions = of_integers(b->ctx, b->M);
    if (!positions) return NULL;
    int32_t *position = nib_tensor_data_mut(positions);
    for (size_t i = 0; i < b->nsegments; i++)
        for (int64_t m = 0; m < b->segments[i].count; m++)
            *position++ = (int32_t)(b->segments[i].start + m);
    return positions;
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
        parts[i] = nib_rope_angles(rows(b->ctx, positions, at, s->count),
                                   frequencies(b->ctx, h, s->length), 1.0);
        if (!parts[i]) break;
    }
    if (i == b->nsegments) angles = joined(parts, i);
    nib_mem_free(nib_ctx_mem(b->ctx), parts, size);
    return angles;
}

static nib_status forward(const nib_hparams *h, nib_module *root, const nib_batch *b,
                          nib_tensor **logits) {
    step s = {.h = h, .batch = b};
    nib_tensor *ids = tokens_of(b), *positions = positions_of(b);
    if (!ids || !positions) return nib_last_error()->status;
    s.angles = angles_of(h, b, positions);
    if (!s.angles) return nib_last_error()->status;

    nib_module *model = nib_module_child(root, "model"),
               *layers = nib_module_child(model, "layers");
    nib_tensor *x = run(model, "embed_tokens", ids);
    for (int i = 0; x && i < h->num_hidden_layers; i++) {
        char index[16];
        snprintf(index, sizeof index, "%d", i);
        nib_tensor *before = x;
        x = decoder_layer(&s, nib_module_child(layers, index), i, x);
        nib_tensor_free(before); /* its slot in the scope is emptied */
    }
    if (!x) return nib_last_error()->status;
    if (b->logits == NIB_WANT_NOTHING) return NIB_OK;
    if (b->logits == NIB_WANT_LAST) x = rows(b->ctx, x, b->M - 1, 1);
    *logits = run(root, "lm_head", run(model, "norm", x));
    return *logits ? NIB_OK : nib_last_error()->status;
}

static const char *const model_types[] = {"llama", "mistral", "qwen2", "qwen3", NULL};

const nib_arch nib_arch_llama = {
    .name = "llama",
    .doc = "Llama, Mistral, Qwen2 and Qwen3",
    .model_types = model_types,
    .build = build,
    .forward = forward,
};
