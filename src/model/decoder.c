#include "model/decoder.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/across.h"
#include "model/file_config.h"
#include "op/calls.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

const nib_module_kind nib_kind_causal_lm = {.name = "CausalLM"};
const nib_module_kind nib_kind_decoder = {.name = "Decoder"};
const nib_module_kind nib_kind_module_list = {.name = "ModuleList"};
const nib_module_kind nib_kind_decoder_layer = {.name = "DecoderLayer"};
const nib_module_kind nib_kind_attention = {.name = "Attention"};
const nib_module_kind nib_kind_mlp = {.name = "MLP"};

/* ---- building ---- */

const char *nib_build_path(char path[NIB_NAME_ROOM], const char *at, const char *name) {
    const int n = snprintf(path, NIB_NAME_ROOM, "%s%s%s", at, *at ? "." : "", name);
    assert(n < NIB_NAME_ROOM); /* all come from lists in the source */
    if (n >= NIB_NAME_ROOM) *path = '\0';
    return path;
}

/* Takes `t`. */
static nib_tensor *of_shape(const nib_builder *b, const char *name, nib_tensor *t, nib_shape want) {
    if (!t || nib_shape_equal(&t->shape, &want)) return t;
    char got[96], wanted[96];
    NIB_RAISE(NIB_E_FORMAT, "%s is %s but config.json asks for %s", name,
              nib_shape_text(&t->shape, got, sizeof got),
              nib_shape_text(&want, wanted, sizeof wanted));
    nib_weights_error_at(b->weights, name);
    nib_tensor_free(t);
    return NULL;
}

nib_tensor *nib_build_tensor(const nib_builder *b, const char *name, nib_shape want) {
    return of_shape(b, name, nib_weights_get(b->weights, name, &want), want);
}

nib_tensor *nib_build_weight(const nib_builder *b, const char *name, int64_t rows, int64_t cols) {
    return nib_build_tensor(b, name, (nib_shape){cols ? 2 : 1, {rows, cols}});
}

nib_tensor *nib_build_across(const nib_builder *b, const char *name, int64_t N, int64_t K) {
    const nib_shape want = {2, {N, K}}, across = {2, {K, N}};
    nib_tensor *t = nib_weights_get(b->weights, name, &want);
    if (!t || t->layout) return of_shape(b, name, t, want);
    t = of_shape(b, name, t, across);
    nib_tensor *turned = t ? nib_tensor_new(b->ctx, t->dtype, want) : NULL;
    if (turned)
        nib_across_copy(nib_tensor_data_mut(turned), K, nib_tensor_data(t), N, K, N,
                        (size_t)nib_dtype_bits(t->dtype) / 8);
    nib_tensor_free(t);
    return turned;
}

nib_tensor *nib_build_vector(const nib_builder *b, const char *at, const char *name,
                             const char *what, int64_t n, bool wanted) {
    char module[NIB_NAME_ROOM], path[NIB_NAME_ROOM];
    nib_build_path(path, nib_build_path(module, at, name), what);
    if (wanted) return nib_build_weight(b, path, n, 0);
    if (!nib_weights_has(b->weights, path)) return NIB_NONE;
    NIB_RAISE(NIB_E_FORMAT, "there is a tensor %s but config.json asks for no such %s", path, what);
    nib_weights_error_at(b->weights, path);
    return NULL;
}

static nib_tensor *matrix(const nib_builder *b, const char *at, const char *name, int64_t N,
                          int64_t K) {
    char module[NIB_NAME_ROOM], path[NIB_NAME_ROOM];
    return nib_build_weight(b, nib_build_path(path, nib_build_path(module, at, name), "weight"), N,
                            K);
}

nib_status nib_build_linear(const nib_builder *b, nib_module *parent, const char *at,
                            const char *name, int64_t N, int64_t K, bool biased) {
    nib_tensor *bias = nib_build_vector(b, at, name, "bias", N, biased);
    if (!bias) return nib_last_error()->status;
    nib_tensor *w = matrix(b, at, name, N, K);
    if (!w) {
        nib_tensor_free(bias);
        return nib_last_error()->status;
    }
    return nib_module_add(parent, name, nib_linear_new(b->ctx, w, bias));
}

nib_status nib_build_embedding(const nib_builder *b, nib_module *parent, const char *at,
                               const char *name, int64_t rows, int64_t D) {
    nib_tensor *w = matrix(b, at, name, rows, D);
    return w ? nib_module_add(parent, name, nib_embedding_new(b->ctx, w))
             : nib_last_error()->status;
}

nib_status nib_build_rms_norm(const nib_builder *b, nib_module *parent, const char *at,
                              const char *name, int64_t D, double eps) {
    nib_tensor *w = nib_build_vector(b, at, name, "weight", D, true);
    return w ? nib_module_add(parent, name, nib_rms_norm_new(b->ctx, w, eps))
             : nib_last_error()->status;
}

nib_status nib_build_layer_norm(const nib_builder *b, nib_module *parent, const char *at,
                                const char *name, int64_t D, bool affine, double eps) {
    nib_tensor *w = nib_build_vector(b, at, name, "weight", D, affine);
    nib_tensor *bias = w ? nib_build_vector(b, at, name, "bias", D, affine) : NULL;
    if (bias) return nib_module_add(parent, name, nib_layer_norm_new(b->ctx, w, bias, 1, eps));
    nib_tensor_free(w);
    return nib_last_error()->status;
}

nib_module *nib_build_holder(nib_ctx *ctx, nib_module *parent, const char *name,
                             const nib_module_kind *kind) {
    char part[NIB_NAME_ROOM];
    while (parent && *name) {
        const size_t length = strcspn(name, ".");
        snprintf(part, sizeof part, "%.*s", (int)length, name);
        nib_module *m = nib_module_new(ctx, kind, NULL);
        if (!m || nib_module_add(parent, part, m) < NIB_OK) return NULL;
        parent = m;
        name += length + (name[length] == '.');
    }
    return parent;
}

nib_status nib_build_layers(const nib_builder *b, nib_module *trunk, const char *prefix,
                            const char *list, int count, nib_layer_build *add) {
    char index[16], under[NIB_NAME_ROOM], at[NIB_NAME_ROOM];
    nib_module *layers = nib_build_holder(b->ctx, trunk, list, &nib_kind_module_list);
    if (!layers) return nib_last_error()->status;
    nib_build_path(under, prefix, list);
    for (int i = 0; i < count; i++) {
        snprintf(index, sizeof index, "%d", i);
        nib_module *layer = nib_build_holder(b->ctx, layers, index, &nib_kind_decoder_layer);
        if (!layer) return nib_last_error()->status;
        NIB_TRY(add(b, layer, nib_build_path(at, under, index)));
    }
    return NIB_OK;
}

static bool same_values(const nib_tensor *a, const nib_tensor *b) {
    return !a->layout && !b->layout && a->dtype == b->dtype &&
           nib_shape_equal(&a->shape, &b->shape) &&
           memcmp(nib_tensor_data(a), nib_tensor_data(b), nib_tensor_bytes(a)) == 0;
}

static nib_status table_and_head(const nib_builder *b, const char *embed, const char *lm_head,
                                 int64_t V, int64_t D, nib_tensor **table, nib_tensor **head) {
    const bool has_embed = nib_weights_has(b->weights, embed);
    const bool has_head = nib_weights_has(b->weights, lm_head);
    const char *alias = nib_weights_metadata(b->weights, has_embed ? lm_head : embed);
    const bool tied =
        b->h->tie_word_embeddings || (alias && strcmp(alias, has_embed ? embed : lm_head) == 0);
    *table = *head = NULL;
    if (!tied || has_embed || !has_head) {
        *table = nib_build_weight(b, embed, V, D);
        if (!*table) return nib_last_error()->status;
    }
    if (!tied && !has_head) {
        NIB_RAISE(NIB_E_FORMAT, "there is no tensor %s and \"tie_word_embeddings\" is not true",
                  lm_head);
        return nib_weights_error_at(b->weights, lm_head);
    }
    if (has_head) {
        *head = nib_build_weight(b, lm_head, V, D);
        if (!*head) return nib_last_error()->status;
    }
    if (!*table) *table = nib_tensor_retain(*head);
    if (!*head || (tied && *head != *table && same_values(*table, *head))) {
        nib_tensor_free(*head);
        *head = nib_tensor_retain(*table);
    }
    return NIB_OK;
}

/* The trunk's prefix in this checkpoint; where none fits, the usual one, for errors to name. */
static const char *prefix_of(const nib_builder *b, const nib_trunk *t) {
    char first[64], path[NIB_NAME_ROOM];
    snprintf(first, sizeof first, "%s.0.%s", t->layers, t->of_layer);
    for (const char *const *prefix = t->prefixes; *prefix; prefix++)
        if (nib_weights_has(b->weights, nib_build_path(path, *prefix, first))) return *prefix;
    return *t->prefixes;
}

static nib_status no_more_layers(const nib_builder *b, const nib_trunk *t, const char *prefix) {
    char name[64], beyond[NIB_NAME_ROOM];
    snprintf(name, sizeof name, "%s.%d.%s", t->layers, b->h->num_hidden_layers, t->of_layer);
    if (!nib_weights_has(b->weights, nib_build_path(beyond, prefix, name))) return NIB_OK;
    NIB_RAISE(NIB_E_FORMAT, "there is a tensor %s but \"num_hidden_layers\" is %d", beyond,
              b->h->num_hidden_layers);
    return nib_weights_error_at(b->weights, beyond);
}

nib_module *nib_build_causal_lm(const nib_builder *b, const nib_trunk *t) {
    nib_tensor *table = NULL, *head = NULL;
    char module[NIB_NAME_ROOM], path[NIB_NAME_ROOM], head_path[NIB_NAME_ROOM];
    const char *prefix = prefix_of(b, t), *head_name = t->head ? t->head : "lm_head";
    nib_build_path(head_path, head_name, "weight");
    nib_module *root = nib_module_new(b->ctx, &nib_kind_causal_lm, NULL);
    nib_module *trunk = nib_build_holder(b->ctx, root, prefix, &nib_kind_decoder);
    if (!trunk) goto fail;
    NIB_TRY_GOTO(no_more_layers(b, t, prefix), fail);
    nib_build_path(path, nib_build_path(module, prefix, t->table), "weight");
    NIB_TRY_GOTO(table_and_head(b, path, head_path, b->h->vocab_size, t->columns, &table, &head),
                 fail);
    nib_module *embedding = nib_embedding_new(b->ctx, table);
    table = NULL;
    NIB_TRY_GOTO(nib_module_add(trunk, t->table, embedding), fail);
    NIB_TRY_GOTO(t->add(b, trunk, prefix), fail);
    nib_module *lm_head = nib_linear_new(b->ctx, head, NIB_NONE);
    head = NULL;
    nib_module_set_head(lm_head, true);
    NIB_TRY_GOTO(nib_module_add(root, head_name, lm_head), fail);
    return root;
fail:
    nib_tensor_free(table);
    nib_tensor_free(head);
    nib_module_free(root);
    return NULL;
}

/* ---- running ---- */

nib_tensor *nib_run_child(const nib_module *parent, const char *child, nib_tensor *x) {
    return x ? nib_module_forward(nib_module_child(parent, child), x) : NULL;
}

nib_module *nib_run_trunk(const nib_module *root, const char *const *prefixes, const char *child) {
    for (; *prefixes; prefixes++) {
        nib_module *trunk = nib_module_child(root, *prefixes);
        if (nib_module_child(trunk, child)) return trunk;
    }
    return NULL; /* not for a tree that was built with them */
}

nib_tensor *nib_run_rows(nib_ctx *ctx, nib_tensor *t, int64_t start, int64_t count) {
    if (!t || (start == 0 && count == t->shape.dim[0])) return t;
    return nib_scope_own(ctx, nib_tensor_slice(t, 0, start, count));
}

/* Up to NIB_MAX_INPUTS at a time. */
nib_tensor *nib_run_joined(nib_tensor **parts, size_t n) {
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

static nib_tensor *of_integers(nib_ctx *ctx, int64_t count) {
    return nib_scope_own(ctx, nib_tensor_new(ctx, NIB_I32, (nib_shape){1, {count}}));
}

nib_tensor *nib_run_tokens(const nib_batch *b) {
    if (b->ids) return b->ids;
    nib_tensor *ids = of_integers(b->ctx, b->M);
    if (ids) memcpy(nib_tensor_data_mut(ids), b->tokens, (size_t)b->M * sizeof *b->tokens);
    return ids;
}

nib_tensor *nib_run_positions(const nib_batch *b) {
    if (b->positions) return b->positions;
    nib_tensor *positions = of_integers(b->ctx, b->M);
    if (!positions) return NULL;
    int32_t *position = nib_tensor_data_mut(positions);
    for (size_t i = 0; i < b->nsegments; i++)
        for (int64_t m = 0; m < b->segments[i].count; m++)
            *position++ = (int32_t)(b->segments[i].start + m);
    return positions;
}

nib_tensor *nib_run_learned(const nib_batch *b, nib_module *table, int64_t offset) {
    nib_tensor *positions = nib_run_positions(b);
    if (!positions || !offset) return nib_module_forward(table, positions);
    NIB_TRY_NULL(nib_modes_enter_module(b->ctx, table, &positions));
    nib_tensor *weight = nib_module_parameter(table, "weight");
    if (weight->layout) weight = nib_dequantize(weight); /* has no views */
    if (weight) weight = nib_run_rows(b->ctx, weight, offset, weight->shape.dim[0] - offset);
    nib_tensor *y = nib_embedding(weight, positions);
    if (!y) return NULL;
    NIB_TRY_NULL(nib_modes_leave_module(b->ctx, table, &y));
    return y;
}

static nib_tensor *attend(const nib_batch *b, const nib_attending *how, nib_tensor *q,
                          nib_tensor *k, nib_tensor *v, const nib_segment *segment, int64_t at) {
    nib_kvcache *cache = segment->cache;
    q = nib_run_rows(b->ctx, q, at, segment->count);
    k = nib_run_rows(b->ctx, k, at, segment->count);
    v = nib_run_rows(b->ctx, v, at, segment->count);
    if (!q || !k || !v) return NULL;
    NIB_TRY_NULL(nib_kv_append(cache->keys[how->layer], k, segment->start));
    NIB_TRY_NULL(nib_kv_append(cache->values[how->layer], v, segment->start));
    return nib_attention_alibi(q, cache->keys[how->layer], cache->values[how->layer], how->slopes,
                               how->heads, segment->start, how->window, how->scale);
}

nib_tensor *nib_run_attention(const nib_batch *b, const nib_attending *how, nib_tensor *q,
                              nib_tensor *k, nib_tensor *v) {
    if (!q || !k || !v) return NULL;
    const size_t size = b->nsegments * sizeof(nib_tensor *);
    nib_tensor **parts = nib_mem_alloc(nib_ctx_mem(b->ctx), size);
    if (!parts) return NULL;
    nib_tensor *y = NULL;
    int64_t at = 0;
    size_t i = 0;
    for (; i < b->nsegments; at += b->segments[i++].count) {
        parts[i] = attend(b, how, q, k, v, &b->segments[i], at);
        if (!parts[i]) break;
    }
    if (i == b->nsegments) y = nib_run_joined(parts, i);
    nib_mem_free(nib_ctx_mem(b->ctx), parts, size);
    return y;
}

/* Everything a layer made is let go but its result. */
static nib_tensor *one_layer(nib_ctx *ctx, nib_module *m, int index, nib_layer_forward *each,
                             const void *step, nib_tensor *x) {
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *out = NULL;
    if (nib_modes_enter_module(ctx, m, &x) >= NIB_OK) {
        out = each(step, m, index, x);
        if (out && nib_modes_leave_module(ctx, m, &out) < NIB_OK) out = NULL;
    }
    nib_keep(out);
    nib_scope_end(ctx, mark);
    return nib_scope_own(ctx, out);
}

nib_tensor *nib_run_layers(nib_ctx *ctx, nib_one_layer *one, const nib_module *layers, int count,
                           nib_layer_forward *each, const void *step, nib_tensor *x) {
    if (one && one->x) x = one->x;
    for (int i = one ? one->layer : 0; x && i < (one ? one->layer + 1 : count); i++) {
        char index[16];
        snprintf(index, sizeof index, "%d", i);
        nib_tensor *before = x;
        x = one_layer(ctx, nib_module_child(layers, index), i, each, step, x);
        nib_tensor_free(nib_keep(before)); /* from the scope, whoever else holds it */
    }
    if (one) one->y = x;
    return x;
}

nib_tensor *nib_run_wanted(const nib_batch *b, nib_tensor *x) {
    return b->logits == NIB_WANT_LAST ? nib_run_rows(b->ctx, x, b->M - 1, 1) : x;
}

nib_tensor *nib_run_activation(nib_activation kind, nib_tensor *x) {
    switch (kind) {
    case NIB_ACTIVATION_RELU:
        return nib_relu(x);
    case NIB_ACTIVATION_GELU:
        return nib_gelu(x, false);
    case NIB_ACTIVATION_GELU_TANH:
        return nib_gelu(x, true);
    case NIB_ACTIVATION_SILU:
        break;
    }
    return nib_silu(x);
}
