/* json.h: typed getters over jansson whose errors name the key and its path.
 *
 * Documents over 32 MiB are refused (a tree of more would break the memory bound), as are
 * duplicate keys, nesting over 64 levels and invalid UTF-8. */
#ifndef NIB_BASE_JSON_H
#define NIB_BASE_JSON_H
#include <jansson.h>
#include <nibble/nibble.h>

#include "base/text_util.h"

enum { NIB_JSON_MAX_BYTES = 32 << 20 };

/* A document from memory; `path` names its file in errors and may be NULL, `offset` is the byte
 * of that file where the text starts. Caller owns; give back with json_decref. */
json_t *nib_json_parse(const char *text, size_t length, const char *path, int64_t offset);

/* A key that must be there, or may be missing (or null), then *value keeps what it holds.
 * Numbers out of [min, max] or of another type raise NIB_E_FORMAT. */
nib_status nib_json_int(const json_t *object, const char *key, int64_t min, int64_t max,
                        bool required, int64_t *value);
nib_status nib_json_double(const json_t *object, const char *key, bool required, double *value);
nib_status nib_json_bool(const json_t *object, const char *key, bool required, bool *value);
nib_status nib_json_string(const json_t *object, const char *key, bool required,
                           const char **value); /* borrowed from the object */
nib_status nib_json_object(const json_t *object, const char *key, bool required, json_t **value);
nib_status nib_json_array(const json_t *object, const char *key, bool required, json_t **value);

/* The document as text, appended: jansson's flags, JSON_COMPACT or JSON_INDENT(n) and the like. */
nib_status nib_json_text(const json_t *value, size_t flags, nib_text *out);
#endif
