/* cmd_list.c: what this build can do: schemes with their options, formats, architectures, and the
 * kernels that this machine can run. Schemes are told from their field tables, as text, as a
 * document, and as Markdown, which is docs/schemes.md. */
#include <nibble/extend.h>
#include <string.h>

#include "cli.h"

static struct { const char *format; } o = {.format = "plain"};

static const cli_option options[] = {
    {"format", 0, "plain|md", CLI_TEXT, &o.format, "md: Markdown, as docs/schemes.md has it", 0, 0,
     false},
    {0},
};

static const struct kind {
    const char *word, *kind;
} kinds[] = {{"schemes", "scheme"},
             {"formats", "format"},
             {"architectures", "arch"},
             {"kernels", "kernel"},
             {"reference", "reference"}};
enum { KINDS = sizeof kinds / sizeof *kinds, ROOM = 160 };

/* ---- one field of a scheme ---- */

static void default_of(const nib_field *f, char text[ROOM]) {
    if (f->names)
        snprintf(text, ROOM, "%s", f->names[0]);
    else if (f->type == NIB_FIELD_BOOL)
        snprintf(text, ROOM, "false");
    else
        snprintf(text, ROOM, "%.9g", f->fallback);
}

/* Everything that the field takes. Empty names are gaps, and one that repeats the first is the
 * enum's zero under its own number. */
static void values_of(const nib_field *f, char text[ROOM]) {
    size_t at = 0;
    text[0] = '\0';
    for (int i = 0; i < f->namong && at < ROOM; i++)
        at += (size_t)snprintf(text + at, ROOM - at, "%s%.9g", at ? ", " : "", f->among[i]);
    for (int i = 0; f->names && f->names[i] && at < ROOM; i++)
        if (f->names[i][0] && (i == 0 || strcmp(f->names[i], f->names[0]) != 0))
            at += (size_t)snprintf(text + at, ROOM - at, "%s%s", at ? ", " : "", f->names[i]);
    if (at) return;
    if (f->type == NIB_FIELD_BOOL)
        snprintf(text, ROOM, "true, false");
    else
        snprintf(text, ROOM, "%.9g to %.9g", f->min, f->max);
}

/* ---- schemes in three forms ---- */

static json_t *scheme_json(const nib_scheme *s) {
    json_t *fields = json_array(), *aliases = json_array();
    char fallback[ROOM], values[ROOM];
    for (int i = 0; i < s->nfields; i++) {
        default_of(&s->fields[i], fallback);
        values_of(&s->fields[i], values);
        json_array_append_new(fields, json_pack("{s:s, s:s, s:s, s:s}", "name", s->fields[i].name,
                                                "default", fallback, "values", values, "doc",
                                                s->fields[i].doc));
    }
    for (const char *const *a = s->aliases; a && *a; a += 2)
        json_array_append_new(aliases, json_pack("{s:s, s:s}", "name", a[0], "for", a[1]));
    return json_pack("{s:s, s:s, s:s, s:o, s:o}", "name", s->name, "doc", s->doc, "system",
                     s->system, "options", fields, "aliases", aliases);
}

static void scheme_plain(const nib_scheme *s, bool whole) {
    char fallback[ROOM], values[ROOM];
    printf("%s: %s\n", s->name, s->doc);
    for (int i = 0; i < s->nfields; i++) {
        default_of(&s->fields[i], fallback);
        values_of(&s->fields[i], values);
        if (!whole) { /* a line of a screen; SCHEME alone has the rest */
            char option[2 * ROOM];
            const int used = snprintf(option, sizeof option, "%s=%s", s->fields[i].name, fallback);
            const int width = 76 - (used < 24 ? 24 : used);
            const bool cut = (int)strlen(values) > width;
            printf("  %-24s  %.*s%s\n", option, cut ? width - 3 : width, values, cut ? "..." : "");
            continue;
        }
        printf("  %s=%s\n    %s\n    %s\n", s->fields[i].name, fallback, s->fields[i].doc, values);
    }
    for (const char *const *a = s->aliases; whole && a && *a; a += 2)
        printf("  %s is %s\n", a[0], a[1]);
    if (whole) printf("  format unless another is asked for: %s\n", s->system);
}

static void scheme_markdown(const nib_scheme *s) {
    char fallback[ROOM], values[ROOM];
    printf(
        "\n## %s\n\nFor %s: %s.\n\n| option | default | values | what it is |\n|---|---|---|---|\n",
        s->name, s->system, s->doc);
    for (int i = 0; i < s->nfields; i++) {
        default_of(&s->fields[i], fallback);
        values_of(&s->fields[i], values);
        printf("| `%s` | %s | %s | %s |\n", s->fields[i].name, fallback, values, s->fields[i].doc);
    }
    for (const char *const *a = s->aliases; a && *a; a += 2)
        printf("%s`%s` is `%s`", a == s->aliases ? "\nOther spellings: " : ", ", a[0], a[1]);
    puts(s->aliases && *s->aliases ? "." : "");
}

/* ---- whole lists ---- */

static json_t *list_json(const struct kind *k) {
    json_t *rows = json_array();
    const char *name, *doc;
    for (size_t i = 0; (name = nib_list(k->kind, i, &doc)); i++)
        json_array_append_new(rows, strcmp(k->kind, "scheme") == 0
                                        ? scheme_json(nib_scheme_find(name))
                                        : json_pack("{s:s, s:s}", "name", name, "doc", doc));
    return rows;
}

static void list_plain(const struct kind *k, bool alone) {
    const char *name, *doc;
    int column = 0;
    const char *more = strcmp(k->kind, "kernel") == 0      ? " of this machine"
                       : strcmp(k->kind, "reference") == 0 ? " only: right, but not fast"
                                                           : "";
    if (!alone) printf("%s%s\n", k->word, more);
    for (size_t i = 0; (name = nib_list(k->kind, i, &doc)); i++) {
        if (strcmp(k->kind, "scheme") == 0 && alone) {
            scheme_plain(nib_scheme_find(name), false);
        } else if (strcmp(k->kind, "kernel") == 0 && !alone) {
            if (column + 1 + (int)strlen(name) > 78) column = printf("\n") - 1;
            column += printf("%s%s", column ? " " : "  ", name);
        } else {
            printf("  %-18s  %s\n", name, doc);
        }
    }
    if (column) puts("");
}

static int list_markdown(cli *c, const struct kind *k) {
    const char *name, *doc;
    if (strcmp(k->kind, "scheme") == 0) {
        printf("# Schemes\n\nWritten by `nibble list schemes --format md` from the tables in "
               "`src/quant/schemes/`; a "
               "test compares.\nOptions follow the name: `int4_weight_only:group_size=32`. What is "
               "left out "
               "has its default.\n");
        for (size_t i = 0; (name = nib_list(k->kind, i, &doc)); i++)
            scheme_markdown(nib_scheme_find(name));
        return CLI_OK;
    }
    cli_table *table = cli_table_new("name|what it is");
    for (size_t i = 0; (name = nib_list(k->kind, i, &doc)); i++) {
        cli_table_cell(table, "%s", name);
        cli_table_cell(table, "%s", doc);
    }
    return cli_table_print(c, table, CLI_MARKDOWN);
}

static const char *word_at(const void *list, size_t i) {
    (void)list;
    return i < KINDS ? kinds[i].word : nib_list("scheme", i - KINDS, NULL);
}

static int run(cli *c) {
    const char *word = c->narguments ? c->arguments[0] : NULL;
    const bool markdown = strcmp(o.format, "md") == 0;
    if (!markdown && strcmp(o.format, "plain") != 0)
        return cli_usage_error(c, "--format is plain or md, not \"%s\"", o.format);
    size_t k = 0;
    while (word && k < KINDS && strcmp(kinds[k].word, word) != 0) k++;
    if (word && k == KINDS) { /* one scheme, all that there is to know */
        const nib_scheme *s = nib_scheme_find(word);
        const char *near = s ? NULL : cli_nearest(word, word_at, NULL);
        if (!s)
            return cli_usage_error(c, "neither a list nor a scheme: \"%s\"%s%s%s", word,
                                   near ? "; did you mean " : "", near ? near : "",
                                   near ? "?" : "");
        if (c->json) return cli_print_json(c, scheme_json(s));
        if (markdown)
            scheme_markdown(s);
        else
            scheme_plain(s, true);
        return CLI_OK;
    }
    json_t *document = c->json ? json_object() : NULL;
    int code = CLI_OK;
    for (size_t i = word ? k : 0; i < (word ? k + 1 : KINDS) && code == CLI_OK; i++) {
        if (c->json)
            json_object_set_new(document, kinds[i].word, list_json(&kinds[i]));
        else if (markdown)
            code = list_markdown(c, &kinds[i]);
        else
            list_plain(&kinds[i], word != NULL);
    }
    return c->json ? cli_print_json(c, document) : code;
}

const cli_verb verb_list = {
    .name = "list",
    .summary = "schemes, formats, architectures, and kernels of this machine",
    .synopsis = "[schemes|formats|architectures|kernels|reference|SCHEME]",
    .example = "int4_weight_only",
    .options = options,
    .common = CLI_JSON,
    .min_arguments = 0,
    .max_arguments = 1,
    .run = run,
};
