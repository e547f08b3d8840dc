/* cmd_bench.c: speed of a model on this machine: prompt, decoding, loading, memory; or of one
 * kernel, or of the machine itself (bench_kernel.c). */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench_kernel.h"

static struct {
    const char *scheme, *format, *kv, *kernel, *activations, *rows, *threads;
    int64_t prompt, count, runs, columns;
    bool limits, compile, no_compile;
    const char *tune;
} o = {.format = "md", .prompt = 512, .rows = "1,4,512", .columns = 4096};

static const cli_option options[] = {
    {"prompt", 'p', "P", CLI_INT, &o.prompt, "tokens of the prompt (512)", 1, 1 << 24, false},
    {"new", 'n', "N", CLI_INT, &o.count, "tokens to decode (128); N of a kernel (4096)", 1, 1 << 24,
     false},
    {"runs", 'r', "R", CLI_INT, &o.runs, "runs of a model (5), rounds of a kernel (15)", 1, 1000,
     false},
    {"scheme", 's', "SCHEME", CLI_TEXT, &o.scheme, "quantize a float model while loading", 0, 0,
     false},
    {"compile", 0, NULL, CLI_FLAG, &o.compile, "fail where the step cannot be compiled", 0, 0,
     false},
    {"no-compile", 0, NULL, CLI_FLAG, &o.no_compile, "decode op by op", 0, 0, false},
    {"kv", 0, "KIND", CLI_TEXT, &o.kv, "the cache: float, int8, int4 or fp8 (float)", 0, 0, false},
    {"tune", 0, "FILE", CLI_TEXT, &o.tune, "keep what a compiled step measures", 0, 0, false},
    {"format", 'f', "F", CLI_TEXT, &o.format, "md, csv or json (md)", 0, 0, false},
    {"threads", 't', "T", CLI_TEXT, &o.threads, "how many; of a kernel a list, 1,2", 0, 0, false},
    {"kernel", 0, "NAME", CLI_TEXT, &o.kernel, "time one operation instead: linear", 0, 0, false},
    {"activations", 0, "A", CLI_TEXT, &o.activations, "int8: quantize inputs too (as schemes say)",
     0, 0, false},
    {NULL, 'm', "M", CLI_TEXT, &o.rows, "rows of inputs of a kernel (1,4,512)", 0, 0, false},
    {NULL, 'k', "K", CLI_INT, &o.columns, "columns of the weight of a kernel (4096)", 1, 1 << 24,
     false},
    {"limits", 0, NULL, CLI_FLAG, &o.limits, "what this machine can do at most", 0, 0, false},
    {0},
};

/* Mean and standard deviation of what was added. */
typedef struct series {
    int64_t n;
    double sum, squares;
} series;
static void add(series *s, double x) { s->n++, s->sum += x, s->squares += x * x; }
static double mean(const series *s) { return s->n ? s->sum / (double)s->n : 0; }
static double spread(const series *s) {
    const double m = mean(s), n = (double)s->n;
    return s->n > 1 ? sqrt(fmax(s->squares - n * m * m, 0) / (n - 1)) : 0;
}

typedef struct bench {
    cli *c;
    nib_model *model;
    int32_t *prompt;
    double load_s, bytes;
    series fill, decode; /* tokens a second */
} bench;

static nib_session *session(const bench *b, int64_t more) {
    return nib_session_new(
        b->c->ctx, b->model,
        &(nib_session_options){.ignore_eos = true,
                               .max_tokens = (int)(o.prompt + more),
                               .compile = cli_compile_when(o.compile, o.no_compile),
                               .kv = o.kv,
                               .tune = o.tune});
}

/* Ids all over the vocabulary, the same ones each time. */
static int make_prompt(bench *b) {
    size_t V = 0;
    b->prompt = calloc((size_t)o.prompt, sizeof *b->prompt);
    if (!b->prompt) return cli_error(b->c, CLI_FULL, "no memory for the prompt");
    nib_session *s = session(b, 0);
    if (nib_session_feed(s, b->prompt, 1) < NIB_OK || !nib_session_logits(s, &V)) {
        nib_session_free(s);
        return cli_fail(b->c);
    }
    nib_session_free(s);
    uint32_t state = 1;
    for (int64_t i = 0; i < o.prompt; i++) {
        state = state * 1664525u + 1013904223u;
        b->prompt[i] = (int32_t)((state >> 8) % V);
    }
    return CLI_OK;
}

static void see(void *user, const char *op, int64_t calls, double ms, double bytes) {
    (void)op;
    (void)calls;
    (void)ms;
    *(double *)user += bytes;
}

/* Fill and decode once; with `count_bytes` not for time but for what the ops touch. */
static int run_once(bench *b, bool count_bytes) {
    nib_session *s = session(b, o.count);
    int32_t id;
    const double began = cli_now();
    nib_status status = nib_session_feed(s, b->prompt, (size_t)o.prompt);
    const double filled = cli_now();
    /* The first token needs no further pass over the weights. */
    if (status >= NIB_OK) status = nib_session_next(s, &id);
    const double first = cli_now();
    const int64_t n = count_bytes && o.count > 5 ? 4 : o.count - 1;
    if (status >= NIB_OK && count_bytes) status = nib_profile_begin(b->c->ctx);
    const bool profiling = count_bytes && status >= NIB_OK;
    for (int64_t i = 0; status == NIB_OK && i < n && !cli_interrupted(); i++)
        status = nib_session_next(s, &id);
    const double end = cli_now();
    if (profiling) {
        double sum = 0;
        if (nib_profile_end(b->c->ctx, see, &sum) < NIB_OK && status >= NIB_OK)
            status = nib_last_error()->status;
        b->bytes = sum / (double)n;
    }
    nib_session_free(s);
    if (status < NIB_OK) return cli_fail(b->c);
    if (cli_interrupted()) return CLI_INTERRUPTED;
    if (!count_bytes) {
        add(&b->fill, (double)o.prompt / (filled - began));
        add(&b->decode, (double)n / (end - first));
    }
    return CLI_OK;
}

static double peak_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss * 1024;
}

static int print(const bench *b, const char *format) {
    cli *c = b->c;
    const double peak = peak_bytes(), decode = mean(&b->decode);
    if (strcmp(format, "json") == 0)
        return cli_print_json(
            c, json_pack("{s:s, s:s?, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}",
                         "model", c->arguments[0], "scheme", o.scheme, "activations",
                         nib_inputs_name(nib_model_root(b->model)), "prompt_tokens",
                         (json_int_t)o.prompt, "new_tokens", (json_int_t)o.count, "runs",
                         (json_int_t)o.runs, "prompt_tokens_per_second", mean(&b->fill),
                         "prompt_spread", spread(&b->fill), "tokens_per_second", decode, "spread",
                         spread(&b->decode), "load_seconds", b->load_s, "bytes_per_token", b->bytes,
                         "peak_bytes", peak));
    cli_table *t =
        cli_table_new("model|scheme|activations|>prompt tokens/s|>+-|>decode tokens/s|>+-|>load ms|"
                      ">MB moved/token|>GB/s|>peak MB");
    cli_table_cell(t, "%s", c->arguments[0]);
    cli_table_cell(t, "%s", o.scheme ? o.scheme : "as stored");
    cli_table_cell(t, "%s", nib_inputs_name(nib_model_root(b->model)));
    cli_table_cell(t, "%.1f", mean(&b->fill));
    cli_table_cell(t, "%.1f", spread(&b->fill));
    cli_table_cell(t, "%.1f", decode);
    cli_table_cell(t, "%.1f", spread(&b->decode));
    cli_table_cell(t, "%.1f", 1e3 * b->load_s);
    cli_table_cell(t, "%.2f", b->bytes * 1e-6);
    cli_table_cell(t, "%.2f", b->bytes * decode * 1e-9);
    cli_table_cell(t, "%.1f", peak * 1e-6);
    return cli_table_print(c, t, strcmp(format, "csv") == 0 ? CLI_CSV : CLI_MARKDOWN);
}

static int run_kernel(cli *c, cli_table_format format) {
    const bench_kernel kernel = {.kernel = o.kernel,
                                 .scheme = o.scheme,
                                 .activations = o.activations,
                                 .rows = o.rows,
                                 .threads = o.threads,
                                 .N = o.count ? o.count : 4096,
                                 .K = o.columns,
                                 .runs = o.runs ? o.runs : 15,
                                 .format = format};
    return bench_kernel_run(c, &kernel);
}

static int run_model(cli *c, const char *format) {
    if (o.threads) {
        char *end;
        c->threads = strtoll(o.threads, &end, 10);
        if (*end || c->threads < 1 || c->threads > 1024)
            return cli_usage_error(c, "-t wants 1 to 1024 with a model, not \"%s\"", o.threads);
    }
    if (o.count == 1) return cli_usage_error(c, "-n wants at least 2 with a model, not 1");
    if (!o.count) o.count = 128;
    if (!o.runs) o.runs = 5;
    bench b = {.c = c};
    if (!cli_context(c)) return cli_fail(c);
    const double began = cli_now();
    b.model = cli_load(c, c->arguments[0], o.scheme, o.activations);
    b.load_s = cli_now() - began;
    int code = b.model ? make_prompt(&b) : cli_fail(c);
    if (code == CLI_OK) code = run_once(&b, true); /* also warms up */
    for (int64_t r = 0; code == CLI_OK && r < o.runs; r++) {
        code = run_once(&b, false);
        cli_progress_end();
    }
    if (code == CLI_OK) code = print(&b, format);
    free(b.prompt);
    nib_model_free(b.model);
    return code;
}

static int run(cli *c) {
    const char *format = c->json ? "json" : o.format;
    if (strcmp(format, "md") && strcmp(format, "csv") && strcmp(format, "json"))
        return cli_usage_error(c, "--format is md, csv or json, not \"%s\"", format);
    if (o.compile && o.no_compile)
        return cli_usage_error(c, "--compile and --no-compile exclude each other");
    const bool model = c->narguments > 0;
    if (model == (o.kernel || o.limits))
        return cli_usage_error(c, model ? "a MODEL, --kernel or --limits: one of them"
                                        : "wants a MODEL, --kernel NAME or --limits");
    if (model) return run_model(c, format);
    if (strcmp(format, "json") == 0) c->json = true;
    return run_kernel(c, strcmp(format, "csv") == 0 ? CLI_CSV : CLI_MARKDOWN);
}

const cli_verb verb_bench = {
    .name = "bench",
    .summary = "speed of a model, of a kernel, of this machine",
    .synopsis = "MODEL | --kernel linear -m M -n N -k K | --limits",
    .example = "models/kjv-llama -p 256 -n 64 --scheme int8_weight_only",
    .options = options,
    .common = CLI_JSON | CLI_MMAP,
    .min_arguments = 0,
    .max_arguments = 1,
    .run = run,
};
