/* product.h: y = x W^T with everything that follows a product, for one or several weights that
 * meet the same inputs. What linear and the fused ops of a compiled step are made of.
 *
 * The weights are cut in panels of 16 channels and the panels dealt to the threads; every result
 * is defined by docs/numerics.md alone, so neither the cut nor the company of a weight shows.
 * Legend: M rows, N channels of a weight, K columns. */
#ifndef NIB_OP_PRODUCT_H
#define NIB_OP_PRODUCT_H
#include "op/quantize_rows.h"

typedef enum nib_activation {
    NIB_IDENTITY = 0,
    NIB_RELU,
    NIB_GELU,      /* by erf */
    NIB_GELU_TANH, /* its approximation by tanh */
    NIB_SILU,
} nib_activation;

/* y = residual + act(x W^T + bias) * (x U^T + up_bias); what is absent is left out. */
typedef struct nib_product {
    const nib_tensor *weight; /* [N, K], dense f32, f16, bf16 or quantized */
    const nib_tensor *bias;   /* [N] dense float, or NIB_NONE */
    nib_activation activation;
    const nib_tensor *up;      /* [N, K], or NIB_NONE; needs NIB_SILU */
    const nib_tensor *up_bias; /* [N], or NIB_NONE */
    const float *residual;     /* [M, N] contiguous, may be y; NULL: none */
    void *y;                   /* [M, N] contiguous, of */
    nib_dtype dtype;           /* F32 (0 is too), F16 or BF16; rounded once, at the end; or I8 or an
                                  8-bit float: codes as nib_act8_quantize makes them of f32, */
    float scale;               /* by this scale, */
    bool floor;                /* I8: and those below 0 become 0, as relu does to codes */
} nib_product;

enum { NIB_MAX_PRODUCTS = 4 };

/* All products of x [..., K] dense f32, contiguous, in one parallel loop; inputs are quantized once
 * for all weights that want them so. Or x are rows that were quantized before, I8 as in
 * quantize_rows.h, of the one kind that all the weights want; or codes of one
 * scale (quant/act8.h), where nib_product_takes_codes says so of all weights. Memory: the workspace
 * of the context. */
nib_status nib_products(nib_ctx *ctx, const nib_tensor *x, const nib_product *products, int count);

/* The rows that a weight wants; false: it wants floats, or one scale for all rows. */
bool nib_product_wants(const nib_tensor *weight, nib_rows_kind *kind);

/* Is x codes of one scale that stand for f32 floats, and the weight none? Int8 codes meet integer
 * weights in integers, whatever these ask for by themselves; others are opened in the workspace. */
bool nib_product_takes_codes(const nib_tensor *x, const nib_tensor *weight);

/* The checks and the shape that ops made of products share: y of x [..., K], or rows for K columns
 * that were quantized before, and weight [N, K] with bias [N] or NIB_NONE is [..., N]. */
nib_status nib_product_shape(const nib_op *op, const nib_tensor *x, const nib_tensor *weight,
                             const nib_tensor *bias, nib_shape *out);
int64_t nib_product_rows(const nib_tensor *x); /* M */

/* Ways of nib_products, of which the context's variant names one: how long the runs of panels are
 * that a thread takes, and how many columns are widened at once. */
enum { NIB_PRODUCT_VARIANTS = 3 };

/* Can nib_products take such a weight? */
bool nib_product_takes(const nib_tensor *weight);
#endif
