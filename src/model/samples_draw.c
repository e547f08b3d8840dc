/* samples_draw.c: data that a model makes up itself. Each sample begins as texts do and goes on
 * with tokens drawn from the model's own distribution, at temperature 1, never one that ends a
 * text. Token t of sample i hangs on random number t of stream i alone, so the samples are the same
 * on every machine and for any number of threads. Liu et al., "LLM-QAT: Data-Free Quantization
 * Aware Training for Large Language Models", 2023. */
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "model/samples.h"
#include "nn/quantized.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { LANES = 16 }; /* sequences that grow together */

typedef struct drawing {
    nib_ctx *ctx;
    const nib_model *model;
    nib_kvcache caches[LANES];
    int32_t token[LANES];
    int64_t first; /* the sample of lane 0 */
    uint64_t at;   /* position that is drawn for */
    const float *logits;
    float *p; /* [LANES, V] */
    int64_t V;
} drawing;

static nib_status refuse_codes(void *user, const char *dotted, nib_module *module) {
    const nib_quantized *q = nib_module_quantized(module);
    (void)user;
    if (!q || !q->activations) return NIB_OK;
    NIB_RAISE(NIB_E_ARGUMENT,
              "a model whose activations wait to be calibrated cannot make up data; "
              "name a file of data");
    return nib_error_at(NULL, dotted, -1);
}

static float random_of(const drawing *d, int64_t lane) {
    const nib_rng rng = {0x73616d70, (uint64_t)(d->first + lane)};
    float u;
    nib_rng_uniform(&rng, d->at, 1, &u);
    return u;
}

static bool ends(const nib_hparams *h, int64_t token) {
    for (int i = 0; i < h->neos; i++)
        if (h->eos[i] == token) return true;
    return token == h->bos;
}

static void draw_some(void *user, int64_t begin, int64_t end) {
    drawing *d = user;
    const nib_hparams *h = &d->model->hparams;
    for (int64_t lane = begin; lane < end; lane++) {
        float *p = d->p + lane * d->V;
        memcpy(p, d->logits + lane * d->V, (size_t)d->V * sizeof *p);
        d->ctx->kernels.softmax_f32(p, (size_t)d->V);
        double sum = 0;
        for (int64_t i = 0; i < d->V; i++)
            if (!ends(h, i)) sum += (double)p[i];
        double left = (double)random_of(d, lane) * sum;
        d->token[lane] = 0;
        for (int64_t i = 0; i < d->V; i++) {
            if (ends(h, i) || !(p[i] > 0)) continue;
            d->token[lane] = (int32_t)i;
            left -= (double)p[i];
            if (left < 0) break;
        }
    }
}

/* One token on: what stands in `token` runs, and what follows it takes its place. */
static nib_status step(drawing *d, int64_t lanes, int64_t position) {
    nib_segment segments[LANES];
    for (int64_t i = 0; i < lanes; i++)
        segments[i] = (nib_segment){&d->caches[i], position, 1, position + 1};
    const nib_batch batch = {.ctx = d->ctx,
                             .tokens = d->token,
                             .segments = segments,
                             .nsegments = (size_t)lanes,
                             .M = lanes,
                             .logits = NIB_WANT_ALL};
    const size_t mark = nib_scope_begin(d->ctx);
    nib_tensor *logits;
    const nib_status status =
        d->model->arch->forward(&d->model->hparams, d->model->root, &batch, &logits);
    if (status >= NIB_OK) {
        d->logits = nib_tensor_data(logits);
        d->at = (uint64_t)position + 1;
        nib_parallel_for(d->ctx->pool, lanes, 1, draw_some, d);
    }
    nib_scope_end(d->ctx, mark);
    return status;
}

static nib_status draw_lanes(drawing *d, int64_t lanes, int64_t context, int32_t *ids) {
    const nib_hparams *h = &d->model->hparams;
    d->at = 0;
    for (int64_t i = 0; i < lanes; i++) {
        d->token[i] =
            h->bos >= 0 && h->bos < d->V ? h->bos : (int32_t)(random_of(d, i) * (float)d->V);
        NIB_TRY(nib_kvcache_reserve(&d->caches[i], context, 0));
    }
    for (int64_t t = 0; t < context; t++) {
        for (int64_t i = 0; i < lanes; i++) ids[i * context + t] = d->token[i];
        if (t + 1 < context) NIB_TRY(step(d, lanes, t));
    }
    return NIB_OK;
}

static nib_status run(drawing *d, int64_t count, int64_t context, nib_samples *out) {
    const nib_hparams *h = &d->model->hparams;
    const nib_kv_kind *kind = nib_kv_kind_find(NULL);
    for (int i = 0; i < LANES; i++)
        NIB_TRY(nib_kvcache_init(d->ctx, kind, h->num_hidden_layers, h->num_key_value_heads,
                                 h->head_dim, &d->caches[i]));
    for (int64_t first = 0; first < count; first += LANES) {
        const int64_t lanes = count - first < LANES ? count - first : LANES;
        d->first = first;
        NIB_TRY(draw_lanes(d, lanes, context, out->ids + first * context));
        NIB_TRY(nib_ctx_progress(d->ctx, "drawing data", (double)(first + lanes), (double)count));
    }
    return NIB_OK;
}

nib_status nib_samples_draw(nib_ctx *ctx, const nib_model *model, int64_t count, int64_t context,
                            nib_samples *out) {
    *out = (nib_samples){.mem = nib_ctx_mem(ctx)};
    NIB_TRY(nib_module_walk(model->root, refuse_codes, NULL));
    NIB_TRY(nib_model_prepare(ctx, model));
    drawing d = {.ctx = ctx, .model = model, .V = model->hparams.vocab_size};
    if (count > INT64_MAX / context || (uint64_t)count * (uint64_t)context > SIZE_MAX / 8)
        return NIB_RAISE(NIB_E_MEMORY, "%lld samples of %lld tokens overflow", (long long)count,
                         (long long)context);
    out->count = out->room = (size_t)count * (size_t)context;
    out->samples = out->samples_room = (size_t)count;
    out->ids = nib_mem_alloc_array(out->mem, out->room, sizeof *out->ids);
    if (out->ids) out->ends = nib_mem_alloc_array(out->mem, out->samples_room, sizeof *out->ends);
    if (out->ends) d.p = nib_mem_alloc_array(out->mem, (size_t)(LANES * d.V), sizeof *d.p);
    for (size_t i = 0; out->ends && i < out->samples; i++) out->ends[i] = (i + 1) * (size_t)context;
    /* Modes that watch the model are not to see this. */
    const int nmodes = ctx->nmodes;
    ctx->nmodes = 0;
    const nib_status status = d.p ? run(&d, count, context, out) : nib_last_error()->status;
    ctx->nmodes = nmodes;
    for (int i = 0; i < LANES; i++) nib_kvcache_free(&d.caches[i]);
    nib_mem_free(out->mem, d.p, (size_t)(LANES * d.V) * sizeof *d.p);
    if (status < NIB_OK) {
        if (!out->ids) out->room = 0;
        if (!out->ends) out->samples_room = 0;
        nib_samples_free(out);
    }
    return status;
}
