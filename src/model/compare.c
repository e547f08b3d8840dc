/* compare.c: a quantized model beside the float one it came from. A mode runs each quantized module
 * on the input of its float twin and sums what the two outputs differ by; the whole is judged by
 * the divergence of the next token's distribution, with one module after another made float. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/samples.h"
#include "model/scorer.h"
#include "nn/quantized.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { TRIED = 5, MAX_DEPTH = 32, PICTURES = 128 };

typedef struct pair {
    char *name;
    nib_module *plain, *quantized;
    double signal, noise, got, dot, most;
    double kl_without;
} pair;

typedef struct comparing {
    nib_ctx *ctx;
    nib_mem *mem;
    nib_model *model, *reference;
    nib_samples samples;
    nib_pictures pictures; /* instead, of models that see */
    pair *pairs;
    size_t count, room;
    nib_tensor *inputs[MAX_DEPTH]; /* of the modules entered, outermost first */
    int depth;
} comparing;

/* ---- pairs of modules ---- */

static bool is_quantized(const nib_module *m) {
    const nib_tensor *weight = nib_module_parameter(m, "weight");
    return nib_module_quantized(m) || (weight && weight->layout);
}

static nib_status add_pair(void *user, const char *dotted, nib_module *module) {
    comparing *c = user;
    if (!nib_module_site(module) || !is_quantized(module)) return NIB_OK;
    nib_module *twin = nib_module_child(nib_model_root(c->reference), dotted);
    if (!twin || !nib_module_site(twin) || is_quantized(twin)) {
        NIB_RAISE(NIB_E_ARGUMENT, "the reference has no such float module; compare with the float "
                                  "model that was quantized");
        return nib_error_at(NULL, dotted, -1);
    }
    if (c->count == c->room) {
        const size_t room = c->room ? c->room * 2 : 64;
        pair *grown =
            nib_mem_realloc(c->mem, c->pairs, c->room * sizeof *grown, room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        c->pairs = grown;
        c->room = room;
    }
    char *name = nib_mem_strdup(c->mem, dotted);
    if (!name) return nib_last_error()->status;
    c->pairs[c->count++] =
        (pair){.name = name, .plain = twin, .quantized = module, .kl_without = NAN};
    return NIB_OK;
}

static pair *pair_of(comparing *c, const nib_module *plain) {
    for (size_t i = 0; i < c->count; i++)
        if (c->pairs[i].plain == plain) return &c->pairs[i];
    return NULL;
}

/* ---- the mode ---- */

static nib_status enter_module(void *self, nib_module *module, nib_tensor **input) {
    comparing *c = self;
    (void)module;
    if (c->depth < MAX_DEPTH) c->inputs[c->depth] = *input;
    c->depth++;
    return NIB_OK;
}

static nib_status leave_module(void *self, nib_module *module, nib_tensor **output) {
    comparing *c = self;
    pair *p = pair_of(c, module);
    c->depth--;
    if (!p || c->depth >= MAX_DEPTH) return NIB_OK;
    nib_tensor *y = nib_module_forward(p->quantized, c->inputs[c->depth]);
    if (nib_act8_is(y)) y = nib_dequantize(y);
    if (!y) return nib_last_error()->status;
    const float *a = nib_tensor_data(*output), *b = nib_tensor_data(y);
    const int64_t count = nib_tensor_count(y);
    for (int64_t i = 0; i < count; i++) {
        const double u = (double)a[i], v = (double)b[i], e = u - v;
        p->signal += u * u;
        p->got += v * v;
        p->dot += u * v;
        p->noise += e * e;
        if (fabs(e) > p->most) p->most = fabs(e);
    }
    return NIB_OK;
}

static const nib_mode mode = {
    .name = "compare", .enter_module = enter_module, .leave_module = leave_module};

/* ---- running ---- */

typedef struct total {
    double kl, same;
    int64_t rows;
} total;

static void add_scores(total *t, const nib_score *scores, int64_t rows) {
    for (int64_t m = 0; m < rows; m++) {
        t->kl += scores[m].kl;
        t->same += scores[m].same_top;
    }
    t->rows += rows;
}

static void finish(total *t) {
    if (!t->rows) return;
    t->kl /= (double)t->rows;
    t->same /= (double)t->rows;
}

/* What run_samples does, of pictures. */
static nib_status see_some(comparing *c, int64_t at, int64_t n, bool watch, nib_score *scores,
                           int32_t *labels, total *out) {
    const nib_scorer model = {.ctx = c->ctx, .model = c->model},
                     reference = {.ctx = c->ctx, .model = c->reference};
    const nib_tensor *theirs = nib_pictures_run(c->ctx, c->reference, &c->pictures, at, n);
    if (!theirs) return nib_last_error()->status;
    if (watch) return NIB_OK;
    const nib_tensor *own = nib_pictures_run(c->ctx, c->model, &c->pictures, at, n);
    if (!own) return nib_last_error()->status;
    for (int64_t i = 0; i < n; i++) labels[i] = 0; /* nobody asks what they show */
    NIB_TRY(nib_score_rows(&model, nib_tensor_data(own), &reference, nib_tensor_data(theirs),
                           labels, n, scores));
    add_scores(out, scores, n);
    return NIB_OK;
}

static nib_status run_pictures(comparing *c, bool watch, total *out) {
    const int64_t most = nib_pictures_batch(c->reference), count = c->pictures.count;
    nib_score *scores = nib_mem_alloc_array(c->mem, (size_t)most, sizeof *scores);
    int32_t *labels = nib_mem_alloc_array(c->mem, (size_t)most, sizeof *labels);
    nib_status status = scores && labels ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK) status = nib_model_prepare(c->ctx, c->reference);
    if (status >= NIB_OK) status = nib_model_prepare(c->ctx, c->model);
    if (out) *out = (total){0};
    for (int64_t at = 0, n; at < count && status >= NIB_OK; at += n) {
        n = count - at < most ? count - at : most;
        const size_t mark = nib_scope_begin(c->ctx);
        status = see_some(c, at, n, watch, scores, labels, out);
        nib_scope_end(c->ctx, mark);
        if (status >= NIB_OK)
            status = nib_ctx_progress(c->ctx, watch ? "layers" : "divergence", (double)(at + n),
                                      (double)count);
    }
    if (out) finish(out);
    nib_mem_free(c->mem, labels, (size_t)most * sizeof *labels);
    nib_mem_free(c->mem, scores, (size_t)most * sizeof *scores);
    return status;
}

/* The reference over all samples with the mode on, or both models for how far they are apart. */
static nib_status run_samples(comparing *c, bool watch, total *out) {
    if (c->model->arch->see) return run_pictures(c, watch, out);
    nib_scorer model = {0}, reference = {0};
    nib_score *scores = NULL;
    nib_status status = nib_scorer_open(c->ctx, c->reference, NULL, &reference);
    if (status >= NIB_OK) status = nib_scorer_open(c->ctx, c->model, NULL, &model);
    const int64_t most = status >= NIB_OK ? nib_scorer_rows(&reference) : 1;
    scores = nib_mem_alloc_array(c->mem, (size_t)most, sizeof *scores);
    if (status >= NIB_OK && !scores) status = nib_last_error()->status;
    if (out) *out = (total){0};
    for (size_t i = 0, begin = 0; i < c->samples.samples && status >= NIB_OK;
         begin = c->samples.ends[i++]) {
        const int32_t *ids = c->samples.ids + begin;
        const int64_t count = (int64_t)(c->samples.ends[i] - begin) - 1; /* the last has no next */
        status = nib_samples_begin(&c->samples, i, &reference);
        if (status >= NIB_OK && !watch) status = nib_samples_begin(&c->samples, i, &model);
        for (int64_t at = 0, rows; at < count && status >= NIB_OK; at += rows) {
            const float *theirs = NULL, *own = NULL;
            rows = count - at < most ? count - at : most;
            const nib_wanted want = watch ? NIB_WANT_LAST : NIB_WANT_ALL;
            status = nib_scorer_step(&reference, ids, at, rows, count, want, &theirs);
            if (watch || status < NIB_OK) continue;
            status = nib_scorer_step(&model, ids, at, rows, count, want, &own);
            if (status >= NIB_OK)
                status =
                    nib_score_rows(&model, own, &reference, theirs, ids + at + 1, rows, scores);
            if (status >= NIB_OK) add_scores(out, scores, rows);
        }
        if (status >= NIB_OK)
            status = nib_ctx_progress(c->ctx, watch ? "layers" : "divergence", (double)(i + 1),
                                      (double)c->samples.samples);
    }
    if (out) finish(out);
    nib_mem_free(c->mem, scores, (size_t)most * sizeof *scores);
    nib_scorer_close(&reference);
    nib_scorer_close(&model);
    return status;
}

static nib_status watch_layers(comparing *c) {
    NIB_TRY(nib_mode_push(c->ctx, &mode, c));
    const nib_status status = run_samples(c, true, NULL);
    nib_mode_pop(c->ctx);
    return status;
}

/* The divergence with one module float, which then is what it was. */
static nib_status try_without(comparing *c, pair *p) {
    nib_tensor *plain = nib_module_parameter(p->plain, "weight");
    nib_tensor *weight = nib_module_parameter(p->quantized, "weight");
    nib_quantized *carried = nib_module_quantized(p->quantized);
    total t;
    nib_module_carry(p->quantized, NULL);
    if (weight) {
        (void)nib_tensor_retain(weight);
        (void)nib_module_set(p->quantized, "weight", nib_tensor_retain(plain));
    }
    const nib_status status = run_samples(c, false, &t);
    if (weight) (void)nib_module_set(p->quantized, "weight", weight);
    nib_module_carry(p->quantized, carried);
    if (status >= NIB_OK) p->kl_without = t.kl;
    return status;
}

static double sqnr(const pair *p) {
    return p->noise > 0 ? 10 * log10(p->signal / p->noise) : INFINITY;
}

static int worst_first(const void *a, const void *b) {
    const double x = sqnr(a), y = sqnr(b);
    return (x > y) - (x < y);
}

static nib_status compare(comparing *c, nib_comparison *r) {
    total whole;
    NIB_TRY(nib_module_walk(nib_model_root(c->model), add_pair, c));
    if (!c->count)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "no module of %s is quantized; name the float model first, "
                         "then the quantized one",
                         c->model->path);
    NIB_TRY(watch_layers(c));
    NIB_TRY(run_samples(c, false, &whole));
    r->kl = whole.kl;
    r->same_top = whole.same;
    r->modules = (int)c->count;
    qsort(c->pairs, c->count, sizeof *c->pairs, worst_first);
    const size_t tried = (size_t)(r->try_worst ? r->try_worst : TRIED);
    r->kl_without = whole.kl;
    r->exclusion[0] = '\0';
    for (size_t i = 0; i < tried && i < c->count; i++) {
        NIB_TRY(try_without(c, &c->pairs[i]));
        if (!(c->pairs[i].kl_without < r->kl_without)) continue;
        r->kl_without = c->pairs[i].kl_without;
        const size_t length = strlen(c->pairs[i].name);
        if (length < sizeof r->exclusion) memcpy(r->exclusion, c->pairs[i].name, length + 1);
    }
    for (size_t i = 0; i < c->count && r->row; i++) {
        const pair *p = &c->pairs[i];
        const double size = sqrt(p->signal * p->got);
        r->row(r->user, &(nib_compared){.name = p->name,
                                        .sqnr_db = sqnr(p),
                                        .cosine = size > 0 ? p->dot / size : 1,
                                        .max_error = p->most,
                                        .kl_without = p->kl_without});
    }
    return NIB_OK;
}

nib_status nib_model_compare(nib_ctx *ctx, nib_model *model, nib_model *reference, nib_data *data,
                             nib_comparison *comparison) {
    if (!ctx || !model || !reference) return nib_last_error()->status;
    if (!data || !comparison)
        return NIB_RAISE(NIB_E_ARGUMENT, "comparing models needs data and room for the result");
    if (model->hparams.vocab_size != reference->hparams.vocab_size)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "the reference has %d tokens, the model %d; they must share one tokenizer",
                         reference->hparams.vocab_size, model->hparams.vocab_size);
    if (!model->arch->see != !reference->arch->see)
        return NIB_RAISE(NIB_E_ARGUMENT, "one of the two models sees pictures, the other does not");
    nib_data d = {0};
    nib_comparison r = {0};
    const size_t known = data->size && data->size < sizeof d ? data->size : sizeof d;
    const size_t given =
        comparison->size && comparison->size < sizeof r ? comparison->size : sizeof r;
    memcpy(&d, data, known);
    memcpy(&r, comparison, given);
    comparing c = {.ctx = ctx, .mem = nib_ctx_mem(ctx), .model = model, .reference = reference};
    nib_status status = NIB_OK;
    if (model->arch->see)
        status = nib_pictures_open(ctx, model, d.file, &c.pictures);
    else
        status = nib_samples_read(ctx, reference, &d, &c.samples);
    if (status >= NIB_OK && model->arch->see &&
        c.pictures.count > (d.samples ? d.samples : PICTURES))
        c.pictures.count = d.samples ? d.samples : PICTURES;
    if (status >= NIB_OK) status = compare(&c, &r);
    for (size_t i = 0; i < c.count; i++) nib_mem_strfree(c.mem, c.pairs[i].name);
    nib_mem_free(c.mem, c.pairs, c.room * sizeof *c.pairs);
    d.tokens = (int64_t)c.samples.count;
    d.pictures = c.pictures.count;
    memcpy(data, &d, known);
    nib_pictures_close(&c.pictures);
    if (c.samples.mem) nib_samples_free(&c.samples);
    if (status >= NIB_OK) memcpy(comparison, &r, given);
    return status;
}
