/* lanes_lay.h: matrices of codes, as files have them, to panels of lanes without a copy of the
 * codes in between: what a model that is opened waits for. */
#ifndef NIB_QUANT_LANES_LAY_H
#define NIB_QUANT_LANES_LAY_H
#include <nibble/extend.h>

#include "kernel/kernel.h"

typedef enum nib_stored_how {
    NIB_STORED_BYTES, /* a code a byte */
    NIB_STORED_BITS,  /* as base/bits.h has them, each row from a byte on */
    NIB_STORED_BANDS, /* as quanto_bits has them: 4 or 2 bits of rows far apart in a byte */
    NIB_STORED_DOWN,  /* as awq_gemm has them: u of eight rows of a column in a word, ld bytes from
                       * column to column */
} nib_stored_how;

/* Value of block row r and group g: at[r * row + g * group], elements of dtype; U4: words of eight
 * rows as those of codes, 8 higher where codes are signed. */
typedef struct nib_stored_values {
    const void *at;
    nib_dtype dtype;
    int64_t row, group;
} nib_stored_values;

typedef struct nib_stored {
    nib_stored_how how;
    const uint8_t *codes;
    int64_t ld; /* bytes from row to row */
    nib_stored_values scale, zero;
} nib_stored;

/* Where codes and values lie of a weight in layout `from`, whose parts begin at part[]; false: in a
 * way that is not known here, or that rows [0, rows) of 16 cannot be laid of. */
bool nib_stored_of(const nib_layout *from, const nib_qdesc *desc, const void *const part[],
                   nib_stored *stored);

/* The panels of rows [row, row + rows), of every band where there are such, to the parts of
 * nib_lanes_parts of the whole matrix. `row` is a multiple of 16, rows too but at the end. Cannot
 * fail, allocates nothing. */
void nib_lanes_lay(const nib_qdesc *desc, const nib_stored *from, void *const to[], int64_t row,
                   int64_t rows);
#endif
