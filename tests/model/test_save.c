/* Saving: what is in memory comes back from the file, and the file is the one that quantizing from
 * file to file writes. */
#include <nibble/io.h>
#include <nibble/nn.h>

#include "base/mem.h"
#include "golden_model.h"
#include "io/format.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "test_files.h"

static const char kjv[] = "models/kjv-llama";
enum { PROMPT = 7, MAX_V = 2048 };

/* Logits after a short prompt, [MAX_V] of which `count` are there. */
static void logits_of(void **state_, nib_ctx *ctx, const nib_model *model, float *out,
                      size_t *count) {
    static const int32_t prompt[PROMPT] = {1, 5, 40, 7, 33, 12, 60};
    nib_session *s = nib_session_new(ctx, model, NULL);
    CHECK_MADE(s);
    CHECK_OK(nib_session_feed(s, prompt, PROMPT));
    const float *logits = nib_session_logits(s, count);
    CHECK_MADE(logits);
    CHECK(*count <= MAX_V);
    memcpy(out, logits, *count * sizeof *out);
    nib_session_free(s);
}

static void same_logits(void **state_, nib_ctx *ctx, const nib_model *model, const char *path) {
    static float here[MAX_V], there[MAX_V];
    size_t count = 0, other = 0;
    nib_model *saved = nib_model_load(ctx, path, NULL);
    CHECK_MADE(saved);
    logits_of(state_, ctx, model, here, &count);
    logits_of(state_, ctx, saved, there, &other);
    CHECK_INT(other, count);
    CHECK_BYTES(there, here, count * sizeof *here);
    nib_model_free(saved);
}

static void same_folder(void **state_, const char *got, const char *want) {
    char *a = test_picture(got), *b = test_picture(want);
    CHECK_TEXT(a, b);
    free(a);
    free(b);
}

static void same_file(void **state_, const char *got, const char *want) {
    size_t a_size = 0, b_size = 0;
    char *a = test_read(got, &a_size), *b = test_read(want, &b_size);
    CHECK(a && b);
    CHECK_BYTES(a, b, a_size < b_size ? a_size : b_size);
    CHECK_INT(a_size, b_size);
    free(a);
    free(b);
}

static void same_picture(void **state_, const char *folder, char *before) {
    char *now = test_picture(folder);
    CHECK_TEXT(now, before);
    free(now);
    free(before);
}

/* Configs that between them have every scheme, layout and way to zero. */
static const char *const configs[] = {
    "int8_weight_only",
    "int8_weight_only:granularity=group,group_size=32",
    "int8_weight_only:granularity=tensor",
    "int4_weight_only:group_size=32",
    "int4_weight_only:group_size=64,numerics=tinygemm",
    "int4_weight_only:group_size=32,numerics=tinygemm,algo=hqq",
    "intx_weight_only:bits=3",
    "intx_weight_only:bits=5,granularity=group,group_size=32,mapping=asymmetric",
    "float8_weight_only",
    "float8_weight_only:granularity=tensor",
    "qint8",
    "qint4",
    "qint2",
    "qfloat8",
    "qfloat8_e5m2",
    "qfloat8_e4m3fnuz",
};

TEST(a_model_quantized_in_memory_is_saved_as_the_file_to_file_path_writes_it) {
    for (size_t k = 0; k < sizeof configs / sizeof *configs; k++) {
        nib_config *config = nib_config_parse(configs[k]);
        if (!config) continue; /* a build without that scheme */
        TEST_FOLDER(dir);
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        nib_model *model = nib_model_load(ctx, kjv, NULL);
        CHECK_MADE(model);
        CHECK_OK(nib_quantize(nib_model_root(model), config, NULL));
        CHECK_OK(nib_model_save(model, IN(dir, "saved"), NULL));
        const nib_rule rule = {"*", config};
        CHECK_OK(nib_quantize_file(ctx, kjv, IN(dir, "filed"), &rule, 1, NULL, NULL));
        CHECK(unlink(IN(IN(dir, "filed"), "quant_report.json")) ==
              0); /* tells of the source's bytes */
        same_folder(state_, IN(dir, "saved"), IN(dir, "filed"));
        same_logits(state_, ctx, model, IN(dir, "saved"));
        CHECK_OK(nib_verify_file(ctx, IN(dir, "saved"), kjv, NULL));
        nib_model_free(model);

        /* Loaded quantized it keeps its config, and is saved as it was. */
        nib_model *again = nib_model_load(ctx, IN(dir, "saved"), NULL);
        CHECK_MADE(again);
        CHECK_OK(nib_model_save(again, IN(dir, "again"), NULL));
        same_folder(state_, IN(dir, "again"), IN(dir, "saved"));
        CHECK_OK(nib_model_save(again, IN(dir, "native"), "native"));
        same_logits(state_, ctx, again, IN(dir, "native"));
        CHECK_OK(nib_verify_file(ctx, IN(dir, "native"), kjv, NULL));
        nib_model_free(again);
        nib_ctx_free(ctx);
        nib_config_free(config);
        test_folder_remove(dir);
    }
}

/* One file alone: it says all that config.json would, or is refused before anything is written. */
TEST(a_model_is_saved_as_one_file_as_the_file_to_file_path_writes_it) {
    static const char *const cases[] = {"int4_weight_only:group_size=32",
                                        "int8_weight_only:granularity=group,group_size=32",
                                        "intx_weight_only:bits=3", "qint8"};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        nib_config *config = nib_config_parse(cases[k]);
        if (!config) continue; /* a build without that scheme */
        const bool quanto = strcmp(config->scheme->system, "quanto") == 0;
        TEST_FOLDER(dir);
        const char *saved = IN(dir, "saved.safetensors"), *filed = IN(dir, "filed.safetensors");
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        nib_model *model = nib_model_load(ctx, kjv, NULL);
        const nib_rule rule = {"*", config};
        CHECK_MADE(model);
        CHECK_OK(nib_quantize(nib_model_root(model), config, NULL));
        if (quanto) {
            char *before = test_picture(dir);
            CHECK_FAILS(nib_model_save(model, saved, NULL), NIB_E_ARGUMENT,
                        "keeps a further file beside the weights");
            same_picture(state_, dir, before);
        }
        const nib_file_options native = {.format = quanto ? "native" : NULL};
        CHECK_OK(nib_model_save(model, saved, native.format));
        CHECK_OK(nib_quantize_file(ctx, kjv, filed, &rule, 1, NULL, &native));
        same_file(state_, saved, filed);
        CHECK_OK(nib_verify_file(ctx, saved, kjv, NULL));
        nib_model_free(model);
        nib_ctx_free(ctx);
        nib_config_free(config);
        test_folder_remove(dir);
    }
}

TEST(every_family_is_quantized_alike_in_memory_and_in_files) {
    static const char *const cases[] = {
        "opt_norm_after_projected", "opt_trunk_names",   "gpt2_trunk_names",         "gpt2_inner",
        "gpt2_unscaled_untied",     "bloom_trunk_names", "bloom_residual_after_norm"};
    static const char *const schemes[] = {"int8_weight_only", "int4_weight_only:group_size=32",
                                          "qint4", "int8_dynamic_activation_int8_weight"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases * 4; i++) {
        nib_config *config = nib_config_parse(schemes[i % 4]);
        if (!config) continue; /* a build without that scheme */
        TEST_FOLDER(dir);
        char source[256];
        snprintf(source, sizeof source, GOLDEN "%s", cases[i / 4]);
        const nib_select select = {.leave_unfit = true, .head = i % 3 == 0};
        const nib_rule rule = {"*", config};
        nib_report report = {0};
        nib_select reported = select;
        reported.report = &report;
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        nib_model *model = nib_model_load(ctx, source, NULL);
        CHECK_MADE(model);
        CHECK_OK(nib_quantize(nib_model_root(model), config, &select));
        CHECK_OK(nib_model_save(model, IN(dir, "saved"), NULL));
        CHECK_OK(nib_quantize_file(ctx, source, IN(dir, "filed"), &rule, 1, &reported, NULL));
        CHECK(report.quantized >= 6);
        CHECK(unlink(IN(IN(dir, "filed"), "quant_report.json")) == 0);
        same_folder(state_, IN(dir, "saved"), IN(dir, "filed"));
        same_logits(state_, ctx, model, IN(dir, "filed"));
        CHECK_OK(nib_verify_file(ctx, IN(dir, "saved"), source, NULL));
        nib_model_free(model);
        nib_ctx_free(ctx);
        nib_config_free(config);
        test_folder_remove(dir);
    }
}

TEST(a_float_model_of_every_kind_is_saved_to_the_byte_as_it_was_loaded) {
    for (int c = 0; c < GOLDEN_CASES; c++) {
        TEST_FOLDER(dir);
        char source[256];
        snprintf(source, sizeof source, GOLDEN "%s", golden_cases[c]);
        nib_ctx *ctx = nib_ctx_new(NULL);
        nib_model *model = nib_model_load(ctx, source, NULL);
        CHECK_MADE(model);
        CHECK_OK(nib_model_save(model, IN(dir, "saved"), NULL));
        /* The source also has reference.safetensors, which is no part of the model. */
        struct dirent **names = NULL;
        const int count = scandir(IN(dir, "saved"), &names, NULL, alphasort);
        CHECK(count >= 4);
        for (int i = 0; i < count; i++) {
            size_t size = 0, want_size = 0;
            char *got = test_read(IN(IN(dir, "saved"), names[i]->d_name), &size);
            char *want = test_read(IN(source, names[i]->d_name), &want_size);
            /* The index of this source was written with less indentation. */
            if (names[i]->d_name[0] != '.' && !strstr(names[i]->d_name, ".index.json")) {
                CHECK(got && want);
                CHECK_INT(size, want_size);
                CHECK_BYTES(got, want, size);
            }
            free(got);
            free(want);
            free(names[i]);
        }
        free(names);
        same_logits(state_, ctx, model, IN(dir, "saved"));
        nib_model_free(model);
        nib_ctx_free(ctx);
        test_folder_remove(dir);
    }
}

TEST(a_tied_head_that_was_quantized_is_untied_whichever_name_the_file_has) {
    static const char *const cases[] = {"llama_tied_as_embed", "llama_tied_as_head",
                                        "llama_tied_as_both"};
    NEEDS_SCHEME("int8_weight_only");
    for (int c = 0; c < 3; c++) {
        TEST_FOLDER(dir);
        char source[256];
        snprintf(source, sizeof source, GOLDEN "%s", cases[c]);
        nib_ctx *ctx = nib_ctx_new(NULL);
        nib_model *model = nib_model_load(ctx, source, NULL);
        nib_config *config = nib_config_parse("int8_weight_only");
        CHECK_MADE(model);
        CHECK_OK(nib_quantize(nib_model_root(model), config, &(nib_select){.head = true}));
        CHECK_OK(nib_model_save(model, IN(dir, "saved"), "native"));
        same_logits(state_, ctx, model, IN(dir, "saved"));
        if (c == 0) {
            const nib_rule rule = {"*", config};
            CHECK_OK(nib_quantize_file(ctx, source, IN(dir, "filed"), &rule, 1,
                                       &(nib_select){.head = true},
                                       &(nib_file_options){.format = "native"}));
            CHECK(unlink(IN(IN(dir, "filed"), "quant_report.json")) == 0);
            same_folder(state_, IN(dir, "saved"), IN(dir, "filed"));
        }
        nib_config_free(config);
        nib_model_free(model);
        nib_ctx_free(ctx);
        test_folder_remove(dir);
    }
}

TEST(floats_loaded_in_another_dtype_are_saved_in_it_and_the_config_says_so) {
    TEST_FOLDER(dir);
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model =
        nib_model_load(ctx, GOLDEN "llama_gqa_bf16", &(nib_load_options){.dtype = NIB_F32});
    CHECK_MADE(model);
    CHECK_OK(nib_model_save(model, IN(dir, "saved"), NULL));
    char *config = test_read(IN(IN(dir, "saved"), "config.json"), NULL);
    CHECK(config && strstr(config, "\"dtype\": \"float32\"") &&
          strstr(config, "\"rms_norm_eps\": 1e-05"));
    free(config);
    nib_reader *reader = nib_reader_open(ctx, IN(dir, "saved"));
    nib_weight_info w;
    CHECK_MADE(reader);
    while (nib_reader_next_weight(reader, &w) == NIB_OK) CHECK_INT(w.dtype, NIB_F32);
    nib_reader_free(reader);
    same_logits(state_, ctx, model, IN(dir, "saved"));
    nib_model_free(model);
    nib_ctx_free(ctx);
    test_folder_remove(dir);
}

TEST(what_cannot_be_saved_is_refused_and_nothing_is_written) {
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER(dir);
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, kjv, NULL);
    nib_config *config = nib_config_parse("int8_weight_only");
    CHECK_MADE(model);
    CHECK_OK(nib_model_save(model, IN(dir, "float"), NULL));
    char *before = test_picture(dir);
    CHECK_FAILS(nib_model_save(model, IN(dir, "float"), NULL), NIB_E_ARGUMENT, "");
    CHECK_FAILS(nib_model_save(model, kjv, NULL), NIB_E_ARGUMENT, "");
    CHECK_FAILS(nib_model_save(model, IN(dir, "q"), "nativ"), NIB_E_ARGUMENT,
                "did you mean \"native\"");
    CHECK_OK(nib_quantize(nib_model_root(model), config, NULL));
    CHECK_FAILS(nib_model_save(model, IN(dir, "q"), "quanto"), NIB_E_ARGUMENT,
                "formats that can: torchao, native");
    CHECK(strstr(nib_last_error()->tensor, "_proj.weight") != NULL);
    CHECK_FAILS(nib_model_save(model, IN(dir, "no/such/q"), NULL), NIB_E_IO, "");
    CHECK_FAILS(nib_model_save(model, NULL, NULL), NIB_E_ARGUMENT, "no path");
    CHECK(nib_model_save(NULL, IN(dir, "q"), NULL) < NIB_OK);
    char *after = test_picture(dir);
    CHECK_TEXT(after, before);
    free(before);
    free(after);
    nib_config_free(config);
    nib_model_free(model);
    nib_ctx_free(ctx);
    test_folder_remove(dir);
}

TESTS(RUNS(a_model_quantized_in_memory_is_saved_as_the_file_to_file_path_writes_it),
      RUNS(a_model_is_saved_as_one_file_as_the_file_to_file_path_writes_it),
      RUNS(every_family_is_quantized_alike_in_memory_and_in_files),
      RUNS(a_float_model_of_every_kind_is_saved_to_the_byte_as_it_was_loaded),
      RUNS(a_tied_head_that_was_quantized_is_untied_whichever_name_the_file_has),
      RUNS(floats_loaded_in_another_dtype_are_saved_in_it_and_the_config_says_so),
      RUNS(what_cannot_be_saved_is_refused_and_nothing_is_written))
