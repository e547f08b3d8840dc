/* cmd_quantize.c: a float checkpoint in, a quantized one out. */
#include <math.h>
#include <string.h>

#include "cli.h"

static struct {
    const char *out, *scheme, *include, *exclude, *unfit, *nonfinite, *format;
    cli_list rules;
    bool head, dry_run, resume, force;
} o = {.unfit = "error"};

static const cli_option options[] = {
    {"output", 'o', "OUT", CLI_TEXT, &o.out, "folder to write (not with --dry-run)", 0, 0, false},
    {"scheme", 's', "SCHEME", CLI_TEXT, &o.scheme, "for all that no rule takes; see `nibble list`",
     0, 0, false},
    {"rule", 'r', "GLOB=SCHEME", CLI_LIST, &o.rules, "first match wins; SCHEME leave keeps float",
     0, 0, false},
    {"include", 0, "GLOB", CLI_TEXT, &o.include, "only these weights, whatever they are", 0, 0,
     false},
    {"exclude", 0, "GLOB", CLI_TEXT, &o.exclude, "not these", 0, 0, false},
    {"head", 0, NULL, CLI_FLAG, &o.head, "the output head too", 0, 0, false},
    {"unfit", 0, "error|leave", CLI_TEXT, &o.unfit, "a weight that does not fit (error)", 0, 0,
     false},
    {"nonfinite", 0, "error|keep|zero", CLI_TEXT, &o.nonfinite,
     "NaN and infinity in weights (error)", 0, 0, false},
    {"format", 'f', "FORMAT", CLI_TEXT, &o.format, "torchao, quanto, awq, native (the scheme's)", 0, 0,
     false},
    {"dry-run", 'n', NULL, CLI_FLAG, &o.dry_run, "tell what would be written, to the byte", 0, 0,
     false},
    {"resume", 0, NULL, CLI_FLAG, &o.resume, "go on in OUT.partial", 0, 0, false},
    {"force", 0, NULL, CLI_FLAG, &o.force, "replace an OUT that is there", 0, 0, false},
    {0},
};

typedef struct totals {
    json_t *rows; /* NULL: not asked for */
    cli_table *table;
    int64_t weights;
    size_t bytes;
    double sqnr_sum;
    int quantized;
} totals;

static void see(void *user, const nib_report_row *row) {
    totals *t = user;
    if (!row->why_left) {
        t->weights += row->weights;
        t->bytes += row->bytes_after;
        t->quantized++;
        t->sqnr_sum += isfinite(row->sqnr_db) ? row->sqnr_db : 0;
    }
    if (t->rows)
        json_array_append_new(
            t->rows,
            json_pack("{s:s, s:s, s:s?, s:I, s:I, s:o, s:o}", "name", row->name, "scheme",
                      row->scheme, "why_left", row->why_left, "bytes_before",
                      (json_int_t)row->bytes_before, "bytes_after", (json_int_t)row->bytes_after,
                      "sqnr_db", cli_json_real(row->why_left ? NAN : row->sqnr_db), "max_error",
                      cli_json_real(row->why_left ? NAN : row->max_error)));
    if (!t->table) return;
    cli_table_cell(t->table, "%s", row->name);
    cli_table_cell(t->table, "%s", row->why_left ? "float" : row->scheme);
    cli_table_cell(t->table, "%.2f", (double)row->bytes_before / 1e6);
    cli_table_cell(t->table, "%.2f", (double)row->bytes_after / 1e6);
    if (row->why_left || o.dry_run) {
        cli_table_cell(t->table, "%s", "");
        cli_table_cell(t->table, "%s", row->why_left ? row->why_left : "");
    } else {
        cli_table_cell(t->table, "%.1f", row->sqnr_db);
        cli_table_cell(t->table, "max error %.3g", row->max_error);
    }
}

/* "GLOB=SCHEME" taken apart in place; a glob may hold '=' no more than a name may. */
static int make_rules(cli *c, nib_rule *rules, nib_config **configs, char **globs, size_t *count) {
    for (size_t i = 0; i < o.rules.count; i++) {
        const char *text = o.rules.items[i], *equals = strchr(text, '=');
        if (!equals || equals == text)
            return cli_usage_error(c, "--rule \"%s\" is not GLOB=SCHEME", text);
        globs[i] = strndup(text, (size_t)(equals - text));
        if (!globs[i]) return cli_error(c, CLI_FULL, "no memory");
        rules[i].glob = globs[i];
        rules[i].config = NIB_LEAVE;
        if (strcmp(equals + 1, "leave") != 0) {
            configs[i] = nib_config_parse(equals + 1);
            if (!configs[i]) return cli_fail(c);
            rules[i].config = configs[i];
        }
        *count = i + 1;
    }
    if (!o.scheme) return CLI_OK;
    configs[*count] = nib_config_parse(o.scheme);
    if (!configs[*count]) return cli_fail(c);
    rules[*count] = (nib_rule){"*", configs[*count]};
    ++*count;
    return CLI_OK;
}

static int print(cli *c, const nib_report *r, totals *t) {
    const double bits = t->weights ? (double)t->bytes * 8 / (double)t->weights : 0;
    const double sqnr = t->quantized ? t->sqnr_sum / t->quantized : NAN;
    if (c->json)
        return cli_print_json(
            c, json_pack("{s:s?, s:s?, s:b, s:i, s:i, s:I, s:I, s:f, s:o, s:{s:I, s:I, s:I}, s:o}",
                         "output", o.out, "format", r->format, "dry_run", o.dry_run, "quantized",
                         r->quantized, "left", r->left, "bytes_before", (json_int_t)r->bytes_before,
                         "bytes_after", (json_int_t)r->bytes_after, "bits_per_weight", bits,
                         "sqnr_db", cli_json_real(o.dry_run ? NAN : sqnr), "files", "weights",
                         (json_int_t)r->bytes_weights, "index", (json_int_t)r->bytes_index,
                         "config", (json_int_t)r->bytes_config, "tensors", t->rows));
    const int code = cli_table_print(c, t->table, CLI_PLAIN);
    if (code != CLI_OK) return code;
    printf("%s %d weights, left %d; %.2f MB -> %.2f MB, %.2f bits a quantized weight",
           o.dry_run ? "Would quantize" : "Quantized", r->quantized, r->left,
           (double)r->bytes_before / 1e6, (double)r->bytes_after / 1e6, bits);
    if (!o.dry_run) printf(", mean SQNR %.1f dB", sqnr);
    printf("\n%s, format %s: weights %zu, index %zu, config %zu bytes\n",
           o.dry_run ? "Files to be" : o.out, r->format ? r->format : "none", r->bytes_weights,
           r->bytes_index, r->bytes_config);
    return CLI_OK;
}

static int run(cli *c) {
    if (!o.out && !o.dry_run) return cli_usage_error(c, "-o OUT is needed (or --dry-run)");
    if (!o.scheme && !o.rules.count) return cli_usage_error(c, "--scheme or --rule is needed");
    if (strcmp(o.unfit, "error") != 0 && strcmp(o.unfit, "leave") != 0)
        return cli_usage_error(c, "--unfit is \"%s\", want error or leave", o.unfit);
    nib_ctx *ctx = cli_context(c);
    if (!ctx) return cli_fail(c);
    const size_t room = o.rules.count + 1;
    nib_rule *rules = calloc(room, sizeof *rules);
    nib_config **configs = calloc(room, sizeof *configs);
    char **globs = calloc(room, sizeof *globs);
    totals t = {.rows = c->json ? json_array() : NULL,
                .table =
                    c->json ? NULL : cli_table_new("weight|scheme|>MB before|>after|>SQNR dB|")};
    nib_report report = {.row = see, .user = &t};
    size_t count = 0;
    int code = rules && configs && globs ? make_rules(c, rules, configs, globs, &count)
                                         : cli_error(c, CLI_FULL, "no memory");
    if (code == CLI_OK) {
        const nib_select select = {.include = o.include,
                                   .exclude = o.exclude,
                                   .head = o.head,
                                   .leave_unfit = strcmp(o.unfit, "leave") == 0,
                                   .report = &report};
        const nib_file_options file = {.format = o.format,
                                       .nonfinite = o.nonfinite,
                                       .dry_run = o.dry_run,
                                       .resume = o.resume,
                                       .overwrite = o.force};
        if (nib_quantize_file(ctx, c->arguments[0], o.out, rules, count, &select, &file) < NIB_OK)
            code = cli_fail(c);
    }
    cli_progress_end();
    if (code == CLI_OK) {
        code = print(c, &report, &t);
    } else {
        json_decref(t.rows);
        cli_table_free(t.table);
    }
    for (size_t i = 0; i < room && configs && globs; i++) {
        nib_config_free(configs[i]);
        free(globs[i]);
    }
    free(rules);
    free(configs);
    free(globs);
    return code;
}

const cli_verb verb_quantize = {
    .name = "quantize",
    .summary = "float checkpoint in, quantized checkpoint out",
    .synopsis = "MODEL -o OUT --scheme SCHEME [--rule GLOB=SCHEME]...",
    .example = "llama/ -o out/ -s int4_weight_only:group_size=32",
    .options = options,
    .common = CLI_THREADS | CLI_JSON,
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
