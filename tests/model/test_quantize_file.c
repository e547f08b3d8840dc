#include <sys/wait.h>

#include "base/mem.h"
#include "io/checkpoint.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "test_files.h"

static const char model[] = "models/kjv-llama";

static nib_status quantize(nib_ctx *ctx, const char *from, const char *to, const char *scheme,
                           const nib_select *select, const nib_file_options *options) {
    nib_config *config = nib_config_parse(scheme);
    const nib_rule rule = {"*", config};
    const nib_file_options native = {.format = "native"};
    const nib_status status =
        nib_quantize_file(ctx, from, to, &rule, 1, select, options ? options : &native);
    nib_config_free(config);
    return status;
}

static void same_files(void **state_, const char *a, const char *b, const char *name) {
    size_t na = 0, nb = 0;
    char *x = test_read(IN(a, name), &na), *y = test_read(IN(b, name), &nb);
    CHECK(x && y);
    CHECK_INT(na, nb);
    CHECK_BYTES(x, y, na);
    free(x);
    free(y);
}

TEST(every_scheme_gives_a_checkpoint_that_verifies_and_the_same_bytes_at_any_thread_count) {
    for (size_t i = 0; nib_scheme_at(i); i++) {
        TEST_FOLDER(folder);
        for (int threads = 1; threads <= 3; threads++) {
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
            char name[8] = {(char)('0' + threads)};
            nib_report wrote = {0}, report = {0};
            CHECK_OK(quantize(ctx, model, IN(folder, name), nib_scheme_at(i)->name,
                              &(nib_select){.report = &wrote, .leave_unfit = true}, NULL));
            CHECK_INT(wrote.quantized, 35);
            CHECK_OK(nib_verify_file(ctx, IN(folder, name), model, &report));
            CHECK_INT(report.quantized, 35);
            CHECK_OK(nib_verify_file(ctx, IN(folder, name), model, &report)); /* counts anew */
            CHECK_INT(report.quantized, 35);
            CHECK_INT(report.bytes_before, wrote.bytes_before);
            nib_ctx_free(ctx);
            if (threads > 1)
                same_files(state_, IN(folder, "1"), IN(folder, name), "model.safetensors");
        }
        test_folder_remove(folder);
    }
}

TEST(verify_names_file_tensor_and_byte_of_the_first_difference) {
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    CHECK_OK(quantize(ctx, model, IN(folder, "q"), "int8_weight_only", NULL, NULL));
    nib_checkpoint *checkpoint = nib_checkpoint_open(NULL, IN(folder, "q"));
    CHECK_MADE(checkpoint);
    const nib_checkpoint_tensor *t =
        nib_checkpoint_find(checkpoint, "model.layers.2.mlp.up_proj.weight.qdata");
    CHECK(t != NULL);
    const size_t offset = t->entry->offset + 1234;
    nib_checkpoint_close(checkpoint);
    size_t size = 0;
    char *bytes = test_read(IN(IN(folder, "q"), "model.safetensors"), &size);
    bytes[offset] ^= 1;
    test_write(IN(IN(folder, "q"), "model.safetensors"), bytes, size);
    free(bytes);
    CHECK_FAILS(nib_verify_file(ctx, IN(folder, "q"), model, NULL), NIB_E_DIFFERS, "byte 1234 is");
    CHECK_TEXT(nib_last_error()->tensor, "model.layers.2.mlp.up_proj.weight.qdata");
    CHECK_INT(nib_last_error()->offset, offset);
    CHECK(strstr(nib_last_error()->path, "model.safetensors"));
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TEST(a_dry_run_tells_the_files_to_the_byte_and_writes_nothing) {
    NEEDS_SCHEME("int4_weight_only");
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_report dry = {0}, wet = {0};
    size_t size = 0;
    CHECK_OK(quantize(ctx, model, IN(folder, "q"), "int4_weight_only:group_size=32",
                      &(nib_select){.report = &dry},
                      &(nib_file_options){.format = "native", .dry_run = true}));
    CHECK(rmdir(IN(folder, "q")) != 0 && access(IN(folder, "q.partial"), F_OK) != 0);
    CHECK_OK(quantize(ctx, model, IN(folder, "q"), "int4_weight_only:group_size=32",
                      &(nib_select){.report = &wet}, NULL));
    CHECK_INT(dry.bytes_after, wet.bytes_after);
    free(test_read(IN(IN(folder, "q"), "model.safetensors"), &size));
    CHECK_INT(dry.bytes_weights, size);
    free(test_read(IN(IN(folder, "q"), "config.json"), &size));
    CHECK_INT(dry.bytes_config, size);
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

static bool stop_late(void *user, const char *what, double done, double total) {
    (void)what;
    (void)user;
    return done < total / 2;
}

TEST(a_cancelled_run_leaves_nothing) {
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.progress = stop_late});
    CHECK_FAILS(quantize(ctx, model, IN(folder, "q"), "int8_weight_only", NULL, NULL),
                NIB_E_CANCELLED, "cancelled");
    CHECK(rmdir(folder) == 0);
    nib_ctx_free(ctx);
}

static bool die_late(void *user, const char *what, double done, double total) {
    (void)what;
    (void)user;
    if (done > total / 2) _exit(9);
    return true;
}

TEST(a_killed_run_leaves_its_partial_folder_and_resuming_gives_the_bytes_of_an_undisturbed_one) {
    NEEDS_SCHEME("int8_weight_only");
    NEEDS_SCHEME("int4_weight_only");
    NEEDS_SCHEME("float8_weight_only");
    static const char *const schemes[] = {"int8_weight_only",
                                          "float8_weight_only:granularity=tensor"};
    for (int i = 0; i < 2; i++) {
        TEST_FOLDER(folder);
        const pid_t child = fork();
        if (child == 0) {
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.progress = die_late});
            (void)quantize(ctx, model, IN(folder, "q"), schemes[i], NULL, NULL);
            _exit(0);
        }
        int how = 0;
        CHECK(waitpid(child, &how, 0) == child && WIFEXITED(how) && WEXITSTATUS(how) == 9);
        CHECK(access(IN(folder, "q.partial"), F_OK) == 0 && access(IN(folder, "q"), F_OK) != 0);
        nib_ctx *ctx = nib_ctx_new(NULL);
        CHECK_FAILS(quantize(ctx, model, IN(folder, "q"), "int4_weight_only:group_size=32", NULL,
                             &(nib_file_options){.format = "native", .resume = true}),
                    NIB_E_ARGUMENT, "other options");
        CHECK(access(IN(folder, "q.partial"), F_OK) == 0);
        CHECK_OK(quantize(ctx, model, IN(folder, "q"), schemes[i], NULL,
                          &(nib_file_options){.format = "native", .resume = true}));
        CHECK_OK(quantize(ctx, model, IN(folder, "whole"), schemes[i], NULL, NULL));
        same_files(state_, IN(folder, "q"), IN(folder, "whole"), "model.safetensors");
        same_files(state_, IN(folder, "q"), IN(folder, "whole"), "config.json");
        same_files(state_, IN(folder, "q"), IN(folder, "whole"), "quant_report.json");
        nib_ctx_free(ctx);
        test_folder_remove(folder);
    }
}

TEST(what_is_quantized_already_or_matches_nothing_is_refused_before_work) {
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    CHECK_OK(quantize(ctx, model, IN(folder, "q"), "int8_weight_only", NULL, NULL));
    CHECK_FAILS(quantize(ctx, IN(folder, "q"), IN(folder, "r"), "int8_weight_only", NULL, NULL),
                NIB_E_ARGUMENT, "already");
    CHECK_FAILS(quantize(ctx, model, IN(folder, "r"), "int8_weight_only",
                         &(nib_select){.include = "nothing*"}, NULL),
                NIB_E_ARGUMENT, "nothing*");
    CHECK_FAILS(quantize(ctx, model, IN(folder, "r"), "int8_weight_only", NULL,
                         &(nib_file_options){.format = "nativ"}),
                NIB_E_ARGUMENT, "did you mean \"native\"");
    CHECK_FAILS(quantize(ctx, model, IN(folder, "r"), "int8_weight_only", NULL,
                         &(nib_file_options){.nonfinite = "drop"}),
                NIB_E_ARGUMENT, "drop");
    CHECK(access(IN(folder, "r"), F_OK) != 0 && access(IN(folder, "r.partial"), F_OK) != 0);
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

/* A one-tensor file of 4 x 32 floats, the one at `at` not finite. */
static void write_nan(const char *path, int at) {
    static const char header[] =
        "{\"a.weight\":{\"dtype\":\"F32\",\"shape\":[4,32],\"data_offsets\":[0,512]}}      ";
    unsigned char file[8 + 72 + 512] = {sizeof header - 1};
    memcpy(file + 8, header, sizeof header - 1);
    float w[128];
    for (int i = 0; i < 128; i++) w[i] = (float)(i - 60) / 64;
    if (at >= 0) w[at] = at % 2 ? NAN : INFINITY;
    memcpy(file + 8 + sizeof header - 1, w, sizeof w);
    test_write(path, file, 8 + sizeof header - 1 + sizeof w);
}

TEST(values_that_are_not_finite_are_an_error_or_kept_or_made_zero) {
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    write_nan(IN(folder, "in.safetensors"), 69);
    CHECK_FAILS(quantize(ctx, IN(folder, "in.safetensors"), IN(folder, "q"), "int8_weight_only",
                         NULL, NULL),
                NIB_E_FORMAT, "row 2, column 5");
    CHECK_TEXT(nib_last_error()->tensor, "a.weight");
    CHECK(strstr(nib_last_error()->path, "in.safetensors"));
    CHECK_INT(nib_last_error()->offset, 8 + 72 + 69 * 4);
    CHECK_OK(quantize(ctx, IN(folder, "in.safetensors"), IN(folder, "keep"), "int8_weight_only",
                      NULL, &(nib_file_options){.format = "native", .nonfinite = "keep"}));
    CHECK_OK(quantize(ctx, IN(folder, "in.safetensors"), IN(folder, "zero"), "int8_weight_only",
                      NULL, &(nib_file_options){.format = "native", .nonfinite = "zero"}));
    size_t size = 0;
    char *report = test_read(IN(IN(folder, "zero"), "quant_report.json"), &size);
    CHECK(report && strstr(report, "\"nonfinite\": 1"));
    free(report);
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TEST(asking_for_a_tied_head_unties_it_and_says_so_in_the_config) {
    NEEDS_SCHEME("int8_weight_only");
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_report report = {0};
    CHECK_OK(quantize(ctx, model, IN(folder, "q"), "int8_weight_only",
                      &(nib_select){.head = true, .report = &report}, NULL));
    CHECK_INT(report.quantized, 36);
    size_t size = 0;
    char *config = test_read(IN(IN(folder, "q"), "config.json"), &size);
    CHECK(strstr(config, "\"tie_word_embeddings\": false") &&
          !strstr(config, "\"tie_word_embeddings\": true"));
    free(config);
    CHECK_OK(nib_verify_file(ctx, IN(folder, "q"), model, NULL));
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TEST(linears_that_lie_across_are_quantized_by_output_in_the_native_format_only) {
    NEEDS_SCHEME("int8_weight_only");
    static const char gpt2[] = "tests/golden/model/gpt2_inner";
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    const nib_status status = quantize(ctx, gpt2, IN(folder, "q"), "int8_weight_only", NULL,
                                       &(nib_file_options){.format = "torchao"});
    CHECK_INT(status, NIB_E_ARGUMENT);
    CHECK(strstr(nib_last_error()->what, "[96, 32], a Conv1D, which its library leaves float; "
                                         "formats that can: native"));
    CHECK_OK(
        quantize(ctx, gpt2, IN(folder, "q"), "int8_weight_only", NULL, &(nib_file_options){0}));
    /* A row is an output: its largest weight, of a column of the file, has the largest code. */
    nib_checkpoint *from = nib_checkpoint_open(NULL, gpt2),
                   *to = nib_checkpoint_open(NULL, IN(folder, "q"));
    CHECK_MADE(from);
    CHECK_MADE(to);
    const nib_checkpoint_tensor *w = nib_checkpoint_find(from, "transformer.h.0.mlp.c_fc.weight");
    const nib_checkpoint_tensor *codes =
        nib_checkpoint_find(to, "transformer.h.0.mlp.c_fc.weight.qdata");
    CHECK(w && w->entry->dtype == NIB_BF16);
    CHECK(codes && codes->entry->shape.dim[0] == 48 && codes->entry->shape.dim[1] == 32);
    const uint16_t *bf16 = nib_checkpoint_data(from, w);
    const int8_t *q = nib_checkpoint_data(to, codes);
    for (int n = 0; n < 48; n++) {
        int most = 0;
        for (int k = 1; k < 32; k++)
            if ((bf16[k * 48 + n] & 0x7fff) > (bf16[most * 48 + n] & 0x7fff)) most = k;
        CHECK(abs(q[n * 32 + most]) >= 126);
    }
    nib_checkpoint_close(from);
    nib_checkpoint_close(to);
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TESTS(
    RUNS(every_scheme_gives_a_checkpoint_that_verifies_and_the_same_bytes_at_any_thread_count),
    RUNS(verify_names_file_tensor_and_byte_of_the_first_difference),
    RUNS(a_dry_run_tells_the_files_to_the_byte_and_writes_nothing),
    RUNS(a_cancelled_run_leaves_nothing),
    RUNS(a_killed_run_leaves_its_partial_folder_and_resuming_gives_the_bytes_of_an_undisturbed_one),
    RUNS(what_is_quantized_already_or_matches_nothing_is_refused_before_work),
    RUNS(values_that_are_not_finite_are_an_error_or_kept_or_made_zero),
    RUNS(linears_that_lie_across_are_quantized_by_output_in_the_native_format_only),
    RUNS(asking_for_a_tied_head_unties_it_and_says_so_in_the_config))
