#include "model/scorer.h"

#include <math.h>

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

nib_status nib_scorer_open(nib_ctx *ctx, const nib_model *model, const char *kv, nib_scorer *out) {
    const nib_hparams *h = &model->hparams;
    *out = (nib_scorer){.ctx = ctx, .model = model};
    if (model->arch->see)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%s: this network sees pictures and takes no tokens",
                         model->path);
    NIB_TRY(nib_model_prepare(ctx, model));
    const nib_kv_kind *kind = nib_kv_kind_find(kv);
    if (!kind) return nib_last_error()->status;
    return nib_kvcache_init(ctx, kind, h->num_hidden_layers, h->num_key_value_heads, h->head_dim,
                            &out->cache);
}

nib_status nib_scorer_hear(nib_scorer *s, nib_tensor *mel) {
    const nib_model *m = s->model;
    const nib_hparams *h = &m->hparams;
    if (!m->arch->hear)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%s hears no sound; Whisper does", m->arch->doc);
    if (!s->heard.ctx) {
        NIB_TRY(nib_kvcache_init(s->ctx, s->cache.kind, h->num_hidden_layers,
                                 h->num_key_value_heads, h->head_dim, &s->heard));
        NIB_TRY(nib_kvcache_reserve(&s->heard, h->speech.max_source_positions, 0));
    }
    const size_t mark = nib_scope_begin(s->ctx);
    nib_tensor *encoded = m->arch->encode(h, m->root, mel);
    const nib_status status =
        encoded ? m->arch->hear(h, m->root, encoded, &s->heard) : nib_last_error()->status;
    nib_scope_end(s->ctx, mark);
    s->cache.heard = &s->heard;
    return status;
}

void nib_scorer_close(nib_scorer *s) {
    nib_tensor_free(s->logits);
    nib_kvcache_free(&s->cache);
    nib_kvcache_free(&s->heard);
    *s = (nib_scorer){0};
}

int64_t nib_scorer_rows(const nib_scorer *s) {
    enum { FLOATS = 1 << 23, MOST = 512, LEAST = 8 };
    const int64_t rows = FLOATS / s->model->hparams.vocab_size;
    return rows > MOST ? MOST : rows < LEAST ? LEAST : rows;
}

nib_status nib_scorer_step(nib_scorer *s, const int32_t *ids, int64_t start, int64_t count,
                           int64_t length, nib_wanted wanted, const float **logits) {
    nib_tensor_free(s->logits);
    s->logits = NULL;
    if (logits) *logits = NULL;
    NIB_TRY(nib_kvcache_reserve(&s->cache, start + count, start));
    const nib_segment segment = {&s->cache, start, count, length};
    const nib_batch batch = {.ctx = s->ctx,
                             .tokens = ids + start,
                             .segments = &segment,
                             .nsegments = 1,
                             .M = count,
                             .logits = wanted};
    nib_tensor *made = NULL;
    const size_t mark = nib_scope_begin(s->ctx);
    const nib_status status =
        s->model->arch->forward(&s->model->hparams, s->model->root, &batch, &made);
    if (status >= NIB_OK) s->logits = nib_keep(made);
    nib_scope_end(s->ctx, mark);
    if (s->logits && logits) *logits = nib_tensor_data(s->logits);
    return status;
}

typedef struct rows {
    const float *logits, *reference;
    const int32_t *targets;
    int64_t V;
    nib_score *out;
} rows;

/* The largest of n logits, and log(sum(exp)); NaN when one is not a number or infinitely large. */
static double log_sum_exp(const float *x, int64_t n, int64_t *top) {
    double sum = 0;
    *top = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[*top]) *top = i;
    const double max = (double)x[*top];
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - max);
    return max + log(sum);
}

static void score(void *user, int64_t begin, int64_t end) {
    const rows *r = user;
    for (int64_t m = begin; m < end; m++) {
        const float *q = r->logits + m * r->V;
        int64_t top, other;
        const double sum = log_sum_exp(q, r->V, &top);
        nib_score *out = &r->out[m];
        *out = (nib_score){
            .nll = sum - (double)q[r->targets[m]], .best = top == r->targets[m], .same_top = true};
        if (!r->reference) continue;
        const float *p = r->reference + m * r->V;
        const double p_sum = log_sum_exp(p, r->V, &other);
        for (int64_t i = 0; i < r->V; i++) {
            const double log_p = (double)p[i] - p_sum;
            out->kl += exp(log_p) * (log_p - ((double)q[i] - sum));
        }
        if (out->kl < 0) out->kl = 0; /* equal rows, less a rounding */
        out->same_top = top == other;
    }
}

nib_status nib_score_rows(const nib_scorer *s, const float *logits, const nib_scorer *reference,
                          const float *others, const int32_t *targets, int64_t count,
                          nib_score *out) {
    rows r = {logits, reference ? others : NULL, targets, s->model->hparams.vocab_size, out};
    nib_parallel_for(s->ctx->pool, count, 4, score, &r);
    for (int64_t m = 0; m < count; m++) {
        const bool own = !isfinite(out[m].nll);
        if (!own && isfinite(out[m].kl)) continue;
        NIB_RAISE(NIB_E_FORMAT, "the model gives logits that are not finite; its weights "
                                "may hold NaN or infinity");
        return nib_error_at(own ? s->model->path : reference->model->path, NULL, -1);
    }
    return NIB_OK;
}
