/* int8_dynamic_activation_int8_weight: torchao's Int8DynamicActivationInt8WeightConfig. Weights as
 * int8_weight_only has them; the input of a linear is quantized to 8 bits when it is there, each
 * token with a scale of its own, and integers are multiplied. With reduce_range codes of both lie
 * in [-64, 63], so that a pair of products fits the 16 bits of older x86's multiply. */
#include <string.h>

#include "quant/block.h"
#include "quant/codes.h"
#include "quant/qparams.h"

typedef nib_int8_dynamic_activation_int8_weight options;

static const char *const granularities[] = {"row", "tensor", NULL};
static const char *const act_granularities[] = {"same", "row", "tensor", NULL};
static const char *const mappings[] = {"symmetric", "asymmetric", NULL};
static const nib_field fields[] = {
    NIB_FIELD(options, granularity, .type = NIB_FIELD_NAME, .names = granularities,
              .doc = "what shares a scale of the weight: a row, or the whole tensor"),
    NIB_FIELD(options, act_granularity, .type = NIB_FIELD_NAME, .names = act_granularities,
              .doc = "what shares a scale of the input: a row is a token, tensor all tokens of a "
                     "call; same: as granularity says"),
    NIB_FIELD(options, act_mapping_type, .type = NIB_FIELD_NAME, .names = mappings,
              .doc = "how the range of the input maps onto codes: with asymmetric, zero points"),
    NIB_FIELD(options, reduce_range, .type = NIB_FIELD_BOOL,
              .doc = "codes of 7 bits, for machines without an exact 8-bit multiply"),
    NIB_FIELD(options, weight_only_decode, .type = NIB_FIELD_BOOL,
              .doc = "kept for files: torchao has this option and computes the same with it"),
};
_Static_assert(sizeof(options) == sizeof(nib_config) + 4 * sizeof(void *),
               "a member without a field");

static const char *const aliases[] = {"Int8DynamicActivationInt8WeightConfig",
                                      "int8_dynamic_activation_int8_weight", "int8dq",
                                      "int8_dynamic_activation_int8_weight", NULL};
static const nib_qrule rule = {.mapping = NIB_MAP_SYMMETRIC, .eps = 0x1p-23f};

static const options *own(const nib_config *c) { return (const void *)c; }
static bool is(const char *option, const char *value) {
    return option && strcmp(option, value) == 0;
}

static nib_status plan(const nib_config *c, const nib_site *site, nib_qdesc *weight, nib_act *in,
                       nib_act *out) {
    const bool tensor = is(own(c)->granularity, "tensor");
    const char *act = own(c)->act_granularity;
    const bool all = is(act, "tensor") || (tensor && !is(act, "row"));
    const nib_status status = nib_block_plan(weight, site, tensor ? "tensor" : "row", 0);
    weight->code = NIB_I8;
    weight->scale_dtype = NIB_F32;
    *out = (nib_act){0};
    *in = (nib_act){.when = NIB_ACT_DYNAMIC,
                    .dtype = own(c)->reduce_range ? NIB_I7 : NIB_I8,
                    .symmetric = !is(own(c)->act_mapping_type, "asymmetric"),
                    .block = {2, {all ? 0 : 1, weight->cols}},
                    .eps = rule.eps};
    return status;
}

static nib_status measure(const nib_config *c, nib_stats *stats, const nib_tensor *rows) {
    if (is(own(c)->granularity, "tensor")) nib_stats_add(stats, rows);
    return NIB_OK;
}

static nib_status quantize(const nib_config *c, const nib_stats *stats, const nib_tensor *rows,
                           nib_codes *out) {
    const nib_status status = nib_rows_check(rows, out);
    if (status != NIB_OK) return status;
    nib_codes reduced = *out; /* the same memory; what is stored stays int8 */
    if (own(c)->reduce_range) reduced.desc.code = NIB_I7;
    nib_affine_rows(&rule, false, stats, rows, &reduced);
    return NIB_OK;
}

const nib_scheme nib_scheme_int8_dynamic_activation_int8_weight = {
    .name = "int8_dynamic_activation_int8_weight",
    .doc = "8-bit weights, inputs quantized to 8 bits as they come",
    .system = "torchao",
    .aliases = aliases,
    .config_size = sizeof(options),
    .fields = fields,
    .nfields = sizeof fields / sizeof *fields,
    .plan = plan,
    .measure = measure,
    .quantize = quantize,
};
