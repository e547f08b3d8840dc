/* text_util.h: strings that know their end, growing text, and globs. */
#ifndef NIB_BASE_TEXT_UTIL_H
#define NIB_BASE_TEXT_UTIL_H
#include <nibble/nibble.h>

#include "base/error.h"
#include "base/mem.h"

/* A growing, always terminated string. After a failed append `failed` stays set and later
 * appends do nothing, so one check at the end is enough. */
typedef struct nib_text {
    nib_mem *mem;
    char *data;
    size_t length, room;
    bool failed;
} nib_text;

void nib_text_append(nib_text *text, const char *bytes, size_t length);
void nib_text_add(nib_text *text, const char *string);
void nib_text_format(nib_text *text, const char *format, ...) NIB_PRINTF(2, 3);
void nib_text_json_string(nib_text *text, const char *bytes, size_t length); /* quoted, escaped */
/* The same with everything but printable ASCII as \u escapes, as Python's json.dumps does it.
 * The bytes must be valid UTF-8. */
void nib_text_json_ascii(nib_text *text, const char *bytes, size_t length);
void nib_text_little(nib_text *text, uint64_t value, int width); /* bytes, the lowest first */
void nib_text_free(nib_text *text);
/* The text as a string that nib_mem_strfree gives back, "" for none; NULL when an append failed.
 * Nothing is left to free. */
char *nib_text_take(nib_text *text);

/* fnmatch's globs over dotted names: * crosses dots, ? is one byte, [a-z] and [!a-z] a class.
 * A class without its ] stands for itself. Linear in the product of the lengths. */
bool nib_glob_match(const char *glob, const char *name);

bool nib_text_starts(const char *text, const char *prefix);
bool nib_text_ends(const char *text, const char *suffix);

/* The entry nearest to `name` by edit distance, or NULL when none is near enough to suggest.
 * `names` ends with NULL. */
const char *nib_text_nearest(const char *name, const char *const *names);

/* Whole-string numbers, no locale, no leading blanks; false when anything is left over. */
bool nib_text_to_int(const char *text, int64_t *value);
bool nib_text_to_double(const char *text, double *value);

/* The byte where valid UTF-8 ends: `length` when all of it is valid. */
size_t nib_utf8_valid(const char *bytes, size_t length);
#endif
