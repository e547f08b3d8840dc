/* table.c: cells in rows, printed for people, for notes (Markdown) or for spreadsheets (CSV). */
#include "cli.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct cli_table {
    size_t columns, count, room; /* count: cells so far, the head's included */
    bool *right;                 /* [columns] flushed right */
    char **cells;                /* row-major; the head is row 0 */
    bool failed;
};

static void add(cli_table *t, char *cell) {
    if (cell && t->count == t->room) {
        const size_t room = t->room ? t->room * 2 : 64;
        char **cells = realloc(t->cells, room * sizeof(*cells));
        if (cells) {
            t->cells = cells;
            t->room = room;
        }
    }
    if (!cell || t->count == t->room) {
        free(cell);
        t->failed = true;
    } else {
        t->cells[t->count++] = cell;
    }
}

cli_table *cli_table_new(const char *heads) {
    cli_table *t = calloc(1, sizeof(*t));
    if (!t) return NULL;
    t->columns = 1;
    for (const char *p = heads; *p; p++) t->columns += *p == '|';
    t->right = calloc(t->columns, sizeof(*t->right));
    if (!t->right) t->failed = true;
    for (size_t i = 0; i < t->columns; i++) {
        const size_t length = strcspn(heads, "|");
        const bool right = *heads == '>';
        if (t->right) t->right[i] = right;
        add(t, strndup(heads + right, length - right));
        heads += length + (heads[length] == '|');
    }
    return t;
}

void cli_table_cell(cli_table *table, const char *format, ...) {
    va_list values;
    char *cell;
    if (!table || table->failed) return;
    va_start(values, format);
    if (vasprintf(&cell, format, values) < 0) cell = NULL;
    va_end(values);
    add(table, cell);
}

/* Columns that a terminal gives to UTF-8 text: its bytes but those that continue a character. */
static int columns_of(const char *text) {
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void print_padded(const char *text, int width, bool right) {
    const int gap = width - columns_of(text);
    printf("%*s%s%*s", right && gap > 0 ? gap : 0, "", text, !right && gap > 0 ? gap : 0, "");
}

static void print_csv_cell(const char *text) {
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    putchar('"');
}

static void print_row(const cli_table *t, size_t row, const int *width, cli_table_format format) {
    for (size_t i = 0; i < t->columns; i++) {
        const char *cell = t->cells[row * t->columns + i];
        const bool last = i + 1 == t->columns;
        if (format == CLI_CSV) {
            print_csv_cell(cell);
            fputs(last ? "\n" : ",", stdout);
            continue;
        }
        if (format == CLI_MARKDOWN) fputs("| ", stdout);
        if (last && format == CLI_PLAIN && !t->right[i])
            fputs(cell, stdout);
        else
            print_padded(cell, width[i], t->right[i]);
        fputs(format == CLI_MARKDOWN ? (last ? " |\n" : " ") : (last ? "\n" : "  "), stdout);
    }
}

/* The line below the head: dashes, with Markdown's colon at the side a column is flushed to. */
static void print_rule(const cli_table *t, const int *width, bool markdown) {
    for (size_t i = 0; i < t->columns; i++) {
        const int n = width[i] + (markdown ? 2 : 0);
        if (markdown) putchar('|');
        for (int k = 0; k < n; k++) putchar(markdown && t->right[i] && k == n - 1 ? ':' : '-');
        if (!markdown && i + 1 < t->columns) fputs("  ", stdout);
    }
    puts(markdown ? "|" : "");
}

void cli_table_free(cli_table *t) {
    if (!t) return;
    for (size_t i = 0; i < t->count; i++) free(t->cells[i]);
    free(t->cells);
    free(t->right);
    free(t);
}

int cli_table_print(cli *c, cli_table *table, cli_table_format format) {
    int code = CLI_OK;
    int *width = table && !table->failed ? calloc(table->columns, sizeof(*width)) : NULL;
    if (!width) {
        code = cli_error(c, CLI_FULL, "out of memory for the table");
        goto done;
    }
    for (size_t i = 0; i < table->count; i++) {
        const int n = columns_of(table->cells[i]);
        if (width[i % table->columns] < n) width[i % table->columns] = n;
    }
    cli_progress_end();
    for (size_t row = 0; row < table->count / table->columns; row++) {
        print_row(table, row, width, format);
        if (row == 0 && format != CLI_CSV) print_rule(table, width, format == CLI_MARKDOWN);
    }
done:
    free(width);
    cli_table_free(table);
    return code;
}
