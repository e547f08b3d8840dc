#include "quant/hqq.h"

#include <math.h>

#include "base/error.h"
#include "base/mem.h"
#include "quant/codes.h"
#include "quant/qparams.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

enum { ITERATIONS = 20 };

/* All weights as f32, and a working value for each block. */
typedef struct work {
    nib_mem *mem;
    float *w, *value;
    size_t w_size, value_size;
} work;

static nib_status work_init(work *k, const nib_tensor *rows, const nib_qdesc *d) {
    *k = (work){.mem = nib_ctx_mem(rows->ctx)};
    k->w_size = (size_t)(d->rows * d->cols) * sizeof(float);
    k->value_size = (size_t)nib_qdesc_blocks(d) * sizeof(float);
    k->w = nib_mem_alloc(k->mem, k->w_size);
    k->value = k->w ? nib_mem_alloc(k->mem, k->value_size) : NULL;
    if (!k->value) {
        nib_mem_free(k->mem, k->w, k->w_size);
        return NIB_E_MEMORY;
    }
    const char *x = nib_tensor_data(rows);
    for (int64_t r = 0; r < d->rows; r++)
        nib_to_f32(rows->dtype, k->w + r * d->cols,
                   x + r * rows->stride[0] * (nib_dtype_bits(rows->dtype) / 8), (size_t)d->cols);
    return NIB_OK;
}

static void work_free(work *k) {
    nib_mem_free(k->mem, k->value, k->value_size);
    nib_mem_free(k->mem, k->w, k->w_size);
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

static float inverse_scale(const float *w, int64_t G, float qmax, float *zero) {
    float min, max;
    nib_codes_kernels()->minmax_f32(&min, &max, w, 1, G);
    const float most = 2e4f, sc = qmax / (max - min);
    const float bounded = sc > most ? most : sc;
    *zero = rintf(-min * bounded);
    return bounded;
}

/* One step for a group; adds |w - wr| to *error. */
static float step_zero(const float *w, int64_t G, float qmax, float sc, float zero,
                       float beta_inverse, double *error) {
    double sum = 0;
    for (int64_t i = 0; i < G; i++) {
        const float q = code_of(w[i] * sc + zero, 0, qmax);
        const float back = (q - zero) / sc, kept = shrink(w[i] - back, beta_inverse);
        sum += (double)(q - (w[i] - kept) * sc);
        *error += fabs((double)(w[i] - back));
    }
    return (float)(sum / (double)G);
}

nib_status nib_hqq_zero(const nib_tensor *rows, nib_codes *out) {
    const nib_qdesc *d = &out->desc;
    const int64_t G = d->block_cols, groups = nib_qdesc_blocks(d);
    int qmin, qmax;
    nib_qdesc_range(d, &qmin, &qmax);
    work k;
    NIB_TRY(work_init(&k, rows, d));
    float *zero = k.value, *sc = out->scale;
    for (int64_t g = 0; g < groups; g++)
        sc[g] = inverse_scale(k.w + g * G, G, (float)qmax, &zero[g]);
    double beta = 10, best = 1e4;
    for (int i = 0; i < ITERATIONS; i++, beta *= 1.01) {
        double error = 0;
        for (int64_t g = 0; g < groups; g++)
            zero[g] =
                step_zero(k.w + g * G, G, (float)qmax, sc[g], zero[g], (float)(1 / beta), &error);
        error = (double)(float)(error / (double)(groups * G));
        if (!(error < best)) break; /* the zeros of this step are kept all the same */
        best = error;
    }
    uint8_t *q = out->q;
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t i = g * G; i < (g + 1) * G; i++)
            q[i] = (uint8_t)code_of(k.w[i] * sc[g] + zero[g], 0, (float)qmax);
        const float scale = 1.0f / sc[g];
        const float middle = ((float)nib_qdesc_mid(d) - zero[g]) * scale;
        out->scale[g] = nib_round_to(scale, d->scale_dtype);
        out->zero[g] = nib_round_to(middle, d->zero_dtype);
    }
    work_free(&k);
    return NIB_OK;
}

/* ---- scales ---- */

static float step_scale(const float *w, int64_t G, float qmin, float qmax, float scale, float eps) {
    double wq = 0, qq = 0;
    for (int64_t i = 0; i < G; i++) {
        const float q = code_of(w[i] / scale, qmin, qmax);
        wq += (double)(w[i] * q);
        qq += (double)(q * q);
    }
    const float next = (float)qq > 0 ? (float)wq / (float)qq : scale;
    return fabsf(next < eps ? eps : next);
}

nib_status nib_hqq_scale(const nib_tensor *rows, nib_codes *out) {
    const nib_qdesc *d = &out->desc;
    const int64_t G = d->block_cols, groups = nib_qdesc_blocks(d);
    const float eps = 0x1p-23f;
    int qmin, qmax;
    nib_qdesc_range(d, &qmin, &qmax);
    work k;
    NIB_TRY(work_init(&k, rows, d));
    float *scale = k.value;
    for (int64_t g = 0; g < groups; g++) {
        float amax;
        nib_codes_kernels()->absmax_f32(&amax, k.w + g * G, 1, G);
        scale[g] = amax / (float)-qmin; /* |qmin| is the larger bound */
        if (scale[g] < eps) scale[g] = eps;
    }
    for (int i = 0; i < ITERATIONS; i++) {
        float change = 0; /* largest relative change of a scale */
        for (int64_t g = 0; g < groups; g++) {
            const float old = scale[g];
            scale[g] = step_scale(k.w + g * G, G, (float)qmin, (float)qmax, old, eps);
            const float relative = fabsf(scale[g] - old) / (old < eps ? eps : old);
            if (relative > change) change = relative;
        }
        if (change < 1e-5f) break;
    }
    uint8_t *q = out->q;
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t i = g * G; i < (g + 1) * G; i++)
            q[i] = (uint8_t)(int8_t)code_of(k.w[i] / scale[g], (float)qmin, (float)qmax);
        out->scale[g] = nib_round_to(scale[g], d->math);
    }
    work_free(&k);
    if (d->scale_dtype == d->math) return NIB_OK;
    /* Another scale dtype: torchao casts the chosen scale and makes the codes again, as min and max
     * would with that scale. */
    for (int64_t g = 0; g < groups; g++)
        out->scale[g] = nib_round_to(out->scale[g], d->scale_dtype);
    nib_affine_rows(&(nib_qrule){.mapping = NIB_MAP_SYMMETRIC}, true, NULL, rows, out);
    return NIB_OK;
}
