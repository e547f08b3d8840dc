/* Evaluating against transformers and plain Python: tests/golden/eval/make.py. */
#include <errno.h>
#include <jansson.h>

#include "base/mem.h"
#include "base/sys.h"
#include "golden_model.h"
#include "tensor/context.h"
#include "test_files.h"

#define EVAL "tests/golden/eval/"

static double expected(const json_t *all, const char *name, const char *key) {
    return json_number_value(json_object_get(json_object_get(all, name), key));
}

/* Logits agree within a few 1e-6 of their size, and a measure is a mean of smooth functions of
 * them; counts and shares must be equal. */
#define NEAR(got, name, key)                                                                       \
    CHECK_NEAR(got, expected(all, name, key), 1e-4 * (fabs(expected(all, name, key)) + 1e-6))
#define SAME(got, name, key) CHECK_NEAR(got, expected(all, name, key), 1e-12)

TEST(perplexity_equals_that_of_transformers_by_both_protocols_with_and_without_bos) {
    static const struct {
        const char *name, *model, *reference, *protocol;
        int context;
    } cases[] = {
        {"with_bos/half/64", "with_bos", "without_bos", NULL, 64},
        {"with_bos/full/64", "with_bos", "without_bos", "full", 64},
        {"with_bos/half/200", "with_bos", "without_bos", "half", 200},
        {"without_bos/half/64", "without_bos", "with_bos", "half", 64},
        {"without_bos/full/50", "without_bos", "with_bos", "full", 50},
    };
    json_t *all = json_load_file(EVAL "expected.json", 0, NULL);
    CHECK(all);
    for (int threads = 1; threads <= 3; threads += 2) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const char *name = cases[i].name;
            nib_model *model = nib_model_load(ctx, IN(EVAL, cases[i].model), NULL);
            nib_model *reference = nib_model_load(ctx, IN(EVAL, cases[i].reference), NULL);
            nib_eval e = {
                .protocol = cases[i].protocol, .context = cases[i].context, .reference = reference};
            CHECK_OK(nib_eval_file(ctx, model, "perplexity", EVAL "text.txt", &e));
            SAME((double)e.tokens, name, "tokens");
            NEAR(e.perplexity, name, "perplexity");
            NEAR(e.perplexity_error, name, "perplexity_error");
            NEAR(e.bits_per_byte, name, "bits_per_byte");
            NEAR(e.kl_mean, name, "kl_mean");
            NEAR(e.kl_p99, name, "kl_p99");
            SAME(e.same_top, name, "same_top");
            nib_model_free(reference);
            nib_model_free(model);
        }
        nib_ctx_free(ctx);
    }
    json_decref(all);
}

TEST(protocol_quanto_is_what_its_harness_computes) {
    static const struct {
        const char *name, *model, *text;
        int context;
    } cases[] = {{"with_bos/quanto/64", "with_bos", EVAL "text.txt", 64},
                 {"with_bos/quanto/100", "with_bos", EVAL "blank.txt", 100},
                 {"without_bos/quanto/64", "without_bos", EVAL "blank.txt", 64}};
    json_t *all = json_load_file(EVAL "expected.json", 0, NULL);
    CHECK(all);
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *name = cases[i].name;
        nib_model *model = nib_model_load(ctx, IN(EVAL, cases[i].model), NULL);
        nib_eval e = {.protocol = "quanto", .context = cases[i].context};
        CHECK_OK(nib_eval_file(ctx, model, "perplexity", cases[i].text, &e));
        SAME((double)e.tokens, name, "tokens");
        NEAR(e.running_perplexity, name, "running_perplexity");
        NEAR(e.perplexity, name, "perplexity");
        CHECK(fabs(e.running_perplexity - e.perplexity) > 1e-6 * e.perplexity);
        e = (nib_eval){.protocol = "quanto"};
        CHECK_OK(nib_eval_file(ctx, model, "lambada", EVAL "lambada.jsonl", &e));
        name = i < 2 ? "with_bos/last_token" : "without_bos/last_token";
        SAME((double)e.items, name, "items");
        SAME(e.acc, name, "acc");
        e = (nib_eval){.protocol = "quanto", .reference = model, .context = 64};
        CHECK_FAILS(nib_eval_file(ctx, model, "perplexity", EVAL "text.txt", &e), NIB_E_ARGUMENT,
                    "a reference goes with protocols half and full");
        e = (nib_eval){.protocol = "quanto", .context = 1000};
        CHECK_FAILS(nib_eval_file(ctx, model, "perplexity", EVAL "text.txt", &e), NIB_E_ARGUMENT,
                    "context is 1000, want 4 to the model's 256");
        e = (nib_eval){.protocol = "quanto"};
        CHECK_FAILS(nib_eval_file(ctx, model, "hellaswag", EVAL "hellaswag.jsonl", &e),
                    NIB_E_ARGUMENT, "not known for hellaswag");
        e = (nib_eval){.protocol = "full"};
        CHECK_FAILS(nib_eval_file(ctx, model, "lambada", EVAL "lambada.jsonl", &e), NIB_E_ARGUMENT,
                    "leave it out or use quanto");
        nib_model_free(model);
    }
    nib_ctx_free(ctx);
    json_decref(all);
}

TEST(a_model_differs_by_nothing_from_itself) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, EVAL "with_bos", NULL);
    nib_eval e = {.context = 64, .reference = model};
    CHECK_OK(nib_eval_file(ctx, model, "perplexity", EVAL "text.txt", &e));
    CHECK_NEAR(e.kl_mean, 0, 1e-15);
    CHECK_NEAR(e.same_top, 1, 0);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(hellaswag_and_lambada_equal_those_of_transformers_in_both_spellings) {
    static const char *const models[] = {"with_bos", "without_bos"};
    json_t *all = json_load_file(EVAL "expected.json", 0, NULL);
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (size_t i = 0; i < 2; i++) {
        nib_model *model = nib_model_load(ctx, IN(EVAL, models[i]), NULL);
        nib_eval e = {0};
        CHECK_OK(nib_eval_file(ctx, model, "hellaswag", EVAL "hellaswag.jsonl", &e));
        const char *name = i ? "without_bos/hellaswag" : "with_bos/hellaswag";
        SAME((double)e.items, name, "items");
        SAME(e.acc, name, "acc");
        SAME(e.acc_norm, name, "acc_norm");
        SAME(e.acc_error, name, "acc_error");
        SAME(e.acc_norm_error, name, "acc_norm_error");
        e = (nib_eval){0};
        CHECK_OK(nib_eval_file(ctx, model, "lambada", EVAL "lambada.jsonl", &e));
        name = i ? "without_bos/lambada" : "with_bos/lambada";
        SAME((double)e.items, name, "items");
        SAME(e.acc, name, "acc");
        NEAR(e.perplexity, name, "perplexity");
        NEAR(e.perplexity_error, name, "perplexity_error");
        e = (nib_eval){.limit = 5};
        CHECK_OK(nib_eval_file(ctx, model, "lambada", EVAL "lambada.jsonl", &e));
        CHECK_INT(e.items, 5);
        nib_model_free(model);
    }
    nib_ctx_free(ctx);
    json_decref(all);
}

TEST(bad_data_is_an_error_that_names_file_line_and_what_is_wrong) {
    static const struct {
        const char *task, *text;
        nib_status status;
        const char *what;
        int offset;
    } bad[] = {
        {"hellaswag", "{\"ctx\":1}", NIB_E_FORMAT, "\"activity_label\" is missing", 0},
        {"hellaswag", "\n\n{\"activity_label\":\"a\"}", NIB_E_FORMAT,
         "neither \"ctx\" nor \"ctx_a\"", 2},
        {"hellaswag", "{\"activity_label\":\"a\",\"ctx\":\"b\"}", NIB_E_FORMAT,
         "\"ending_options\" is missing", 0},
        {"hellaswag", "{\"activity_label\":\"a\",\"ctx\":\"b\",\"endings\":[\"x\"],\"label\":0}",
         NIB_E_FORMAT, "1 endings, want 4", 0},
        {"hellaswag",
         "{\"activity_label\":\"a\",\"ctx\":\"b\",\"endings\":[\"x\",\"y\",\"z\",\"u\"],\"label\":"
         "4}",
         NIB_E_FORMAT, "label", 0},
        {"hellaswag",
         "{\"activity_label\":\"a\",\"ctx\":\"b\",\"endings\":[\"x\",\"y\",\"z\",\"u\"],\"label\":"
         "\"x\"}",
         NIB_E_FORMAT, "label", 0},
        {"hellaswag",
         "{\"activity_label\":\"a\",\"ctx\":\"b\",\"endings\":[\"x\",\"y\",3,\"u\"],\"label\":1}",
         NIB_E_FORMAT, "ending 2", 0},
        {"hellaswag", "not json", NIB_E_FORMAT, "not valid JSON", -2},
        {"hellaswag", "[1]", NIB_E_FORMAT, "\"activity_label\"", 0},
        {"hellaswag", "", NIB_E_FORMAT, "no item", 0},
        {"lambada", "\n", NIB_E_FORMAT, "no item", 0},
        {"lambada", "{\"text\":\"word\"}", NIB_E_FORMAT, "no last word", 0},
        {"lambada", "{\"context\":\"a b\"}", NIB_E_FORMAT, "\"continuation\" is missing", 0},
        {"lambada", "{\"context\":\"a b\",\"continuation\":\" \"}", NIB_E_FORMAT, "empty", 0},
        {"perplexity", "", NIB_E_FORMAT, "0 tokens, too few", -1},
        {"perplexity", "short", NIB_E_FORMAT, "too few", -1},
        {"perplexity",
         "ab\xff"
         "cd",
         NIB_E_FORMAT, "UTF-8", 2},
        {"winogrande", "x", NIB_E_ARGUMENT, "use perplexity, hellaswag, lambada or pictures", -2},
    };
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, EVAL "with_bos", NULL);
    TEST_FOLDER(folder);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        test_write(IN(folder, "data"), bad[i].text, strlen(bad[i].text));
        nib_eval e = {.context = 64};
        CHECK_FAILS(nib_eval_file(ctx, model, bad[i].task, IN(folder, "data"), &e), bad[i].status,
                    bad[i].what);
        if (bad[i].status == NIB_E_FORMAT) CHECK_TEXT(nib_last_error()->path, IN(folder, "data"));
        if (bad[i].offset > -2) CHECK_INT(nib_last_error()->offset, bad[i].offset);
    }
    nib_eval e = {.context = 64, .protocol = "quarter"};
    CHECK_FAILS(nib_eval_file(ctx, model, "perplexity", EVAL "text.txt", &e), NIB_E_ARGUMENT,
                "use half, full or quanto");
    e = (nib_eval){.context = 257};
    CHECK_FAILS(nib_eval_file(ctx, model, "perplexity", EVAL "text.txt", &e), NIB_E_ARGUMENT,
                "model's 256");
    e = (nib_eval){.reference = model};
    CHECK_FAILS(nib_eval_file(ctx, model, "lambada", EVAL "text.txt", &e), NIB_E_ARGUMENT,
                "reference");
    CHECK_FAILS(nib_eval_file(ctx, model, "lambada", IN(folder, "nowhere"), &(nib_eval){0}),
                NIB_E_IO, "");
    test_folder_remove(folder);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

/* Run one task with the Nth allocation failing, N = 0, 1, ... until it passes. What can do without
 * (a cache) may go on, to the same result. */
static void starve(void **state_, const char *task, const char *file, bool reference,
                   const char *protocol) {
    bool done = false;
    nib_eval want = {.context = 64, .limit = 2};
    for (long n = -1; !done; n += n < 300 ? 1 : 17) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
        nib_model *model = nib_model_load(ctx, EVAL "with_bos", NULL);
        nib_eval e = {
            .context = 64, .limit = 2, .reference = reference ? model : NULL, .protocol = protocol};
        nib_mem_fail_after(n, false);
        const nib_status status = nib_eval_file(ctx, model, task, file, &e);
        done = nib_mem_fail_after(-1, false) <= n;
        if (n < 0) {
            CHECK_OK(status);
            want = e;
            done = false;
        } else if (status == NIB_OK) {
            CHECK_NEAR(e.perplexity, want.perplexity, 0);
            CHECK_NEAR(e.acc, want.acc, 0);
        } else {
            CHECK_INT(status, NIB_E_MEMORY);
            CHECK(!done);
        }
        CHECK_INT(ctx->owned_count, 0);
        nib_model_free(model);
        nib_ctx_free(ctx);
    }
}

TEST(every_failed_system_call_while_evaluating_is_reported) {
    bool done = false;
    for (long n = 0; !done; n++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
        nib_model *model = nib_model_load(ctx, EVAL "with_bos", NULL);
        nib_eval e = {.limit = 1};
        nib_sys_fail_after(n, EIO);
        const nib_status status = nib_eval_file(ctx, model, "lambada", EVAL "lambada.jsonl", &e);
        done = nib_sys_fail_after(-1, 0) <= n;
        if (done)
            CHECK_OK(status);
        else if (status != NIB_OK)
            CHECK_INT(status, NIB_E_IO); /* closing may fail unnoticed */
        nib_model_free(model);
        nib_ctx_free(ctx);
    }
}

TEST(every_failed_allocation_while_evaluating_is_reported) {
    TEST_FOLDER(folder);
    size_t size;
    char *text = test_read(EVAL "text.txt", &size);
    test_write(IN(folder, "text"), text, 300);
    free(text);
    starve(state_, "perplexity", IN(folder, "text"), true, NULL);
    starve(state_, "hellaswag", EVAL "hellaswag.jsonl", false, NULL);
    starve(state_, "lambada", EVAL "lambada.jsonl", false, NULL);
    starve(state_, "perplexity", IN(folder, "text"), false, "quanto");
    test_folder_remove(folder);
}

TESTS(RUNS(perplexity_equals_that_of_transformers_by_both_protocols_with_and_without_bos),
      RUNS(protocol_quanto_is_what_its_harness_computes),
      RUNS(a_model_differs_by_nothing_from_itself),
      RUNS(hellaswag_and_lambada_equal_those_of_transformers_in_both_spellings),
      RUNS(bad_data_is_an_error_that_names_file_line_and_what_is_wrong),
      RUNS(every_failed_system_call_while_evaluating_is_reported),
      RUNS(every_failed_allocation_while_evaluating_is_reported))
