/* A kind becomes one or more steps, each of one of two shapes: a cut leaves the text alone and
 * makes more spans of each span; a respelling writes each piece anew, into a new text. */
#include "text/pretokenizer.h"

#include <string.h>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/kinds.h"
#include "text/unicode_property.h"

/* What becomes of a match (a delimiter), by the name it has in the file. */
typedef enum behavior { ISOLATED, REMOVED, WITH_PREVIOUS, WITH_NEXT, CONTIGUOUS } behavior;
typedef enum scheme { ALWAYS, FIRST, NEVER } scheme;

struct nib_cut_step {
    /* Exactly one of the two. cut: add spans for text[span) to `out`. respell: append to out. */
    nib_status (*cut)(const nib_cut_step *step, nib_matcher *matcher, const char *text,
                      nib_span span, nib_pieces *out);
    void (*respell)(const nib_cut_step *step, const char *piece, size_t length, bool first,
                    nib_text *out);
    nib_pattern *pattern;
    behavior behavior;
    bool invert; /* the text between matches is what is cut out */
    scheme prepend;
    char replacement[8]; /* Metaspace's sign for a space */
};

/* ---- running ---- */

/* Delimiters and what lies between them come in order; spans are joined as the behavior says. */
typedef struct joiner {
    nib_pieces *out;
    behavior behavior;
    nib_span pending;
    bool has_pending, last_was_match;
} joiner;

static nib_status flush(joiner *j) {
    if (!j->has_pending) return NIB_OK;
    j->has_pending = false;
    return nib_pieces_add(j->out, j->pending.start, j->pending.end);
}

static nib_status join(joiner *j, size_t start, size_t end, bool is_match) {
    bool extends = false;
    switch (j->behavior) {
    case ISOLATED:
        break;
    case REMOVED:
        break;
    case WITH_PREVIOUS:
        extends = is_match && !j->last_was_match;
        break;
    case WITH_NEXT:
        extends = !is_match && j->last_was_match;
        break;
    case CONTIGUOUS:
        extends = is_match == j->last_was_match;
        break;
    }
    if (extends && j->has_pending) {
        j->pending.end = end;
    } else {
        NIB_TRY(flush(j));
        j->pending = (nib_span){start, end};
        j->has_pending = !(j->behavior == REMOVED && is_match);
    }
    j->last_was_match = is_match;
    return NIB_OK;
}

static nib_status cut_by_pattern(const nib_cut_step *step, nib_matcher *matcher, const char *text,
                                 nib_span span, nib_pieces *out) {
    joiner j = {.out = out, .behavior = step->behavior};
    nib_match match = {0};
    size_t done = 0;
    const char *s = text + span.start;
    const size_t length = span.end - span.start;
    nib_status status;
    while ((status = nib_pattern_next(step->pattern, matcher, s, length, &match)) == NIB_OK) {
        if (match.start > done)
            NIB_TRY(join(&j, span.start + done, span.start + match.start, step->invert));
        NIB_TRY(join(&j, span.start + match.start, span.start + match.end, !step->invert));
        done = match.end;
    }
    if (status < NIB_OK) return status;
    if (done < length) NIB_TRY(join(&j, span.start + done, span.end, step->invert));
    return flush(&j);
}

/* Cut where characters belong to a set: each by itself, or its runs. */
static nib_status cut_by_set(bool (*in_set)(int32_t), behavior how, const char *text, nib_span span,
                             nib_pieces *out) {
    joiner j = {.out = out, .behavior = how};
    size_t start = span.start;
    for (size_t at = span.start; at < span.end;) {
        const size_t before = at;
        if (!in_set(nib_utf8_next(text, &at))) continue;
        if (before > start) NIB_TRY(join(&j, start, before, false));
        NIB_TRY(join(&j, before, at, true));
        start = at;
    }
    if (start < span.end) NIB_TRY(join(&j, start, span.end, false));
    return flush(&j);
}

static nib_status cut_digits(const nib_cut_step *step, nib_matcher *matcher, const char *text,
                             nib_span span, nib_pieces *out) {
    (void)matcher;
    return cut_by_set(nib_is_number, step->behavior, text, span, out);
}

static nib_status cut_spaces(const nib_cut_step *step, nib_matcher *matcher, const char *text,
                             nib_span span, nib_pieces *out) {
    (void)matcher;
    return cut_by_set(nib_is_space, step->behavior, text, span, out);
}

/* Runs of word characters, and runs of what is neither word nor space. */
static nib_status cut_words(const nib_cut_step *step, nib_matcher *matcher, const char *text,
                            nib_span span, nib_pieces *out) {
    (void)step;
    (void)matcher;
    size_t start = span.start;
    int kind = 0; /* of the run from `start`: 0 space, 1 word, 2 other */
    for (size_t at = span.start; at < span.end;) {
        const size_t before = at;
        const int32_t code = nib_utf8_next(text, &at);
        const int now = nib_is_word(code) ? 1 : nib_is_space(code) ? 0 : 2;
        if (now == kind) continue;
        if (kind) NIB_TRY(nib_pieces_add(out, start, before));
        start = before;
        kind = now;
    }
    return kind ? nib_pieces_add(out, start, span.end) : NIB_OK;
}

static void respell_prefix_space(const nib_cut_step *step, const char *piece, size_t length,
                                 bool first, nib_text *out) {
    (void)step;
    (void)first;
    if (length && piece[0] != ' ') nib_text_append(out, " ", 1);
    nib_text_append(out, piece, length);
}

static void respell_bytes(const nib_cut_step *step, const char *piece, size_t length, bool first,
                          nib_text *out) {
    (void)step;
    (void)first;
    nib_byte_alphabet_encode(piece, length, out);
}

static void respell_metaspace(const nib_cut_step *step, const char *piece, size_t length,
                              bool first, nib_text *out) {
    const char *sign = step->replacement;
    const size_t n = strlen(sign);
    const bool signed_already =
        length && (piece[0] == ' ' || (length >= n && !memcmp(piece, sign, n)));
    if (!signed_already && (step->prepend == ALWAYS || (step->prepend == FIRST && first)))
        nib_text_append(out, sign, n);
    for (size_t start = 0, i = 0; i <= length; i++) {
        if (i < length && piece[i] != ' ') continue;
        nib_text_append(out, piece + start, i - start);
        if (i < length) nib_text_append(out, sign, n);
        start = i + 1;
    }
}

static nib_status run_step(const nib_cut_step *step, nib_matcher *matcher, bool first,
                           nib_pieces *from, nib_pieces *to) {
    nib_pieces_clear(to);
    for (size_t i = 0; i < from->count; i++) {
        const nib_span span = from->spans[i];
        if (step->cut) {
            NIB_TRY(step->cut(step, matcher, from->text.data, span, to));
        } else {
            const size_t start = to->text.length;
            step->respell(step, from->text.data + span.start, span.end - span.start, first && !i,
                          &to->text);
            NIB_TRY(nib_pieces_close(to, start, false));
        }
    }
    if (step->cut) { /* the same text, other spans */
        const nib_text text = from->text;
        from->text = to->text;
        to->text = text;
    }
    return NIB_OK;
}

nib_status nib_pretokenizer_run(const nib_pretokenizer *p, nib_matcher *matcher, const char *text,
                                size_t length, bool first, nib_pieces *out, nib_pieces *spare) {
    nib_pieces_clear(out);
    nib_text_append(&out->text, text, length);
    NIB_TRY(nib_pieces_close(out, 0, false));
    for (size_t i = 0; i < p->count; i++) {
        NIB_TRY(run_step(&p->steps[i], matcher, first, out, spare));
        const nib_pieces swap = *out;
        *out = *spare;
        *spare = swap;
    }
    return NIB_OK;
}

/* ---- reading ---- */

static nib_cut_step *add_step(nib_pretokenizer *p) {
    void *steps = p->steps;
    if (nib_kinds_grow(p->mem, &steps, p->count, sizeof *p->steps) < NIB_OK) return NULL;
    p->steps = steps;
    return &p->steps[p->count++];
}

static nib_status read_behavior(const json_t *object, behavior *value) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name = NULL;
    NIB_TRY(nib_json_string(object, "behavior", true, &name));
    for (int i = 0; i < 5; i++)
        if (!strcmp(name, names[i])) {
            *value = (behavior)i;
            return NIB_OK;
        }
    return NIB_RAISE(NIB_E_UNSUPPORTED, "pre_tokenizer: behavior \"%.40s\" is not known", name);
}

static nib_status read_split(void *self, const json_t *object) {
    nib_pretokenizer *p = self;
    behavior how = ISOLATED;
    bool invert = false;
    NIB_TRY(read_behavior(object, &how));
    NIB_TRY(nib_json_bool(object, "invert", true, &invert));
    nib_cut_step *step = add_step(p);
    if (!step) return NIB_E_MEMORY;
    step->cut = cut_by_pattern;
    step->behavior = how;
    step->invert = invert;
    return nib_kinds_pattern(p->mem, object, "pattern", &step->pattern);
}

/* GPT-2's words: contractions, letters, numbers and the rest with a space before them; white
 * space up to the one that belongs to the next word. */
static const char gpt2_words[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|"
                                 " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static nib_status read_byte_level(void *self, const json_t *object) {
    nib_pretokenizer *p = self;
    bool prefix_space = false, use_regex = true, trim_offsets = false;
    NIB_TRY(nib_json_bool(object, "add_prefix_space", true, &prefix_space));
    NIB_TRY(nib_json_bool(object, "trim_offsets", true, &trim_offsets)); /* of no concern to ids */
    NIB_TRY(nib_json_bool(object, "use_regex", false, &use_regex));
    nib_cut_step *step;
    if (prefix_space) {
        if (!(step = add_step(p))) return NIB_E_MEMORY;
        step->respell = respell_prefix_space;
    }
    if (use_regex) {
        if (!(step = add_step(p))) return NIB_E_MEMORY;
        step->cut = cut_by_pattern;
        step->behavior = ISOLATED;
        step->pattern = nib_pattern_regex(p->mem, gpt2_words, sizeof gpt2_words - 1);
        if (!step->pattern) return nib_last_error()->status;
    }
    if (!(step = add_step(p))) return NIB_E_MEMORY;
    step->respell = respell_bytes;
    return NIB_OK;
}

static nib_status read_digits(void *self, const json_t *object) {
    bool individual = false;
    NIB_TRY(nib_json_bool(object, "individual_digits", true, &individual));
    nib_cut_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->cut = cut_digits;
    step->behavior = individual ? ISOLATED : CONTIGUOUS;
    return NIB_OK;
}

static nib_status read_metaspace(void *self, const json_t *object) {
    static const char *const names[] = {"always", "first", "never"};
    nib_pretokenizer *p = self;
    const char *replacement = NULL, *name = NULL;
    bool prefix_space = true, split = true;
    scheme prepend = ALWAYS;
    NIB_TRY(nib_json_string(object, "replacement", true, &replacement));
    NIB_TRY(nib_json_string(object, "prepend_scheme", false, &name));
    NIB_TRY(nib_json_bool(object, "add_prefix_space", false, &prefix_space));
    NIB_TRY(nib_json_bool(object, "split", false, &split));
    if (name) {
        int i = 0;
        while (i < 3 && strcmp(name, names[i]) != 0) i++;
        if (i == 3)
            return NIB_RAISE(NIB_E_UNSUPPORTED,
                             "pre_tokenizer: prepend_scheme \"%.40s\" is not "
                             "known",
                             name);
        prepend = (scheme)i;
    }
    if (!prefix_space) { /* the older spelling of "never" */
        if (name && prepend != NEVER)
            return NIB_RAISE(NIB_E_FORMAT,
                             "pre_tokenizer: add_prefix_space is false but "
                             "prepend_scheme is \"%s\"",
                             name);
        prepend = NEVER;
    }
    size_t one = 0;
    if (*replacement) nib_utf8_next(replacement, &one);
    if (!one || replacement[one])
        return NIB_RAISE(NIB_E_FORMAT, "pre_tokenizer: replacement \"%.40s\" is not one character",
                         replacement);
    nib_cut_step *step = add_step(p);
    if (!step) return NIB_E_MEMORY;
    step->respell = respell_metaspace;
    step->prepend = prepend;
    memcpy(step->replacement, replacement, one);
    if (!split) return NIB_OK;
    if (!(step = add_step(p))) return NIB_E_MEMORY;
    step->cut = cut_by_pattern;
    step->behavior = WITH_NEXT;
    step->pattern = nib_pattern_string(p->mem, replacement, one);
    return step->pattern ? NIB_OK : nib_last_error()->status;
}

static nib_status read_whitespace(void *self, const json_t *object) {
    (void)object;
    nib_cut_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->cut = cut_words;
    return NIB_OK;
}

static nib_status read_whitespace_split(void *self, const json_t *object) {
    (void)object;
    nib_cut_step *step = add_step(self);
    if (!step) return NIB_E_MEMORY;
    step->cut = cut_spaces;
    step->behavior = REMOVED;
    return NIB_OK;
}

static const nib_kind kinds[] = {
    {"ByteLevel", read_byte_level},
    {"Split", read_split},
    {"Digits", read_digits},
    {"Metaspace", read_metaspace},
    {"Whitespace", read_whitespace},
    {"WhitespaceSplit", read_whitespace_split},
    {NULL, NULL},
};

nib_status nib_pretokenizer_read(nib_pretokenizer *p, nib_mem *mem, const json_t *object) {
    *p = (nib_pretokenizer){.mem = mem};
    const nib_status status = nib_kinds_read("pre_tokenizer", "pretokenizers", kinds, object, p);
    if (status < NIB_OK) nib_pretokenizer_free(p);
    return status;
}

void nib_pretokenizer_free(nib_pretokenizer *p) {
    for (size_t i = 0; i < p->count; i++) nib_pattern_free(p->steps[i].pattern);
    nib_mem_free(p->mem, p->steps, p->count * sizeof *p->steps);
    *p = (nib_pretokenizer){0};
}
