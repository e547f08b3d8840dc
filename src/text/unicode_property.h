/* unicode_property.h: properties of code points as the `tokenizers` library sees them.
 *
 * Published tokenizers were trained with that library, whose regular expressions (Oniguruma)
 * know Unicode 16, while the PCRE2 and utf8proc at hand may know less or see a property
 * differently. Here the differences are made good. */
#ifndef NIB_TEXT_UNICODE_PROPERTY_H
#define NIB_TEXT_UNICODE_PROPERTY_H
#include "base/text_util.h"

/* Append to `out` what stands between the brackets of a PCRE2 class for a property: a general
 * category ("L", "Nd") or one of a few scripts ("Han"). Case, '_', '-' and ' ' in the name do
 * not matter. Fails: NIB_E_UNSUPPORTED naming the property. */
nib_status nib_property_class(nib_text *out, const char *name, size_t length);

/* The same for white space (\s) and word characters (\w). Outside of a class (`alone`) Oniguruma
 * counts the superscripts and fractions of Latin-1 among the latter. */
void nib_space_class(nib_text *out);
void nib_word_class(nib_text *out, bool alone);

bool nib_is_space(int32_t code);  /* White_Space */
bool nib_is_number(int32_t code); /* N: digits, letter-like and other numbers */
bool nib_is_word(int32_t code);   /* what may stand inside a word: \w of Rust's regex */

/* The code point at text[*at] of valid UTF-8; moves *at behind it. */
int32_t nib_utf8_next(const char *text, size_t *at);
/* The start of the code point that ends before `at` > 0. */
size_t nib_utf8_back(const char *text, size_t at);
#endif
