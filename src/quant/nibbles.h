/* nibbles.h: 4-bit codes whose places are a formula: what layouts of GPU kernels are made of. */
#ifndef NIB_QUANT_NIBBLES_H
#define NIB_QUANT_NIBBLES_H
#include <nibble/extend.h>
#include <string.h>

/* How many half bytes lie before the code of row n and column k, the lower half of a byte before
 * the upper one. In little-endian words of any width these are the halves from the lowest up. */
typedef int64_t nib_nibble_place(const nib_qdesc *desc, int64_t n, int64_t k);

/* Half byte i of a word of eight is value 0 2 4 6 1 3 5 7: two in the 16-bit halves of a word are
 * then neighbours, as tensor cores want them. This is where value i goes. */
static inline int nib_nibble_interleaved(int i) { return i % 2 * 4 + i / 2; }

/* All codes to their places, of which no other bits are there; and rows from `row` on back. Codes
 * have `bias` added on the way in and taken away on the way out, 8 for signed ones. Here, so that
 * `place` is part of the loop. */
static inline void nib_nibbles_put(void *part, const nib_codes *codes, nib_nibble_place *place,
                                   int bias) {
    const nib_qdesc *d = &codes->desc;
    const uint8_t *q = codes->q;
    uint8_t *bytes = part;
    memset(bytes, 0, (size_t)(d->rows * d->cols / 2));
    for (int64_t n = 0; n < d->rows; n++)
        for (int64_t k = 0; k < d->cols; k++) {
            const int64_t at = place(d, n, k);
            const int code = (*q++ + bias) & 15;
            bytes[at / 2] |= (uint8_t)(at % 2 ? code << 4 : code);
        }
}

static inline void nib_nibbles_get(nib_codes *codes, const void *part, const nib_qdesc *desc,
                                   int64_t row, nib_nibble_place *place, int bias) {
    const uint8_t *bytes = part;
    uint8_t *q = codes->q;
    for (int64_t n = row; n < row + codes->desc.rows; n++)
        for (int64_t k = 0; k < desc->cols; k++) {
            const int64_t at = place(desc, n, k);
            *q++ = (uint8_t)((at % 2 ? bytes[at / 2] >> 4 : bytes[at / 2] & 15) - bias);
        }
}
#endif
