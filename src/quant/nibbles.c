#include "quant/nibbles.h"

#include <string.h>

void nib_nibbles_put(void *part, const nib_codes *codes, nib_nibble_place *place, int bias) {
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

void nib_nibbles_get(nib_codes *codes, const void *part, const nib_qdesc *desc, int64_t row,
                     nib_nibble_place *place, int bias) {
    const uint8_t *bytes = part;
    uint8_t *q = codes->q;
    for (int64_t n = row; n < row + codes->desc.rows; n++)
        for (int64_t k = 0; k < desc->cols; k++) {
            const int64_t at = place(desc, n, k);
            *q++ = (uint8_t)((at % 2 ? bytes[at / 2] >> 4 : bytes[at / 2] & 15) - bias);
        }
}
