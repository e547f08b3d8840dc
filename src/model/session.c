/* session.c: one conversation: what was said (history), how much of it the cache holds (used),
 * and the logits that follow it. A sampled token is run with the next step, not before, so the
 * last token of a conversation costs nothing.
 *
 *   history  | prompt ........... | sampled |
 *   cache    |<------ used ------>|            logits: after history[used - 1] */
#include <string.h>

#include "base/error.h"
#include "model/arch.h"
#include "model/sampler.h"
#include "model/step.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum {
    CHUNK = 256
}; /* rows of a prompt that run together; any number gives the
      same bits, more of them cost memory for activations */

struct nib_session {
    nib_ctx *ctx;
    const nib_model *model;
    nib_session_options options;
    int64_t most; /* tokens of the history */
    nib_kvcache cache;
    int32_t *history;
    int64_t count, room, used;
    int64_t sampled;     /* draws so far: the counter of the random numbers */
    nib_sampler sampler; /* holds the logits */
    char *tune;          /* copy of the option, or NULL */
    /* Compiled when first needed, [n - 1] for this session and n - 1 others that step with it; NULL
     * before, and where they cannot be. */
    nib_step *steps[NIB_STEP_ROWS];
    bool has_logits, failed, not_compiled;
    bool ended; /* an end was sampled; feeding more goes on */
    nib_error failure;
};

static nib_status refuse(const nib_session *s) {
    nib_error_restore(&s->failure);
    return s->failure.status;
}

/* The cause that is on record now is this session's from here on. */
static nib_status fail(nib_session *s) {
    s->failed = true;
    s->failure = *nib_last_error();
    return s->failure.status;
}

static nib_status sample(nib_session *s, int32_t *token) {
    const nib_status status =
        nib_sampler_draw(&s->sampler, s->history, s->count, s->room, s->sampled, token);
    return status == NIB_E_FORMAT ? nib_error_at(s->model->path, NULL, -1) : status;
}

static nib_status make_sampler(nib_session *s) {
    const nib_session_options *o = &s->options;
    if (o->max_tokens < 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "max_tokens is %d, want 0 or more", o->max_tokens);
    const nib_sampling how = {.temperature = o->temperature,
                              .top_p = o->top_p,
                              .min_p = o->min_p,
                              .repetition_penalty = o->repetition_penalty,
                              .top_k = o->top_k};
    return nib_sampler_init(s->ctx, &how, o->seed ? o->seed : s->ctx->seed,
                            s->model->hparams.vocab_size, &s->sampler);
}

static float *logits_of(nib_session *s) { return nib_tensor_data_mut(s->sampler.logits); }

nib_session *nib_session_new(nib_ctx *ctx, const nib_model *model,
                             const nib_session_options *options) {
    if (!ctx || !model) return NULL;
    const nib_hparams *h = &model->hparams;
    nib_session *s = nib_mem_alloc_zero(&ctx->mem, sizeof *s);
    if (!s) return NULL;
    s->ctx = ctx;
    s->model = model;
    if (options)
        memcpy(&s->options, options,
               options->size && options->size < sizeof *options ? options->size : sizeof *options);
    if (model->arch->see) {
        NIB_RAISE(NIB_E_UNSUPPORTED, "this network sees pictures and has nothing to say");
        nib_error_at(model->path, NULL, -1);
        goto fail;
    }
    s->most = s->options.max_tokens ? s->options.max_tokens : nib_model_max_tokens(model);
    if (h->learned_positions && s->most > h->learned_positions) {
        NIB_RAISE(NIB_E_ARGUMENT, "max_tokens is %lld but the model has positions for %d",
                  (long long)s->most, h->learned_positions);
        nib_error_at(model->path, NULL, -1);
        goto fail;
    }
    if (s->options.tune) {
        s->tune = nib_mem_strdup(&ctx->mem, s->options.tune);
        if (!s->tune) goto fail;
    }
    s->options.tune = NULL; /* the caller's */
    NIB_TRY_GOTO(make_sampler(s), fail);
    NIB_TRY_GOTO(nib_model_prepare(ctx, model), fail);
    const nib_kv_kind *kind = nib_kv_kind_find(s->options.kv);
    if (!kind) goto fail;
    NIB_TRY_GOTO(nib_kvcache_init(ctx, kind, h->num_hidden_layers, h->num_key_value_heads,
                                  h->head_dim, &s->cache),
                 fail);
    s->cache.most = s->most;
    return s;
fail:
    nib_session_free(s);
    return NULL;
}

void nib_session_free(nib_session *s) {
    if (!s) return;
    nib_mem *mem = &s->ctx->mem;
    for (int i = 0; i < NIB_STEP_ROWS; i++) nib_step_free(s->steps[i]);
    nib_mem_strfree(mem, s->tune);
    nib_sampler_free(&s->sampler);
    nib_kvcache_free(&s->cache);
    nib_mem_free(mem, s->history, (size_t)s->room * sizeof *s->history);
    nib_mem_free(mem, s, sizeof *s);
}

static nib_status remember(nib_session *s, const int32_t *tokens, int64_t n) {
    if (s->count + n > s->room) {
        int64_t room = s->room + s->room / 2;
        if (room < s->count + n) room = s->count + n;
        room = (room + 63) / 64 * 64;
        int32_t *grown = nib_mem_realloc(&s->ctx->mem, s->history, (size_t)s->room * sizeof *grown,
                                         (size_t)room * sizeof *grown);
        if (!grown) return nib_last_error()->status;
        s->history = grown;
        s->room = room;
    }
    if (n) memcpy(s->history + s->count, tokens, (size_t)n * sizeof *tokens);
    s->count += n;
    return NIB_OK;
}

/* Run the next tokens of the history; with `last` the logits after them are kept. */
static nib_status run_chunk(nib_session *s, int64_t n, bool last) {
    NIB_TRY(nib_kvcache_reserve(&s->cache, s->used + n, s->used));
    const nib_segment segment = {&s->cache, s->used, n, s->count};
    const nib_batch batch = {.ctx = s->ctx,
                             .tokens = s->history + s->used,
                             .segments = &segment,
                             .nsegments = 1,
                             .M = n,
                             .logits = last ? NIB_WANT_LAST : NIB_WANT_NOTHING};
    nib_tensor *logits = NULL;
    const size_t mark = nib_scope_begin(s->ctx);
    const nib_status status =
        s->model->arch->forward(&s->model->hparams, s->model->root, &batch, &logits);
    if (status >= NIB_OK && last) {
        memcpy(logits_of(s), nib_tensor_data(logits),
               (size_t)s->model->hparams.vocab_size * sizeof(float));
        s->has_logits = true;
    }
    nib_scope_end(s->ctx, mark);
    if (status >= NIB_OK) s->used += n;
    return status;
}

nib_status nib_session_feed(nib_session *s, const int32_t *tokens, size_t n) {
    if (!s) return nib_last_error()->status;
    if (s->failed) return refuse(s);
    if (n && !tokens) return NIB_RAISE(NIB_E_ARGUMENT, "no tokens were given");
    const int V = s->model->hparams.vocab_size;
    if (n > (size_t)(s->most - s->count))
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "%zu tokens after %lld pass the session's %lld; raise max_tokens", n,
                         (long long)s->count, (long long)s->most);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= V)
            return NIB_RAISE(NIB_E_ARGUMENT, "token %d at %zu is outside the vocabulary of %d",
                             (int)tokens[i], i, V);
    if (!n) return NIB_OK;
    if (remember(s, tokens, (int64_t)n) < NIB_OK) return fail(s);
    s->ended = false;
    const int64_t first = s->used;
    while (s->used < s->count) {
        const int64_t rows = s->count - s->used < CHUNK ? s->count - s->used : CHUNK;
        if (run_chunk(s, rows, s->used + rows == s->count) < NIB_OK) return fail(s);
        if (s->used < s->count && nib_ctx_progress(s->ctx, "prompt", (double)(s->used - first),
                                                   (double)(s->count - first)) < NIB_OK)
            return fail(s);
    }
    return NIB_OK;
}

static nib_status check_step(nib_session *const *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!s[i]) return nib_last_error()->status;
        if (s[i]->failed) return refuse(s[i]);
        if (s[i]->model != s[0]->model || s[i]->ctx != s[0]->ctx)
            return NIB_RAISE(NIB_E_ARGUMENT,
                             "session %zu is of another model or context than the first", i);
        if (!s[i]->count)
            return NIB_RAISE(NIB_E_ARGUMENT, "session %zu was fed nothing; feed a prompt first", i);
        for (size_t k = 0; k < i; k++)
            if (s[k] == s[i])
                return NIB_RAISE(NIB_E_ARGUMENT, "sessions %zu and %zu are the same", k, i);
    }
    return NIB_OK;
}

static bool has_pending(const nib_session *s) { return s->used < s->count && s->count < s->most; }

/* The compiled step of n sessions, kept by the first; NULL where it is to run op by op. A step that
 * cannot be compiled is a failure only where compiling was asked for, or where it is a matter of
 * memory. */
static nib_status compiled(nib_session *const *s, const nib_step_row *rows, int n,
                           nib_step **step) {
    *step = NULL;
    bool asked = false;
    for (int i = 0; i < n; i++) {
        if (s[i]->options.compile == NIB_COMPILE_NEVER || s[i]->not_compiled ||
            !nib_step_fits(s[i]->ctx, s[i]->model, rows[i].position))
            return NIB_OK;
        asked |= s[i]->options.compile == NIB_COMPILE_ALWAYS;
    }
    nib_step **kept = &s[0]->steps[n - 1];
    if (!*kept) *kept = nib_step_new(s[0]->ctx, s[0]->model, rows, n, s[0]->tune);
    *step = *kept;
    if (*step) return NIB_OK;
    const nib_status status = nib_last_error()->status;
    s[0]->not_compiled = status == NIB_E_UNSUPPORTED;
    return s[0]->not_compiled && !asked ? NIB_OK : status;
}

/* What was run: n rows of logits, one for each session. */
static void take_logits(nib_session *const *s, size_t n, const float *logits) {
    const size_t V = (size_t)s[0]->model->hparams.vocab_size;
    for (size_t i = 0; i < n; i++) {
        memcpy(logits_of(s[i]), logits + i * V, V * sizeof *logits);
        s[i]->used++;
    }
}

/* Run one row of each of these sessions in one batch, op by op. */
static nib_status run_batch(nib_session *const *s, size_t n) {
    nib_ctx *ctx = s[0]->ctx;
    nib_segment *segments = nib_mem_alloc_array(&ctx->mem, n, sizeof *segments);
    int32_t *tokens = nib_mem_alloc_array(&ctx->mem, n, sizeof *tokens);
    const nib_batch batch = {.ctx = ctx,
                             .tokens = tokens,
                             .segments = segments,
                             .nsegments = n,
                             .M = (int64_t)n,
                             .logits = NIB_WANT_ALL};
    nib_status status = segments && tokens ? NIB_OK : nib_last_error()->status;
    for (size_t i = 0; i < n && status >= NIB_OK; i++) {
        segments[i] = (nib_segment){&s[i]->cache, s[i]->used, 1, s[i]->count};
        tokens[i] = s[i]->history[s[i]->used];
    }
    nib_tensor *logits = NULL;
    const size_t mark = nib_scope_begin(ctx);
    const nib_model *model = s[0]->model;
    if (status >= NIB_OK)
        status = model->arch->forward(&model->hparams, model->root, &batch, &logits);
    if (status >= NIB_OK) take_logits(s, n, nib_tensor_data(logits));
    nib_scope_end(ctx, mark);
    nib_mem_free(&ctx->mem, tokens, n * sizeof *tokens);
    nib_mem_free(&ctx->mem, segments, n * sizeof *segments);
    return status;
}

/* A few sessions, compiled where that can be. */
static nib_status run_few(nib_session *const *s, int n) {
    nib_step_row rows[NIB_STEP_ROWS];
    nib_step *step;
    const float *logits;
    for (int i = 0; i < n; i++)
        rows[i] = (nib_step_row){&s[i]->cache, s[i]->used, s[i]->history[s[i]->used]};
    NIB_TRY(compiled(s, rows, n, &step));
    if (!step) return n == 1 ? run_chunk(s[0], 1, true) : run_batch(s, (size_t)n);
    NIB_TRY(nib_step_run(step, rows, &logits));
    take_logits(s, (size_t)n, logits);
    return NIB_OK;
}

/* Run what sessions sampled last, one row each: all together. */
static nib_status run_pending(nib_session *const *s, size_t n) {
    nib_ctx *ctx = s[0]->ctx;
    nib_session *few[NIB_STEP_ROWS], **pending = few;
    size_t count = 0;
    if (n > NIB_STEP_ROWS && !(pending = nib_mem_alloc_array(&ctx->mem, n, sizeof *pending)))
        return nib_last_error()->status;
    nib_status status = NIB_OK;
    for (size_t i = 0; i < n && status >= NIB_OK; i++) {
        if (!has_pending(s[i])) continue;
        status = nib_kvcache_reserve(&s[i]->cache, s[i]->count, s[i]->used);
        pending[count++] = s[i];
    }
    if (status >= NIB_OK && count)
        status = count <= NIB_STEP_ROWS ? run_few(pending, (int)count) : run_batch(pending, count);
    if (pending != few) nib_mem_free(&ctx->mem, pending, n * sizeof(nib_session *));
    return status;
}

static bool is_eos(const nib_hparams *h, int32_t token) {
    for (int i = 0; i < h->neos; i++)
        if (h->eos[i] == token) return true;
    return false;
}

nib_status nib_sessions_step(nib_session *const *s, size_t n, int32_t *tokens) {
    if (!n) return NIB_END;
    if (!s) return nib_last_error()->status;
    if (!tokens) return NIB_RAISE(NIB_E_ARGUMENT, "no memory was given for the tokens");
    NIB_TRY(check_step(s, n));
    if (run_pending(s, n) < NIB_OK) {
        for (size_t i = 0; i < n; i++) fail(s[i]);
        return s[0]->failure.status;
    }
    bool any = false;
    for (size_t i = 0; i < n; i++) {
        tokens[i] = -1;
        if (s[i]->count >= s[i]->most || s[i]->ended) continue;
        int32_t token;
        if (sample(s[i], &token) < NIB_OK) return fail(s[i]);
        if (!s[i]->options.ignore_eos && is_eos(&s[i]->model->hparams, token)) {
            s[i]->ended = true;
            continue;
        }
        if (remember(s[i], &token, 1) < NIB_OK) return fail(s[i]);
        s[i]->sampled++;
        tokens[i] = token;
        any = true;
    }
    return any ? NIB_OK : NIB_END;
}

nib_status nib_session_next(nib_session *s, int32_t *token) {
    if (!s) return nib_last_error()->status;
    return nib_sessions_step(&s, 1, token);
}

const float *nib_session_logits(const nib_session *s, size_t *count) {
    if (!s) return NULL;
    if (s->failed) {
        refuse(s);
        return NULL;
    }
    if (!s->has_logits)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "the session was fed nothing; no logits yet");
    if (count) *count = (size_t)s->model->hparams.vocab_size;
    return nib_tensor_data(s->sampler.logits);
}
