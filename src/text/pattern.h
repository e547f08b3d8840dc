/* pattern.h: what Split and Replace look for: a regular expression, or a string as it is.
 *
 * A pattern never changes once made; what a search writes lies in a matcher, so that several
 * threads can use one pattern, each with its own matcher. */
#ifndef NIB_TEXT_PATTERN_H
#define NIB_TEXT_PATTERN_H
#include "base/mem.h"

typedef struct nib_pattern nib_pattern;
typedef struct nib_matcher nib_matcher;

/* `regex` in Oniguruma's syntax. Fails: NIB_E_UNSUPPORTED for what has no spelling here. */
nib_pattern *nib_pattern_regex(nib_mem *mem, const char *regex, size_t length);
nib_pattern *nib_pattern_string(nib_mem *mem, const char *string, size_t length);
void nib_pattern_free(nib_pattern *pattern);

nib_matcher *nib_matcher_new(nib_mem *mem);
void nib_matcher_free(nib_matcher *matcher);

/* A walk over the matches in text[0, length), valid UTF-8, leftmost first, none overlapping; an
 * empty match directly behind another match is passed over. Set up with `.from = 0`. */
typedef struct nib_match {
    size_t start, end; /* of the match found */
    size_t from;       /* where the search goes on */
    bool any;          /* a match was found before */
} nib_match;

/* NIB_OK with the next match, NIB_END when there is no more.
 * Fails: NIB_E_FORMAT with the offset in `text` when the pattern takes too many steps. */
nib_status nib_pattern_next(const nib_pattern *pattern, nib_matcher *matcher, const char *text,
                            size_t length, nib_match *match);
#endif
