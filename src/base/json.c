#include "base/json.h"

#include <string.h>

#include "base/error.h"
#include "base/json_scan.h"
#include "base/mem.h"

/* jansson itself recurses at most 2048 deep, which is more stack than a library may take. */
static size_t too_deep_at(const char *text, size_t length) {
    enum { MOST = 64 };
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        if (in_string) {
            if (text[i] == '\\')
                i++;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '[' || text[i] == '{') {
            if (++depth > MOST) return i;
        } else if (text[i] == ']' || text[i] == '}') {
            depth--;
        }
    }
    return length;
}

/* Whether int64 holds the whole number of `n` digits. */
static bool fits_int64(const char *digits, size_t n, bool negative) {
    const char *most = negative ? "9223372036854775808" : "9223372036854775807";
    return n < 19 || (n == 19 && memcmp(digits, most, 19) <= 0);
}

/* A copy in which integers that no int64 holds are reals, ".0" put behind them: files of the wild
 * write limits such as 1000000000000000019884624838656. *copied is its length; NULL: no memory. */
#define WITH_REALS(length) ((length) + (length) / 19 * 2)
static char *with_wide_integers_as_reals(const char *text, size_t length, size_t *copied) {
    char *copy = nib_mem_alloc(NULL, WITH_REALS(length));
    if (!copy) return NULL;
    bool in_string = false;
    size_t digits = 0, n = 0;
    for (size_t i = 0; i <= length; i++) {
        const char c = i < length ? text[i] : '\0';
        const bool digit = !in_string && c >= '0' && c <= '9';
        const bool whole = c != '.' && c != 'e' && c != 'E';
        const size_t first = i - digits, sign = first && text[first - 1] == '-';
        const char before = first > sign ? text[first - sign - 1] : '\0';
        const bool fraction = before && strchr(".eE+", before);
        if (!digit && whole && !fraction && !fits_int64(text + first, digits, sign)) {
            copy[n++] = '.';
            copy[n++] = '0';
        }
        digits = digit ? digits + 1 : 0;
        if (i == length) break;
        copy[n++] = c;
        if (in_string && c == '\\' && i + 1 < length)
            copy[n++] = text[++i];
        else if (c == '"')
            in_string = !in_string;
    }
    *copied = n;
    return copy;
}

/* Where byte `at` of that copy stands in the text. Neither '.' nor '0' comes next in the text where
 * ".0" was put in, so the first byte that differs is always one put in. */
static int offset_in_text(const char *text, size_t length, const char *copy, int at) {
    int i = 0;
    for (int n = 0; n < at; n++) i += (size_t)i < length && text[i] == copy[n];
    return i;
}

/* jansson out of memory says most often that the text is wrong, and where it stopped. Whether that
 * is so, our own scan tells, which allocates nothing. */
static bool ran_out(const char *text, size_t length, const json_error_t *error) {
    const enum json_error_code code = json_error_code(error);
    if (code == json_error_out_of_memory) return true;
    if (code == json_error_duplicate_key || code == json_error_numeric_overflow ||
        code == json_error_null_character || code == json_error_null_byte_in_key)
        return false;
    nib_scan scan = {.text = text, .length = length};
    nib_scan_space(&scan);
    const bool document = scan.at < length && (text[scan.at] == '{' || text[scan.at] == '[');
    if (!document || nib_scan_skip(&scan) < NIB_OK) return false;
    nib_scan_space(&scan);
    return scan.at == length;
}

json_t *nib_json_parse(const char *text, size_t length, const char *path, int64_t offset) {
    if (length > NIB_JSON_MAX_BYTES) {
        NIB_RAISE(NIB_E_FORMAT, "JSON of %zu bytes is over the limit of %d", length,
                  NIB_JSON_MAX_BYTES);
        nib_error_at(path, NULL, offset);
        return NULL;
    }
    const char *zero = length ? memchr(text, '\0', length) : NULL; /* jansson drops some of them */
    if (zero) {
        NIB_RAISE(NIB_E_FORMAT, "not valid JSON: a zero byte");
        nib_error_at(path, NULL, offset + (zero - text));
        return NULL;
    }
    const size_t deep = too_deep_at(text, length);
    if (deep < length) {
        NIB_RAISE(NIB_E_FORMAT, "JSON nests over 64 levels deep");
        nib_error_at(path, NULL, offset + (int64_t)deep);
        return NULL;
    }
    json_error_t error = {0}; /* jansson leaves the code as it was when it has none to give */
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (!root && json_error_code(&error) == json_error_numeric_overflow) {
        size_t copied;
        char *copy = with_wide_integers_as_reals(text, length, &copied);
        if (!copy) {
            nib_error_at(path, NULL, offset);
            return NULL;
        }
        error = (json_error_t){0};
        root = json_loadb(copy, copied, JSON_REJECT_DUPLICATES, &error);
        if (!root) error.position = offset_in_text(text, length, copy, error.position);
        nib_mem_free(NULL, copy, WITH_REALS(length));
    }
    if (root) return root;
    if (ran_out(text, length, &error))
        NIB_RAISE(NIB_E_MEMORY, "no memory for a JSON document of %zu bytes", length);
    else
        NIB_RAISE(NIB_E_FORMAT, "not valid JSON: %s (line %d)", error.text, error.line);
    nib_error_at(path, NULL, offset + error.position);
    return NULL;
}

/* The value at `key`; a null counts as missing. *found is NULL when it may be and is missing. */
static nib_status find(const json_t *object, const char *key, bool required, json_t **found) {
    *found = json_object_get(object, key);
    if (*found && json_is_null(*found)) *found = NULL;
    if (!*found && required) return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is missing", key);
    return NIB_OK;
}

nib_status nib_json_int(const json_t *object, const char *key, int64_t min, int64_t max,
                        bool required, int64_t *value) {
    json_t *found;
    NIB_TRY(find(object, key, required, &found));
    if (!found) return NIB_OK;
    if (!json_is_integer(found)) return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is not an integer", key);
    const int64_t given = json_integer_value(found);
    if (given < min || given > max)
        return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is %lld, which is not from %lld to %lld", key,
                         (long long)given, (long long)min, (long long)max);
    *value = given;
    return NIB_OK;
}

nib_status nib_json_double(const json_t *object, const char *key, bool required, double *value) {
    json_t *found;
    NIB_TRY(find(object, key, required, &found));
    if (!found) return NIB_OK;
    if (!json_is_number(found)) return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is not a number", key);
    *value = json_number_value(found);
    return NIB_OK;
}

nib_status nib_json_bool(const json_t *object, const char *key, bool required, bool *value) {
    json_t *found;
    NIB_TRY(find(object, key, required, &found));
    if (!found) return NIB_OK;
    if (!json_is_boolean(found)) return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is not true or false", key);
    *value = json_is_true(found);
    return NIB_OK;
}

nib_status nib_json_string(const json_t *object, const char *key, bool required,
                           const char **value) {
    json_t *found;
    NIB_TRY(find(object, key, required, &found));
    if (!found) return NIB_OK;
    if (!json_is_string(found)) return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is not a string", key);
    *value = json_string_value(found);
    return NIB_OK;
}

nib_status nib_json_object(const json_t *object, const char *key, bool required, json_t **value) {
    json_t *found;
    NIB_TRY(find(object, key, required, &found));
    if (!found) return NIB_OK;
    if (!json_is_object(found)) return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is not an object", key);
    *value = found;
    return NIB_OK;
}

nib_status nib_json_array(const json_t *object, const char *key, bool required, json_t **value) {
    json_t *found;
    NIB_TRY(find(object, key, required, &found));
    if (!found) return NIB_OK;
    if (!json_is_array(found)) return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is not a list", key);
    *value = found;
    return NIB_OK;
}

static int append(const char *bytes, size_t size, void *user) {
    nib_text_append(user, bytes, size);
    return ((nib_text *)user)->failed ? -1 : 0;
}

nib_status nib_json_text(const json_t *value, size_t flags, nib_text *out) {
    if (value && json_dump_callback(value, append, out, flags) == 0) return NIB_OK;
    return NIB_RAISE(NIB_E_MEMORY, "no memory for a JSON document");
}
