/* sense.c: what inputs and outputs of linears count for the next token. For each token a next one
 * is drawn from the model's own distribution, and the gradient of its log-likelihood goes back to
 * the outputs of linears; the mean of its outer products is the Fisher information, which is what a
 * small change of the weights costs in divergence. Of one linear it is kept as two factors: inputs,
 * each token weighed by the size of its gradient, and gradients of outputs.
 *
 * Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature",
 * 2015; Tseng, Sun, Hou and De Sa, "Model-Preserving Adaptive Rounding", 2025. */
#include <nibble/train.h>
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "model/samples.h"
#include "model/scorer.h"
#include "nn/quantized.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "train/tape.h"

typedef struct sensing {
    nib_ctx *ctx;
    nib_mem *mem;
    nib_gradients *none; /* are watched: linears are looked at as gradients pass */
    struct sensed {
        nib_module *module;
        const nib_tensor *weight;
        nib_quantized *quantized;
    } * modules;
    size_t count, room;
    int64_t V;
    uint64_t drawn; /* tokens */
    bool kept;      /* what is seen counts */
} sensing;

static nib_status find_modules(void *user, const char *dotted, nib_module *module) {
    sensing *s = user;
    (void)dotted;
    nib_quantized *q = nib_module_quantized(module);
    const nib_tensor *weight = nib_module_parameter(module, "weight");
    if (!nib_quantized_feeds(q) || !weight || weight->layout) return NIB_OK;
    if (s->count == s->room) {
        const size_t room = s->room ? s->room * 2 : 64;
        struct sensed *grown =
            nib_mem_realloc(s->mem, s->modules, s->room * sizeof *grown, room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        s->modules = grown;
        s->room = room;
    }
    s->modules[s->count++] = (struct sensed){module, weight, q};
    return NIB_OK;
}

static nib_status see(void *user, const nib_backward_args *args) {
    sensing *s = user;
    const nib_tensor *weight = args->call->in[1];
    size_t i = 0;
    while (i < s->count && s->modules[i].weight != weight) i++;
    if (i == s->count || !s->kept) return NIB_OK;
    const nib_tensor *x = nib_gradient_floats(args->call->in[0]), *g = args->out[0];
    if (!x) return nib_last_error()->status;
    const int64_t N = weight->shape.dim[0], K = weight->shape.dim[1];
    return nib_quantized_sense(s->ctx, s->modules[i].quantized, nib_tensor_data(x),
                               nib_tensor_data(g), nib_tensor_count(g) / N, K, N);
}

typedef struct drawing {
    const nib_kernels *k;
    const float *logits;
    float *gradient;
    int64_t V;
    uint64_t first;
} drawing;

/* Of -log p(drawn): p - 1 at the token drawn. */
static void draw(void *user, int64_t begin, int64_t end) {
    const drawing *d = user;
    for (int64_t m = begin; m < end; m++) {
        float *p = d->gradient + m * d->V, u;
        memcpy(p, d->logits + m * d->V, (size_t)d->V * sizeof *p);
        d->k->softmax_f32(p, (size_t)d->V);
        nib_rng_uniform(&(nib_rng){0, 0x73656e73}, d->first + (uint64_t)m, 1, &u);
        double left = (double)u;
        int64_t token = 0;
        for (int64_t i = 0; i < d->V; i++) {
            if (p[i] > 0) token = i;
            left -= (double)p[i];
            if (left < 0) break;
        }
        p[token] -= 1;
    }
}

static nib_status there_and_back(sensing *s, nib_scorer *scorer, const int32_t *ids, int64_t count,
                                 float *gradient) {
    const float *logits;
    NIB_TRY(nib_tape_look_at(s->ctx, &nib_op_linear, see, s));
    NIB_TRY(nib_scorer_step(scorer, ids, 0, count, count, NIB_WANT_ALL, &logits));
    drawing d = {&s->ctx->kernels, logits, gradient, s->V, s->drawn};
    nib_parallel_for(s->ctx->pool, count, 4, draw, &d);
    s->drawn += (uint64_t)count;
    nib_tensor *g = nib_tensor_wrap(s->ctx, NIB_F32, scorer->logits->shape, gradient, NULL, NULL);
    if (!g) return nib_last_error()->status;
    const nib_status status = nib_backward(scorer->logits, g);
    nib_tensor_free(g);
    return status;
}

static nib_status sense_sample(sensing *s, nib_scorer *scorer, const int32_t *ids, int64_t count,
                               float *gradient) {
    NIB_TRY(nib_tape_begin(s->ctx, s->none));
    const nib_status status = there_and_back(s, scorer, ids, count, gradient);
    (void)nib_tape_end(s->ctx);
    return status;
}

/* Two tokens there and back, unseen by modes, for what cannot go back to show before anything is
 * kept. */
static nib_status try_it(sensing *s, nib_scorer *scorer, const int32_t *ids, float *gradient) {
    bool off[NIB_MAX_MODES];
    const int nmodes = s->ctx->nmodes;
    for (int i = 0; i < nmodes; i++) {
        off[i] = s->ctx->modes[i].inside;
        s->ctx->modes[i].inside = true;
    }
    const nib_status status = sense_sample(s, scorer, ids, 2, gradient);
    s->kept = true;
    s->drawn = 0;
    for (int i = 0; i < nmodes; i++) s->ctx->modes[i].inside = off[i];
    return status;
}

nib_status nib_model_sense(nib_ctx *ctx, nib_model *model, nib_data *data) {
    if (!ctx || !model) return nib_last_error()->status;
    if (!data) return NIB_RAISE(NIB_E_ARGUMENT, "sensing what weights count needs data");
    if (model->arch->see || model->arch->hear)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "gradients of what a model makes of sounds or pictures "
                                            "are not here; feed it");
    nib_data d = {0};
    const size_t given = data->size && data->size < sizeof d ? data->size : sizeof d;
    memcpy(&d, data, given);
    sensing s = {.ctx = ctx, .mem = nib_ctx_mem(ctx), .V = model->hparams.vocab_size};
    nib_samples samples = {.mem = s.mem};
    nib_scorer scorer = {0};
    float *gradient = NULL;
    int64_t most = 0;
    s.none = nib_gradients_new(ctx);
    nib_status status = s.none ? nib_module_walk(nib_model_root(model), find_modules, &s)
                               : nib_last_error()->status;
    if (status >= NIB_OK) status = nib_samples_read(ctx, model, &d, &samples);
    for (size_t i = 0, at = 0; i < samples.samples; at = samples.ends[i++])
        if ((int64_t)(samples.ends[i] - at) > most) most = (int64_t)(samples.ends[i] - at);
    if (status >= NIB_OK) {
        gradient = nib_mem_alloc_array(s.mem, (size_t)(most * s.V), sizeof *gradient);
        status = gradient ? nib_scorer_open(ctx, model, NULL, &scorer) : nib_last_error()->status;
    }
    if (status >= NIB_OK) status = try_it(&s, &scorer, samples.ids, gradient);
    for (size_t i = 0; i < s.count; i++) s.modules[i].quantized->sensed = status >= NIB_OK;
    d.tokens = 0;
    for (size_t i = 0, at = 0; i < samples.samples && status >= NIB_OK; at = samples.ends[i++]) {
        const int64_t count = (int64_t)(samples.ends[i] - at);
        status = sense_sample(&s, &scorer, samples.ids + at, count, gradient);
        d.tokens += count;
        if (status >= NIB_OK)
            status = nib_ctx_progress(ctx, "data", (double)(i + 1), (double)samples.samples);
    }
    for (size_t i = 0; i < s.count && status < NIB_OK; i++) {
        nib_quantized_forget_inputs(s.modules[i].module);
        s.modules[i].quantized->sensed = false;
    }
    nib_scorer_close(&scorer);
    nib_gradients_free(s.none);
    nib_mem_free(s.mem, gradient, (size_t)(most * s.V) * sizeof *gradient);
    nib_mem_free(s.mem, s.modules, s.room * sizeof *s.modules);
    nib_samples_free(&samples);
    model->prepared = false;
    if (status >= NIB_OK) memcpy(data, &d, given);
    return status;
}
