/* qparams.h: scale and zero of a block from its least and greatest value, and what a kernel needs
 * to turn its weights into codes. Everything is torchao 0.18's arithmetic (quantization/
 * quant_primitives.py), restated in docs/schemes.md; the dtype in which a step rounds is half of
 * it. */
#ifndef NIB_QUANT_QPARAMS_H
#define NIB_QUANT_QPARAMS_H
#include <nibble/extend.h>

typedef struct nib_qrule {
    nib_mapping mapping;
    float eps;  /* the smallest scale, not used by ABSMAX */
    bool plain; /* MIN_TO_MAX as MSLK's int4 kernels do it: all steps in f32,
                   codes from the scale before it rounds to scale_dtype */
} nib_qrule;

enum { NIB_QPARAMS_MOST = 128 }; /* blocks handled at once */

/* What kernels need to make codes of some blocks: one array an operand. */
typedef struct nib_operands {
    float inverse[NIB_QPARAMS_MOST]; /* POINT, NONE: codes are rne(w * inverse) + zero */
    float shift[NIB_QPARAMS_MOST];   /* MID, SHIFT: rne((w - shift) / divisor) + zero */
    float divisor[NIB_QPARAMS_MOST];
    int32_t zero[NIB_QPARAMS_MOST];
} nib_operands;

/* The smallest scale that torchao allows unless told otherwise: the smallest normal of the weight's
 * dtype, or for "v0.17" and before its epsilon. */
float nib_qrule_eps(nib_dtype weight, const char *version);

/* From min and max of `count` blocks to scale and zero as stored, rounding in desc->math, and the
 * operands for them. `zero` may be NULL when desc has none. */
void nib_qparams_choose(const nib_qrule *rule, const nib_qdesc *desc, int64_t count,
                        const float *min, const float *max, float *scale, float *zero,
                        nib_operands *operands);

/* Operands for scales and zeros that are given. */
void nib_qparams_operands(const nib_qdesc *desc, int64_t count, const float *scale,
                          const float *zero, nib_operands *operands);

/* The dtype in which quantizing rounds: that of weight and scale, f32 when they differ. */
nib_dtype nib_qdesc_product(const nib_qdesc *desc);

/* Rows of a dense float matrix [n, cols] through choose (unless `given`: then codes hold scale and
 * zero) and quantize. Blocks that span rows need their range: `stats` of all rows they span. Cannot
 * fail, allocates nothing. */
void nib_affine_rows(const nib_qrule *rule, bool given, const nib_stats *stats,
                     const nib_tensor *rows, nib_codes *out);

/* Least and greatest value of rows, added to stats. NaN if there is one. */
void nib_stats_add(nib_stats *stats, const nib_tensor *rows);

/* What scheme functions and primitives check first: rows is a dense float [n, cols] matrix with
 * unit stride along columns, n rows of out, in out's dtype. */
nib_status nib_rows_check(const nib_tensor *rows, const nib_codes *out);
#endif
