/* bmm.h: how a product of two matrices, or of batches of them, is cut: what floats (op_bmm.c) and
 * codes (codes_product.c) share. self [B, M, K], other [B, K, N]  ->  [B, M, N]. */
#ifndef NIB_OP_BMM_H
#define NIB_OP_BMM_H
#include "op/op.h"

enum {
    NIB_BMM_WIDTH = 64, /* columns of `other` that are laid out at once */
    NIB_BMM_ROWS = 256, /* rows of `self` that meet them in one piece */
};

typedef struct nib_bmm_cut {
    int64_t B, M, N, K;
    int64_t across, down; /* pieces of a result along N and M */
} nib_bmm_cut;

/* Shapes as the ops bmm and mm want them; false: they do not fit. */
bool nib_bmm_fits(const nib_call_args *args, nib_bmm_cut *out);

/* Piece `index` of B * across * down: those of the same columns follow one another. */
typedef struct nib_bmm_piece {
    int64_t b, row, rows, column, columns;
    int64_t layout; /* the same number: the same columns */
} nib_bmm_piece;
nib_bmm_piece nib_bmm_at(const nib_bmm_cut *bmm, int64_t index);
#endif
