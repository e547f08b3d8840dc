/* output.c: how the command speaks: failures, remarks, documents, suggestions. */
#include "cli.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *verb_name(const cli *c) { return c->verb ? c->verb->name : ""; }

static void begin(const cli *c) {
    cli_progress_end();
    fprintf(stderr, "nibble%s%s: ", c->verb ? " " : "", verb_name(c));
}

int cli_exit_code(const nib_error *error) {
    switch (error->status) {
    case NIB_OK:
    case NIB_END:
        return CLI_OK;
    case NIB_E_ARGUMENT:
        return CLI_USAGE;
    case NIB_E_FORMAT:
        return CLI_BAD_FILE;
    case NIB_E_SHAPE: /* of a file when one is named, otherwise a failure of the run */
    case NIB_E_DTYPE:
    case NIB_E_UNSUPPORTED:
        return error->path[0] ? CLI_BAD_FILE : CLI_FAILED;
    case NIB_E_DIFFERS:
        return CLI_DIFFERS;
    case NIB_E_MEMORY:
    case NIB_E_FULL:
        return CLI_FULL;
    case NIB_E_CANCELLED:
        return CLI_INTERRUPTED;
    default:
        return CLI_FAILED;
    }
}

int cli_fail(cli *c) {
    const nib_error *e = nib_last_error();
    const char *gap = " (";
    begin(c);
    fputs(e->what[0] ? e->what : "failed without a cause on record", stderr);
    if (e->path[0]) fprintf(stderr, "%sfile %s", gap, e->path), gap = ", ";
    if (e->tensor[0]) fprintf(stderr, "%stensor %s", gap, e->tensor), gap = ", ";
    if (e->offset >= 0) fprintf(stderr, "%sat byte %lld", gap, (long long)e->offset), gap = ", ";
    fprintf(stderr, "%s\n", gap[0] == ',' ? ")" : "");
    if (c->verbose && e->file) fprintf(stderr, "raised at %s:%d\n", e->file, e->line);
    const int code = cli_exit_code(e);
    return code == CLI_OK ? CLI_FAILED : code;
}

int cli_usage_error(const cli *c, const char *format, ...) {
    va_list values;
    begin(c);
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fprintf(stderr, "\n(nibble %s%s--help shows what there is)\n", verb_name(c),
            c->verb ? " " : "");
    return CLI_USAGE;
}

int cli_error(const cli *c, int code, const char *format, ...) {
    va_list values;
    begin(c);
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    return code;
}

void cli_say(const cli *c, const char *format, ...) {
    va_list values;
    if (c->quiet) return;
    cli_progress_end();
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
}

json_t *cli_json_real(double value) { return isfinite(value) ? json_real(value) : json_null(); }

int cli_print_json(cli *c, json_t *document) {
    char *text = document ? json_dumps(document, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(document);
    if (!text) return cli_error(c, CLI_FULL, "out of memory for the result");
    cli_progress_end();
    puts(text);
    free(text);
    return CLI_OK;
}

/* ---- the name that was probably meant ---- */

enum { MAX_NAME = 48 };

static size_t least(size_t a, size_t b, size_t c) {
    const size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Insertions, deletions, replacements and swaps of neighbours that turn a into b (Damerau). */
static size_t edit_distance(const char *a, const char *b) {
    const size_t la = strlen(a), lb = strlen(b);
    size_t rows[3][MAX_NAME + 1]; /* of prefixes of a: the last but one, the last, this one */
    if (la > MAX_NAME || lb > MAX_NAME) return SIZE_MAX;
    for (size_t j = 0; j <= lb; j++) rows[1][j] = j;
    for (size_t i = 1; i <= la; i++) {
        rows[2][0] = i;
        for (size_t j = 1; j <= lb; j++) {
            rows[2][j] =
                least(rows[1][j] + 1, rows[2][j - 1] + 1, rows[1][j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                rows[2][j] = least(rows[2][j], rows[0][j - 2] + 1, SIZE_MAX);
        }
        memcpy(rows[0], rows[1], sizeof(rows[0]));
        memcpy(rows[1], rows[2], sizeof(rows[1]));
    }
    return rows[1][lb];
}

const char *cli_nearest(const char *name, const char *(*at)(const void *list, size_t i),
                        const void *list) {
    const char *nearest = NULL, *entry;
    size_t distance = strlen(name) / 3 + 1; /* a third of the letters may be wrong */
    for (size_t i = 0; (entry = at(list, i)) != NULL; i++) {
        const size_t d = edit_distance(name, entry);
        if (d < distance || (d == distance && !nearest)) {
            distance = d;
            nearest = entry;
        }
    }
    return nearest;
}
