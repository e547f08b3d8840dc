#include "op/attention_backward.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "op/gradient.h"
#include "tensor/context.h"

enum { Q, K, V, SLOPES };
enum { ROWS = 64 }; /* queries of a tile */

typedef struct attending {
    const nib_kernels *kernels;
    const float *q, *k, *v, *slopes, *g; /* slopes [H], or NULL */
    float *dq, *dk, *dv;
    int64_t M, H, heads, d, start, window; /* heads: query heads of a key head */
    int64_t T, S; /* tokens that the cache has room for, and that are seen */
    float scale;
    nib_scratch scratch;
} attending;

static int64_t filled(int64_t n) { return (n + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL; }

/* rows [n, d], step apart, as panels of their columns: [filled(d) / 16] of [n, 16] */
static void pack_columns(float *out, const float *rows, int64_t step, int64_t n, int64_t d) {
    for (int64_t c = 0; c < d; c += NIB_PANEL)
        for (int64_t i = 0; i < n; i++, out += NIB_PANEL)
            for (int64_t k = 0; k < NIB_PANEL; k++) out[k] = c + k < d ? rows[i * step + c + k] : 0;
}

static void pack_rows(const attending *a, float *out, const float *rows) {
    for (int64_t j = 0; j < a->S; j += NIB_PANEL)
        a->kernels->pack_f32(out + j * a->d, rows + j * a->d, a->d,
                             a->S - j < NIB_PANEL ? a->S - j : NIB_PANEL, a->d);
}

static int64_t head_floats(const attending *a) {
    const int64_t S = filled(a->S), d = filled(a->d);
    return 2 * S * a->d + a->S * d + ROWS * d + 3 * ROWS * S;
}

/* Of rows [at, at + n) of one head and keys [0, keys): scores become their softmax p, and dp the
 * gradient of the scores. */
static void soften(const attending *a, int64_t head, float *p, float *dp, int64_t at, int64_t n,
                   int64_t keys) {
    for (int64_t r = 0; r < n; r++) {
        const int64_t m = a->start + at + r,
                      first = a->window > 0 && m >= a->window ? m - a->window + 1 : 0;
        float *p_r = p + r * keys, *dp_r = dp + r * keys;
        const size_t seen = (size_t)(m + 1 - first);
        for (int64_t j = first; j <= m; j++) p_r[j] *= a->scale;
        if (a->slopes)
            for (int64_t j = first; j <= m; j++)
                p_r[j] = fmaf(a->slopes[head], (float)(j - m), p_r[j]);
        a->kernels->softmax_f32(p_r + first, seen);
        const float mean = a->kernels->dot_f32(p_r + first, dp_r + first, seen);
        for (int64_t j = first; j <= m; j++) dp_r[j] = p_r[j] * (dp_r[j] - mean) * a->scale;
        for (int64_t j = 0; j < keys; j++)
            if (j < first || j > m) p_r[j] = dp_r[j] = 0;
    }
}

static void turn_tile(float *out, const float *tile, int64_t n, int64_t keys) {
    for (int64_t j = 0; j < keys; j++)
        for (int64_t r = 0; r < n; r++) out[j * n + r] = tile[r * keys + j];
}

/* All rows of one query head. */
static void attend_head(const attending *a, int64_t head, float *memory) {
    const nib_kernels *kernels = a->kernels;
    const int64_t S = a->S, d = a->d, H = a->H, cached = head / a->heads * a->T * d;
    float *dk = a->dk + cached, *dv = a->dv + cached;
    float *keys = memory, *values = keys + filled(S) * d, *columns = values + filled(S) * d,
          *rows = columns + S * filled(d), *p = rows + ROWS * filled(d), *dp = p + ROWS * filled(S),
          *turned = dp + ROWS * filled(S);
    pack_rows(a, keys, a->k + cached);
    pack_rows(a, values, a->v + cached);
    pack_columns(columns, a->k + cached, d, S, d);
    for (int64_t at = 0; at < a->M; at += ROWS) {
        const int64_t n = a->M - at < ROWS ? a->M - at : ROWS, seen = a->start + at + n;
        const float *q = a->q + (at * H + head) * d, *g = a->g + (at * H + head) * d;
        kernels->gemm_f32(p, seen, q, H * d, keys, NIB_PANEL * d, n, seen, d, false);
        kernels->gemm_f32(dp, seen, g, H * d, values, NIB_PANEL * d, n, seen, d, false);
        soften(a, head, p, dp, at, n, seen);
        kernels->gemm_f32(a->dq + (at * H + head) * d, H * d, dp, seen, columns, NIB_PANEL * S, n,
                          d, seen, false);
        turn_tile(turned, dp, n, seen);
        pack_columns(rows, q, H * d, n, d);
        kernels->gemm_f32(dk, d, turned, n, rows, NIB_PANEL * n, seen, d, n, true);
        turn_tile(turned, p, n, seen);
        pack_columns(rows, g, H * d, n, d);
        kernels->gemm_f32(dv, d, turned, n, rows, NIB_PANEL * n, seen, d, n, true);
    }
}

/* Key heads are dealt out: all query heads of one add to its keys and values. */
static void attend_some(void *user, int64_t begin, int64_t end) {
    attending *a = user;
    int block;
    float *memory = nib_scratch_take(&a->scratch, &block);
    for (int64_t head = begin * a->heads; head < end * a->heads; head++)
        attend_head(a, head, memory);
    nib_scratch_give(&a->scratch, block);
}

nib_status nib_attention_backward(nib_backward_args *args) {
    const nib_call_args *call = args->call;
    const nib_tensor *q = call->in[Q], *k = call->in[K], *slopes = call->in[SLOPES];
    nib_ctx *ctx = call->ctx;
    if (k->layout || call->in[V]->layout)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "attention: a cache of codes has no gradient");
    if (args->wants[SLOPES])
        return NIB_RAISE(NIB_E_UNSUPPORTED, "attention: slopes have no gradient");
    float *made[3];
    for (int i = Q; i <= V; i++) {
        args->in[i] = nib_gradient_like(call->in[i]);
        NIB_TRY(nib_gradient_made(args->in[i]));
        made[i] = nib_tensor_data_mut(args->in[i]);
        memset(made[i], 0, nib_tensor_bytes(args->in[i]));
    }
    const int64_t Hk = k->shape.dim[0];
    attending a = {.kernels = &ctx->kernels,
                   .q = nib_tensor_data(q),
                   .k = nib_tensor_data(k),
                   .v = nib_tensor_data(call->in[V]),
                   .slopes = slopes == NIB_NONE ? NULL : nib_tensor_data(slopes),
                   .g = nib_tensor_data(args->out[0]),
                   .dq = made[Q],
                   .dk = made[K],
                   .dv = made[V],
                   .M = q->shape.dim[0],
                   .H = call->attr[0].i,
                   .heads = call->attr[0].i / Hk,
                   .d = k->shape.dim[2],
                   .start = call->attr[1].i,
                   .window = call->attr[2].i,
                   .T = k->shape.dim[1],
                   .S = call->attr[1].i + q->shape.dim[0],
                   .scale = (float)call->attr[3].d};
    if (!nib_tensor_count(q)) return NIB_OK;
    NIB_TRY(nib_scratch_open(nib_ctx_mem(ctx), ctx->pool, Hk,
                             (size_t)head_floats(&a) * sizeof(float), &a.scratch));
    nib_parallel_for(ctx->pool, Hk, 1, attend_some, &a);
    nib_scratch_close(&a.scratch);
    return NIB_OK;
}
