/* lanes_bits.h: quanto_bits to lanes without the codes in between. A byte of quanto's holds codes
 * of rows far apart, so it is read once and opened for all of their panels together. */
#ifndef NIB_QUANT_LANES_BITS_H
#define NIB_QUANT_LANES_BITS_H
#include <nibble/extend.h>

/* Whether it can be done: bands of whole panels, rows of whole cells, bytes that four can be read
 * of at once. The parts are those of nib_layout_quanto_bits, which holds desc, as lanes do. */
bool nib_lanes_bits_fit(const nib_qdesc *desc, const void *const from[]);

/* Rows [row, row + rows) of every band, whole panels, to parts of the whole matrix; the same bytes
 * as unpacking and nib_lanes_pack. Cannot fail, allocates nothing. */
void nib_lanes_bits(const nib_qdesc *desc, const void *const from[], void *const to[], int64_t row,
                    int64_t rows);
#endif
