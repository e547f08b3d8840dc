#include "base/json_scan.h"

#include <string.h>

#include "base/error.h"
#include "base/text_util.h"

nib_status nib_scan_unexpected(const nib_scan *scan, const char *expected) {
    if (scan->at >= scan->length)
        NIB_RAISE(NIB_E_FORMAT, "expected %s, but the text ends here", expected);
    else
        NIB_RAISE(NIB_E_FORMAT, "expected %s", expected);
    return nib_error_at(scan->path, NULL, (int64_t)(scan->base + scan->at));
}

static nib_status wrong(const nib_scan *scan, size_t at, const char *what) {
    NIB_RAISE(NIB_E_FORMAT, "%s", what);
    return nib_error_at(scan->path, NULL, (int64_t)(scan->base + at));
}

static char peek(const nib_scan *scan) {
    return scan->at < scan->length ? scan->text[scan->at] : '\0';
}

void nib_scan_space(nib_scan *scan) {
    while (scan->at < scan->length && strchr(" \t\n\r", scan->text[scan->at]) &&
           scan->text[scan->at])
        scan->at++;
}

bool nib_scan_take(nib_scan *scan, char c) {
    nib_scan_space(scan);
    if (scan->at >= scan->length || scan->text[scan->at] != c) return false;
    scan->at++;
    return true;
}

nib_status nib_scan_expect(nib_scan *scan, char c) {
    const char quoted[] = {'\'', c, '\'', '\0'};
    return nib_scan_take(scan, c) ? NIB_OK : nib_scan_unexpected(scan, quoted);
}

/* Four hexadecimal digits at the cursor, or -1. */
static int32_t hex4(nib_scan *scan) {
    int32_t value = 0;
    if (scan->length - scan->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const char c = scan->text[scan->at + (size_t)i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    scan->at += 4;
    return value;
}

static size_t put_utf8(char *to, int32_t point) {
    if (point < 0x80) {
        to[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (char)(0xc0 | point >> 6);
        to[1] = (char)(0x80 | (point & 63));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (char)(0xe0 | point >> 12);
        to[1] = (char)(0x80 | (point >> 6 & 63));
        to[2] = (char)(0x80 | (point & 63));
        return 3;
    }
    to[0] = (char)(0xf0 | point >> 18);
    to[1] = (char)(0x80 | (point >> 12 & 63));
    to[2] = (char)(0x80 | (point >> 6 & 63));
    to[3] = (char)(0x80 | (point & 63));
    return 4;
}

/* What stands behind a backslash: *size bytes in `to`. */
static nib_status escape(nib_scan *scan, char to[4], size_t *size) {
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    const size_t start = scan->at - 1;
    const char c = peek(scan);
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        scan->at++;
        to[0] = into[simple - from];
        *size = 1;
        return NIB_OK;
    }
    if (c != 'u') return wrong(scan, start, "not an escape that JSON knows");
    scan->at++;
    int32_t point = hex4(scan);
    if (point < 0) return wrong(scan, start, "\\u without four hexadecimal digits");
    if (point == 0) return wrong(scan, start, "a zero byte within a string");
    if (point >= 0xdc00 && point < 0xe000) return wrong(scan, start, "half of a surrogate pair");
    if (point >= 0xd800 && point < 0xdc00) {
        const bool pair = scan->length - scan->at >= 2 && scan->text[scan->at] == '\\' &&
                          scan->text[scan->at + 1] == 'u';
        if (pair) scan->at += 2;
        const int32_t low = pair ? hex4(scan) : -1;
        if (low < 0xdc00 || low >= 0xe000) return wrong(scan, start, "half of a surrogate pair");
        point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
    }
    *size = put_utf8(to, point);
    return NIB_OK;
}

nib_status nib_scan_string(nib_scan *scan, char *to, size_t *length) {
    if (!nib_scan_take(scan, '"')) return nib_scan_unexpected(scan, "a string");
    size_t n = 0;
    for (;;) {
        if (scan->at >= scan->length) return nib_scan_unexpected(scan, "the end of a string");
        const size_t run = scan->at;
        while (scan->at < scan->length && scan->text[scan->at] != '"' &&
               scan->text[scan->at] != '\\' && (unsigned char)scan->text[scan->at] >= 0x20)
            scan->at++;
        const size_t plain = scan->at - run, valid = nib_utf8_valid(scan->text + run, plain);
        if (valid < plain) return wrong(scan, run + valid, "not valid UTF-8");
        if (to) memcpy(to + n, scan->text + run, plain);
        n += plain;
        if (scan->at >= scan->length) continue;
        const char c = scan->text[scan->at++];
        if (c == '"') break;
        if (c != '\\') return wrong(scan, scan->at - 1, "a control character within a string");
        char decoded[4];
        size_t size = 0;
        NIB_TRY(escape(scan, decoded, &size));
        if (to) memcpy(to + n, decoded, size);
        n += size;
    }
    if (to) to[n] = '\0';
    if (length) *length = n;
    return NIB_OK;
}

nib_status nib_scan_count(nib_scan *scan, int64_t *value) {
    nib_scan_space(scan);
    const size_t start = scan->at;
    uint64_t sum = 0;
    bool over = false;
    while (peek(scan) >= '0' && peek(scan) <= '9') {
        const uint64_t digit = (uint64_t)(scan->text[scan->at++] - '0');
        over |= sum > (INT64_MAX - digit) / 10;
        sum = sum * 10 + digit;
    }
    const char next = peek(scan);
    const bool leading_zero = scan->at - start > 1 && scan->text[start] == '0';
    if (scan->at == start || leading_zero || next == '.' || next == 'e' || next == 'E') {
        scan->at = start;
        return nib_scan_unexpected(scan, "a whole number from 0 on");
    }
    if (over) return wrong(scan, start, "a number over 2^63 - 1");
    *value = (int64_t)sum;
    return NIB_OK;
}

static size_t digits(const nib_scan *scan, size_t at) {
    size_t n = 0;
    while (at + n < scan->length && scan->text[at + n] >= '0' && scan->text[at + n] <= '9') n++;
    return n;
}

static char at_or_zero(const nib_scan *scan, size_t at) {
    return at < scan->length ? scan->text[at] : '\0';
}

/* Over a number: -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)? */
static bool skip_number(nib_scan *scan) {
    size_t at = scan->at + (peek(scan) == '-' ? 1u : 0u);
    const size_t whole = digits(scan, at);
    if (whole == 0 || (whole > 1 && scan->text[at] == '0')) return false;
    at += whole;
    if (at_or_zero(scan, at) == '.') {
        const size_t n = digits(scan, at + 1);
        if (n == 0) return false;
        at += 1 + n;
    }
    if (at_or_zero(scan, at) == 'e' || at_or_zero(scan, at) == 'E') {
        const char sign = at_or_zero(scan, at + 1);
        at += sign == '+' || sign == '-' ? 2 : 1;
        const size_t n = digits(scan, at);
        if (n == 0) return false;
        at += n;
    }
    scan->at = at;
    return true;
}

/* Over a number or one of the three words. */
static nib_status skip_word(nib_scan *scan) {
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        const size_t length = strlen(words[i]);
        if (scan->length - scan->at < length) continue;
        if (memcmp(scan->text + scan->at, words[i], length) != 0) continue;
        scan->at += length;
        return NIB_OK;
    }
    return skip_number(scan) ? NIB_OK : nib_scan_unexpected(scan, "a value");
}

nib_status nib_scan_skip(nib_scan *scan) {
    enum { DEEPEST = 64 };
    char closing[DEEPEST]; /* of the lists and objects that are open */
    int depth = 0;
    do {
        nib_scan_space(scan);
        const char c = peek(scan);
        if (c == '{' || c == '[') {
            if (depth == DEEPEST) return wrong(scan, scan->at, "nested over 64 levels deep");
            closing[depth++] = c == '{' ? '}' : ']';
            scan->at++;
            if (nib_scan_take(scan, closing[depth - 1]))
                depth--;
            else if (c == '{')
                goto key;
            else
                continue;
        } else {
            NIB_TRY(c == '"' ? nib_scan_string(scan, NULL, NULL) : skip_word(scan));
        }
        while (depth && nib_scan_take(scan, closing[depth - 1])) depth--;
        if (!depth) break;
        NIB_TRY(nib_scan_expect(scan, ','));
        if (closing[depth - 1] == ']') continue;
    key:
        NIB_TRY(nib_scan_string(scan, NULL, NULL));
        NIB_TRY(nib_scan_expect(scan, ':'));
    } while (depth);
    return NIB_OK;
}
