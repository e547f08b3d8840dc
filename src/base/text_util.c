#include "base/text_util.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool make_room(nib_text *text, size_t more) {
    if (text->failed) return false;
    if (text->length + more + 1 <= text->room) return true;
    size_t room = text->room ? text->room * 2 : 64;
    while (room < text->length + more + 1) room *= 2;
    char *grown = nib_mem_realloc(text->mem, text->data, text->room, room);
    if (!grown) {
        text->failed = true;
        return false;
    }
    text->data = grown;
    text->room = room;
    return true;
}

void nib_text_append(nib_text *text, const char *bytes, size_t length) {
    if (!make_room(text, length)) return;
    if (length) memcpy(text->data + text->length, bytes, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void nib_text_add(nib_text *text, const char *string) {
    nib_text_append(text, string, strlen(string));
}

void nib_text_format(nib_text *text, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int need = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (need >= 0 && make_room(text, (size_t)need)) {
        vsnprintf(text->data + text->length, (size_t)need + 1, format, again);
        text->length += (size_t)need;
    }
    va_end(again);
}

void nib_text_json_string(nib_text *text, const char *bytes, size_t length) {
    nib_text_append(text, "\"", 1);
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)bytes[i];
        switch (c) {
        case '"':
            nib_text_append(text, "\\\"", 2);
            break;
        case '\\':
            nib_text_append(text, "\\\\", 2);
            break;
        case '\n':
            nib_text_append(text, "\\n", 2);
            break;
        case '\r':
            nib_text_append(text, "\\r", 2);
            break;
        case '\t':
            nib_text_append(text, "\\t", 2);
            break;
        case '\b':
            nib_text_append(text, "\\b", 2);
            break;
        case '\f':
            nib_text_append(text, "\\f", 2);
            break;
        default:
            if (c < 0x20)
                nib_text_format(text, "\\u%04x", c);
            else
                nib_text_append(text, bytes + i, 1);
        }
    }
    nib_text_append(text, "\"", 1);
}

/* One code point of valid UTF-8 at `b`; *size is its length. */
static unsigned code_point(const unsigned char *b, size_t *size) {
    *size = b[0] < 0x80 ? 1 : b[0] < 0xe0 ? 2 : b[0] < 0xf0 ? 3 : 4;
    unsigned point = *size == 1 ? b[0] : b[0] & (0xffu >> (*size + 1));
    for (size_t i = 1; i < *size; i++) point = point << 6 | (b[i] & 63u);
    return point;
}

void nib_text_json_ascii(nib_text *text, const char *bytes, size_t length) {
    static const char from[] = "\"\\\n\r\t\b\f", into[] = "\"\\nrtbf";
    const unsigned char *b = (const unsigned char *)bytes;
    nib_text_append(text, "\"", 1);
    for (size_t i = 0, size; i < length; i += size) {
        const unsigned point = code_point(b + i, &size);
        const char *simple = point ? memchr(from, (int)point, sizeof from - 1) : NULL;
        if (point < 0x80 && simple)
            nib_text_append(text, (char[]){'\\', into[simple - from]}, 2);
        else if (point >= 0x20 && point < 0x7f)
            nib_text_append(text, bytes + i, 1);
        else if (point < 0x10000)
            nib_text_format(text, "\\u%04x", point);
        else
            nib_text_format(text, "\\u%04x\\u%04x", 0xd800 + ((point - 0x10000) >> 10),
                            0xdc00 + (point & 0x3ff));
    }
    nib_text_append(text, "\"", 1);
}

void nib_text_little(nib_text *text, uint64_t value, int width) {
    char bytes[8];
    for (int i = 0; i < width; i++) bytes[i] = (char)(value >> 8 * i & 255);
    nib_text_append(text, bytes, (size_t)width);
}

void nib_text_free(nib_text *text) {
    nib_mem_free(text->mem, text->data, text->room);
    *text = (nib_text){.mem = text->mem};
}

char *nib_text_take(nib_text *text) {
    char *taken = text->failed ? NULL : nib_mem_strdup(text->mem, text->data ? text->data : "");
    nib_text_free(text);
    return taken;
}

/* One [class] at `glob`; *after is set past its ], or left NULL when there is none. */
static bool class_has(const char *glob, char c, const char **after) {
    const char *p = glob + 1;
    const bool negated = *p == '!';
    p += negated;
    bool found = false;
    *after = NULL;
    for (bool first = true; *p && (first || *p != ']'); first = false, p++) {
        if (p[1] == '-' && p[2] && p[2] != ']') {
            found |= *p <= c && c <= p[2];
            p += 2;
        } else {
            found |= *p == c;
        }
    }
    if (*p == ']') *after = p + 1;
    return found != negated;
}

bool nib_glob_match(const char *glob, const char *name) {
    const char *star = NULL, *resume = NULL;
    while (*name) {
        const char *after = NULL;
        if (*glob == '*') {
            star = ++glob;
            resume = name;
            continue;
        }
        const bool in_class = *glob == '[' && class_has(glob, *name, &after) && after;
        if (in_class || (*glob == '?') || (*glob == *name && (*glob != '[' || !after))) {
            glob = in_class ? after : glob + 1;
            name++;
            continue;
        }
        if (!star) return false;
        glob = star; /* let the last star take one byte more */
        name = ++resume;
    }
    while (*glob == '*') glob++;
    return !*glob;
}

bool nib_text_starts(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool nib_text_ends(const char *text, const char *suffix) {
    const size_t n = strlen(text), m = strlen(suffix);
    return m <= n && memcmp(text + n - m, suffix, m) == 0;
}

const char *nib_text_nearest(const char *name, const char *const *names) {
    enum { MOST = 64 };
    const size_t n = strlen(name);
    const char *best = NULL;
    size_t best_distance = n / 3 + 2; /* further away is no typing mistake */
    if (n >= MOST) return NULL;
    for (; *names; names++) {
        const size_t m = strlen(*names);
        size_t row[MOST + 1];
        for (size_t i = 0; i <= n; i++) row[i] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t diagonal = row[0];
            row[0] = j;
            for (size_t i = 1; i <= n; i++) {
                const size_t replaced = diagonal + (name[i - 1] != (*names)[j - 1]);
                diagonal = row[i];
                const size_t shorter = (row[i] < row[i - 1] ? row[i] : row[i - 1]) + 1;
                row[i] = replaced < shorter ? replaced : shorter;
            }
        }
        if (row[n] < best_distance || (nib_text_starts(*names, name) && n >= 3 && !best)) {
            best_distance = row[n] < best_distance ? row[n] : best_distance;
            best = *names;
        }
    }
    return best;
}

bool nib_text_to_int(const char *text, int64_t *value) {
    const bool negative = *text == '-';
    const char *p = text + negative;
    uint64_t sum = 0;
    if (!*p) return false;
    for (; *p; p++) {
        if (*p < '0' || *p > '9' || sum > (UINT64_MAX - 9) / 10) return false;
        sum = sum * 10 + (uint64_t)(*p - '0');
    }
    if (sum > (uint64_t)INT64_MAX + negative) return false;
    *value = negative ? (int64_t)(0 - sum) : (int64_t)sum;
    return true;
}

/* Decimal digits with an optional fraction and exponent. strtod would ask the locale for its
 * decimal point, so the text is taken apart here and scaled by exact powers of ten. */
bool nib_text_to_double(const char *text, double *value) {
    const bool negative = *text == '-';
    const char *p = text + negative;
    double sum = 0;
    int digits = 0, exponent = 0;
    for (; *p >= '0' && *p <= '9'; p++, digits++) sum = sum * 10 + (*p - '0');
    if (*p == '.')
        for (p++; *p >= '0' && *p <= '9'; p++, digits++, exponent--) sum = sum * 10 + (*p - '0');
    if (!digits || digits > 300) return false;
    if (*p == 'e' || *p == 'E') {
        int64_t given;
        p++;
        if (*p == '+') p++;
        if (!nib_text_to_int(p, &given) || given < -400 || given > 400) return false;
        exponent += (int)given;
        p += strlen(p);
    }
    if (*p) return false;
    double scale = 1;
    for (int i = 0; i < (exponent < 0 ? -exponent : exponent); i++) scale *= 10;
    *value = exponent < 0 ? sum / scale : sum * scale;
    if (negative) *value = -*value;
    return true;
}

size_t nib_utf8_valid(const char *bytes, size_t length) {
    const unsigned char *s = (const unsigned char *)bytes;
    size_t i = 0;
    while (i < length) {
        const unsigned char c = s[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        const size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if (c < 0xc2 || c > 0xf4 || length - i <= more) return i;
        for (size_t j = 1; j <= more; j++)
            if ((s[i + j] & 0xc0) != 0x80) return i;
        if ((c == 0xe0 && s[i + 1] < 0xa0) || (c == 0xed && s[i + 1] >= 0xa0) ||
            (c == 0xf0 && s[i + 1] < 0x90) || (c == 0xf4 && s[i + 1] >= 0x90))
            return i; /* overlong, a surrogate, or past U+10FFFF */
        i += more + 1;
    }
    return length;
}
