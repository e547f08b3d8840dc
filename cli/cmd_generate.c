/* cmd_generate.c: run a language model on a prompt. */
#include <nibble/io.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static struct {
    const char *prompt, *ids, *scheme, *activations, *kv, *tune;
    int64_t count, logits, top_k;
    double temperature, top_p, min_p, repetition_penalty;
    bool greedy, ignore_eos, raw, profile, compile, no_compile;
} o = {.count = 128};

static const cli_option options[] = {
    {"prompt", 'p', "TEXT", CLI_TEXT, &o.prompt, "what to go on from", 0, 0, false},
    {"ids", 0, "1,2,3", CLI_TEXT, &o.ids, "the prompt as ids, in place of TEXT", 0, 0, false},
    {"new", 'n', "NEW", CLI_INT, &o.count, "new tokens at most (128)", 0, 1e9, false},
    {"greedy", 0, NULL, CLI_FLAG, &o.greedy, "the likeliest token each time (the default)", 0, 0,
     false},
    {"temperature", 0, "T", CLI_NUMBER, &o.temperature, "draw tokens; 1 when a cut below is given",
     0, 1e6, false},
    {"top-k", 0, "K", CLI_INT, &o.top_k, "from the K likeliest", 0, 1e9, false},
    {"top-p", 0, "P", CLI_NUMBER, &o.top_p, "from the likeliest with this share", 0, 1, false},
    {"min-p", 0, "P", CLI_NUMBER, &o.min_p, "from those at least P as likely as the best", 0, 1,
     false},
    {"repetition-penalty", 0, "R", CLI_NUMBER, &o.repetition_penalty,
     "divide logits of what was said", 0, 1e6, false},
    {"ignore-eos", 0, NULL, CLI_FLAG, &o.ignore_eos, "go on after an end", 0, 0, false},
    {"raw", 0, NULL, CLI_FLAG, &o.raw, "add no special tokens to TEXT", 0, 0, false},
    {"logits", 0, "K", CLI_INT, &o.logits, "also the K largest after the prompt", 0, 1e6, false},
    {"scheme", 's', "SCHEME", CLI_TEXT, &o.scheme, "quantize a float model while loading", 0, 0,
     false},
    {"activations", 0, "A", CLI_TEXT, &o.activations, "int8: quantize inputs too (as schemes say)",
     0, 0, false},
    {"compile", 0, NULL, CLI_FLAG, &o.compile, "fail where the step cannot be compiled", 0, 0,
     false},
    {"no-compile", 0, NULL, CLI_FLAG, &o.no_compile, "run it op by op: the same tokens", 0, 0,
     false},
    {"tune", 0, "FILE", CLI_TEXT, &o.tune, "keep what a compiled step measures", 0, 0, false},
    {"kv", 0, "KIND", CLI_TEXT, &o.kv, "the cache: float, int8, int4 or fp8 (float)", 0, 0, false},
    {"profile", 0, NULL, CLI_FLAG, &o.profile, "also the time of each op", 0, 0, false},
    {0},
};

/* What one run holds; all of it is released at the end of run(). */
typedef struct talk {
    cli *c;
    nib_model *model;
    nib_tokenizer *tokenizer; /* NULL: the folder has none, and the prompt came as ids */
    nib_detokenizer *stream;
    nib_session *session;
    nib_ids prompt;
    int32_t *ids;
    int64_t count;
    double feed_s, first_s, next_s; /* of the prompt, the first new token, the others */
    json_t *logits, *profile;
    cli_table *table;
    double profiled_ms;
} talk;

/* "1,2,3" -> ids appended to the prompt. */
static int parse_ids(talk *t) {
    size_t n = 1;
    for (const char *p = o.ids; *p; p++) n += *p == ',';
    t->prompt.data = calloc(n, sizeof *t->prompt.data);
    if (!t->prompt.data) return cli_error(t->c, CLI_FULL, "no memory for %zu ids", n);
    for (const char *p = o.ids;; p++) {
        int64_t value = 0;
        const char *start = p;
        while (*p >= '0' && *p <= '9' && value < INT32_MAX) value = value * 10 + (*p++ - '0');
        if (p == start || value > INT32_MAX || (*p && *p != ','))
            return cli_usage_error(t->c, "--ids \"%s\" is not a list of ids such as 1,2,3", o.ids);
        t->prompt.data[t->prompt.count++] = (int32_t)value;
        if (!*p) return CLI_OK;
    }
}

static int prepare(talk *t) {
    cli *c = t->c;
    nib_ctx *ctx = cli_context(c);
    if (!ctx) return cli_fail(c);
    t->model = cli_load(c, c->arguments[0], o.scheme, o.activations);
    if (!t->model) return cli_fail(c);
    t->tokenizer = nib_tokenizer_load(ctx, c->arguments[0]);
    if (!t->tokenizer && o.prompt) return cli_fail(c);
    if (!t->tokenizer)
        cli_say(c, "no text is shown: %s: %s", nib_last_error()->path, nib_last_error()->what);
    if (t->tokenizer) t->stream = nib_detokenizer_new(t->tokenizer, true);
    if (t->tokenizer && !t->stream) return cli_fail(c);
    if (o.prompt) {
        const nib_status status =
            nib_tokenizer_encode(t->tokenizer, o.prompt, strlen(o.prompt), !o.raw, &t->prompt);
        const int code = status < NIB_OK ? cli_fail(c) : CLI_OK;
        if (code != CLI_OK) return status == NIB_E_FORMAT ? CLI_USAGE : code; /* no file's fault */
    }
    if (!t->prompt.count) return cli_usage_error(c, "the prompt gives no token; use a longer one");
    const bool cuts = o.top_k > 0 || o.top_p > 0 || o.min_p > 0;
    t->session = nib_session_new(
        ctx, t->model,
        &(nib_session_options){.temperature = o.temperature > 0   ? (float)o.temperature
                                              : cuts && !o.greedy ? 1.0f
                                                                  : 0.0f,
                               .top_k = (int)o.top_k,
                               .top_p = (float)o.top_p,
                               .min_p = (float)o.min_p,
                               .repetition_penalty = (float)o.repetition_penalty,
                               .seed = c->seed,
                               .ignore_eos = o.ignore_eos,
                               .compile = cli_compile_when(o.compile, o.no_compile),
                               .kv = o.kv,
                               .tune = o.tune});
    if (!t->session) return cli_fail(c);
    t->ids = calloc((size_t)o.count + 1, sizeof *t->ids);
    return t->ids ? CLI_OK : cli_error(c, CLI_FULL, "no memory for %lld ids", (long long)o.count);
}

/* The K largest logits, largest first, the lower id first among equals. */
static int take_logits(talk *t) {
    size_t V;
    const float *logits = nib_session_logits(t->session, &V);
    if (!logits) return cli_fail(t->c);
    bool *taken = calloc(V, sizeof *taken);
    t->logits = json_array();
    for (int64_t k = 0; taken && k < o.logits && k < (int64_t)V; k++) {
        size_t best = V;
        for (size_t i = 0; i < V; i++)
            if (!taken[i] && (best == V || logits[i] > logits[best])) best = i;
        taken[best] = true;
        json_array_append_new(
            t->logits, json_pack("[I, o]", (json_int_t)best, cli_json_real((double)logits[best])));
    }
    free(taken);
    return taken && t->logits ? CLI_OK : cli_error(t->c, CLI_FULL, "no memory for the logits");
}

/* Text of one more id, or with id < 0 what was held back, to stdout. */
static int show(talk *t, int32_t id) {
    if (t->c->json) return CLI_OK;
    if (!t->stream) {
        if (id >= 0) printf(t->count > 1 ? ",%d" : "%d", (int)id);
        return CLI_OK;
    }
    nib_string text = {0};
    const nib_status status =
        id < 0 ? nib_detokenizer_end(t->stream, &text) : nib_detokenizer_next(t->stream, id, &text);
    if (status >= NIB_OK && text.length) fwrite(text.data, 1, text.length, stdout);
    nib_string_free(&text);
    fflush(stdout);
    return status < NIB_OK ? cli_fail(t->c) : CLI_OK;
}

static int speak(talk *t) {
    double began = cli_now();
    if (nib_session_feed(t->session, t->prompt.data, t->prompt.count) < NIB_OK)
        return cli_fail(t->c);
    t->feed_s = cli_now() - began;
    cli_progress_end();
    int code = o.logits ? take_logits(t) : CLI_OK;
    while (code == CLI_OK && t->count < o.count) {
        int32_t id;
        began = cli_now();
        const nib_status status = nib_session_next(t->session, &id);
        *(t->count ? &t->next_s : &t->first_s) += cli_now() - began;
        if (status < NIB_OK) return cli_fail(t->c);
        if (status == NIB_END) break;
        t->ids[t->count++] = id;
        code = show(t, id);
        if (cli_interrupted()) code = CLI_INTERRUPTED;
    }
    if (code == CLI_OK) code = show(t, -1);
    if (!t->c->json) printf("\n");
    return code;
}

static void see(void *user, const char *op, int64_t calls, double ms, double bytes) {
    talk *t = user;
    t->profiled_ms += ms;
    if (t->profile)
        json_array_append_new(t->profile, json_pack("{s:s, s:I, s:f, s:f}", "op", op, "calls",
                                                    (json_int_t)calls, "ms", ms, "bytes", bytes));
    if (!t->table) return;
    cli_table_cell(t->table, "%s", op);
    cli_table_cell(t->table, "%lld", (long long)calls);
    cli_table_cell(t->table, "%.3f", ms);
    cli_table_cell(t->table, "%.1f", 100 * ms / (1e3 * (t->feed_s + t->first_s + t->next_s)));
    cli_table_cell(t->table, "%.2f", ms > 0 ? bytes / ms * 1e-6 : 0);
}

/* Where the time went, of what the session's calls took; the last row is what no op was part of. */
static int end_profile(talk *t, int code) {
    if (t->c->json)
        t->profile = json_array();
    else if (code == CLI_OK)
        t->table = cli_table_new("op|>calls|>ms|>% of wall time|>GB/s");
    if (nib_profile_end(t->c->ctx, see, t) < NIB_OK && code == CLI_OK) return cli_fail(t->c);
    const double wall = 1e3 * (t->feed_s + t->first_s + t->next_s), ops = t->profiled_ms;
    if (code == CLI_OK && wall > ops) see(t, "(outside ops)", 0, wall - ops, 0);
    if (code != CLI_OK || t->c->json) return code;
    printf("\n");
    code = cli_table_print(t->c, t->table, CLI_PLAIN);
    printf("%.3f ms of %.3f ms wall time in ops, %.1f %%\n", ops, wall, 100 * ops / wall);
    return code;
}

static json_t *list_of(const int32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static double rate(double tokens, double seconds) {
    return tokens > 0 && seconds > 0 ? tokens / seconds : 0;
}

static int print_json(talk *t) {
    nib_string text = {0};
    if (t->tokenizer &&
        nib_tokenizer_decode(t->tokenizer, t->ids, (size_t)t->count, true, &text) < NIB_OK)
        return cli_fail(t->c);
    json_t *document = json_pack(
        "{s:o, s:o, s:s?, s:f, s:f, s:s}", "prompt_ids", list_of(t->prompt.data, t->prompt.count),
        "ids", list_of(t->ids, (size_t)t->count), "text",
        t->tokenizer ? (text.data ? text.data : "") : NULL, "tokens_per_second",
        rate((double)t->count - 1, t->next_s), "prompt_tokens_per_second",
        rate((double)t->prompt.count, t->feed_s), "activations",
        nib_inputs_name(nib_model_root(t->model)));
    nib_string_free(&text);
    if (t->logits) json_object_set(document, "logits", t->logits);
    if (t->profile) {
        json_object_set(document, "profile", t->profile);
        json_object_set_new(document, "wall_ms",
                            json_real(1e3 * (t->feed_s + t->first_s + t->next_s)));
    }
    return cli_print_json(t->c, document);
}

static int print_logits(const talk *t) {
    cli_table *table = cli_table_new(">id|>logit|piece");
    size_t i;
    json_t *pair;
    json_array_foreach(t->logits, i, pair) {
        const int32_t id = (int32_t)json_integer_value(json_array_get(pair, 0));
        const char *piece = t->tokenizer ? nib_tokenizer_piece(t->tokenizer, id, NULL) : NULL;
        cli_table_cell(table, "%d", (int)id);
        cli_table_cell(table, "%.6f", json_number_value(json_array_get(pair, 1)));
        cli_table_cell(table, "%s", piece ? piece : "");
    }
    printf("\n");
    return cli_table_print(t->c, table, CLI_PLAIN);
}

static int run(cli *c) {
    if (!o.prompt == !o.ids)
        return cli_usage_error(c, "give the prompt as -p TEXT or as --ids 1,2,3");
    if (o.greedy && o.temperature > 0)
        return cli_usage_error(c, "--greedy and --temperature exclude each other");
    if (o.compile && o.no_compile)
        return cli_usage_error(c, "--compile and --no-compile exclude each other");
    talk t = {.c = c};
    int32_t *own_ids = NULL;
    int code = o.ids ? parse_ids(&t) : CLI_OK;
    if (o.ids) own_ids = t.prompt.data;
    if (code == CLI_OK) code = prepare(&t);
    if (code == CLI_OK && o.profile && nib_profile_begin(c->ctx) < NIB_OK) code = cli_fail(c);
    const bool profiling = code == CLI_OK && o.profile;
    if (code == CLI_OK) code = speak(&t);
    if (code == CLI_OK && !c->json && t.logits) code = print_logits(&t);
    if (profiling) code = end_profile(&t, code);
    if (code == CLI_OK && c->json) code = print_json(&t);
    char speed[48] = ""; /* the first token is the prompt's */
    if (t.count > 1)
        snprintf(speed, sizeof speed, ", %.1f a second", rate((double)t.count - 1, t.next_s));
    if (code == CLI_OK && !c->json)
        cli_say(c, "%lld token%s%s; prompt of %zu, %.1f a second; activations %s",
                (long long)t.count, t.count == 1 ? "" : "s", speed, t.prompt.count,
                rate((double)t.prompt.count, t.feed_s), nib_inputs_name(nib_model_root(t.model)));
    json_decref(t.logits);
    json_decref(t.profile);
    free(t.ids);
    if (own_ids)
        free(own_ids);
    else
        nib_ids_free(&t.prompt);
    nib_session_free(t.session);
    nib_detokenizer_free(t.stream);
    nib_tokenizer_free(t.tokenizer);
    nib_model_free(t.model);
    return code;
}

const cli_verb verb_generate = {
    .name = "generate",
    .summary = "run a language model on a prompt",
    .synopsis = "MODEL -p TEXT [-n NEW]",
    .example = "models/kjv-llama -p \"And the Lord said\" -n 40",
    .options = options,
    .common = CLI_THREADS | CLI_JSON | CLI_SEEDED | CLI_MMAP,
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
