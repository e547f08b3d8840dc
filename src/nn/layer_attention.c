/* layer_attention.c: MultiheadAttention as torch has it. Inside, the sequence comes first: [L, N,
 * E]. Legend: L queries, S keys, N batch, E width, H heads. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "nn/module.h"
#include "op/calls.h"
#include "tensor/dtype.h"

enum { QUERY, KEY, VALUE, KEY_PADDING, MASK, INPUTS };

typedef struct attention {
    int64_t heads;
    bool batch_first, zero, causal;
} attention;

static nib_shape shape3(int64_t a, int64_t b, int64_t c) { return (nib_shape){3, {a, b, c}}; }

/* One projection: rows [i E, (i + 1) E) of the joint weight, or the weight of its own. */
static nib_tensor *project(nib_module *m, const nib_tensor *x, int i, int64_t E) {
    static const char *const own[] = {"q_proj_weight", "k_proj_weight", "v_proj_weight"};
    const nib_tensor *joint = nib_module_parameter(m, "in_proj_weight"),
                     *bias = nib_layer_parameter(m, "in_proj_bias"),
                     *weight = nib_module_parameter(m, own[i]);
    if (!joint && !weight)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT,
                              "a MultiheadAttention has neither in_proj_weight nor %s", own[i]);
    if (joint) weight = nib_scope_own(x->ctx, nib_tensor_slice(joint, 0, i * E, E));
    if (bias != NIB_NONE) bias = nib_scope_own(x->ctx, nib_tensor_slice(bias, 0, i * E, E));
    return nib_linear(x, weight, bias);
}

static nib_tensor *zeros(nib_ctx *ctx, nib_shape shape) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_result(ctx, NIB_F32, shape));
    if (t) memset(nib_tensor_data_mut(t), 0, nib_tensor_bytes(t));
    return t;
}

/* Keys or values [S, N, E] with what is learned, or zeros, put behind them. */
static nib_tensor *extend(nib_module *m, nib_tensor *x, const char *bias) {
    const attention *a = nib_module_self(m);
    const nib_tensor *learned = nib_module_parameter(m, bias);
    if (!x) return NULL;
    const nib_shape row = shape3(1, x->shape.dim[1], x->shape.dim[2]);
    if (learned) {
        const nib_tensor *f32 = learned->dtype == NIB_F32 ? learned : nib_dequantize(learned);
        const nib_tensor *last = nib_add(zeros(x->ctx, row), f32);
        x = nib_cat((const nib_tensor *[]){x, last}, 2);
    }
    if (a->zero) x = nib_cat((const nib_tensor *[]){x, zeros(x->ctx, row)}, 2);
    return x;
}

/* [L, N, E] to [N, H, L, E / H]. */
static nib_tensor *split(const attention *a, nib_tensor *x) {
    if (!x) return NULL;
    const int64_t *d = x->shape.dim;
    const nib_shape s = {4, {d[0], d[1], a->heads, d[2] / a->heads}};
    return nib_permute(nib_reshape(x, &s), (const int[]){1, 2, 0, 3});
}

/* A mask as something to add, of this shape and with `more` keys behind its own, which are not
 * masked. By ops, so that gradients reach a mask of floats; torch's bool masks are true for what is
 * left out. */
static const nib_tensor *added(nib_ctx *ctx, const nib_tensor *t, const nib_shape *shape,
                               int64_t more) {
    if (t->dtype == NIB_F32) {
        t = nib_reshape(t, shape);
    } else {
        const unsigned char *out = nib_tensor_data(t);
        nib_tensor *floats = zeros(ctx, *shape);
        float *to = floats ? nib_tensor_data_mut(floats) : NULL;
        for (int64_t i = 0; to && i < nib_tensor_count(floats); i++)
            if (out[i]) to[i] = -INFINITY;
        t = floats;
    }
    return more ? nib_pad(t, (const int64_t[]){0, more, 0, 0}, "constant", 0) : t;
}

static nib_status check_mask(const nib_tensor *t, const char *what) {
    if (t == NIB_NONE) return NIB_OK;
    if (!t->layout && nib_tensor_contiguous(t) && (t->dtype == NIB_F32 || t->dtype == NIB_BOOL))
        return NIB_OK;
    return NIB_RAISE(NIB_E_DTYPE,
                     "MultiheadAttention: %s is %s; want f32 or bool, true for what is "
                     "left out",
                     what, nib_dtype_name(t->dtype));
}

/* Both masks as one to add, [N or 1, H or 1, L or 1, keys]; `given` of the keys can be masked,
 * those put behind them cannot. NIB_NONE: nothing is masked. */
static const nib_tensor *join_masks(const attention *a, nib_ctx *ctx, const nib_tensor *padding,
                                    const nib_tensor *mask, int64_t N, int64_t L, int64_t given,
                                    int64_t keys) {
    if (padding == NIB_NONE && mask == NIB_NONE) return NIB_NONE;
    NIB_TRY_NULL(check_mask(padding, "key_padding_mask"));
    NIB_TRY_NULL(check_mask(mask, "attn_mask"));
    char text[96], other[96];
    const bool each = mask->shape.ndim == 3; /* of every head */
    const nib_shape flat = {2, {L, given}}, full = shape3(N * a->heads, L, given),
                    pad = {2, {N, given}}, pad_one = {1, {given}};
    const bool padding_fits = padding == NIB_NONE || nib_shape_equal(&padding->shape, &pad) ||
                              (N == 1 && nib_shape_equal(&padding->shape, &pad_one));
    const bool mask_fits = mask == NIB_NONE || nib_shape_equal(&mask->shape, each ? &full : &flat);
    if (!padding_fits || !mask_fits)
        return NIB_RAISE_NULL(
            NIB_E_SHAPE, "MultiheadAttention: %s is %s, want %s",
            padding_fits ? "attn_mask" : "key_padding_mask",
            nib_shape_text(padding_fits ? &mask->shape : &padding->shape, text, sizeof text),
            nib_shape_text(!padding_fits ? &pad
                           : each        ? &full
                                         : &flat,
                           other, sizeof other));
    const nib_shape mask4 = {4, {each ? N : 1, each ? a->heads : 1, L, given}},
                    pad4 = {4, {N, 1, 1, given}};
    if (mask == NIB_NONE) return added(ctx, padding, &pad4, keys - given);
    mask = added(ctx, mask, &mask4, keys - given);
    return padding == NIB_NONE ? mask : nib_add(mask, added(ctx, padding, &pad4, keys - given));
}

/* Inputs as [L, N, E]; *batched tells whether they had N. */
static nib_tensor *sequence_first(const attention *a, nib_tensor *x, bool *batched) {
    *batched = x->shape.ndim == 3;
    if (x->shape.ndim == 2) {
        const nib_shape s = shape3(x->shape.dim[0], 1, x->shape.dim[1]);
        return nib_reshape(x, &s);
    }
    if (x->shape.ndim != 3)
        return NIB_RAISE_NULL(
            NIB_E_SHAPE,
            "MultiheadAttention: an input has %d dimensions, want 3, or 2 without "
            "a batch",
            x->shape.ndim);
    return a->batch_first ? nib_transpose(x, 0, 1) : x;
}

static nib_status check_inputs(const attention *a, nib_tensor *const in[3], int64_t E) {
    char text[3][96];
    for (int i = 0; i < 3; i++) nib_shape_text(&in[i]->shape, text[i], sizeof text[i]);
    const int64_t *q = in[QUERY]->shape.dim, *k = in[KEY]->shape.dim, *v = in[VALUE]->shape.dim;
    if (k[0] != v[0] || q[1] != k[1] || q[1] != v[1] || q[2] != E || E % a->heads)
        return NIB_RAISE(
            NIB_E_SHAPE,
            "MultiheadAttention: query %s, key %s and value %s (sequence, batch, width) "
            "do not meet %lld heads of a width of %lld",
            text[QUERY], text[KEY], text[VALUE], (long long)a->heads, (long long)E);
    return NIB_OK;
}

/* What a call attends with, before the heads meet values. */
typedef struct call {
    nib_tensor *q, *k, *v; /* [N, H, L or keys, E / H] */
    const nib_tensor *mask;
    int64_t E, L, N, keys;
    bool batched;
} call;

static nib_status open_call(nib_module *m, nib_tensor *const given[], int count, call *c) {
    const attention *a = nib_module_self(m);
    nib_tensor *in[INPUTS] = {NIB_NONE, NIB_NONE, NIB_NONE, NIB_NONE, NIB_NONE};
    const nib_tensor *weight = nib_module_parameter(nib_module_child(m, "out_proj"), "weight");
    if (count > INPUTS || given[QUERY] == NIB_NONE || !weight)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "MultiheadAttention: want a query, and at most key, value, "
                         "key_padding_mask and attn_mask besides");
    for (int i = 0; i < count; i++) in[i] = given[i];
    if (in[KEY] == NIB_NONE) in[KEY] = in[QUERY];
    if (in[VALUE] == NIB_NONE) in[VALUE] = in[KEY];
    for (int i = VALUE; i >= QUERY; i--) {
        in[i] = sequence_first(a, in[i], &c->batched);
        if (!in[i]) return nib_last_error()->status;
    }
    c->E = weight->shape.dim[0];
    c->L = in[QUERY]->shape.dim[0];
    c->N = in[QUERY]->shape.dim[1];
    NIB_TRY(check_inputs(a, in, c->E));
    c->k = extend(m, project(m, in[KEY], 1, c->E), "bias_k");
    if (!c->k) return nib_last_error()->status;
    c->keys = c->k->shape.dim[0];
    c->q = split(a, project(m, in[QUERY], 0, c->E));
    c->k = split(a, c->k);
    c->v = split(a, extend(m, project(m, in[VALUE], 2, c->E), "bias_v"));
    if (!c->q || !c->v) return nib_last_error()->status;
    c->mask = join_masks(a, c->q->ctx, in[KEY_PADDING], in[MASK], c->N, c->L, in[KEY]->shape.dim[0],
                         c->keys);
    return NIB_OK;
}

static nib_tensor *forward_many(nib_module *m, nib_tensor *const given[], int count) {
    const attention *a = nib_module_self(m);
    call c = {0};
    NIB_TRY_NULL(open_call(m, given, count, &c));
    nib_tensor *y = nib_scaled_dot_product_attention(c.q, c.k, c.v, c.mask, a->causal, 0);
    const nib_shape flat = shape3(c.L, c.N, c.E), unbatched = {2, {c.L, c.E}};
    y = nib_module_forward(nib_module_child(m, "out_proj"),
                           nib_reshape(nib_permute(y, (const int[]){2, 0, 1, 3}), &flat));
    if (!y) return NULL;
    if (!c.batched) return nib_reshape(y, &unbatched);
    return a->batch_first ? nib_transpose(y, 0, 1) : y;
}

/* Attention to a value that tells keys apart gives the weights themselves, to the bit. */
static nib_tensor *apart(nib_ctx *ctx, const call *c, int64_t H) {
    const int64_t S = c->keys;
    nib_tensor *one = zeros(ctx, (nib_shape){4, {c->N, H, S, S}});
    float *to = one ? nib_tensor_data_mut(one) : NULL;
    for (int64_t i = 0; to && i < c->N * H * S; i++) to[i * S + i % S] = 1;
    return one;
}

/* The mean over dimension 1, which is put last to be the columns of a product. */
static nib_tensor *mean_of_heads(nib_tensor *w, int64_t H) {
    if (!w) return NULL;
    nib_tensor *ones =
                   nib_scope_own(w->ctx, nib_tensor_new(w->ctx, NIB_F32, (nib_shape){2, {1, H}})),
               *by = zeros(w->ctx, (nib_shape){0});
    if (!ones || !by) return NULL;
    float *to = nib_tensor_data_mut(ones);
    for (int64_t h = 0; h < H; h++) to[h] = 1;
    *(float *)nib_tensor_data_mut(by) = (float)H;
    const nib_shape flat = shape3(w->shape.dim[0], w->shape.dim[2], w->shape.dim[3]);
    w = nib_linear(nib_permute(w, (const int[]){0, 2, 3, 1}), ones, NIB_NONE);
    return nib_reshape(nib_div(w, by), &flat);
}

nib_tensor *nib_multihead_attention_weights(nib_module *m, nib_tensor *const in[], int count,
                                            bool each_head) {
    if (!m || !in || count < 1) return NULL;
    for (int i = 0; i < count; i++)
        if (!in[i]) return NULL;
    if (nib_module_kind_of(m) != &nib_kind_multihead_attention)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "a %s has no weights of attention",
                              nib_module_kind_of(m)->name);
    const attention *a = nib_module_self(m);
    call c = {0};
    NIB_TRY_NULL(open_call(m, in, count, &c));
    nib_tensor *w = nib_scaled_dot_product_attention(c.q, c.k, apart(c.q->ctx, &c, a->heads),
                                                     c.mask, a->causal, 0);
    if (!each_head) w = mean_of_heads(w, a->heads);
    const nib_shape mean = {2, {c.L, c.keys}}, each = shape3(a->heads, c.L, c.keys);
    return c.batched ? w : nib_reshape(w, each_head ? &each : &mean);
}

static void describe(const nib_module *m, char *text, size_t room) {
    const attention *a = nib_module_self(m);
    snprintf(text, room, "num_heads=%lld%s%s%s", (long long)a->heads,
             a->batch_first ? ", batch_first=True" : "", a->zero ? ", add_zero_attn=True" : "",
             a->causal ? ", is_causal=True" : "");
}
static void release(nib_module *m) { nib_layer_free(m, sizeof(attention)); }

const nib_module_kind nib_kind_multihead_attention = {.name = "MultiheadAttention",
                                                      .forward_many = forward_many,
                                                      .free = release,
                                                      .describe = describe};

nib_module *nib_multihead_attention_new(nib_ctx *ctx, nib_tensor *in_proj_weight,
                                        nib_tensor *in_proj_bias, nib_module *out_proj,
                                        const nib_attention_options *options) {
    nib_attention_options o = {0};
    nib_layer_options(&o, sizeof o, options);
    nib_module *m = out_proj && o.num_heads > 0
                        ? nib_layer_new(ctx, &nib_kind_multihead_attention, sizeof(attention), 2, 0,
                                        (const char *[]){"in_proj_weight", "in_proj_bias"},
                                        (nib_tensor *[]){in_proj_weight, in_proj_bias})
                        : NULL;
    if (!m) {
        if (!out_proj || o.num_heads <= 0) {
            nib_tensor_free(in_proj_weight);
            nib_tensor_free(in_proj_bias);
        }
        nib_module_free(out_proj);
        if (out_proj && o.num_heads <= 0)
            NIB_RAISE(NIB_E_ARGUMENT, "a MultiheadAttention wants num_heads");
        return NULL;
    }
    *(attention *)nib_module_self(m) =
        (attention){o.num_heads, o.batch_first, o.add_zero_attn, o.is_causal};
    if (nib_module_add(m, "out_proj", out_proj) >= NIB_OK) return m;
    nib_module_free(m);
    return NULL;
}
