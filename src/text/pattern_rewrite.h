/* pattern_rewrite.h: an Oniguruma pattern, as tokenizer.json holds them, in PCRE2's spelling. */
#ifndef NIB_TEXT_PATTERN_REWRITE_H
#define NIB_TEXT_PATTERN_REWRITE_H
#include "base/text_util.h"

/* Append to `out` a PCRE2 pattern (for PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, newline LF) that
 * matches what `pattern`, valid UTF-8, matches in Oniguruma's own syntax.
 * Fails: NIB_E_UNSUPPORTED naming the construct that has no such spelling here. */
nib_status nib_pattern_rewrite(nib_text *out, const char *pattern, size_t length);
#endif
