/* bench_kernel.c: how fast is one kernel, beside what this machine can do at most?
 *
 * Rounds: each measures every limit once and then every row once, for some 20 ms; a figure is the
 * median of the rounds. Up to 8 rows of inputs, the product reads a different copy of the weight
 * each time, more than 256 MB of them, so that no cache holds what comes next. */
#include "bench_kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LIST = 16, MOST_RUNS = 1000, ROTATED = 8 };
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
    nib_tensor **weight; /* copies, of ctx[0] */
    size_t copies, next;
    product row[MOST_LIST * MOST_LIST];
} run;

/* "1,4,512" -> numbers from 1 on; 0: not such a list. */
static size_t read_list(const char *text, int64_t *list) {
    size_t n = 0;
    for (;;) {
        char *end;
        const long long value = strtoll(text, &end, 10);
        if (end == text || value < 1 || value > 1 << 20 || n == MOST_LIST) return 0;
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

static nib_tensor *floats(nib_ctx *ctx, int64_t rows, int64_t cols, float size) {
    float *data = malloc((size_t)(rows * cols) * sizeof *data);
    if (data) fill(data, (size_t)(rows * cols), size);
    return nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {rows, cols}}, data, data ? free : NULL,
                           data);
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
        const nib_tensor *w = r->weight[row->M <= ROTATED ? r->next++ % r->copies : 0];
        ok = nib_linear(row->x, w, NIB_NONE) != NULL;
        nib_scope_end(row->ctx, mark);
    }
    return ok ? (cli_now() - began) / (double)calls : NAN;
}

/* Its inputs, what it moves, and how many calls make a sample. */
static bool start_row(run *r, product *row) {
    row->x = floats(row->ctx, row->M, r->o->K, 1);
    if (!row->x || nib_profile_begin(row->ctx) < NIB_OK) return false;
    const double first = time_calls(r, row, 1);
    if (nib_profile_end(row->ctx, add_bytes, &row->bytes) < NIB_OK || isnan(first)) return false;
    const double warm = time_calls(r, row, 1);
    row->calls = 1 + (int64_t)(sample_s / fmax(warm, 1e-7));
    return true;
}

static bool make_weights(run *r) {
    const bench_kernel *o = r->o;
    nib_config *config = o->scheme ? nib_config_parse(o->scheme) : NULL;
    nib_tensor *dense = floats(r->ctx[0], o->N, o->K, 0.02f);
    bool ok = dense && (config || !o->scheme);
    size_t wanted = 1;
    for (size_t i = 0; ok && i < wanted; i++) {
        nib_tensor *w =
            config ? nib_quantize_tensor(dense, config) : floats(r->ctx[0], o->N, o->K, 0.02f);
        nib_tensor **grown = w ? realloc(r->weight, (i + 1) * sizeof *grown) : NULL;
        ok = grown != NULL;
        if (!ok) {
            nib_tensor_free(w);
            break;
        }
        r->weight = grown;
        r->weight[r->copies++] = w;
        if (i > 0) continue;
        product probe = {.M = 1, .ctx = r->ctx[0]};
        ok = start_row(r, &probe);
        nib_tensor_free(probe.x);
        if (ok && r->rows[0] <= ROTATED)
            wanted = 2 + (size_t)(rotated_bytes / (probe.bytes - 4.0 * (double)(o->N + o->K)));
    }
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

/* What the weight meets: inputs as they are, or in codes. */
static const char *activations_of(const bench_kernel *o) {
    if (o->activations) return o->activations;
    return o->scheme && strncmp(o->scheme, "int8_dynamic_activation", 23) == 0 ? "int8" : "f32";
}

/* The peak is that of the inputs' type: f32, or products of codes of the weight's width. */
static figures figures_of(const run *r, const product *row) {
    const bench_kernel *o = r->o;
    const double operations = 2.0 * (double)row->M * (double)o->N * (double)o->K;
    const double weights = row->bytes - 4.0 * (double)row->M * (double)(o->N + o->K);
    const bool codes = strcmp(activations_of(o), "int8") == 0;
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
                      "kernel", r->o->kernel, "scheme", r->o->scheme ? r->o->scheme : "none",
                      "activations", activations_of(r->o), "m", (json_int_t)row->M, "n",
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
        cli_table_cell(t, "%s", r->o->scheme ? r->o->scheme : "none");
        cli_table_cell(t, "%s", activations_of(r->o));
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

int bench_kernel_run(cli *c, const bench_kernel *o) {
    if (o->kernel && strcmp(o->kernel, "linear") != 0)
        return cli_usage_error(c, "--kernel is linear, not \"%s\"", o->kernel);
    if (o->activations &&
        strcmp(o->activations, activations_of(&(bench_kernel){.scheme = o->scheme})))
        return cli_usage_error(c, "--activations %s with %s is not there yet", o->activations,
                               o->scheme ? o->scheme : "no scheme");
    run *r = calloc(1, sizeof *r);
    if (!r) return cli_error(c, CLI_FULL, "no memory to measure in");
    r->c = c;
    r->o = o;
    int code = CLI_OK;
    r->nrows = read_list(o->rows, r->rows);
    r->nthreads = 1; /* 0: one for each core */
    if (o->threads) r->nthreads = read_list(o->threads, r->threads);
    if (!r->nrows) code = cli_usage_error(c, "-m is a list like 1,4,512, not \"%s\"", o->rows);
    if (!r->nthreads)
        code = cli_usage_error(c, "-t is a list like 1,2 here, not \"%s\"", o->threads);
    if (code == CLI_OK && !start(r)) code = cli_fail(c);
    for (int64_t i = 0; code == CLI_OK && i < o->runs; i++) {
        if (!one_round(r)) code = cli_fail(c);
        if (cli_interrupted()) code = CLI_INTERRUPTED;
    }
    if (code == CLI_OK) code = print(r);
    for (size_t i = 0; i < r->count; i++) nib_tensor_free(r->row[i].x);
    for (size_t i = 0; i < r->copies; i++) nib_tensor_free(r->weight[i]);
    free(r->weight);
    nib_limits_free(r->limits);
    for (size_t t = 0; t < r->nthreads; t++) nib_ctx_free(r->ctx[t]);
    free(r);
    return code;
}
