/* Quantized checkpoints in every format: those that the real libraries wrote
 * (tests/golden/formats), ours that must equal them, and what a format reads back of what it
 * wrote. What is refused is in test_formats_broken.c. */
#include "formats.h"

#include "quant/layouts.h"

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

static bool all_known(const char *const *rules) {
    for (int i = 0; rules[i]; i += 2)
        if (!known(rules[i + 1])) return false;
    return true;
}

TEST(what_the_libraries_wrote_verifies_against_the_float_model) {
    for (int i = 0; i < GOLDENS; i++) {
        const struct golden *g = &goldens[i];
        if (!all_known(g->rules)) continue;
        nib_report report = {0};
        CHECK_OK(verify(IN(GOLDEN, g->folder), IN(GOLDEN, g->source), &report));
        CHECK_INT(report.quantized, g->quantized);
    }
}

TEST(ours_hold_the_same_tensors_and_say_the_same_of_them) {
    for (int i = 0; i < GOLDENS; i++) {
        const struct golden *g = &goldens[i];
        if (!all_known(g->rules)) continue;
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
    NEEDS_SCHEME("int8_weight_only");
    NEEDS_SCHEME("intx_weight_only");
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
    "intx_weight_only:bits=4,granularity=group,group_size=64,mapping=asymmetric",
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
                if (status == NIB_E_ARGUMENT) {
                    char *now = test_picture(folder);
                    CHECK(strstr(nib_last_error()->what, "formats that can: native") ||
                          strstr(nib_last_error()->what, "formats that can: torchao, native") ||
                          strstr(nib_last_error()->what, "formats that can: quanto, native") ||
                          strstr(nib_last_error()->what, "formats that can: torchao, awq, native"));
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
                                NIB_E_ARGUMENT, "folder");
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
    for (int i = 0; i < SCHEMES; i++)
        if (!known(schemes[i])) held = 100; /* a build that lacks some */
    CHECK(held >= 100);
    test_folder_remove(folder);
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
      RUNS(metadata_of_twenty_thousand_tensors_is_read_by_looking_up_each))
