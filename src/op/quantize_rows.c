#include "op/quantize_rows.h"

#include <string.h>

#include "base/checked.h"
#include "base/parallel.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { LINE = 64, SET = 512, SOME = 16384 /* floats */ };

/* Rows begin at multiples of a cache line, and not of 512 bytes, since rows of a tile that lie a
 * power of two apart would fight for the same lines of the cache. */
static int64_t row_bytes(int64_t K) {
    const int64_t ld = (K + LINE - 1) / LINE * LINE;
    return ld % SET == 0 && ld ? ld + LINE : ld;
}

static int64_t lines(int64_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

static int64_t groups_of(const nib_rows_kind *kind) {
    return kind->group && kind->K % kind->group == 0 ? kind->K / kind->group : 0;
}

nib_rows_kind nib_rows_kind_of(const nib_tensor *w) {
    nib_rows_kind kind = {.K = w->desc.cols, .group = w->desc.block_cols};
    if (kind.group > kind.K) kind.group = kind.K;
    kind.digits = w->act.when == NIB_ACT_NONE;
    kind.symmetric = kind.digits || w->act.symmetric;
    if (kind.digits) return kind;
    kind.bits = w->act.dtype == NIB_I7 ? 7 : 8;
    kind.eps = w->act.eps;
    kind.all = w->act.block.dim[0] == 0;
    return kind;
}

bool nib_rows_same(const nib_rows_kind *a, const nib_rows_kind *b) {
    return a->K == b->K && a->bits == b->bits && a->symmetric == b->symmetric && a->eps == b->eps &&
           a->all == b->all && a->digits == b->digits;
}

/* A row's own share and, for scale and zero, a line each: so any number of rows has room. */
int64_t nib_rows_width(const nib_rows_kind *kind) {
    const int64_t sums = groups_of(kind) * (int64_t)sizeof(int32_t);
    return nib_rows_count(kind, row_bytes(kind->K) + 2 * LINE + lines(sums));
}

nib_rows_made nib_rows_within(const nib_rows_kind *kind, int64_t M, void *memory) {
    const int64_t ld = row_bytes(kind->K), values = lines(M * (int64_t)sizeof(float));
    char *after = (char *)memory + M * ld;
    return (nib_rows_made){
        .q = memory,
        .ld = ld,
        .scale = (float *)(void *)after,
        .zero = kind->symmetric ? NULL : (int32_t *)(void *)(after + values),
        .sums = groups_of(kind) ? (int32_t *)(void *)(after + 2 * values) : NULL,
    };
}

nib_rows_i8 nib_rows_read(const nib_rows_kind *kind, const nib_rows_made *made) {
    return (nib_rows_i8){.q = made->q,
                         .ld = made->ld,
                         .scale = made->scale,
                         .zero = made->zero,
                         .sums = made->sums,
                         .seven_bits = kind->bits == 7};
}

size_t nib_quantize_rows_size(const nib_rows_kind *kind, int64_t M) {
    size_t codes, whole;
    const size_t rows = (size_t)nib_rows_count(kind, M);
    if (nib_mul_size(rows, (size_t)row_bytes(kind->K), &codes) ||
        nib_add_size(codes, 2 * (rows * sizeof(float) + LINE), &whole))
        return 0;
    return whole;
}

typedef struct rows_job {
    const nib_kernels *k;
    const float *x;
    nib_rows_kind kind;
    nib_rows_made to;
} rows_job;

static void end_row(const rows_job *j, int8_t *q) {
    memset(q + j->kind.K, 0, (size_t)(j->to.ld - j->kind.K));
}

/* Some rows after their codes, not one by one: codes on their way to the cache are read slowly. */
static void sum_rows(const rows_job *j, int64_t begin, int64_t end) {
    const int64_t groups = groups_of(&j->kind);
    for (int64_t m = begin; j->to.sums && m < end; m++)
        j->k->sums_i8(j->to.sums + m * groups, j->to.q + m * j->to.ld, groups, j->kind.group);
}

static void digits_of_some(void *user, int64_t begin, int64_t end) {
    const rows_job *j = user;
    for (int64_t m = begin; m < end; m++) {
        int8_t *q = j->to.q + NIB_DIGITS * m * j->to.ld;
        j->k->digits_row_i8(q, j->to.ld, j->to.scale + NIB_DIGITS * m, j->x + m * j->kind.K,
                            j->kind.K);
        for (int i = 0; i < NIB_DIGITS; i++) end_row(j, q + i * j->to.ld);
    }
    sum_rows(j, NIB_DIGITS * begin, NIB_DIGITS * end);
}

static void quantize_some(void *user, int64_t begin, int64_t end) {
    const rows_job *j = user;
    const bool one_sum = groups_of(&j->kind) == 1;
    j->k->quantize_rows_i8(
        j->to.q + begin * j->to.ld, j->to.ld, j->to.scale + begin,
        j->to.zero ? j->to.zero + begin : NULL, j->to.sums && one_sum ? j->to.sums + begin : NULL,
        j->x + begin * j->kind.K, end - begin, j->kind.K, j->kind.bits, j->kind.eps);
    for (int64_t m = begin; m < end; m++) end_row(j, j->to.q + m * j->to.ld);
    if (!one_sum) sum_rows(j, begin, end);
}

/* One scale for all rows: that of a row which holds just the ends of their range. */
static void choose_for_all(const rows_job *j, int64_t M) {
    float ends[2] = {0, 0};
    int8_t unused[2];
    if (j->kind.K > 0) j->k->minmax_f32(&ends[0], &ends[1], j->x, 1, M * j->kind.K);
    j->k->quantize_rows_i8(unused, 2, j->to.scale, j->to.zero, NULL, ends, 1, 2, j->kind.bits,
                           j->kind.eps);
    for (int64_t m = 1; m < M; m++) {
        j->to.scale[m] = j->to.scale[0];
        if (j->to.zero) j->to.zero[m] = j->to.zero[0];
    }
}

static void quantize_given(void *user, int64_t begin, int64_t end) {
    const rows_job *j = user;
    const int qmax = (1 << (j->kind.bits - 1)) - 1;
    const float inverse = 1.0f / j->to.scale[0];
    for (int64_t m = begin; m < end; m++) {
        int8_t *q = j->to.q + m * j->to.ld;
        j->k->quantize_scaled((uint8_t *)q, j->x + m * j->kind.K, 1, j->kind.K, &inverse,
                              j->to.zero, -qmax - 1, qmax, NIB_F32);
        end_row(j, q);
    }
    sum_rows(j, begin, end);
}

/* Rows that a thread takes at once: enough work beside the price of a claim. */
static int64_t grain_of(int64_t K) { return K < SOME ? SOME / (K + 1) + 1 : 1; }

void nib_quantize_rows(nib_ctx *ctx, const float *x, int64_t M, const nib_rows_kind *kind,
                       int32_t *sums, void *memory, nib_rows_i8 *rows) {
    rows_job job = {.k = &ctx->kernels, .x = x, .kind = *kind};
    job.to = nib_rows_within(kind, nib_rows_count(kind, M), memory);
    job.to.sums = sums;
    if (kind->all && M) choose_for_all(&job, M);
    nib_parallel_for(M > 1 ? ctx->pool : NULL, M, grain_of(kind->K),
                     kind->digits ? digits_of_some
                     : kind->all  ? quantize_given
                                  : quantize_some,
                     &job);
    *rows = nib_rows_read(kind, &job.to);
}

typedef struct laying {
    rows_job rows;
    const int8_t *from;
    float scale;
} laying;

static void lay_some(void *user, int64_t begin, int64_t end) {
    const laying *l = user;
    const rows_job *j = &l->rows;
    for (int64_t m = begin; m < end; m++) {
        int8_t *q = j->to.q + m * j->to.ld;
        j->to.scale[m] = l->scale;
        if (q == l->from + m * j->kind.K) continue;
        memcpy(q, l->from + m * j->kind.K, (size_t)j->kind.K);
        end_row(j, q);
    }
    sum_rows(j, begin, end);
}

/* Can rows of K codes be read where they are? */
static bool lies_well(const int8_t *q, int64_t M, int64_t K) {
    return K % LINE == 0 && (uintptr_t)q % LINE == 0 && (row_bytes(K) == K || M <= NIB_LANE_ROWS);
}

void nib_lay_rows(nib_ctx *ctx, const int8_t *q, float scale, int64_t M, const nib_rows_kind *kind,
                  int32_t *sums, void *memory, nib_rows_i8 *rows) {
    const int64_t K = kind->K;
    laying l = {.rows = {.k = &ctx->kernels, .kind = *kind}, .from = q, .scale = scale};
    l.rows.to = nib_rows_within(&l.rows.kind, M, memory);
    if (lies_well(q, M, K)) {
        l.rows.to.q = (int8_t *)(uintptr_t)q; /* only read */
        l.rows.to.ld = K;
    }
    l.rows.to.sums = sums;
    nib_parallel_for(M > 1 ? ctx->pool : NULL, M, grain_of(K), lay_some, &l);
    *rows = nib_rows_read(&l.rows.kind, &l.rows.to);
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
    nib_parallel_for(M > 1 ? ctx->pool : NULL, M, grain_of(K), sum_some, &job);
}
