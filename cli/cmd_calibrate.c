/* cmd_calibrate.c: a float model and data in, a model with static activations out. */
#include <dirent.h>
#include <nibble/train.h>
#include <string.h>
#include <sys/stat.h>

#include "cli.h"

static struct {
    const char *data, *weights, *activations, *include, *exclude, *streamline, *calibration, *out,
        *algo;
    double momentum, smooth;
    int64_t samples, context;
    bool head, awq, reduce_range;
} o = {.weights = "qint8", .activations = "qint8", .momentum = 0.9};

static const cli_option options[] = {
    {"output", 'o', "OUT", CLI_TEXT, &o.out, "the folder to write", 0, 0, true},
    {"data", 0, "FILE", CLI_TEXT, &o.data, "text, .jsonl, .npy or .npz; sounds; pictures", 0, 0,
     false},
    {"weights", 0, "TYPE", CLI_TEXT, &o.weights, "qint8, qint4, qint2, qfloat8_e4m3fn ... (qint8)",
     0, 0, false},
    {"activations", 0, "TYPE", CLI_TEXT, &o.activations, "none, qint8, qfloat8_e4m3fn ... (qint8)",
     0, 0, false},
    {"algo", 0, "ALGO", CLI_TEXT, &o.algo, "max, hqq, mse, absmax or gptq (needs no data)", 0, 0,
     false},
    {"smooth", 0, "A", CLI_NUMBER, &o.smooth, "before: SmoothQuant with this power, as 0.5", 1e-6,
     1, false},
    {"awq", 0, NULL, CLI_FLAG, &o.awq, "before: AWQ's search for scales", 0, 0, false},
    {"include", 0, "GLOB", CLI_TEXT, &o.include, "only these modules", 0, 0, false},
    {"exclude", 0, "GLOB", CLI_TEXT, &o.exclude, "not these", 0, 0, false},
    {"head", 0, NULL, CLI_FLAG, &o.head, "the output head too", 0, 0, false},
    {"momentum", 0, "M", CLI_NUMBER, &o.momentum, "what scales keep of themselves (0.9)", 1e-9,
     0.999999, false},
    {"samples", 0, "N", CLI_INT, &o.samples, "of the data, at most (128)", 1, 1e9, false},
    {"context", 0, "N", CLI_INT, &o.context, "tokens of a sample, at most (512)", 2, 1 << 30,
     false},
    {"streamline", 0, "on|off", CLI_TEXT, &o.streamline, "outputs nobody takes stay float (on)", 0,
     0, false},
    {"calibration", 0, "HOW", CLI_TEXT, &o.calibration, "nibble, or upstream's arithmetic (nibble)",
     0, 0, false},
    {"reduce-range", 0, NULL, CLI_FLAG, &o.reduce_range, "codes of qint8 activations in [-64, 63]",
     0, 0, false},
    {0},
};

typedef struct rows {
    json_t *list; /* NULL: a table is wanted */
    cli_table *table;
} rows;

static void see(void *user, const nib_calibrated *row) {
    rows *r = user;
    if (r->list)
        json_array_append_new(
            r->list, json_pack("{s:s, s:o, s:o, s:b, s:b, s:I}", "name", row->name, "input_scale",
                               cli_json_real((double)row->input_scale), "output_scale",
                               cli_json_real((double)row->output_scale), "inputs", row->inputs,
                               "outputs", row->outputs, "batches", (json_int_t)row->batches));
    if (!r->table) return;
    cli_table_cell(r->table, "%s", row->name);
    cli_table_cell(r->table, row->inputs ? "%.6g" : "float", (double)row->input_scale);
    cli_table_cell(r->table, row->outputs ? "%.6g" : "float", (double)row->output_scale);
}

/* The config as text, so that the library says what is wrong with a type. */
static nib_config *config_of(void) {
    char text[512];
    const int length =
        snprintf(text, sizeof text, "quanto:weights=%s,activations=%s,momentum=%.9g%s%s%s%s%s%s%s",
                 o.weights, o.activations, o.momentum, o.streamline ? ",streamline=" : "",
                 o.streamline ? o.streamline : "", o.calibration ? ",calibration=" : "",
                 o.calibration ? o.calibration : "", o.algo ? ",algo=" : "", o.algo ? o.algo : "",
                 o.reduce_range ? ",reduce_range=true" : "");
    return length < (int)sizeof text ? nib_config_parse(text) : nib_config_parse("");
}

static int print(cli *c, const nib_calibration *report, const nib_data *data, rows *r) {
    if (r->list)
        return cli_print_json(c, json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:o}",
                                           "output", o.out, "weights", o.weights, "activations",
                                           o.activations, "modules", report->modules, "streamlined",
                                           report->streamlined, "missed", report->missed, "tokens",
                                           (json_int_t)data->tokens, "pictures",
                                           (json_int_t)data->pictures, "rows", r->list));
    const int code = cli_table_print(c, r->table, CLI_PLAIN);
    if (code == CLI_OK)
        printf("Calibrated %d modules on %lld %s, %d with float outputs; wrote %s\n",
               report->modules, (long long)(data->pictures ? data->pictures : data->tokens),
               data->pictures ? "pictures" : "tokens", report->streamlined, o.out);
    return code;
}

/* With gradients where the model's ops have them; inputs alone where not. */
static nib_status sense(nib_ctx *ctx, nib_model *model, nib_data *data) {
    const nib_status status = nib_model_sense(ctx, model, data);
    return status == NIB_E_UNSUPPORTED ? nib_model_feed(ctx, model, data) : status;
}

/* What saving would refuse at the end of the work is refused before it. */
static int check_out(const cli *c) {
    static const char *const files[] = {".safetensors", ".pt", ".pth", ".bin"};
    struct stat about;
    const size_t length = strlen(o.out);
    for (int i = 0; i < 4; i++) {
        const size_t end = strlen(files[i]);
        if (length > end && !strcmp(o.out + length - end, files[i]))
            return cli_usage_error(c, "-o names a folder, for weights and their map, not \"%s\"",
                                   o.out);
    }
    if (lstat(o.out, &about) != 0) return CLI_OK;
    DIR *folder = S_ISDIR(about.st_mode) ? opendir(o.out) : NULL;
    int entries = 0;
    while (folder && entries < 3 && readdir(folder)) entries++;
    if (folder) closedir(folder);
    if (folder && entries < 3) return CLI_OK; /* "." and "..": it makes way */
    return cli_error(c, CLI_USAGE, "%s is there already: choose another output", o.out);
}

static int run(cli *c) {
    const int free_to_write = check_out(c);
    if (free_to_write != CLI_OK) return free_to_write;
    nib_ctx *ctx = cli_context(c);
    if (!ctx) return cli_fail(c);
    nib_config *config = config_of();
    nib_model *model = config ? cli_load(c, c->arguments[0], NULL, NULL) : NULL;
    nib_module *root = nib_model_root(model);
    rows r = {.list = c->json ? json_array() : NULL,
              .table = c->json ? NULL : cli_table_new("module|>input scale|>output scale")};
    nib_calibration report = {.row = see, .user = &r};
    nib_data data = {.file = o.data, .samples = o.samples, .context = (int)o.context};
    const nib_select select = {.include = o.include, .exclude = o.exclude, .head = o.head};
    bool ready = model != NULL;
    if (ready && o.smooth > 0)
        ready = nib_model_smooth(ctx, model, &data, o.smooth, NULL) >= NIB_OK;
    if (ready && o.awq) ready = nib_model_smooth(ctx, model, &data, 0, config) >= NIB_OK;
    /* Weights alone, chosen without data of their inputs, are quantized at once. */
    const bool gptq = o.algo && !strcmp(o.algo, "gptq");
    const bool waits = strcmp(o.activations, "none") != 0 || gptq;
    bool fed = ready && !waits && nib_quantize(root, config, &select) >= NIB_OK;
    const bool begun = ready && waits && nib_calibrate_begin(root, config, &select) >= NIB_OK;
    if (begun)
        fed = (gptq ? sense(ctx, model, &data) : nib_model_feed(ctx, model, &data)) >= NIB_OK;
    cli_progress_end();
    int code = fed ? CLI_OK : cli_fail(c);
    const bool ended = !begun || nib_calibrate_end(root, fed ? &report : NULL) >= NIB_OK;
    nib_data again = data; /* so that what is printed is what was fed */
    bool made = fed && ended;
    if (made && waits)
        made = (gptq ? nib_model_freeze(ctx, model, &again) : nib_freeze(root)) >= NIB_OK;
    made = made && nib_model_save(model, o.out, NULL) >= NIB_OK;
    cli_progress_end();
    if (fed && !made) code = cli_fail(c);
    if (made) {
        code = print(c, &report, &data, &r);
    } else {
        json_decref(r.list);
        cli_table_free(r.table);
    }
    nib_model_free(model);
    nib_config_free(config);
    return code;
}

const cli_verb verb_calibrate = {
    .name = "calibrate",
    .summary = "float model and data in, a model with static 8-bit activations out",
    .synopsis = "MODEL --data FILE -o OUT [--weights T] [--activations T]",
    .example = "llama/ --data text.txt --weights qint4 -o out/",
    .options = options,
    .common = CLI_THREADS | CLI_JSON | CLI_MMAP,
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
