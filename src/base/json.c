#include "base/json.h"

#include <string.h>

#include "base/error.h"

/* jansson itself recurses at most 2048 deep, which is more stack than a library may take. */
static size_t too_deep_at(const char *text, size_t length) {
    enum { MOST = 64 };
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        if (in_string) {
            if (text[i] == '\\') i++;
            else if (text[i] == '"') in_string = false;
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

json_t *nib_json_parse(const char *text, size_t length, const char *path, int64_t offset) {
    if (length > NIB_JSON_MAX_BYTES) {
        NIB_RAISE(NIB_E_FORMAT, "JSON of %zu bytes is over the limit of %d", length,
                  NIB_JSON_MAX_BYTES);
        nib_error_at(path, NULL, offset);
        return NULL;
    }
    const size_t deep = too_deep_at(text, length);
    if (deep < length) {
        NIB_RAISE(NIB_E_FORMAT, "JSON nests over 64 levels deep");
        nib_error_at(path, NULL, offset + (int64_t)deep);
        return NULL;
    }
    json_error_t error;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (root) return root;
    if (json_error_code(&error) == json_error_out_of_memory)
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
