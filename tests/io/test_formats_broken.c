/* Quantized checkpoints that are broken, or say what nobody knows: each is one clear error that
 * names the tensor or module, and nothing is left behind, whatever call or allocation fails. */
#include <errno.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/sys.h"
#include "formats.h"

/* The file again with its header changed, tensors' bytes where the new header wants them. */
static void change_file(const char *path, void (*change)(json_t *header, const char *what),
                        const char *what) {
    size_t size;
    char *bytes = test_read(path, &size);
    uint64_t length;
    memcpy(&length, bytes, 8);
    json_t *header = json_loadb(bytes + 8, length, 0, NULL), *entry;
    change(header, what);
    char *out = malloc(2 * size + 65536);
    const char *name;
    size_t at = 0;
    char *payload = malloc(size);
    json_object_foreach(header, name, entry) {
        json_t *offsets = json_object_get(entry, "data_offsets");
        if (strcmp(name, "__metadata__") == 0) continue;
        const size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
        const size_t end = (size_t)json_integer_value(json_array_get(offsets, 1));
        memcpy(payload + at, bytes + 8 + length + begin, end - begin);
        json_array_set_new(offsets, 0, json_integer((json_int_t)at));
        json_array_set_new(offsets, 1, json_integer((json_int_t)(at += end - begin)));
    }
    char *text = json_dumps(header, JSON_COMPACT);
    const uint64_t now = strlen(text);
    memcpy(out, &now, 8);
    memcpy(out + 8, text, now);
    memcpy(out + 8 + now, payload, at);
    test_write(path, out, 8 + now + at);
    free(text);
    free(payload);
    free(out);
    free(bytes);
    json_decref(header);
}

#define UP "model.layers.0.mlp.up_proj"
static void drop(json_t *header, const char *what) { json_object_del(header, what); }
static void turn(json_t *header, const char *what) { /* [a, b] to [b, a] */
    json_t *shape = json_object_get(json_object_get(header, what), "shape");
    json_t *first = json_incref(json_array_get(shape, 0));
    json_array_remove(shape, 0);
    json_array_append_new(shape, first);
}
static void retype(json_t *header, const char *what) {
    json_t *entry = json_object_get(header, what);
    const char *was = json_string_value(json_object_get(entry, "dtype"));
    json_object_set_new(entry, "dtype",
                        json_string(strcmp(was, "F32") == 0    ? "I32"
                                    : strcmp(was, "BF16") == 0 ? "F16"
                                    : strcmp(was, "I32") == 0  ? "F32"
                                                               : "U8"));
}
/* "KEY|TEXT|OTHER": in the metadata's KEY, TEXT becomes OTHER. */
static void say(json_t *header, const char *what) {
    char key[64], text[64], other[128];
    const char *second = strchr(what, '|'), *third = strchr(second + 1, '|');
    snprintf(key, sizeof key, "%.*s", (int)(second - what), what);
    snprintf(text, sizeof text, "%.*s", (int)(third - second - 1), second + 1);
    snprintf(other, sizeof other, "%s", third + 1);
    json_t *metadata = json_object_get(header, "__metadata__");
    const char *was = json_string_value(json_object_get(metadata, key)),
               *at = was ? strstr(was, text) : NULL;
    if (!at) abort();
    char *now = malloc(strlen(was) + sizeof other);
    sprintf(now, "%.*s%s%s", (int)(at - was), was, other, at + strlen(text));
    json_object_set_new(metadata, key, json_string(now));
    free(now);
}

/* A note on schemes, which this file has none of. */
static void note(json_t *header, const char *what) {
    json_t *metadata = json_object_get(header, "__metadata__");
    if (!metadata) json_object_set_new(header, "__metadata__", metadata = json_object());
    json_object_set_new(metadata, "nibble", json_string(what));
}

static void copy_folder(const char *from, const char *to) {
    static const char *const names[] = {"config.json", "model.safetensors", "quanto_qmap.json"};
    mkdir(to, 0700);
    for (int i = 0; i < 3; i++) {
        size_t size;
        char *bytes = test_read(IN(from, names[i]), &size);
        if (bytes) test_write(IN(to, names[i]), bytes, size);
        free(bytes);
    }
}

TEST(parts_that_lack_or_contradict_and_words_that_are_unknown_are_one_clear_error) {
    NEEDS_SCHEME("quanto");
    NEEDS_SCHEME("int8_weight_only");
    NEEDS_SCHEME("8da4w");
    NEEDS_SCHEME("int8_dynamic_activation_int8_weight");
    static const char int8[] = "torchao-int8-row-bf16", dynamic[] = "torchao-int8-dynamic-bf16",
                      da4w[] = "torchao-8da4w-group-bf16", qint8[] = "quanto-qint8-f16",
                      qint4[] = "quanto-qint4-bf16", awq[] = "awq-gemm-f16";
    static const struct {
        const char *folder;
        void (*change)(json_t *, const char *);
        const char *what, *message, *tensor;
        nib_status status;
    } cases[] = {
        {int8, drop, UP "._weight_scale", "has no part", UP ".weight", NIB_E_FORMAT},
        {int8, drop, UP "._weight_qdata", "has no part", UP ".weight", NIB_E_FORMAT},
        {int8, drop, UP "._weight_zero_point", "has no part", UP ".weight", NIB_E_FORMAT},
        {int8, turn, UP "._weight_scale", "calls for f32 [32, 1]", UP "._weight_scale",
         NIB_E_FORMAT},
        {int8, retype, UP "._weight_scale", "is i32 [32, 1]", UP "._weight_scale", NIB_E_FORMAT},
        {int8, retype, UP "._weight_qdata", "is u8 [32, 32]", UP "._weight_qdata", NIB_E_FORMAT},
        {int8, say, UP ".weight|Int8Tensor|Int9Tensor", "class Int9Tensor", UP ".weight",
         NIB_E_UNSUPPORTED},
        {int8, say, UP ".weight|{\"_type|{{", "", UP ".weight", NIB_E_FORMAT},
        {int8, say, UP ".weight|[1, 32]|[2, 32]", "blocks of 2 x 32", UP ".weight",
         NIB_E_UNSUPPORTED},
        {int8, say, UP ".weight|[1, 32]|[1, 0]", "holds 0", UP ".weight", NIB_E_FORMAT},
        {int8, say, UP ".weight|[1, 32]|[1, 32, 1]", "3 dimensions", UP ".weight",
         NIB_E_UNSUPPORTED},
        {int8, say, UP ".weight|[1, 32]|[1, 5]", "", UP ".weight", NIB_E_SHAPE},
        {int8, say, UP ".weight|bfloat16|bfloat61", "no dtype", UP ".weight", NIB_E_FORMAT},
        {int8, say, UP ".weight|null|{\"_type\": \"QuantizeTensorToInt8Kwargs\"}",
         "\"act_quant_kwargs\" is not known", UP ".weight", NIB_E_UNSUPPORTED},
        {int8, say, UP ".weight|\"zero_point\"|\"act_pre_scale\", \"zero_point\"",
         "Int8Tensor with \"act_pre_scale\"", UP ".weight", NIB_E_UNSUPPORTED},
        {dynamic, say, UP ".weight|PerRow|PerGroup", "\"act_quant_kwargs\" is not known",
         UP ".weight", NIB_E_UNSUPPORTED},
        {dynamic, say, UP ".weight|\"reduce_range\": false|\"reduce_range\": true",
         "with the range of the weight", UP ".weight", NIB_E_UNSUPPORTED},
        {dynamic, say, UP ".weight|SYMMETRIC|SYMMETRIC_NO_CLIPPING_ERR",
         "\"act_quant_kwargs\" is not known", UP ".weight", NIB_E_UNSUPPORTED},
        {da4w, say, UP ".weight|int8_asym_per_token|int8_sym_per_token",
         "\"activation_quantization\" is not known", UP ".weight", NIB_E_UNSUPPORTED},
        {da4w, say, UP ".weight|int4|int3", "weights of i3 for inputs", UP ".weight",
         NIB_E_UNSUPPORTED},
        {int8, say, "tensor_names|[|[\"other.weight\", ", "other.weight, which has no metadata", "",
         NIB_E_FORMAT},
        {int8, say, "tensor_names|[|{\"a\": [", "", "", NIB_E_FORMAT},
        {qint8, drop, UP ".weight._scale", "has no", UP, NIB_E_FORMAT},
        {qint8, drop, UP ".weight._data", "has no", UP, NIB_E_FORMAT},
        {qint8, turn, UP ".weight._scale", "calls for f16 [32, 1]", UP ".weight._scale",
         NIB_E_FORMAT},
        {qint8, retype, UP ".weight._data", "is u8 [32, 32]", UP ".weight._data", NIB_E_FORMAT},
        {qint4, drop, UP ".weight._data._data", "has no", UP, NIB_E_FORMAT},
        {qint4, drop, UP ".weight._shift", "has no part", UP ".weight", NIB_E_FORMAT},
        {qint4, turn, UP ".weight._shift", "calls for", UP ".weight._shift", NIB_E_FORMAT},
        {awq, drop, UP ".scales", "has no part scales", UP ".weight", NIB_E_FORMAT},
        {awq, drop, UP ".qzeros", "has no part", UP ".weight", NIB_E_FORMAT},
        {awq, turn, UP ".scales", "do not agree", UP ".weight", NIB_E_FORMAT},
        {awq, turn, UP ".qzeros", "calls for i32 [2, 4]", UP ".qzeros", NIB_E_FORMAT},
        {awq, turn, UP ".qweight", "do not agree", UP ".weight", NIB_E_FORMAT},
        {awq, retype, UP ".qweight", "is f32 [32, 4], but awq has", UP ".qweight", NIB_E_FORMAT},
        {awq, note, "{\"version\": 2, \"schemes\": {}}", "version 2", "", NIB_E_UNSUPPORTED},
        {awq, note, "{\"version\": 1, \"schemes\": {\"" UP ".weight\": 7}}",
         UP ".weight in the note", "", NIB_E_FORMAT},
        {awq, note, "{\"version\": 1, \"schemes\": {\"" UP ".weight\": \"qint8\"}}",
         "are not those of qint8", UP ".weight", NIB_E_FORMAT},
    };
    TEST_FOLDER_IN_MEMORY(folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *copy = IN(folder, "q");
        copy_folder(IN(GOLDEN, cases[i].folder), copy);
        change_file(IN(copy, "model.safetensors"), cases[i].change, cases[i].what);
        const char *source = strstr(cases[i].folder, "f16") && !strstr(cases[i].folder, "bf16")
                                 ? "source-f16"
                                 : "source-bf16";
        const nib_status status = verify(copy, IN(GOLDEN, source), NULL);
        const nib_error *e = nib_last_error();
        if (status != cases[i].status || !strstr(e->what, cases[i].message) ||
            strcmp(e->tensor, cases[i].tensor) != 0 || !strstr(e->path, folder))
            FAIL_AT("%s %s: status %d, \"%s\" at %s, %s", cases[i].folder, cases[i].what,
                    (int)status, e->what, e->path, e->tensor);
        test_folder_remove(copy);
    }
    test_folder_remove(folder);
}

TEST(a_map_of_quantos_that_is_wrong_is_refused_naming_the_module) {
    static const struct {
        const char *text, *message, *tensor;
        nib_status status;
    } cases[] = {
        {"{\"" UP "\": {\"weights\": \"qint3\", \"activations\": \"none\"}}", "qint3", UP,
         NIB_E_FORMAT},
        {"{\"" UP "\": {\"weights\": \"int8_weight_only\", \"activations\": \"none\"}}",
         "has no \"int8_weight_only\"", UP, NIB_E_FORMAT},
        {"{\"" UP "\": {\"weights\": \"qint8\", \"activations\": \"qint4\"}}",
         "activations has no \"qint4\"", UP, NIB_E_FORMAT},
        {"{\"" UP "\": {\"weights\": \"qint8\", \"activations\": 8}}", "activations", UP,
         NIB_E_FORMAT},
        {"{\"" UP "\": {\"weights\": \"qint8\", \"activations\": \"qint8\", \"outputs\": 0}}",
         "\"outputs\" is neither", UP, NIB_E_FORMAT},
        {"{\"model.layers.7.mlp.up_proj\": {\"weights\": \"qint8\", \"activations\": \"none\"}}",
         "has no", "model.layers.7.mlp.up_proj", NIB_E_FORMAT},
        {"{\"" UP "\": \"qint8\"}", "not an object", UP, NIB_E_FORMAT},
        {"{\"" UP "\": {}}", "weights", UP, NIB_E_FORMAT},
        {"[]", "not an object", "", NIB_E_FORMAT},
        {"{\"" UP "\": {\"wei", "", "", NIB_E_FORMAT},
    };
    NEEDS_SCHEME("quanto");
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER_IN_MEMORY(folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *copy = IN(folder, "q");
        copy_folder(GOLDEN "quanto-qint8-f16", copy);
        test_write(IN(copy, "quanto_qmap.json"), cases[i].text, strlen(cases[i].text));
        const nib_status status = verify(copy, GOLDEN "source-f16", NULL);
        const nib_error *e = nib_last_error();
        if (status != cases[i].status || !strstr(e->what, cases[i].message) ||
            strcmp(e->tensor, cases[i].tensor) != 0 || !strstr(e->path, "quanto_qmap.json"))
            FAIL_AT("%s: status %d, \"%s\" at %s, %s", cases[i].text, (int)status, e->what, e->path,
                    e->tensor);
        test_folder_remove(copy);
    }
    test_folder_remove(folder);
}

TEST(our_own_metadata_is_not_trusted_either) {
    static const struct {
        const char *what, *message;
        nib_status status;
    } cases[] = {
        {"nibble|\"version\":1|\"version\":2", "version 2", NIB_E_UNSUPPORTED},
        {"nibble|\"version\"|\"versio\"", "version", NIB_E_FORMAT},
        {"nibble|{\"version\"|[{\"version\"", "", NIB_E_FORMAT},
        {"nibble|\"tensors\":{|\"tensors\":[{", "", NIB_E_FORMAT},
        {"nibble|int8_row|int9_row", "int9_row", NIB_E_FORMAT},
        {"nibble|int8_weight_only|int9_weight_only", "int9_weight_only", NIB_E_FORMAT},
        {"nibble|\"rows\":48|\"rows\":49", "", NIB_E_FORMAT},
        {"nibble|\"rows\":48|\"rows\":-1", "", NIB_E_FORMAT},
        {"nibble|\"cols\":256|\"cols\":9223372036854775807", "", NIB_E_FORMAT},
        {"nibble|\"code\":\"int8\"|\"code\":\"int\"", "no dtype", NIB_E_FORMAT},
        {"nibble|\"shape\":[48,256]|\"shape\":[256,48]", "", NIB_E_FORMAT},
        {"nibble|\"block\":[1,256]|\"block\":[0,256]", "", NIB_E_FORMAT},
        {"nibble|layers.0.down_proj.weight|layers.9.down_proj.weight", "has no part", NIB_E_FORMAT},
    };
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER_IN_MEMORY(folder);
    write_source(state_, IN(folder, "source"), NIB_BF16);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *rules[8] = {"*", "int8_weight_only"}, *out = IN(folder, "q");
        CHECK_OK(quantize(IN(folder, "source"), out, rules, "native"));
        change_file(IN(out, "model.safetensors"), say, cases[i].what);
        const nib_status status = verify(out, IN(folder, "source"), NULL);
        const nib_error *e = nib_last_error();
        const bool fits =
            status == cases[i].status || (cases[i].status == NIB_E_FORMAT && status == NIB_E_SHAPE);
        if (!fits || !strstr(e->what, cases[i].message) || !strstr(e->path, folder))
            FAIL_AT("%s: status %d, \"%s\" at %s, %s", cases[i].what, (int)status, e->what, e->path,
                    e->tensor);
        test_folder_remove(out);
    }
    test_folder_remove(folder);
}

TEST(int4_tensors_of_torchao_are_for_bf16_activations_and_others_are_refused) {
    NEEDS_SCHEME("int4_weight_only");
    TEST_FOLDER_IN_MEMORY(folder);
    const char *rules[8] = {"*", "int4_weight_only:group_size=32"}, *out = IN(folder, "q");
    write_source(state_, IN(folder, "source"), NIB_F32);
    CHECK_OK(quantize(IN(folder, "source"), out, rules, "torchao"));
    static const char bf16[] =
        "\"activation_dtype\": {\"_type\": \"torch.dtype\", \"_data\": \"bfloat16\"}";
    nib_safetensors *file = nib_safetensors_open(NULL, IN(out, "model.safetensors"));
    CHECK_MADE(file);
    CHECK(strstr(nib_safetensors_metadata(file, "layers.0.down_proj.weight"), bf16));
    nib_safetensors_close(file);
    change_file(IN(out, "model.safetensors"), say,
                "layers.0.down_proj.weight|\"bfloat16\"|\"float8_e4m3fn\"");
    CHECK_FAILS(verify(out, IN(folder, "source"), NULL), NIB_E_UNSUPPORTED,
                "activations of f8_e4m3fn");
    test_folder_remove(folder);
}

/* All that reading a checkpoint does, or all that is planned before one is written. */
static nib_status read_all(const char *path) {
    nib_checkpoint *c = nib_checkpoint_open(NULL, path);
    if (!c) return nib_last_error()->status;
    json_t *root = json_of(path, "config.json");
    nib_manifest m;
    nib_status status = nib_manifest_read(NULL, c, root, &m);
    int quantized = 0;
    for (size_t i = 0; status >= NIB_OK && i < m.count; i++) {
        const nib_stored *item = &m.items[i];
        const int64_t rows = strstr(item->name, "k_proj") || strstr(item->name, "v_proj") ? 16 : 32;
        if (item->layout && quantized++ >= 0)
            status = nib_manifest_resolve(&m, c, item, &(nib_shape){2, {rows, 32}});
    }
    if (m.items) nib_manifest_free(&m);
    json_decref(root);
    nib_checkpoint_close(c);
    return status < NIB_OK || quantized ? status : NIB_END; /* a format was overlooked */
}

static nib_status plan_all(const char *scheme, const char *format) {
    const nib_rule rule = {"*", nib_config_parse(scheme)};
    nib_ctx *ctx = rule.config ? nib_ctx_new(&(nib_ctx_options){.threads = 1}) : NULL;
    const nib_status status =
        ctx ? nib_quantize_file(ctx, GOLDEN "source-bf16-sharded", NULL, &rule, 1, NULL,
                                &(nib_file_options){.dry_run = true, .format = format})
            : nib_last_error()->status;
    nib_ctx_free(ctx);
    nib_config_free((nib_config *)(uintptr_t)rule.config);
    return status;
}

TEST(reading_and_planning_survive_any_failing_call_or_allocation) {
    static const char *const folders[] = {
        "torchao-rules-sharded-bf16", "torchao-intx-4-group-asymmetric-bf16", "quanto-qint4-bf16"};
    static const char *const plans[][2] = {{"intx_weight_only:bits=4,eps=v0.17", "torchao"},
                                           {"qint4:algo=hqq", "quanto"},
                                           {"qint8", "native"}};
    NEEDS_SCHEME("quanto");
    NEEDS_SCHEME("intx_weight_only");
    NEEDS_SCHEME("int8_weight_only");
    const size_t used = nib_mem_used(NULL);
    for (int k = 0; k < 6; k++)
        for (int memory = 0; memory < 2; memory++)
            for (long n = 0;; n++) {
                if (memory)
                    nib_mem_fail_after(n, false);
                else
                    nib_sys_fail_after(n, EIO);
                const nib_status status = k < 3 ? read_all(IN(GOLDEN, folders[k]))
                                                : plan_all(plans[k - 3][0], plans[k - 3][1]);
                const long made =
                    memory ? nib_mem_fail_after(-1, false) : nib_sys_fail_after(-1, 0);
                CHECK_INT(nib_mem_used(NULL), used);
                if (made <= n) {
                    CHECK_OK(status);
                    CHECK(status == NIB_OK && n > 10);
                    break;
                }
                if (!memory && status == NIB_OK) continue; /* closing what was only read */
                const nib_status want = memory ? NIB_E_MEMORY : NIB_E_IO;
                if (status != want)
                    FAIL_AT("%d: %s %ld gives %d: %s", k, memory ? "allocation" : "call", n,
                            (int)status, nib_last_error()->what);
            }
}

TESTS(RUNS(parts_that_lack_or_contradict_and_words_that_are_unknown_are_one_clear_error),
      RUNS(a_map_of_quantos_that_is_wrong_is_refused_naming_the_module),
      RUNS(our_own_metadata_is_not_trusted_either),
      RUNS(int4_tensors_of_torchao_are_for_bf16_activations_and_others_are_refused),
      RUNS(reading_and_planning_survive_any_failing_call_or_allocation))
