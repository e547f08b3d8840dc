/* Sums of products over rows, and the factor of a matrix of them. */
#include "quant/sums.h"

#include "tensor/context.h"
#include "test.h"

enum { ROWS = 300, WIDTH = 37, OTHER = 70 }; /* more than a run, no multiple of a panel or tile */

static float x[ROWS * WIDTH], r[ROWS * OTHER], weight[ROWS];

static void fill(float *to, int n, uint64_t *seed) {
    for (int i = 0; i < n; i++) to[i] = test_uniform(seed);
}

TEST(sums_are_those_of_weighed_rows_for_any_number_of_threads) {
    uint64_t seed = test_seed();
    static double sums[2][WIDTH * WIDTH];
    memset(sums, 0, sizeof sums);
    fill(x, ROWS * WIDTH, &seed);
    fill(weight, ROWS, &seed);
    for (int t = 0; t < 2; t++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = t ? 2 : 1});
        CHECK_OK(nib_sums_add(ctx, sums[t], x, weight, ROWS, WIDTH));
        nib_ctx_free(ctx);
    }
    CHECK_BYTES(sums[0], sums[1], sizeof sums[0]);
    for (int i = 0; i < WIDTH; i++)
        for (int j = 0; j < WIDTH; j++) {
            double sum = 0;
            for (int m = 0; m < ROWS && j <= i; m++)
                sum += (double)weight[m] * (double)weight[m] * (double)x[m * WIDTH + i] *
                       (double)x[m * WIDTH + j];
            CHECK_NEAR(sums[0][i * WIDTH + j], sum, 1e-3);
        }
}

TEST(sums_of_two_grow_by_all_pairs_of_columns) {
    uint64_t seed = test_seed();
    static double sums[OTHER * WIDTH];
    fill(x, ROWS * WIDTH, &seed);
    fill(r, ROWS * OTHER, &seed);
    for (int i = 0; i < OTHER * WIDTH; i++) sums[i] = 1;
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    CHECK_OK(nib_sums_cross(ctx, sums, r, OTHER, x, WIDTH, ROWS));
    nib_ctx_free(ctx);
    for (int n = 0; n < OTHER; n++)
        for (int k = 0; k < WIDTH; k++) {
            double sum = 1;
            for (int m = 0; m < ROWS; m++)
                sum += (double)r[m * OTHER + n] * (double)x[m * WIDTH + k];
            CHECK_NEAR(sums[n * WIDTH + k], sum, 1e-3);
        }
}

TEST(a_factor_times_itself_is_the_matrix_and_what_is_not_positive_has_none) {
    uint64_t seed = test_seed();
    static double a[WIDTH * WIDTH], l[WIDTH * WIDTH];
    memset(a, 0, sizeof a);
    fill(x, ROWS * WIDTH, &seed);
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    CHECK_OK(nib_sums_add(ctx, a, x, NULL, ROWS, WIDTH));
    memcpy(l, a, sizeof l);
    CHECK(nib_cholesky(ctx, l, WIDTH));
    for (int i = 0; i < WIDTH; i++)
        for (int j = 0; j <= i; j++)
            CHECK_NEAR(nib_dot_f64(l + i * WIDTH, l + j * WIDTH, j + 1), a[i * WIDTH + j], 1e-9);
    l[0] = -1;
    CHECK(!nib_cholesky(ctx, l, WIDTH));
    nib_ctx_free(ctx);
}

TESTS(RUNS(sums_are_those_of_weighed_rows_for_any_number_of_threads),
      RUNS(sums_of_two_grow_by_all_pairs_of_columns),
      RUNS(a_factor_times_itself_is_the_matrix_and_what_is_not_positive_has_none))
