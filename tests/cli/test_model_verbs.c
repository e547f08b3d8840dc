/* generate, eval and bench as a user meets them: exit codes, what stands on stdout, JSON fields. */
#include <jansson.h>
#include <sys/wait.h>

#include "test_files.h"

/* Run "nibble ..." by the shell; stdout comes back (free it), the exit code in *code. */
static char *nibble(const char *words, int *code) {
    static char said[1 << 20];
    char command[2048];
    const char *cli = getenv("NIB_CLI");
    snprintf(command, sizeof command, "%s %s 2>/dev/null </dev/null", cli ? cli : "build/nibble",
             words);
    FILE *pipe = popen(command, "r");
    if (!pipe) abort();
    const size_t n = fread(said, 1, sizeof said - 1, pipe);
    said[n] = '\0';
    const int status = pclose(pipe);
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return said;
}

static json_t *nibble_json(void **state_, const char *words) {
    int code;
    const char *out = nibble(words, &code);
    if (code != 0) FAIL_AT("nibble %s: exit %d", words, code);
    json_t *document = json_loads(out, 0, NULL);
    if (!document) FAIL_AT("nibble %s: not JSON: %.200s", words, out);
    return document;
}

static double number(const json_t *document, const char *key) {
    return json_number_value(json_object_get(document, key));
}

TEST(generate_says_what_transformers_says_of_the_embedded_model) {
    json_t *want = json_load_file("tests/golden/kjv-llama.json", 0, NULL);
    CHECK(want);
    char words[512];
    snprintf(words, sizeof words,
             "generate models/kjv-llama -p \"%s\" -n 48 --greedy --ignore-eos --logits 8 --json -q",
             json_string_value(json_object_get(want, "prompt")));
    json_t *got = nibble_json(state_, words);
    CHECK(json_equal(json_object_get(got, "prompt_ids"), json_object_get(want, "prompt_ids")));
    CHECK(json_equal(json_object_get(got, "ids"), json_object_get(want, "greedy_new_ids")));
    CHECK_TEXT(json_string_value(json_object_get(got, "text")),
               json_string_value(json_object_get(want, "greedy_new_text")));
    CHECK(number(got, "tokens_per_second") > 0 && number(got, "prompt_tokens_per_second") > 0);
    const json_t *mine = json_object_get(got, "logits"),
                 *theirs = json_object_get(want, "last_logits_top8");
    CHECK_INT(json_array_size(mine), 8);
    for (size_t i = 0; i < 8; i++) {
        const json_t *a = json_array_get(mine, i), *b = json_array_get(theirs, i);
        const double logit = json_number_value(json_array_get(b, 1));
        CHECK_INT(json_integer_value(json_array_get(a, 0)),
                  json_integer_value(json_array_get(b, 0)));
        CHECK_NEAR(json_number_value(json_array_get(a, 1)), logit, 1e-4 * fabs(logit));
    }
    json_decref(got);
    json_decref(want);
}

TEST(text_streams_to_stdout_and_equals_the_text_of_json) {
    int code;
    json_t *got = nibble_json(state_, "generate models/kjv-llama -p 'And it came' -n 30 "
                                      "--temperature 0.9 --top-k 40 --seed 4 -j -q");
    char want[4096];
    snprintf(want, sizeof want, "%s\n", json_string_value(json_object_get(got, "text")));
    const char *out = nibble(
        "generate models/kjv-llama -p 'And it came' -n 30 --temperature 0.9 --top-k 40 --seed 4 -q",
        &code);
    CHECK_INT(code, 0);
    CHECK_TEXT(out, want);
    json_decref(got);
}

TEST(raw_adds_no_special_tokens_and_ids_stand_for_a_text) {
    json_t *plain = nibble_json(state_, "generate models/kjv-llama -p And -n 3 -j -q");
    json_t *raw = nibble_json(state_, "generate models/kjv-llama -p And -n 3 --raw -j -q");
    const json_t *ids = json_object_get(plain, "prompt_ids"),
                 *raw_ids = json_object_get(raw, "prompt_ids");
    CHECK_INT(json_array_size(ids), json_array_size(raw_ids) + 1);
    CHECK_INT(json_integer_value(json_array_get(ids, 0)), 0);
    char words[128];
    snprintf(words, sizeof words, "generate models/kjv-llama --ids 0,%d -n 3 -j -q",
             (int)json_integer_value(json_array_get(raw_ids, 0)));
    json_t *same = nibble_json(state_, words);
    CHECK(json_equal(json_object_get(same, "ids"), json_object_get(plain, "ids")));
    json_t *bare =
        nibble_json(state_, "generate tests/golden/model/qwen3_qk_norm --ids 4,5,6 -n 2 -j -q");
    CHECK_INT(json_array_size(json_object_get(bare, "ids")), 2);
    CHECK(json_is_null(json_object_get(bare, "text"))); /* no tokenizer lies there */
    json_decref(plain);
    json_decref(raw);
    json_decref(same);
    json_decref(bare);
}

TEST(what_a_step_measures_is_kept_and_changes_no_token) {
    TEST_FOLDER(folder);
    const char *kept = IN(folder, "tune");
    char words[2048];
    json_t *got[3];
    for (int i = 0; i < 3; i++) {
        snprintf(words, sizeof words,
                 "generate models/kjv-llama -p And -n 200 --ignore-eos -t 2 -j -q %s%s",
                 i ? "--tune " : "", i ? kept : "");
        got[i] = nibble_json(state_, words);
    }
    CHECK(json_equal(json_object_get(got[0], "ids"), json_object_get(got[1], "ids")));
    CHECK(json_equal(json_object_get(got[0], "ids"), json_object_get(got[2], "ids")));
    size_t size;
    char *text = test_read(kept, &size);
    CHECK(text && strncmp(text, "nibble tune ", 12) == 0);
    free(text);
    for (int i = 0; i < 3; i++) json_decref(got[i]);
    test_folder_remove(folder);
}

TEST(a_profile_tells_where_the_time_went) {
    json_t *got = nibble_json(
        state_, "generate models/kjv-llama -p 'In the beginning' -n 60 --profile -t 1 -j -q");
    double sum = 0, outside = 0;
    bool linear = false;
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(got, "profile"), i, row) {
        sum += number(row, "ms");
        linear |= strcmp(json_string_value(json_object_get(row, "op")), "linear") == 0;
        if (strcmp(json_string_value(json_object_get(row, "op")), "(outside ops)") == 0)
            outside = number(row, "ms");
        else
            CHECK(number(row, "calls") > 0);
    }
    CHECK(linear);
    const double wall = number(got, "wall_ms");
    print_message("ops took %.1f of %.1f ms\n", sum - outside, wall);
    CHECK_NEAR(sum, wall, 1e-6 * wall);
    CHECK(sum - outside >= 0.5 * wall); /* seen: 0.98; the rest is no place to hide time in */
    json_decref(got);
}

TEST(a_scheme_quantizes_while_loading) {
    NEEDS_SCHEME("int8_weight_only");
    json_t *whole = nibble_json(state_, "generate models/kjv-llama -p And -n 1 --logits 1 -j -q");
    json_t *coarse = nibble_json(
        state_, "generate models/kjv-llama -p And -n 1 --logits 1 -j -q --scheme int8_weight_only");
    const double a =
        json_number_value(json_array_get(json_array_get(json_object_get(whole, "logits"), 0), 1));
    const double b =
        json_number_value(json_array_get(json_array_get(json_object_get(coarse, "logits"), 0), 1));
    CHECK(a != b);
    CHECK_NEAR(b, a, 0.05 * fabs(a)); /* 8-bit codes change a logit by a few percent at most */
    json_decref(whole);
    json_decref(coarse);
}

/* Never silently: whatever ran says what its linears multiplied with. */
TEST(activations_are_quantized_where_asked_and_every_result_names_them) {
#define SAY "generate models/kjv-llama -p And -n 1 --logits 1 -j -q --scheme "
    static const struct {
        const char *words, *activations;
    } runs[] = {
        {SAY "int8_weight_only", "float"},
        {SAY "int8_weight_only --activations int8", "int8"},
        {SAY "int8_dynamic_activation_int8_weight", "int8"},
        {SAY "8da4w", "int8"},
        {SAY "qint4 --activations int8", "int8"},
        {"eval tests/golden/eval/with_bos --lambada tests/golden/eval/lambada.jsonl --limit 1 -s "
         "qint2 --activations int8 -j -q",
         "int8"},
        {"bench models/kjv-llama -p 8 -n 2 -r 1 -s intx_weight_only:bits=3 --activations int8 "
         "-j -q",
         "int8"},
        {"bench models/kjv-llama -p 8 -n 2 -r 1 -j -q", "float"},
    };
    double logit[3] = {0};
    NEEDS_SCHEME("int8_weight_only");
    NEEDS_SCHEME("intx_weight_only");
    NEEDS_SCHEME("int8_dynamic_activation_int8_weight");
    NEEDS_SCHEME("8da4w");
    NEEDS_SCHEME("qint4");
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        json_t *got = nibble_json(state_, runs[i].words);
        CHECK_TEXT(json_string_value(json_object_get(got, "activations")), runs[i].activations);
        if (i < 3)
            logit[i] = json_number_value(
                json_array_get(json_array_get(json_object_get(got, "logits"), 0), 1));
        json_decref(got);
    }
    CHECK(logit[0] != logit[1]);
    CHECK(logit[1] == logit[2]);
#undef SAY
}

TEST(eval_prints_the_fields_of_each_task) {
    json_t *all = json_load_file("tests/golden/eval/expected.json", 0, NULL);
    json_t *got = nibble_json(
        state_, "eval tests/golden/eval/with_bos --perplexity tests/golden/eval/text.txt "
                "--context 64 --reference tests/golden/eval/without_bos -j -q");
    const json_t *want = json_object_get(all, "with_bos/half/64"), *value;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)want, key, value) CHECK_NEAR(
        number(got, key), json_number_value(value), 1e-4 * fabs(json_number_value(value)));
    CHECK_TEXT(json_string_value(json_object_get(got, "protocol")), "half");
    json_decref(got);
    got = nibble_json(
        state_,
        "eval tests/golden/eval/with_bos --hellaswag tests/golden/eval/hellaswag.jsonl -j -q");
    want = json_object_get(all, "with_bos/hellaswag");
    CHECK_NEAR(number(got, "acc"), number(want, "acc"), 1e-8);
    CHECK_NEAR(number(got, "acc_norm"), number(want, "acc_norm"), 1e-8);
    CHECK_NEAR(number(got, "acc_stderr"), number(want, "acc_error"), 1e-8);
    json_decref(got);
    got = nibble_json(state_, "eval tests/golden/eval/with_bos --lambada "
                              "tests/golden/eval/lambada.jsonl --limit 7 -j -q");
    CHECK_INT(json_integer_value(json_object_get(got, "items")), 7);
    CHECK(number(got, "perplexity") > 1);
    json_decref(got);
    json_decref(all);
}

TEST(bench_prints_markdown_csv_and_json) {
    int code;
    const char *out = nibble("bench tests/golden/model/llama_gqa_bf16 -p 20 -n 8 -r 2 -q", &code);
    CHECK_INT(code, 0);
    CHECK(out[0] == '|' && strstr(out, "decode tokens/s"));
    out = nibble("bench tests/golden/model/llama_gqa_bf16 -p 20 -n 8 -r 2 -q --format csv", &code);
    CHECK_INT(code, 0);
    CHECK(strncmp(out, "model,scheme,", 13) == 0);
    json_t *got =
        nibble_json(state_, "bench tests/golden/model/llama_gqa_bf16 -p 20 -n 8 -r 2 -q -j");
    CHECK(number(got, "tokens_per_second") > 0 && number(got, "prompt_tokens_per_second") > 0);
    CHECK(number(got, "load_seconds") > 0 && number(got, "peak_bytes") > 1e5);
    CHECK(number(got, "bytes_per_token") > 20000); /* its weights but the table: 20 K of bf16 */
    json_decref(got);
}

TEST(bench_measures_a_kernel_and_the_machine_beside_it) {
    NEEDS_SCHEME("int4_weight_only");
    json_t *got =
        nibble_json(state_, "bench --kernel linear --scheme int4_weight_only:group_size=32 "
                            "-m 1,3 -n 33 -k 64 -t 1,2 -r 2 -j -q");
    json_t *rows = json_object_get(got, "rows"), *limits = json_object_get(got, "limits");
    CHECK_INT(json_array_size(rows), 4);
    CHECK_INT(json_array_size(limits), 2);
    for (size_t i = 0; i < 4; i++) {
        static const char *const positive[] = {
            "ms", "gb_per_s", "gop_per_s", "threads", "share_of_bandwidth", "share_of_peak", "m"};
        const json_t *row = json_array_get(rows, i);
        for (size_t k = 0; k < sizeof positive / sizeof *positive; k++)
            CHECK(number(row, positive[k]) > 0);
        CHECK_INT(number(row, "n"), 33);
        CHECK_INT(number(row, "k"), 64);
        CHECK_TEXT(json_string_value(json_object_get(row, "activations")), "float");
    }
    json_decref(got);
    got = nibble_json(state_, "bench --kernel linear --scheme int4_weight_only:group_size=32 "
                              "--activations int8 -m 1 -n 33 -k 64 -t 1 -r 2 -j -q");
    CHECK_TEXT(json_string_value(
                   json_object_get(json_array_get(json_object_get(got, "rows"), 0), "activations")),
               "int8");
    json_decref(got);
    got = nibble_json(state_, "bench --limits -t 1 -r 1 -j -q");
    rows = json_object_get(got, "rows");
    CHECK(json_is_array(rows) && json_array_size(rows) == 0);
    CHECK(number(json_array_get(json_object_get(got, "limits"), 0), "read_gb_per_s") > 0);
    json_decref(got);
}

TEST(mistakes_end_with_their_documented_code) {
    static const struct {
        const char *words;
        int code;
    } bad[] = {
        {"generate models/kjv-llama", 2},
        {"generate models/kjv-llama -p a --ids 1", 2},
        {"generate models/kjv-llama --ids 1,,2", 2},
        {"generate models/kjv-llama --ids 99999999999", 2},
        {"generate models/kjv-llama -p a --greedy --temperature 1", 2},
        {"generate models/kjv-llama -p a -n 3 --scheme int4", 2},
        {"generate models/kjv-llama --ids 5000 -n 1", 2},
        {"generate models/kjv-llama -p a -n 1 --activations int8", 2},
        {"generate models/kjv-llama -p a -n 1 -s int8_weight_only --activations int4", 2},
        {"generate models/nowhere -p a", 1},
        {"eval models/kjv-llama", 2},
        {"eval models/kjv-llama --perplexity a --lambada b", 2},
        {"eval tests/golden/eval/with_bos --hellaswag tests/golden/eval/text.txt", 3},
        {"eval tests/golden/eval/with_bos --perplexity tests/golden/eval/text.txt --protocol x", 2},
        {"bench models/kjv-llama --format xml", 2},
        {"bench", 2},
        {"bench models/kjv-llama --limits", 2},
        {"bench models/kjv-llama -t 1,2", 2},
        {"bench models/kjv-llama -n 1", 2},
        {"bench --kernel nothing", 2},
        {"bench --kernel linear -m 0", 2},
        {"bench --kernel linear -m 1, -n 8 -k 8", 2},
        {"bench --kernel linear -m 1 -n 8 -k 64 --scheme int8_weight_only --activations int3", 2},
    };
    if (test_has_scheme("float8_weight_only")) {
        int code;
        nibble("generate models/kjv-llama -p a -n 1 -s float8_weight_only --activations int8",
               &code);
        CHECK_INT(code, 1);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int code;
        nibble(bad[i].words, &code);
        if (code != bad[i].code)
            FAIL_AT("nibble %s: exit %d, want %d", bad[i].words, code, bad[i].code);
    }
}

TESTS(RUNS(generate_says_what_transformers_says_of_the_embedded_model),
      RUNS(text_streams_to_stdout_and_equals_the_text_of_json),
      RUNS(raw_adds_no_special_tokens_and_ids_stand_for_a_text),
      RUNS(what_a_step_measures_is_kept_and_changes_no_token),
      RUNS(a_profile_tells_where_the_time_went), RUNS(a_scheme_quantizes_while_loading),
      RUNS(activations_are_quantized_where_asked_and_every_result_names_them),
      RUNS(eval_prints_the_fields_of_each_task), RUNS(bench_prints_markdown_csv_and_json),
      RUNS(bench_measures_a_kernel_and_the_machine_beside_it),
      RUNS(mistakes_end_with_their_documented_code))
