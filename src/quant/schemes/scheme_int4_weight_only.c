/* int4_weight_only: torchao's Int4WeightOnlyConfig. Groups of columns map [min, max] onto 16 codes,
 * with a float zero. Two sets of numerics exist:
 *   plain     MSLK's kernels, which torchao uses by default: all in f32, signed codes, layout
 *             int4_plain
 *   tinygemm  int4_packing_format=tile_packed_to_4d: each step rounds in the weight's dtype,
 *             unsigned codes, layout int4_tile_packed for bf16. algo=hqq moves its zeros. */
#include <string.h>

#include "base/error.h"
#include "quant/block.h"
#include "quant/hqq.h"
#include "quant/qparams.h"

static const double groups[] = {32, 64, 128, 256};
static const char *const algos[] = {"minmax", "minmax", "", "hqq", NULL}; /* by nib_algo */
static const char *const numerics[] = {"plain", "tinygemm", NULL};
static const char *const versions[] = {"v0.18", "v0.17", NULL};
static const nib_field fields[] = {
    NIB_FIELD(nib_int4_weight_only, group_size, .type = NIB_FIELD_INT, .fallback = 128, .min = 32,
              .max = 256, .among = groups, .namong = 4,
              .doc = "columns that share a scale and zero"),
    NIB_FIELD(
        nib_int4_weight_only, algo, .type = NIB_FIELD_ENUM, .names = algos,
        .doc = "how scale and zero are chosen: from the range, or hqq, which then moves the zero"),
    NIB_FIELD(nib_int4_weight_only, numerics, .type = NIB_FIELD_NAME, .names = numerics,
              .doc = "plain as MSLK computes, tinygemm as for its CUDA kernel"),
    NIB_FIELD(nib_int4_weight_only, eps, .type = NIB_FIELD_NAME, .names = versions,
              .doc = "tinygemm: the smallest scale, as of which torchao"),
};
_Static_assert(sizeof(nib_algo) == sizeof(int), "an enum field is an int");
_Static_assert(sizeof(nib_int4_weight_only) == sizeof(nib_config) + 3 * sizeof(void *),
               "a member without a field");

static const char *const aliases[] = {"Int4WeightOnlyConfig", "int4_weight_only", NULL};

static const nib_int4_weight_only *own(const nib_config *c) { return (const void *)c; }
static bool tinygemm(const nib_config *c) {
    return own(c)->numerics && strcmp(own(c)->numerics, "tinygemm") == 0;
}
static bool hqq(const nib_config *c) { return own(c)->algo == NIB_ALGO_HQQ; }

static nib_status check(const nib_config *c) {
    if (hqq(c) && !tinygemm(c))
        return NIB_RAISE(NIB_E_ARGUMENT, "int4_weight_only: algo=hqq needs numerics=tinygemm");
    return NIB_OK;
}

static nib_status plan(const nib_config *c, const nib_site *site, nib_qdesc *weight, nib_act *in,
                       nib_act *out) {
    *in = *out = (nib_act){0};
    const int group = own(c)->group_size ? own(c)->group_size : 128;
    const nib_status status = nib_block_plan(weight, site, "group", group);
    weight->code = tinygemm(c) ? NIB_U4 : NIB_I4;
    weight->scale_dtype = weight->zero_dtype = weight->math;
    weight->zero_kind = NIB_ZERO_MID;
    return status;
}

static nib_status quantize(const nib_config *c, const nib_stats *stats, const nib_tensor *rows,
                           nib_codes *out) {
    const nib_status status = nib_rows_check(rows, out);
    if (status != NIB_OK) return status;
    if (hqq(c)) return nib_hqq_zero(rows, out);
    const nib_qrule rule = {
        .mapping = NIB_MAP_MIN_TO_MAX,
        .plain = !tinygemm(c),
        .eps = tinygemm(c) ? nib_qrule_eps(out->desc.math, own(c)->eps) : 1e-6f,
    };
    nib_affine_rows(&rule, false, stats, rows, out);
    return NIB_OK;
}

const nib_scheme nib_scheme_int4_weight_only = {
    .name = "int4_weight_only",
    .doc = "4-bit weights in column groups, activations untouched",
    .system = "torchao",
    .aliases = aliases,
    .config_size = sizeof(nib_int4_weight_only),
    .fields = fields,
    .nfields = sizeof fields / sizeof *fields,
    .check = check,
    .plan = plan,
    .whole = hqq,
    .quantize = quantize,
};
