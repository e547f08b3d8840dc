/* in_turn.c: linears frozen in the order in which a forward comes to them, each making up for what
 * those before it lost.
 *
 * One forward has every sample twice: first with floats, then with the codes of the linears that
 * are frozen already. Where it comes to a linear, both give what its output misses so far,
 *
 *   r = W x - W x' [+ h - h', where the output is added to a stream h that misses something itself]
 *
 * and error feedback rounds W + share D, where D x' is what can be known of r from the inputs that
 * the linear will have. The rows with codes then go on with that.
 *
 * Li, Gong et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration",
 * 2025, for the idea that targets are the float model's. */
#include <nibble/train.h>
#include <string.h>

#include "base/error.h"
#include "model/samples.h"
#include "nn/quantized.h"
#include "op/calls.h"
#include "quant/make_up.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

/* All of D moves weights further from where their rounding was cheapest than it gains:
 * bench/results. */
static const float share = 0.7f;

typedef struct waiting {
    nib_module *module;
    nib_tensor *weight; /* floats, held */
    bool adds;          /* its output is added to something */
} waiting;

typedef struct resting { /* activations that are not quantized meanwhile */
    nib_quantized *quantized;
    nib_dtype input, output;
} resting;

typedef struct turning {
    nib_ctx *ctx;
    nib_mem *mem;
    waiting *linears;
    resting *rests;
    size_t count, room, nrests, rests_room, frozen;
    bool trying;
    int64_t rows, widest;   /* of floats, as many with codes follow */
    nib_tensor *x, *stream; /* what came into the linear; the latest sum */
    nib_tensor *left;       /* what the latest linear gave, while trying */
    size_t left_by;
} turning;

static void *grown(turning *t, void *list, size_t *room, size_t count, size_t size) {
    if (count < *room) return list;
    const size_t more = *room ? *room * 2 : 64;
    list = nib_mem_realloc(t->mem, list, *room * size, more * size);
    if (list) *room = more;
    return list;
}

static nib_status find_modules(void *user, const char *dotted, nib_module *module) {
    turning *t = user;
    (void)dotted;
    nib_quantized *q = nib_module_quantized(module);
    if (!q) return NIB_OK;
    for (size_t i = 0; i < t->nrests; i++) /* one module under two names */
        if (t->rests[i].quantized == q) return NIB_OK;
    resting *rests = grown(t, t->rests, &t->rests_room, t->nrests, sizeof *rests);
    if (!rests) return nib_last_error()->status;
    t->rests = rests;
    t->rests[t->nrests++] = (resting){q, q->input, q->output};
    nib_tensor *weight = nib_module_parameter(module, "weight");
    if (!nib_quantized_feeds(q) || !q->sums || !weight || weight->layout) return NIB_OK;
    waiting *linears = grown(t, t->linears, &t->room, t->count, sizeof *linears);
    if (!linears) return nib_last_error()->status;
    t->linears = linears;
    t->linears[t->count++] = (waiting){module, nib_tensor_retain(weight), false};
    for (int i = 0; i < 2 && !nib_module_is_head(module); i++)
        if (weight->shape.dim[i] > t->widest) t->widest = weight->shape.dim[i];
    return NIB_OK;
}

static void hold(nib_tensor **place, nib_tensor *t) {
    nib_tensor_free(*place);
    *place = t ? nib_tensor_retain(t) : NULL;
}

static size_t index_of(const turning *t, const nib_module *module) {
    size_t i = 0;
    while (i < t->count && t->linears[i].module != module) i++;
    return i;
}

/* ---- one linear ---- */

/* r [rows, N]: rows of floats less rows with codes. */
static void missing(const turning *t, const waiting *w, const nib_tensor *y, float *r) {
    const int64_t n = t->rows * y->shape.dim[1];
    const float *of = nib_tensor_data(y);
    for (int64_t i = 0; i < n; i++) r[i] = of[i] - of[n + i];
    if (!w->adds || !t->stream || !nib_shape_equal(&t->stream->shape, &y->shape)) return;
    of = nib_tensor_data(t->stream);
    for (int64_t i = 0; i < n; i++) r[i] += of[i] - of[n + i];
}

static nib_status freeze_one(turning *t, waiting *w, const nib_tensor *y, float *r, float *D) {
    const int64_t M = t->rows, N = y->shape.dim[1], K = t->x->shape.dim[1];
    missing(t, w, y, r);
    const float *x = nib_tensor_data(t->x);
    NIB_TRY(nib_make_up(t->ctx, r, N, x + M * K, K, M, share, D));
    nib_tensor *codes = nib_keep(nib_module_fed_weight(w->module, D));
    if (!codes) return nib_last_error()->status;
    NIB_TRY(nib_module_set(w->module, "weight", codes));
    nib_tensor *behind = nib_scope_own(t->ctx, nib_tensor_slice(t->x, 0, M, M));
    nib_tensor *made = behind ? nib_module_forward(w->module, behind) : NULL;
    if (!made) return nib_last_error()->status;
    memcpy((float *)nib_tensor_data_mut((nib_tensor *)(uintptr_t)y) + M * N, nib_tensor_data(made),
           (size_t)(M * N) * sizeof(float));
    return nib_ctx_progress(t->ctx, "in turn", (double)++t->frozen, (double)t->count);
}

static nib_status meet(turning *t, waiting *w, const nib_tensor *y) {
    const nib_tensor *x = t->x;
    if (x->layout || x->dtype != NIB_F32 || x->shape.ndim != 2 || x->shape.dim[0] != 2 * t->rows ||
        !nib_tensor_contiguous(x) || y->layout || y->dtype != NIB_F32 || y->shape.ndim != 2 ||
        !nib_tensor_contiguous(y))
        return NIB_OK; /* rows that are not those of the samples: nib_freeze takes it */
    const size_t n = (size_t)(t->rows * y->shape.dim[1]),
                 d = (size_t)(y->shape.dim[1] * x->shape.dim[1]);
    float *r = nib_mem_alloc_array(t->mem, n, sizeof *r),
          *D = r ? nib_mem_alloc_array(t->mem, d, sizeof *D) : NULL;
    const size_t mark = nib_scope_begin(t->ctx);
    const nib_status status = D ? freeze_one(t, w, y, r, D) : nib_last_error()->status;
    nib_scope_end(t->ctx, mark);
    nib_mem_free(t->mem, D, d * sizeof *D);
    nib_mem_free(t->mem, r, n * sizeof *r);
    return status;
}

/* ---- the mode ---- */

static nib_status enter_module(void *self, nib_module *module, nib_tensor **input) {
    turning *t = self;
    if (!t->trying && index_of(t, module) < t->count) hold(&t->x, *input);
    return NIB_OK;
}

static nib_status leave_module(void *self, nib_module *module, nib_tensor **output) {
    turning *t = self;
    const size_t i = index_of(t, module);
    if (i == t->count) return NIB_OK;
    if (t->trying) {
        hold(&t->left, *output);
        t->left_by = i;
        return NIB_OK;
    }
    waiting *w = &t->linears[i];
    if (nib_module_parameter(module, "weight") != w->weight) return NIB_OK; /* met before */
    const nib_status status = meet(t, w, *output);
    hold(&t->x, NULL);
    return status;
}

static nib_status after_op(void *self, const nib_op *op, nib_call_args *args) {
    turning *t = self;
    if (op != &nib_op_add) return NIB_OK;
    for (int i = 0; i < 2 && t->trying && t->left; i++)
        if (args->in[i] != NIB_NONE && args->in[i]->part[0] == t->left->part[0])
            t->linears[t->left_by].adds = true;
    if (!t->trying) hold(&t->stream, args->out[0]);
    return NIB_OK;
}

static const nib_mode mode = {.name = "in turn",
                              .enter_module = enter_module,
                              .leave_module = leave_module,
                              .after_op = after_op};

/* ---- all of it ---- */

/* `n` samples spread evenly over all of them, each twice; 0: two tokens of the first one. */
static nib_status forward(turning *t, const nib_model *model, const nib_samples *s, size_t n) {
    const nib_hparams *h = &model->hparams;
    const bool trying = n == 0;
    if (trying) n = 1;
    nib_kvcache *caches = nib_mem_alloc_array(t->mem, 2 * n, sizeof *caches);
    nib_segment *segments = caches ? nib_mem_alloc_array(t->mem, 2 * n, sizeof *segments) : NULL;
    int32_t *ids = segments ? nib_mem_alloc_array(t->mem, 2 * s->count, sizeof *ids) : NULL;
    const nib_kv_kind *kind = nib_kv_kind_find(NULL);
    nib_status status = ids ? NIB_OK : nib_last_error()->status;
    int64_t rows = 0;
    for (size_t i = 0; i < 2 * n && status >= NIB_OK; i++) {
        const size_t at = i % n * s->samples / n, begin = at ? s->ends[at - 1] : 0;
        const int64_t count = trying ? 2 : (int64_t)(s->ends[at] - begin);
        memcpy(ids + rows, s->ids + begin, (size_t)count * sizeof *ids);
        rows += count;
        segments[i] = (nib_segment){&caches[i], 0, count, count};
        status = nib_kvcache_init(t->ctx, kind, h->num_hidden_layers, h->num_key_value_heads,
                                  h->head_dim, &caches[i]);
        if (status >= NIB_OK) status = nib_kvcache_reserve(&caches[i], count, 0);
    }
    if (status >= NIB_OK) {
        const nib_batch batch = {.ctx = t->ctx,
                                 .tokens = ids,
                                 .segments = segments,
                                 .nsegments = 2 * n,
                                 .M = rows,
                                 .logits = NIB_WANT_NOTHING};
        nib_tensor *none = NULL;
        t->rows = rows / 2;
        t->trying = trying;
        const size_t mark = nib_scope_begin(t->ctx);
        status = model->arch->forward(h, model->root, &batch, &none);
        nib_scope_end(t->ctx, mark);
    }
    for (size_t i = 0; caches && i < 2 * n; i++) nib_kvcache_free(&caches[i]);
    nib_mem_free(t->mem, ids, 2 * s->count * sizeof *ids);
    nib_mem_free(t->mem, segments, 2 * n * sizeof *segments);
    nib_mem_free(t->mem, caches, 2 * n * sizeof *caches);
    return status;
}

/* As many as keep a quarter of a gigabyte in the widest tensor, taking all for as long as the
 * longest. */
static size_t that_fit(const turning *t, const nib_samples *s) {
    const size_t most = ((size_t)1 << 26) / (2 * (size_t)(t->widest ? t->widest : 1));
    size_t longest = 1;
    for (size_t i = 0, at = 0; i < s->samples; at = s->ends[i++])
        if (s->ends[i] - at > longest) longest = s->ends[i] - at;
    const size_t n = most / longest;
    return n < 1 ? 1 : n < s->samples ? n : s->samples;
}

static nib_status run(turning *t, nib_model *model, const nib_samples *samples) {
    NIB_TRY(nib_model_prepare(t->ctx, model));
    NIB_TRY(nib_mode_push(t->ctx, &mode, t));
    for (size_t i = 0; i < t->nrests; i++)
        t->rests[i].quantized->input = t->rests[i].quantized->output = (nib_dtype)0;
    nib_status status = forward(t, model, samples, 0);
    if (status >= NIB_OK) status = forward(t, model, samples, that_fit(t, samples));
    for (size_t i = 0; i < t->nrests; i++) {
        t->rests[i].quantized->input = t->rests[i].input;
        t->rests[i].quantized->output = t->rests[i].output;
    }
    (void)nib_mode_pop(t->ctx);
    model->prepared = false;
    return status;
}

nib_status nib_model_freeze(nib_ctx *ctx, nib_model *model, nib_data *data) {
    if (!ctx || !model) return nib_last_error()->status;
    if (!data) return NIB_RAISE(NIB_E_ARGUMENT, "freezing linears in turn needs data");
    nib_data d = {0};
    const size_t given = data->size && data->size < sizeof d ? data->size : sizeof d;
    memcpy(&d, data, given);
    turning t = {.ctx = ctx, .mem = nib_ctx_mem(ctx)};
    nib_samples samples = {.mem = t.mem};
    nib_status status = nib_module_walk(model->root, find_modules, &t);
    d.tokens = 0;
    if (status >= NIB_OK && t.count && !model->arch->see && !model->arch->hear) {
        status = nib_samples_read(ctx, model, &d, &samples);
        if (status >= NIB_OK) status = run(&t, model, &samples);
        d.tokens = t.rows;
    }
    if (status >= NIB_OK) status = nib_freeze(model->root); /* what no row came to */
    for (size_t i = 0; i < t.count; i++) {
        waiting *w = &t.linears[i];
        if (status >= NIB_OK)
            nib_quantized_forget_inputs(w->module);
        else if (nib_module_parameter(w->module, "weight") != w->weight)
            (void)nib_module_set(w->module, "weight", nib_tensor_retain(w->weight));
        nib_tensor_free(w->weight);
    }
    hold(&t.x, NULL);
    hold(&t.stream, NULL);
    hold(&t.left, NULL);
    nib_mem_free(t.mem, t.linears, t.room * sizeof *t.linears);
    nib_mem_free(t.mem, t.rests, t.rests_room * sizeof *t.rests);
    nib_samples_free(&samples);
    if (status >= NIB_OK) memcpy(data, &d, given);
    return status;
}
