/* bench_kernel.c: how fast is one kernel, beside what this machine can do at most?
 *
 * Rounds: each measures every limit once and then every row once, for some 20 ms; a figure is the
 * median of the rounds. Up to 8 rows of inputs, the product reads a different copy of the weight
 * each time, more than 256 MB of them, so that no cache holds what comes next; of a small weight
 * 1,024 copies, which a cache may hold. */
#include "bench_kernel.h"

#include <math.h>
#include <nibble/nn.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_LIST = 16,
    MOST_RUNS = 1000,
    MOST_ROWS = 1 << 20,
    MOST_THREADS = 1024,
    ROTATED = 8,
    MOST_COPIES = 1024
};
static const double sample_s = 0.02, rotated_bytes = 272e6;

typedef struct series {
    int64_t n;
    double x[MOST_RUNS];
} series;

static int order(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static void sort(series *s) { qsort(s->x, (size_t)s->n, sizeof *s->x, order); }
static double median(const series *s) {
    const int64_t n = s->n;
    return n ? (s->x[(n - 1) / 2] + s->x[n / 2]) / 2 : 0;
}

typedef struct product { /* one product: M rows of inputs on `threads` threads */
    int64_t M, threads, calls;
    nib_ctx *ctx;
    nib_tensor *x;
    double bytes; /* that a call reads and writes */
    series ms;
} product;

typedef struct run {
    cli *c;
    const bench_kernel *o;
    int64_t threads[MOST_LIST], rows[MOST_LIST];
    size_t nthreads, nrows, count; /* count: of row */
    nib_ctx *ctx[MOST_LIST];       /* one for each number of threads */
    nib_limits *limits;
    series limit[MOST_LIST][NIB_LIMITS];
    nib_module *root, **linear; /* copies of the weight, of ctx[0] */
    size_t copies, next;
    bool no_memory; /* for what the library does not make */
    product row[MOST_LIST * MOST_LIST];
} run;

/* "1,4,512" -> numbers from 1 to `most`; 0: not such a list. */
static size_t read_list(const char *text, int64_t most, int64_t *list) {
    size_t n = 0;
    for (;;) {
        char *end;
        const long long value = strtoll(text, &end, 10);
        if (end == text || value < 1 || value > most || n == MOST_LIST) return 0;
        list[n++] = value;
        if (!*end) return n;
        if (*end != ',') return 0;
        text = end + 1;
    }
}

/* Much like weights are: sums of four uniform numbers, a standard deviation of 0.02. */
static void fill(float *x, size_t n, float size) {
    uint32_t state = 2463534242u;
    for (size_t i = 0; i < n; i++) {
        float sum = -2;
        for (int k = 0; k < 4; k++) {
            state ^= state << 13, state ^= state >> 17, state ^= state << 5;
            sum += (float)(state >> 8) / (1 << 24);
        }
        x[i] = sum * 1.7320508f * size;
    }
}

static nib_tensor *floats(run *r, nib_ctx *ctx, nib_dtype dtype, int64_t rows, int64_t cols,
                          float size) {
    const size_t n = (size_t)(rows * cols);
    float *data = malloc(n * sizeof *data);
    if (!data) {
        r->no_memory = true;
        return NULL;
    }
    fill(data, n, size);
    uint16_t *upper = (uint16_t *)data; /* bf16: the upper half, cut off, in place */
    for (size_t i = 0; dtype == NIB_BF16 && i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &data[i], sizeof bits);
        const uint16_t half = (uint16_t)(bits >> 16);
        memcpy(&upper[i], &half, sizeof half);
    }
    return nib_tensor_wrap(ctx, dtype, (nib_shape){2, {rows, cols}}, data, free, data);
}

static void add_bytes(void *user, const char *op, int64_t calls, double ms, double bytes) {
    (void)op, (void)calls, (void)ms;
    *(double *)user += bytes;
}

/* Call the product until `seconds` have passed, `calls` times at least; -> seconds a call, or NaN.
 */
static double time_calls(run *r, const product *row, int64_t calls) {
    const double began = cli_now();
    bool ok = true;
    for (int64_t i = 0; ok && i < calls; i++) {
        const size_t mark = nib_scope_begin(row->ctx);
        nib_module *w = r->linear[row->M <= ROTATED ? r->next++ % r->copies : 0];
        ok = nib_module_forward(w, row->x) != NULL;
        nib_scope_end(row->ctx, mark);
    }
    return ok ? (cli_now() - began) / (double)calls : NAN;
}

/* Its inputs, what it moves, and how many calls make a sample. */
static bool start_row(run *r, product *row) {
    row->x = floats(r, row->ctx, NIB_F32, row->M, r->o->K, 1);
    if (!row->x || nib_profile_begin(row->ctx) < NIB_OK) return false;
    const double first = time_calls(r, row, 1);
    if (nib_profile_end(row->ctx, add_bytes, &row->bytes) < NIB_OK || isnan(first)) return false;
    const double warm = time_calls(r, row, 1);
    row->calls = 1 + (int64_t)(sample_s / fmax(warm, 1e-7));
    return true;
}

/* One more copy, under the root. */
static bool add_weight(run *r, const nib_tensor *dense, const nib_config *config) {
    char name[24];
    snprintf(name, sizeof name, "%zu", r->copies);
    nib_module **grown = realloc(r->linear, (r->copies + 1) * sizeof *grown);
    r->no_memory = !grown;
    if (!grown) return false;
    r->linear = grown;
    nib_tensor *w = config ? nib_quantize_tensor(dense, config)
                           : floats(r, r->ctx[0], NIB_BF16, r->o->N, r->o->K, 0.02f);
    nib_module *linear = nib_linear_new(r->ctx[0], w, NIB_NONE);
    if (nib_module_add(r->root, name, linear) < NIB_OK) return false;
    r->linear[r->copies++] = linear;
    return true;
}

/* As a model's are: quantized, prepared, many. */
static bool make_weights(run *r) {
    static const nib_module_kind weights = {.name = "Weights"};
    const bench_kernel *o = r->o;
    nib_config *config = o->scheme ? nib_config_parse(o->scheme) : NULL;
    nib_tensor *dense = floats(r, r->ctx[0], NIB_BF16, o->N, o->K, 0.02f);
    r->root = nib_module_new(r->ctx[0], &weights, NULL);
    bool ok = r->root && dense && (config || !o->scheme) && add_weight(r, dense, config);
    product probe = {.M = 1, .ctx = r->ctx[0]};
    ok = ok && start_row(r, &probe);
    nib_tensor_free(probe.x);
    const double bytes = probe.bytes - 4.0 * (double)(o->N + o->K); /* of the weight */
    bool few = false;
    for (size_t m = 0; m < r->nrows; m++) few |= r->rows[m] <= ROTATED;
    while (ok && few && r->copies < MOST_COPIES && (double)r->copies * bytes < rotated_bytes)
        ok = add_weight(r, dense, config);
    ok = ok && nib_prepare(r->root) == NIB_OK;
    if (ok && o->activations) ok = nib_quantize_inputs(r->root, o->activations) == NIB_OK;
    nib_tensor_free(dense);
    nib_config_free(config);
    return ok;
}

static bool start(run *r) {
    for (size_t t = 0; t < r->nthreads; t++) {
        r->ctx[t] = nib_ctx_new(&(nib_ctx_options){.threads = (int)r->threads[t]});
        if (!r->ctx[t]) return false;
        r->threads[t] = nib_ctx_threads(r->ctx[t]);
    }
    r->limits = nib_limits_new(r->ctx[0]);
    if (!r->limits || (r->o->kernel && !make_weights(r))) return false;
    for (size_t m = 0; r->o->kernel && m < r->nrows; m++) {
        for (size_t t = 0; t < r->nthreads; t++) {
            product *row = &r->row[r->count++];
            *row = (product){.M = r->rows[m], .threads = r->threads[t], .ctx = r->ctx[t]};
            if (!start_row(r, row)) return false;
        }
    }
    return true;
}

static bool one_round(run *r) {
    for (size_t t = 0; t < r->nthreads; t++)
        for (int i = 0; i < NIB_LIMITS; i++) {
            series *s = &r->limit[t][i];
            s->x[s->n++] = nib_limits_measure(r->limits, r->ctx[t], (nib_limit)i);
        }
    for (size_t i = 0; i < r->count; i++) {
        const double s = time_calls(r, &r->row[i], r->row[i].calls);
        if (isnan(s)) return false;
        r->row[i].ms.x[r->row[i].ms.n++] = s * 1e3;
    }
    return true;
}

/* Which way of reading is the fastest on threads[t]. */
static int best_read(const run *r, size_t t) {
    int best = NIB_LIMIT_READ_1;
    for (int i = best; i <= NIB_LIMIT_READ_2_HUGE; i++)
        if (median(&r->limit[t][i]) > median(&r->limit[t][best])) best = i;
    return best;
}

typedef struct figures {
    double ms, gb_per_s, gop_per_s, share_of_bandwidth, share_of_peak;
} figures;

/* The peak is that of the inputs' type: f32, or products of codes of the weight's width. */
static figures figures_of(const run *r, const product *row) {
    const bench_kernel *o = r->o;
    const double operations = 2.0 * (double)row->M * (double)o->N * (double)o->K;
    const double weights = row->bytes - 4.0 * (double)row->M * (double)(o->N + o->K);
    const bool codes = strcmp(nib_inputs_name(r->root), "int8") == 0;
    const bool narrow = weights < 0.8 * (double)o->N * (double)o->K;
    size_t t = 0;
    while (r->threads[t] != row->threads) t++;
    const int peak = !codes ? NIB_LIMIT_F32 : narrow ? NIB_LIMIT_U4 : NIB_LIMIT_U8;
    const double s = median(&row->ms) * 1e-3;
    return (figures){.ms = s * 1e3,
                     .gb_per_s = row->bytes / s * 1e-9,
                     .gop_per_s = operations / s * 1e-9,
                     .share_of_bandwidth = row->bytes / s / median(&r->limit[t][best_read(r, t)]),
                     .share_of_peak = operations / s / median(&r->limit[t][peak])};
}

/* The highest instruction set among the kernels of this machine, as far as NIB_ISA lets them be. */
static const char *isa_name(void) {
    const char *mask = getenv("NIB_ISA"), *isa = "ref", *level;
    for (size_t i = 0; nib_list("kernel", i, &level); i++) isa = level;
    return mask && *mask ? mask : isa;
}

static const char *machine_name(char *line, size_t room) {
    FILE *f = fopen("/proc/cpuinfo", "r");
    const char *name = "unknown";
    while (f && fgets(line, (int)room, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n")] = 0;
        name = colon[1] ? colon + 2 : name;
        break;
    }
    if (f) fclose(f);
    return name;
}

static json_t *limits_json(const run *r) {
    json_t *list = json_array();
    for (size_t t = 0; t < r->nthreads; t++) {
        const series *l = r->limit[t];
        const int best = best_read(r, t);
        const bool two = best == NIB_LIMIT_READ_2 || best == NIB_LIMIT_READ_2_HUGE;
        json_array_append_new(
            list,
            json_pack("{s:I, s:f, s:i, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "threads",
                      (json_int_t)r->threads[t], "read_gb_per_s", median(&l[best]) * 1e-9,
                      "read_streams", two ? 2 : 1, "read_huge_pages", best >= NIB_LIMIT_READ_1_HUGE,
                      "read_1_stream_gb_per_s", median(&l[NIB_LIMIT_READ_1]) * 1e-9,
                      "read_2_streams_gb_per_s", median(&l[NIB_LIMIT_READ_2]) * 1e-9,
                      "read_1_stream_huge_gb_per_s", median(&l[NIB_LIMIT_READ_1_HUGE]) * 1e-9,
                      "read_2_streams_huge_gb_per_s", median(&l[NIB_LIMIT_READ_2_HUGE]) * 1e-9,
                      "f32_gop_per_s", median(&l[NIB_LIMIT_F32]) * 1e-9, "int8_gop_per_s",
                      median(&l[NIB_LIMIT_U8]) * 1e-9, "int4_gop_per_s",
                      median(&l[NIB_LIMIT_U4]) * 1e-9));
    }
    return list;
}

static json_t *rows_json(const run *r) {
    json_t *list = json_array();
    for (size_t i = 0; i < r->count; i++) {
        const product *row = &r->row[i];
        const figures f = figures_of(r, row);
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}",
                      "kernel", r->o->kernel, "scheme", r->o->scheme ? r->o->scheme : "bf16",
                      "activations", nib_inputs_name(r->root), "m", (json_int_t)row->M, "n",
                      (json_int_t)r->o->N, "k", (json_int_t)r->o->K, "threads",
                      (json_int_t)row->threads, "ms", f.ms, "ms_least", row->ms.x[0], "ms_most",
                      row->ms.x[row->ms.n - 1], "gb_per_s", f.gb_per_s, "gop_per_s", f.gop_per_s,
                      "share_of_bandwidth", f.share_of_bandwidth, "share_of_peak",
                      f.share_of_peak));
    }
    return list;
}

static int print_limits(const run *r) {
    cli_table *t = cli_table_new(">threads|>read GB/s|>streams|>page KiB|>f32 GFLOP/s|>int8 GOP/s|"
                                 ">int4 x int8 GOP/s");
    for (size_t i = 0; i < r->nthreads; i++) {
        const int best = best_read(r, i);
        const bool two = best == NIB_LIMIT_READ_2 || best == NIB_LIMIT_READ_2_HUGE;
        cli_table_cell(t, "%d", (int)r->threads[i]);
        cli_table_cell(t, "%.1f", median(&r->limit[i][best]) * 1e-9);
        cli_table_cell(t, "%d", two ? 2 : 1);
        cli_table_cell(t, "%d", best >= NIB_LIMIT_READ_1_HUGE ? 2048 : 4);
        for (int k = NIB_LIMIT_F32; k <= NIB_LIMIT_U4; k++)
            cli_table_cell(t, "%.0f", median(&r->limit[i][k]) * 1e-9);
    }
    return cli_table_print(r->c, t, r->o->format);
}

static int print_rows(const run *r) {
    cli_table *t = cli_table_new("kernel|scheme|activations|>M|>N|>K|>threads|>ms|>least|>most|"
                                 ">GB/s|>GOP/s|>% of bandwidth|>% of peak");
    for (size_t i = 0; i < r->count; i++) {
        const product *row = &r->row[i];
        const figures f = figures_of(r, row);
        cli_table_cell(t, "%s", r->o->kernel);
        cli_table_cell(t, "%s", r->o->scheme ? r->o->scheme : "bf16");
        cli_table_cell(t, "%s", nib_inputs_name(r->root));
        cli_table_cell(t, "%lld", (long long)row->M);
        cli_table_cell(t, "%lld", (long long)r->o->N);
        cli_table_cell(t, "%lld", (long long)r->o->K);
        cli_table_cell(t, "%lld", (long long)row->threads);
        cli_table_cell(t, "%.4f", f.ms);
        cli_table_cell(t, "%.4f", row->ms.x[0]);
        cli_table_cell(t, "%.4f", row->ms.x[row->ms.n - 1]);
        cli_table_cell(t, "%.2f", f.gb_per_s);
        cli_table_cell(t, "%.1f", f.gop_per_s);
        cli_table_cell(t, "%.1f", 100 * f.share_of_bandwidth);
        cli_table_cell(t, "%.1f", 100 * f.share_of_peak);
    }
    return cli_table_print(r->c, t, r->o->format);
}

static int print(run *r) {
    for (size_t i = 0; i < r->count; i++) sort(&r->row[i].ms);
    for (size_t t = 0; t < r->nthreads; t++)
        for (int i = 0; i < NIB_LIMITS; i++) sort(&r->limit[t][i]);
    char line[256];
    const char *machine = machine_name(line, sizeof line);
    if (r->c->json)
        return cli_print_json(r->c, json_pack("{s:s, s:s, s:s, s:I, s:o, s:o}", "machine", machine,
                                              "isa", isa_name(), "version", nib_version(), "runs",
                                              (json_int_t)r->o->runs, "limits", limits_json(r),
                                              "rows", rows_json(r)));
    cli_say(r->c, "%s, %s; medians of %lld interleaved rounds", machine, isa_name(),
            (long long)r->o->runs);
    int code = print_limits(r);
    if (code != CLI_OK || !r->count) return code;
    printf("\n");
    return print_rows(r);
}

/* Why nothing could be started. What does not fit are sizes and options that were asked for. */
static int fail(const run *r) {
    const nib_error *e = nib_last_error();
    if (r->no_memory)
        return cli_error(r->c, CLI_FULL, "no memory for weights of %lld x %lld and their inputs",
                         (long long)r->o->N, (long long)r->o->K);
    return e->status == NIB_E_SHAPE ? cli_usage_error(r->c, "%s", e->what) : cli_fail(r->c);
}

int bench_kernel_run(cli *c, const bench_kernel *o) {
    if (o->kernel && strcmp(o->kernel, "linear") != 0)
        return cli_usage_error(c, "--kernel is linear, not \"%s\"", o->kernel);
    run *r = calloc(1, sizeof *r);
    if (!r) return cli_error(c, CLI_FULL, "no memory to measure in");
    r->c = c;
    r->o = o;
    int code = CLI_OK;
    r->nrows = read_list(o->rows, MOST_ROWS, r->rows);
    r->nthreads = 1; /* 0: one for each core */
    if (o->threads) r->nthreads = read_list(o->threads, MOST_THREADS, r->threads);
    if (!r->nrows)
        code = cli_usage_error(c, "-m is a list like 1,4,512, of 1 to %d, not \"%s\"", MOST_ROWS,
                               o->rows);
    if (!r->nthreads)
        code = cli_usage_error(c, "-t is a list like 1,2 here, of 1 to %d, not \"%s\"",
                               MOST_THREADS, o->threads);
    if (code == CLI_OK && !start(r)) code = fail(r);
    for (int64_t i = 0; code == CLI_OK && i < o->runs; i++) {
        if (!one_round(r)) code = cli_fail(c);
        if (cli_interrupted()) code = CLI_INTERRUPTED;
    }
    if (code == CLI_OK) code = print(r);
    for (size_t i = 0; i < r->count; i++) nib_tensor_free(r->row[i].x);
    nib_module_free(r->root);
    free(r->linear);
    nib_limits_free(r->limits);
    for (size_t t = 0; t < r->nthreads; t++) nib_ctx_free(r->ctx[t]);
    free(r);
    return code;
}
