/* lanes_panel.h: sixteen rows of codes, a byte each, as one panel of lanes: what a model that is
 * opened waits for. */
#ifndef NIB_QUANT_LANES_PANEL_H
#define NIB_QUANT_LANES_PANEL_H
#include <nibble/extend.h>

#include "kernel/kernel.h"

/* How bytes q become codes u of so many bits: u = (q + bias) mod 2^bits, c = u - mid; columns: of a
 * panel, those that fill its last cell too. Narrow floats stay what they are. */
typedef struct nib_panel_kind {
    nib_lane lane; /* all but WX */
    int bits, bias, mid;
    int64_t columns;
} nib_panel_kind;

/* Rows [row, row + 16), those that there are, of matrix-wide codes whose groups are 32 columns, a
 * multiple of that, or whole rows. correction: [16] of docs/numerics.md, 0 for floats and for rows
 * that there are not. */
void nib_lanes_panel(const nib_panel_kind *kind, const nib_codes *codes, int64_t row,
                     uint8_t *panel, float *correction);

/* acc = fma(x, y, acc) of 16 channels. */
void nib_lanes_multiply_add(float *acc, const float *x, const float *y);
#endif
