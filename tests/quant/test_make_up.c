/* Errors that inputs tell are found as a function of them, and what they do not tell is left. */
#include "quant/make_up.h"

#include <string.h>

#include "quant/sums.h"
#include "tensor/context.h"
#include "test.h"

enum { N = 9, K = 37, M = 611 };

static void made_up(float *x, float *r, float *D) {
    uint64_t seed = test_seed();
    for (int i = 0; i < M * K; i++) x[i] = test_uniform(&seed);
    for (int i = 0; i < N * K; i++) D[i] = test_uniform(&seed);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += (double)D[n * K + k] * (double)x[m * K + k];
            r[m * N + n] = (float)sum;
        }
}

/* D of `rows` rows by `share`; zeros where they tell nothing. */
static void find(void **state_, nib_ctx *ctx, const float *r, const float *x, int64_t rows,
                 float share, float *D) {
    static double squares[K * K], cross[N * K];
    memset(squares, 0, sizeof squares);
    memset(cross, 0, sizeof cross);
    memset(D, 0, N * K * sizeof *D);
    CHECK_OK(nib_sums_add(ctx, squares, x, NULL, rows, K));
    CHECK_OK(nib_sums_cross(ctx, cross, r, N, x, K, rows));
    if (nib_make_up_factor(ctx, squares, K, rows)) nib_make_up(ctx, squares, cross, N, K, share, D);
}

TEST(errors_that_inputs_tell_are_made_up_for_by_the_share_asked_for) {
    static float x[M * K], r[M * N], D[N * K], found[2][N * K];
    made_up(x, r, D);
    for (int t = 0; t < 2; t++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = t ? 3 : 1});
        find(state_, ctx, r, x, M, 0.5f, found[t]);
        nib_ctx_free(ctx);
    }
    static double squares[K][K];
    double damping = 0; /* 0.3 % of the mean of the diagonal */
    for (int i = 0; i < K; i++)
        for (int k = 0; k < K; k++) {
            for (int m = 0; m < M; m++)
                squares[i][k] += (double)x[m * K + i] * (double)x[m * K + k];
            if (i == k) damping += 0.003 * squares[i][i] / K;
        }
    for (int n = 0; n < N; n++)
        for (int k = 0; k < K; k++) {
            double cross = 0, is = 2 * damping * (double)found[0][n * K + k];
            for (int m = 0; m < M; m++) cross += (double)r[m * N + n] * (double)x[m * K + k];
            for (int i = 0; i < K; i++) is += 2 * (double)found[0][n * K + i] * squares[i][k];
            CHECK_NEAR(is, cross, 1e-3); /* some hundred: runs of rows are added up in f32 */
        }
    CHECK(memcmp(found[0], found[1], sizeof found[0]) == 0);
}

TEST(few_rows_and_inputs_of_zeros_tell_nothing) {
    static float x[M * K], r[M * N], D[N * K], found[N * K];
    made_up(x, r, D);
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (int i = 0; i < 2; i++) {
        find(state_, ctx, r, x, i ? M : 4 * K - 1, 1, found);
        for (int k = 0; k < N * K; k++) CHECK(found[k] == 0);
        memset(x, 0, sizeof x);
    }
    nib_ctx_free(ctx);
}

TESTS(RUNS(errors_that_inputs_tell_are_made_up_for_by_the_share_asked_for),
      RUNS(few_rows_and_inputs_of_zeros_tell_nothing))
