/* cmd_eval.c: how good a model is, on a text, a file of questions, or pictures. */
#include <string.h>

#include "cli.h"

static struct {
    const char *perplexity, *hellaswag, *lambada, *images, *labels, *protocol, *reference, *scheme,
        *activations, *kv;
    int64_t context, limit;
} o;

static const cli_option options[] = {
    {"perplexity", 0, "FILE", CLI_TEXT, &o.perplexity, "of a text", 0, 0, false},
    {"hellaswag", 0, "FILE", CLI_TEXT, &o.hellaswag, "share of endings told right; JSON lines", 0,
     0, false},
    {"lambada", 0, "FILE", CLI_TEXT, &o.lambada, "share of last words told right; JSON lines", 0, 0,
     false},
    {"images", 0, "FILE", CLI_TEXT, &o.images, "share told right of pictures: idx, .npy or .npz", 0,
     0, false},
    {"labels", 0, "FILE", CLI_TEXT, &o.labels, "what they show, the same kinds of file", 0, 0,
     false},
    {"context", 0, "N", CLI_INT, &o.context, "ids in a window of text (512)", 4, 1 << 30, false},
    {"protocol", 0, "P", CLI_TEXT, &o.protocol,
     "of a window half or full; quanto: as its charts (half)", 0, 0, false},
    {"reference", 0, "FLOAT", CLI_TEXT, &o.reference, "also compare with this model", 0, 0, false},
    {"scheme", 's', "SCHEME", CLI_TEXT, &o.scheme, "quantize a float model while loading", 0, 0,
     false},
    {"activations", 0, "A", CLI_TEXT, &o.activations, "int8: quantize inputs too (as schemes say)",
     0, 0, false},
    {"kv", 0, "KIND", CLI_TEXT, &o.kv, "the cache: float, int8, int4 or fp8 (float)", 0, 0, false},
    {"limit", 0, "N", CLI_INT, &o.limit, "first N questions only (all)", 1, 1e9, false},
    {0},
};

static void add(json_t *document, const char *key, double value) {
    json_object_set_new(document, key, cli_json_real(value));
}

static int print(cli *c, const nib_eval *e, const char *activations) {
    json_t *d = json_object();
    const bool compared = e->reference != NULL;
    const bool quanto = o.protocol && strcmp(o.protocol, "quanto") == 0;
    if (o.perplexity) {
        if (quanto) add(d, "mean_of_running_perplexities", e->running_perplexity);
        add(d, "perplexity", e->perplexity);
        add(d, "perplexity_error", e->perplexity_error);
        if (!quanto) add(d, "bits_per_byte", e->bits_per_byte);
        json_object_set_new(d, "tokens", json_integer(e->tokens));
        json_object_set_new(d, "protocol", json_string(o.protocol ? o.protocol : "half"));
        if (compared) {
            add(d, "kl_mean", e->kl_mean);
            add(d, "kl_p99", e->kl_p99);
            add(d, "same_top", e->same_top);
        }
    } else if (quanto) {
        add(d, "last_token_acc", e->acc);
        add(d, "last_token_acc_stderr", e->acc_error);
        json_object_set_new(d, "items", json_integer(e->items));
        json_object_set_new(d, "protocol", json_string(o.protocol));
    } else if (o.images) {
        add(d, "acc", e->acc);
        add(d, "acc_stderr", e->acc_error);
        json_object_set_new(d, "items", json_integer(e->items));
        if (compared) {
            add(d, "kl_mean", e->kl_mean);
            add(d, "same_top", e->same_top);
        }
    } else {
        add(d, "acc", e->acc);
        add(d, "acc_stderr", e->acc_error);
        if (o.hellaswag) {
            add(d, "acc_norm", e->acc_norm);
            add(d, "acc_norm_stderr", e->acc_norm_error);
        } else {
            add(d, "perplexity", e->perplexity);
            add(d, "perplexity_error", e->perplexity_error);
        }
        json_object_set_new(d, "items", json_integer(e->items));
    }
    json_object_set_new(d, "activations", json_string(activations));
    if (c->json) return cli_print_json(c, d);
    cli_table *table = cli_table_new("measure|>value");
    const char *key;
    json_t *value;
    json_object_foreach(d, key, value) {
        cli_table_cell(table, "%s", key);
        if (json_is_string(value))
            cli_table_cell(table, "%s", json_string_value(value));
        else
            cli_table_cell(table, "%.6g", json_number_value(value));
    }
    json_decref(d);
    return cli_table_print(c, table, CLI_PLAIN);
}

static int run(cli *c) {
    const char *const files[] = {o.perplexity, o.hellaswag, o.lambada, o.images};
    static const char *const tasks[] = {"perplexity", "hellaswag", "lambada", "pictures"};
    int task = -1, given = 0;
    for (int i = 0; i < 4; i++)
        if (files[i]) task = i, given++;
    if (given != 1)
        return cli_usage_error(c, "give one of --perplexity, --hellaswag, --lambada and --images");
    if (!o.images != !o.labels) return cli_usage_error(c, "--images goes with --labels");
    nib_ctx *ctx = cli_context(c);
    if (!ctx) return cli_fail(c);
    nib_model *model = cli_load(c, c->arguments[0], o.scheme, o.activations);
    nib_model *reference = model && o.reference ? cli_load(c, o.reference, NULL, NULL) : NULL;
    nib_eval e = {.protocol = o.protocol,
                  .context = (int)o.context,
                  .reference = reference,
                  .limit = o.limit,
                  .kv = o.kv,
                  .labels = o.labels};
    int code = CLI_OK;
    if (!model || (o.reference && !reference) ||
        nib_eval_file(ctx, model, tasks[task], files[task], &e) < NIB_OK)
        code = cli_fail(c);
    cli_progress_end();
    if (code == CLI_OK) code = print(c, &e, nib_inputs_name(nib_model_root(model)));
    nib_model_free(reference);
    nib_model_free(model);
    return code;
}

const cli_verb verb_eval = {
    .name = "eval",
    .summary = "quality: perplexity, multiple choice, last word, distance from another model",
    .synopsis = "MODEL --perplexity FILE | --images FILE --labels FILE | ...",
    .example = "out/ --perplexity text.txt --reference models/kjv-llama",
    .options = options,
    .common = CLI_THREADS | CLI_JSON | CLI_MMAP,
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
