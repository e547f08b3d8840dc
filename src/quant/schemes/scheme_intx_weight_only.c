/* intx_weight_only: torchao's IntxWeightOnlyConfig, made by IntxUnpackedToInt8Tensor.from_hp:
 * signed codes of 1 to 8 bits; every step rounds in the weight's dtype. With scale_dtype the scale
 * is cast after it was chosen, and codes are made from the cast one. */
#include <string.h>

#include "base/error.h"
#include "quant/block.h"
#include "quant/hqq.h"
#include "quant/qparams.h"

static const char *const granularities[] = {"row", "group", NULL};
static const char *const mappings[] = {"symmetric", "asymmetric", "symmetric_no_clipping_err",
                                       NULL};
static const char *const algos[] = {"minmax", "minmax", "", "hqq", NULL}; /* by nib_algo */
static const char *const scales[] = {"weight", "f32", "f16", "bf16", NULL};
static const char *const versions[] = {"v0.18", "v0.17", NULL};
static const nib_field fields[] = {
    NIB_FIELD(nib_intx_weight_only, bits, .type = NIB_FIELD_INT, .fallback = 8, .min = 1, .max = 8,
              .doc = "bits of a code"),
    NIB_FIELD(nib_intx_weight_only, granularity, .type = NIB_FIELD_NAME, .names = granularities,
              .doc = "what shares a scale: a row, or a group of columns in it"),
    NIB_FIELD(nib_intx_weight_only, group_size, .type = NIB_FIELD_INT, .fallback = 128, .min = 1,
              .max = NIB_GROUP_MAX,
              .doc = "columns of a group; must divide the columns of the weight"),
    NIB_FIELD(nib_intx_weight_only, mapping, .type = NIB_FIELD_NAME, .names = mappings,
              .doc = "how the range maps onto codes"),
    NIB_FIELD(nib_intx_weight_only, algo, .type = NIB_FIELD_ENUM, .names = algos,
              .doc = "how scales are chosen: from the range, or hqq, which minimizes the error"),
    NIB_FIELD(nib_intx_weight_only, scale_dtype, .type = NIB_FIELD_NAME, .names = scales,
              .doc = "what scales are stored as"),
    NIB_FIELD(nib_intx_weight_only, eps, .type = NIB_FIELD_NAME, .names = versions,
              .doc = "the smallest scale, as of which torchao"),
};
_Static_assert(sizeof(nib_intx_weight_only) == sizeof(nib_config) + 7 * sizeof(void *),
               "a member without a field");

static const char *const aliases[] = {"IntxWeightOnlyConfig", "intx_weight_only", NULL};

static const nib_intx_weight_only *own(const nib_config *c) { return (const void *)c; }
static bool hqq(const nib_config *c) { return own(c)->algo == NIB_ALGO_HQQ; }
static int bits_of(const nib_config *c) { return own(c)->bits ? own(c)->bits : 8; }

static nib_mapping mapping_of(const nib_config *c) {
    const char *mapping = own(c)->mapping;
    if (!mapping || strcmp(mapping, "symmetric") == 0) return NIB_MAP_SYMMETRIC;
    return strcmp(mapping, "asymmetric") == 0 ? NIB_MAP_ASYMMETRIC : NIB_MAP_SYMMETRIC_NO_CLIPPING;
}

static nib_dtype scale_dtype_of(const nib_config *c, nib_dtype weight) {
    const char *dtype = own(c)->scale_dtype;
    if (!dtype || strcmp(dtype, "weight") == 0) return weight;
    return strcmp(dtype, "f32") == 0 ? NIB_F32 : strcmp(dtype, "f16") == 0 ? NIB_F16 : NIB_BF16;
}

static nib_status check(const nib_config *c) {
    NIB_TRY(nib_block_check(c->scheme, own(c)->granularity, own(c)->group_size));
    if (hqq(c) && mapping_of(c) != NIB_MAP_SYMMETRIC)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "intx_weight_only: algo=hqq is symmetric, leave out mapping");
    if (bits_of(c) == 1 && mapping_of(c) == NIB_MAP_SYMMETRIC_NO_CLIPPING)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "intx_weight_only: mapping=symmetric_no_clipping_err divides "
                         "by the largest code, which is 0 for bits=1");
    return NIB_OK;
}

static nib_status plan(const nib_config *c, const nib_site *site, nib_qdesc *weight, nib_act *in,
                       nib_act *out) {
    static const nib_dtype codes[9] = {0,      NIB_I1, NIB_I2, NIB_I3, NIB_I4,
                                       NIB_I5, NIB_I6, NIB_I7, NIB_I8};
    const char *granularity = own(c)->granularity ? own(c)->granularity : granularities[0];
    *in = *out = (nib_act){0};
    const nib_status status =
        nib_block_plan(weight, site, granularity, own(c)->group_size ? own(c)->group_size : 128);
    weight->code = codes[bits_of(c)];
    weight->scale_dtype = scale_dtype_of(c, weight->math);
    if (mapping_of(c) == NIB_MAP_ASYMMETRIC) {
        weight->zero_kind = NIB_ZERO_POINT;
        weight->zero_dtype = NIB_I8;
    }
    return status;
}

static nib_status quantize(const nib_config *c, const nib_stats *stats, const nib_tensor *rows,
                           nib_codes *out) {
    const nib_status status = nib_rows_check(rows, out);
    if (status != NIB_OK) return status;
    if (hqq(c)) return nib_hqq_scale(rows, out);
    const nib_qrule rule = {.mapping = mapping_of(c),
                            .eps = nib_qrule_eps(out->desc.math, own(c)->eps)};
    nib_affine_rows(&rule, false, stats, rows, out);
    return NIB_OK;
}

const nib_scheme nib_scheme_intx_weight_only = {
    .name = "intx_weight_only",
    .doc = "weights of 1 to 8 bits, activations untouched",
    .system = "torchao",
    .aliases = aliases,
    .config_size = sizeof(nib_intx_weight_only),
    .fields = fields,
    .nfields = sizeof fields / sizeof *fields,
    .check = check,
    .plan = plan,
    .whole = hqq,
    .quantize = quantize,
};
