/* intx.h: signed codes of 1 to 8 bits as torchao's IntxUnpackedToInt8Tensor.from_hp makes them,
 * which its weight-only and its dynamic schemes share. */
#ifndef NIB_QUANT_INTX_H
#define NIB_QUANT_INTX_H
#include <nibble/extend.h>

/* The options of such a scheme, each default spelled out. */
typedef struct nib_intx {
    int bits;
    const char *granularity; /* "row" or "group" */
    int group_size;
    const char *mapping; /* "symmetric", "asymmetric", "symmetric_no_clipping_err" */
    bool hqq;
    const char *scale_dtype; /* "weight", "f32", "f16", "bf16" */
    const char *eps;         /* "v0.18", "v0.17" */
} nib_intx;

/* What fields of this kind are called, ended by NULL. */
extern const char *const nib_intx_mappings[],
    *const nib_intx_algos[], *const nib_intx_scales[], *const nib_intx_versions[];

nib_status nib_intx_check(const nib_scheme *scheme, const nib_intx *options);
nib_status nib_intx_plan(const nib_intx *options, const nib_site *site, nib_qdesc *weight);
nib_status nib_intx_quantize(const nib_intx *options, const nib_stats *stats,
                             const nib_tensor *rows, nib_codes *out);
#endif
