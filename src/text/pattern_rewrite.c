/* Two things differ between the engines: what a class may hold, and what the short names mean.
 *
 * Classes nest in Oniguruma and may be intersected: [a-z[0-9]], [\p{L}&&[^\p{Lu}]]. Every class is
 * a matcher of exactly one character, and such matchers combine without set arithmetic:
 *     union         (?:X|Y)
 *     intersection  (?:(?=X)Y)
 *     complement    (?:(?!X)(?s:.))
 * A class that is only a list of characters, ranges and properties stays a plain [...] class, and
 * so does a list nested in a list; that is all that most tokenizers need, and it stays fast.
 *
 * \s, \w, \d, \h, \b and properties become explicit classes (unicode_property.h). */
#include "text/pattern_rewrite.h"

#include <string.h>

#include "text/unicode_property.h"

enum { MAX_CLASS_DEPTH = 8, MAX_GROUP_DEPTH = 200 };

typedef struct class_frame {
    bool negated;
    bool first;        /* nothing read since '[', '[^' or '&&' */
    nib_text simple;   /* inside of a plain class */
    nib_text others;   /* matchers that are no plain class: X|Y|Z */
    nib_text required; /* operands before '&&' as lookaheads: (?=X)(?=Y) */
} class_frame;

typedef struct rewriter {
    const char *pattern;
    size_t length, at;
    nib_text *out;
    size_t atom; /* where in out the latest repeatable item starts */
    bool has_atom;
    size_t groups[MAX_GROUP_DEPTH]; /* where in out each open group starts */
    int ngroups;
} rewriter;

static int peek(const rewriter *r, size_t ahead) {
    return r->at + ahead < r->length ? (unsigned char)r->pattern[r->at + ahead] : -1;
}

static nib_status refuse(const rewriter *r, const char *what) {
    return NIB_RAISE(NIB_E_UNSUPPORTED, "pattern: %s at byte %zu is not supported", what, r->at);
}

static int hex_digit(int c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool is_alnum(int c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* One character: itself, or an escape that stands for one. `found` is false, and nothing is
 * consumed, for an escape that stands for something else. */
static nib_status read_character(rewriter *r, int32_t *code, bool *found) {
    *found = true;
    if (peek(r, 0) != '\\') {
        *code = nib_utf8_next(r->pattern, &r->at);
        return NIB_OK;
    }
    const int c = peek(r, 1);
    static const char names[] = "ntrfvae", values[] = "\n\t\r\f\v\a\033";
    const char *name = c > 0 ? strchr(names, c) : NULL;
    if (name) {
        *code = values[name - names];
        r->at += 2;
        return NIB_OK;
    }
    if (c == 'x' || c == 'u') {
        const bool braced = c == 'x' && peek(r, 2) == '{';
        size_t i = braced ? 3 : 2;
        const size_t most = braced ? i + 8 : c == 'u' ? i + 4 : i + 2, start = i;
        int64_t value = 0;
        while (i < most && hex_digit(peek(r, i)) >= 0) value = value * 16 + hex_digit(peek(r, i++));
        if (i == start || (braced && peek(r, i) != '}') || (c == 'u' && i != most) ||
            (c == 'x' && !braced && value > 0x7F) || value > 0x10FFFF ||
            (value >= 0xD800 && value < 0xE000))
            return refuse(r, "this \\x or \\u");
        r->at += braced ? i + 1 : i;
        *code = (int32_t)value;
        return NIB_OK;
    }
    if (c < 0) return refuse(r, "a lone \\");
    *found = !is_alnum(c);
    if (*found) {
        r->at++;
        *code = nib_utf8_next(r->pattern, &r->at);
    }
    return NIB_OK;
}

/* \s \d \w \h \p{..} or the upper-case complement, `alone` or in a class: appends the inside of its
 * class to `out`. `found` is false when the escape is none of them. */
static nib_status read_set(rewriter *r, bool alone, nib_text *out, bool *negated, bool *found) {
    const int c = peek(r, 1);
    *found = c > 0 && strchr("sSdDwWhHpP", c) != NULL;
    if (!*found) return NIB_OK;
    *negated = c < 'a';
    switch (c | 0x20) {
    case 's':
        nib_space_class(out);
        break;
    case 'd':
        NIB_TRY(nib_property_class(out, "Nd", 2));
        break;
    case 'w':
        nib_word_class(out, alone);
        break;
    case 'h':
        nib_text_add(out, "0-9A-Fa-f");
        break;
    default: {
        size_t i = 3;
        if (peek(r, 2) != '{') return refuse(r, "\\p without {");
        if (peek(r, i) == '^') *negated = !*negated, i++;
        const size_t start = i;
        while (peek(r, i) >= 0 && peek(r, i) != '}') i++;
        if (peek(r, i) < 0) return refuse(r, "\\p{ without }");
        NIB_TRY(nib_property_class(out, r->pattern + r->at + start, i - start));
        r->at += i - 1; /* and two more below */
    }
    }
    r->at += 2;
    return NIB_OK;
}

static void class_character(nib_text *out, int32_t code) {
    nib_text_format(out, "\\x{%X}", (unsigned)code);
}

static void add_other(class_frame *f, const char *matcher) {
    if (f->others.length) nib_text_add(&f->others, "|");
    nib_text_add(&f->others, matcher);
}

/* The matcher for what a frame holds so far, without its negation and what is required. */
static nib_status operand(const rewriter *r, const class_frame *f, nib_text *out) {
    if (f->simple.failed || f->others.failed) return NIB_E_MEMORY;
    if (!f->simple.length && !f->others.length) return refuse(r, "an empty class");
    if (!f->others.length) {
        nib_text_format(out, "[%s]", f->simple.data);
    } else {
        nib_text_add(out, "(?:");
        if (f->simple.length) nib_text_format(out, "[%s]|", f->simple.data);
        nib_text_format(out, "%s)", f->others.data);
    }
    return NIB_OK;
}

static void free_frame(class_frame *f) {
    nib_text_free(&f->simple);
    nib_text_free(&f->others);
    nib_text_free(&f->required);
}

/* The closed frame `f` becomes part of `parent`, or of the pattern when that is NULL. */
static nib_status close_class(rewriter *r, class_frame *f, class_frame *parent) {
    const bool plain = !f->others.length && !f->required.length;
    nib_text matcher = {.mem = r->out->mem};
    nib_status status = NIB_OK;
    if (plain && !f->negated && parent && f->simple.length) {
        nib_text_add(&parent->simple, f->simple.data);
    } else {
        if (plain && f->negated && f->simple.length) {
            nib_text_format(&matcher, "[^%s]", f->simple.data);
        } else {
            nib_text_add(&matcher, f->negated ? "(?:(?!" : "(?:");
            if (f->required.length) nib_text_add(&matcher, f->required.data);
            status = operand(r, f, &matcher);
            nib_text_add(&matcher, f->negated ? ")(?s:.))" : ")");
        }
        if (status == NIB_OK && !matcher.failed) {
            if (parent)
                add_other(parent, matcher.data);
            else
                nib_text_add(r->out, matcher.data);
        }
        if (matcher.failed) r->out->failed = true;
    }
    if (f->simple.failed || f->others.failed || f->required.failed) r->out->failed = true;
    nib_text_free(&matcher);
    return status == NIB_OK && r->out->failed ? NIB_E_MEMORY : status;
}

/* One item of a class other than a nested class: a set, a character or a range. */
static nib_status class_item(rewriter *r, class_frame *f) {
    bool negated = false, found = false;
    if (peek(r, 0) == '\\') {
        nib_text set = {.mem = r->out->mem};
        nib_status status = read_set(r, false, &set, &negated, &found);
        if (status == NIB_OK && found && !set.failed) {
            if (negated) {
                nib_text matcher = {.mem = r->out->mem};
                nib_text_format(&matcher, "[^%s]", set.data);
                if (!matcher.failed) add_other(f, matcher.data);
                set.failed |= matcher.failed;
                nib_text_free(&matcher);
            } else {
                nib_text_add(&f->simple, set.data);
            }
        }
        if (set.failed) f->simple.failed = true;
        nib_text_free(&set);
        if (status < NIB_OK || found) return status;
    }
    int32_t low, high;
    const size_t start = r->at;
    NIB_TRY(read_character(r, &low, &found));
    if (!found) {
        r->at = start;
        return refuse(r, "this escape in a class");
    }
    class_character(&f->simple, low);
    const int next = peek(r, 1);
    if (peek(r, 0) != '-' || next < 0 || next == ']' || next == '[') return NIB_OK;
    if (next == '&' && peek(r, 2) == '&') return NIB_OK;
    r->at++;
    NIB_TRY(read_character(r, &high, &found));
    if (!found) { /* [a-\d]: the dash stands for itself */
        class_character(&f->simple, '-');
        return NIB_OK;
    }
    if (high < low) return refuse(r, "a range from high to low");
    nib_text_add(&f->simple, "-");
    class_character(&f->simple, high);
    return NIB_OK;
}

static nib_status class_intersection(rewriter *r, class_frame *f) {
    nib_text matcher = {.mem = r->out->mem};
    nib_status status = operand(r, f, &matcher);
    if (status == NIB_OK && !matcher.failed) nib_text_format(&f->required, "(?=%s)", matcher.data);
    if (matcher.failed) f->required.failed = true;
    nib_text_free(&matcher);
    f->simple.length = f->others.length = 0;
    return status;
}

static nib_status rewrite_class(rewriter *r) {
    class_frame frames[MAX_CLASS_DEPTH] = {0};
    int depth = 0;
    nib_status status = NIB_OK;
    do {
        const int c = peek(r, 0);
        class_frame *f = depth ? &frames[depth - 1] : NULL;
        if (c < 0) {
            status = refuse(r, "a class without ]");
        } else if (c == '[' && peek(r, 1) == ':') {
            status = refuse(r, "[:name:]");
        } else if (c == '[') {
            if (depth == MAX_CLASS_DEPTH) {
                status = refuse(r, "a class nested so deep");
                break;
            }
            if (f) f->first = false;
            frames[depth++] = (class_frame){.negated = peek(r, 1) == '^',
                                            .first = true,
                                            .simple.mem = r->out->mem,
                                            .others.mem = r->out->mem,
                                            .required.mem = r->out->mem};
            r->at += frames[depth - 1].negated ? 2 : 1;
        } else if (c == ']' && !f->first) {
            r->at++;
            status = close_class(r, f, depth > 1 ? &frames[depth - 2] : NULL);
            free_frame(f);
            depth--;
        } else if (c == '&' && peek(r, 1) == '&') {
            r->at += 2;
            status = class_intersection(r, f);
            f->first = false;
        } else {
            f->first = false;
            status = class_item(r, f);
        }
    } while (depth && status == NIB_OK);
    while (depth) free_frame(&frames[--depth]);
    return status;
}

static void start_atom(rewriter *r) {
    r->atom = r->out->length;
    r->has_atom = true;
}

static nib_status rewrite_group(rewriter *r) {
    if (r->ngroups == MAX_GROUP_DEPTH) return refuse(r, "a group nested so deep");
    r->groups[r->ngroups++] = r->out->length;
    if (peek(r, 1) == '*') return refuse(r, "(*");
    if (peek(r, 1) != '?') {
        nib_text_add(r->out, "(");
        r->at++;
        return NIB_OK;
    }
    const int c = peek(r, 2), d = peek(r, 3);
    if (c == ':' || c == '=' || c == '!' || c == '>' || (c == '<' && (d == '=' || d == '!'))) {
        const size_t n = c == '<' ? 4 : 3;
        nib_text_append(r->out, r->pattern + r->at, n);
        r->at += n;
        return NIB_OK;
    }
    if (c == '<' && (is_alnum(d) || d == '_')) { /* a name */
        size_t n = 4;
        while (is_alnum(peek(r, n)) || peek(r, n) == '_') n++;
        if (peek(r, n) != '>') return refuse(r, "this name of a group");
        nib_text_append(r->out, r->pattern + r->at, n + 1);
        r->at += n + 1;
        return NIB_OK;
    }
    if (c == '#') { /* a comment */
        while (peek(r, 0) >= 0 && peek(r, 0) != ')') r->at++;
        if (peek(r, 0) < 0) return refuse(r, "a comment without )");
        r->at++;
        r->ngroups--;
        return NIB_OK;
    }
    /* options: Oniguruma's m lets the dot match a newline, which is PCRE2's s */
    size_t i = 2;
    nib_text_add(r->out, "(?");
    for (; peek(r, i) == 'i' || peek(r, i) == 'm' || peek(r, i) == '-'; i++)
        nib_text_add(r->out, peek(r, i) == 'i' ? "i" : peek(r, i) == 'm' ? "s" : "-");
    if (i == 2 || (peek(r, i) != ':' && peek(r, i) != ')')) return refuse(r, "this kind of group");
    nib_text_add(r->out, peek(r, i) == ':' ? ":" : ")");
    if (peek(r, i) == ')') r->ngroups--;
    r->at += i + 1;
    return NIB_OK;
}

/* {n} {n,} {n,m} {,m}; anything else in braces is text. A + behind an interval repeats it and a ?
 * behind {n} makes it optional, where PCRE2 would read possessive and lazy: hence the group. */
static bool rewrite_interval(rewriter *r) {
    char low[8] = "", high[8] = "";
    size_t i = 1, n = 0;
    while (peek(r, i) >= '0' && peek(r, i) <= '9' && n < 6) low[n++] = (char)peek(r, i++);
    low[n] = '\0';
    const bool comma = peek(r, i) == ',';
    if (comma) i++;
    n = 0;
    while (comma && peek(r, i) >= '0' && peek(r, i) <= '9' && n < 6) high[n++] = (char)peek(r, i++);
    high[n] = '\0';
    if (peek(r, i) != '}' || (!low[0] && !high[0])) return false;
    r->at += i + 1;
    const bool wrap = peek(r, 0) == '+' || (peek(r, 0) == '?' && !comma);
    nib_text whole = {.mem = r->out->mem};
    nib_text_append(&whole, r->out->data + r->atom, r->out->length - r->atom);
    if (wrap && !whole.failed) {
        r->out->length = r->atom;
        nib_text_format(r->out, "(?:%s", whole.data);
    }
    if (whole.failed) r->out->failed = true;
    nib_text_format(r->out, "{%s%s%s}%s", low[0] ? low : "0", comma ? "," : "", high,
                    wrap ? ")" : "");
    nib_text_free(&whole);
    if (peek(r, 0) == '+' || peek(r, 0) == '?') {
        nib_text_append(r->out, r->pattern + r->at, 1);
        r->at++;
    }
    return true;
}

static nib_status rewrite_escape(rewriter *r) {
    const int c = peek(r, 1);
    bool negated = false, found = false;
    nib_text set = {.mem = r->out->mem};
    nib_status status = NIB_OK;
    if (c == 'b' || c == 'B') {
        nib_word_class(&set, true);
        const char *w = set.data;
        if (set.failed)
            r->out->failed = true;
        else if (c == 'b')
            nib_text_format(r->out, "(?:(?<=[%s])(?![%s])|(?<![%s])(?=[%s]))", w, w, w, w);
        else
            nib_text_format(r->out, "(?:(?<=[%s])(?=[%s])|(?<![%s])(?![%s]))", w, w, w, w);
        r->at += 2;
    } else {
        start_atom(r);
        status = read_set(r, true, &set, &negated, &found);
        if (found && set.failed) r->out->failed = true;
        if (status == NIB_OK && found && !set.failed)
            nib_text_format(r->out, "[%s%s]", negated ? "^" : "", set.data);
    }
    nib_text_free(&set);
    if (status < NIB_OK || found || c == 'b' || c == 'B') return status;
    if (c > 0 && (strchr("AzZR", c) || (c >= '1' && c <= '9' && !is_alnum(peek(r, 2))))) {
        nib_text_append(r->out, r->pattern + r->at, 2);
        r->at += 2;
        return NIB_OK;
    }
    int32_t code;
    NIB_TRY(read_character(r, &code, &found));
    if (!found) return refuse(r, "this escape");
    class_character(r->out, code); /* the same spelling outside a class */
    return NIB_OK;
}

nib_status nib_pattern_rewrite(nib_text *out, const char *pattern, size_t length) {
    rewriter r = {.pattern = pattern, .length = length, .out = out};
    while (r.at < length && !out->failed) {
        const int c = peek(&r, 0);
        switch (c) {
        case '\\':
            NIB_TRY(rewrite_escape(&r));
            break;
        case '[':
            start_atom(&r);
            NIB_TRY(rewrite_class(&r));
            break;
        case '(':
            NIB_TRY(rewrite_group(&r));
            break;
        case ')':
            if (!r.ngroups) return refuse(&r, "a ) without (");
            r.atom = r.groups[--r.ngroups];
            r.has_atom = true;
            nib_text_append(out, ")", 1);
            r.at++;
            break;
        case '{':
            if (r.has_atom && rewrite_interval(&r)) break;
            start_atom(&r);
            nib_text_add(out, "\\{");
            r.at++;
            break;
        case '*':
        case '+':
        case '?':
        case '|':
        case '^':
        case '$':
            nib_text_append(out, pattern + r.at, 1);
            r.at++;
            break;
        default: { /* a character as it is */
            const size_t start = r.at;
            start_atom(&r);
            nib_utf8_next(pattern, &r.at);
            nib_text_append(out, pattern + start, r.at - start);
        }
        }
    }
    if (out->failed) return nib_last_error()->status;
    if (r.ngroups) return refuse(&r, "a ( without )");
    return NIB_OK;
}
