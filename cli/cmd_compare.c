/* cmd_compare.c: what quantizing cost, layer by layer, and which exclusion would help most. */
#include <math.h>

#include "cli.h"

static struct {
    const char *data;
    int64_t samples, context, worst, rows;
} o = {.samples = 16, .worst = 5, .rows = 20};

static const cli_option options[] = {
    {"data", 0, "FILE", CLI_TEXT, &o.data, "text, .jsonl, .npy or .npz; sounds; pictures", 0, 0,
     true},
    {"samples", 0, "N", CLI_INT, &o.samples, "of the data, at most (16)", 1, 1e9, false},
    {"context", 0, "N", CLI_INT, &o.context, "tokens of a sample, at most (512)", 2, 1 << 30,
     false},
    {"try", 0, "N", CLI_INT, &o.worst, "worst layers tried as exclusions (5)", 1, 1e6, false},
    {"rows", 0, "N", CLI_INT, &o.rows, "layers shown (20)", 1, 1e6, false},
    {0},
};

typedef struct rows {
    json_t *list; /* NULL: a table is wanted */
    cli_table *table;
    int64_t shown;
} rows;

static void see(void *user, const nib_compared *row) {
    rows *r = user;
    if (r->list)
        json_array_append_new(r->list, json_pack("{s:s, s:o, s:o, s:o, s:o}", "name", row->name,
                                                 "sqnr_db", cli_json_real(row->sqnr_db), "cosine",
                                                 cli_json_real(row->cosine), "max_error",
                                                 cli_json_real(row->max_error), "kl_without",
                                                 cli_json_real(row->kl_without)));
    if (!r->table || r->shown++ >= o.rows) return;
    cli_table_cell(r->table, "%s", row->name);
    cli_table_cell(r->table, "%.2f", row->sqnr_db);
    cli_table_cell(r->table, "%.6f", row->cosine);
    cli_table_cell(r->table, "%.4g", row->max_error);
    if (isnan(row->kl_without))
        cli_table_cell(r->table, "%s", "");
    else
        cli_table_cell(r->table, "%.5g", row->kl_without);
}

static int print(cli *c, const nib_comparison *r, const nib_data *data, rows *seen) {
    if (seen->list)
        return cli_print_json(c, json_pack("{s:i, s:o, s:o, s:s?, s:o, s:o}", "modules", r->modules,
                                           "kl_mean", cli_json_real(r->kl), "same_top",
                                           cli_json_real(r->same_top), "exclusion",
                                           r->exclusion[0] ? r->exclusion : NULL, "kl_without",
                                           cli_json_real(r->kl_without), "layers", seen->list));
    const int code = cli_table_print(c, seen->table, CLI_PLAIN);
    if (code != CLI_OK) return code;
    if (r->modules > o.rows) printf("... %d layers in all\n", r->modules);
    printf("%s: KL %.5g from float, same top %.1f %%\n",
           data->pictures ? "Of a picture" : "Next token", r->kl, 100 * r->same_top);
    if (r->exclusion[0])
        printf("Helps most: --exclude %s, KL %.5g\n", r->exclusion, r->kl_without);
    else
        printf("No exclusion of a single layer helps\n");
    return CLI_OK;
}

static int run(cli *c) {
    nib_ctx *ctx = cli_context(c);
    if (!ctx) return cli_fail(c);
    nib_model *reference = cli_load(c, c->arguments[0], NULL, NULL);
    nib_model *model = reference ? cli_load(c, c->arguments[1], NULL, NULL) : NULL;
    rows r = {.list = c->json ? json_array() : NULL,
              .table =
                  c->json ? NULL : cli_table_new("layer|>SQNR dB|>cosine|>max error|>KL without")};
    nib_data data = {.file = o.data, .samples = o.samples, .context = (int)o.context};
    nib_comparison result = {.row = see, .user = &r, .try_worst = (int)o.worst};
    int code = CLI_OK;
    if (!model || nib_model_compare(ctx, model, reference, &data, &result) < NIB_OK)
        code = cli_fail(c);
    cli_progress_end();
    if (code == CLI_OK) {
        code = print(c, &result, &data, &r);
    } else {
        json_decref(r.list);
        cli_table_free(r.table);
    }
    nib_model_free(model);
    nib_model_free(reference);
    return code;
}

const cli_verb verb_compare = {
    .name = "compare",
    .summary = "what quantizing cost, layer by layer, and which exclusion would help",
    .synopsis = "FLOAT QUANTIZED --data FILE",
    .example = "llama/ out/ --data text.txt",
    .options = options,
    .common = CLI_THREADS | CLI_JSON | CLI_MMAP,
    .min_arguments = 2,
    .max_arguments = 2,
    .run = run,
};
