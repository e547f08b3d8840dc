/* int8_weight_only: torchao's Int8WeightOnlyConfig, made by Int8Tensor.from_hp. Symmetric: the
 * range is divided by 127.5, so that the largest weight may become code 127 or, negative, -128.
 * Scales are chosen in the weight's dtype, stored as f32, and weights times 1 / scale round in f32.
 */
#include <string.h>

#include "quant/block.h"
#include "quant/qparams.h"

static const char *const granularities[] = {"row", "group", "tensor", NULL};
static const nib_field fields[] = {
    NIB_FIELD(nib_int8_weight_only, granularity, .type = NIB_FIELD_NAME, .names = granularities,
              .doc = "what shares a scale: a row, a group of columns in it, or the whole tensor"),
    NIB_FIELD(nib_int8_weight_only, group_size, .type = NIB_FIELD_INT, .fallback = 128, .min = 1,
              .max = NIB_GROUP_MAX,
              .doc = "columns of a group; must divide the columns of the weight"),
};
_Static_assert(sizeof(nib_int8_weight_only) == sizeof(nib_config) + 2 * sizeof(void *),
               "a member without a field");

static const char *const aliases[] = {"Int8WeightOnlyConfig", "int8_weight_only", NULL};
static const nib_qrule rule = {.mapping = NIB_MAP_SYMMETRIC, .eps = 0x1p-23f};

static const nib_int8_weight_only *own(const nib_config *c) { return (const void *)c; }
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
    weight->code = NIB_I8;
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

const nib_scheme nib_scheme_int8_weight_only = {
    .name = "int8_weight_only",
    .doc = "8-bit weights, activations untouched",
    .system = "torchao",
    .aliases = aliases,
    .config_size = sizeof(nib_int8_weight_only),
    .fields = fields,
    .nfields = sizeof fields / sizeof *fields,
    .check = check,
    .plan = plan,
    .measure = measure,
    .quantize = quantize,
};
