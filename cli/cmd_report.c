/* cmd_report.c: one table out of many results.
 *
 * Each argument is a row: a folder of results that verbs printed with --json, one file each. A
 * column picks a number or text out of one of those files by its name and the path in it:
 * "perplexity=eval.perplexity" reads "perplexity" of eval.json. What is missing shows as "-". */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct {
    cli_list columns;
    const char *format;
} o = {.format = "plain"};

static const cli_option options[] = {
    {"column", 'c', "HEAD=FILE.KEY", CLI_LIST, &o.columns,
     "a column; :2 after it rounds to 2 digits", 0, 0, true},
    {"format", 0, "F", CLI_TEXT, &o.format, "plain, md, csv or json (plain)", 0, 0, false},
    {0},
};

/* "HEAD=FILE.KEY.KEY:DIGITS/DIVISOR", taken apart in place of a copy. */
typedef struct column {
    char *head, *file, *path; /* all in one allocation that starts at head */
    int digits;               /* -1: as it is */
    double divisor;
} column;

static int parse_column(cli *c, const char *text, column *out) {
    *out = (column){.head = strdup(text), .digits = -1, .divisor = 1};
    if (!out->head) return cli_error(c, CLI_FULL, "out of memory for the columns");
    char *equals = strchr(out->head, '='), *dot = equals ? strchr(equals, '.') : NULL;
    if (!dot) return cli_usage_error(c, "column \"%s\" is not HEAD=FILE.KEY", text);
    *equals = *dot = 0;
    out->file = equals + 1;
    out->path = dot + 1;
    char *colon = strchr(out->path, ':');
    if (!colon) return CLI_OK;
    *colon = 0;
    if (colon[1] < '0' || colon[1] > '9' || (colon[2] && strcmp(colon + 2, "/1e6")))
        return cli_usage_error(c,
                               "column \"%s\": what follows the colon is one digit, and /1e6 "
                               "for millions",
                               text);
    out->digits = colon[1] - '0';
    if (colon[2]) out->divisor = 1e6;
    return CLI_OK;
}

/* The value at "a.b.c" inside a document, borrowed, or NULL. */
static const json_t *value_at(const json_t *document, const char *path) {
    char key[64];
    for (;;) {
        const size_t length = strcspn(path, ".");
        if (length >= sizeof(key)) return NULL;
        memcpy(key, path, length);
        key[length] = 0;
        document = json_object_get(document, key);
        if (!document || !path[length]) return document;
        path += length + 1;
    }
}

/* The document FOLDER/FILE.json, new; NULL when there is none, with *code set when it is broken. */
static json_t *read_document(cli *c, const char *folder, const char *file, int *code) {
    char path[1024];
    json_error_t error;
    snprintf(path, sizeof(path), "%s/%s.json", folder, file);
    FILE *f = fopen(path, "rb");
    if (!f) {
        if (errno != ENOENT) *code = cli_error(c, CLI_FAILED, "%s: %s", path, strerror(errno));
        return NULL;
    }
    json_t *document = json_loadf(f, 0, &error);
    fclose(f);
    if (!document)
        *code = cli_error(c, CLI_BAD_FILE, "%s (file %s, at byte %d)", error.text, path,
                          error.position);
    return document;
}

static void cell(cli_table *table, json_t *row, const column *col, const json_t *value) {
    if (json_is_number(value)) {
        const double number = json_number_value(value) / col->divisor;
        if (col->digits >= 0)
            cli_table_cell(table, "%.*f", col->digits, number);
        else
            cli_table_cell(table, "%.15g", number);
    } else if (json_is_string(value)) {
        cli_table_cell(table, "%s", json_string_value(value));
    } else if (json_is_boolean(value)) {
        cli_table_cell(table, "%s", json_is_true(value) ? "yes" : "no");
    } else {
        cli_table_cell(table, "-");
    }
    json_object_set_new(row, col->head, value ? json_deep_copy(value) : json_null());
}

static int run(cli *c) {
    static const char *const formats[] = {"plain", "md", "csv", "json"};
    column *columns = calloc(o.columns.count, sizeof(*columns));
    json_t *rows = json_array();
    char heads[1024] = "";
    size_t used = 0, format = 0;
    cli_table *table = NULL;
    int code = columns && rows ? CLI_OK : cli_error(c, CLI_FULL, "out of memory for the table");
    while (format < 4 && strcmp(formats[format], o.format)) format++;
    if (format == 4)
        code = cli_usage_error(c, "--format is plain, md, csv or json, not \"%s\"", o.format);
    for (size_t i = 0; code == CLI_OK && i < o.columns.count; i++) {
        code = parse_column(c, o.columns.items[i], &columns[i]);
        if (code == CLI_OK && used < sizeof(heads))
            used += (size_t)snprintf(heads + used, sizeof(heads) - used, "%s%s%s", i ? "|" : "",
                                     columns[i].digits >= 0 ? ">" : "", columns[i].head);
    }
    if (code == CLI_OK && used >= sizeof(heads))
        code = cli_usage_error(c, "the heads are too long");
    if (code != CLI_OK) goto done;
    table = cli_table_new(heads);
    for (int r = 0; code == CLI_OK && r < c->narguments; r++) {
        struct stat about; /* results may be missing, but not where they are looked for */
        if (stat(c->arguments[r], &about) != 0 || !S_ISDIR(about.st_mode)) {
            code = cli_error(c, CLI_FAILED, "there is no such folder (file %s)", c->arguments[r]);
            break;
        }
        json_t *row = json_object();
        json_array_append(rows, row);
        for (size_t i = 0; code == CLI_OK && i < o.columns.count; i++) {
            json_t *document = read_document(c, c->arguments[r], columns[i].file, &code);
            cell(table, row, &columns[i], document ? value_at(document, columns[i].path) : NULL);
            json_decref(document);
        }
        json_decref(row);
    }
    if (code == CLI_OK && format == 3) {
        code = cli_print_json(c, json_incref(rows));
    } else if (code == CLI_OK) {
        code = cli_table_print(c, table, (cli_table_format)format);
        table = NULL;
    }
done:
    if (table) cli_table_free(table);
    for (size_t i = 0; columns && i < o.columns.count; i++) free(columns[i].head);
    free(columns);
    json_decref(rows);
    return code;
}

const cli_verb verb_report = {
    .name = "report",
    .summary = "one table out of the results that other verbs printed with --json",
    .synopsis = "FOLDER... -c HEAD=FILE.KEY [-c ...] [--format F]",
    .example = "out/*.report -c perplexity=eval.perplexity:3",
    .options = options,
    .min_arguments = 1,
    .max_arguments = -1,
    .run = run,
};
