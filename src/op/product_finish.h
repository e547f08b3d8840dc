/* product_finish.h: what follows a product, row by row while it is in the cache: bias, activation,
 * gate, residual, and the way to another type. Legend: M rows, N channels of the weight. */
#ifndef NIB_OP_PRODUCT_FINISH_H
#define NIB_OP_PRODUCT_FINISH_H
#include "op/product.h"

/* A part of a result: rows [m, m + rows) by channels [n, n + channels). */
typedef struct nib_product_part {
    int64_t N, m, n, rows, channels;
} nib_product_part;

/* A residual may be y itself, and a narrow y has no room for f32: such a product is made beside and
 * put to y after. */
bool nib_product_beside(const nib_product *p);

/* Is there anything to do where the product stands in y? */
bool nib_product_finishes(const nib_product *p);

/* values: x W^T of the part, rows ld apart, which become the result; those made beside are put to
 * p->y as well. up: x U^T, rows ld_up apart, where p->up is, else NULL; written to. */
void nib_product_finish(const nib_kernels *k, const nib_product *p, const nib_product_part *part,
                        float *values, int64_t ld, float *up, int64_t ld_up);
#endif
