/* options.c: one table per verb, read three ways: to parse, to explain, to suggest. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* The common options as one more table; `c` is the run they are parsed into. */
enum { NCOMMON = 8 };
static void common_options(cli *c, const cli_verb *verb, cli_option table[NCOMMON]) {
    const unsigned has = verb ? verb->common : 0;
    size_t n = 0;
    if (has & CLI_THREADS)
        table[n++] = (cli_option){"threads", 't', "N", CLI_INT, &c->threads, NULL, 1, 1024, 0};
    if (has & CLI_JSON)
        table[n++] = (cli_option){"json", 'j', NULL, CLI_FLAG, &c->json, NULL, 0, 0, 0};
    if (has & CLI_SEEDED)
        table[n++] = (cli_option){"seed", 0, "S", CLI_SEED, &c->seed, NULL, 0, 0, 0};
    if (has & CLI_MMAP)
        table[n++] = (cli_option){"no-mmap", 0, NULL, CLI_FLAG, &c->no_mmap, NULL, 0, 0, 0};
    table[n++] = (cli_option){"quiet", 'q', NULL, CLI_FLAG, &c->quiet, NULL, 0, 0, 0};
    table[n++] = (cli_option){"verbose", 'v', NULL, CLI_FLAG, &c->verbose, NULL, 0, 0, 0};
    table[n++] = (cli_option){"help", 'h', NULL, CLI_FLAG, &c->help, NULL, 0, 0, 0};
    table[n] = (cli_option){0};
}

/* ---- values ---- */

/* Digits only, no blanks, no sign; false when empty, when anything is left over, or too large. */
static bool read_unsigned(const char *text, uint64_t *value) {
    if (!*text) return false;
    *value = 0;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return false;
        const uint64_t digit = (uint64_t)(*text - '0');
        if (*value > (UINT64_MAX - digit) / 10) return false;
        *value = *value * 10 + digit;
    }
    return true;
}

static bool read_int(const char *text, int64_t *value) {
    const bool negative = *text == '-';
    uint64_t magnitude;
    if (!read_unsigned(text + negative, &magnitude) || magnitude > INT64_MAX) return false;
    *value = negative ? -(int64_t)magnitude : (int64_t)magnitude;
    return true;
}

/* The command never changes its locale, so strtod reads a point whatever the user's language is. */
static bool read_number(const char *text, double *value) {
    if (!*text || !strchr("+-.0123456789", *text)) return false;
    char *end;
    *value = strtod(text, &end);
    return *end == 0 && *value - *value == 0; /* neither NaN nor infinity */
}

static int out_of_range(const cli *c, const cli_option *option, const char *shown,
                        const char *text) {
    if (option->max >= 1e9 && text[0] == '-') /* then nobody asks what the most is */
        return cli_usage_error(c, "%s wants at least %.15g, not %s", shown, option->min, text);
    return cli_usage_error(c, "%s wants %.15g to %.15g, not %s", shown, option->min, option->max,
                           text);
}

/* Lists seen by this run, to be released by cli_parse_end. */
enum { MAX_LISTS = 16 };
static cli_list *lists[MAX_LISTS];

static int list_add(const cli *c, cli_list *list, const char *text) {
    size_t slot = 0;
    while (slot < MAX_LISTS && lists[slot] && lists[slot] != list) slot++;
    const char **items =
        slot == MAX_LISTS ? NULL : realloc(list->items, (list->count + 1) * sizeof(*items));
    if (!items) return cli_error(c, CLI_FULL, "out of memory for the command line");
    lists[slot] = list;
    list->items = items;
    list->items[list->count++] = text;
    return CLI_OK;
}

void cli_parse_end(void) {
    for (size_t i = 0; i < MAX_LISTS && lists[i]; i++) {
        free(lists[i]->items);
        *lists[i] = (cli_list){0};
        lists[i] = NULL;
    }
}

static int store(const cli *c, const cli_option *option, const char *shown, const char *text) {
    const bool bounded = option->min < option->max;
    switch (option->type) {
    case CLI_FLAG:
        *(bool *)option->into = true;
        return CLI_OK;
    case CLI_TEXT:
        *(const char **)option->into = text;
        return CLI_OK;
    case CLI_LIST:
        return list_add(c, option->into, text);
    case CLI_INT: {
        int64_t value;
        if (!read_int(text, &value))
            return cli_usage_error(c, "%s wants a whole number, not \"%s\"", shown, text);
        if (bounded && ((double)value < option->min || (double)value > option->max))
            return out_of_range(c, option, shown, text);
        *(int64_t *)option->into = value;
        return CLI_OK;
    }
    case CLI_NUMBER: {
        double value;
        if (!read_number(text, &value))
            return cli_usage_error(c, "%s wants a number, not \"%s\"", shown, text);
        if (bounded && (value < option->min || value > option->max))
            return out_of_range(c, option, shown, text);
        *(double *)option->into = value;
        return CLI_OK;
    }
    case CLI_SEED:
        if (!read_unsigned(text, option->into))
            return cli_usage_error(c, "%s wants a whole number from 0 on, not \"%s\"", shown, text);
        return CLI_OK;
    }
    return CLI_USAGE;
}

/* ---- finding ---- */

static bool is_end(const cli_option *option) { return !option->name && !option->letter; }

/* The row spelled --NAME, NAME being `length` bytes, or -LETTER when name is NULL. */
static const cli_option *find(const cli_option *own, const cli_option *common, const char *name,
                              size_t length, char letter) {
    const cli_option *const tables[] = {own, common};
    for (int t = 0; t < 2; t++)
        for (const cli_option *o = tables[t]; o && !is_end(o); o++) {
            if (!name && o->letter == letter) return o;
            if (name && o->name && strlen(o->name) == length && !memcmp(o->name, name, length))
                return o;
        }
    return NULL;
}

struct two_tables {
    const cli_option *own, *common;
};
static const char *long_name(const void *list, size_t i) {
    const struct two_tables *tables = list;
    const cli_option *const both[] = {tables->own, tables->common};
    for (int t = 0; t < 2; t++)
        for (const cli_option *o = both[t]; o && !is_end(o); o++)
            if (o->name && i-- == 0) return o->name;
    return NULL;
}

static int unknown(const cli *c, const cli_option *own, const cli_option *common, const char *name,
                   size_t length) {
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "%.*s", (int)(length < 63 ? length : 63), name);
    const char *near = cli_nearest(wanted, long_name, &(struct two_tables){own, common});
    if (near) return cli_usage_error(c, "unknown option --%s; did you mean --%s?", wanted, near);
    return cli_usage_error(c, "unknown option --%s", wanted);
}

/* ---- parsing ---- */

/* What a command line did not say but had to. */
static int check_complete(const cli *c, const cli_option *own, const cli_option *const *given,
                          size_t ngiven) {
    for (const cli_option *o = own; o && !is_end(o); o++) {
        bool found = !o->needed;
        for (size_t i = 0; i < ngiven; i++) found = found || given[i] == o;
        if (!found && o->name) return cli_usage_error(c, "--%s %s is missing", o->name, o->metavar);
        if (!found) return cli_usage_error(c, "-%c %s is missing", o->letter, o->metavar);
    }
    if (c->narguments < c->verb->min_arguments)
        return cli_usage_error(c, "an argument is missing: nibble %s %s", c->verb->name,
                               c->verb->synopsis);
    if (c->verb->max_arguments >= 0 && c->narguments > c->verb->max_arguments)
        return cli_usage_error(c, "one argument too many: \"%s\"",
                               c->arguments[c->verb->max_arguments]);
    return CLI_OK;
}

enum { MAX_OPTIONS = 48 };
int cli_parse(cli *c, int argc, char **argv) {
    const cli_option *own = c->verb->options, *given[MAX_OPTIONS];
    cli_option common[NCOMMON];
    size_t ngiven = 0;
    bool only_arguments = false;
    common_options(c, c->verb, common);
    c->arguments = argv; /* positional arguments move to the front of it */
    for (int i = 0; i < argc; i++) {
        char *word = argv[i];
        if (only_arguments || word[0] != '-' || !word[1]) {
            c->arguments[c->narguments++] = word;
            continue;
        }
        if (!strcmp(word, "--")) {
            only_arguments = true;
            continue;
        }
        const bool is_long = word[1] == '-';
        const char *name = word + 2, *value = is_long ? strchr(name, '=') : NULL;
        const size_t length = value ? (size_t)(value - name) : strlen(name);
        value = value ? value + 1 : NULL;
        /* A cluster of letters: flags may follow one another; what takes a value ends it. */
        for (size_t at = 1; is_long ? at == 1 : word[at] != 0; at++) {
            const cli_option *o = find(own, common, is_long ? name : NULL, length, word[at]);
            char shown[80];
            if (!o && is_long) return unknown(c, own, common, name, length);
            if (!o) return cli_usage_error(c, "unknown option -%c", word[at]);
            if (is_long)
                snprintf(shown, sizeof(shown), "--%s", o->name);
            else
                snprintf(shown, sizeof(shown), "-%c", o->letter);
            const char *text = value;
            if (o->type == CLI_FLAG && value) return cli_usage_error(c, "%s takes no value", shown);
            if (o->type != CLI_FLAG && !text && !is_long && word[at + 1]) text = word + at + 1;
            if (o->type != CLI_FLAG && !text) {
                if (i + 1 == argc)
                    return cli_usage_error(c, "%s wants a value: %s", shown, o->metavar);
                text = argv[++i];
            }
            const int bad = store(c, o, shown, text);
            if (bad) return bad;
            if (ngiven < MAX_OPTIONS) given[ngiven++] = o;
            if (o->type != CLI_FLAG) break;
        }
    }
    return c->help ? CLI_OK : check_complete(c, own, given, ngiven);
}

/* ---- help ---- */

static int spelled(char *text, size_t room, const cli_option *o) {
    const char *gap = o->metavar ? " " : "", *value = o->metavar ? o->metavar : "";
    if (!o->name) return snprintf(text, room, "-%c%s%s", o->letter, gap, value);
    if (!o->letter) return snprintf(text, room, "    --%s%s%s", o->name, gap, value);
    return snprintf(text, room, "-%c, --%s%s%s", o->letter, o->name, gap, value);
}

enum { CROWDED = 19 }; /* options that leave no line of a screen empty */

void cli_print_help(const cli_verb *verb, FILE *out) {
    cli scratch = {0};
    cli_option common[NCOMMON];
    char text[80];
    int width = 0, options = 0;
    common_options(&scratch, verb, common);
    for (const cli_option *o = verb->options; o && !is_end(o); o++, options++) {
        const int n = spelled(text, sizeof(text), o);
        width = n > width ? n : width;
    }
    fprintf(out, "usage: nibble %s %s\n  %s\n", verb->name, verb->synopsis, verb->summary);
    if (options < CROWDED) fputc('\n', out);
    for (const cli_option *o = verb->options; o && !is_end(o); o++) {
        spelled(text, sizeof(text), o);
        fprintf(out, "  %-*s  %s\n", width, text, o->help);
    }
    int column = fprintf(out, "common:");
    for (const cli_option *o = common; !is_end(o); o++) {
        const int n = spelled(text, sizeof(text), o);
        const char *from = text + strspn(text, " ");
        if (column + 2 + n > 80) column = fprintf(out, "\n       ");
        column += fprintf(out, "  %s", from);
    }
    fprintf(out, "\nexample: nibble %s %s\n", verb->name, verb->example);
}
