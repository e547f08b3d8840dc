#include "quant/make_up.h"

#include "base/parallel.h"
#include "quant/sums.h"
#include "tensor/context.h"

typedef struct solving {
    const double *l; /* [K, K] lower */
    double *b;       /* [N, K] */
    float *out;      /* [N, K] */
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

bool nib_make_up_factor(nib_ctx *ctx, double *squares, int64_t K, int64_t rows) {
    if (rows < 4 * K) return false;
    double mean = 0;
    for (int64_t k = 0; k < K; k++) mean += squares[k * K + k] / (double)K;
    for (int64_t k = 0; k < K; k++) squares[k * K + k] += 0.003 * mean;
    /* Not positive: inputs that are all zero, or not finite. Nothing is known of r then. */
    return nib_cholesky(ctx, squares, K);
}

void nib_make_up(nib_ctx *ctx, const double *factor, double *cross, int64_t N, int64_t K,
                 float share, float *D) {
    solving s = {factor, cross, D, share, K};
    nib_parallel_for(ctx->pool, N, 1, solve_rows, &s);
}
