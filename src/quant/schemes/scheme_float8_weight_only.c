/* float8_weight_only: torchao's Float8WeightOnlyConfig, made by Float8Tensor.from_hp on a machine
 * without MSLK. The scale is max |w| / largest code, rounded in the weight's dtype and stored as
 * f32, without a lower bound: a block of zeros keeps the scale 0 that torchao writes, but has codes
 * 0 where torchao's are NaN (docs/differences.md). Weights are divided by the scale in f32. */
#include <string.h>

#include "quant/block.h"
#include "quant/qparams.h"

static const char *const dtypes[] = {"e4m3fn", "e5m2", NULL};
static const char *const granularities[] = {"row", "tensor", "group", NULL};
static const nib_field fields[] = {
    NIB_FIELD(nib_float8_weight_only, dtype, .type = NIB_FIELD_NAME, .names = dtypes,
              .doc = "the 8-bit float: e4m3fn has finer steps, e5m2 more range"),
    NIB_FIELD(nib_float8_weight_only, granularity, .type = NIB_FIELD_NAME, .names = granularities,
              .doc =
                  "what shares a scale: a row, the whole tensor, or a group of columns in a row"),
    NIB_FIELD(nib_float8_weight_only, group_size, .type = NIB_FIELD_INT, .fallback = 128, .min = 1,
              .max = NIB_GROUP_MAX,
              .doc = "columns of a group; must divide the columns of the weight"),
};
_Static_assert(sizeof(nib_float8_weight_only) == sizeof(nib_config) + 3 * sizeof(void *),
               "a member without a field");

static const char *const aliases[] = {"Float8WeightOnlyConfig", "float8_weight_only", NULL};
static const nib_qrule rule = {.mapping = NIB_MAP_ABSMAX};

static const nib_float8_weight_only *own(const nib_config *c) { return (const void *)c; }
static const char *granularity_of(const nib_config *c) {
    return own(c)->granularity ? own(c)->granularity : granularities[0];
}

static nib_status check(const nib_config *c) {
    return nib_block_check(c->scheme, own(c)->granularity, own(c)->group_size);
}

static nib_status plan(const nib_config *c, const nib_site *site, nib_qdesc *weight, nib_act *in,
                       nib_act *out) {
    const int group = own(c)->group_size ? own(c)->group_size : 128;
    *in = *out = (nib_act){0};
    const nib_status status = nib_block_plan(weight, site, granularity_of(c), group);
    const char *dtype = own(c)->dtype ? own(c)->dtype : dtypes[0];
    weight->code = strcmp(dtype, "e5m2") == 0 ? NIB_F8_E5M2 : NIB_F8_E4M3FN;
    weight->scale_dtype = NIB_F32;
    return status;
}

static nib_status measure(const nib_config *c, nib_stats *stats, const nib_tensor *rows) {
    if (strcmp(granularity_of(c), "tensor") == 0) nib_stats_add(stats, rows);
    return NIB_OK;
}

static nib_status quantize(const nib_config *c, const nib_stats *stats, const nib_tensor *rows,
                           nib_codes *out) {
    (void)c;
    const nib_status status = nib_rows_check(rows, out);
    if (status == NIB_OK) nib_affine_rows(&rule, false, stats, rows, out);
    return status;
}

const nib_scheme nib_scheme_float8_weight_only = {
    .name = "float8_weight_only",
    .doc = "8-bit float weights, activations untouched",
    .system = "torchao",
    .aliases = aliases,
    .config_size = sizeof(nib_float8_weight_only),
    .fields = fields,
    .nfields = sizeof fields / sizeof *fields,
    .check = check,
    .plan = plan,
    .measure = measure,
    .quantize = quantize,
};
