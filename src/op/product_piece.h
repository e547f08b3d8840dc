/* product_piece.h: up to WIDTH channels of one weight, or more where it is in lanes, for all rows
 * of the inputs: what the threads of a product do. Legend: M rows, K columns. */
#ifndef NIB_OP_PRODUCT_PIECE_H
#define NIB_OP_PRODUCT_PIECE_H
#include "base/checked.h"
#include "base/error.h"
#include "base/mem.h"
#include "op/quantize_rows.h"
#include "quant/lanes.h"
#include "quant/layouts.h"

enum {
    NIB_PIECE = 4,                           /* panels that a thread takes at once */
    NIB_PIECE_WIDTH = NIB_PIECE * NIB_PANEL, /* their channels */
};

/* How a weight is multiplied. */
typedef enum nib_operand_how {
    NIB_OPERAND_DENSE,  /* floats where they lie */
    NIB_OPERAND_LANES,  /* prepared */
    NIB_OPERAND_LIFTED, /* stored as in a file: each panel is put in lanes when it is met */
    NIB_OPERAND_CODES,  /* what no kernel reads: code by code, the reference */
} nib_operand_how;

typedef struct nib_operand {
    const nib_tensor *t; /* NULL: there is none */
    nib_operand_how how;
    const nib_layout *layout; /* LIFTED: which lanes */
    nib_lane_weight lane;     /* LANES */
    bool integer;             /* inputs are codes, */
    nib_rows_kind kind;       /* of this kind */
    nib_rows_i8 rows;
} nib_operand;

/* What the pieces of a product share. */
typedef struct nib_inputs {
    const nib_kernels *k;
    const float *x;
    const float *rows; /* x as gemm_rows_f32 reads it; where M > NIB_LANE_ROWS meets float inputs */
    int64_t M, K, kc;  /* kc: columns that are widened at once */
    /* Where things lie in a block of scratch. */
    size_t at_lane, at_panels, at_rows, at_codes, at_digits, at_lift[NIB_MAX_PARTS];
} nib_inputs;

typedef struct nib_piece {
    const nib_inputs *in;
    char *scratch;
    int64_t n, channels; /* the first one, and how many */
} nib_piece;

/* Does a weight meet codes, and of which kind? Those below 8 bits that stand in lanes do in any
 * case: what was not asked to be quantized are digits. */
bool nib_operand_kind(const nib_tensor *w, nib_rows_kind *kind);

/* Fails: NIB_E_UNSUPPORTED for a weight whose inputs nobody makes. */
nib_status nib_operand_open(nib_operand *o, const nib_tensor *t);

/* Inputs are codes of one scale already, of 8 or 7 bits, whatever the weight asks for by itself. */
void nib_operand_take_codes(nib_operand *o, int bits);

/* y = x W^T, no more. y points at channel 0 of the weight, rows ldy apart. */
void nib_piece_multiply(const nib_piece *s, const nib_operand *o, float *y, int64_t ldy);

/* Adds the scratch that nib_piece_multiply wants for an operand of these inputs to what others
 * want; nib_piece_place then says where each thing lies, and how large the whole block is; true:
 * overflow. */
typedef struct nib_piece_sizes {
    size_t lane, panels, rows, codes, digits, lift[NIB_MAX_PARTS];
} nib_piece_sizes;
void nib_piece_want(nib_piece_sizes *sizes, const nib_inputs *in, const nib_operand *o);
bool nib_piece_place(nib_inputs *in, const nib_piece_sizes *sizes, size_t *whole);

/* Adds `size` bytes, rounded up to a line, and returns where they begin; true: overflow. */
static inline bool nib_place(size_t *whole, size_t size, size_t *at) {
    *at = *whole;
    return nib_align_size(size, NIB_MEM_ALIGN, &size) || nib_add_size(*whole, size, whole);
}
#endif
