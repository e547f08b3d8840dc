/* int8_dynamic_activation_int4_weight ("8da4w"): torchao's Int8DynamicActivationIntxWeightConfig
 * with weight_dtype=int4. Weights are codes of quant/intx.c; the input of a linear is quantized to
 * 8 bits with a zero point when it is there, each token for itself, and integers are multiplied. */
#include "base/error.h"
#include "quant/block.h"
#include "quant/intx.h"
#include "quant/qparams.h"

typedef nib_int8_dynamic_activation_int4_weight own_options;

static const char *const granularities[] = {"group", "row", NULL};
static const nib_field fields[] = {
    NIB_FIELD(own_options, granularity, .type = NIB_FIELD_NAME, .names = granularities,
              .doc = "what shares a scale: a group of columns in a row, or the row"),
    NIB_FIELD(own_options, group_size, .type = NIB_FIELD_INT, .fallback = 32, .min = 1,
              .max = NIB_GROUP_MAX,
              .doc = "columns of a group; must divide the columns of the weight"),
    NIB_FIELD(own_options, mapping, .type = NIB_FIELD_NAME, .names = nib_intx_mappings,
              .doc = "how the range of weights maps onto codes"),
    NIB_FIELD(own_options, algo, .type = NIB_FIELD_ENUM, .names = nib_intx_algos,
              .doc = "how scales are chosen: from the range, or hqq, which minimizes the error"),
    NIB_FIELD(own_options, scale_dtype, .type = NIB_FIELD_NAME, .names = nib_intx_scales,
              .doc = "what scales are stored as"),
    NIB_FIELD(own_options, eps, .type = NIB_FIELD_NAME, .names = nib_intx_versions,
              .doc = "the smallest scale, of inputs too, as of which torchao"),
};
_Static_assert(sizeof(own_options) == sizeof(nib_config) + 6 * sizeof(void *),
               "a member without a field");

static const char *const aliases[] = {"8da4w", "int8_dynamic_activation_int4_weight",
                                      "Int8DynamicActivationInt4WeightConfig",
                                      "int8_dynamic_activation_int4_weight", NULL};

static const own_options *own(const nib_config *c) { return (const void *)c; }

static nib_intx options(const nib_config *c) {
    const own_options *o = own(c);
    return (nib_intx){.bits = 4,
                      .granularity = o->granularity ? o->granularity : granularities[0],
                      .group_size = o->group_size ? o->group_size : 32,
                      .mapping = o->mapping ? o->mapping : nib_intx_mappings[0],
                      .hqq = o->algo == NIB_ALGO_HQQ,
                      .scale_dtype = o->scale_dtype ? o->scale_dtype : nib_intx_scales[0],
                      .eps = o->eps};
}

static bool whole(const nib_config *c) { return own(c)->algo == NIB_ALGO_HQQ; }

static nib_status check(const nib_config *c) {
    const nib_intx o = options(c);
    const nib_status status = nib_block_check(c->scheme, o.granularity, own(c)->group_size);
    return status < NIB_OK ? status : nib_intx_check(c->scheme, &o);
}

static nib_status plan(const nib_config *c, const nib_site *site, nib_qdesc *weight, nib_act *in,
                       nib_act *out) {
    const nib_intx o = options(c);
    *in = *out = (nib_act){0};
    NIB_TRY(nib_intx_plan(&o, site, weight));
    *in = (nib_act){.when = NIB_ACT_DYNAMIC,
                    .dtype = NIB_I8,
                    .block = {2, {1, weight->cols}},
                    .eps = nib_qrule_eps(NIB_F32, o.eps)};
    return NIB_OK;
}

static nib_status quantize(const nib_config *c, const nib_stats *stats, const nib_tensor *rows,
                           nib_codes *out) {
    const nib_intx o = options(c);
    return nib_intx_quantize(&o, stats, rows, out);
}

const nib_scheme nib_scheme_int8_dynamic_activation_int4_weight = {
    .name = "int8_dynamic_activation_int4_weight",
    .doc = "4-bit weights in column groups, inputs quantized to 8 bits as they come",
    .system = "torchao",
    .aliases = aliases,
    .config_size = sizeof(own_options),
    .fields = fields,
    .nfields = sizeof fields / sizeof *fields,
    .check = check,
    .plan = plan,
    .whole = whole,
    .quantize = quantize,
};
