#include "op/conv_filters.h"

#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum { LINE = 64, SET = 512, FOUR = 4 };

bool nib_filters_have_codes(const nib_tensor *w) {
    const nib_qdesc *d = &w->desc;
    int qmin, qmax;
    if (!w->layout || !nib_qdesc_integer(d) || nib_qdesc_bits(d) > 8 || d->outer != 0.0f ||
        d->zero_kind != NIB_ZERO_NONE || d->block_cols < d->cols || w->shape.ndim < 2)
        return false;
    const int64_t size = w->shape.dim[1] ? d->cols / w->shape.dim[1] : 0;
    if ((w->shape.dim[1] + FOUR - 1) / FOUR * FOUR * size > NIB_LANE_MAX_GROUP) return false;
    nib_qdesc_range(d, &qmin, &qmax);
    return qmin >= -128 && qmax <= 127;
}

nib_status nib_filters_plan_for(nib_filters_plan *p, const nib_tensor *weight, int64_t groups,
                                nib_filters_form form, bool codes) {
    const nib_shape *s = &weight->shape;
    *p = (nib_filters_plan){.form = form, .codes = codes, .groups = groups, .size = 1};
    const int64_t Cout = s->dim[0], C = s->dim[1];
    for (int i = 2; i < s->ndim; i++) p->size *= s->dim[i];
    p->K = C * p->size;
    p->M = Cout / groups;
    p->runs = (p->M + NIB_ROW_BLOCK - 1) / NIB_ROW_BLOCK;
    p->pieces = groups * p->runs;
    if (form == NIB_FILTERS_FOURS) {
        const int64_t bytes = (C + FOUR - 1) / FOUR * FOUR * p->size;
        p->ld = (bytes + LINE - 1) / LINE * LINE;
        if (p->ld % SET == 0 && p->ld) p->ld += LINE; /* rows that share no lines of the cache */
    }
    const size_t row = form == NIB_FILTERS_FOURS ? (size_t)p->ld : (size_t)p->K * sizeof(float);
    const size_t values = codes ? (size_t)Cout * sizeof(float) : 0;
    size_t size, floats;
    if (nib_mul_size((size_t)Cout, row, &size) || nib_align_size(size, LINE, &p->at_scale) ||
        nib_add_size(p->at_scale, values, &size) || nib_align_size(size, LINE, &p->at_sums) ||
        nib_add_size(p->at_sums, values, &size) || nib_align_size(size, LINE, &p->bytes) ||
        nib_mul_size((size_t)p->K, NIB_ROW_BLOCK * sizeof(float), &floats) ||
        nib_add_size(floats, nib_rows_scratch_size(weight, NIB_ROW_BLOCK), &size) ||
        nib_align_size(size, LINE, &p->piece))
        return NIB_RAISE(NIB_E_MEMORY, "a convolution by %lld filters of %lld numbers overflows",
                         (long long)Cout, (long long)p->K);
    return NIB_OK;
}

typedef struct job {
    const nib_kernels *k;
    const nib_filters_plan *p;
    const nib_tensor *weight;
    char *memory;
    nib_scratch *scratch;
} job;

/* Filters [m, m + n) as floats, [n][K]. */
static const float *floats_of(const job *j, int64_t m, int64_t n, void *room) {
    const nib_tensor *w = j->weight;
    const int64_t K = j->p->K;
    float *out = room;
    if (w->layout) {
        nib_rows_to_f32(w, m, n, out, out + NIB_ROW_BLOCK * K);
        return out;
    }
    const char *data = nib_tensor_data(w);
    data += (size_t)(m * K) * (size_t)nib_dtype_bits(w->dtype) / 8;
    if (w->dtype == NIB_F32) return (const float *)(const void *)data;
    nib_to_f32(w->dtype, out, data, (size_t)(n * K));
    return out;
}

static int8_t code_at(const nib_codes *c, int64_t i) {
    return (int8_t)((const uint8_t *)c->q)[i]; /* unsigned ones are below 128 */
}

/* One filter [C][size] to [C / 4][size][4]; what is not there is 0. */
static int32_t put_fours(int8_t *to, int64_t ld, const nib_codes *c, int64_t i, int64_t C,
                         int64_t size) {
    int32_t sum = 0;
    memset(to, 0, (size_t)ld);
    for (int64_t ch = 0; ch < C; ch++)
        for (int64_t t = 0; t < size; t++) {
            const int8_t q = code_at(c, i + ch * size + t);
            to[(ch / FOUR * size + t) * FOUR + ch % FOUR] = q;
            sum += q;
        }
    return sum;
}

/* Filters [m, m + n) from their codes. -> floats of the codes, unless they go by fours. */
static const float *codes_of(const job *j, int64_t m, int64_t n, void *room) {
    const nib_filters_plan *p = j->p;
    float *floats = room, *scale = (float *)(void *)(j->memory + p->at_scale);
    const nib_codes c = nib_rows_codes(j->weight, m, n, floats + NIB_ROW_BLOCK * p->K);
    const int64_t first = m / c.desc.block_rows;
    for (int64_t r = 0; r < n; r++) {
        scale[m + r] = c.scale[(m + r) / c.desc.block_rows - first];
        if (p->form == NIB_FILTERS_FOURS)
            ((int32_t *)(void *)(j->memory + p->at_sums))[m + r] =
                put_fours((int8_t *)j->memory + (m + r) * p->ld, p->ld, &c, r * p->K,
                          p->K / p->size, p->size);
        else
            for (int64_t k = 0; k < p->K; k++) floats[r * p->K + k] = code_at(&c, r * p->K + k);
    }
    return floats;
}

static void make_some(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const nib_filters_plan *p = j->p;
    int index;
    void *room = nib_scratch_take(j->scratch, &index);
    for (int64_t i = begin; i < end; i++) {
        const int64_t at = i % p->runs * NIB_ROW_BLOCK, m = i / p->runs * p->M + at;
        const int64_t n = p->M - at < NIB_ROW_BLOCK ? p->M - at : NIB_ROW_BLOCK;
        const float *from = p->codes ? codes_of(j, m, n, room) : floats_of(j, m, n, room);
        float *to = (float *)(void *)j->memory + m * p->K;
        if (p->form == NIB_FILTERS_TILES)
            j->k->pack_rows_f32(to, from, p->K, n, p->K);
        else if (p->form == NIB_FILTERS_ROWS)
            memcpy(to, from, (size_t)(n * p->K) * sizeof *to);
    }
    nib_scratch_give(j->scratch, index);
}

void nib_filters_make(nib_ctx *ctx, const nib_filters_plan *plan, const nib_tensor *weight,
                      void *memory, nib_scratch *scratch) {
    job j = {&ctx->kernels, plan, weight, memory, scratch};
    const int64_t some = (int64_t)1 << 14, work = plan->K * NIB_ROW_BLOCK + 1;
    nib_parallel_for(plan->pieces > 1 ? ctx->pool : NULL, plan->pieces,
                     work < some ? some / work : 1, make_some, &j);
}

nib_filters nib_filters_in(const nib_filters_plan *p, const void *memory) {
    const char *at = memory;
    return (nib_filters){.floats = memory,
                         .codes = memory,
                         .ld = p->ld,
                         .scale = (const float *)(const void *)(at + p->at_scale),
                         .sums = (const int32_t *)(const void *)(at + p->at_sums)};
}

/* ---- kept beside the weight ---- */

typedef struct kept {
    nib_filters_plan plan;
    void (*pack)(float *, const float *, int64_t, int64_t, int64_t); /* of whose order tiles are */
    uint64_t of; /* id of the storage that they were made from */
    int64_t version;
} kept;
enum { KEPT = (sizeof(kept) + LINE - 1) / LINE * LINE };

bool nib_filters_kept(const nib_filters_plan *p, const nib_kernels *kernels,
                      const nib_tensor *weight, nib_filters *out) {
    if (!weight->kept) return false;
    const kept *k = (const void *)weight->kept->data;
    if (k->plan.form != p->form || k->plan.codes != p->codes || k->plan.groups != p->groups ||
        k->plan.M != p->M || k->plan.K != p->K || k->of != weight->part[0]->id ||
        k->version != weight->part[0]->version ||
        (p->form == NIB_FILTERS_TILES && k->pack != kernels->pack_rows_f32))
        return false;
    *out = nib_filters_in(p, weight->kept->data + KEPT);
    return true;
}

nib_status nib_filters_keep(nib_ctx *ctx, nib_tensor *weight, const nib_filters_plan *plan) {
    nib_filters have;
    if (nib_filters_kept(plan, &ctx->kernels, weight, &have)) return NIB_OK;
    size_t size;
    if (nib_add_size(plan->bytes, KEPT, &size))
        return NIB_RAISE(NIB_E_MEMORY, "filters of %zu bytes overflow", plan->bytes);
    nib_storage *made = nib_storage_new(nib_ctx_mem(weight->ctx), size);
    if (!made) return nib_last_error()->status;
    nib_scratch scratch;
    nib_status status = nib_scratch_open(&ctx->mem, ctx->pool, plan->pieces, plan->piece, &scratch);
    if (status >= NIB_OK) {
        nib_filters_make(ctx, plan, weight, made->data + KEPT, &scratch);
        nib_scratch_close(&scratch);
        const kept of = {*plan, ctx->kernels.pack_rows_f32, weight->part[0]->id,
                         weight->part[0]->version};
        memcpy(made->data, &of, sizeof of);
        nib_storage_release(weight->kept);
        weight->kept = nib_storage_retain(made);
    }
    nib_storage_release(made);
    return status;
}
