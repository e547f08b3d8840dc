#include "op/quantize_rows.h"

#include <string.h>

#include "base/checked.h"
#include "base/parallel.h"
#include "tensor/context.h"

enum { LINE = 64, SET = 512 };

/* Rows begin at multiples of a cache line, and not of 512 bytes, since rows of a tile that lie a
 * power of two apart would fight for the same lines of the cache. */
static int64_t row_bytes(int64_t K) {
    const int64_t ld = (K + LINE - 1) / LINE * LINE;
    return ld % SET == 0 && ld ? ld + LINE : ld;
}

size_t nib_quantize_rows_size(int64_t M, int64_t K) {
    size_t codes, whole;
    if (nib_mul_size((size_t)M, (size_t)row_bytes(K), &codes) ||
        nib_add_size(codes, 2 * ((size_t)M * sizeof(float) + LINE), &whole))
        return 0;
    return whole;
}

typedef struct rows_job {
    const nib_kernels *k;
    const float *x;
    const nib_act *act;
    int bits;
    int64_t K, ld;
    int8_t *q;
    float *scale;
    int32_t *zero; /* NULL: symmetric */
} rows_job;

static void quantize_some(void *user, int64_t begin, int64_t end) {
    const rows_job *j = user;
    for (int64_t m = begin; m < end; m++) {
        int8_t *q = j->q + m * j->ld;
        j->k->quantize_row_i8(q, &j->scale[m], j->zero ? &j->zero[m] : NULL, j->x + m * j->K, j->K,
                              j->bits, j->act->eps);
        memset(q + j->K, 0, (size_t)(j->ld - j->K));
    }
}

/* One scale for all rows: that of a row which holds just the ends of their range. */
static void choose_for_all(const rows_job *j, int64_t M) {
    float ends[2] = {0, 0};
    int8_t unused[2];
    if (j->K > 0) j->k->minmax_f32(&ends[0], &ends[1], j->x, 1, M * j->K);
    j->k->quantize_row_i8(unused, j->scale, j->zero, ends, 2, j->bits, j->act->eps);
    for (int64_t m = 1; m < M; m++) {
        j->scale[m] = j->scale[0];
        if (j->zero) j->zero[m] = j->zero[0];
    }
}

static void quantize_given(void *user, int64_t begin, int64_t end) {
    const rows_job *j = user;
    const int qmax = (1 << (j->bits - 1)) - 1;
    const float inverse = 1.0f / j->scale[0];
    for (int64_t m = begin; m < end; m++) {
        int8_t *q = j->q + m * j->ld;
        j->k->quantize_scaled((uint8_t *)q, j->x + m * j->K, 1, j->K, &inverse, j->zero, -qmax - 1,
                              qmax, NIB_F32);
        memset(q + j->K, 0, (size_t)(j->ld - j->K));
    }
}

void nib_quantize_rows(nib_ctx *ctx, const float *x, int64_t M, int64_t K, const nib_act *act,
                       void *memory, nib_rows_i8 *rows) {
    const int64_t ld = row_bytes(K);
    const size_t values = ((size_t)M * sizeof(float) + LINE - 1) / LINE * LINE;
    char *after = (char *)memory + M * ld;
    rows_job job = {.k = &ctx->kernels,
                    .x = x,
                    .act = act,
                    .bits = act->dtype == NIB_I7 ? 7 : 8,
                    .K = K,
                    .ld = ld,
                    .q = memory,
                    .scale = (float *)(void *)after,
                    .zero = act->symmetric ? NULL : (int32_t *)(void *)(after + values)};
    const bool all = act->block.dim[0] == 0;
    if (all && M) choose_for_all(&job, M);
    nib_parallel_for(M > 1 ? ctx->pool : NULL, M, 1, all ? quantize_given : quantize_some, &job);
    *rows = (nib_rows_i8){.q = job.q,
                          .ld = ld,
                          .scale = job.scale,
                          .zero = job.zero,
                          .seven_bits = act->dtype == NIB_I7};
}

typedef struct sums_job {
    const nib_kernels *k;
    const nib_rows_i8 *rows;
    int64_t groups, G;
    int32_t *sums;
} sums_job;

static void sum_some(void *user, int64_t begin, int64_t end) {
    const sums_job *j = user;
    for (int64_t m = begin; m < end; m++)
        j->k->sums_i8(j->sums + m * j->groups, j->rows->q + m * j->rows->ld, j->groups, j->G);
}

void nib_sum_rows(nib_ctx *ctx, const nib_rows_i8 *rows, int64_t M, int64_t K, int64_t G,
                  int32_t *sums) {
    sums_job job = {&ctx->kernels, rows, K / G, G, sums};
    nib_parallel_for(M > 1 ? ctx->pool : NULL, M, 1, sum_some, &job);
}
