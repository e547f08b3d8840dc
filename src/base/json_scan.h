/* json_scan.h: walking through JSON text without building a tree.
 *
 * For documents whose form is known and whose size or error offsets matter: a safetensors header
 * holds hundreds of thousands of entries, and an error must name the byte. Everything else goes
 * through json.h. The grammar is RFC 8259's; every failure is NIB_E_FORMAT with file and byte. */
#ifndef NIB_BASE_JSON_SCAN_H
#define NIB_BASE_JSON_SCAN_H
#include <nibble/nibble.h>

typedef struct nib_scan {
    const char *text;
    size_t length, at;
    const char *path; /* the file, for errors; may be NULL */
    size_t base;      /* byte of that file where the text starts */
} nib_scan;

void nib_scan_space(nib_scan *scan); /* over blanks, tabs and line ends */

/* Over blanks, then over `c` if it comes next. */
bool nib_scan_take(nib_scan *scan, char c);
nib_status nib_scan_expect(nib_scan *scan, char c);

/* A string, decoded into `to` with a zero byte behind it. It never gets longer by decoding: room
 * for the rest of the text is enough for all strings in it. Both may be NULL. A zero byte
 * within, a lone surrogate or invalid UTF-8 is refused. */
nib_status nib_scan_string(nib_scan *scan, char *to, size_t *length);

/* A whole number from 0 to 2^63 - 1, without fraction or exponent. */
nib_status nib_scan_count(nib_scan *scan, int64_t *value);

/* Over any one value, nested up to 64 deep. Keys in it may be there twice. */
nib_status nib_scan_skip(nib_scan *scan);

/* "expected X here" at the cursor. */
nib_status nib_scan_unexpected(const nib_scan *scan, const char *expected);
#endif
