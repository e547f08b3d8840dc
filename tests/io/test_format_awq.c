/* AutoAWQ's checkpoints: opened to the floats that its kernels multiply by, told apart from GPTQ's,
 * and refused where they say what is not known here. tests/golden/formats/make_awq.py. */
#include <nibble/extend.h>

#include "base/json.h"
#include "io/safetensors.h"
#include "io/weights.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test_files.h"

#define GOLDEN "tests/golden/formats/"
static const char folder[] = GOLDEN "awq-gemm-f16";

static json_t *config_of(void **state_, const char *path) {
    size_t size;
    char *text = test_read(IN(path, "config.json"), &size);
    json_t *root = text ? json_loads(text, 0, NULL) : NULL;
    free(text);
    if (!root) FAIL_AT("%s has no config.json", path);
    return root;
}

/* Every weight of the golden folder, opened, is what the formula gives, to the bit. */
static void check_opened(void **state_, const char *path, const json_t *root) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_safetensors *want = nib_safetensors_open(NULL, GOLDEN "awq-gemm-f16.opened.safetensors");
    nib_weights *weights = nib_weights_open(ctx, path, root, (nib_dtype)0, false);
    CHECK_MADE(want);
    CHECK_MADE(weights);
    for (size_t i = 0; i < want->count; i++) {
        const nib_safetensors_entry *entry = &want->entries[i];
        nib_tensor *w = nib_weights_get(weights, entry->name, &entry->shape);
        CHECK_MADE(w);
        CHECK_TEXT(nib_tensor_layout(w), "awq_gemm");
        const size_t mark = nib_scope_begin(ctx);
        const nib_tensor *opened = nib_dequantize(w);
        CHECK_MADE(opened);
        CHECK(nib_shape_equal(&opened->shape, &entry->shape));
        CHECK_INT(opened->dtype, entry->dtype);
        CHECK_BYTES(nib_tensor_data(opened), nib_safetensors_data(want, entry), entry->size);
        nib_scope_end(ctx, mark);
        nib_tensor_free(w);
    }
    CHECK_INT(want->count, 7);
    nib_weights_close(weights);
    nib_safetensors_close(want);
    nib_ctx_free(ctx);
}

TEST(weights_open_to_the_floats_that_autoawq_multiplies_by) {
    json_t *root = config_of(state_, folder);
    check_opened(state_, folder, root);
    json_decref(root);
}

TEST(a_single_file_is_known_by_its_parts) {
    check_opened(state_, GOLDEN "awq-gemm-f16/model.safetensors", NULL);
}

/* GPTQ's qweight has eight columns a word, [K / 8, N]: not ours to read. */
TEST(a_file_of_gptqs_is_not_taken_for_one) {
    static const char bytes[64 * 64 * 4];
    const nib_safetensors_planned planned[] = {{"a.qweight", NIB_I32, {2, {8, 64}}},
                                               {"a.qzeros", NIB_I32, {2, {2, 8}}},
                                               {"a.scales", NIB_F16, {2, {2, 64}}}};
    TEST_FOLDER_IN_MEMORY(room);
    const nib_safetensors_plan plan = {planned, 3, NULL, 0};
    nib_safetensors_writer *writer =
        nib_safetensors_writer_open(NULL, IN(room, "gptq.safetensors"), &plan);
    CHECK_MADE(writer);
    const size_t sizes[] = {8 * 64 * 4, 2 * 8 * 4, 2 * 64 * 2};
    for (size_t i = 0; i < 3; i++)
        CHECK_OK(nib_safetensors_writer_put(writer, i, bytes, sizes[i], 0));
    CHECK_OK(nib_safetensors_writer_finish(writer));
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_weights *weights =
        nib_weights_open(ctx, IN(room, "gptq.safetensors"), NULL, (nib_dtype)0, false);
    CHECK_MADE(weights);
    CHECK(nib_weights_has(weights, "a.qweight") && !nib_weights_has(weights, "a.weight"));
    nib_weights_close(weights);
    nib_ctx_free(ctx);
    test_folder_remove(room);
}

TEST(what_config_says_and_is_not_known_here_is_one_clear_error) {
    static const struct {
        const char *key, *value, *message;
        nib_status status;
    } cases[] = {
        {"quant_method", "\"gptq\"", "\"gptq\" quantized this checkpoint", NIB_E_UNSUPPORTED},
        {"version", "\"gemv\"", "version \"gemv\"", NIB_E_UNSUPPORTED},
        {"bits", "3", "awq of 3 bits", NIB_E_UNSUPPORTED},
        {"bits", "\"4\"", "bits", NIB_E_FORMAT},
        {"zero_point", "false", "without zero points is not known", NIB_E_UNSUPPORTED},
        {"group_size", "32", "do not agree with each other and the group size", NIB_E_FORMAT},
        {"group_size", "-1", "do not agree with each other and the group size", NIB_E_FORMAT},
    };
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *root = config_of(state_, folder);
        json_object_set_new(json_object_get(root, "quantization_config"), cases[i].key,
                            json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        CHECK(!nib_weights_open(ctx, folder, root, (nib_dtype)0, false));
        CHECK_INT(nib_last_error()->status, cases[i].status);
        if (!strstr(nib_last_error()->what, cases[i].message))
            FAIL_AT("\"%s\" does not hold \"%s\"", nib_last_error()->what, cases[i].message);
        CHECK(strstr(nib_last_error()->path, "awq-gemm-f16"));
        json_decref(root);
    }
    nib_ctx_free(ctx);
}

/* One group size for all, and the head float: what config.json has words for. */
TEST(what_no_reader_would_take_is_refused_before_work) {
    static const char grouped[] =
        "intx_weight_only:bits=4,granularity=group,group_size=%d,mapping=asymmetric";
    NEEDS_SCHEME("intx_weight_only");
    char wide[96], narrow[96];
    snprintf(wide, sizeof wide, grouped, 8);
    snprintf(narrow, sizeof narrow, grouped, 16);
    nib_config *a = nib_config_parse(wide), *b = nib_config_parse(narrow);
    const nib_rule two[] = {{"*down_proj", a}, {"*", b}}, one[] = {{"*", a}};
    const nib_file_options options = {.format = "awq", .overwrite = true};
    TEST_FOLDER_IN_MEMORY(room);
    nib_ctx *ctx = nib_ctx_new(NULL);
    CHECK_FAILS(nib_quantize_file(ctx, GOLDEN "source-f16", IN(room, "q"), two, 2, NULL, &options),
                NIB_E_ARGUMENT, "one group size for all weights");
    CHECK_FAILS(nib_quantize_file(ctx, GOLDEN "source-f16", IN(room, "q"), one, 1,
                                  &(nib_select){.head = true}, &options),
                NIB_E_ARGUMENT, "keeps the output head float");
    CHECK_FAILS(nib_quantize_file(ctx, GOLDEN "source-bf16", IN(room, "q"), one, 1, NULL, &options),
                NIB_E_ARGUMENT, "of bfloat16 [32, 32]; it holds float16 weights");
    if (test_has_scheme("8da4w")) {
        nib_config *both = nib_config_parse("8da4w:group_size=8,mapping=asymmetric");
        const nib_rule rule = {"*", both};
        CHECK_FAILS(
            nib_quantize_file(ctx, GOLDEN "source-f16", IN(room, "q"), &rule, 1, NULL, &options),
            NIB_E_ARGUMENT, "format awq cannot hold");
        nib_config_free(both);
    }
    CHECK_OK(nib_quantize_file(ctx, GOLDEN "source-f16", IN(room, "q"), one, 1, NULL, &options));
    nib_config *by_rows =
        nib_config_parse("intx_weight_only:bits=4,granularity=row,mapping=asymmetric");
    const nib_rule rows = {"*", by_rows};
    CHECK_OK(nib_quantize_file(ctx, GOLDEN "source-f16", IN(room, "r"), &rows, 1, NULL, &options));
    json_t *whole = config_of(state_, IN(room, "r"));
    CHECK_INT(json_integer_value(
                  json_object_get(json_object_get(whole, "quantization_config"), "group_size")),
              -1);
    CHECK_OK(nib_verify_file(ctx, IN(room, "r"), GOLDEN "source-f16", NULL));
    json_decref(whole);
    nib_config_free(by_rows);
    json_t *root = config_of(state_, IN(room, "q"));
    const json_t *about = json_object_get(root, "quantization_config");
    CHECK_TEXT(json_string_value(json_object_get(about, "quant_method")), "awq");
    CHECK_INT(json_integer_value(json_object_get(about, "group_size")), 8);
    json_decref(root);
    CHECK_OK(nib_verify_file(ctx, IN(room, "q"), GOLDEN "source-f16", NULL));
    nib_ctx_free(ctx);
    nib_config_free(a);
    nib_config_free(b);
    test_folder_remove(room);
}

TESTS(RUNS(weights_open_to_the_floats_that_autoawq_multiplies_by),
      RUNS(a_single_file_is_known_by_its_parts), RUNS(a_file_of_gptqs_is_not_taken_for_one),
      RUNS(what_config_says_and_is_not_known_here_is_one_clear_error),
      RUNS(what_no_reader_would_take_is_refused_before_work))
