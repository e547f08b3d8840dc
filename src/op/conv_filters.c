#include "op/conv_filters.h"

#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum { LINE = 64, FOUR = 4 };

int64_t nib_filters_words(nib_filters_form form, int64_t channels, int64_t rows, int64_t columns) {
    return form == NIB_FILTERS_RUNS ? channels * rows * ((columns + FOUR - 1) / FOUR)
                                    : (channels + FOUR - 1) / FOUR * rows * columns;
}

int64_t nib_filters_bytes(int64_t M, int64_t words) {
    return (M + NIB_FILTER_BLOCK - 1) / NIB_FILTER_BLOCK * words * NIB_FILTER_BLOCK * FOUR;
}

static int64_t fours(int64_t n) { return (n + FOUR - 1) / FOUR * FOUR; }

static bool in_words(nib_filters_form form) {
    return form == NIB_FILTERS_FOURS || form == NIB_FILTERS_RUNS;
}

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
    p->columns = s->ndim > 2 ? s->dim[s->ndim - 1] : 1;
    p->runs = (p->M + NIB_ROW_BLOCK - 1) / NIB_ROW_BLOCK;
    p->pieces = groups * p->runs;
    size_t size, floats, filters = (size_t)Cout, row = (size_t)p->K * sizeof(float);
    if (in_words(form)) { /* whole blocks; K fits 16 bits */
        p->words = nib_filters_words(form, C, p->columns ? p->size / p->columns : 0, p->columns);
        filters = (size_t)(groups * ((p->M + NIB_FILTER_BLOCK - 1) / NIB_FILTER_BLOCK));
        row = (size_t)nib_filters_bytes(1, p->words);
    } else if (codes) {
        row = (size_t)fours(p->K);
    }
    const size_t values = codes ? (size_t)Cout * sizeof(float) : 0;
    if (nib_mul_size(filters, row, &size) || nib_align_size(size, LINE, &p->at_scale) ||
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

/* Filter m of a group, from code i on, into the words of its group. */
static int32_t put_words(int8_t *group, const nib_filters_plan *p, int64_t m, const nib_codes *c,
                         int64_t i) {
    const int64_t C = p->size ? p->K / p->size : 0, rows = p->columns ? p->size / p->columns : 0;
    const int64_t words = (p->columns + FOUR - 1) / FOUR;
    int8_t *to = group + nib_filters_bytes(m / NIB_FILTER_BLOCK * NIB_FILTER_BLOCK, p->words) +
                 m % NIB_FILTER_BLOCK * FOUR;
    int32_t sum = 0;
    for (int64_t ch = 0; ch < C; ch++)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t t = 0; t < p->columns; t++, i++) {
                const bool runs = p->form == NIB_FILTERS_RUNS;
                const int64_t word = runs ? (ch * rows + row) * words + t / FOUR
                                          : ch / FOUR * p->size + row * p->columns + t;
                const int8_t q = code_at(c, i);
                to[word * NIB_FILTER_BLOCK * FOUR + (runs ? t : ch) % FOUR] = q;
                sum += q;
            }
    return sum;
}

/* One filter, filled up. */
static int32_t put_row(int8_t *to, const nib_filters_plan *p, const nib_codes *c, int64_t i) {
    int32_t sum = 0;
    memset(to + p->K, 0, (size_t)(fours(p->K) - p->K));
    for (int64_t k = 0; k < p->K; k++) sum += to[k] = code_at(c, i + k);
    return sum;
}

/* Filters [m, m + n) of one group from their codes; those of a block that are not there are 0. */
static void put_codes(const job *j, int64_t m, int64_t n, void *room) {
    const nib_filters_plan *p = j->p;
    const nib_codes c = nib_rows_codes(j->weight, m, n, room);
    const int64_t first = m / c.desc.block_rows, of = m / p->M, in = m % p->M;
    int8_t *all = (int8_t *)j->memory, *group = all + of * nib_filters_bytes(p->M, p->words);
    float *scale = (float *)(void *)(j->memory + p->at_scale);
    int32_t *sums = (int32_t *)(void *)(j->memory + p->at_sums);
    if (in_words(p->form))
        memset(group + nib_filters_bytes(in, p->words), 0, (size_t)nib_filters_bytes(n, p->words));
    for (int64_t r = 0; r < n; r++) {
        scale[m + r] = c.scale[(m + r) / c.desc.block_rows - first];
        sums[m + r] = in_words(p->form) ? put_words(group, p, in + r, &c, r * p->K)
                                        : put_row(all + (m + r) * fours(p->K), p, &c, r * p->K);
    }
}

static void make_some(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const nib_filters_plan *p = j->p;
    int index;
    void *room = nib_scratch_take(j->scratch, &index);
    for (int64_t i = begin; i < end; i++) {
        const int64_t at = i % p->runs * NIB_ROW_BLOCK, m = i / p->runs * p->M + at;
        const int64_t n = p->M - at < NIB_ROW_BLOCK ? p->M - at : NIB_ROW_BLOCK;
        if (p->codes) {
            put_codes(j, m, n, room);
            continue;
        }
        const float *from = floats_of(j, m, n, room);
        float *to = (float *)(void *)j->memory + m * p->K;
        if (p->form == NIB_FILTERS_TILES)
            j->k->pack_rows_f32(to, from, p->K, n, p->K);
        else
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
