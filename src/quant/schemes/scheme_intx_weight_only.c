/* intx_weight_only: torchao's IntxWeightOnlyConfig, codes of quant/intx.c. */
#include "quant/block.h"
#include "quant/intx.h"

static const char *const granularities[] = {"row", "group", NULL};
static const nib_field fields[] = {
    NIB_FIELD(nib_intx_weight_only, bits, .type = NIB_FIELD_INT, .fallback = 8, .min = 1, .max = 8,
              .doc = "bits of a code"),
    NIB_FIELD(nib_intx_weight_only, granularity, .type = NIB_FIELD_NAME, .names = granularities,
              .doc = "what shares a scale: a row, or a group of columns in it"),
    NIB_FIELD(nib_intx_weight_only, group_size, .type = NIB_FIELD_INT, .fallback = 128, .min = 1,
              .max = NIB_GROUP_MAX,
              .doc = "columns of a group; must divide the columns of the weight"),
    NIB_FIELD(nib_intx_weight_only, mapping, .type = NIB_FIELD_NAME, .names = nib_intx_mappings,
              .doc = "how the range maps onto codes"),
    NIB_FIELD(nib_intx_weight_only, algo, .type = NIB_FIELD_ENUM, .names = nib_intx_algos,
              .doc = "how scales are chosen: from the range, or hqq, which minimizes the error"),
    NIB_FIELD(nib_intx_weight_only, scale_dtype, .type = NIB_FIELD_NAME, .names = nib_intx_scales,
              .doc = "what scales are stored as"),
    NIB_FIELD(nib_intx_weight_only, eps, .type = NIB_FIELD_NAME, .names = nib_intx_versions,
              .doc = "the smallest scale, as of which torchao"),
};
_Static_assert(sizeof(nib_intx_weight_only) == sizeof(nib_config) + 7 * sizeof(void *),
               "a member without a field");

static const char *const aliases[] = {"IntxWeightOnlyConfig", "intx_weight_only", NULL};

static const nib_intx_weight_only *own(const nib_config *c) { return (const void *)c; }

static nib_intx options(const nib_config *c) {
    const nib_intx_weight_only *o = own(c);
    return (nib_intx){.bits = o->bits ? o->bits : 8,
                      .granularity = o->granularity ? o->granularity : granularities[0],
                      .group_size = o->group_size ? o->group_size : 128,
                      .mapping = o->mapping ? o->mapping : nib_intx_mappings[0],
                      .hqq = o->algo == NIB_ALGO_HQQ,
                      .scale_dtype = o->scale_dtype ? o->scale_dtype : nib_intx_scales[0],
                      .eps = o->eps};
}

static bool whole(const nib_config *c) { return own(c)->algo == NIB_ALGO_HQQ; }

static nib_status check(const nib_config *c) {
    const nib_intx o = options(c);
    const nib_status status = nib_block_check(c->scheme, own(c)->granularity, own(c)->group_size);
    return status < NIB_OK ? status : nib_intx_check(c->scheme, &o);
}

static nib_status plan(const nib_config *c, const nib_site *site, nib_qdesc *weight, nib_act *in,
                       nib_act *out) {
    const nib_intx o = options(c);
    *in = *out = (nib_act){0};
    return nib_intx_plan(&o, site, weight);
}

static nib_status quantize(const nib_config *c, const nib_stats *stats, const nib_tensor *rows,
                           nib_codes *out) {
    const nib_intx o = options(c);
    return nib_intx_quantize(&o, stats, rows, out);
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
    .whole = whole,
    .quantize = quantize,
};
