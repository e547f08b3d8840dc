#include "model/recording.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "op/calls.h"
#include "op/product.h"
#include "quant/codes.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

void nib_recording_open(nib_ctx *ctx, nib_recording *out) {
    *out = (nib_recording){.ctx = ctx, .mem = nib_ctx_mem(ctx)};
}

static void *grown(nib_mem *mem, void *list, size_t count, size_t *room, size_t size) {
    if (count < *room) return list;
    const size_t more = *room ? *room * 2 : 64;
    void *bigger = nib_mem_realloc(mem, list, *room * size, more * size);
    if (bigger) *room = more;
    return bigger;
}

/* ---- recording ---- */

static nib_tensor *held(const nib_tensor *t) {
    return t && t != NIB_NONE ? nib_tensor_retain(t) : NULL;
}

static nib_status after_op(void *self, const nib_op *op, nib_call_args *args) {
    nib_recording *r = self;
    nib_recorded *ops = grown(r->mem, r->ops, r->count, &r->room, sizeof *ops);
    if (!ops) return nib_last_error()->status;
    r->ops = ops;
    nib_recorded *rec = &ops[r->count++];
    *rec = (nib_recorded){.op = op, .nin = args->nin, .nout = args->nout};
    for (int i = 0; i < args->nin; i++) rec->in[i] = held(args->in[i]);
    for (int i = 0; i < args->nout; i++) rec->out[i] = held(args->out[i]);
    memcpy(rec->attr, args->attr, sizeof rec->attr);
    return NIB_OK;
}

static const nib_mode mode = {.name = "record", .after_op = after_op};

static void let_go(nib_recording *r) {
    while (r->count) {
        nib_recorded *rec = &r->ops[--r->count];
        for (int i = 0; i < rec->nin; i++) nib_tensor_free(rec->in[i]);
        for (int i = 0; i < rec->nout; i++) nib_tensor_free(rec->out[i]);
    }
    while (r->ngradients) {
        const nib_gradient *g = &r->gradients[--r->ngradients];
        nib_mem_free(r->mem, g->data, (size_t)g->count * sizeof *g->data);
    }
}

nib_status nib_recording_begin(nib_recording *r) {
    let_go(r);
    return nib_mode_push(r->ctx, &mode, r);
}

void nib_recording_end(nib_recording *r) { (void)nib_mode_pop(r->ctx); }

void nib_recording_close(nib_recording *r) {
    if (!r->ctx) return;
    let_go(r);
    for (size_t i = 0; i < r->nturned; i++) nib_tensor_free(r->turned[i].turned);
    nib_mem_free(r->mem, r->ops, r->room * sizeof *r->ops);
    nib_mem_free(r->mem, r->gradients, r->gradients_room * sizeof *r->gradients);
    nib_mem_free(r->mem, r->turned, r->turned_room * sizeof *r->turned);
    *r = (nib_recording){0};
}

/* ---- gradients ---- */

static nib_gradient *find(nib_recording *r, const nib_tensor *t) {
    const void *of = nib_tensor_data(t);
    for (size_t i = r->ngradients; i-- > 0;)
        if (r->gradients[i].of == of) return &r->gradients[i];
    return NULL;
}

static nib_gradient *add_gradient(nib_recording *r, nib_gradient g) {
    nib_gradient *list =
        grown(r->mem, r->gradients, r->ngradients, &r->gradients_room, sizeof *list);
    if (!list) return NULL;
    r->gradients = list;
    list[r->ngradients] = g;
    return &list[r->ngradients++];
}

/* Where the gradient of t is summed, zeros at first; NULL: no memory. */
static float *into(nib_recording *r, const nib_tensor *t) {
    nib_gradient *g = find(r, t);
    if (g) return g->data;
    const int64_t count = nib_tensor_count(t);
    float *data = nib_mem_alloc_array(r->mem, (size_t)count, sizeof *data); /* zeroed */
    if (!data) return NULL;
    memset(data, 0, (size_t)count * sizeof *data);
    if (add_gradient(r, (nib_gradient){nib_tensor_data(t), data, count})) return data;
    nib_mem_free(r->mem, data, (size_t)count * sizeof *data);
    return NULL;
}

static void give_back(nib_recording *r, const nib_tensor *t) {
    nib_gradient *g = find(r, t);
    if (!g) return;
    nib_mem_free(r->mem, g->data, (size_t)g->count * sizeof *g->data);
    *g = r->gradients[--r->ngradients];
}

typedef struct adding {
    float *to;
    const float *from;
} adding;

static void add_some(void *user, int64_t begin, int64_t end) {
    const adding *a = user;
    for (int64_t i = begin; i < end; i++) a->to[i] += a->from[i];
}

static void add_to(nib_recording *r, float *to, const float *from, int64_t count) {
    nib_parallel_for(r->ctx->pool, count, 16384, add_some, &(adding){to, from});
}

/* ---- linear: dx = g W ---- */

typedef struct turning {
    const float *x;
    float *y;
    int64_t M, N;
} turning;

static void turn_rows(void *user, int64_t begin, int64_t end) {
    enum { TILE = 16 };
    const turning *t = user;
    for (int64_t m = 0; m < t->M; m += TILE)
        for (int64_t n = begin; n < end; n++)
            for (int64_t k = m; k < m + TILE && k < t->M; k++)
                t->y[n * t->M + k] = t->x[k * t->N + n];
}

/* [M, N] -> [N, M] */
static void turn(nib_recording *r, float *y, const float *x, int64_t M, int64_t N) {
    nib_parallel_for(r->ctx->pool, N, 16, turn_rows, &(turning){x, y, M, N});
}

static nib_tensor *matrix(nib_recording *r, int64_t rows, int64_t cols) {
    return nib_tensor_new(r->ctx, NIB_F32, (nib_shape){2, {rows, cols}});
}

/* x [M, K] w [N, K]^T added to `to` [M, N]. */
static nib_status add_product(nib_recording *r, float *to, const nib_tensor *x,
                              const nib_tensor *w) {
    const nib_product product = {.weight = w,
                                 .bias = NIB_NONE,
                                 .up = NIB_NONE,
                                 .up_bias = NIB_NONE,
                                 .residual = to,
                                 .y = to};
    return nib_products(r->ctx, x, &product, 1);
}

static nib_tensor *turned_weight(nib_recording *r, const nib_tensor *w) {
    for (size_t i = 0; i < r->nturned; i++)
        if (r->turned[i].weight == w) return r->turned[i].turned;
    const int64_t N = w->shape.dim[0], K = w->shape.dim[1];
    nib_turned *list = grown(r->mem, r->turned, r->nturned, &r->turned_room, sizeof *list);
    if (!list) return NULL;
    r->turned = list;
    nib_tensor *made = matrix(r, K, N);
    if (!made) return NULL;
    const size_t mark = nib_scope_begin(r->ctx);
    const nib_tensor *dense = w->layout ? nib_dequantize(w) : w;
    float *wide = NULL;
    const size_t count = (size_t)(N * K);
    if (dense && dense->dtype != NIB_F32) {
        wide = nib_mem_alloc_array(r->mem, count, sizeof *wide);
        if (wide) nib_to_f32(dense->dtype, wide, nib_tensor_data(dense), count);
    }
    const bool done = dense && (wide || dense->dtype == NIB_F32);
    if (done) turn(r, nib_tensor_data_mut(made), wide ? wide : nib_tensor_data(dense), N, K);
    nib_mem_free(r->mem, wide, count * sizeof *wide);
    nib_scope_end(r->ctx, mark);
    if (done) {
        list[r->nturned++] = (nib_turned){w, made};
        return made;
    }
    nib_tensor_free(made);
    return NULL;
}

static nib_status linear_backward(nib_recording *r, const nib_recorded *c, const float *g) {
    const nib_tensor *x = c->in[0], *w = c->in[1];
    const int64_t N = w->shape.dim[0], M = nib_tensor_count(c->out[0]) / N;
    const size_t mark = nib_scope_begin(r->ctx);
    nib_tensor *rows = nib_scope_own(r->ctx, matrix(r, M, N));
    nib_status status = rows ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK) {
        memcpy(nib_tensor_data_mut(rows), g, (size_t)(M * N) * sizeof *g);
        float *dx = into(r, x);
        const nib_tensor *turned = dx ? turned_weight(r, w) : NULL;
        status = turned ? add_product(r, dx, rows, turned) : nib_last_error()->status;
    }
    if (status >= NIB_OK && r->linear) {
        const nib_tensor *floats = x->layout ? nib_dequantize(x) : x;
        status = floats ? r->linear(r->user, w, nib_tensor_data(floats), g, M)
                        : nib_last_error()->status;
    }
    nib_scope_end(r->ctx, mark);
    return status;
}

/* ---- norms: y = (x - mean) s w + b, s = 1 / sqrt(mean of squares + eps); RMS: no mean, no b ----
 */

typedef struct norming {
    const float *x, *w, *g;
    float *dx;
    int64_t D;
    float eps;
    bool centred;
} norming;

static void norm_rows(void *user, int64_t begin, int64_t end) {
    const norming *n = user;
    const int64_t D = n->D;
    for (int64_t m = begin; m < end; m++) {
        const float *x = n->x + m * D, *g = n->g + m * D;
        float *dx = n->dx + m * D;
        double sum = 0, squares = 0, gw = 0, gwx = 0;
        if (n->centred)
            for (int64_t i = 0; i < D; i++) sum += (double)x[i];
        const float mean = (float)(sum / (double)D);
        for (int64_t i = 0; i < D; i++) {
            const double v = (double)(x[i] - mean), t = (double)(g[i] * n->w[i]);
            squares += v * v;
            gw += t;
            gwx += t * v;
        }
        const double s = 1 / sqrt(squares / (double)D + (double)n->eps);
        const float a = (float)s, b = (float)(s * s * s * gwx / (double)D),
                    c = n->centred ? (float)(s * gw / (double)D) : 0;
        for (int64_t i = 0; i < D; i++) dx[i] += a * (g[i] * n->w[i]) - b * (x[i] - mean) - c;
    }
}

static nib_status norm_backward(nib_recording *r, const nib_recorded *c, const float *g,
                                bool centred) {
    const nib_tensor *x = c->in[0], *w = c->in[1];
    if (!w) return NIB_RAISE(NIB_E_UNSUPPORTED, "sensing: a norm without a weight");
    const int64_t D = nib_tensor_count(w), M = nib_tensor_count(x) / D;
    float *dx = into(r, x);
    if (!dx) return nib_last_error()->status;
    float *memory = nib_mem_alloc_array(r->mem, (size_t)D, sizeof *memory);
    if (!memory) return nib_last_error()->status;
    nib_to_f32(w->dtype, memory, nib_tensor_data(w), (size_t)D);
    norming n = {.x = nib_tensor_data(x),
                 .w = memory,
                 .g = g,
                 .dx = dx,
                 .D = D,
                 .eps = (float)c->attr[1].d,
                 .centred = centred};
    nib_parallel_for(r->ctx->pool, M, 16, norm_rows, &n);
    nib_mem_free(r->mem, memory, (size_t)D * sizeof *memory);
    return NIB_OK;
}

static nib_status rms_norm_backward(nib_recording *r, const nib_recorded *c, const float *g) {
    return norm_backward(r, c, g, false);
}
static nib_status layer_norm_backward(nib_recording *r, const nib_recorded *c, const float *g) {
    return norm_backward(r, c, g, true);
}

/* ---- rope turned back ---- */

typedef struct rope {
    const float *g, *angles;
    float *dx;
    int64_t heads, half;
} rope;

static void rope_rows(void *user, int64_t begin, int64_t end) {
    const rope *p = user;
    const int64_t half = p->half;
    for (int64_t m = begin; m < end; m++) {
        const float *cosine = p->angles + m * 2 * half, *sine = cosine + half;
        for (int64_t h = m * p->heads; h < (m + 1) * p->heads; h++) {
            const float *g = p->g + h * 2 * half;
            float *dx = p->dx + h * 2 * half;
            for (int64_t j = 0; j < half; j++) {
                dx[j] += g[j] * cosine[j] + g[half + j] * sine[j];
                dx[half + j] += g[half + j] * cosine[j] - g[j] * sine[j];
            }
        }
    }
}

static nib_status rope_backward(nib_recording *r, const nib_recorded *c, const float *g) {
    const nib_tensor *x = c->in[0], *angles = c->in[1];
    float *dx = into(r, x);
    if (!dx) return nib_last_error()->status;
    rope p = {g, nib_tensor_data(angles), dx, c->attr[0].i, angles->shape.dim[2]};
    nib_parallel_for(r->ctx->pool, x->shape.dim[0], 16, rope_rows, &p);
    return NIB_OK;
}

/* ---- the cache: rows that went in at 0 get what their tokens got ---- */

static nib_status append_backward(nib_recording *r, const nib_recorded *c, const float *g) {
    const nib_tensor *cache = c->in[0], *rows = c->in[1];
    if (c->in[2] || c->attr[0].i != 0)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "sensing: a cache that is turned or not empty");
    const int64_t Hk = cache->shape.dim[0], T = cache->shape.dim[1], d = cache->shape.dim[2],
                  M = rows->shape.dim[0];
    float *dx = into(r, rows);
    if (!dx) return nib_last_error()->status;
    for (int64_t m = 0; m < M; m++)
        for (int64_t h = 0; h < Hk; h++)
            for (int64_t i = 0; i < d; i++) dx[(m * Hk + h) * d + i] += g[(h * T + m) * d + i];
    return NIB_OK;
}

/* ---- attention ---- */

typedef struct attending {
    const nib_kernels *kernels;
    const float *q, *k, *v, *slopes, *g;
    float *dq, *dk, *dv;
    int64_t M, H, heads, T, d, window;
    float scale;
    nib_scratch scratch;
} attending;

enum { ROWS = 64, WIDE = 16 }; /* queries of a tile; channels of a panel */

static int64_t up(int64_t n) { return (n + WIDE - 1) / WIDE * WIDE; }

/* rows [n, d], step apart, as panels of WIDE columns: [up(d) / WIDE] of [n, WIDE] */
static void pack_columns(float *out, const float *rows, int64_t step, int64_t n, int64_t d) {
    for (int64_t c = 0; c < d; c += WIDE)
        for (int64_t i = 0; i < n; i++, out += WIDE)
            for (int64_t k = 0; k < WIDE; k++) out[k] = c + k < d ? rows[i * step + c + k] : 0;
}

static void pack_rows(const attending *a, float *out, const float *rows, int64_t n) {
    for (int64_t j = 0; j < n; j += WIDE)
        a->kernels->pack_f32(out + j * a->d, rows + j * a->d, a->d, n - j < WIDE ? n - j : WIDE,
                             a->d);
}

static size_t head_floats(int64_t M, int64_t d) {
    return (size_t)(2 * up(M) * d + M * up(d) + ROWS * up(d) + 3 * ROWS * up(M));
}

/* Scores p and what reaches them, dp, of rows [at, at + n) of one head and keys [0, keys): after
 * softmax, and times its Jacobian. */
static void soften(const attending *a, int64_t head, float *p, float *dp, int64_t at, int64_t n,
                   int64_t keys) {
    for (int64_t r = 0; r < n; r++) {
        const int64_t m = at + r, first = a->window > 0 && m >= a->window ? m - a->window + 1 : 0;
        float *p_r = p + r * keys, *dp_r = dp + r * keys;
        const size_t seen = (size_t)(m + 1 - first);
        for (int64_t j = first; j <= m; j++) p_r[j] *= a->scale;
        if (a->slopes)
            for (int64_t j = first; j <= m; j++) p_r[j] += a->slopes[head] * (float)(j - m);
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

/* All rows of one query head, ROWS at a time. */
static void attend_head(const attending *a, int64_t head, float *memory) {
    const nib_kernels *kernels = a->kernels;
    const int64_t M = a->M, d = a->d, H = a->H, kv = head / a->heads;
    const float *k = a->k + kv * a->T * d, *v = a->v + kv * a->T * d;
    float *dk = a->dk + kv * a->T * d, *dv = a->dv + kv * a->T * d;
    float *keys = memory, *values = keys + up(M) * d, *columns = values + up(M) * d,
          *rows = columns + M * up(d), *p = rows + ROWS * up(d), *dp = p + ROWS * up(M),
          *turned = dp + ROWS * up(M);
    pack_rows(a, keys, k, M);
    pack_rows(a, values, v, M);
    pack_columns(columns, k, d, M, d);
    for (int64_t at = 0; at < M; at += ROWS) {
        const int64_t n = M - at < ROWS ? M - at : ROWS, end = at + n;
        const float *q = a->q + (at * H + head) * d, *g = a->g + (at * H + head) * d;
        kernels->gemm_f32(p, end, q, H * d, keys, WIDE * d, n, end, d, false);
        kernels->gemm_f32(dp, end, g, H * d, values, WIDE * d, n, end, d, false);
        soften(a, head, p, dp, at, n, end);
        kernels->gemm_f32(a->dq + (at * H + head) * d, H * d, dp, end, columns, WIDE * M, n, d, end,
                          true);
        turn_tile(turned, dp, n, end);
        pack_columns(rows, q, H * d, n, d);
        kernels->gemm_f32(dk, d, turned, n, rows, WIDE * n, end, d, n, true);
        turn_tile(turned, p, n, end);
        pack_columns(rows, g, H * d, n, d);
        kernels->gemm_f32(dv, d, turned, n, rows, WIDE * n, end, d, n, true);
    }
}

/* Key heads are dealt out: all query heads of one add to its keys and values. */
static void attend_some(void *user, int64_t begin, int64_t end) {
    attending *a = user;
    int block;
    float *memory = nib_scratch_take(&a->scratch, &block);
    for (int64_t kv = begin; kv < end; kv++)
        for (int64_t h = 0; h < a->heads; h++) attend_head(a, kv * a->heads + h, memory);
    nib_scratch_give(&a->scratch, block);
}

static nib_status attention_backward(nib_recording *r, const nib_recorded *c, const float *g) {
    const nib_tensor *q = c->in[0], *k = c->in[1], *v = c->in[2];
    if (k->layout || v->layout || c->attr[1].i != 0)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "sensing: attention over a cache that is quantized "
                                            "or not empty");
    attending a = {.kernels = &r->ctx->kernels,
                   .q = nib_tensor_data(q),
                   .k = nib_tensor_data(k),
                   .v = nib_tensor_data(v),
                   .slopes = c->in[3] ? nib_tensor_data(c->in[3]) : NULL,
                   .g = g,
                   .M = q->shape.dim[0],
                   .H = c->attr[0].i,
                   .heads = c->attr[0].i / k->shape.dim[0],
                   .T = k->shape.dim[1],
                   .d = k->shape.dim[2],
                   .window = c->attr[2].i,
                   .scale = (float)c->attr[3].d};
    a.dq = into(r, q);
    a.dk = a.dq ? into(r, k) : NULL;
    a.dv = a.dk ? into(r, v) : NULL;
    if (!a.dv) return nib_last_error()->status;
    const int64_t Hk = k->shape.dim[0];
    const size_t floats = head_floats(a.M, a.d);
    NIB_TRY(nib_scratch_open(r->mem, r->ctx->pool, Hk, floats * sizeof(float), &a.scratch));
    nib_parallel_for(r->ctx->pool, Hk, 1, attend_some, &a);
    nib_scratch_close(&a.scratch);
    return NIB_OK;
}

/* ---- element by element ---- */

typedef struct elements {
    const nib_kernels *k;
    const float *g, *x, *y;
    float *dx, *dy;
} elements;

static void silu_mul_some(void *user, int64_t begin, int64_t end) {
    enum { RUN = 256 };
    const elements *e = user;
    float s[RUN];
    for (int64_t at = begin; at < end; at += RUN) {
        const int64_t n = end - at < RUN ? end - at : RUN;
        const float *g = e->g + at, *x = e->x + at, *y = e->y + at;
        e->k->sigmoid_f32(s, x, (size_t)n);
        for (int64_t i = 0; i < n; i++) {
            e->dx[at + i] += g[i] * y[i] * (s[i] * (1 + x[i] * (1 - s[i])));
            e->dy[at + i] += g[i] * (x[i] * s[i]);
        }
    }
}

static nib_status silu_mul_backward(nib_recording *r, const nib_recorded *c, const float *g) {
    elements e = {.k = &r->ctx->kernels,
                  .g = g,
                  .x = nib_tensor_data(c->in[0]),
                  .y = nib_tensor_data(c->in[1])};
    e.dx = into(r, c->in[0]);
    e.dy = e.dx ? into(r, c->in[1]) : NULL;
    if (!e.dy) return nib_last_error()->status;
    nib_parallel_for(r->ctx->pool, nib_tensor_count(c->in[0]), 8192, silu_mul_some, &e);
    return NIB_OK;
}

static nib_status add_backward(nib_recording *r, const nib_recorded *c, const float *g) {
    const int64_t count = nib_tensor_count(c->out[0]);
    for (int i = 0; i < 2; i++) {
        if (nib_tensor_count(c->in[i]) != count)
            return NIB_RAISE(NIB_E_UNSUPPORTED, "sensing: a sum that repeats one side");
        float *dx = into(r, c->in[i]);
        if (!dx) return nib_last_error()->status;
        add_to(r, dx, g, count);
    }
    return NIB_OK;
}

/* Straight through: 8-bit activations, and their way back. */
static nib_status through_backward(nib_recording *r, const nib_recorded *c, const float *g) {
    float *dx = into(r, c->in[0]);
    if (!dx) return nib_last_error()->status;
    add_to(r, dx, g, nib_tensor_count(c->out[0]));
    return NIB_OK;
}

/* ---- all of it ---- */

static nib_status nothing(nib_recording *r, const nib_recorded *c, const float *g) {
    (void)r, (void)c, (void)g;
    return NIB_OK;
}

static const struct {
    const char *op;
    nib_status (*run)(nib_recording *r, const nib_recorded *c, const float *g);
} backwards[] = {
    {"linear", linear_backward},
    {"rms_norm", rms_norm_backward},
    {"layer_norm", layer_norm_backward},
    {"rope", rope_backward},
    {"attention", attention_backward},
    {"silu_mul", silu_mul_backward},
    {"add", add_backward},
    {"quantize_activation", through_backward},
    {"dequantize", through_backward},
    {"embedding", nothing},
};

static nib_status back_through(nib_recording *r, const nib_recorded *c) {
    if (strcmp(c->op->name, "kv_append") == 0) {
        const nib_gradient *g = find(r, c->in[0]);
        if (!g) return NIB_OK;
        const float *data = g->data;
        NIB_TRY(append_backward(r, c, data));
        give_back(r, c->in[0]);
        return NIB_OK;
    }
    const nib_gradient *g = c->nout ? find(r, c->out[0]) : NULL;
    if (!g) return NIB_OK;
    const float *data = g->data; /* stays while the list of gradients grows */
    for (size_t i = 0; i < sizeof backwards / sizeof *backwards; i++) {
        if (strcmp(backwards[i].op, c->op->name) != 0) continue;
        NIB_TRY(backwards[i].run(r, c, data));
        give_back(r, c->out[0]);
        return NIB_OK;
    }
    return NIB_RAISE(NIB_E_UNSUPPORTED, "sensing: %s has no gradient here", c->op->name);
}

nib_status nib_recording_backward(nib_recording *r, const float *gradient) {
    if (!r->count) return NIB_RAISE(NIB_E_ARGUMENT, "nothing was recorded");
    const nib_tensor *last = r->ops[r->count - 1].out[0];
    float *to = into(r, last);
    nib_status status = to ? NIB_OK : nib_last_error()->status;
    if (to) memcpy(to, gradient, (size_t)nib_tensor_count(last) * sizeof *to);
    for (size_t i = r->count; i-- > 0 && status >= NIB_OK;) status = back_through(r, &r->ops[i]);
    let_go(r);
    return status;
}
