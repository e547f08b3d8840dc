/* torchao_config.c: keys stand in the order in which upstream writes them: attributes of a tensor
 * as its class names them, fields of a config sorted. */
#include "io/torchao_config.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "quant/scheme.h"
#include "tensor/dtype.h"

static bool is(const nib_config *config, const char *field, const char *value) {
    return nib_config_option_is(config, field, value);
}

/* ---- writing ---- */
json_t *nib_torchao_dtype(nib_dtype dtype) {
    return json_pack("{s:s, s:s}", "_type", "torch.dtype", "_data", nib_dtype_torch_name(dtype));
}

/* An enum in a config, where keys are sorted. */
static json_t *enumerator(const char *type, const char *name) {
    return json_pack("{s:s, s:s}", "_data", name, "_type", type);
}

static json_t *per_row(void) {
    return json_pack("{s:{s:i}, s:s, s:i}", "_data", "dim", -1, "_type", "PerRow", "_version", 1);
}

static json_t *per_tensor(void) {
    return json_pack("{s:{}, s:s, s:i}", "_data", "_type", "PerTensor", "_version", 1);
}

static json_t *granularity(const nib_config *config, bool per_axis) {
    if (is(config, "granularity", "group"))
        return json_pack("{s:{s:I}, s:s, s:i}", "_data", "group_size",
                         (json_int_t)nib_config_option_int(config, "group_size"), "_type",
                         "PerGroup", "_version", 1);
    if (is(config, "granularity", "tensor")) return per_tensor();
    if (per_axis)
        return json_pack("{s:{s:i}, s:s, s:i}", "_data", "axis", 0, "_type", "PerAxis", "_version",
                         1);
    return per_row();
}

static json_t *scale_dtype(const nib_config *config) {
    static const struct {
        const char *name;
        nib_dtype dtype;
    } table[] = {{"f32", NIB_F32}, {"f16", NIB_F16}, {"bf16", NIB_BF16}};
    for (int i = 0; i < 3; i++)
        if (is(config, "scale_dtype", table[i].name)) return nib_torchao_dtype(table[i].dtype);
    return json_null();
}

static const char *const mappings[][2] = {
    {"symmetric", "SYMMETRIC"},
    {"asymmetric", "ASYMMETRIC"},
    {"symmetric_no_clipping_err", "SYMMETRIC_NO_CLIPPING_ERR"},
};
enum { MAPPINGS = sizeof mappings / sizeof *mappings };

static const char *mapping(const nib_config *config, const char *field) {
    for (int i = 0; i < MAPPINGS; i++)
        if (is(config, field, mappings[i][0])) return mappings[i][1];
    return mappings[0][1];
}

static json_t *int8_weight_only(const nib_config *c) {
    return json_pack("{s:o, s:n, s:b}", "granularity", granularity(c, false), "group_size",
                     "set_inductor_config", 1);
}

static json_t *float8_weight_only(const nib_config *c) {
    return json_pack("{s:o, s:b, s:o}", "granularity", granularity(c, false), "set_inductor_config",
                     1, "weight_dtype",
                     nib_torchao_dtype(is(c, "dtype", "e5m2") ? NIB_F8_E5M2 : NIB_F8_E4M3FN));
}

static json_t *intx_weight_only(const nib_config *c) {
    const int64_t bits = nib_config_option_int(c, "bits");
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "granularity", granularity(c, true),
                     "intx_choose_qparams_algorithm",
                     enumerator("IntxChooseQParamsAlgorithm",
                                is(c, "algo", "hqq") ? "HQQ_SCALE_ONLY" : "AFFINE"),
                     "intx_packing_format", enumerator("IntxPackingFormat", "UNPACKED_TO_INT8"),
                     "mapping_type", enumerator("MappingType", mapping(c, "mapping")),
                     "scale_dtype", scale_dtype(c), "weight_dtype",
                     nib_torchao_dtype((nib_dtype)(bits == 8 ? NIB_I8 : NIB_I1 + bits - 1)));
}

static json_t *int4_weight_only(const nib_config *c) {
    return json_pack(
        "{s:I, s:o, s:o, s:i, s:b}", "group_size",
        (json_int_t)nib_config_option_int(c, "group_size"), "int4_choose_qparams_algorithm",
        enumerator("Int4ChooseQParamsAlgorithm", is(c, "algo", "hqq") ? "HQQ" : "TINYGEMM"),
        "int4_packing_format",
        enumerator("Int4PackingFormat",
                   is(c, "numerics", "tinygemm") ? "TILE_PACKED_TO_4D" : "PLAIN"),
        "int4_tile_packed_ntile", 8, "set_inductor_config", 1);
}

/* Whether one scale is for all tokens of a call. */
static bool act_tensor(const nib_config *c) {
    return is(c, "act_granularity", "tensor") ||
           (is(c, "act_granularity", "same") && is(c, "granularity", "tensor"));
}

static json_t *int8_dynamic_int8(const nib_config *c) {
    const bool act = act_tensor(c), weight = is(c, "granularity", "tensor");
    json_t *shares = granularity(c, false);
    if (act != weight) shares = json_pack("[o, o]", act ? per_tensor() : per_row(), shares);
    return json_pack("{s:o, s:o, s:b, s:b, s:b}", "act_mapping_type",
                     enumerator("MappingType", mapping(c, "act_mapping_type")), "granularity",
                     shares, "reduce_range", (int)nib_config_option_int(c, "reduce_range"),
                     "set_inductor_config", 1, "weight_only_decode",
                     (int)nib_config_option_int(c, "weight_only_decode"));
}

static json_t *int8_dynamic_int4(const nib_config *c) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "act_mapping_type",
                     enumerator("MappingType", "ASYMMETRIC"), "intx_choose_qparams_algorithm",
                     enumerator("IntxChooseQParamsAlgorithm",
                                is(c, "algo", "hqq") ? "HQQ_SCALE_ONLY" : "AFFINE"),
                     "intx_packing_format", enumerator("IntxPackingFormat", "UNPACKED_TO_INT8"),
                     "weight_dtype", nib_torchao_dtype(NIB_I4), "weight_granularity",
                     granularity(c, true), "weight_mapping_type",
                     enumerator("MappingType", mapping(c, "mapping")), "weight_scale_dtype",
                     scale_dtype(c));
}

static const struct config_class {
    const char *scheme, *type;
    json_t *(*data)(const nib_config *config);
} classes[] = {
    {"int8_weight_only", "Int8WeightOnlyConfig", int8_weight_only},
    {"float8_weight_only", "Float8WeightOnlyConfig", float8_weight_only},
    {"intx_weight_only", "IntxWeightOnlyConfig", intx_weight_only},
    {"int4_weight_only", "Int4WeightOnlyConfig", int4_weight_only},
    {"int8_dynamic_activation_int8_weight", "Int8DynamicActivationInt8WeightConfig",
     int8_dynamic_int8},
    {"int8_dynamic_activation_int4_weight", "Int8DynamicActivationIntxWeightConfig",
     int8_dynamic_int4},
};
enum { CLASSES = sizeof classes / sizeof *classes };

json_t *nib_torchao_config(const nib_config *config) {
    for (int i = 0; i < CLASSES; i++)
        if (strcmp(classes[i].scheme, config->scheme->name) == 0)
            return json_pack("{s:o, s:s, s:i}", "_data", classes[i].data(config), "_type",
                             classes[i].type, "_version", 2);
    return NULL;
}

json_t *nib_torchao_act(const nib_config *c) {
    json_t *shares = act_tensor(c)
                         ? json_pack("{s:s, s:{}}", "_type", "PerTensor", "_data")
                         : json_pack("{s:s, s:{s:i}}", "_type", "PerRow", "_data", "dim", -1);
    return json_pack("{s:s, s:{s:o, s:{s:s, s:s}, s:b}}", "_type", "QuantizeTensorToInt8Kwargs",
                     "_data", "granularity", shares, "mapping_type", "_type", "MappingType",
                     "_data", mapping(c, "act_mapping_type"), "reduce_range",
                     (int)nib_config_option_int(c, "reduce_range"));
}

/* ---- reading ---- */
/* An enum is written as its text, or as {"_type", "_data": NAME}. */
static bool enum_is(const json_t *value, const char *name, const char *text) {
    const char *given =
        json_string_value(json_is_object(value) ? json_object_get(value, "_data") : value);
    return given && (strcmp(given, name) == 0 || strcmp(given, text) == 0);
}

nib_status nib_torchao_dtype_of(const json_t *data, const char *key, nib_dtype fallback,
                                nib_dtype *out) {
    const char *name = json_string_value(json_object_get(json_object_get(data, key), "_data"));
    *out = name ? nib_dtype_from_torch_name(name) : fallback;
    return *out ? NIB_OK : NIB_RAISE(NIB_E_FORMAT, "\"%s\" is no dtype", key);
}

static const json_t *present(const json_t *data, const char *key) {
    const json_t *value = json_object_get(data, key);
    return json_is_null(value) ? NULL : value;
}

static bool type_is(const json_t *value, const char *type) {
    const char *given = json_string_value(json_object_get(value, "_type"));
    return given && strcmp(given, type) == 0;
}

nib_status nib_torchao_dynamic(const json_t *data, bool *dynamic) {
    const json_t *kwargs = present(data, "act_quant_kwargs");
    const json_t *act = present(data, "activation_quantization");
    *dynamic = kwargs || act;
    if (act && !enum_is(act, "INT8_ASYM_PER_TOKEN", "int8_asym_per_token"))
        return NIB_RAISE(NIB_E_UNSUPPORTED, "\"activation_quantization\" is not known here: only "
                                            "int8_asym_per_token is");
    if (!kwargs) return NIB_OK;
    const json_t *said = json_object_get(kwargs, "_data");
    const json_t *shares = json_object_get(said, "granularity");
    const json_t *dim = json_object_get(json_object_get(shares, "_data"), "dim");
    const json_t *map = json_object_get(said, "mapping_type");
    const bool known = type_is(kwargs, "QuantizeTensorToInt8Kwargs") &&
                       (type_is(shares, "PerTensor") ||
                        (type_is(shares, "PerRow") && (!dim || json_integer_value(dim) == -1))) &&
                       (enum_is(map, mappings[0][1], mappings[0][0]) ||
                        enum_is(map, mappings[1][1], mappings[1][0])) &&
                       json_is_true(json_object_get(said, "reduce_range")) ==
                           json_is_true(json_object_get(data, "reduce_range"));
    if (known) return NIB_OK;
    return NIB_RAISE(NIB_E_UNSUPPORTED,
                     "\"act_quant_kwargs\" is not known here: only inputs in int8, a scale a token "
                     "or one for all, with the range of the weight, are");
}

static void say_act(const nib_torchao_tensor *t, bool tensor, nib_text *out) {
    const json_t *said = json_object_get(json_object_get(t->data, "act_quant_kwargs"), "_data");
    const bool act = type_is(json_object_get(said, "granularity"), "PerTensor");
    const json_t *map = json_object_get(said, "mapping_type");
    if (act != tensor) nib_text_format(out, "act_granularity=%s,", act ? "tensor" : "row");
    if (enum_is(map, mappings[1][1], mappings[1][0]))
        nib_text_add(out, "act_mapping_type=asymmetric,");
    if (json_is_true(json_object_get(said, "reduce_range")))
        nib_text_add(out, "reduce_range=true,");
    if (json_is_true(json_object_get(t->from, "weight_only_decode")))
        nib_text_add(out, "weight_only_decode=true,");
}

/* How codes of 1 to 8 bits were chosen; a config with inputs quantized puts "weight_" before some
 * keys. */
static nib_status say_intx(const nib_torchao_tensor *t, bool dynamic, nib_text *out) {
    nib_dtype bits, scale;
    NIB_TRY(nib_torchao_dtype_of(t->data, "target_dtype", 0, &bits));
    if (!dynamic)
        nib_text_format(out, "bits=%d,", nib_dtype_bits(bits));
    else if (bits != NIB_I4)
        return NIB_RAISE(NIB_E_UNSUPPORTED,
                         "weights of %s for inputs in int8 are not known here, only int4",
                         nib_dtype_name(bits));
    const json_t *map = json_object_get(t->from, dynamic ? "weight_mapping_type" : "mapping_type");
    for (int i = 1; i < MAPPINGS; i++)
        if (enum_is(map, mappings[i][1], mappings[i][0]))
            nib_text_format(out, "mapping=%s,", mappings[i][0]);
    if (enum_is(json_object_get(t->from, "intx_choose_qparams_algorithm"), "HQQ_SCALE_ONLY",
                "hqq_scale_only"))
        nib_text_add(out, "algo=hqq,");
    NIB_TRY(nib_torchao_dtype_of(t->from, dynamic ? "weight_scale_dtype" : "scale_dtype", NIB_I8,
                                 &scale));
    if (scale != NIB_I8) nib_text_format(out, "scale_dtype=%s,", nib_dtype_name(scale));
    return NIB_OK;
}

nib_status nib_torchao_config_text(const nib_torchao_tensor *t, nib_text *out) {
    const bool tensor = t->block[0] == t->shape[0] && t->block[1] == t->shape[1] && t->shape[0] > 1;
    const bool group = !tensor && t->block[1] != t->shape[1];
    const bool int4 = strcmp(t->scheme, "int4_weight_only") == 0;
    nib_text_format(out, "%s:", t->scheme);
    if (!int4) nib_text_format(out, "granularity=%s,", tensor ? "tensor" : group ? "group" : "row");
    if (group || int4) nib_text_format(out, "group_size=%lld,", (long long)t->block[1]);
    if (t->tiled) {
        nib_text_add(out, "numerics=tinygemm,");
        if (enum_is(json_object_get(t->from, "int4_choose_qparams_algorithm"), "HQQ", "hqq"))
            nib_text_add(out, "algo=hqq,");
    }
    if (strcmp(t->scheme, "float8_weight_only") == 0 && t->code == NIB_F8_E5M2)
        nib_text_add(out, "dtype=e5m2,");
    if (strcmp(t->scheme, "int8_dynamic_activation_int8_weight") == 0) say_act(t, tensor, out);
    if (strcmp(t->scheme, "intx_weight_only") == 0) NIB_TRY(say_intx(t, false, out));
    if (strcmp(t->scheme, "int8_dynamic_activation_int4_weight") == 0)
        NIB_TRY(say_intx(t, true, out));
    if (out->failed) return nib_last_error()->status;
    out->data[--out->length] = '\0'; /* the last comma or colon */
    return NIB_OK;
}
