/* op_scaled_dot_product_attention.c: every row of queries against all keys, as ATen has it: for
 * encoders and cross attention. (A cache of keys and values is op_attention.c's.)
 * Vaswani et al., "Attention Is All You Need", 2017.
 *
 * Scores and sums over values are products of docs/numerics.md, a row of scores its softmax. A row
 * whose every score is masked gives zeros. Int8 codes of queries and keys make their scores in
 * integers, as bmm of them does. Legend: L rows of queries, S keys, E and V columns. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/codes_product.h"
#include "op/gradient.h"
#include "quant/act8.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum { QUERY, KEY, VALUE, MASK }; /* attributes: dropout_p, is_causal, scale (0: none given), gqa */
enum {
    ROWS = 60, /* of queries that are scored at once: whole tiles of the products */
    RUNS = 24, /* of such blocks, where there are so many: a run lays the keys of a head out once */
};

static int64_t dim_from_last(const nib_tensor *t, int i) { return t->shape.dim[t->shape.ndim - i]; }

/* The mask is repeated along dimensions that it lacks or has once. */
static nib_status check_mask(const nib_tensor *mask, const nib_shape *q, int64_t S) {
    if (mask == NIB_NONE) return NIB_OK;
    char text[96], other[96];
    nib_shape scores = *q;
    scores.dim[scores.ndim - 1] = S;
    bool fits = mask->shape.ndim <= scores.ndim;
    for (int i = 1; fits && i <= mask->shape.ndim; i++) {
        const int64_t d = dim_from_last(mask, i);
        fits = d == 1 || d == scores.dim[scores.ndim - i];
    }
    if (!fits)
        return NIB_RAISE(NIB_E_SHAPE, "scaled_dot_product_attention: the mask is %s, the scores %s",
                         nib_shape_text(&mask->shape, text, sizeof text),
                         nib_shape_text(&scores, other, sizeof other));
    if (mask->layout || !nib_tensor_contiguous(mask) ||
        (mask->dtype != NIB_F32 && mask->dtype != NIB_BOOL))
        return NIB_RAISE(
            NIB_E_DTYPE,
            "scaled_dot_product_attention: the mask is %s; want f32, which is added, or "
            "bool, which tells what takes part",
            nib_dtype_name(mask->dtype));
    return NIB_OK;
}

static bool codes_of_f32(const nib_tensor *t) { return nib_act8_is(t) && t->dtype == NIB_F32; }

/* Values may be floats or any codes; they are opened where they are laid out. */
static bool takes_codes(const nib_call_args *args) {
    const nib_tensor *q = args->in[QUERY], *k = args->in[KEY], *v = args->in[VALUE];
    return codes_of_f32(q) && codes_of_f32(k) && nib_act8_integer(q->desc.code) &&
           nib_act8_integer(k->desc.code) && (codes_of_f32(v) || !nib_act8_is(v)) &&
           (args->in[MASK] == NIB_NONE || !nib_act8_is(args->in[MASK])) && q->shape.ndim >= 1 &&
           nib_tensor_count(k) > 0 && nib_codes_lanes_hold(dim_from_last(q, 1));
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    static const char *const names[] = {"query", "key", "value"};
    const bool codes = takes_codes(args);
    char text[3][96];
    for (int i = QUERY; i <= VALUE; i++) {
        if (!codes || !nib_act8_is(args->in[i]))
            NIB_TRY(nib_op_want_dense_f32(args->op, names[i], args->in[i]));
        nib_shape_text(&args->in[i]->shape, text[i], sizeof text[i]);
    }
    const nib_tensor *q = args->in[QUERY], *k = args->in[KEY], *v = args->in[VALUE];
    const int n = q->shape.ndim;
    bool fits = n >= 2 && k->shape.ndim == n && v->shape.ndim == n;
    for (int i = 0; fits && i < n - 2; i++)
        fits = k->shape.dim[i] == q->shape.dim[i] && v->shape.dim[i] == q->shape.dim[i];
    if (!fits || dim_from_last(q, 1) != dim_from_last(k, 1) ||
        dim_from_last(k, 2) != dim_from_last(v, 2))
        return NIB_RAISE(
            NIB_E_SHAPE,
            "scaled_dot_product_attention: query %s, key %s and value %s; want [..., L, "
            "E], [..., S, E], [..., S, V]",
            text[0], text[1], text[2]);
    NIB_TRY(check_mask(args->in[MASK], &q->shape, dim_from_last(k, 2)));
    *out = q->shape;
    out->dim[n - 1] = dim_from_last(v, 1);
    *dtype = NIB_F32;
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args);

const nib_op nib_op_scaled_dot_product_attention = {
    .name = "scaled_dot_product_attention",
    .nout = 1,
    .shape = shape,
    .codes = takes_codes,
    .backward = backward,
    .saves = NIB_SAVES_IN(QUERY) | NIB_SAVES_IN(KEY) | NIB_SAVES_IN(VALUE) | NIB_SAVES_IN(MASK),
    .schema =
        "aten::scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? "
        "attn_mask=None, float dropout_p=0.0, bool is_causal=False, *, float? scale=None, bool "
        "enable_gqa=False) -> Tensor",
};

typedef struct job {
    const nib_kernels *k;
    const float *q, *key, *value;
    const nib_tensor *mask;
    const nib_shape *shape; /* of the queries */
    float *y, scale;
    bool causal;
    int64_t L, S, E, V, blocks;
    size_t at_values, at_scores,
        at_lane; /* in a block of the scratch, which begins with the keys */
    nib_scratch scratch;
    const nib_tensor *codes; /* of the values; NULL: floats */
    const int8_t *key_codes; /* NULL: floats, and no lanes or rows */
    nib_codes_lanes lanes;   /* of the keys of a head */
    nib_rows_i8 rows;        /* all queries */
} job;

static int64_t filled(int64_t n) { return (n + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL; }

static void lay_out_values(const job *j, int64_t head, float *values) {
    for (int64_t c = 0; c < j->V; c += NIB_PANEL) {
        const int64_t n = j->V - c < NIB_PANEL ? j->V - c : NIB_PANEL;
        for (int64_t s = 0; s < j->S; s++) {
            const int64_t from = (head * j->S + s) * j->V + c;
            float *to = values + c * j->S + s * NIB_PANEL;
            memset(to, 0, NIB_PANEL * sizeof(float));
            if (j->codes)
                nib_act8_to_f32(j->codes, from, n, to);
            else
                memcpy(to, j->value + from, (size_t)n * sizeof(float));
        }
    }
}

/* Keys and values of a head as products want them. */
static nib_lane_weight lay_out(const job *j, int64_t head, char *space) {
    float *keys = (float *)(void *)space;
    lay_out_values(j, head, (float *)(void *)(space + j->at_values));
    if (j->key_codes)
        return nib_codes_lanes_lay(&j->lanes, j->key_codes + head * j->S * j->E, j->S, space);
    const float *k = j->key + head * j->S * j->E;
    for (int64_t s = 0; s < j->S; s += NIB_PANEL)
        j->k->pack_f32(keys + s * j->E, k + s * j->E, j->E,
                       j->S - s < NIB_PANEL ? j->S - s : NIB_PANEL, j->E);
    return (nib_lane_weight){0};
}

/* Where the mask of row `row` of a head begins; *step: 0 where one number stands for all keys. */
static int64_t mask_row(const job *j, int64_t head, int64_t row, int64_t *step) {
    const nib_tensor *m = j->mask;
    const int n = j->shape->ndim;
    int64_t offset = 0, stride = 1;
    *step = 0;
    for (int i = 1; i <= m->shape.ndim; i++) {
        const int64_t d = dim_from_last(m, i);
        if (i == 1) {
            *step = d == 1 ? 0 : 1;
        } else {
            const int64_t at = i == 2 ? row : head % j->shape->dim[n - i];
            if (i > 2) head /= j->shape->dim[n - i];
            offset += d == 1 ? 0 : at * stride;
        }
        stride *= d;
    }
    return offset;
}

static void mask_scores(const job *j, int64_t head, int64_t row, float *score) {
    int64_t step;
    const int64_t at = mask_row(j, head, row, &step);
    if (j->mask->dtype == NIB_F32) {
        const float *m = (const float *)nib_tensor_data(j->mask) + at;
        for (int64_t s = 0; s < j->S; s++) score[s] += m[s * step];
    } else {
        const unsigned char *m = (const unsigned char *)nib_tensor_data(j->mask) + at;
        for (int64_t s = 0; s < j->S; s++)
            if (!m[s * step]) score[s] = -INFINITY;
    }
}

static void weigh(const job *j, int64_t head, int64_t row, float *score) {
    const int64_t S = j->S;
    const float scale = j->scale;
    bool any = false;
    for (int64_t s = 0; s < S; s++) score[s] *= scale;
    for (int64_t s = row + 1; s < S && j->causal; s++) score[s] = -INFINITY;
    if (j->mask != NIB_NONE) mask_scores(j, head, row, score);
    for (int64_t s = 0; s < S && !any; s++) any = score[s] != -INFINITY;
    if (any)
        j->k->softmax_f32(score, (size_t)S);
    else
        memset(score, 0, (size_t)S * sizeof *score);
}

/* Products of M rows of queries, `row` the first among all heads, with all keys. */
static void score_rows(const job *j, int64_t row, int64_t M, const nib_lane_weight *w,
                       char *space) {
    float *scores = (float *)(void *)(space + j->at_scores);
    if (!j->key_codes) {
        j->k->gemm_f32(scores, j->S, j->q + row * j->E, j->E, (const float *)(void *)space,
                       j->E * NIB_PANEL, M, j->S, j->E, false);
        return;
    }
    const nib_rows_i8 rows = nib_rows_from(&j->rows, row, 1);
    j->k->lane_i8[w->lane](scores, j->S, &rows, M, w, 0, filled(j->S) / NIB_PANEL,
                           space + j->at_lane);
}

static void pieces(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int index;
    char *space = nib_scratch_take(&j->scratch, &index);
    float *scores = (float *)(void *)(space + j->at_scores);
    const float *values = (const float *)(void *)(space + j->at_values);
    nib_lane_weight w = {0};
    int64_t laid_out = -1;
    for (int64_t at = begin; at < end; at++) {
        const int64_t head = at / j->blocks, row = at % j->blocks * ROWS;
        const int64_t M = j->L - row < ROWS ? j->L - row : ROWS;
        if (laid_out != head) w = lay_out(j, head, space);
        laid_out = head;
        score_rows(j, head * j->L + row, M, &w, space);
        for (int64_t m = 0; m < M; m++) weigh(j, head, row + m, scores + m * j->S);
        j->k->gemm_f32(j->y + (head * j->L + row) * j->V, j->V, scores, j->S, values,
                       j->S * NIB_PANEL, M, j->V, j->S, false);
    }
    nib_scratch_give(&j->scratch, index);
}

static job job_of(const nib_call_args *args) {
    const nib_tensor *q = args->in[QUERY], *v = args->in[VALUE];
    const int64_t E = dim_from_last(q, 1);
    return (job){
        .k = &args->ctx->kernels,
        .mask = args->in[MASK],
        .shape = &q->shape,
        .causal = args->attr[1].i != 0,
        .L = dim_from_last(q, 2),
        .S = dim_from_last(v, 2),
        .E = E,
        .V = dim_from_last(v, 1),
        .scale = (float)(args->attr[2].d != 0 ? args->attr[2].d : 1 / sqrt((double)E)),
    };
}

/* Where things lie in a block of scratch, and its size; true: overflow. */
static bool plan(job *j, size_t *size) {
    int64_t keys, values, scores;
    size_t width[3];
    if (nib_mul_count(filled(j->S), j->E, &keys) || nib_mul_count(filled(j->V), j->S, &values) ||
        nib_mul_count(ROWS, j->S, &scores))
        return true;
    const int64_t count[] = {keys, values, scores};
    for (int i = 0; i < 3; i++)
        if (nib_mul_size((size_t)count[i], sizeof(float), &width[i]) ||
            nib_align_size(width[i], NIB_MEM_ALIGN, &width[i]))
            return true;
    if (j->key_codes) {
        if (nib_codes_lanes_plan(j->S, j->E, &j->lanes)) return true;
        width[0] = j->lanes.size;
    }
    j->at_values = width[0];
    return nib_add_size(j->at_values, width[1], &j->at_scores) ||
           nib_add_size(j->at_scores, width[2], &j->at_lane) ||
           nib_add_size(j->at_lane, j->key_codes ? NIB_LANE_SCRATCH : 0, size) ||
           nib_add_size(*size, 1, size);
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *q = args->in[QUERY], *key = args->in[KEY], *v = args->in[VALUE];
    job j = job_of(args);
    if (nib_tensor_count(args->out[0]) == 0) return NIB_OK;
    const bool codes = nib_act8_is(key);
    j.key_codes = codes ? nib_act8_data(key) : NULL;
    j.codes = nib_act8_is(v) ? v : NULL;
    j.q = codes ? NULL : nib_tensor_data(q);
    j.key = codes ? NULL : nib_tensor_data(key);
    j.value = j.codes ? NULL : nib_tensor_data(v);
    j.y = nib_tensor_data_mut(args->out[0]);
    j.blocks = (j.L + ROWS - 1) / ROWS;
    const int64_t heads = nib_tensor_count(args->out[0]) / (j.L * j.V), all = heads * j.blocks;
    const size_t laid = codes ? nib_codes_rows_size(heads * j.L, j.E) : 0;
    size_t size, room, whole;
    if (plan(&j, &size) || (codes && !laid) ||
        !(room = nib_scratch_room(args->ctx->pool, all, size)) || nib_add_size(laid, room, &whole))
        return NIB_RAISE(NIB_E_MEMORY, "attention to %lld keys of %lld columns overflows",
                         (long long)j.S, (long long)j.E);
    char *space = nib_ctx_workspace(args->ctx, whole);
    if (!space) return nib_last_error()->status;
    if (codes)
        j.rows =
            nib_codes_rows_lay(q, nib_act8_scale(q) * nib_act8_scale(key), heads * j.L, j.E, space);
    nib_scratch_over(args->ctx->pool, all, size, space + laid, &j.scratch);
    int64_t run_blocks = all / RUNS > 1 ? all / RUNS : 1;
    if (run_blocks > j.blocks) run_blocks = j.blocks;
    nib_parallel_for(args->ctx->pool, all, run_blocks, pieces, &j);
    return NIB_OK;
}

/* ---- backward: head by head, the weights made again ---- */

typedef struct weighing {
    const job *j;
    int64_t head;
    float *p, *dp; /* [L, S] */
    float *dmask;  /* [L, S], of what is added to scores; NULL: not wanted */
} weighing;

/* dp becomes the gradient of q k^T: p (dp - sum of dp p) scale, of the mask before the scale. */
static void weigh_rows(void *user, int64_t begin, int64_t end) {
    const weighing *w = user;
    const job *j = w->j;
    for (int64_t l = begin; l < end; l++) {
        float *p = w->p + l * j->S, *dp = w->dp + l * j->S;
        weigh(j, w->head, l, p);
        const float sum = j->k->dot_f32(dp, p, (size_t)j->S);
        for (int64_t s = 0; s < j->S; s++) dp[s] = p[s] * (dp[s] - sum);
        if (w->dmask) memcpy(w->dmask + l * j->S, dp, (size_t)j->S * sizeof *dp);
        for (int64_t s = 0; s < j->S; s++) dp[s] *= j->scale;
    }
}

/* Head `head` of a tensor whose heads are [rows, columns]. */
static nib_tensor *head_of(const nib_tensor *t, int64_t head, int64_t rows, int64_t columns) {
    return nib_scope_own(
        t->ctx,
        nib_tensor_over(t->ctx, NIB_F32, (nib_shape){2, {rows, columns}}, t->part[0],
                        nib_tensor_offset(t, 0) + (size_t)(head * rows * columns) * sizeof(float)));
}

static nib_status put_head(nib_tensor *to, int64_t head, const nib_tensor *made) {
    if (!made) return nib_last_error()->status;
    char *at = nib_tensor_data_mut(to);
    memcpy(at + (size_t)head * nib_tensor_bytes(made), nib_tensor_data(made),
           nib_tensor_bytes(made));
    return NIB_OK;
}

/* x^T y of [M, A] and [M, B]: [A, B]. */
static nib_tensor *crossed(const nib_tensor *x, const nib_tensor *y) {
    return nib_gradient_product(nib_gradient_transposed(x), nib_gradient_transposed(y));
}

/* dmask: of all heads, [..., L, S]; NULL: not wanted. */
static nib_status head_backward(nib_backward_args *args, const nib_tensor *const in[], const job *j,
                                int64_t head, float *dmask) {
    const nib_tensor *q = head_of(in[QUERY], head, j->L, j->E),
                     *k = head_of(in[KEY], head, j->S, j->E),
                     *v = head_of(in[VALUE], head, j->S, j->V),
                     *g = head_of(args->out[0], head, j->L, j->V);
    nib_tensor *p = nib_gradient_product(q, k), *dp = nib_gradient_product(g, v);
    if (!p || !dp) return nib_last_error()->status;
    weighing w = {j, head, nib_tensor_data_mut(p), nib_tensor_data_mut(dp),
                  dmask ? dmask + head * j->L * j->S : NULL};
    nib_parallel_for(q->ctx->pool, j->L, 8, weigh_rows, &w);
    if (args->wants[VALUE]) NIB_TRY(put_head(args->in[VALUE], head, crossed(p, g)));
    if (args->wants[QUERY])
        NIB_TRY(
            put_head(args->in[QUERY], head, nib_gradient_product(dp, nib_gradient_transposed(k))));
    if (args->wants[KEY]) NIB_TRY(put_head(args->in[KEY], head, crossed(dp, q)));
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args) {
    const job j = job_of(args->call);
    nib_ctx *ctx = args->call->ctx;
    float *dmask = NULL;
    if (args->wants[MASK]) {
        nib_shape scores = args->call->in[QUERY]->shape;
        scores.dim[scores.ndim - 1] = j.S;
        args->in[MASK] = nib_scope_own(ctx, nib_tensor_result(ctx, NIB_F32, scores));
        NIB_TRY(nib_gradient_made(args->in[MASK]));
        dmask = nib_tensor_data_mut(args->in[MASK]);
        memset(dmask, 0, nib_tensor_bytes(args->in[MASK]));
    }
    for (int i = QUERY; i <= VALUE; i++) {
        if (!args->wants[i]) continue;
        args->in[i] = nib_gradient_like(args->call->in[i]);
        NIB_TRY(nib_gradient_made(args->in[i]));
        memset(nib_tensor_data_mut(args->in[i]), 0, nib_tensor_bytes(args->in[i]));
    }
    const nib_tensor *in[VALUE + 1];
    for (int i = QUERY; i <= VALUE; i++) {
        in[i] = nib_gradient_floats(args->call->in[i]);
        if (!in[i]) return nib_last_error()->status;
    }
    const int64_t count = nib_tensor_count(args->out[0]);
    for (int64_t head = 0; j.S && count && head < count / (j.L * j.V); head++) {
        const size_t mark = nib_scope_begin(ctx);
        const nib_status status = head_backward(args, in, &j, head, dmask);
        nib_scope_end(ctx, mark);
        NIB_TRY(status);
    }
    if (!dmask) return NIB_OK;
    args->in[MASK] = nib_gradient_unbroadcast(args->in[MASK], &args->call->in[MASK]->shape);
    return nib_gradient_made(args->in[MASK]);
}

/* Dropping weights out while training, and query heads that share keys, are not here. */
static bool accepts(const nib_call_args *args) { return args->attr[0].d == 0 && !args->attr[3].i; }

static bool accepts_codes(const nib_call_args *args) { return takes_codes(args) && accepts(args); }

const nib_impl nib_impl_scaled_dot_product_attention_i8 = {
    .op = &nib_op_scaled_dot_product_attention,
    .device = "cpu",
    .layouts =
        "query, key:int8 codes, value:codes or dense f32, attn_mask:f32 or bool, dropout_p 0",
    .accepts = accepts_codes,
    .run = run};

const nib_impl nib_impl_scaled_dot_product_attention_f32 = {
    .op = &nib_op_scaled_dot_product_attention,
    .device = "cpu",
    .layouts = "query, key, value:dense f32, attn_mask:f32 or bool, dropout_p 0",
    .accepts = accepts,
    .run = run};

nib_tensor *nib_scaled_dot_product_attention(const nib_tensor *query, const nib_tensor *key,
                                             const nib_tensor *value, const nib_tensor *mask,
                                             bool causal, double scale) {
    if (!query || !key || !value || !mask) return NULL;
    return nib_call_one(query->ctx, &nib_op_scaled_dot_product_attention, 4,
                        (const nib_tensor *[]){query, key, value, mask}, 4,
                        (nib_attr[]){{.d = 0.0}, {.i = causal}, {.d = scale}, {.i = 0}});
}
