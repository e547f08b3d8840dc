/* evaluate_items.c: tasks whose file has one JSON object a line: a beginning and how it may go on.
 *
 *   hellaswag  "activity_label: ctx", then " " and one of four endings; the likeliest should be
 *              the labelled one, by the sum of log-likelihoods (acc) and by that over the ending's
 *              characters (acc_norm). Zellers et al., "HellaSwag", 2019.
 *   lambada    a passage and its last word. Paperno et al., "The LAMBADA dataset", 2016. By
 *              protocol "quanto" its last id, which may be a part of a word.
 *
 * A beginning runs once; each continuation follows it in the same cache. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/text_util.h"
#include "model/evaluate.h"
#include "tensor/context.h"

enum { ENDINGS = 4 };

typedef struct item {
    nib_ids begin, whole[ENDINGS]; /* ids of the beginning, and of it with each continuation */
    int64_t characters[ENDINGS];
    int n, label;
} item;

typedef struct outcome {
    double log_p;
    bool greedy;
} outcome; /* greedy: each token was the likeliest */

static void item_free(item *it) {
    nib_ids_free(&it->begin);
    for (int i = 0; i < ENDINGS; i++) nib_ids_free(&it->whole[i]);
}

/* One of two keys, the first that is there, as a string. */
static nib_status either(const json_t *object, const char *key, const char *other,
                         const char **value) {
    *value = NULL;
    NIB_TRY(nib_json_string(object, json_object_get(object, key) ? key : other, false, value));
    if (!*value) return NIB_RAISE(NIB_E_FORMAT, "neither \"%s\" nor \"%s\" is there", key, other);
    return NIB_OK;
}

static int64_t characters(const char *text) {
    int64_t n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static nib_status encode(const nib_task *t, const nib_text *text, nib_ids *ids) {
    if (text->failed) return nib_last_error()->status;
    return nib_task_encode(t, text->data, text->length, true, ids);
}

/* Fields as published, or ctx_a and ctx_b for ctx, ending_options for endings, label as text. */
static nib_status read_hellaswag(const nib_task *t, const json_t *line, nib_text *text, item *it) {
    const char *activity, *first, *second = NULL;
    json_t *endings = NULL;
    NIB_TRY(nib_json_string(line, "activity_label", true, &activity));
    NIB_TRY(either(line, "ctx", "ctx_a", &first));
    if (!json_object_get(line, "ctx")) NIB_TRY(nib_json_string(line, "ctx_b", false, &second));
    NIB_TRY(nib_json_array(line, json_object_get(line, "endings") ? "endings" : "ending_options",
                           true, &endings));
    const json_t *label = json_object_get(line, "label");
    int64_t number = -1;
    if (json_is_string(label))
        (void)nib_text_to_int(json_string_value(label), &number);
    else
        NIB_TRY(nib_json_int(line, "label", 0, ENDINGS - 1, true, &number));
    if (number < 0 || number >= ENDINGS)
        return NIB_RAISE(NIB_E_FORMAT, "\"label\" is not a number from 0 to %d", ENDINGS - 1);
    if (json_array_size(endings) != ENDINGS)
        return NIB_RAISE(NIB_E_FORMAT, "there are %zu endings, want %d", json_array_size(endings),
                         ENDINGS);
    it->label = (int)number;
    it->n = ENDINGS;
    nib_text_format(text, "%s: %s%s%s", activity, first, second && *second ? " " : "",
                    second ? second : "");
    NIB_TRY(encode(t, text, &it->begin));
    const size_t length = text->length;
    for (size_t i = 0; i < ENDINGS; i++) {
        const char *ending = json_string_value(json_array_get(endings, i));
        if (!ending || !*ending) return NIB_RAISE(NIB_E_FORMAT, "ending %zu is not a text", i);
        text->length = length;
        text->data[length] = '\0';
        nib_text_add(text, " ");
        nib_text_add(text, ending);
        it->characters[i] = characters(ending);
        NIB_TRY(encode(t, text, &it->whole[i]));
    }
    return NIB_OK;
}

/* A passage and its last word, or both as one text. */
static nib_status read_lambada(const nib_task *t, const json_t *line, nib_text *text, item *it) {
    const char *passage, *word = NULL;
    NIB_TRY(either(line, "context", "text", &passage));
    size_t length = strlen(passage);
    if (json_object_get(line, "context")) {
        NIB_TRY(nib_json_string(line, "continuation", true, &word));
    } else {
        const char *blank = strrchr(passage, ' ');
        if (!blank) return NIB_RAISE(NIB_E_FORMAT, "\"text\" has no last word of several");
        word = blank + 1;
        length = (size_t)(blank - passage);
    }
    while (*word == ' ') word++;
    while (length && passage[length - 1] == ' ') length--;
    if (!*word || !length) return NIB_RAISE(NIB_E_FORMAT, "the passage or its last word is empty");
    it->n = 1;
    nib_text_append(text, passage, length);
    NIB_TRY(encode(t, text, &it->begin));
    nib_text_add(text, " ");
    nib_text_add(text, word);
    return encode(t, text, &it->whole[0]);
}

/* optimum-quanto's "prediction": the last id of a text from all ids before it. */
static nib_status read_last_id(const nib_task *t, const json_t *line, nib_text *text, item *it) {
    const char *passage, *word = NULL;
    NIB_TRY(either(line, "text", "context", &passage));
    if (!json_object_get(line, "text")) NIB_TRY(nib_json_string(line, "continuation", true, &word));
    nib_text_format(text, "%s%s%s", passage, word && *word != ' ' ? " " : "", word ? word : "");
    it->n = 1;
    NIB_TRY(encode(t, text, &it->whole[0]));
    NIB_TRY(encode(t, text, &it->begin));
    if (it->begin.count < 2)
        return NIB_RAISE(NIB_E_FORMAT, "a text of %zu tokens has no last one to tell from others",
                         it->begin.count);
    it->begin.count--;
    return NIB_OK;
}

/* Ids that the beginning and every continuation have in common, one of each at least left over. */
static int64_t shared(const item *it) {
    int64_t n = (int64_t)it->begin.count;
    for (int i = 0; i < it->n; i++) {
        const nib_ids *whole = &it->whole[i];
        int64_t same = 0;
        while (same < n && same + 1 < (int64_t)whole->count &&
               whole->data[same] == it->begin.data[same])
            same++;
        n = same;
    }
    return n;
}

/* Log-likelihood of the ids from `first` on, given those before; ids[0, common) ran already, and
 * `last` holds the logits after them. */
static nib_status continue_with(nib_scorer *s, const nib_ids *ids, int64_t common, int64_t first,
                                const float *last, outcome *out) {
    enum { MOST = 512 };
    const int64_t n = (int64_t)ids->count;
    nib_score scores[MOST];
    *out = (outcome){0, true};
    for (int64_t at = common - 1; at < n - 1;) {
        const float *logits = last;
        int64_t rows = 1;
        if (at >= common) {
            rows = n - 1 - at < nib_scorer_rows(s) ? n - 1 - at : nib_scorer_rows(s);
            NIB_TRY(nib_scorer_step(s, ids->data, at, rows, n, NIB_WANT_ALL, &logits));
        }
        NIB_TRY(nib_score_rows(s, logits, NULL, NULL, ids->data + at + 1, rows, scores));
        for (int64_t m = 0; m < rows; m++) {
            if (at + m + 1 < first) continue;
            out->log_p -= scores[m].nll;
            out->greedy &= scores[m].best;
        }
        at += rows;
    }
    return NIB_OK;
}

/* `last` is room for one row of logits. */
static nib_status run_item(nib_task *t, nib_scorer *s, const item *it, float *last,
                           outcome out[ENDINGS]) {
    const int64_t common = shared(it), first = (int64_t)it->begin.count,
                  V = t->model->hparams.vocab_size;
    if (common < 1)
        return NIB_RAISE(NIB_E_FORMAT,
                         "a continuation changes the first token of what it continues");
    for (int i = 0; i < it->n; i++)
        if ((int64_t)it->whole[i].count > nib_model_max_tokens(t->model))
            return NIB_RAISE(NIB_E_FORMAT, "there are %zu tokens, the model allows %lld",
                             it->whole[i].count, (long long)nib_model_max_tokens(t->model));
    for (int64_t at = 0; at < common;) {
        const int64_t rows = common - at < nib_scorer_rows(s) ? common - at : nib_scorer_rows(s);
        const bool end = at + rows == common;
        const float *logits;
        NIB_TRY(nib_scorer_step(s, it->begin.data, at, rows, common,
                                end ? NIB_WANT_LAST : NIB_WANT_NOTHING, &logits));
        if (end) memcpy(last, logits, (size_t)V * sizeof *last);
        at += rows;
    }
    /* A continuation that took the beginning's last token into its first is scored from there. */
    for (int i = 0; i < it->n; i++)
        NIB_TRY(continue_with(s, &it->whole[i], common,
                              first < (int64_t)it->whole[i].count ? first
                                                                  : (int64_t)it->whole[i].count - 1,
                              last, &out[i]));
    return NIB_OK;
}

/* Sums over items, and the measures that both tasks share. */
typedef struct sums {
    int64_t items, tokens;
    double right, right_norm, log_p, squares;
} sums;

static void add_hellaswag(sums *s, const item *it, const outcome *out) {
    int best = 0, best_norm = 0;
    for (int i = 1; i < it->n; i++) {
        if (out[i].log_p > out[best].log_p) best = i;
        if (out[i].log_p / (double)it->characters[i] >
            out[best_norm].log_p / (double)it->characters[best_norm])
            best_norm = i;
    }
    s->right += best == it->label;
    s->right_norm += best_norm == it->label;
}

static void add_lambada(sums *s, const item *it, const outcome *out) {
    (void)it;
    s->right += out[0].greedy;
    s->log_p += out[0].log_p;
    s->squares += out[0].log_p * out[0].log_p;
}

/* Standard error of a share of n. */
static double share_error(double share, double n) {
    return n > 1 ? sqrt(share * (1 - share) / (n - 1)) : 0;
}

typedef struct kind {
    const char *name;
    nib_status (*read)(const nib_task *t, const json_t *line, nib_text *text, item *it);
    void (*add)(sums *s, const item *it, const outcome *out);
} kind;

/* One line; its errors get the file and the line's first byte. */
static nib_status run_line(nib_task *t, const kind *k, nib_scorer *s, const char *line,
                           size_t length, float *last, sums *sum) {
    const int64_t offset = line - t->text;
    json_t *parsed = nib_json_parse(line, length, t->file, offset);
    if (!parsed) return nib_last_error()->status;
    item it = {0};
    nib_text text = {.mem = nib_ctx_mem(t->ctx)};
    outcome out[ENDINGS];
    nib_status status = k->read(t, parsed, &text, &it);
    if (status >= NIB_OK) status = run_item(t, s, &it, last, out);
    if (status >= NIB_OK) {
        k->add(sum, &it, out);
        sum->items++;
        for (int i = 0; i < it.n; i++) sum->tokens += (int64_t)(it.whole[i].count - it.begin.count);
    }
    if (status == NIB_E_FORMAT) nib_error_at(t->file, NULL, offset);
    nib_text_free(&text);
    item_free(&it);
    json_decref(parsed);
    return status;
}

static nib_status run_lines(nib_task *t, const kind *k, sums *sum) {
    nib_mem *mem = nib_ctx_mem(t->ctx);
    const size_t row = (size_t)t->model->hparams.vocab_size * sizeof(float);
    nib_scorer s = {0};
    float *last = nib_mem_alloc(mem, row);
    nib_status status =
        last ? nib_scorer_open(t->ctx, t->model, t->eval->kv, &s) : nib_last_error()->status;
    const char *end = t->text + t->size;
    for (const char *line = t->text; status >= NIB_OK && line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) stop = end;
        size_t length = (size_t)(stop - line);
        while (length && (line[length - 1] == '\r' || line[length - 1] == ' ')) length--;
        if (length) status = run_line(t, k, &s, line, length, last, sum);
        if (status >= NIB_OK)
            status = nib_ctx_progress(t->ctx, k->name, (double)(stop - t->text), (double)t->size);
        if (t->eval->limit && sum->items >= t->eval->limit) break;
        line = stop + 1;
    }
    if (status >= NIB_OK && !sum->items) {
        NIB_RAISE(NIB_E_FORMAT, "the file holds no item");
        status = nib_error_at(t->file, NULL, 0);
    }
    nib_scorer_close(&s);
    nib_mem_free(mem, last, row);
    return status;
}

static nib_status run(nib_task *t, const kind *k, sums *s) {
    NIB_TRY(run_lines(t, k, s));
    const double n = (double)s->items;
    t->eval->items = s->items;
    t->eval->tokens = s->tokens;
    t->eval->acc = s->right / n;
    t->eval->acc_error = share_error(t->eval->acc, n);
    return NIB_OK;
}

static nib_status only_protocol(const nib_task *t, const char *task, const char *protocol) {
    const char *asked = t->eval->protocol;
    if (!asked || (protocol && strcmp(asked, protocol) == 0)) return NIB_OK;
    return NIB_RAISE(NIB_E_ARGUMENT, "protocol \"%s\" is not known for %s; %s%s", asked, task,
                     protocol ? "leave it out or use " : "leave it out", protocol ? protocol : "");
}

nib_status nib_task_hellaswag(nib_task *t) {
    NIB_TRY(only_protocol(t, "hellaswag", NULL));
    static const kind k = {"hellaswag", read_hellaswag, add_hellaswag};
    sums s = {0};
    NIB_TRY(run(t, &k, &s));
    t->eval->acc_norm = s.right_norm / (double)s.items;
    t->eval->acc_norm_error = share_error(t->eval->acc_norm, (double)s.items);
    return NIB_OK;
}

nib_status nib_task_lambada(nib_task *t) {
    static const kind k = {"lambada", read_lambada, add_lambada},
                      last = {"lambada", read_last_id, add_lambada};
    sums s = {0};
    NIB_TRY(only_protocol(t, "lambada", "quanto"));
    NIB_TRY(run(t, t->eval->protocol ? &last : &k, &s));
    const double n = (double)s.items, mean = s.log_p / n;
    t->eval->perplexity = exp(-mean); /* of a last word, not of a token */
    t->eval->perplexity_error =
        n > 1 ? t->eval->perplexity * sqrt(fmax(s.squares / n - mean * mean, 0) / (n - 1)) : 0;
    return NIB_OK;
}
