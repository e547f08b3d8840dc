/* evaluate_quanto.c: the perplexity of optimum-quanto's own charts, so that they can be compared
 * with.
 *
 *   text     lines without a word become " \n", which is what its data set makes of them
 *   ids      of all of it at once, with the tokenizer's special tokens
 *   windows  disjoint, `context` ids each, BOS in place of the first (where there is one); the
 *            rest that fills none is dropped
 *   scored   the ids after the first `context` / 2 + 1
 *   result   after each window exp(sum of nll / ids scored so far); the mean of these
 *
 * Early windows count in every term of that mean, so it is no perplexity: that of all scored ids is
 * given beside it. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/text_util.h"
#include "model/evaluate.h"
#include "tensor/context.h"

enum { CONTEXT = 512 };

typedef struct running {
    int64_t context;
    int32_t *ids; /* [context] the window at hand */
    nib_score *scores;
    double nll, squares, sum; /* sum: of the perplexities after each window */
    int64_t scored, windows;
} running;

static nib_status check(const nib_task *t, running *r) {
    const int64_t allowed = nib_model_max_tokens(t->model);
    r->context = t->eval->context ? t->eval->context : allowed < CONTEXT ? allowed : CONTEXT;
    if (t->eval->reference)
        return NIB_RAISE(NIB_E_ARGUMENT, "a reference goes with protocols half and full");
    if (r->context < 4 || r->context > allowed)
        return NIB_RAISE(NIB_E_ARGUMENT, "context is %lld, want 4 to the model's %lld",
                         (long long)r->context, (long long)allowed);
    return NIB_OK;
}

static nib_status encode(const nib_task *t, nib_ids *ids) {
    nib_text text = {.mem = nib_ctx_mem(t->ctx)};
    const char *end = t->text + t->size;
    for (const char *line = t->text, *next; line < end; line = next) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        next = stop ? stop + 1 : end;
        size_t blanks = 0;
        while (line + blanks < next && strchr(" \t\r\n", line[blanks])) blanks++;
        if (line + blanks == next)
            nib_text_add(&text, " \n");
        else
            nib_text_append(&text, line, (size_t)(next - line));
    }
    nib_status status = text.failed ? nib_last_error()->status : NIB_OK;
    if (status >= NIB_OK) status = nib_task_encode(t, text.data, text.length, true, ids);
    nib_text_free(&text);
    return status;
}

static nib_status score_window(nib_scorer *s, running *r) {
    const int64_t n = r->context, first = n / 2 < CONTEXT ? n / 2 : CONTEXT;
    for (int64_t at = 0, rows; at < n - 1; at += rows) {
        const bool wanted = at >= first;
        const float *logits = NULL;
        rows = (wanted ? n - 1 : first) - at;
        if (rows > nib_scorer_rows(s)) rows = nib_scorer_rows(s);
        NIB_TRY(nib_scorer_step(s, r->ids, at, rows, n, wanted ? NIB_WANT_ALL : NIB_WANT_NOTHING,
                                &logits));
        if (!wanted) continue;
        NIB_TRY(nib_score_rows(s, logits, NULL, NULL, r->ids + at + 1, rows, r->scores));
        for (int64_t m = 0; m < rows; m++) {
            r->nll += r->scores[m].nll;
            r->squares += r->scores[m].nll * r->scores[m].nll;
        }
        r->scored += rows;
    }
    r->sum += exp(r->nll / (double)r->scored);
    r->windows++;
    return NIB_OK;
}

static nib_status score_all(nib_task *t, const nib_ids *ids, running *r) {
    const int64_t count = (int64_t)ids->count;
    const int32_t bos = nib_tokenizer_special(t->tokenizer, "bos");
    nib_scorer scorer = {0};
    nib_status status = nib_scorer_open(t->ctx, t->model, t->eval->kv, &scorer);
    for (int64_t at = 0; at + r->context <= count && status >= NIB_OK; at += r->context) {
        memcpy(r->ids, ids->data + at, (size_t)r->context * sizeof *r->ids);
        if (bos >= 0 && bos < t->model->hparams.vocab_size) r->ids[0] = bos;
        status = score_window(&scorer, r);
        if (status >= NIB_OK)
            status =
                nib_ctx_progress(t->ctx, "perplexity", (double)(at + r->context), (double)count);
    }
    nib_scorer_close(&scorer);
    return status;
}

static void summarize(nib_eval *e, const running *r) {
    const double n = (double)r->scored, mean = r->nll / n;
    e->tokens = r->scored;
    e->perplexity = exp(mean);
    e->perplexity_error =
        n > 1 ? e->perplexity * sqrt(fmax(r->squares / n - mean * mean, 0) / (n - 1)) : 0;
    e->running_perplexity = r->sum / (double)r->windows;
}

nib_status nib_task_perplexity_quanto(nib_task *t) {
    nib_mem *mem = nib_ctx_mem(t->ctx);
    running r = {0};
    nib_ids ids = {0};
    NIB_TRY(check(t, &r));
    nib_status status = encode(t, &ids);
    if (status >= NIB_OK && (int64_t)ids.count < r.context) {
        status = NIB_RAISE(NIB_E_FORMAT, "the text has %zu tokens, too few for a window of %lld",
                           ids.count, (long long)r.context);
        nib_error_at(t->file, NULL, -1);
    }
    const size_t count = (size_t)r.context;
    if (status >= NIB_OK) {
        r.ids = nib_mem_alloc_array(mem, count, sizeof *r.ids);
        r.scores = nib_mem_alloc_array(mem, count, sizeof *r.scores);
        status = r.ids && r.scores ? score_all(t, &ids, &r) : nib_last_error()->status;
    }
    if (status >= NIB_OK) summarize(t->eval, &r);
    nib_mem_free(mem, r.scores, count * sizeof *r.scores);
    nib_mem_free(mem, r.ids, count * sizeof *r.ids);
    nib_ids_free(&ids);
    return status;
}
