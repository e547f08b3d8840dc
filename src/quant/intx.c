/* intx.c: every step rounds in the weight's dtype. With scale_dtype the scale is cast after it was
 * chosen, and codes are made from the cast one. */
#include "quant/intx.h"

#include <string.h>

#include "base/error.h"
#include "quant/block.h"
#include "quant/hqq.h"
#include "quant/qparams.h"

const char *const nib_intx_mappings[] = {"symmetric", "asymmetric", "symmetric_no_clipping_err",
                                         NULL};
const char *const nib_intx_algos[] = {"minmax", "minmax", "", "hqq", NULL}; /* by nib_algo */
const char *const nib_intx_scales[] = {"weight", "f32", "f16", "bf16", NULL};
const char *const nib_intx_versions[] = {"v0.18", "v0.17", NULL};

static nib_mapping mapping_of(const nib_intx *o) {
    if (strcmp(o->mapping, "symmetric") == 0) return NIB_MAP_SYMMETRIC;
    return strcmp(o->mapping, "asymmetric") == 0 ? NIB_MAP_ASYMMETRIC
                                                 : NIB_MAP_SYMMETRIC_NO_CLIPPING;
}

static nib_dtype scale_dtype_of(const nib_intx *o, nib_dtype weight) {
    if (strcmp(o->scale_dtype, "weight") == 0) return weight;
    return strcmp(o->scale_dtype, "f32") == 0   ? NIB_F32
           : strcmp(o->scale_dtype, "f16") == 0 ? NIB_F16
                                                : NIB_BF16;
}

nib_status nib_intx_check(const nib_scheme *scheme, const nib_intx *o) {
    if (o->hqq && mapping_of(o) != NIB_MAP_SYMMETRIC)
        return NIB_RAISE(NIB_E_ARGUMENT, "%s: algo=hqq is symmetric, leave out mapping",
                         scheme->name);
    if (o->bits == 1 && mapping_of(o) == NIB_MAP_SYMMETRIC_NO_CLIPPING)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "%s: mapping=symmetric_no_clipping_err divides "
                         "by the largest code, which is 0 for bits=1",
                         scheme->name);
    return NIB_OK;
}

nib_status nib_intx_plan(const nib_intx *o, const nib_site *site, nib_qdesc *weight) {
    static const nib_dtype codes[9] = {0,      NIB_I1, NIB_I2, NIB_I3, NIB_I4,
                                       NIB_I5, NIB_I6, NIB_I7, NIB_I8};
    const nib_status status = nib_block_plan(weight, site, o->granularity, o->group_size);
    weight->code = codes[o->bits];
    weight->scale_dtype = scale_dtype_of(o, weight->math);
    if (mapping_of(o) == NIB_MAP_ASYMMETRIC) {
        weight->zero_kind = NIB_ZERO_POINT;
        weight->zero_dtype = NIB_I8;
    }
    return status;
}

nib_status nib_intx_quantize(const nib_intx *o, const nib_stats *stats, const nib_tensor *rows,
                             nib_codes *out) {
    NIB_TRY(nib_rows_check(rows, out));
    if (o->hqq) return nib_hqq_scale(rows, out);
    const nib_qrule rule = {.mapping = mapping_of(o), .eps = nib_qrule_eps(out->desc.math, o->eps)};
    nib_affine_rows(&rule, false, stats, rows, out);
    return NIB_OK;
}
