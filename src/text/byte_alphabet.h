/* byte_alphabet.h: GPT-2's spelling of bytes as visible characters.
 *
 * Printable bytes of Latin-1 stand for themselves, the others, in order, for U+0100 and on: a
 * space is U+0120. So any bytes are text without blanks or control characters. */
#ifndef NIB_TEXT_BYTE_ALPHABET_H
#define NIB_TEXT_BYTE_ALPHABET_H
#include "base/text_util.h"

void nib_byte_alphabet_encode(const char *bytes, size_t length, nib_text *out);

/* The byte that a character stands for, or -1. */
int nib_byte_alphabet_decode(int32_t code);
#endif
