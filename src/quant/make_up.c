#include "quant/make_up.h"

#include <string.h>

#include "base/parallel.h"
#include "quant/sums.h"
#include "tensor/context.h"

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
            b[k] = (b[k] - nib_dot_f64(row, b, k)) / row[k];
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
    nib_status status = b ? nib_sums_add(ctx, squares, x, NULL, rows, K) : nib_last_error()->status;
    if (status >= NIB_OK) status = nib_sums_cross(ctx, b, r, N, x, K, rows);
    if (status >= NIB_OK) {
        double mean = 0;
        for (int64_t k = 0; k < K; k++) mean += squares[k * K + k] / (double)K;
        for (int64_t k = 0; k < K; k++) squares[k * K + k] += 0.003 * mean;
        /* Not positive: inputs that are all zero, or not finite. Nothing is known of r then. */
        if (nib_cholesky(ctx, squares, K)) {
            solving s = {squares, b, D, share, K};
            nib_parallel_for(ctx->pool, N, 1, solve_rows, &s);
        }
    }
    nib_mem_free(mem, b, (size_t)(N * K) * sizeof *b);
    nib_mem_free(mem, squares, (size_t)(K * K) * sizeof *squares);
    return status;
}
