/* quantize_rows.h: inputs of a product as 8-bit codes, the way a weight asks for them. */
#ifndef NIB_OP_QUANTIZE_ROWS_H
#define NIB_OP_QUANTIZE_ROWS_H
#include <nibble/extend.h>

#include "kernel/kernel.h"

/* How a weight wants its inputs: what is the same for two weights serves both. */
typedef struct nib_rows_kind {
    int64_t K,
        group;      /* columns, and those that share a sum: K % group == 0, or there are no sums */
    int bits;       /* of a code: 8 or 7 */
    bool symmetric; /* no zeros */
    float eps;      /* the smallest scale */
    bool all;       /* all rows share a scale */
    bool digits;    /* a row is three rows of codes, the digits of fixed point: what follows it here
                       but K and group does not count */
} nib_rows_kind;

/* What the weight w, of integer codes, wants: as its inputs are to be quantized or, where they are
 * not, digits. */
nib_rows_kind nib_rows_kind_of(const nib_tensor *w);
bool nib_rows_same(const nib_rows_kind *a, const nib_rows_kind *b); /* but for the group */

/* Rows of codes for M rows of inputs, digits and all. */
static inline int64_t nib_rows_count(const nib_rows_kind *kind, int64_t M) {
    return kind->digits ? NIB_DIGITS * M : M;
}

/* Rows from row m of the codes on. */
static inline nib_rows_i8 nib_rows_from(const nib_rows_i8 *rows, int64_t m, int64_t groups) {
    nib_rows_i8 from = *rows;
    from.q += m * rows->ld;
    from.scale += m;
    if (rows->sums) from.sums += m * groups;
    if (rows->zero) from.zero += m;
    return from;
}

/* Rows that are to be made: nib_rows_i8 with places to write to. M counts rows of codes. */
typedef struct nib_rows_made {
    int8_t *q; /* [M] rows of ld bytes */
    int64_t ld;
    float *scale;         /* [M] */
    int32_t *zero, *sums; /* [M] and [M, K / group]; NULL: none */
} nib_rows_made;

/* Rows that one op makes and another reads are an I8 tensor [..., nib_rows_width]: first all codes,
 * then scales, zeros and sums, each from a multiple of 64 bytes on. */
int64_t nib_rows_width(const nib_rows_kind *kind);
nib_rows_made nib_rows_within(const nib_rows_kind *kind, int64_t M, void *memory);
nib_rows_i8 nib_rows_read(const nib_rows_kind *kind, const nib_rows_made *made);

/* Bytes that the codes, scales and zeros of M rows of inputs take; 0: overflow. 64-byte aligned
 * parts. */
size_t nib_quantize_rows_size(const nib_rows_kind *kind, int64_t M);

/* x [M, K] contiguous -> codes, scales and, unless symmetric, zeros in `memory`, and in sums
 * [nib_rows_count, K / group] those of the codes of each group; sums NULL: none. On all threads of
 * the context. Rows are padded with zeros to rows->ld. */
void nib_quantize_rows(nib_ctx *ctx, const float *x, int64_t M, const nib_rows_kind *kind,
                       int32_t *sums, void *memory, nib_rows_i8 *rows);

/* The same of codes q [M, K] that are there already, symmetric and all with one scale. They are
 * read where they are if a kernel can, else copied. */
void nib_lay_rows(nib_ctx *ctx, const int8_t *q, float scale, int64_t M, const nib_rows_kind *kind,
                  int32_t *sums, void *memory, nib_rows_i8 *rows);

/* The sums alone, of M rows of codes. */
void nib_sum_rows(nib_ctx *ctx, const nib_rows_i8 *rows, int64_t M, int64_t K, int64_t G,
                  int32_t *sums);
#endif
