/* nibbles.h: 4-bit codes whose places are a formula: what layouts of GPU kernels are made of. */
#ifndef NIB_QUANT_NIBBLES_H
#define NIB_QUANT_NIBBLES_H
#include <nibble/extend.h>

/* How many half bytes lie before the code of row n and column k, the lower half of a byte before
 * the upper one. In little-endian words of any width these are the halves from the lowest up. */
typedef int64_t nib_nibble_place(const nib_qdesc *desc, int64_t n, int64_t k);

/* Half byte i of a word of eight is value 0 2 4 6 1 3 5 7: two in the 16-bit halves of a word are
 * then neighbours, as tensor cores want them. This is where value i goes. */
static inline int nib_nibble_interleaved(int i) { return i % 2 * 4 + i / 2; }

/* All codes to their places, of which no other bits are there; and rows from `row` on back. Codes
 * have `bias` added on the way in and taken away on the way out, 8 for signed ones. */
void nib_nibbles_put(void *part, const nib_codes *codes, nib_nibble_place *place, int bias);
void nib_nibbles_get(nib_codes *codes, const void *part, const nib_qdesc *desc, int64_t row,
                     nib_nibble_place *place, int bias);
#endif
