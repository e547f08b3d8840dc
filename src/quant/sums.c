#include "quant/sums.h"

#include <math.h>
#include <string.h>

#include "base/parallel.h"
#include "tensor/context.h"

/* RUN rows at a time, turned about: their products in f32, the sums of runs in f64. */
enum { RUN = 256, WIDE = 16, TALL = 64 };

typedef struct matrix {
    const float *from; /* [rows, width] */
    float *turned;     /* [width, RUN] */
    int64_t width;
} matrix;

typedef struct adding {
    const nib_kernels *kernels;
    double *sums;        /* [r.width, x.width]; of x by itself the lower triangle */
    matrix r, x;         /* r.from NULL: x by itself */
    const float *weight; /* what each row counts, or NULL */
    int64_t rows;
} adding;

static void turn(const adding *a, const matrix *of, int64_t i) {
    float *to = of->turned + i * RUN;
    for (int64_t m = 0; m < a->rows; m++)
        to[m] = of->from[m * of->width + i] * (a->weight ? a->weight[m] : 1);
    memset(to + a->rows, 0, (size_t)(RUN - a->rows) * sizeof *to);
}

static void turn_some(void *user, int64_t begin, int64_t end) {
    const adding *a = user;
    for (int64_t i = begin; i < end; i++)
        if (i < a->x.width)
            turn(a, &a->x, i);
        else
            turn(a, &a->r, i - a->x.width);
}

/* Columns of sums, WIDE at a time; of x by itself from the diagonal down. */
static void add_some(void *user, int64_t begin, int64_t end) {
    const adding *a = user;
    const bool square = !a->r.from;
    const matrix *r = square ? &a->x : &a->r;
    const int64_t K = a->x.width;
    float panel[RUN * WIDE], tile[TALL * WIDE];
    for (int64_t p = begin; p < end; p++) {
        const int64_t j = p * WIDE, n = K - j < WIDE ? K - j : WIDE;
        a->kernels->pack_f32(panel, a->x.turned + j * RUN, RUN, n, RUN);
        for (int64_t i = square ? j : 0; i < r->width; i += TALL) {
            const int64_t tall = r->width - i < TALL ? r->width - i : TALL;
            a->kernels->gemm_f32(tile, WIDE, r->turned + i * RUN, RUN, panel, RUN * WIDE, tall, n,
                                 RUN, false);
            for (int64_t t = 0; t < tall; t++) {
                const int64_t end_column = square && i + t - j < n - 1 ? i + t - j + 1 : n;
                double *sum = a->sums + (i + t) * K + j;
                for (int64_t c = 0; c < end_column; c++) sum[c] += (double)tile[t * WIDE + c];
            }
        }
    }
}

static nib_status add(nib_ctx *ctx, adding a, int64_t rows) {
    const float *r = a.r.from, *x = a.x.from;
    const int64_t width = a.x.width + a.r.width;
    float *turned = nib_mem_alloc_array(nib_ctx_mem(ctx), (size_t)width * RUN, sizeof *turned);
    if (!turned) return nib_last_error()->status;
    a.kernels = &ctx->kernels;
    a.x.turned = turned;
    a.r.turned = turned + a.x.width * RUN;
    for (int64_t m = 0; m < rows; m += RUN) {
        adding run = a; /* of these rows */
        run.x.from = x + m * a.x.width;
        if (r) run.r.from = r + m * a.r.width;
        if (a.weight) run.weight = a.weight + m;
        run.rows = rows - m < RUN ? rows - m : RUN;
        nib_parallel_for(ctx->pool, width, 16, turn_some, &run);
        nib_parallel_for(ctx->pool, (a.x.width + WIDE - 1) / WIDE, 1, add_some, &run);
    }
    nib_mem_free(nib_ctx_mem(ctx), turned, (size_t)width * RUN * sizeof *turned);
    return NIB_OK;
}

nib_status nib_sums_add(nib_ctx *ctx, double *sums, const float *x, const float *weight,
                        int64_t rows, int64_t K) {
    return add(ctx, (adding){.sums = sums, .x = {.from = x, .width = K}, .weight = weight}, rows);
}

nib_status nib_sums_cross(nib_ctx *ctx, double *sums, const float *r, int64_t N, const float *x,
                          int64_t K, int64_t rows) {
    return add(ctx,
               (adding){.sums = sums, .r = {.from = r, .width = N}, .x = {.from = x, .width = K}},
               rows);
}

/* ---- the factor, row by row in doubles ---- */

double nib_dot_f64(const double *x, const double *y, int64_t n) {
    double lane[4] = {0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) lane[k] += x[i + k] * y[i + k];
    for (; i < n; i++) lane[0] += x[i] * y[i];
    return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

typedef struct factoring {
    double *a; /* [K, K] */
    int64_t K, column;
} factoring;

/* Column j of L for rows below it. */
static void cholesky_rows(void *user, int64_t begin, int64_t end) {
    const factoring *f = user;
    const int64_t K = f->K, j = f->column;
    const double *row_j = f->a + j * K;
    for (int64_t i = j + 1 + begin; i < j + 1 + end; i++) {
        double *row = f->a + i * K;
        row[j] = (row[j] - nib_dot_f64(row, row_j, j)) / row_j[j];
    }
}

bool nib_cholesky(nib_ctx *ctx, double *a, int64_t K) {
    factoring f = {.a = a, .K = K};
    for (int64_t j = 0; j < K; j++) {
        double *row = a + j * K;
        const double rest = row[j] - nib_dot_f64(row, row, j);
        if (!(rest > 0)) return false;
        row[j] = sqrt(rest);
        f.column = j;
        nib_parallel_for(K - j > 256 ? ctx->pool : NULL, K - j - 1, 64, cholesky_rows, &f);
    }
    return true;
}
