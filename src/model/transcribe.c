/* transcribe.c: a sound to ids, window by window. In each: the encoder, keys and values for cross
 * attention, the first ids (start, language, task), then one id at a time by the rules of speech.h.
 *
 * Where a window ends within speech, the next one begins at the last pair of times that was told,
 * and what came after them is heard again; this, and all the rest, as transformers' generate. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "model/listen.h"
#include "model/step.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "text/ids.h"

enum { MOST_FIRST = NIB_MAX_FORCED + 4 };
static const double frame_seconds = (double)NIB_SPEECH_HOP / NIB_SPEECH_RATE;

typedef struct listener {
    nib_ctx *ctx;
    const nib_model *model;
    const nib_speech *speech;
    const nib_transcribe_options *o;
    nib_kvcache cache, heard;
    nib_tensor *mel; /* of all of the sound */
    int64_t frames, window;
    bool timestamps; /* told by the model, if only to know where windows begin */
    int32_t first[MOST_FIRST];
    int nfirst;
    int32_t *said; /* [positions]: the first ids of a window and what follows */
    int64_t count, most;
    float *logits;
    int32_t eos;       /* the first of them, or -1 */
    nib_step *step;    /* from one id to the next, compiled when first needed; NULL before, */
    bool not_compiled; /* and where it cannot be */
    nib_ids *ids;
    nib_window_use *use; /* NULL: nobody asks for windows */
    void *user;
} listener;

/* ---- one window ---- */

/* Frames [seek, seek + window) as the encoder takes them, zeros after the last. */
static nib_tensor *window_at(const listener *l, int64_t seek) {
    const int64_t bands = l->mel->shape.dim[0], W = l->window;
    const int64_t have = l->frames - seek < W ? l->frames - seek : W;
    nib_tensor *t =
        nib_scope_own(l->ctx, nib_tensor_result(l->ctx, NIB_F32, (nib_shape){2, {bands, W}}));
    if (!t) return NULL;
    float *to = nib_tensor_data_mut(t);
    const float *from = nib_tensor_data(l->mel);
    for (int64_t b = 0; b < bands; b++) {
        memcpy(to + b * W, from + b * l->frames + seek, (size_t)have * sizeof *to);
        memset(to + b * W + have, 0, (size_t)(W - have) * sizeof *to);
    }
    return t;
}

static nib_status hear(listener *l, int64_t seek) {
    const nib_model *m = l->model;
    const size_t mark = nib_scope_begin(l->ctx);
    nib_tensor *encoded = m->arch->encode(&m->hparams, m->root, window_at(l, seek));
    const nib_status status = m->arch->hear(&m->hparams, m->root, encoded, &l->heard);
    nib_scope_end(l->ctx, mark);
    nib_ctx_trim(l->ctx); /* what follows is small, and the decoder's weights come from the file */
    return status;
}

/* Op by op. */
static nib_status run_rows(listener *l, const int32_t *ids, int64_t start, int64_t n) {
    const nib_hparams *h = &l->model->hparams;
    const nib_segment segment = {&l->cache, start, n, start + n};
    const nib_batch batch = {.ctx = l->ctx,
                             .tokens = ids,
                             .segments = &segment,
                             .nsegments = 1,
                             .M = n,
                             .logits = NIB_WANT_LAST};
    nib_tensor *logits = NULL;
    const size_t mark = nib_scope_begin(l->ctx);
    const nib_status status = l->model->arch->forward(h, l->model->root, &batch, &logits);
    if (status >= NIB_OK)
        memcpy(l->logits, nib_tensor_data(logits), (size_t)h->vocab_size * sizeof *l->logits);
    nib_scope_end(l->ctx, mark);
    return status;
}

/* Is the step of this row compiled now? As in sessions, one that cannot be is a failure only where
 * compiling was asked for, or where it is a matter of memory. */
static nib_status compile(listener *l, const nib_step_row *row, bool *compiled) {
    *compiled = false;
    if (l->o->compile == NIB_COMPILE_NEVER || l->not_compiled ||
        !nib_step_fits(l->ctx, l->model, row->position))
        return NIB_OK;
    if (!l->step) l->step = nib_step_new(l->ctx, l->model, row, 1, l->o->tune);
    *compiled = l->step != NULL;
    if (l->step) return NIB_OK;
    const nib_status status = nib_last_error()->status;
    l->not_compiled = status == NIB_E_UNSUPPORTED;
    return l->not_compiled && l->o->compile != NIB_COMPILE_ALWAYS ? NIB_OK : status;
}

/* Run ids [start, start + n) of what is said; the logits after them. */
static nib_status run(listener *l, const int32_t *said, int64_t start, int64_t n) {
    const nib_step_row row = {&l->cache, start, said[start]};
    const float *logits;
    bool compiled = false;
    NIB_TRY(nib_kvcache_reserve(&l->cache, start + n, start));
    if (n == 1) NIB_TRY(compile(l, &row, &compiled));
    if (!compiled) return run_rows(l, said + start, start, n);
    NIB_TRY(nib_step_run(l->step, &row, &logits));
    memcpy(l->logits, logits, (size_t)l->model->hparams.vocab_size * sizeof *l->logits);
    return NIB_OK;
}

static nib_status likeliest(const listener *l, int32_t *id) {
    const int V = l->model->hparams.vocab_size;
    int32_t best = 0;
    for (int32_t i = 0; i < V; i++) {
        if (isnan(l->logits[i])) {
            NIB_RAISE(NIB_E_FORMAT, "the logit of token %d is not a number; a weight is damaged",
                      (int)i);
            return nib_error_at(l->model->path, NULL, -1);
        }
        if (l->logits[i] > l->logits[best]) best = i;
    }
    *id = best;
    return NIB_OK;
}

static bool ends(const listener *l, int32_t id) {
    const nib_hparams *h = &l->model->hparams;
    for (int i = 0; i < h->neos; i++)
        if (h->eos[i] == id) return true;
    return false;
}

/* What is said of the window that was heard, after the first ids in `said`. */
static nib_status speak(listener *l) {
    const nib_hparams *h = &l->model->hparams;
    const int64_t begin = l->nfirst;
    memcpy(l->said, l->first, (size_t)l->nfirst * sizeof *l->said);
    l->count = begin;
    for (int64_t used = 0; l->count < l->most; used = l->count - 1) {
        int32_t id = 0;
        NIB_TRY(run(l, l->said, used, l->count - used));
        nib_speech_rule(l->speech, l->timestamps, l->said + begin, l->count - begin, l->eos,
                        l->logits, h->vocab_size);
        NIB_TRY(likeliest(l, &id));
        if (ends(l, id)) break;
        l->said[l->count++] = id;
    }
    return NIB_OK;
}

/* ---- pieces ---- */

/* Ids of one piece: to the caller's list, and those of text to its function. */
static nib_status give(const listener *l, double start, double end, int32_t *ids, int64_t count) {
    const int32_t time = nib_speech_first_time(l->speech);
    const bool all = l->o->timestamps || !l->timestamps; /* not where times were for us alone */
    int64_t kept = 0;
    if (l->ids && all) NIB_TRY(nib_ids_append(l->ids, ids, (size_t)count));
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < time) ids[kept++] = ids[i];
    if (l->ids && !all) NIB_TRY(nib_ids_append(l->ids, ids, (size_t)kept));
    if (!l->o->piece) return NIB_OK;
    const nib_spoken spoken = {start, end, ids, (size_t)kept};
    return l->o->piece(l->o->user, &spoken);
}

/* Cut what was said between the two of each pair of times; *next: frames to go on by. A single time
 * at the end says that nothing follows; otherwise what was said after the last pair is dropped. */
static nib_status cut(const listener *l, int64_t seek, int64_t frames, int64_t *next) {
    const int32_t time = nib_speech_first_time(l->speech);
    int32_t *ids = l->said + l->nfirst;
    const int64_t n = l->count - l->nfirst;
    const double at = (double)seek * frame_seconds, step = frame_seconds * NIB_FRAMES_A_STEP;
    const bool single = n >= 2 && ids[n - 1] >= time && ids[n - 2] < time;
    int64_t last_pair = 0, last_time = -1; /* where the second of the pair is */
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < time) continue;
        last_time = ids[i] - time;
        if (i + 1 < n && ids[i + 1] >= time) last_pair = i + 1;
    }
    *next = frames;
    if (!last_pair) {
        const int64_t end = last_time > 0 ? last_time : frames / NIB_FRAMES_A_STEP;
        return give(l, at, at + (double)end * step, ids, n);
    }
    if (!single) *next = (int64_t)(ids[last_pair - 1] - time) * NIB_FRAMES_A_STEP;
    const int64_t all = single ? n : last_pair + 1; /* with the second, as generate has it */
    for (int64_t from = 0, to; from < all; from = to) {
        to = from + 1;
        while (to < last_pair && (ids[to - 1] < time || ids[to] < time)) to++;
        if (to > last_pair || (to == last_pair && !single)) to = all;
        const int32_t first = ids[from], last = ids[to == all && !single ? to - 2 : to - 1];
        NIB_TRY(give(l, at + (first < time ? 0 : (double)(first - time) * step),
                     at + (last < time ? 0 : (double)(last - time) * step), ids + from, to - from));
    }
    return NIB_OK;
}

/* ---- the first ids ---- */

static nib_status detect_language(listener *l, int32_t *id) {
    const nib_speech *s = l->speech;
    NIB_TRY(hear(l, 0));
    NIB_TRY(run(l, &s->start, 0, 1));
    *id = s->languages[0].id;
    for (int i = 1; i < s->nlanguages; i++) { /* the lowest id first among equals */
        const int32_t other = s->languages[i].id;
        if (l->logits[other] > l->logits[*id] ||
            (l->logits[other] == l->logits[*id] && other < *id))
            *id = other;
    }
    return NIB_OK;
}

static nib_status task_id(const nib_speech *s, const char *task, int32_t *id) {
    const bool translate = strcmp(task, "translate") == 0;
    if (!translate && strcmp(task, "transcribe") != 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "task \"%.40s\" is not known; use transcribe or translate",
                         task);
    *id = translate ? s->translate : s->transcribe;
    if (*id < 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "task \"%s\": the model has no choice of tasks", task);
    return NIB_OK;
}

static nib_status first_ids(listener *l) {
    const nib_speech *s = l->speech;
    const char *language = l->o->language ? l->o->language : s->language;
    const char *task = l->o->task ? l->o->task : s->task;
    if (s->english_only && (l->o->language || l->o->task))
        return NIB_RAISE(NIB_E_ARGUMENT, "this model knows English only: it has no choice of "
                                         "language or task");
    int32_t *ids = l->first, id = -1;
    int n = 0;
    ids[n++] = s->start;
    for (int i = 0; i < s->nforced && !*language && !*task; i++) ids[n++] = s->forced[i];
    if (*language)
        NIB_TRY(nib_speech_language(s, language, &id));
    else if (s->nlanguages && (n < 2 || ids[1] < 0))
        NIB_TRY(detect_language(l, &id));
    if (id >= 0) ids[1] = id;
    if (id >= 0 && n < 2) n = 2;
    if (*task) {
        NIB_TRY(task_id(s, task, &ids[n]));
        n++;
    } else if (*language && s->transcribe >= 0) {
        bool has = false;
        for (int i = 0; i < n; i++) has |= ids[i] == s->transcribe || ids[i] == s->translate;
        if (!has) ids[n++] = s->transcribe;
    }
    if (s->no_timestamps >= 0 && !l->timestamps && ids[n - 1] != s->no_timestamps)
        ids[n++] = s->no_timestamps;
    else if (s->no_timestamps >= 0 && l->timestamps && ids[n - 1] == s->no_timestamps)
        n--;
    l->nfirst = 0;
    for (int i = 0; i < n; i++)
        if (ids[i] >= 0) l->first[l->nfirst++] = ids[i];
    return NIB_OK;
}

/* ---- all of it ---- */

static nib_status open_caches(listener *l) {
    const nib_hparams *h = &l->model->hparams;
    const nib_kv_kind *kind = nib_kv_kind_find(l->o->kv);
    if (!kind) return nib_last_error()->status;
    NIB_TRY(nib_kvcache_init(l->ctx, kind, h->num_hidden_layers, h->num_key_value_heads,
                             h->head_dim, &l->cache));
    NIB_TRY(nib_kvcache_init(l->ctx, kind, h->num_hidden_layers, h->num_key_value_heads,
                             h->head_dim, &l->heard));
    l->cache.most = h->learned_positions;
    l->cache.heard = &l->heard;
    return nib_kvcache_reserve(&l->heard, l->speech->max_source_positions, 0);
}

static nib_status prepare(listener *l, const nib_tensor *sound) {
    const nib_hparams *h = &l->model->hparams;
    if (!l->model->arch->hear) {
        NIB_RAISE(NIB_E_UNSUPPORTED, "%s hears no sound; Whisper does", l->model->arch->doc);
        return nib_error_at(l->model->path, NULL, -1);
    }
    if (sound == NIB_NONE || sound->layout || sound->dtype != NIB_F32 || sound->shape.ndim != 1 ||
        !nib_tensor_contiguous(sound) || !sound->shape.dim[0])
        return NIB_RAISE(NIB_E_SHAPE, "a sound is a vector of f32 samples, 16000 a second");
    if (l->o->max_tokens < 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "max_tokens is %d, want 0 or more", l->o->max_tokens);
    l->window = (int64_t)l->speech->max_source_positions * NIB_FRAMES_A_STEP;
    const int64_t samples = l->window * NIB_SPEECH_HOP;
    const bool longer = sound->shape.dim[0] > samples;
    l->timestamps = (l->o->timestamps || longer) && l->speech->no_timestamps >= 0;
    if (l->o->timestamps && !l->timestamps)
        return NIB_RAISE(NIB_E_ARGUMENT, "the model tells no times: generation_config.json has no "
                                         "\"no_timestamps_token_id\"");
    l->mel = nib_log_mel(sound, l->speech->num_mel_bins, longer ? 0 : samples);
    if (!l->mel) return nib_last_error()->status;
    l->frames = l->mel->shape.dim[1];
    l->eos = h->neos ? h->eos[0] : -1;
    l->said = nib_mem_alloc_array(nib_ctx_mem(l->ctx), (size_t)h->learned_positions + MOST_FIRST,
                                  sizeof *l->said);
    l->logits = nib_mem_alloc_array(nib_ctx_mem(l->ctx), (size_t)h->vocab_size, sizeof *l->logits);
    if (!l->said || !l->logits) return nib_last_error()->status;
    NIB_TRY(nib_model_prepare(l->ctx, l->model));
    NIB_TRY(open_caches(l));
    NIB_TRY(first_ids(l));
    const int64_t asked = l->o->max_tokens ? l->o->max_tokens : l->speech->max_length;
    l->most = asked ? l->nfirst + asked : h->learned_positions;
    if (l->most > h->learned_positions) l->most = h->learned_positions;
    if (l->nfirst >= l->most)
        return NIB_RAISE(NIB_E_ARGUMENT, "the model has positions for %d ids; %d are taken",
                         h->learned_positions, l->nfirst);
    return NIB_OK;
}

static nib_status tell_window(const listener *l, int64_t seek) {
    if (!l->use) return NIB_OK;
    const size_t mark = nib_scope_begin(l->ctx);
    nib_tensor *mel = window_at(l, seek);
    const nib_status status =
        mel ? l->use(l->user, mel, l->said, l->count) : nib_last_error()->status;
    nib_scope_end(l->ctx, mark);
    return status;
}

static nib_status listen(listener *l) {
    for (int64_t seek = 0, next = 0; seek < l->frames; seek += next) {
        const int64_t frames = l->frames - seek < l->window ? l->frames - seek : l->window;
        NIB_TRY(nib_ctx_progress(l->ctx, "sound", (double)seek, (double)l->frames));
        NIB_TRY(hear(l, seek));
        NIB_TRY(speak(l));
        NIB_TRY(tell_window(l, seek));
        NIB_TRY(cut(l, seek, frames, &next));
        if (next < 1) next = frames; /* times that do not go on: none of the model's are such */
    }
    return NIB_OK;
}

nib_status nib_listen(nib_ctx *ctx, const nib_model *model, const nib_tensor *sound,
                      const nib_transcribe_options *options, nib_ids *ids, nib_window_use *use,
                      void *user) {
    if (!ctx || !model || !sound) return nib_last_error()->status;
    nib_transcribe_options o = {0};
    if (options)
        memcpy(&o, options, options->size && options->size < sizeof o ? options->size : sizeof o);
    listener l = {.ctx = ctx,
                  .model = model,
                  .speech = &model->hparams.speech,
                  .o = &o,
                  .ids = ids,
                  .use = use,
                  .user = user};
    nib_mem *mem = nib_ctx_mem(ctx);
    if (ids) nib_ids_open(ids, mem);
    nib_status status = prepare(&l, sound);
    if (status >= NIB_OK) status = listen(&l);
    nib_step_free(l.step);
    nib_kvcache_free(&l.cache);
    nib_kvcache_free(&l.heard);
    nib_mem_free(mem, l.said,
                 ((size_t)model->hparams.learned_positions + MOST_FIRST) * sizeof *l.said);
    nib_mem_free(mem, l.logits, (size_t)model->hparams.vocab_size * sizeof *l.logits);
    nib_tensor_free(l.mel);
    return status;
}

nib_status nib_transcribe(nib_ctx *ctx, const nib_model *model, const nib_tensor *sound,
                          const nib_transcribe_options *options, nib_ids *ids) {
    return nib_listen(ctx, model, sound, options, ids, NULL, NULL);
}
