/* evaluate.c: quality of a model on a file. Perplexity is here, tasks of items beside it.
 *
 * The default protocol of perplexity: the text is tokenized once, without special tokens, and cut
 * in disjoint windows of `context` ids, each beginning with BOS if the tokenizer has one; what does
 * not fill a window is dropped; the tokens of the second half are scored. Protocol "full" scores
 * every token of every window, a shorter last one included. */
#include "model/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "tensor/context.h"

typedef struct windows {
    const int32_t *text;   /* ids of the file */
    int64_t count;         /* of them */
    int64_t context, lead; /* ids of a window; 1 when BOS stands first, else 0 */
    int32_t bos;
    bool full;
    int32_t *ids;      /* [context] the window at hand */
    nib_score *scores; /* [context] */
    double *kl;        /* of every scored token, when there is a reference */
    int64_t scored;
    double nll, nll_squares, same;
} windows;

/* Score ids[first, n) of the window at hand by both models. */
static nib_status score_window(nib_scorer *model, nib_scorer *reference, windows *w, int64_t n,
                               int64_t first) {
    const int64_t most = nib_scorer_rows(model);
    for (int64_t at = 0; at < n - 1;) {
        /* Position p predicts id p + 1; rows before first - 1 only fill the cache. */
        const bool wanted = at >= first - 1;
        int64_t rows = (wanted ? n : first) - 1 - at;
        if (rows > most) rows = most;
        const nib_wanted want = wanted ? NIB_WANT_ALL : NIB_WANT_NOTHING;
        const float *logits, *other = NULL;
        NIB_TRY(nib_scorer_step(model, w->ids, at, rows, n, want, &logits));
        if (reference) NIB_TRY(nib_scorer_step(reference, w->ids, at, rows, n, want, &other));
        if (wanted) {
            NIB_TRY(
                nib_score_rows(model, logits, reference, other, w->ids + at + 1, rows, w->scores));
            for (int64_t m = 0; m < rows; m++) {
                const nib_score *s = &w->scores[m];
                w->nll += s->nll;
                w->nll_squares += s->nll * s->nll;
                w->same += s->same_top;
                if (w->kl) w->kl[w->scored] = s->kl;
                w->scored++;
            }
        }
        at += rows;
    }
    return NIB_OK;
}

static nib_status score_text(nib_task *t, nib_scorer *model, nib_scorer *reference, windows *w) {
    const int64_t step = w->context - w->lead;
    for (int64_t at = 0; at < w->count; at += step) {
        const int64_t text = w->count - at < step ? w->count - at : step, n = text + w->lead;
        if (n < w->context && (!w->full || n < 2)) break;
        if (w->lead) w->ids[0] = w->bos;
        memcpy(w->ids + w->lead, w->text + at, (size_t)text * sizeof *w->ids);
        NIB_TRY(score_window(model, reference, w, n, w->full ? 1 : w->context / 2));
        NIB_TRY(nib_ctx_progress(t->ctx, "perplexity", (double)(at + text), (double)w->count));
    }
    return NIB_OK;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarize(nib_task *t, windows *w) {
    nib_eval *e = t->eval;
    const double n = (double)w->scored, mean = w->nll / n;
    const double variance = n > 1 ? fmax(w->nll_squares / n - mean * mean, 0) / (n - 1) : 0;
    e->tokens = w->scored;
    e->perplexity = exp(mean);
    e->perplexity_error = e->perplexity * sqrt(variance);
    /* Bits of a token, times tokens of the whole text, over its bytes. */
    e->bits_per_byte = mean / log(2) * (double)w->count / (double)t->size;
    if (!w->kl) return;
    double sum = 0;
    for (int64_t i = 0; i < w->scored; i++) sum += w->kl[i];
    qsort(w->kl, (size_t)w->scored, sizeof *w->kl, ascending);
    e->kl_mean = sum / n;
    e->kl_p99 = w->kl[(int64_t)(0.99 * (n - 1) + 0.5)];
    e->same_top = w->same / n;
}

nib_status nib_task_encode(const nib_task *t, const char *text, size_t size, bool special,
                           nib_ids *ids) {
    nib_status status = nib_tokenizer_encode(t->tokenizer, text, size, special, ids);
    for (size_t i = 0; status >= NIB_OK && i < ids->count; i++)
        if (ids->data[i] >= t->model->hparams.vocab_size)
            status = NIB_RAISE(NIB_E_FORMAT, "the tokenizer gives id %d, the model has %d tokens",
                               (int)ids->data[i], t->model->hparams.vocab_size);
    return status < NIB_OK ? nib_error_at(t->file, NULL, -1) : NIB_OK;
}

static nib_status plan(nib_task *t, const nib_ids *ids, windows *w) {
    const nib_eval *e = t->eval;
    const int64_t allowed = nib_model_max_tokens(t->model);
    const char *protocol = e->protocol ? e->protocol : "half";
    w->full = strcmp(protocol, "full") == 0;
    if (!w->full && strcmp(protocol, "half") != 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "protocol \"%s\" is not known; use half, full or quanto",
                         protocol);
    w->context = e->context ? e->context : allowed < 512 ? allowed : 512;
    if (w->context < 4 || w->context > allowed)
        return NIB_RAISE(NIB_E_ARGUMENT, "context is %lld, want 4 to the model's %lld",
                         (long long)w->context, (long long)allowed);
    w->bos = nib_tokenizer_special(t->tokenizer, "bos");
    w->lead = w->bos >= 0;
    w->text = ids->data;
    w->count = (int64_t)ids->count;
    const int64_t V = t->model->hparams.vocab_size;
    if (w->bos >= V)
        return NIB_RAISE(NIB_E_FORMAT, "the tokenizer's BOS is %d, the model has %lld tokens",
                         (int)w->bos, (long long)V);
    if (w->count + w->lead < (w->full ? 2 : w->context)) {
        NIB_RAISE(NIB_E_FORMAT,
                  "the text has %lld tokens, too few for protocol %s with a context of %lld",
                  (long long)w->count, protocol, (long long)w->context);
        return nib_error_at(t->file, NULL, -1);
    }
    return NIB_OK;
}

static nib_status run_perplexity(nib_task *t) {
    nib_mem *mem = nib_ctx_mem(t->ctx);
    nib_scorer model = {0}, reference = {0};
    nib_ids ids = {0};
    windows w = {0};
    const nib_model *other = t->eval->reference;
    if (t->eval->protocol && strcmp(t->eval->protocol, "quanto") == 0)
        return nib_task_perplexity_quanto(t);
    nib_status status = nib_task_encode(t, t->text, t->size, false, &ids);
    if (status >= NIB_OK) status = plan(t, &ids, &w);
    if (status >= NIB_OK && other && other->hparams.vocab_size != t->model->hparams.vocab_size)
        status =
            NIB_RAISE(NIB_E_ARGUMENT,
                      "the reference has %d tokens, the model %d; they must share one tokenizer",
                      other->hparams.vocab_size, t->model->hparams.vocab_size);
    if (status < NIB_OK) goto done;
    w.ids = nib_mem_alloc_array(mem, (size_t)w.context, sizeof *w.ids);
    w.scores = nib_mem_alloc_array(mem, (size_t)w.context, sizeof *w.scores);
    if (other) w.kl = nib_mem_alloc_array(mem, (size_t)w.count, sizeof *w.kl);
    status = w.ids && w.scores && (w.kl || !other) ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK) status = nib_scorer_open(t->ctx, t->model, t->eval->kv, &model);
    if (status >= NIB_OK && other) status = nib_scorer_open(t->ctx, other, NULL, &reference);
    if (status >= NIB_OK) status = score_text(t, &model, other ? &reference : NULL, &w);
    if (status >= NIB_OK) summarize(t, &w);
done:
    nib_scorer_close(&reference);
    nib_scorer_close(&model);
    nib_mem_free(mem, w.kl, (size_t)w.count * sizeof *w.kl);
    nib_mem_free(mem, w.scores, (size_t)w.context * sizeof *w.scores);
    nib_mem_free(mem, w.ids, (size_t)w.context * sizeof *w.ids);
    nib_ids_free(&ids);
    return status;
}

nib_status nib_eval_file(nib_ctx *ctx, const nib_model *model, const char *task, const char *file,
                         nib_eval *eval) {
    static const struct {
        const char *name;
        nib_status (*run)(nib_task *task);
        bool text, reference; /* what goes with it */
    } tasks[] = {{"perplexity", run_perplexity, true, true},
                 {"hellaswag", nib_task_hellaswag, true, false},
                 {"lambada", nib_task_lambada, true, false},
                 {"pictures", nib_task_pictures, false, true}};
    enum { TASKS = sizeof tasks / sizeof *tasks, MOST = 1 << 30 };
    if (!ctx || !model) return nib_last_error()->status;
    if (!task || !file || !eval)
        return NIB_RAISE(NIB_E_ARGUMENT, "evaluating needs a task, a file and room for the result");
    int i = 0;
    while (i < TASKS && strcmp(tasks[i].name, task) != 0) i++;
    if (i == TASKS)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "task \"%s\" is not known; use perplexity, hellaswag, lambada or pictures",
                         task);
    if (!tasks[i].reference && eval->reference)
        return NIB_RAISE(NIB_E_ARGUMENT, "a reference goes with perplexity, not with %s", task);
    if (tasks[i].text && model->arch->see) {
        NIB_RAISE(NIB_E_UNSUPPORTED, "this network sees pictures and takes no tokens");
        return nib_error_at(model->path, NULL, -1);
    }

    nib_eval result = {0}; /* a caller of an older header has a shorter struct */
    const size_t known = eval->size && eval->size < sizeof result ? eval->size : sizeof result;
    memcpy(&result, eval, known);
    nib_task t = {.ctx = ctx, .model = model, .file = file, .eval = &result};
    nib_tokenizer *tokenizer = tasks[i].text ? nib_tokenizer_load(ctx, model->path) : NULL;
    char *text = tokenizer ? nib_file_read_whole(nib_ctx_mem(ctx), file, MOST, &t.size) : NULL;
    nib_status status = text || !tasks[i].text ? NIB_OK : nib_last_error()->status;
    if (status >= NIB_OK) {
        t.tokenizer = tokenizer;
        t.text = text;
        status = tasks[i].run(&t);
    }
    if (text) nib_mem_free(nib_ctx_mem(ctx), text, t.size + 1);
    nib_tokenizer_free(tokenizer);
    if (status >= NIB_OK) memcpy(eval, &result, known);
    return status;
}
