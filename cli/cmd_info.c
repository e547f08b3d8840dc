/* cmd_info.c: what a checkpoint holds: architecture, weights, dtypes, schemes, sizes. Of any
 * file of tensors or folder of them, also of an architecture that cannot run here. */
#include <nibble/io.h>
#include <nibble/nn.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

typedef struct total {
    char name[96];
    int64_t count, weights;
    double bytes;
} total;

enum { MOST_TOTALS = 64 };
typedef struct survey {
    nib_model *model;          /* asked for shapes that the files do not tell; NULL: not needed */
    total totals[MOST_TOTALS]; /* by scheme, or dtype where there is none */
    size_t ntotals;
    int64_t weights; /* numbers; -1: not known */
    double bytes;
    json_t *rows;
    cli_table *table;
} survey;

static int64_t count_of(const nib_shape *shape) {
    int64_t count = 1;
    for (int i = 0; i < shape->ndim; i++) count *= shape->dim[i];
    return count;
}

/* quanto's 4- and 2-bit weights have their shape from the model, if it is one that runs here. */
static bool ask_model(cli *c, survey *s, nib_weight_info *w) {
    if (!s->model) s->model = nib_model_load(cli_context(c), c->arguments[0], NULL);
    char module[512];
    const size_t length = strlen(w->name);
    if (!s->model || length < 8 || length >= sizeof module ||
        strcmp(w->name + length - 7, ".weight") != 0)
        return false;
    snprintf(module, sizeof module, "%.*s", (int)length - 7, w->name);
    const nib_module *owner = nib_module_child(nib_model_root(s->model), module);
    const nib_tensor *t = owner ? nib_module_parameter(owner, "weight") : NULL;
    if (t) w->shape = nib_tensor_shape(t);
    return t != NULL;
}

static void add_total(survey *s, const nib_weight_info *w) {
    const char *name = w->scheme && *w->scheme ? w->scheme
                       : w->layout             ? w->layout
                                               : nib_dtype_name(w->dtype);
    size_t i = 0;
    while (i < s->ntotals && strcmp(s->totals[i].name, name) != 0) i++;
    if (i == MOST_TOTALS) return;
    if (i == s->ntotals)
        snprintf(s->totals[s->ntotals++].name, sizeof s->totals[i].name, "%s", name);
    s->totals[i].count++;
    s->totals[i].bytes += (double)w->bytes;
    if (w->shape_known && s->totals[i].weights >= 0)
        s->totals[i].weights += count_of(&w->shape);
    else
        s->totals[i].weights = -1;
}

static void see(cli *c, survey *s, nib_weight_info *w) {
    if (!w->shape_known) w->shape_known = ask_model(c, s, w);
    s->weights = w->shape_known && s->weights >= 0 ? s->weights + count_of(&w->shape) : -1;
    s->bytes += (double)w->bytes;
    add_total(s, w);
    json_t *shape = w->shape_known ? json_array() : json_null();
    char text[160] = "?";
    size_t at = w->shape_known ? (size_t)snprintf(text, sizeof text, "[") : 0;
    for (int i = 0; w->shape_known && i < w->shape.ndim; i++) {
        json_array_append_new(shape, json_integer(w->shape.dim[i]));
        at += (size_t)snprintf(text + at, sizeof text - at, i ? ", %lld" : "%lld",
                               (long long)w->shape.dim[i]);
    }
    if (w->shape_known) snprintf(text + at, sizeof text - at, "]");
    if (s->rows)
        json_array_append_new(s->rows,
                              json_pack("{s:s, s:s, s:o, s:s?, s:s?, s:I, s:s}", "name", w->name,
                                        "dtype", nib_dtype_name(w->dtype), "shape", shape, "scheme",
                                        w->scheme && *w->scheme ? w->scheme : NULL, "layout",
                                        w->layout, "bytes", (json_int_t)w->bytes, "file", w->file));
    else
        json_decref(shape);
    if (!s->table) return;
    cli_table_cell(s->table, "%s", w->name);
    cli_table_cell(s->table, "%s", nib_dtype_name(w->dtype));
    cli_table_cell(s->table, "%s", text);
    cli_table_cell(s->table, "%zu", w->bytes);
    cli_table_cell(s->table, "%s%s%s%s", w->scheme ? w->scheme : "", w->layout ? " (" : "",
                   w->layout ? w->layout : "", w->layout ? ")" : "");
}

/* What people look for first in a config.json; those that are there. */
static const char *const highlights[] = {
    "model_type",
    "hidden_size",
    "n_embd",
    "n_embed",
    "word_embed_proj_dim",
    "intermediate_size",
    "ffn_dim",
    "n_inner",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "num_labels",
    "num_channels",
    "image_size",
    "max_position_embeddings",
    "n_positions",
    "tie_word_embeddings",
    "torch_dtype",
    "dtype",
};

static json_t *chosen(const json_t *config) {
    json_t *out = json_object();
    for (size_t i = 0; i < sizeof highlights / sizeof *highlights; i++)
        if (json_object_get(config, highlights[i]))
            json_object_set(out, highlights[i], json_object_get(config, highlights[i]));
    return out;
}

static json_t *totals_of(const survey *s) {
    json_t *out = json_array();
    for (size_t i = 0; i < s->ntotals; i++) {
        const total *t = &s->totals[i];
        json_array_append_new(
            out,
            json_pack("{s:s, s:I, s:o, s:I, s:o}", "scheme", t->name, "tensors",
                      (json_int_t)t->count, "parameters",
                      t->weights < 0 ? json_null() : json_integer(t->weights), "bytes",
                      (json_int_t)t->bytes, "bits_per_weight",
                      t->weights > 0 ? json_real(t->bytes * 8 / (double)t->weights) : json_null()));
    }
    return out;
}

static int print_plain(cli *c, survey *s, const char *architecture, const char *format,
                       const json_t *config) {
    printf("%s, %s%s", architecture ? architecture : "no architecture told",
           format ? "format " : "", format ? format : "all float");
    if (s->weights >= 0) printf("; %.2f million parameters", (double)s->weights / 1e6);
    printf(", %.2f MB\n", s->bytes / 1e6);
    json_t *high = chosen(config);
    const char *key;
    json_t *value;
    int column = 0;
    json_object_foreach(high, key, value) {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        const int n = (int)(strlen(key) + strlen(text ? text : "") + 3);
        if (column && column + n > 80) column = printf("\n") - 1;
        column += printf("%s%s %s", column ? ", " : "", key, text ? text : "");
        free(text);
    }
    if (column) puts("");
    json_decref(high);
    puts("");
    cli_table *table = cli_table_new("scheme or dtype|>tensors|>parameters|>bytes|>bits a weight");
    for (size_t i = 0; i < s->ntotals; i++) {
        const total *t = &s->totals[i];
        cli_table_cell(table, "%s", t->name);
        cli_table_cell(table, "%lld", (long long)t->count);
        cli_table_cell(table, t->weights < 0 ? "?" : "%lld", (long long)t->weights);
        cli_table_cell(table, "%.0f", t->bytes);
        cli_table_cell(table, t->weights > 0 ? "%.2f" : "?",
                       t->weights > 0 ? t->bytes * 8 / (double)t->weights : 0.0);
    }
    const int code = cli_table_print(c, table, CLI_PLAIN);
    if (code != CLI_OK) return code;
    puts("");
    cli_table *rows = s->table;
    s->table = NULL;
    return cli_table_print(c, rows, CLI_PLAIN);
}

static int print(cli *c, survey *s, const nib_reader *reader) {
    const char *text = nib_reader_config(reader), *format = nib_reader_format(reader);
    json_t *config = text ? json_loads(text, 0, NULL) : NULL;
    const char *architecture =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    if (!architecture) architecture = json_string_value(json_object_get(config, "_class_name"));
    if (!architecture) architecture = json_string_value(json_object_get(config, "model_type"));
    int code;
    if (c->json) {
        json_t *document =
            json_pack("{s:s?, s:o, s:s?, s:I, s:o, s:o, s:o}", "architecture", architecture,
                      "parameters", s->weights < 0 ? json_null() : json_integer(s->weights),
                      "format", format, "bytes", (json_int_t)s->bytes, "config", chosen(config),
                      "totals", totals_of(s), "tensors", s->rows);
        s->rows = NULL;
        code = cli_print_json(c, document);
    } else {
        code = print_plain(c, s, architecture, format, config);
    }
    json_decref(config);
    return code;
}

static int run(cli *c) {
    nib_ctx *ctx = cli_context(c);
    if (!ctx) return cli_fail(c);
    survey s = {.rows = c->json ? json_array() : NULL,
                .table = c->json ? NULL : cli_table_new("weight|dtype|shape|>bytes|scheme")};
    nib_reader *reader = nib_reader_open(ctx, c->arguments[0]);
    nib_weight_info info;
    while (reader && nib_reader_next_weight(reader, &info) == NIB_OK) see(c, &s, &info);
    const int code = reader ? print(c, &s, reader) : cli_fail(c);
    json_decref(s.rows);
    cli_table_free(s.table);
    nib_reader_free(reader);
    nib_model_free(s.model);
    return code;
}

const cli_verb verb_info = {
    .name = "info",
    .summary = "architecture, weights, dtypes, schemes and sizes of a checkpoint",
    .synopsis = "MODEL",
    .example = "llama-int4/ --json",
    .common = CLI_JSON,
    .min_arguments = 1,
    .max_arguments = 1,
    .run = run,
};
