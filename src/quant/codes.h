/* codes.h: codes of some rows before packing, and what they stand for. */
#ifndef NIB_QUANT_CODES_H
#define NIB_QUANT_CODES_H
#include <nibble/extend.h>

#include "base/halffloat.h"
#include "base/mem.h"
#include "kernel/kernel.h"

/* The kernels of this machine, for work that has no context at hand. NIB_ISA lowers them; the isa
 * of a context's options does not, and need not: all give the same bits. */
const nib_kernels *nib_codes_kernels(void);

/* Blocks in a row of blocks, and in all. */
int64_t nib_qdesc_block_cols(const nib_qdesc *desc); /* ceil(cols / block_cols) */
int64_t nib_qdesc_blocks(const nib_qdesc *desc);

/* Rows of one matrix: all of them, or for a stack (rank > 2) those of one of its matrices. */
int64_t nib_qdesc_matrix_rows(const nib_qdesc *desc);

/* True for a matrix or a stack of them; false when an output sums over several dimensions, as a
 * convolution does. */
bool nib_qdesc_stack(const nib_qdesc *desc);

/* Raises NIB_E_SHAPE or NIB_E_DTYPE unless counts are positive, agree and do not overflow. Whoever
 * makes a descriptor from a file or a caller's numbers checks it once; the rest relies on it. */
nib_status nib_qdesc_check(const nib_qdesc *desc);

/* A weight's shape as a matrix, with the whole of it one block: what plan functions start from. */
nib_status nib_qdesc_init(nib_qdesc *desc, const nib_site *site);

/* The descriptor of `rows` of the rows, as a matrix of its own. */
nib_qdesc nib_qdesc_of_rows(const nib_qdesc *desc, int64_t rows);

int nib_qdesc_bits(const nib_qdesc *desc);     /* bits of a code */
bool nib_qdesc_integer(const nib_qdesc *desc); /* integer codes, not narrow floats */
bool nib_qdesc_signed(const nib_qdesc *desc);  /* codes in q are int8_t */
void nib_qdesc_range(const nib_qdesc *desc, int *qmin, int *qmax); /* integer codes only */
int nib_qdesc_mid(const nib_qdesc *desc);                          /* (qmin + qmax + 1) / 2 */

/* Room for the codes of all rows that desc describes, zeroed. */
nib_status nib_codes_alloc(nib_mem *mem, const nib_qdesc *desc, nib_codes *out);
void nib_codes_free(nib_mem *mem, nib_codes *codes); /* a zeroed struct is fine */

/* Rows [row, row + rows) of codes, sharing their memory; block rows must not be cut, unless all
 * rows share one. */
nib_codes nib_codes_rows(const nib_codes *codes, int64_t row, int64_t rows);

/* What the codes stand for: [rows, cols] f32, each value exact in desc.math, every step rounded
 * to desc.math as the system that defined the scheme rounds it. */
void nib_codes_dequantize(const nib_codes *codes, float *out);

/* What code i (row-major) stands for before scale and zero: the integer, or the narrow float. */
float nib_code_value(const nib_codes *codes, int64_t i);

/* What is added to scale * code in a product, for the codes of one block: docs/numerics.md,
 * "Quantized weights". */
float nib_codes_offset(const nib_codes *codes, int64_t block);

/* A value rounded to a float dtype (f32, f16, bf16), or as it is for another. A NaN stays one. */
static inline float nib_round_to(float x, nib_dtype dtype) {
    if (dtype == NIB_BF16) return nib_bf16_to_f32(nib_f32_to_bf16(x));
    if (dtype == NIB_F16) return nib_f16_to_f32(nib_f32_to_f16(x));
    return x;
}

/* n elements of a float dtype as f32. */
void nib_to_f32(nib_dtype dtype, float *out, const void *x, size_t n);
#endif
