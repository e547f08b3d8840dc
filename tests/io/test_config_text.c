#include "io/config_text.h"

#include "base/error.h"
#include "base/mem.h"
#include "test_files.h"

static void sets(void **state_, const char *text, const char *key, const char *value,
                 const char *want) {
    json_t *json = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    CHECK(!value || json);
    const size_t used = nib_mem_used(NULL);
    char *got = nib_config_text_set(NULL, text, strlen(text), key, json, NULL);
    CHECK_MADE(got);
    CHECK_TEXT(got, want);
    nib_mem_strfree(NULL, got);
    CHECK_INT(nib_mem_used(NULL), used);
    json_decref(json);
}

/* Numbers keep their spelling, unknown keys and their order stay, whatever was there. */
#define BEFORE "{\n  \"b\": 1e-05,\n  \"a\": [\n    1.0,\n    2\n  ],\n  \"u\": \"\\u00e9/\""

TEST(a_new_key_changes_nothing_else) {
    sets(state_, BEFORE "\n}\n", "q", "{\"bits\": 4, \"list\": [1], \"none\": {}}",
         BEFORE ",\n  \"q\": {\n    \"bits\": 4,\n    \"list\": [\n      1\n    ],\n    \"none\": "
                "{}\n  }\n}\n");
    sets(state_, "{\"a\":1}", "q", "[1, 2]", "{\"a\":1, \"q\": [1, 2]}");
    sets(state_, "{}", "q", "true", "{\n  \"q\": true\n}");
    sets(state_, " { } \n", "q", "\"\xc3\xa9\"", " {\n  \"q\": \"\\u00e9\"\n} \n");
}

TEST(a_key_that_is_there_gets_the_new_value_in_its_place) {
    sets(state_, BEFORE ",\n  \"q\": {\"old\": 1},\n  \"z\": 0}", "q", "{\"n\": 0.1}",
         BEFORE ",\n  \"q\": {\n    \"n\": 0.1\n  },\n  \"z\": 0}");
    sets(state_, "{\"q\":1}", "q", "2", "{\"q\":2}");
    /* only the outermost object counts */
    sets(state_, "{\"x\": {\"q\": 1}, \"q\": 3}", "q", "2", "{\"x\": {\"q\": 1}, \"q\": 2}");
    sets(state_, "{\"\\u0071\": 3}", "q", "2", "{\"\\u0071\": 2}");
}

TEST(a_removed_key_takes_its_comma_along) {
    sets(state_, "{\n  \"a\": 1,\n  \"q\": 2,\n  \"z\": 3\n}", "q", NULL,
         "{\n  \"a\": 1,\n  \"z\": 3\n}");
    sets(state_, "{\n  \"q\": 2,\n  \"z\": 3\n}", "q", NULL, "{\n  \"z\": 3\n}");
    sets(state_, "{\n  \"a\": 1,\n  \"q\": 2\n}", "q", NULL, "{\n  \"a\": 1\n}");
    sets(state_, "{\"q\": 2}", "q", NULL, "{}");
    sets(state_, "{\"a\": 2}", "q", NULL, "{\"a\": 2}");
}

/* The right side is what Python's json.dumps gives. */
TEST(numbers_are_spelled_shortly_and_read_back_the_same) {
    static const char *const reals[][2] = {
        {"0.1", "0.1"},
        {"1e-5", "1e-05"},
        {"1e300", "1e+300"},
        {"-2.5", "-2.5"},
        {"3.0", "3.0"},
        {"1.1920928955078125e-07", "1.1920928955078125e-07"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"1000000.0", "1000000.0"},
        {"-0.0", "-0.0"},
        {"9007199254740993", "9007199254740993"},
    };
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        char want[64];
        snprintf(want, sizeof want, "{\"q\": %s}", reals[i][1]);
        sets(state_, "{\"q\": 0}", "q", reals[i][0], want);
    }
}

TEST(what_is_no_object_is_refused) {
    static const char *const bad[] = {"", "[]", "1", "{", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "{}x"};
    json_t *value = json_true();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(!nib_config_text_set(NULL, bad[i], strlen(bad[i]), "q", value, "p"));
        CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
        CHECK_TEXT(nib_last_error()->path, "p");
    }
}

/* A config.json as transformers 5.23 wrote it (see the script beside it), and as Python writes it
 * with one key more. */
TEST(a_file_of_transformers_stays_as_it_is_but_for_the_key) {
    size_t size = 0;
    char *before = test_read("tests/golden/io/config.json", &size);
    char *after = test_read("tests/golden/io/config_quantized.json", NULL);
    CHECK(before && after);
    json_t *value = json_loads("{\"quant_method\": \"x\", \"eps\": 1e-05, \"scale\": 0.1, "
                               "\"skip\": [\"lm_head\"], \"deep\": {\"a\": null, \"list\": []}}",
                               0, NULL);
    char *got = nib_config_text_set(NULL, before, size, "zz_quantization", value, NULL);
    CHECK_MADE(got);
    CHECK_TEXT(got, after);
    nib_mem_strfree(NULL, got);
    got = nib_config_text_dump(NULL, value);
    CHECK_MADE(got);
    CHECK(got[strlen(got) - 1] == '\n' && strncmp(got, "{\n  \"quant_method\": \"x\",\n", 25) == 0);
    nib_mem_strfree(NULL, got);
    json_decref(value);
    free(before);
    free(after);
}

TEST(lack_of_memory_is_told_and_leaks_nothing) {
    json_t *value = json_loads("{\"bits\": [4]}", 0, NULL);
    for (long n = 0;; n++) {
        const size_t used = nib_mem_used(NULL);
        nib_mem_fail_after(n, false);
        char *got = nib_config_text_set(NULL, BEFORE "}", strlen(BEFORE "}"), "q", value, NULL);
        nib_mem_fail_after(-1, false);
        const bool done = got != NULL;
        if (!got) CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
        nib_mem_strfree(NULL, got);
        CHECK_INT(nib_mem_used(NULL), used);
        if (done) break;
    }
    json_decref(value);
}

TESTS(RUNS(a_new_key_changes_nothing_else),
      RUNS(a_key_that_is_there_gets_the_new_value_in_its_place),
      RUNS(a_removed_key_takes_its_comma_along),
      RUNS(numbers_are_spelled_shortly_and_read_back_the_same), RUNS(what_is_no_object_is_refused),
      RUNS(a_file_of_transformers_stays_as_it_is_but_for_the_key),
      RUNS(lack_of_memory_is_told_and_leaks_nothing))
