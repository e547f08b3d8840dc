/* in_turn.c: linears frozen in the order in which a forward comes to them, each making up for what
 * those before it lost.
 *
 * Layer after layer, all samples go through it twice: with floats, and with the codes of what is
 * frozen already. Where they come to linears that are not, both give what these outputs miss,
 *
 *   r = W x - W x' [+ h - h', where the output is added to a stream h that misses something itself]
 *
 * and error feedback rounds W + share D, where D x' is what can be known of r from the inputs that
 * the linear will have. D needs sums over rows alone, so samples go a few at a time, as often as it
 * takes: linears of one input are done together, those behind them the next time, until none of the
 * layer is left; then what leaves it is kept for the next.
 *
 * Li, Gong et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration",
 * 2025, for the idea that targets are the float model's. */
#include <nibble/train.h>
#include <string.h>

#include "base/error.h"
#include "model/decoder.h"
#include "model/samples.h"
#include "nn/quantized.h"
#include "op/calls.h"
#include "quant/make_up.h"
#include "quant/sums.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

/* All of D moves weights further from where their rounding was cheapest than it gains:
 * bench/results. */
static const float share = 0.7f;

/* Linears of one input; bytes of the widest tensor of one forward, and of all states. */
enum { TOGETHER = 4, PIECE = 1 << 23 };
static const size_t states_bytes = (size_t)1 << 31;

typedef enum how { TRYING, OF_FLOATS, WITH_CODES } how;

typedef struct waiting {
    nib_module *module;
    nib_tensor *weight; /* floats, held */
    nib_tensor *codes;  /* held; NULL: not frozen yet */
    bool adds;          /* its output is added to something */
    bool passed;        /* its rows are not those of the samples: nib_freeze takes it */
    int layer;
} waiting;

typedef struct resting { /* activations that are not quantized meanwhile */
    nib_quantized *quantized;
    nib_dtype input, output;
} resting;

/* What is found out about linears of one input. */
typedef struct together {
    size_t linear[TOGETHER], count, seen;
    bool closed; /* all that belong to it are known */
    int64_t K, N[TOGETHER];
    double *squares;         /* [K, K] */
    double *cross[TOGETHER]; /* [N, K] */
    float *r[TOGETHER];      /* [room, N]; of the piece at hand */
    int64_t room;
} together;

typedef struct turning {
    nib_ctx *ctx;
    nib_mem *mem;
    waiting *linears;
    resting *rests;
    size_t count, room, nrests, rests_room, frozen;
    const nib_model *model;
    const nib_samples *samples;
    size_t taken;         /* samples */
    int64_t widest, rows; /* rows of all samples taken */
    how how;
    int layer;
    int64_t piece;          /* rows of the forward at hand */
    nib_tensor *x, *stream; /* what came into the linear; the latest sum */
    nib_tensor *left;       /* what the latest linear gave, while trying */
    size_t left_by;
    together now;
    bool enough;     /* the forward at hand was ended since nothing more is needed of it */
    float *state[2]; /* [rows, D] what left the layer before, of floats and with codes */
    int64_t D;
    nib_kvcache *caches;
    size_t ncaches;
    nib_segment *segments;
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
    t->linears[t->count++] = (waiting){.module = module, .weight = nib_tensor_retain(weight)};
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

/* ---- rows of linears ---- */

static bool usable(const turning *t, const nib_tensor *x) {
    return !x->layout && x->dtype == NIB_F32 && x->shape.ndim == 2 && x->shape.dim[0] == t->piece &&
           nib_tensor_contiguous(x);
}

/* Another linear of the input at hand; r has room for all pieces, which are not larger. */
static nib_status join(turning *t, size_t i, int64_t N, int64_t K) {
    together *n = &t->now;
    const size_t at = n->count;
    if (!at) {
        n->K = K;
        n->squares = nib_mem_alloc_array(t->mem, (size_t)(K * K), sizeof *n->squares);
        if (!n->squares) return nib_last_error()->status;
    }
    n->N[at] = N;
    n->cross[at] = nib_mem_alloc_array(t->mem, (size_t)(N * K), sizeof(double));
    n->r[at] = nib_mem_alloc_array(t->mem, (size_t)(n->room * N), sizeof(float));
    n->linear[n->count++] = i;
    return n->cross[at] && n->r[at] ? NIB_OK : nib_last_error()->status;
}

static void part(turning *t) {
    together *n = &t->now;
    for (size_t i = 0; i < n->count; i++) {
        nib_mem_free(t->mem, n->cross[i], (size_t)(n->N[i] * n->K) * sizeof(double));
        nib_mem_free(t->mem, n->r[i], (size_t)(n->room * n->N[i]) * sizeof(float));
    }
    nib_mem_free(t->mem, n->squares, (size_t)(n->K * n->K) * sizeof(double));
    *n = (together){.room = n->room};
}

/* Outputs of floats, then less those with codes; with the stream that they are added to. */
static void take(const turning *t, const waiting *w, const nib_tensor *y, float *r) {
    const int64_t n = nib_tensor_count(y);
    const float sign = t->how == OF_FLOATS ? 1 : -1, *of = nib_tensor_data(y);
    if (t->how == OF_FLOATS) memset(r, 0, (size_t)n * sizeof *r);
    for (int64_t i = 0; i < n; i++) r[i] += sign * of[i];
    if (!w->adds || !t->stream || !nib_shape_equal(&t->stream->shape, &y->shape)) return;
    of = nib_tensor_data(t->stream);
    for (int64_t i = 0; i < n; i++) r[i] += sign * of[i];
}

static nib_status enough(turning *t) {
    t->enough = true;
    return NIB_RAISE(NIB_E_CANCELLED, "the linears at hand have what they need");
}

static nib_status meet(turning *t, size_t i, const nib_tensor *y) {
    together *n = &t->now;
    waiting *w = &t->linears[i];
    if (!t->x || !usable(t, t->x) || !usable(t, y)) {
        w->passed = true;
        return NIB_OK;
    }
    size_t at = 0;
    while (at < n->count && n->linear[at] != i) at++;
    if (at == n->count) {
        if (n->closed) return NIB_OK;
        const int64_t N = y->shape.dim[1], K = t->x->shape.dim[1];
        NIB_TRY(join(t, i, N, K));
        w->layer = t->layer;
        n->closed = n->count == TOGETHER;
    }
    take(t, w, y, n->r[at]);
    if (t->how == WITH_CODES) {
        const float *x = nib_tensor_data(t->x);
        if (at == 0) NIB_TRY(nib_sums_add(t->ctx, n->squares, x, NULL, t->piece, n->K));
        NIB_TRY(nib_sums_cross(t->ctx, n->cross[at], n->r[at], n->N[at], x, n->K, t->piece));
    }
    n->seen++;
    return n->closed && n->seen == n->count ? enough(t) : NIB_OK;
}

/* ---- the mode ---- */

static nib_status enter_module(void *self, nib_module *module, nib_tensor **input) {
    turning *t = self;
    if (t->how == TRYING) return NIB_OK;
    if (nib_module_kind_of(module) == &nib_kind_decoder_layer) hold(&t->stream, *input);
    const size_t i = index_of(t, module);
    if (i == t->count || t->linears[i].codes || t->linears[i].passed) return NIB_OK;
    if (t->now.count && !t->now.closed && t->x != *input) {
        t->now.closed = true; /* one of the next time */
        return enough(t);
    }
    hold(&t->x, *input);
    return NIB_OK;
}

static nib_status leave_module(void *self, nib_module *module, nib_tensor **output) {
    turning *t = self;
    const size_t i = index_of(t, module);
    if (i == t->count) return NIB_OK;
    if (t->how == TRYING) {
        hold(&t->left, *output);
        t->left_by = i;
        return NIB_OK;
    }
    return t->linears[i].codes || t->linears[i].passed ? NIB_OK : meet(t, i, *output);
}

static nib_status after_op(void *self, const nib_op *op, nib_call_args *args) {
    turning *t = self;
    if (op != &nib_op_add) return NIB_OK;
    for (int i = 0; i < 2 && t->how == TRYING && t->left; i++)
        if (args->in[i] != NIB_NONE && args->in[i]->part[0] == t->left->part[0])
            t->linears[t->left_by].adds = true;
    if (t->how != TRYING) hold(&t->stream, args->out[0]);
    return NIB_OK;
}

static const nib_mode mode = {.name = "in turn",
                              .enter_module = enter_module,
                              .leave_module = leave_module,
                              .after_op = after_op};

/* ---- forwards ---- */

/* Samples [first, end), of two tokens each while trying; then through one layer. True in *whole:
 * all of it ran. */
static nib_status forward(turning *t, size_t first, size_t end, int64_t begin, bool *whole) {
    const nib_samples *s = t->samples;
    const nib_hparams *h = &t->model->hparams;
    int32_t *ids = nib_mem_alloc_array(t->mem, (size_t)t->now.room, sizeof *ids);
    if (!ids) return nib_last_error()->status;
    t->piece = 0;
    for (size_t i = first; i < end; i++) {
        const size_t at = i * s->samples / t->taken, from = at ? s->ends[at - 1] : 0;
        const int64_t count = t->how == TRYING ? 2 : (int64_t)(s->ends[at] - from);
        memcpy(ids + t->piece, s->ids + from, (size_t)count * sizeof *ids);
        t->segments[i - first] = (nib_segment){&t->caches[i - first], 0, count, count};
        t->piece += count;
    }
    nib_one_layer one = {.layer = t->layer};
    const nib_batch batch = {.ctx = t->ctx,
                             .tokens = ids,
                             .segments = t->segments,
                             .nsegments = end - first,
                             .M = t->piece,
                             .logits = NIB_WANT_NOTHING,
                             .one = t->how == TRYING ? NULL : &one};
    nib_tensor *none = NULL;
    nib_status status = NIB_OK;
    const size_t mark = nib_scope_begin(t->ctx), bytes = (size_t)(t->piece * t->D) * sizeof(float);
    float *state = t->state[t->how == WITH_CODES] + begin * t->D;
    t->enough = false;
    t->now.seen = 0;
    if (t->how != TRYING && t->layer) {
        const nib_shape shape = {2, {t->piece, t->D}};
        one.x = nib_scope_own(t->ctx, nib_tensor_wrap(t->ctx, NIB_F32, shape, state, NULL, NULL));
        if (!one.x) status = nib_last_error()->status;
    }
    if (status >= NIB_OK) status = t->model->arch->forward(h, t->model->root, &batch, &none);
    *whole = status >= NIB_OK;
    if (status < NIB_OK && t->enough) status = NIB_OK;
    if (*whole && one.y && !t->now.count) {
        if (usable(t, one.y) && one.y->shape.dim[1] == t->D)
            memcpy(state, nib_tensor_data(one.y), bytes);
        else
            status = NIB_RAISE(NIB_E_UNSUPPORTED, "a layer gives rows of another width");
    }
    nib_scope_end(t->ctx, mark);
    nib_mem_free(t->mem, ids, (size_t)t->now.room * sizeof *ids);
    return status;
}

/* The linears of this layer as they are to run. */
static nib_status put(turning *t, how as) {
    t->how = as;
    for (size_t i = 0; i < t->count; i++) {
        const waiting *w = &t->linears[i];
        if (!w->codes || w->layer != t->layer) continue;
        NIB_TRY(nib_module_set(w->module, "weight",
                               nib_tensor_retain(as == OF_FLOATS ? w->weight : w->codes)));
    }
    return NIB_OK;
}

/* All samples, a piece at a time, of floats and then with codes. */
static nib_status all_pieces(turning *t, bool *whole) {
    int64_t begin = 0;
    for (size_t first = 0, end; first < t->taken; first = end, begin += t->piece) {
        end = first + t->ncaches < t->taken ? first + t->ncaches : t->taken;
        NIB_TRY(put(t, OF_FLOATS));
        NIB_TRY(forward(t, first, end, begin, whole));
        if (*whole) t->now.closed = true;
        NIB_TRY(put(t, WITH_CODES));
        NIB_TRY(forward(t, first, end, begin, whole));
    }
    return NIB_OK;
}

static nib_status freeze_one(turning *t, size_t at, bool known) {
    together *n = &t->now;
    waiting *w = &t->linears[n->linear[at]];
    const size_t size = (size_t)(n->N[at] * n->K);
    float *D = nib_mem_alloc_array(t->mem, size, sizeof *D);
    if (!D) return nib_last_error()->status;
    if (known) nib_make_up(t->ctx, n->squares, n->cross[at], n->N[at], n->K, share, D);
    const size_t mark = nib_scope_begin(t->ctx);
    w->codes = nib_keep(nib_module_fed_weight(w->module, known ? D : NULL));
    nib_status status = w->codes ? nib_module_set(w->module, "weight", nib_tensor_retain(w->codes))
                                 : nib_last_error()->status;
    nib_scope_end(t->ctx, mark);
    nib_mem_free(t->mem, D, size * sizeof *D);
    if (status < NIB_OK) return status;
    return nib_ctx_progress(t->ctx, "in turn", (double)++t->frozen, (double)t->count);
}

/* All linears of a layer, those of one input at a time. */
static nib_status one_layer(turning *t) {
    for (bool more = true; more;) {
        bool whole;
        nib_status status = all_pieces(t, &whole);
        more = t->now.count != 0;
        const bool known = status >= NIB_OK && more &&
                           nib_make_up_factor(t->ctx, t->now.squares, t->now.K, t->rows);
        for (size_t i = 0; i < t->now.count && status >= NIB_OK; i++)
            status = freeze_one(t, i, known);
        part(t);
        NIB_TRY(status);
        more = more && t->frozen < t->count;
    }
    return NIB_OK;
}

/* ---- all of it ---- */

/* Samples spread evenly over all of them, as many as states have room for; and the rows of as many
 * as one forward takes, taking all for as long as the longest. */
static void choose(turning *t, size_t *longest) {
    const nib_samples *s = t->samples;
    *longest = 2;
    for (size_t i = 0, at = 0; i < s->samples; at = s->ends[i++])
        if (s->ends[i] - at > *longest) *longest = s->ends[i] - at;
    const size_t most = states_bytes / (2 * sizeof(float) * (size_t)t->D) / *longest,
                 piece =
                     (size_t)PIECE / sizeof(float) / (size_t)(t->widest ? t->widest : 1) / *longest;
    t->taken = most < 1 ? 1 : most < s->samples ? most : s->samples;
    t->ncaches = piece < 1 ? 1 : piece < t->taken ? piece : t->taken;
    t->now.room = (int64_t)(t->ncaches * *longest);
    for (size_t i = 0; i < t->taken; i++) {
        const size_t at = i * s->samples / t->taken;
        t->rows += (int64_t)(s->ends[at] - (at ? s->ends[at - 1] : 0));
    }
}

static nib_status get_room(turning *t, size_t longest) {
    const nib_hparams *h = &t->model->hparams;
    const nib_kv_kind *kind = nib_kv_kind_find(NULL);
    for (int i = 0; i < 2; i++) {
        t->state[i] = nib_mem_alloc_array(t->mem, (size_t)(t->rows * t->D), sizeof *t->state[i]);
        if (!t->state[i]) return nib_last_error()->status;
    }
    t->segments = nib_mem_alloc_array(t->mem, t->ncaches, sizeof *t->segments);
    if (t->segments) t->caches = nib_mem_alloc_array(t->mem, t->ncaches, sizeof *t->caches);
    if (!t->caches) return nib_last_error()->status;
    for (size_t i = 0; i < t->ncaches; i++) {
        NIB_TRY(nib_kvcache_init(t->ctx, kind, h->num_hidden_layers, h->num_key_value_heads,
                                 h->head_dim, &t->caches[i]));
        NIB_TRY(nib_kvcache_reserve(&t->caches[i], (int64_t)longest, 0));
    }
    return NIB_OK;
}

static nib_status run(turning *t) {
    size_t longest;
    t->D = t->model->hparams.hidden_size;
    choose(t, &longest);
    NIB_TRY(get_room(t, longest));
    NIB_TRY(nib_model_prepare(t->ctx, t->model));
    NIB_TRY(nib_mode_push(t->ctx, &mode, t));
    for (size_t i = 0; i < t->nrests; i++)
        t->rests[i].quantized->input = t->rests[i].quantized->output = (nib_dtype)0;
    bool whole;
    nib_status status = forward(t, 0, 1, 0, &whole);
    for (t->layer = 0; t->layer < t->model->hparams.num_hidden_layers && status >= NIB_OK;
         t->layer++)
        status = one_layer(t);
    for (size_t i = 0; i < t->nrests; i++) {
        t->rests[i].quantized->input = t->rests[i].input;
        t->rests[i].quantized->output = t->rests[i].output;
    }
    (void)nib_mode_pop(t->ctx);
    return status;
}

static void give_back(turning *t) {
    part(t);
    hold(&t->x, NULL);
    hold(&t->stream, NULL);
    hold(&t->left, NULL);
    for (int i = 0; i < 2; i++)
        nib_mem_free(t->mem, t->state[i], (size_t)(t->rows * t->D) * sizeof *t->state[i]);
    for (size_t i = 0; t->caches && i < t->ncaches; i++) nib_kvcache_free(&t->caches[i]);
    nib_mem_free(t->mem, t->caches, t->ncaches * sizeof *t->caches);
    nib_mem_free(t->mem, t->segments, t->ncaches * sizeof *t->segments);
    nib_mem_free(t->mem, t->linears, t->room * sizeof *t->linears);
    nib_mem_free(t->mem, t->rests, t->rests_room * sizeof *t->rests);
}

nib_status nib_model_freeze(nib_ctx *ctx, nib_model *model, nib_data *data) {
    if (!ctx || !model) return nib_last_error()->status;
    if (!data) return NIB_RAISE(NIB_E_ARGUMENT, "freezing linears in turn needs data");
    nib_data d = {0};
    const size_t given = data->size && data->size < sizeof d ? data->size : sizeof d;
    memcpy(&d, data, given);
    nib_samples samples = {.mem = nib_ctx_mem(ctx)};
    turning t = {.ctx = ctx, .mem = nib_ctx_mem(ctx), .model = model, .samples = &samples};
    nib_status status = nib_module_walk(model->root, find_modules, &t);
    d.tokens = 0;
    if (status >= NIB_OK && t.count && !model->arch->see && !model->arch->hear) {
        status = nib_samples_read(ctx, model, &d, &samples);
        if (status >= NIB_OK) status = run(&t);
        model->prepared = false;
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
        nib_tensor_free(w->codes);
    }
    give_back(&t);
    nib_samples_free(&samples);
    if (status >= NIB_OK) memcpy(data, &d, given);
    return status;
}
