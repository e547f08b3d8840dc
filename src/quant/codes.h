/* codes.h: codes of some rows before packing, and what they stand for. */
#ifndef NIB_QUANT_CODES_H
#define NIB_QUANT_CODES_H
#include <nibble/extend.h>

#include "base/mem.h"

/* Blocks in a row of blocks, in a column of blocks, and in all. */
int64_t nib_qdesc_block_cols(const nib_qdesc *desc);   /* ceil(cols / block_cols) */
int64_t nib_qdesc_block_rows(const nib_qdesc *desc);   /* ceil(rows / block_rows) */
int64_t nib_qdesc_blocks(const nib_qdesc *desc);

/* The descriptor of `rows` of the rows, as a matrix of its own. */
nib_qdesc nib_qdesc_of_rows(const nib_qdesc *desc, int64_t rows);

int  nib_qdesc_bits(const nib_qdesc *desc);            /* bits of a code */
void nib_qdesc_range(const nib_qdesc *desc, int *qmin, int *qmax); /* integer codes only */

/* Room for the codes of all rows that desc describes, zeroed. */
nib_status nib_codes_alloc(nib_mem *mem, const nib_qdesc *desc, nib_codes *out);
void       nib_codes_free(nib_mem *mem, nib_codes *codes);  /* a zeroed struct is fine */

/* What the codes stand for: [rows, cols] f32, each value exact in desc.math, every step rounded
 * to desc.math as the system that defined the scheme rounds it. */
void nib_codes_dequantize(const nib_codes *codes, float *out);
#endif
