#include "quant/make_up.h"

#include <string.h>

#include "base/parallel.h"
#include "quant/gptq.h"
#include "tensor/context.h"

/* RUN rows at a time, turned about: their products in f32, the sums of runs in f64. */
enum { RUN = 256, WIDE = 16, TALL = 64 };

typedef struct crossing {
    const nib_kernels *kernels;
    const float *x, *r;         /* [rows, K], [rows, N] */
    float *turned_x, *turned_r; /* [K, RUN], [N, RUN] */
    double *cross;              /* [N, K] */
    int64_t rows, K, N;
} crossing;

static void turn(float *to, const float *from, int64_t rows, int64_t width, int64_t i) {
    for (int64_t m = 0; m < rows; m++) to[m] = from[m * width + i];
    memset(to + rows, 0, (size_t)(RUN - rows) * sizeof *to);
}

static void turn_some(void *user, int64_t begin, int64_t end) {
    const crossing *c = user;
    for (int64_t i = begin; i < end; i++)
        if (i < c->K)
            turn(c->turned_x + i * RUN, c->x, c->rows, c->K, i);
        else
            turn(c->turned_r + (i - c->K) * RUN, c->r, c->rows, c->N, i - c->K);
}

/* Columns of cross, WIDE at a time. */
static void cross_some(void *user, int64_t begin, int64_t end) {
    const crossing *c = user;
    float panel[RUN * WIDE], tile[TALL * WIDE];
    for (int64_t p = begin; p < end; p++) {
        const int64_t j = p * WIDE, n = c->K - j < WIDE ? c->K - j : WIDE;
        c->kernels->pack_f32(panel, c->turned_x + j * RUN, RUN, n, RUN);
        for (int64_t i = 0; i < c->N; i += TALL) {
            const int64_t tall = c->N - i < TALL ? c->N - i : TALL;
            c->kernels->gemm_f32(tile, WIDE, c->turned_r + i * RUN, RUN, panel, RUN * WIDE, tall, n,
                                 RUN, false);
            for (int64_t t = 0; t < tall; t++)
                for (int64_t k = 0; k < n; k++)
                    c->cross[(i + t) * c->K + j + k] += (double)tile[t * WIDE + k];
        }
    }
}

static nib_status cross(nib_ctx *ctx, crossing c, int64_t rows) {
    nib_mem *mem = nib_ctx_mem(ctx);
    const size_t count = (size_t)(c.K + c.N) * RUN;
    const float *x = c.x, *r = c.r;
    c.turned_x = nib_mem_alloc_array(mem, count, sizeof *c.turned_x);
    if (!c.turned_x) return nib_last_error()->status;
    c.turned_r = c.turned_x + c.K * RUN;
    for (int64_t m = 0; m < rows; m += RUN) {
        c.x = x + m * c.K;
        c.r = r + m * c.N;
        c.rows = rows - m < RUN ? rows - m : RUN;
        nib_parallel_for(ctx->pool, c.K + c.N, 16, turn_some, &c);
        nib_parallel_for(ctx->pool, (c.K + WIDE - 1) / WIDE, 1, cross_some, &c);
    }
    nib_mem_free(mem, c.turned_x, count * sizeof *c.turned_x);
    return NIB_OK;
}

typedef struct solving {
    const double *l; /* [K, K] lower */
    double *b;       /* [N, K] */
    float *out;
    float share;
    int64_t K;
} solving;

/* Rows of b by L L^T, there and back. */
static void solve_rows(void *user, int64_t begin, int64_t end) {
    const solving *s = user;
    const int64_t K = s->K;
    for (int64_t n = begin; n < end; n++) {
        double *b = s->b + n * K;
        for (int64_t k = 0; k < K; k++) {
            const double *row = s->l + k * K;
            double lane[4] = {0};
            for (int64_t j = 0; j < k; j++) lane[j & 3] += row[j] * b[j];
            b[k] = (b[k] - ((lane[0] + lane[1]) + (lane[2] + lane[3]))) / row[k];
        }
        for (int64_t k = K - 1; k >= 0; k--) {
            const double *row = s->l + k * K;
            b[k] /= row[k];
            for (int64_t j = 0; j < k; j++) b[j] -= row[j] * b[k];
        }
        for (int64_t k = 0; k < K; k++) s->out[n * K + k] = s->share * (float)b[k];
    }
}

nib_status nib_make_up(nib_ctx *ctx, const float *r, int64_t N, const float *x, int64_t K,
                       int64_t rows, float share, float *D) {
    nib_mem *mem = nib_ctx_mem(ctx);
    memset(D, 0, (size_t)(N * K) * sizeof *D);
    if (rows < 4 * K) return NIB_OK;
    double *squares = nib_mem_alloc_array(mem, (size_t)(K * K), sizeof *squares),
           *b = squares ? nib_mem_alloc_array(mem, (size_t)(N * K), sizeof *b) : NULL;
    nib_status status = b ? nib_gptq_add(ctx, squares, x, NULL, rows, K) : nib_last_error()->status;
    if (status >= NIB_OK)
        status = cross(ctx, (crossing){&ctx->kernels, x, r, NULL, NULL, b, 0, K, N}, rows);
    if (status >= NIB_OK) {
        double mean = 0;
        for (int64_t k = 0; k < K; k++) mean += squares[k * K + k] / (double)K;
        for (int64_t k = 0; k < K; k++) squares[k * K + k] += 0.003 * mean;
        /* Not positive: inputs that are all zero, or not finite. Nothing is known of r then. */
        if (nib_gptq_cholesky(ctx, squares, K)) {
            solving s = {squares, b, D, share, K};
            nib_parallel_for(ctx->pool, N, 1, solve_rows, &s);
        }
    }
    nib_mem_free(mem, b, (size_t)(N * K) * sizeof *b);
    nib_mem_free(mem, squares, (size_t)(K * K) * sizeof *squares);
    return status;
}
