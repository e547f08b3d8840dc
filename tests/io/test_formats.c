/* Quantized checkpoints in every format: those that the real libraries wrote
 * (tests/golden/formats), ours that must equal them, what a format reads back of what it wrote, and
 * what is refused. */
#include <errno.h>
#include <jansson.h>

#include "base/checked.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/sys.h"
#include "io/format.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "test_files.h"

#define GOLDEN "tests/golden/formats/"

/* ---- what the libraries wrote ---- */
static const struct golden {
    const char *folder, *source;
    int quantized;
    const char *rules[8]; /* glob, scheme, ... */
} goldens[] = {
    {"torchao-int8-row-bf16", "source-bf16", 7, {"*", "int8_weight_only"}},
    {"torchao-int8-group-f16",
     "source-f16",
     7,
     {"*", "int8_weight_only:granularity=group,group_size=16"}},
    {"torchao-int8-tensor-f32", "source-f32", 7, {"*", "int8_weight_only:granularity=tensor"}},
    {"torchao-intx-4-group-asymmetric-bf16",
     "source-bf16",
     7,
     {"*", "intx_weight_only:bits=4,granularity=group,group_size=16,mapping=asymmetric"}},
    {"torchao-intx-3-row-f16", "source-f16", 7, {"*", "intx_weight_only:bits=3"}},
    {"torchao-int8-dynamic-bf16", "source-bf16", 7, {"*", "int8_dynamic_activation_int8_weight"}},
    {"torchao-int8-dynamic-reduced-f32",
     "source-f32",
     7,
     {"*", "int8_dynamic_activation_int8_weight:act_granularity=tensor,"
           "act_mapping_type=asymmetric,reduce_range=true"}},
    {"torchao-int8-dynamic-tensor-f16",
     "source-f16",
     7,
     {"*", "int8_dynamic_activation_int8_weight:granularity=tensor,weight_only_decode=true"}},
    {"torchao-8da4w-group-bf16", "source-bf16", 7, {"*", "8da4w:group_size=16"}},
    {"torchao-8da4w-row-f16",
     "source-f16",
     7,
     {"*", "8da4w:granularity=row,mapping=asymmetric,scale_dtype=f32"}},
    {"torchao-float8-row-bf16", "source-bf16", 7, {"*", "float8_weight_only"}},
    {"torchao-rules-sharded-bf16",
     "source-bf16-sharded",
     6,
     {"*q_proj", "leave", "*mlp*", "int8_weight_only", "*", "intx_weight_only:bits=2"}},
    {"quanto-qint8-f16", "source-f16", 7, {"*", "qint8"}},
    {"quanto-qint4-bf16", "source-bf16", 7, {"*", "qint4"}},
    {"quanto-qint2-f32", "source-f32", 7, {"*", "qint2"}},
    {"quanto-qfloat8_e4m3fn-bf16", "source-bf16", 7, {"*", "qfloat8_e4m3fn"}},
};
enum { GOLDENS = sizeof goldens / sizeof *goldens };

/* Schemes are files that may be deleted: a case whose scheme is gone is left out. */
static bool known(const char *scheme) {
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(scheme, ":"), scheme);
    return strcmp(scheme, "leave") == 0 || nib_scheme_find(name);
}

static nib_status quantize(const char *from, const char *to, const char *const *rules,
                           const char *format) {
    nib_rule list[4];
    size_t n = 0;
    for (; n < 4 && rules[2 * n]; n++)
        list[n] = (nib_rule){rules[2 * n], nib_config_parse(rules[2 * n + 1])};
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    const nib_status status = nib_quantize_file(
        ctx, from, to, list, n, NULL, &(nib_file_options){.format = format, .overwrite = true});
    nib_ctx_free(ctx);
    for (size_t i = 0; i < n; i++)
        if (list[i].config != NIB_LEAVE) nib_config_free((nib_config *)(uintptr_t)list[i].config);
    return status;
}

static nib_status verify(const char *folder, const char *source, nib_report *report) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
    const nib_status status = nib_verify_file(ctx, folder, source, report);
    nib_ctx_free(ctx);
    return status;
}

static json_t *json_of(const char *folder, const char *name) {
    size_t size;
    char *text = test_read(IN(folder, name), &size);
    json_t *value = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    return value;
}

TEST(what_the_libraries_wrote_verifies_against_the_float_model) {
    for (int i = 0; i < GOLDENS; i++) {
        const struct golden *g = &goldens[i];
        if (!known(g->rules[1])) continue;
        nib_report report = {0};
        CHECK_OK(verify(IN(GOLDEN, g->folder), IN(GOLDEN, g->source), &report));
        CHECK_INT(report.quantized, g->quantized);
    }
}

TEST(ours_hold_the_same_tensors_and_say_the_same_of_them) {
    for (int i = 0; i < GOLDENS; i++) {
        const struct golden *g = &goldens[i];
        if (!known(g->rules[1])) continue;
        TEST_FOLDER(folder);
        const char *out = IN(folder, "q"), *theirs = IN(GOLDEN, g->folder);
        CHECK_OK(quantize(IN(GOLDEN, g->source), out, g->rules, NULL));
        nib_checkpoint *a = nib_checkpoint_open(NULL, out), *b = nib_checkpoint_open(NULL, theirs);
        CHECK_MADE(a);
        CHECK_MADE(b);
        CHECK_INT(a->count, b->count);
        for (size_t k = 0; k < b->count; k++) {
            const nib_checkpoint_tensor *want = &b->tensors[k];
            const nib_checkpoint_tensor *got = nib_checkpoint_find(a, want->entry->name);
            if (!got) FAIL_AT("%s: no %s", g->folder, want->entry->name);
            CHECK_INT(got->entry->dtype, want->entry->dtype);
            CHECK(nib_shape_equal(&got->entry->shape, &want->entry->shape));
            const void *x = nib_checkpoint_data(a, got), *y = nib_checkpoint_data(b, want);
            if (memcmp(x, y, want->entry->size) != 0)
                FAIL_AT("%s: %s differs", g->folder, want->entry->name);
        }
        const nib_safetensors *said = b->shards[0].file;
        for (size_t k = 0; k < said->metadata_count; k++) {
            const nib_safetensors_pair *pair = &said->metadata[k];
            const char *own = nib_checkpoint_metadata(a, pair->key);
            if (!own) FAIL_AT("%s: no metadata %s", g->folder, pair->key);
            json_t *x = json_loads(own, 0, NULL), *y = json_loads(pair->value, 0, NULL);
            const bool list =
                strcmp(pair->key, "tensor_names") == 0; /* in order of files or modules */
            if (list ? json_array_size(x) != json_array_size(y)
                : x  ? !json_equal(x, y)
                     : strcmp(own, pair->value) != 0)
                FAIL_AT("%s: metadata %s is %s, want %s", g->folder, pair->key, own, pair->value);
            json_decref(x);
            json_decref(y);
        }
        static const char *const files[] = {"config.json", "quanto_qmap.json"};
        for (int k = 0; k < 2; k++) {
            json_t *x = json_of(out, files[k]), *y = json_of(theirs, files[k]);
            CHECK(!x == !y && (!x || json_equal(x, y)));
            json_decref(x);
            json_decref(y);
        }
        nib_checkpoint_close(a);
        nib_checkpoint_close(b);
        test_folder_remove(folder);
    }
}

TEST(parts_that_lie_in_two_files_are_one_weight) {
    nib_checkpoint *c = nib_checkpoint_open(NULL, GOLDEN "torchao-rules-sharded-bf16");
    CHECK_MADE(c);
    nib_manifest m;
    CHECK_OK(nib_manifest_read(NULL, c, NULL, &m));
    int split = 0;
    for (size_t i = 0; i < m.count; i++)
        for (int p = 1; p < m.items[i].nparts; p++)
            split += nib_checkpoint_find(c, m.items[i].parts[p].name)->shard != m.items[i].shard;
    CHECK(split > 0);
    nib_manifest_free(&m);
    nib_checkpoint_close(c);
}

/* ---- the law: what was written is read back ---- */
static const char *const schemes[] = {
    "int8_weight_only",
    "int8_weight_only:granularity=group,group_size=32",
    "int8_weight_only:granularity=tensor",
    "int4_weight_only",
    "int4_weight_only:group_size=32",
    "int4_weight_only:numerics=tinygemm",
    "int4_weight_only:group_size=64,algo=hqq,numerics=tinygemm",
    "int4_weight_only:numerics=tinygemm,eps=v0.17",
    "intx_weight_only",
    "intx_weight_only:bits=1",
    "intx_weight_only:bits=3,granularity=group,group_size=32",
    "intx_weight_only:bits=4,mapping=asymmetric",
    "intx_weight_only:bits=5,mapping=symmetric_no_clipping_err",
    "intx_weight_only:bits=4,granularity=group,group_size=32,algo=hqq",
    "intx_weight_only:bits=2,scale_dtype=f32",
    "intx_weight_only:bits=4,eps=v0.17",
    "float8_weight_only",
    "float8_weight_only:granularity=tensor",
    "float8_weight_only:dtype=e5m2",
    "float8_weight_only:granularity=group,group_size=32",
    "qint8",
    "qint4",
    "qint2",
    "qint4:algo=hqq",
    "qint2:algo=hqq",
    "qfloat8_e4m3fn",
    "qfloat8_e5m2",
    "qfloat8_e4m3fnuz",
};
enum { SCHEMES = sizeof schemes / sizeof *schemes };

/* A folder with two matrices, a bias and a norm; `tensor` names what the file says of itself. */
static void write_source(void **state_, const char *folder, nib_dtype dtype) {
    static const struct {
        const char *name;
        nib_shape shape;
    } tensors[] = {
        {"layers.0.down_proj.weight", {2, {48, 256}}},
        {"layers.0.up_proj.weight", {2, {128, 128}}},
        {"layers.0.up_proj.bias", {1, {128}}},
        {"norm.weight", {1, {256}}},
    };
    nib_safetensors_planned planned[4];
    for (int i = 0; i < 4; i++)
        planned[i] = (nib_safetensors_planned){tensors[i].name, dtype, tensors[i].shape};
    const nib_safetensors_pair pairs[] = {{"format", "pt"}, {"author", "somebody"}};
    const nib_safetensors_plan plan = {planned, 4, pairs, 2};
    mkdir(folder, 0700);
    nib_safetensors_writer *writer =
        nib_safetensors_writer_open(NULL, IN(folder, "model.safetensors"), &plan);
    CHECK_MADE(writer);
    uint64_t seed = test_seed();
    for (size_t i = 0; i < 4; i++) {
        static unsigned char bytes[4 * 128 * 128];
        size_t n = 1, size = dtype == NIB_F32 ? 4 : 2;
        for (int d = 0; d < planned[i].shape.ndim; d++) n *= (size_t)planned[i].shape.dim[d];
        for (size_t k = 0; k < n; k++) {
            const float x = test_uniform(&seed);
            uint32_t bits;
            memcpy(&bits, &x, sizeof bits);
            if (size == 4)
                memcpy(bytes + 4 * k, &bits, 4);
            else if (dtype == NIB_BF16)
                memcpy(bytes + 2 * k, &(uint16_t){(uint16_t)(bits >> 16)}, 2);
            else
                memcpy(bytes + 2 * k, &(uint16_t){(uint16_t)(0x3000 | (bits >> 16 & 0x83ff))},
                       2); /* 0.125 to 0.25 */
        }
        CHECK_OK(nib_safetensors_writer_put(writer, i, bytes, n * size, 0));
    }
    CHECK_OK(nib_safetensors_writer_finish(writer));
    static const char config[] = "{\"model_type\": \"none\", \"kept\": [1, 2]}\n";
    test_write(IN(folder, "config.json"), config, sizeof config - 1);
}

/* Every quantized weight of `path` was made by this very config, planned again from its shape. */
static void check_read(void **state_, const char *path, const nib_format *format,
                       const char *scheme, nib_dtype dtype) {
    nib_checkpoint *c = nib_checkpoint_open(NULL, path);
    CHECK_MADE(c);
    json_t *root = c->is_file ? NULL : json_of(path, "config.json");
    nib_manifest m;
    CHECK_OK(nib_manifest_read(NULL, c, root, &m));
    CHECK(m.format == format);
    CHECK_TEXT(nib_checkpoint_metadata(c, "author"), "somebody");
    nib_config *config = nib_config_parse(scheme);
    nib_text want = {0};
    nib_config_print(config, &want);
    int quantized = 0;
    for (size_t i = 0; i < m.count; i++) {
        const nib_stored *item = &m.items[i];
        if (!item->layout) continue;
        quantized++;
        const nib_shape shape =
            strstr(item->name, "down") ? (nib_shape){2, {48, 256}} : (nib_shape){2, {128, 128}};
        CHECK_OK(nib_manifest_resolve(&m, c, item, &shape));
        nib_text got = {0};
        nib_config_print(item->config, &got);
        CHECK_TEXT(got.data, want.data);
        nib_text_free(&got);
        nib_qdesc desc = {0};
        nib_act in = {0}, out = {0};
        const nib_site site = {"linear", item->name, shape, dtype};
        CHECK_OK(nib_scheme_plan(config, &site, &desc, &in, &out));
        const nib_qdesc *d = &item->desc;
        CHECK(nib_shape_equal(&d->shape, &shape) && d->code == desc.code && d->math == dtype);
        CHECK(d->scale_dtype == desc.scale_dtype && d->zero_dtype == desc.zero_dtype &&
              d->zero_kind == desc.zero_kind);
        CHECK(d->rows == desc.rows && d->cols == desc.cols);
        CHECK(d->block_rows == desc.block_rows && d->block_cols == desc.block_cols);
        CHECK(item->layout == format->layout(config, &desc));
        nib_part parts[NIB_MAX_PARTS];
        CHECK_INT(item->nparts, item->layout->parts(&desc, parts));
        for (int p = 0; p < item->nparts; p++) {
            CHECK_INT(item->parts[p].part.dtype, parts[p].dtype);
            CHECK(nib_shape_equal(&item->parts[p].part.shape, &parts[p].shape));
        }
    }
    CHECK_INT(quantized, 2);
    nib_text_free(&want);
    nib_config_free(config);
    nib_manifest_free(&m);
    json_decref(root);
    nib_checkpoint_close(c);
}

TEST(what_a_format_wrote_it_reads_back_and_what_it_cannot_hold_it_refuses_before_work) {
    static const nib_dtype dtypes[] = {NIB_F32, NIB_F16, NIB_BF16};
    int held = 0, refused = 0;
    TEST_FOLDER_IN_MEMORY(folder);
    for (int d = 0; d < 3; d++) {
        write_source(state_, IN(folder, "source"), dtypes[d]);
        for (size_t f = 0; nib_format_at(f); f++)
            for (int i = 0; i < SCHEMES; i++) {
                const nib_format *format = nib_format_at(f);
                const char *rules[8] = {"*", schemes[i]}, *out = IN(folder, "q");
                if (!known(schemes[i])) continue;
                const nib_status status = quantize(IN(folder, "source"), out, rules, format->name);
                if (status == NIB_E_UNSUPPORTED) {
                    char *now = test_picture(folder);
                    CHECK(strstr(nib_last_error()->what, "formats that can: native") ||
                          strstr(nib_last_error()->what, "formats that can: torchao, native") ||
                          strstr(nib_last_error()->what, "formats that can: quanto, native"));
                    CHECK(*nib_last_error()->tensor && !strstr(now, "q "));
                    free(now);
                    refused++;
                    continue;
                }
                CHECK_OK(status);
                check_read(state_, out, format, schemes[i], dtypes[d]);
                CHECK_OK(verify(out, IN(folder, "source"), NULL));
                test_folder_remove(out);
                held++;
                const char *file = IN(folder, "q.safetensors");
                if (format->side_file) { /* it would lack the map */
                    CHECK_FAILS(quantize(IN(folder, "source"), file, rules, format->name),
                                NIB_E_UNSUPPORTED, "folder");
                    CHECK(access(file, F_OK) != 0);
                    continue;
                }
                CHECK_OK(quantize(IN(folder, "source"), file, rules, format->name));
                check_read(state_, file, format, schemes[i], dtypes[d]);
                CHECK_OK(verify(file, IN(folder, "source"), NULL));
                unlink(file);
            }
        test_folder_remove(IN(folder, "source"));
    }
    print_message("%d held, %d refused\n", held, refused);
    CHECK(held >= 100 || !known("quanto") || !known("intx_weight_only"));
    test_folder_remove(folder);
}

/* ---- what is broken is one clear error ---- */
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
    static const char int8[] = "torchao-int8-row-bf16", dynamic[] = "torchao-int8-dynamic-bf16",
                      da4w[] = "torchao-8da4w-group-bf16", qint8[] = "quanto-qint8-f16",
                      qint4[] = "quanto-qint4-bf16";
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
    };
    TEST_FOLDER_IN_MEMORY(folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!known("quanto") || !known("int8_weight_only") || !known("8da4w") ||
            !known("int8_dynamic_activation_int8_weight"))
            continue;
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
         "no type of quanto", UP, NIB_E_FORMAT},
        {"{\"" UP "\": {\"weights\": \"qint8\", \"activations\": \"qint8\"}}",
         "activations of type qint8", UP, NIB_E_UNSUPPORTED},
        {"{\"model.layers.7.mlp.up_proj\": {\"weights\": \"qint8\", \"activations\": \"none\"}}",
         "has no", "model.layers.7.mlp.up_proj", NIB_E_FORMAT},
        {"{\"" UP "\": \"qint8\"}", "not an object", UP, NIB_E_FORMAT},
        {"{\"" UP "\": {}}", "weights", UP, NIB_E_FORMAT},
        {"[]", "not an object", "", NIB_E_FORMAT},
        {"{\"" UP "\": {\"wei", "", "", NIB_E_FORMAT},
    };
    if (!known("quanto")) return;
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
    if (!known("int8_weight_only")) return;
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
    if (!known("int4_weight_only")) return;
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
    if (!known("quanto") || !known("intx_weight_only") || !known("int8_weight_only")) return;
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

TEST(metadata_of_twenty_thousand_tensors_is_read_by_looking_up_each) {
    enum { MANY = 20000 };
    nib_safetensors_planned *planned = calloc(MANY, sizeof *planned);
    nib_safetensors_pair *pairs = calloc(MANY + 1, sizeof *pairs);
    char(*names)[48] = calloc(MANY, sizeof *names), *list = malloc(MANY * 52 + 16);
    size_t length = (size_t)sprintf(list, "[");
    for (int i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "layers.%d.norm.weight", (i * 7919) % MANY);
        planned[i] = (nib_safetensors_planned){names[i], NIB_F32, {1, {1}}};
        pairs[i] = (nib_safetensors_pair){names[i], "{\"_type\": \"Tensor\"}"};
        length += (size_t)sprintf(list + length, "%s\"%s\"", i ? ", " : "", names[i]);
    }
    sprintf(list + length, "]");
    pairs[MANY] = (nib_safetensors_pair){"tensor_names", list};
    TEST_FOLDER_IN_MEMORY(folder);
    const char *path = IN(folder, "many.safetensors");
    const nib_safetensors_plan plan = {planned, MANY, pairs, MANY + 1};
    nib_safetensors_writer *writer = nib_safetensors_writer_open(NULL, path, &plan);
    CHECK_MADE(writer);
    for (size_t i = 0; i < MANY; i++)
        CHECK_OK(nib_safetensors_writer_put(writer, i, &(float){(float)i}, 4, 0));
    CHECK_OK(nib_safetensors_writer_finish(writer));
    nib_checkpoint *c = nib_checkpoint_open(NULL, path);
    CHECK_MADE(c);
    nib_manifest m;
    CHECK_OK(nib_manifest_read(NULL, c, NULL, &m));
    CHECK_INT(m.count, MANY);
    CHECK(nib_manifest_find(&m, "layers.12345.norm.weight") != NULL);
    nib_manifest_free(&m);
    nib_checkpoint_close(c);
    test_folder_remove(folder);
    free(planned);
    free(pairs);
    free(names);
    free(list);
}

TESTS(RUNS(what_the_libraries_wrote_verifies_against_the_float_model),
      RUNS(ours_hold_the_same_tensors_and_say_the_same_of_them),
      RUNS(parts_that_lie_in_two_files_are_one_weight),
      RUNS(what_a_format_wrote_it_reads_back_and_what_it_cannot_hold_it_refuses_before_work),
      RUNS(parts_that_lack_or_contradict_and_words_that_are_unknown_are_one_clear_error),
      RUNS(a_map_of_quantos_that_is_wrong_is_refused_naming_the_module),
      RUNS(our_own_metadata_is_not_trusted_either),
      RUNS(int4_tensors_of_torchao_are_for_bf16_activations_and_others_are_refused),
      RUNS(reading_and_planning_survive_any_failing_call_or_allocation),
      RUNS(metadata_of_twenty_thousand_tensors_is_read_by_looking_up_each))
