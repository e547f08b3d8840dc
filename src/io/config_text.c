#include "io/config_text.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/json_scan.h"
#include "base/path.h"
#include "base/text_util.h"

nib_status nib_config_text_load(nib_mem *mem, const nib_checkpoint *checkpoint, json_t **config,
                                char **text_out) {
    *config = NULL;
    if (text_out) *text_out = NULL;
    if (checkpoint->is_file) return NIB_OK;
    char *path = nib_checkpoint_path(checkpoint, "config.json");
    if (!path) return nib_last_error()->status;
    nib_path_kind kind = NIB_PATH_NONE;
    nib_status status = nib_path_look(path, true, &kind);
    if (status >= NIB_OK && kind == NIB_PATH_FILE) {
        size_t size;
        char *text = nib_file_read_whole(mem, path, NIB_JSON_MAX_BYTES, &size);
        if (text) {
            *config = nib_json_parse(text, size, path, 0);
            if (*config && text_out) *text_out = nib_mem_strdup(mem, text);
            if (*config && text_out && !*text_out) {
                json_decref(*config);
                *config = NULL;
            }
            nib_mem_free(mem, text, size + 1);
        }
        if (!*config) {
            status = nib_last_error()->status;
        } else if (!json_is_object(*config)) {
            if (text_out) nib_mem_strfree(mem, *text_out);
            if (text_out) *text_out = NULL;
            json_decref(*config);
            *config = NULL;
            NIB_RAISE(NIB_E_FORMAT, "config.json is not an object");
            status = nib_error_at(path, NULL, 0);
        }
    }
    nib_mem_strfree(mem, path);
    return status;
}

/* Where things stand in the outermost object. */
typedef struct found {
    size_t key, value, end; /* of the entry looked for; end is behind its value */
    bool there, first, last;
    size_t comma_before, comma_after; /* valid unless first, last */
    size_t closing, tail;             /* the last '}'; behind the last value, or the '{' */
    size_t indent_begin, indent_end;  /* blanks before the first key */
    bool empty;
} found;

static nib_status look(nib_scan *scan, char *name, const char *key, found *f) {
    *f = (found){.empty = true};
    NIB_TRY(nib_scan_expect(scan, '{'));
    f->tail = f->indent_begin = scan->at;
    nib_scan_space(scan);
    f->indent_end = scan->at;
    bool more = !nib_scan_take(scan, '}');
    f->empty = !more;
    size_t comma = 0;
    for (bool first = true; more; first = false) {
        nib_scan_space(scan);
        const size_t start = scan->at;
        NIB_TRY(nib_scan_string(scan, name, NULL));
        const bool wanted = strcmp(name, key) == 0;
        NIB_TRY(nib_scan_expect(scan, ':'));
        nib_scan_space(scan);
        const size_t value = scan->at;
        NIB_TRY(nib_scan_skip(scan));
        f->tail = scan->at;
        if (wanted) {
            f->key = start;
            f->value = value;
            f->end = scan->at;
            f->there = true;
            f->first = first;
            f->comma_before = comma;
        }
        more = nib_scan_take(scan, ',');
        if (more)
            comma = scan->at - 1;
        else
            NIB_TRY(nib_scan_expect(scan, '}'));
        if (wanted) {
            f->last = !more;
            f->comma_after = comma;
        }
    }
    f->closing = scan->at - 1;
    return NIB_OK;
}

/* The fewest digits that read back as the same number, as Python's repr gives them. */
static void add_real(nib_text *text, double value) {
    char digits[40];
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        for (char *p = digits; *p; p++) /* the locale's decimal point, whatever it is */
            if (!strchr("0123456789+-e", *p)) *p = '.';
        json_t *back = json_loads(digits, JSON_DECODE_ANY, NULL);
        const bool same = back && json_number_value(back) == value;
        json_decref(back);
        if (same) break;
    }
    nib_text_add(text, digits);
    if (!strpbrk(digits, ".e")) nib_text_add(text, ".0");
}

/* How the lines of a value begin, or (lines false) that it is one line. */
typedef struct style {
    const char *indent;
    size_t indent_length;
    bool lines;
} style;

static void new_line(nib_text *text, const style *how, int depth) {
    if (!how->lines) return;
    nib_text_add(text, "\n");
    nib_text_append(text, how->indent, how->indent_length);
    for (int i = 0; i < depth; i++) nib_text_add(text, "  ");
}

/* As json.dumps does it. Recursion is as deep as the value, which is ours or was read by
 * nib_json_parse, so at most 64. */
static void add_value(nib_text *text, const json_t *value, const style *how, int depth) {
    const char *between = how->lines ? "," : ", ";
    switch (json_typeof(value)) {
    case JSON_NULL:
        nib_text_add(text, "null");
        break;
    case JSON_TRUE:
        nib_text_add(text, "true");
        break;
    case JSON_FALSE:
        nib_text_add(text, "false");
        break;
    case JSON_REAL:
        add_real(text, json_real_value(value));
        break;
    case JSON_INTEGER:
        nib_text_format(text, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_STRING:
        nib_text_json_ascii(text, json_string_value(value), json_string_length(value));
        break;
    case JSON_ARRAY:
        nib_text_add(text, "[");
        for (size_t i = 0; i < json_array_size(value); i++) {
            if (i) nib_text_add(text, between);
            new_line(text, how, depth + 1);
            add_value(text, json_array_get(value, i), how, depth + 1);
        }
        if (json_array_size(value)) new_line(text, how, depth);
        nib_text_add(text, "]");
        break;
    case JSON_OBJECT: {
        const char *key;
        json_t *inner;
        bool first = true;
        nib_text_add(text, "{");
        json_object_foreach((json_t *)(uintptr_t)value, key, inner) {
            if (!first) nib_text_add(text, between);
            first = false;
            new_line(text, how, depth + 1);
            nib_text_json_ascii(text, key, strlen(key));
            nib_text_add(text, ": ");
            add_value(text, inner, how, depth + 1);
        }
        if (!first) new_line(text, how, depth);
        nib_text_add(text, "}");
        break;
    }
    }
}

static void edit(nib_text *out, const char *text, size_t length, const char *key,
                 const json_t *value, const found *f) {
    const char *blanks = text + f->indent_begin;
    size_t nblanks = f->indent_end - f->indent_begin;
    const char *last_line = nblanks ? memrchr(blanks, '\n', nblanks) : NULL;
    if (f->empty && value) { /* {} shows no indentation: take the usual one */
        blanks = "\n  ";
        nblanks = 3;
        last_line = blanks;
    }
    const char *indent = last_line ? last_line + 1 : "";
    const style how = {indent, last_line ? (size_t)(blanks + nblanks - indent) : 0, last_line};
    if (f->there && value) {
        nib_text_append(out, text, f->value);
        add_value(out, value, &how, 0);
        nib_text_append(out, text + f->end, length - f->end);
    } else if (f->there) { /* with the comma that now parts nothing */
        const size_t from = f->last && !f->first ? f->comma_before : f->key;
        size_t to = f->end;
        if (!f->last) {
            to = f->comma_after + 1;
            while (to < length && strchr(" \t\r\n", text[to])) to++;
        }
        nib_text_append(out, text, from);
        nib_text_append(out, text + to, length - to);
    } else if (value) {
        nib_text_append(out, text, f->tail);
        if (!f->empty) nib_text_add(out, last_line || nblanks ? "," : ", ");
        nib_text_append(out, blanks, nblanks);
        nib_text_json_ascii(out, key, strlen(key));
        nib_text_add(out, ": ");
        add_value(out, value, &how, 0);
        if (f->empty) nib_text_add(out, "\n");
        const size_t rest = f->empty ? f->closing : f->tail;
        nib_text_append(out, text + rest, length - rest);
    } else {
        nib_text_append(out, text, length);
    }
}

char *nib_config_text_set(nib_mem *mem, const char *text, size_t length, const char *key,
                          const json_t *value, const char *path) {
    json_t *root = nib_json_parse(text, length, path, 0); /* refuses keys that are there twice */
    if (!root) return NULL;
    json_decref(root);
    nib_scan scan = {.text = text, .length = length, .path = path};
    nib_text out = {.mem = mem};
    found f;
    char *copy = NULL, *name = nib_mem_alloc(mem, length + 1);
    if (name && look(&scan, name, key, &f) == NIB_OK) {
        edit(&out, text, length, key, value, &f);
        if (!out.failed) copy = nib_mem_strdup(mem, out.data);
    }
    nib_text_free(&out);
    nib_mem_free(mem, name, length + 1);
    return copy;
}

char *nib_config_text_dump(nib_mem *mem, const json_t *value) {
    nib_text out = {.mem = mem};
    char *copy = NULL;
    add_value(&out, value, &(style){"", 0, true}, 0);
    nib_text_add(&out, "\n");
    if (!out.failed) copy = nib_mem_strdup(mem, out.data);
    nib_text_free(&out);
    return copy;
}
