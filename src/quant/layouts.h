/* layouts.h: find the layout that holds given codes, and move rows in and out of it. */
#ifndef NIB_QUANT_LAYOUTS_H
#define NIB_QUANT_LAYOUTS_H
#include <nibble/extend.h>

#include "base/mem.h"
#include "tensor/tensor.h"

const nib_layout *nib_layout_find(const char *name); /* NULL and no raise when unknown */
const nib_layout *nib_layout_at(size_t i);           /* in list order; NULL: no more */

/* The first layout of the list that holds such codes exactly: the most compact canonical one.
 * Raises NIB_E_UNSUPPORTED when there is none. */
const nib_layout *nib_layout_for(const nib_qdesc *desc);

/* Raises NIB_E_UNSUPPORTED with what the layout was given and what it wants; returns it. */
nib_status nib_layout_refuse(const nib_layout *layout, const nib_qdesc *desc);

/* The layout in which kernels read such codes; NULL and no raise when there is none. */
const nib_layout *nib_layout_of_kernel(const nib_qdesc *desc);

/* 1, B for rows packed together with those of B - 1 distant runs, 0: all rows at once. */
int nib_layout_bands(const nib_layout *layout, const nib_qdesc *desc);

/* Bytes of a part. Its dtype is at least a byte wide, and its size was checked with desc. */
size_t nib_part_bytes(const nib_part *part);

/* Where the packed bytes of some rows lie in the whole part: `count` runs of `size` bytes, in the
 * packed buffer one after the other, in the part `step` bytes apart from `offset` on. */
typedef struct nib_part_runs {
    int64_t count;
    size_t size, step, offset;
} nib_part_runs;

/* For rows [row, row + rows) of the matrix, or with B > 1 bands, `rows` rows from `row` on of every
 * band; B * rows rows were packed. `row` is a multiple of every row_unit, and of a stack whose part
 * is transposed the rows lie in one matrix. A part that all rows share, and any when bands is 0,
 * has one run, the whole of it. */
nib_part_runs nib_part_place(const nib_part *part, const nib_qdesc *desc, int bands, int64_t row,
                             int64_t rows);

/* Rows that may be packed at once from `row` on, at most `most`: whole row units, no further than
 * the end of the matrix of a stack; all rows of a band when the layout is not separable. */
int64_t nib_layout_run(const nib_layout *layout, const nib_qdesc *desc, int64_t row, int64_t most);

/* Codes of all rows into a new quantized tensor, and rows of one back. Caller owns. */
nib_tensor *nib_pack_tensor(nib_ctx *ctx, const nib_layout *layout, const nib_codes *codes);
nib_status nib_unpack_rows(const nib_tensor *t, int64_t row, int64_t rows,
                           nib_codes *out); /* allocates */

/* Rows of any quantized or dense float matrix as f32 [rows, cols], exact in its math dtype;
 * `scratch` has nib_rows_scratch_size(t, rows) bytes. Cannot fail, allocates nothing. */
size_t nib_rows_scratch_size(const nib_tensor *t, int64_t rows);
void nib_rows_to_f32(const nib_tensor *t, int64_t row, int64_t rows, float *out, void *scratch);

/* The same rows of a quantized matrix as codes that live in `scratch`. */
nib_codes nib_rows_codes(const nib_tensor *t, int64_t row, int64_t rows, void *scratch);

/* All of a quantized tensor as a dense one of its outer dtype and shape; a dense one is copied.
 * Caller owns. */
nib_tensor *nib_dequantize_tensor(const nib_tensor *t);
#endif
