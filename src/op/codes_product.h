/* codes_product.h: products of quantized activations in integers: of int8 codes by int8 codes. */
#ifndef NIB_OP_CODES_PRODUCT_H
#define NIB_OP_CODES_PRODUCT_H
#include "kernel/kernel.h"
#include "op/op.h"
#include "op/quantize_rows.h"

/* A call of bmm or mm: are its inputs such codes? Its result, f32. */
bool nib_codes_bmm_takes(const nib_call_args *args);
nib_status nib_codes_bmm(const nib_call_args *args);

/* ---- int8 codes [rows, K] with the scale 1 as kernels want a weight ---- */
typedef struct nib_codes_lanes { /* where its parts lie in `size` bytes of memory */
    int64_t rows, K;
    size_t at[NIB_MAX_PARTS], size;
} nib_codes_lanes;

bool nib_codes_lanes_hold(int64_t K);
bool nib_codes_lanes_plan(int64_t rows, int64_t K, nib_codes_lanes *out); /* true: overflow */

/* `rows` may be fewer than was planned for. memory: 64-byte aligned. */
nib_lane_weight nib_codes_lanes_lay(const nib_codes_lanes *lanes, const int8_t *q, int64_t rows,
                                    void *memory);

/* Its M rows of K codes, all with this scale, as rows of inputs. memory: nib_codes_rows_size bytes
 * (0: overflow), 64-byte aligned. */
size_t nib_codes_rows_size(int64_t M, int64_t K);
nib_rows_i8 nib_codes_rows_lay(const nib_tensor *x, float scale, int64_t M, int64_t K,
                               void *memory);
#endif
