/* layouts.h: find the layout that holds given codes. */
#ifndef NIB_QUANT_LAYOUTS_H
#define NIB_QUANT_LAYOUTS_H
#include <nibble/extend.h>

#include "base/mem.h"
#include "tensor/tensor.h"

const nib_layout *nib_layout_find(const char *name);   /* NULL and no raise when unknown */
const nib_layout *nib_layout_at(size_t i);             /* in list order; NULL: no more */

/* The first layout of the list that holds such codes exactly: the most compact canonical one.
 * Raises NIB_E_UNSUPPORTED when there is none. */
const nib_layout *nib_layout_for(const nib_qdesc *desc);

/* Codes of all rows into a new quantized tensor, and rows of one back. Caller owns. */
nib_tensor *nib_pack_tensor(nib_ctx *ctx, const nib_layout *layout, const nib_codes *codes);
nib_status  nib_unpack_rows(const nib_tensor *t, int64_t row, int64_t rows, nib_codes *out); /* allocates */

/* Rows of any quantized or dense float matrix as f32 [rows, cols], exact in its math dtype;
 * `scratch` has nib_rows_scratch_size(t, rows) bytes. Cannot fail, allocates nothing. */
size_t nib_rows_scratch_size(const nib_tensor *t, int64_t rows);
void   nib_rows_to_f32(const nib_tensor *t, int64_t row, int64_t rows, float *out, void *scratch);
#endif
