#include "quant/gptq.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "quant/codes.h"
#include "quant/mse.h"
#include "quant/sums.h"
#include "tensor/context.h"

/* ---- the factor: U upper triangular with inverse(H) = U^T U ----
 * H with its order turned about has a Cholesky factor L; turned back that is an upper R with
 * H = R R^T, and U is the inverse of R. All of it row by row in doubles. */

typedef struct inverting {
    const double *l; /* [K, K] lower: R turned about */
    float *u;        /* [K, K] upper */
    int64_t K;
} inverting;

/* Column c of the inverse of a lower triangular L, put where it belongs in U: with order turned
 * about, U[K-1-i][K-1-c] = inverse(L)[i][c]... so that row K-1-i of U is row i of the inverse. */
static void invert_columns(void *user, int64_t begin, int64_t end) {
    const inverting *v = user;
    const int64_t K = v->K;
    for (int64_t c = begin; c < end; c++) {
        for (int64_t i = 0; i < c; i++) v->u[(K - 1 - i) * K + (K - 1 - c)] = 0;
        for (int64_t i = c; i < K; i++) {
            const double *row = v->l + i * K;
            double sum = i == c ? 1 : 0;
            for (int64_t k = c; k < i; k++)
                sum -= row[k] * (double)v->u[(K - 1 - k) * K + (K - 1 - c)];
            v->u[(K - 1 - i) * K + (K - 1 - c)] = (float)(sum / row[i]);
        }
    }
}

/* H of columns in the order of `turn`, and its factor. Fails: NIB_E_MEMORY; NIB_E_ARGUMENT for what
 * is not finite, since damping makes a factor of anything else. */
static float *factor_of(nib_ctx *ctx, const float *h, int64_t K, const int32_t *turn) {
    nib_mem *mem = nib_ctx_mem(ctx);
    double *a = nib_mem_alloc_array(mem, (size_t)(K * K), sizeof *a);
    float *u = a ? nib_mem_alloc_array(mem, (size_t)(K * K), sizeof *u) : NULL;
    bool done = false;
    for (double damp = 0.01; u && !done && damp < 1e6; damp *= 10) {
        for (int64_t i = 0; i < K; i++) /* turned about: row i from the end */
            for (int64_t j = 0; j <= i; j++)
                a[i * K + j] =
                    (double)h[(int64_t)turn[K - 1 - i] * K + turn[K - 1 - j]] + (i == j ? damp : 0);
        done = nib_cholesky(ctx, a, K);
    }
    if (done) {
        inverting v = {a, u, K};
        nib_parallel_for(ctx->pool, K, 8, invert_columns, &v);
    }
    nib_mem_free(mem, a, (size_t)(K * K) * sizeof *a);
    if (done) return u;
    if (u)
        NIB_RAISE(NIB_E_ARGUMENT,
                  "gptq: inputs or gradients of %lld columns are not finite, so "
                  "they do not tell what rounding costs; feed other data",
                  (long long)K);
    nib_mem_free(mem, u, (size_t)(K * K) * sizeof *u);
    return NULL;
}

/* ---- rows: codes for scales, then scales for codes, ROUNDS times; the best of them stays, and
 * settles: scales for codes and single codes for scales by turns ---- */

enum { ROUNDS = 4, SETTLES = 3, PASSES = 8, SWEEPS = 4, MAX_UNKNOWNS = 2 * 256 };

typedef struct feeding {
    nib_codes *codes;
    float *w, *asked;         /* [N, K]; with outputs also as it was */
    const float *hout;        /* [N, N] of outputs, or NULL */
    const float *h, *u, *out; /* [K, K] whole, its diagonal 1 in the mean; its factor; that of
                                 outputs [N, N], or NULL */
    const int32_t *rows;      /* with it: the order of rows */
    const float *cost;        /* the diagonal */
    const int32_t *turn; /* columns in the order in which they are rounded: the dearest first */
    int64_t K, G, groups;
    int low, high;
    bool affine;
    nib_pool *pool;
    nib_scratch scratch;
} feeding;

/* What one row works with. */
typedef struct row {
    const float *w;
    float *left, *hq, *he, *best_scale, *best_shift; /* left: weights with what was made up for */
    float *scale, *shift;
    uint8_t *q, *best_q;
    double *system;
} row;

static size_t row_floats(int64_t K, int64_t groups) { return (size_t)(3 * K + 2 * groups); }

static float code_of(const feeding *f, uint8_t q) {
    return f->affine ? (float)q : (float)(int8_t)q;
}
static float back_of(const feeding *f, const row *r, int64_t k) {
    const nib_dtype math = f->codes->desc.math;
    const int64_t g = k / f->G;
    const float v = nib_round_to(r->scale[g] * code_of(f, r->q[k]), math);
    return f->affine ? nib_round_to(v - r->shift[g], math) : v;
}

/* Scale and shift of each group from the weights, by least squared error. */
static void choose(const feeding *f, row *r) {
    const nib_dtype math = f->codes->desc.math;
    for (int64_t g = 0; g < f->groups; g++) {
        const float *w = r->w + g * f->G, *cost = f->cost + g * f->G;
        float least = w[0], most = w[0];
        for (int64_t i = 1; i < f->G; i++) {
            if (w[i] < least) least = w[i];
            if (w[i] > most) most = w[i];
        }
        if (f->affine) {
            r->scale[g] = nib_round_to(nib_round_to(most - least, math) / (float)f->high, math);
            r->shift[g] = nib_round_to(-least, math);
            nib_mse_affine(w, cost, f->G, f->high, math, &r->scale[g], &r->shift[g]);
        } else {
            r->scale[g] = nib_round_to((-least > most ? -least : most) / 127, math);
            nib_mse_symmetric(w, cost, f->G, math, &r->scale[g]);
        }
    }
}

/* Codes of a row, column after column. */
static void feed(const feeding *f, row *r) {
    const int64_t K = f->K;
    for (int64_t k = 0; k < K; k++) r->left[k] = r->w[f->turn[k]];
    for (int64_t k = 0; k < K; k++) {
        const float *u = f->u + k * K;
        const int64_t at = f->turn[k], g = at / f->G;
        const float scale = r->scale[g], shift = f->affine ? r->shift[g] : 0;
        const float steps = scale > 0 ? nearbyintf((r->left[k] + shift) / scale) : 0;
        const float q = steps < (float)f->low    ? (float)f->low
                        : steps > (float)f->high ? (float)f->high
                                                 : steps;
        r->q[at] = (uint8_t)(int)q;
        const float lost = (r->left[k] - back_of(f, r, at)) / u[k];
        for (int64_t j = k + 1; j < K; j++) r->left[j] -= lost * u[j];
    }
}

/* (w - w')^T H (w - w') */
static double objective(const feeding *f, row *r) {
    double sum = 0;
    for (int64_t k = 0; k < f->K; k++) r->he[k] = r->w[k] - back_of(f, r, k);
    for (int64_t k = 0; k < f->K; k++)
        sum += (double)r->he[k] *
               (double)nib_codes_kernels()->dot_f32(f->h + k * f->K, r->he, (size_t)f->K);
    return sum;
}

/* Solve A x = b, n unknowns, A symmetric and positive; b lies behind A. False: it is not. */
static bool solve(double *a, double *b, int n) {
    for (int j = 0; j < n; j++) {
        double *row_j = a + j * n;
        const double rest = row_j[j] - nib_dot_f64(row_j, row_j, j);
        if (!(rest > 1e-12)) return false;
        row_j[j] = sqrt(rest);
        for (int i = j + 1; i < n; i++)
            a[i * n + j] = (a[i * n + j] - nib_dot_f64(a + i * n, row_j, j)) / row_j[j];
        b[j] = (b[j] - nib_dot_f64(row_j, b, j)) / row_j[j];
    }
    for (int j = n - 1; j >= 0; j--) {
        for (int i = j + 1; i < n; i++) b[j] -= a[i * n + j] * b[i];
        b[j] /= a[j * n + j];
    }
    return true;
}

/* Scales and shifts that make the objective least for the codes as they are. */
static void refit(const feeding *f, row *r) {
    const nib_dtype math = f->codes->desc.math;
    const int per = f->affine ? 2 : 1, n = per * (int)f->groups;
    double *a = r->system, *b = a + n * n;
    if (n > MAX_UNKNOWNS) return;
    for (int u = 0; u < n; u++) {
        const int64_t first = u / per * f->G, end = first + f->G;
        memset(r->hq, 0, (size_t)f->K * sizeof *r->hq);
        for (int64_t k = first; k < end; k++) {
            const float v = u % per ? -1 : code_of(f, r->q[k]);
            const float *h = f->h + k * f->K;
            if (v != 0)
                for (int64_t j = 0; j < f->K; j++) r->hq[j] += v * h[j];
        }
        b[u] = 0;
        for (int64_t j = 0; j < f->K; j++) b[u] += (double)r->hq[j] * (double)r->w[j];
        for (int t = 0; t <= u; t++) {
            double sum = 0;
            const int64_t begin = t / per * f->G;
            for (int64_t k = begin; k < begin + f->G; k++)
                sum += (double)r->hq[k] * (t % per ? -1.0 : (double)code_of(f, r->q[k]));
            a[u * n + t] = sum + (t == u ? 1e-6 : 0);
        }
    }
    if (!solve(a, b, n)) return;
    for (int64_t g = 0; g < f->groups; g++) {
        const float scale = nib_round_to((float)b[g * per], math);
        if (!(scale > 0)) continue;
        r->scale[g] = scale;
        if (f->affine) r->shift[g] = nib_round_to((float)b[g * per + 1], math);
    }
}

/* Code by code, one up or down, while that makes the objective less. he = H e must stand. */
static void polish(const feeding *f, row *r) {
    for (int64_t k = 0; k < f->K; k++) r->hq[k] = r->w[k] - back_of(f, r, k);
    for (int64_t k = 0; k < f->K; k++)
        r->he[k] = nib_codes_kernels()->dot_f32(f->h + k * f->K, r->hq, (size_t)f->K);
    bool moved = true;
    for (int pass = 0; moved && pass < PASSES; pass++) {
        moved = false;
        for (int64_t k = 0; k < f->K; k++) {
            const float own = f->h[k * f->K + k], now = back_of(f, r, k);
            const uint8_t was = r->q[k];
            const int at = f->affine ? (int)was : (int)(int8_t)was;
            /* e is to fall where H e is positive: a larger code */
            const int to = r->he[k] > 0 ? at + 1 : at - 1;
            if (to < f->low || to > f->high) continue;
            r->q[k] = (uint8_t)to;
            const float d = back_of(f, r, k) - now; /* e becomes e - d */
            if (!(d * (d * own - 2 * r->he[k]) < 0)) {
                r->q[k] = was;
                continue;
            }
            const float *h = f->h + k * f->K;
            for (int64_t j = 0; j < f->K; j++) r->he[j] -= d * h[j];
            moved = true;
        }
    }
}

/* The row is one better than those before it: kept if so. */
static bool is_best(const feeding *f, row *r, double *best) {
    const double reached = objective(f, r);
    if (!(reached < *best)) return false;
    *best = reached;
    memcpy(r->best_q, r->q, (size_t)f->K);
    memcpy(r->best_scale, r->scale, (size_t)f->groups * sizeof(float));
    if (f->affine) memcpy(r->best_shift, r->shift, (size_t)f->groups * sizeof(float));
    return true;
}

static void back_to_best(const feeding *f, row *r) {
    memcpy(r->q, r->best_q, (size_t)f->K);
    memcpy(r->scale, r->best_scale, (size_t)f->groups * sizeof(float));
    if (f->affine) memcpy(r->shift, r->best_shift, (size_t)f->groups * sizeof(float));
}

/* The row's weights may differ from what was asked: with what other rows miss. */
static void feed_row(feeding *f, int64_t n, float *memory, bool again) {
    row r = {.w = f->w + n * f->K,
             .left = memory,
             .hq = memory + f->K,
             .he = memory + 2 * f->K,
             .best_scale = memory + 3 * f->K,
             .best_shift = memory + 3 * f->K + f->groups,
             .scale = f->codes->scale + n * f->groups,
             .shift = f->affine ? f->codes->zero + n * f->groups : NULL,
             .q = (uint8_t *)f->codes->q + n * f->K};
    const size_t floats = row_floats(f->K, f->groups) * sizeof(float);
    r.system = (double *)(void *)((char *)memory + (floats + 7) / 8 * 8);
    const size_t unknowns = (size_t)(f->affine ? 2 : 1) * (size_t)f->groups;
    r.best_q = (uint8_t *)(r.system + unknowns * unknowns + unknowns);
    double best = INFINITY;
    for (int round = -1; round < ROUNDS; round++) {
        if (round < 0 && !again) continue;
        if (round == 0) choose(f, &r);
        if (round > 0) refit(f, &r);
        if (round >= 0) feed(f, &r);
        polish(f, &r);
        if (!is_best(f, &r, &best) && round > 0) break;
    }
    if (best == (double)INFINITY) return; /* not a number: as it came */
    for (int turn = 0, better = 1; better && turn < SETTLES; turn++) {
        back_to_best(f, &r);
        refit(f, &r);
        polish(f, &r);
        better = is_best(f, &r, &best);
    }
    back_to_best(f, &r);
    if (!f->out) return;
    for (int64_t k = 0; k < f->K; k++) r.left[k] = r.w[k] - back_of(f, &r, k);
}

/* Every row by itself. */
static void feed_rows(void *user, int64_t begin, int64_t end) {
    feeding *f = user;
    int block;
    float *memory = nib_scratch_take(&f->scratch, &block);
    for (int64_t n = begin; n < end; n++) feed_row(f, n, memory, false);
    nib_scratch_give(&f->scratch, block);
}

/* What the codes of a row miss of what was asked, where its weights stand. */
static void missed(feeding *f, int64_t n) {
    const row r = {.scale = f->codes->scale + n * f->groups,
                   .shift = f->affine ? f->codes->zero + n * f->groups : NULL,
                   .q = (uint8_t *)f->codes->q + n * f->K};
    for (int64_t k = 0; k < f->K; k++)
        f->w[n * f->K + k] = f->asked[n * f->K + k] - back_of(f, &r, k);
}

typedef struct passing {
    feeding *f;
    const float *missed; /* [K] of the row in place `at` of the order */
    float *w;            /* [K] of the row that is made anew */
    int64_t N, at;
} passing;

/* What a row misses goes to rows that come later. */
static void pass_on(void *user, int64_t begin, int64_t end) {
    const passing *p = user;
    const int64_t K = p->f->K;
    const float *u = p->f->out + p->at * p->N;
    for (int64_t j = p->at + 1 + begin; j < p->at + 1 + end; j++) {
        float *w = p->f->w + p->f->rows[j] * K;
        const float by = u[j] / u[p->at];
        for (int64_t k = 0; k < K; k++) w[k] -= by * p->missed[k];
    }
}

/* Columns of a row get what all other rows miss. */
static void take_in(void *user, int64_t begin, int64_t end) {
    const passing *p = user;
    const int64_t K = p->f->K, n = p->f->rows[p->at];
    const float *h = p->f->hout + n * p->N;
    for (int64_t m = 0; m < p->N; m++) {
        const float by = h[m] / h[n], *e = p->f->w + m * K;
        if (m == n || by == 0) continue;
        for (int64_t k = begin; k < end; k++) p->w[k] += by * e[k];
    }
}

/* One row after the other: what a row misses in all is made up for by the rows to come; then each
 * row once more, SWEEPS times, for what all the others miss. */
static void feed_in_order(feeding *f, int64_t N) {
    const int64_t K = f->K;
    int block;
    float *memory = nib_scratch_take(&f->scratch, &block);
    memcpy(f->asked, f->w, (size_t)(N * K) * sizeof *f->w);
    passing p = {.f = f, .missed = memory, .N = N};
    for (p.at = 0; p.at < N; p.at++) {
        feed_row(f, f->rows[p.at], memory, false); /* leaves what it misses in front */
        nib_parallel_for(f->pool, N - p.at - 1, 65536 / K + 1, pass_on, &p);
    }
    /* From here on w holds what each row misses of what was asked. */
    for (int64_t n = 0; n < N; n++) missed(f, n);
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (p.at = 0; p.at < N; p.at++) {
            const int64_t n = f->rows[p.at];
            p.w = f->w + n * K;
            memcpy(p.w, f->asked + n * K, (size_t)K * sizeof *p.w);
            nib_parallel_for(f->pool, K, 65536 / N + 16, take_in, &p);
            feed_row(f, n, memory, true);
            missed(f, n);
        }
    nib_scratch_give(&f->scratch, block);
}

/* The sums as a whole matrix whose diagonal has mean 1. */
static void normalize(float *h, float *cost, const double *sums, int64_t K) {
    double mean = 0;
    for (int64_t i = 0; i < K; i++) mean += sums[i * K + i] / (double)K;
    if (!(mean > 0)) mean = 1; /* inputs that are all zero */
    for (int64_t i = 0; i < K; i++) {
        for (int64_t j = 0; j <= i; j++)
            h[i * K + j] = h[j * K + i] = (float)(sums[i * K + j] / mean);
        cost[i] = h[i * K + i] + 0.001f; /* a column that is always zero counts a little */
    }
}

/* Columns by falling cost; equal ones keep their order. */
static void order(int32_t *turn, const float *cost, int64_t K) {
    for (int64_t i = 0; i < K; i++) {
        int64_t at = i;
        for (; at > 0 && cost[turn[at - 1]] < cost[i]; at--) turn[at] = turn[at - 1];
        turn[at] = (int32_t)i;
    }
}

/* The factor of outputs and the order of rows that it is in; false: as factor_of fails. */
static bool factor_of_outputs(nib_ctx *ctx, const double *outs, int64_t N, float **whole, float **u,
                              int32_t **rows) {
    nib_mem *mem = nib_ctx_mem(ctx);
    float *cost = nib_mem_alloc_array(mem, (size_t)N, sizeof *cost),
          *h = cost ? nib_mem_alloc_array(mem, (size_t)(N * N), sizeof *h) : NULL;
    *rows = h ? nib_mem_alloc_array(mem, (size_t)N, sizeof **rows) : NULL;
    if (*rows) {
        normalize(h, cost, outs, N);
        order(*rows, cost, N);
        *u = factor_of(ctx, h, N, *rows);
    }
    *whole = h;
    nib_mem_free(mem, cost, (size_t)N * sizeof *cost);
    return *u != NULL;
}

nib_status nib_gptq(nib_ctx *ctx, const void *w, const float *more, const double *sums,
                    const double *outs, nib_codes *codes) {
    const nib_qdesc *d = &codes->desc;
    nib_mem *mem = nib_ctx_mem(ctx);
    const int64_t N = d->rows, K = d->cols;
    feeding f = {.codes = codes,
                 .pool = ctx->pool,
                 .K = K,
                 .G = d->block_cols,
                 .groups = K / d->block_cols,
                 .affine = d->zero_kind == NIB_ZERO_SHIFT};
    const size_t unknowns = (size_t)(f.affine ? 2 : 1) * (size_t)f.groups;
    const size_t block = row_floats(K, f.groups) * sizeof(float) + 8 + (size_t)K +
                         (unknowns * unknowns + unknowns) * sizeof(double);
    nib_qdesc_range(d, &f.low, &f.high);
    float *cost = nib_mem_alloc_array(mem, (size_t)K, sizeof *cost), *h = NULL, *wide = NULL,
          *u = NULL, *out = NULL, *hout = NULL, *asked = NULL;
    int32_t *rows = NULL;
    int32_t *turn = cost ? nib_mem_alloc_array(mem, (size_t)K, sizeof *turn) : NULL;
    if (turn) h = nib_mem_alloc_array(mem, (size_t)(K * K), sizeof *h);
    if (h) wide = nib_mem_alloc_array(mem, (size_t)(N * K), sizeof *wide);
    nib_status status = wide ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK) {
        normalize(h, cost, sums, K);
        order(turn, cost, K);
        u = factor_of(ctx, h, K, turn);
        status =
            u ? nib_scratch_open(mem, ctx->pool, N, block, &f.scratch) : nib_last_error()->status;
    }
    if (status >= NIB_OK) {
        nib_to_f32(d->math, wide, w, (size_t)(N * K));
        for (int64_t i = 0; more && i < N * K; i++) wide[i] += more[i];
        f.w = wide;
        f.h = h;
        f.u = u;
        f.cost = cost;
        f.turn = turn;
        if (outs) asked = nib_mem_alloc_array(mem, (size_t)(N * K), sizeof *asked);
        if (outs && (!asked || !factor_of_outputs(ctx, outs, N, &hout, &out, &rows))) {
            status = nib_last_error()->status;
        } else if (outs) {
            f.out = out;
            f.hout = hout;
            f.asked = asked;
            f.rows = rows;
            feed_in_order(&f, N);
        } else {
            nib_parallel_for(ctx->pool, N, 1, feed_rows, &f);
        }
        nib_scratch_close(&f.scratch);
    }
    nib_mem_free(mem, asked, (size_t)(N * K) * sizeof *asked);
    nib_mem_free(mem, hout, (size_t)(N * N) * sizeof *hout);
    nib_mem_free(mem, out, (size_t)(N * N) * sizeof *out);
    nib_mem_free(mem, rows, (size_t)N * sizeof *rows);
    nib_mem_free(mem, u, (size_t)(K * K) * sizeof *u);
    nib_mem_free(mem, wide, (size_t)(N * K) * sizeof *wide);
    nib_mem_free(mem, h, (size_t)(K * K) * sizeof *h);
    nib_mem_free(mem, turn, (size_t)K * sizeof *turn);
    nib_mem_free(mem, cost, (size_t)K * sizeof *cost);
    return status;
}
