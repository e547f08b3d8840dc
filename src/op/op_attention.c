/* op_attention.c: causal attention over a cache.
 *
 * Tokens are taken in parts of 64 and parts in spans of 2048, both at fixed positions; parts are
 * merged in order into their span, spans in order into the row. So a row's bits depend on what it
 * sees and on nothing else: not on the other rows of the call, the number of threads, or how a
 * prompt was cut. The query heads of a key head, at some neighbouring positions, make a tile: its
 * rows meet a part while it is in the cache of the core.
 * Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "kernel/kv_place.h"
#include "op/attention_backward.h"
#include "op/calls.h"
#include "op/kv.h"
#include "tensor/context.h"

enum {
    PART = NIB_ATTENTION_BLOCK,
    SPAN = 2048, /* tokens; docs/numerics.md */
    TILE = 4096, /* floats of a tile's results, on the stack of a worker */
    FEW = 64,    /* with fewer tiles than this, spans are shared out as well */
    PER_HEAD = NIB_ATTENTION_HEAD / NIB_KV_GROUP,
};

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *q = args->in[0], *k = args->in[1], *v = args->in[2];
    const nib_tensor *slopes = args->in[3];
    const int64_t heads = args->attr[0].i, start = args->attr[1].i;
    NIB_TRY(nib_op_want_dense_f32(args->op, "q", q));
    NIB_TRY(nib_kv_want(args->op, "k", k));
    NIB_TRY(nib_kv_want(args->op, "v", v));
    char a[96], b[96];
    if (q->shape.ndim != 2 || !nib_shape_equal(&k->shape, &v->shape) || heads <= 0 ||
        k->shape.dim[0] <= 0 || heads % k->shape.dim[0] != 0 ||
        q->shape.dim[1] != heads * k->shape.dim[2] || k->shape.dim[2] > NIB_ATTENTION_HEAD)
        return NIB_RAISE(NIB_E_SHAPE, "attention: q is %s for %lld heads but the cache is %s",
                         nib_shape_text(&q->shape, a, sizeof a), (long long)heads,
                         nib_shape_text(&k->shape, b, sizeof b));
    if (start < 0 || start > k->shape.dim[1] - q->shape.dim[0])
        return NIB_RAISE(NIB_E_SHAPE, "attention: %lld rows at %lld pass the cache's %lld tokens",
                         (long long)q->shape.dim[0], (long long)start, (long long)k->shape.dim[1]);
    if (slopes != NIB_NONE) {
        NIB_TRY(nib_op_want_dense_f32(args->op, "slopes", slopes));
        if (slopes->shape.ndim != 1 || slopes->shape.dim[0] != heads)
            return NIB_RAISE(NIB_E_SHAPE, "attention: slopes are %s for %lld heads",
                             nib_shape_text(&slopes->shape, a, sizeof a), (long long)heads);
    }
    *out = q->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

const nib_op nib_op_attention = {
    .name = "attention",
    .nout = 1,
    .shape = shape,
    .backward = nib_attention_backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1) | NIB_SAVES_IN(2) | NIB_SAVES_IN(3),
    .schema = "nib::attention(Tensor q, Tensor k, Tensor v, int heads, SymInt start, int window, "
              "float scale, Tensor? slopes=None) -> Tensor",
};

/* One part of one head of a tensor's part. */
typedef struct stream {
    const unsigned char *data; /* NULL: the layout has no such part */
    size_t head, step;         /* bytes */
} stream;

static stream stream_of(const nib_tensor *t, int i) {
    if (i >= t->nparts) return (stream){0};
    const size_t step = nib_kv_part_step(t, i);
    const int64_t T = t->shape.dim[1];
    const size_t head = t->layout ? step * (size_t)(T / PART) : (size_t)T * (step / PART);
    return (stream){nib_tensor_part(t, i), head, step};
}

static const void *part_at(const stream *s, int64_t head, int64_t part) {
    return s->data ? s->data + (size_t)head * s->head + (size_t)part * s->step : NULL;
}

typedef struct attention {
    const nib_kernels *kernels;
    void (*attend)(float *out, float *max, float *sum, const nib_attention_rows *rows,
                   const nib_kv_part *part);
    const float *q, *slopes; /* slopes [H], or NULL */
    float *y, scale;
    int64_t M, H, heads, d, start, window; /* heads: query heads of a key head */
    int64_t group;                         /* columns of a code sum; 0: queries stay floats */
    stream k[3], v[3];
    int64_t tile, tiles, spans; /* rows of a tile, tiles of a key head, spans at most */
    float *partial; /* [key head, row, span] of d + 2 floats: results of a span, max and sum */
} attention;

/* The queries of a tile, side by side. */
typedef struct queries {
    float q[TILE], factor[NIB_ATTENTION_ROWS];
    int16_t code[TILE];
    int32_t code_sum[NIB_ATTENTION_ROWS * PER_HEAD];
} queries;

/* Rows [row, row + n) of a key head: head row % heads at position start + row / heads. */
typedef struct tile {
    const attention *a;
    const queries *queries;
    int64_t head, row, n;
} tile;

static int64_t position(const tile *t, int64_t r) {
    return t->a->start + (t->row + r) / t->a->heads;
}
static int64_t first_token(const tile *t, int64_t r) {
    const int64_t at = position(t, r), window = t->a->window;
    return window > 0 && at >= window ? at - window + 1 : 0;
}
/* Where row r of the tile lies in q and y. */
static int64_t place(const tile *t, int64_t r) {
    const attention *a = t->a;
    const int64_t row = t->row + r, h = t->head * a->heads + row % a->heads;
    return (row / a->heads * a->H + h) * a->d;
}

static tile tile_open(const attention *a, int64_t head, int64_t index, queries *q) {
    const int64_t rows = a->M * a->heads, row = index * a->tile;
    const tile t = {a, q, head, row, rows - row < a->tile ? rows - row : a->tile};
    for (int64_t r = 0; r < t.n; r++)
        memcpy(q->q + r * a->d, a->q + place(&t, r), (size_t)a->d * sizeof *q->q);
    if (a->group)
        a->kernels->attention_codes(q->code, q->code_sum, q->factor, q->q, t.n, a->d, a->group,
                                    a->scale);
    return t;
}

/* One part into the results of the rows that see some of it: a run, since positions ascend. */
static void add_part(const tile *t, int64_t part, float *out, float *max, float *sum) {
    const attention *a = t->a;
    const int64_t from = part * PART, d = a->d;
    int32_t first[NIB_ATTENTION_ROWS], end[NIB_ATTENTION_ROWS], own[NIB_ATTENTION_ROWS];
    float slope[NIB_ATTENTION_ROWS];
    int64_t begin = 0, n = 0;
    for (int64_t r = 0; r < t->n; r++) {
        const int64_t last = position(t, r) - from, low = first_token(t, r) - from;
        if (last < 0) begin = r + 1;
        if (last < 0 || low >= PART) continue;
        first[n] = low > 0 ? (int32_t)low : 0;
        own[n] = (int32_t)last;
        slope[n] = a->slopes ? a->slopes[t->head * a->heads + (t->row + r) % a->heads] : 0;
        end[n++] = last < PART ? (int32_t)last + 1 : PART;
    }
    if (!n) return;
    const int64_t groups = a->group ? (d + a->group - 1) / a->group : 0;
    const nib_attention_rows rows = {.rows = n,
                                     .d = d,
                                     .first = first,
                                     .end = end,
                                     .q = t->queries->q + begin * d,
                                     .scale = a->scale,
                                     .code = t->queries->code + begin * nib_kv_dp(d),
                                     .code_sum = t->queries->code_sum + begin * groups,
                                     .factor = t->queries->factor + begin,
                                     .slope = a->slopes ? slope : NULL,
                                     .own = own};
    a->attend(out + begin * d, max + begin, sum + begin, &rows,
              &(nib_kv_part){.k = part_at(&a->k[0], t->head, part),
                             .v = part_at(&a->v[0], t->head, part),
                             .k_scale = part_at(&a->k[1], t->head, part),
                             .k_shift = part_at(&a->k[2], t->head, part),
                             .v_scale = part_at(&a->v[1], t->head, part),
                             .v_shift = part_at(&a->v[2], t->head, part)});
}

/* The tokens of one span; rows that see none of it are left with a sum of 0. */
static void add_span(const tile *t, int64_t span, float *out, float *max, float *sum) {
    const int64_t low = first_token(t, 0) / PART, high = position(t, t->n - 1) / PART;
    const int64_t begin = span * (SPAN / PART), end = begin + SPAN / PART - 1;
    memset(out, 0, (size_t)(t->n * t->a->d) * sizeof *out);
    for (int64_t r = 0; r < t->n; r++) max[r] = -INFINITY, sum[r] = 0;
    for (int64_t part = low > begin ? low : begin; part <= (high < end ? high : end); part++)
        add_part(t, part, out, max, sum);
}

static void finish(float *y, float sum, int64_t d) {
    const float inverse = 1.0f / sum;
    for (int64_t i = 0; i < d; i++) y[i] *= inverse;
}

/* Tiles whole, span after span. */
static void tiles(void *user, int64_t begin, int64_t end) {
    const attention *a = user;
    for (int64_t i = begin; i < end; i++) {
        queries q;
        float out[TILE], max[NIB_ATTENTION_ROWS], sum[NIB_ATTENTION_ROWS];
        float all_max[NIB_ATTENTION_ROWS], all_sum[NIB_ATTENTION_ROWS];
        const tile t = tile_open(a, i / a->tiles, i % a->tiles, &q);
        for (int64_t r = 0; r < t.n; r++) {
            memset(a->y + place(&t, r), 0, (size_t)a->d * sizeof *a->y);
            all_max[r] = -INFINITY, all_sum[r] = 0;
        }
        for (int64_t s = first_token(&t, 0) / SPAN; s <= position(&t, t.n - 1) / SPAN; s++) {
            add_span(&t, s, out, max, sum);
            for (int64_t r = 0; r < t.n; r++)
                if (sum[r] != 0)
                    a->kernels->attention_merge_f32(a->y + place(&t, r), &all_max[r], &all_sum[r],
                                                    out + r * a->d, max[r], sum[r], a->d);
        }
        for (int64_t r = 0; r < t.n; r++) finish(a->y + place(&t, r), all_sum[r], a->d);
    }
}

static float *partial_at(const tile *t, int64_t r, int64_t span) {
    const attention *a = t->a;
    return a->partial + (((t->head * a->M * a->heads) + t->row + r) * a->spans + span) * (a->d + 2);
}

/* One span of one tile each; and then their merge. */
static void spans(void *user, int64_t begin, int64_t end) {
    const attention *a = user;
    for (int64_t i = begin; i < end; i++) {
        queries q;
        float out[TILE], max[NIB_ATTENTION_ROWS], sum[NIB_ATTENTION_ROWS];
        const int64_t span = i % a->spans, index = i / a->spans;
        const tile t = tile_open(a, index / a->tiles, index % a->tiles, &q);
        add_span(&t, span, out, max, sum);
        for (int64_t r = 0; r < t.n; r++) {
            float *to = partial_at(&t, r, span);
            memcpy(to, out + r * a->d, (size_t)a->d * sizeof *to);
            to[a->d] = max[r], to[a->d + 1] = sum[r];
        }
    }
}

static void merge(void *user, int64_t begin, int64_t end) {
    const attention *a = user;
    for (int64_t i = begin; i < end; i++) {
        const int64_t rows = a->M * a->heads;
        const tile t = {.a = a, .head = i / rows, .row = i % rows, .n = 1};
        float *y = a->y + place(&t, 0), max = -INFINITY, sum = 0;
        memset(y, 0, (size_t)a->d * sizeof *y);
        for (int64_t s = 0; s < a->spans; s++) {
            const float *from = partial_at(&t, 0, s);
            if (from[a->d + 1] != 0)
                a->kernels->attention_merge_f32(y, &max, &sum, from, from[a->d], from[a->d + 1],
                                                a->d);
        }
        finish(y, sum, a->d);
    }
}

static nib_status run_on(const nib_call_args *args, attention *a) {
    const nib_tensor *q = args->in[0], *k = args->in[1], *v = args->in[2];
    a->kernels = &args->ctx->kernels;
    a->q = nib_tensor_data(q);
    a->slopes = args->in[3] == NIB_NONE ? NULL : nib_tensor_data(args->in[3]);
    a->y = nib_tensor_data_mut(args->out[0]);
    a->scale = (float)args->attr[3].d;
    a->M = q->shape.dim[0];
    a->H = args->attr[0].i;
    a->heads = a->H / k->shape.dim[0];
    a->d = k->shape.dim[2];
    a->start = args->attr[1].i;
    a->window = args->attr[2].i;
    for (int i = 0; i < 3; i++) a->k[i] = stream_of(k, i), a->v[i] = stream_of(v, i);
    const int64_t Hk = k->shape.dim[0], rows = a->M * a->heads;
    a->tile = TILE / nib_kv_dp(a->d);
    if (a->tile > NIB_ATTENTION_ROWS) a->tile = NIB_ATTENTION_ROWS;
    a->tiles = (rows + a->tile - 1) / a->tile;
    a->spans = (a->start + a->M - 1) / SPAN + 1;
    if (a->spans == 1 || Hk * a->tiles >= FEW || nib_pool_threads(args->ctx->pool) == 1) {
        nib_parallel_for(args->ctx->pool, Hk * a->tiles, 1, tiles, a);
        return NIB_OK;
    }
    size_t size;
    if (nib_mul_size((size_t)(Hk * rows * a->spans), (size_t)(a->d + 2) * sizeof(float), &size))
        return NIB_RAISE(NIB_E_MEMORY, "attention: too many tokens");
    a->partial = nib_mem_alloc(nib_ctx_mem(args->ctx), size);
    if (!a->partial) return nib_last_error()->status;
    nib_parallel_for(args->ctx->pool, Hk * a->tiles * a->spans, 1, spans, a);
    nib_parallel_for(args->ctx->pool, Hk * rows, 4, merge, a);
    nib_mem_free(nib_ctx_mem(args->ctx), a->partial, size);
    return NIB_OK;
}

static nib_status run_f32(const nib_call_args *args) {
    return run_on(args, &(attention){.attend = args->ctx->kernels.attention_f32});
}
static nib_status run_f8(const nib_call_args *args) {
    return run_on(args, &(attention){.attend = args->ctx->kernels.attention_f8});
}
static nib_status run_i8(const nib_call_args *args) {
    return run_on(args, &(attention){.attend = args->ctx->kernels.attention_i8,
                                     .group = args->in[1]->shape.dim[2]});
}
static nib_status run_i4(const nib_call_args *args) {
    return run_on(args,
                  &(attention){.attend = args->ctx->kernels.attention_i4, .group = NIB_KV_GROUP});
}

static bool both(const nib_call_args *args, const char *k, const char *v) {
    const nib_layout *a = args->in[1]->layout, *b = args->in[2]->layout;
    return k ? a && b && strcmp(a->name, k) == 0 && strcmp(b->name, v) == 0 : !a && !b;
}
static bool is_f32(const nib_call_args *args) { return both(args, NULL, NULL); }
static bool is_f8(const nib_call_args *args) { return both(args, "kv_k8f", "kv_v8f"); }
static bool is_i8(const nib_call_args *args) { return both(args, "kv_k8", "kv_v8"); }
static bool is_i4(const nib_call_args *args) { return both(args, "kv_k4", "kv_v4"); }

const nib_impl nib_impl_attention_f32 = {.op = &nib_op_attention,
                                         .device = "cpu",
                                         .layouts = "q, k, v:dense f32",
                                         .accepts = is_f32,
                                         .run = run_f32};
const nib_impl nib_impl_attention_f8 = {.op = &nib_op_attention,
                                        .device = "cpu",
                                        .layouts = "q:dense f32, k:kv_k8f, v:kv_v8f",
                                        .accepts = is_f8,
                                        .run = run_f8};
const nib_impl nib_impl_attention_i8 = {.op = &nib_op_attention,
                                        .device = "cpu",
                                        .layouts = "q:dense f32, k:kv_k8, v:kv_v8",
                                        .accepts = is_i8,
                                        .run = run_i8};
const nib_impl nib_impl_attention_i4 = {.op = &nib_op_attention,
                                        .device = "cpu",
                                        .layouts = "q:dense f32, k:kv_k4, v:kv_v4",
                                        .accepts = is_i4,
                                        .run = run_i4};

nib_tensor *nib_attention(const nib_tensor *q, const nib_tensor *k, const nib_tensor *v,
                          int64_t heads, int64_t start, int64_t window, double scale) {
    return nib_attention_alibi(q, k, v, NIB_NONE, heads, start, window, scale);
}

nib_tensor *nib_attention_alibi(const nib_tensor *q, const nib_tensor *k, const nib_tensor *v,
                                const nib_tensor *slopes, int64_t heads, int64_t start,
                                int64_t window, double scale) {
    if (!q || !k || !v || !slopes) return NULL;
    return nib_call_one(q->ctx, &nib_op_attention, 4, (const nib_tensor *[]){q, k, v, slopes}, 4,
                        (nib_attr[]){{.i = heads}, {.i = start}, {.i = window}, {.d = scale}});
}
