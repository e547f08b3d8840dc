/* hqq_shift.c: with r = w - D(q) the error of the present shift, a shrinkage operator names the
 * part e of r that is to be kept as outliers; the next shift is the one that fits the rest best,
 *     z' = mean over the group of (s q - (w - e)),
 * and the weight is rounded again with it. That repeats while the mean |r| over all weights falls.
 *
 * Every step rounds to the dtype of the weight. Sums are taken in double, group by group and then
 * over the groups in order, so the result does not depend on threads. */
#include "quant/hqq_shift.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "quant/codes.h"
#include "tensor/context.h"

/* p of the norm that the errors are to be small in, weight of the quadratic term, its growth at
 * each step, and the number of steps. */
static const double P_NORM = 0.7, BETA = 10.0, KAPPA = 1.01;
enum { STEPS = 20, GRAIN_WEIGHTS = 1 << 14 };

typedef struct problem {
    const nib_kernels *kernels;
    nib_codes *codes;
    nib_dtype math;
    int64_t G; /* columns of a group */
    int qmax;
    const float *w; /* [groups, G] */
    float *shift;   /* [groups]: the one being tried */
    double *error;  /* [groups]: sum of |w - D(q)| */
    float inverse_beta, power;
} problem;

/* sign(r) max(|r| - |r|^(p-1) / beta, 0), each step rounded */
static float shrink(const problem *p, float r) {
    const float size = fabsf(r);
    if (!(size > 0)) return 0;
    const float pull = nib_round_to((float)pow((double)size, (double)p->power), p->math);
    const float rest = nib_round_to(size - nib_round_to(p->inverse_beta * pull, p->math), p->math);
    return rest > 0 ? copysignf(rest, r) : 0;
}

static float value_of(const problem *p, uint8_t q, float scale, float shift) {
    return nib_round_to(nib_round_to(scale * (float)q, p->math) - shift, p->math);
}

/* Errors of the groups with the shifts in p->shift, whose codes are in q. */
static void measure_groups(void *user, int64_t begin, int64_t end) {
    const problem *p = user;
    const uint8_t *q = p->codes->q;
    for (int64_t g = begin; g < end; g++) {
        double sum = 0;
        for (int64_t i = g * p->G; i < (g + 1) * p->G; i++) {
            const float back = value_of(p, q[i], p->codes->scale[g], p->shift[g]);
            sum += (double)nib_round_to(fabsf(p->w[i] - back), p->math);
        }
        p->error[g] = sum;
    }
}

static void round_groups(void *user, int64_t begin, int64_t end) {
    const problem *p = user;
    uint8_t *q = p->codes->q;
    for (int64_t g = begin; g < end; g++) {
        const float minus = -p->shift[g];
        p->kernels->quantize_divided(q + g * p->G, p->w + g * p->G, 1, p->G, &minus,
                                     &p->codes->scale[g], NULL, 0, p->qmax, p->math);
    }
    measure_groups(user, begin, end);
}

/* The next shift of each group from the codes that its present one gave. */
static void improve_groups(void *user, int64_t begin, int64_t end) {
    const problem *p = user;
    const uint8_t *q = p->codes->q;
    for (int64_t g = begin; g < end; g++) {
        const float scale = p->codes->scale[g], shift = p->codes->zero[g];
        double sum = 0;
        for (int64_t i = g * p->G; i < (g + 1) * p->G; i++) {
            const float back = value_of(p, q[i], scale, shift);
            const float outlier = shrink(p, nib_round_to(p->w[i] - back, p->math));
            const float kept = nib_round_to(p->w[i] - outlier, p->math);
            const float step = nib_round_to(scale * (float)q[i], p->math);
            sum += (double)nib_round_to(step - kept, p->math);
        }
        p->shift[g] = nib_round_to((float)(sum / (double)p->G), p->math);
    }
    round_groups(user, begin, end);
}

static float mean_error(const problem *p, int64_t groups) {
    double sum = 0;
    for (int64_t g = 0; g < groups; g++) sum += p->error[g];
    return nib_round_to((float)(sum / (double)(groups * p->G)), p->math);
}

nib_status nib_hqq_shift(nib_ctx *ctx, const void *w, nib_codes *codes) {
    const nib_qdesc *desc = &codes->desc;
    nib_mem *mem = nib_ctx_mem(ctx);
    const size_t count = (size_t)(desc->rows * desc->cols);
    const int64_t groups = nib_qdesc_blocks(desc);
    int qmin;
    problem p = {.kernels = nib_codes_kernels(),
                 .codes = codes,
                 .math = desc->math,
                 .G = desc->block_cols,
                 .power = nib_round_to((float)(P_NORM - 1), desc->math)};
    nib_qdesc_range(desc, &qmin, &p.qmax);
    float *wide = nib_mem_alloc_array(mem, count, sizeof(float));
    p.shift = wide ? nib_mem_alloc_array(mem, (size_t)groups, sizeof(float)) : NULL;
    p.error = p.shift ? nib_mem_alloc_array(mem, (size_t)groups, sizeof(double)) : NULL;
    if (!p.error) goto done;
    nib_to_f32(desc->math, wide, w, count);
    p.w = wide;

    nib_pool *pool = ctx->pool;
    const int64_t grain = GRAIN_WEIGHTS / p.G + 1;
    memcpy(p.shift, codes->zero, (size_t)groups * sizeof(float));
    nib_parallel_for(pool, groups, grain, measure_groups, &p);
    float best = mean_error(&p, groups);
    double beta = BETA;
    for (int step = 0; step < STEPS; step++) {
        p.inverse_beta = (float)(1.0 / beta);
        nib_parallel_for(pool, groups, grain, improve_groups, &p);
        const float error = mean_error(&p, groups);
        if (!(error < best)) break;
        best = error;
        beta *= KAPPA;
        memcpy(codes->zero, p.shift, (size_t)groups * sizeof(float));
    }
    memcpy(p.shift, codes->zero, (size_t)groups * sizeof(float)); /* codes of the last good one */
    nib_parallel_for(pool, groups, grain, round_groups, &p);
done:
    nib_mem_free(mem, wide, count * sizeof(float));
    if (!p.error) {
        nib_mem_free(mem, p.shift, (size_t)groups * sizeof(float));
        return NIB_E_MEMORY;
    }
    nib_mem_free(mem, p.shift, (size_t)groups * sizeof(float));
    nib_mem_free(mem, p.error, (size_t)groups * sizeof(double));
    return NIB_OK;
}
