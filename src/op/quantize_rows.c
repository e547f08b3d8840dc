#include "op/quantize_rows.h"

#include <math.h>
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
    int64_t K, ld;
    int8_t *q;
    float *scale;
    int32_t *zero;
} rows_job;

/* torchao's choice for one row: docs/numerics.md, "Quantizing". */
static void quantize_some(void *user, int64_t begin, int64_t end) {
    const rows_job *j = user;
    const int qmin = j->act->dtype == NIB_I7 ? -64 : -128, qmax = -qmin - 1;
    for (int64_t m = begin; m < end; m++) {
        const float *x = j->x + m * j->K;
        int8_t *q = j->q + m * j->ld;
        float low = 0, high = 0, scale;
        int32_t zero = 0;
        if (j->K) j->k->minmax_f32(&low, &high, x, 1, j->K);
        low = low > 0 ? 0 : low;
        high = high < 0 ? 0 : high;
        if (j->act->symmetric) {
            const float most = -low > high ? -low : high;
            scale = most / ((float)(qmax - qmin) / 2);
        } else {
            scale = (high - low) / (float)(qmax - qmin);
        }
        scale = scale < j->act->eps ? j->act->eps : scale;
        if (!j->act->symmetric) {
            const float z = (float)qmin - rintf(low / scale);
            zero = (int32_t)(z < (float)qmin ? (float)qmin : z > (float)qmax ? (float)qmax : z);
            j->zero[m] = zero;
        }
        j->scale[m] = scale;
        const float inverse = 1.0f / scale;
        j->k->quantize_scaled((uint8_t *)q, x, 1, j->K, &inverse, &zero, qmin, qmax, NIB_F32);
        memset(q + j->K, 0, (size_t)(j->ld - j->K));
    }
}

void nib_quantize_rows(nib_ctx *ctx, const float *x, int64_t M, int64_t K, const nib_act *act,
                       void *memory, nib_rows_i8 *rows) {
    const int64_t ld = row_bytes(K);
    const size_t values = ((size_t)M * sizeof(float) + LINE - 1) / LINE * LINE;
    char *after = (char *)memory + M * ld;
    rows_job job = {&ctx->kernels,
                    x,
                    act,
                    K,
                    ld,
                    memory,
                    (float *)(void *)after,
                    act->symmetric ? NULL : (int32_t *)(void *)(after + values)};
    nib_parallel_for(M > 1 ? ctx->pool : NULL, M, 1, quantize_some, &job);
    *rows = (nib_rows_i8){.q = job.q, .ld = ld, .scale = job.scale, .zero = job.zero};
}

typedef struct sums_job {
    const nib_rows_i8 *rows;
    int64_t K, G;
    int32_t *sums;
} sums_job;

static void sum_some(void *user, int64_t begin, int64_t end) {
    const sums_job *j = user;
    for (int64_t m = begin; m < end; m++) {
        const int8_t *q = j->rows->q + m * j->rows->ld;
        int32_t *sums = j->sums + m * (j->K / j->G);
        for (int64_t g = 0; g < j->K / j->G; g++) {
            int32_t sum = 0;
            for (int64_t k = g * j->G; k < (g + 1) * j->G; k++) sum += q[k];
            sums[g] = sum;
        }
    }
}

void nib_sum_rows(nib_ctx *ctx, const nib_rows_i8 *rows, int64_t M, int64_t K, int64_t G,
                  int32_t *sums) {
    sums_job job = {rows, K, G, sums};
    nib_parallel_for(M > 1 ? ctx->pool : NULL, M, 1, sum_some, &job);
}
