/* hqq.c: every group steps by itself; only whether another step is made hangs on all of them. What
 * each group gives to that question is kept and summed in the order of the groups, so any number of
 * threads gives the same codes. */
#include "quant/hqq.h"

#include <math.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/parallel.h"
#include "quant/codes.h"
#include "quant/qparams.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

enum { ITERATIONS = 20, GRAIN_WEIGHTS = 1 << 12 }; /* of a piece: some 100 us of work */

/* All weights as f32, and for each group a working value and what its latest step measured. */
typedef struct work {
    nib_mem *mem;
    nib_pool *pool;
    const nib_kernels *kernels;
    const nib_tensor *rows;
    nib_codes *out;
    int64_t G, groups; /* columns of a group, groups of all rows */
    float qmin, qmax, beta_inverse;
    float *w, *value;
    double *measured;
} work;

static void widen_rows(void *user, int64_t begin, int64_t end) {
    const work *k = user;
    const nib_tensor *rows = k->rows;
    const int64_t cols = k->out->desc.cols;
    const char *x = nib_tensor_data(rows);
    for (int64_t r = begin; r < end; r++)
        nib_to_f32(rows->dtype, k->w + r * cols,
                   x + r * rows->stride[0] * (nib_dtype_bits(rows->dtype) / 8), (size_t)cols);
}

static void work_free(work *k) {
    const nib_qdesc *d = &k->out->desc;
    nib_mem_free(k->mem, k->measured, (size_t)k->groups * sizeof(double));
    nib_mem_free(k->mem, k->value, (size_t)k->groups * sizeof(float));
    nib_mem_free(k->mem, k->w, (size_t)(d->rows * d->cols) * sizeof(float));
}

static nib_status work_init(work *k, const nib_tensor *rows, nib_codes *out) {
    const nib_qdesc *d = &out->desc;
    int qmin, qmax;
    nib_qdesc_range(d, &qmin, &qmax);
    *k = (work){.mem = nib_ctx_mem(rows->ctx),
                .pool = rows->ctx->pool,
                .kernels = nib_codes_kernels(),
                .rows = rows,
                .out = out,
                .G = d->block_cols,
                .groups = nib_qdesc_blocks(d),
                .qmin = (float)qmin,
                .qmax = (float)qmax};
    k->w = nib_mem_alloc_array(k->mem, (size_t)(d->rows * d->cols), sizeof(float));
    k->value = k->w ? nib_mem_alloc_array(k->mem, (size_t)k->groups, sizeof(float)) : NULL;
    k->measured = k->value ? nib_mem_alloc_array(k->mem, (size_t)k->groups, sizeof(double)) : NULL;
    if (!k->measured) {
        work_free(k);
        return NIB_E_MEMORY;
    }
    nib_parallel_for(k->pool, d->rows, GRAIN_WEIGHTS / d->cols + 1, widen_rows, k);
    return NIB_OK;
}

static void for_groups(work *k, void (*body)(void *user, int64_t begin, int64_t end)) {
    nib_parallel_for(k->pool, k->groups, GRAIN_WEIGHTS / k->G + 1, body, k);
}

static float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* NaN, which only weights that are no numbers give, has code 0. */
static float code_of(float x, float low, float high) {
    return x != x ? 0 : clamp(rintf(x), low, high);
}

/* The proximal operator of |e|^p with p = 0.7 at strength beta: errors shrink towards zero, small
 * ones to it. At e = 0 the power is infinite and the result 0. */
static float shrink(float e, float beta_inverse) {
    const float rest = fabsf(e) - beta_inverse * powf(fabsf(e), 0.7f - 1.0f);
    return rest > 0 ? copysignf(rest, e) : 0;
}

/* ---- zeros: codes are rne(w sc + z), w is (q - z) / sc ---- */

static void begin_zeros(void *user, int64_t begin, int64_t end) {
    const work *k = user;
    const float most = 2e4f;
    for (int64_t g = begin; g < end; g++) {
        float min, max;
        k->kernels->minmax_f32(&min, &max, k->w + g * k->G, 1, k->G);
        const float sc = k->qmax / (max - min), bounded = sc > most ? most : sc;
        k->out->scale[g] = bounded;
        k->value[g] = rintf(-min * bounded);
    }
}

/* One step of each group; measured is the sum of |w - wr|. */
static void step_zeros(void *user, int64_t begin, int64_t end) {
    const work *k = user;
    for (int64_t g = begin; g < end; g++) {
        const float *w = k->w + g * k->G, sc = k->out->scale[g], zero = k->value[g];
        double sum = 0, error = 0;
        for (int64_t i = 0; i < k->G; i++) {
            const float q = code_of(w[i] * sc + zero, 0, k->qmax);
            const float back = (q - zero) / sc, kept = shrink(w[i] - back, k->beta_inverse);
            sum += (double)(q - (w[i] - kept) * sc);
            error += fabs((double)(w[i] - back));
        }
        k->value[g] = (float)(sum / (double)k->G);
        k->measured[g] = error;
    }
}

static void finish_zeros(void *user, int64_t begin, int64_t end) {
    const work *k = user;
    const nib_qdesc *d = &k->out->desc;
    uint8_t *q = k->out->q;
    for (int64_t g = begin; g < end; g++) {
        const float sc = k->out->scale[g], zero = k->value[g];
        for (int64_t i = g * k->G; i < (g + 1) * k->G; i++)
            q[i] = (uint8_t)code_of(k->w[i] * sc + zero, 0, k->qmax);
        const float scale = 1.0f / sc;
        const float middle = ((float)nib_qdesc_mid(d) - zero) * scale;
        k->out->scale[g] = nib_round_to(scale, d->scale_dtype);
        k->out->zero[g] = nib_round_to(middle, d->zero_dtype);
    }
}

nib_status nib_hqq_zero(const nib_tensor *rows, nib_codes *out) {
    work k;
    NIB_TRY(work_init(&k, rows, out));
    for_groups(&k, begin_zeros);
    double beta = 10, best = 1e4;
    for (int i = 0; i < ITERATIONS; i++, beta *= 1.01) {
        k.beta_inverse = (float)(1 / beta);
        for_groups(&k, step_zeros);
        double error = 0;
        for (int64_t g = 0; g < k.groups; g++) error += k.measured[g];
        error = (double)(float)(error / (double)(k.groups * k.G));
        if (!(error < best)) break; /* the zeros of this step are kept all the same */
        best = error;
    }
    for_groups(&k, finish_zeros);
    work_free(&k);
    return NIB_OK;
}

/* ---- scales ---- */

static const float EPS = 0x1p-23f;

static void begin_scales(void *user, int64_t begin, int64_t end) {
    const work *k = user;
    for (int64_t g = begin; g < end; g++) {
        float amax;
        k->kernels->absmax_f32(&amax, k->w + g * k->G, 1, k->G);
        const float scale = amax / -k->qmin; /* |qmin| is the larger bound */
        k->value[g] = scale < EPS ? EPS : scale;
    }
}

/* One step of each group; measured is the relative change of its scale. */
static void step_scales(void *user, int64_t begin, int64_t end) {
    const work *k = user;
    for (int64_t g = begin; g < end; g++) {
        const float *w = k->w + g * k->G, old = k->value[g];
        double wq = 0, qq = 0;
        for (int64_t i = 0; i < k->G; i++) {
            const float q = code_of(w[i] / old, k->qmin, k->qmax);
            wq += (double)(w[i] * q);
            qq += (double)(q * q);
        }
        const float next = (float)qq > 0 ? (float)wq / (float)qq : old;
        const float scale = fabsf(next < EPS ? EPS : next);
        k->value[g] = scale;
        k->measured[g] = (double)(fabsf(scale - old) / (old < EPS ? EPS : old));
    }
}

static void finish_scales(void *user, int64_t begin, int64_t end) {
    const work *k = user;
    uint8_t *q = k->out->q;
    for (int64_t g = begin; g < end; g++) {
        for (int64_t i = g * k->G; i < (g + 1) * k->G; i++)
            q[i] = (uint8_t)(int8_t)code_of(k->w[i] / k->value[g], k->qmin, k->qmax);
        k->out->scale[g] = nib_round_to(k->value[g], k->out->desc.math);
    }
}

nib_status nib_hqq_scale(const nib_tensor *rows, nib_codes *out) {
    const nib_qdesc *d = &out->desc;
    work k;
    NIB_TRY(work_init(&k, rows, out));
    for_groups(&k, begin_scales);
    for (int i = 0; i < ITERATIONS; i++) {
        for_groups(&k, step_scales);
        double change = 0; /* the largest */
        for (int64_t g = 0; g < k.groups; g++)
            if (k.measured[g] > change) change = k.measured[g];
        if (change < (double)1e-5f) break;
    }
    for_groups(&k, finish_scales);
    const int64_t groups = k.groups;
    work_free(&k);
    if (d->scale_dtype == d->math) return NIB_OK;
    /* Another scale dtype: torchao casts the chosen scale and makes the codes again, as min and max
     * would with that scale. */
    for (int64_t g = 0; g < groups; g++)
        out->scale[g] = nib_round_to(out->scale[g], d->scale_dtype);
    nib_affine_rows(&(nib_qrule){.mapping = NIB_MAP_SYMMETRIC}, true, NULL, rows, out);
    return NIB_OK;
}
