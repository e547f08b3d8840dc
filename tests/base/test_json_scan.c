#include "base/json_scan.h"

#include <jansson.h>

#include "test.h"

TEST(values_of_every_kind_are_passed_over_whole) {
    static const char *const good[] = {
        "null",
        "true",
        "false",
        "0",
        "-0",
        "10",
        "-1.5e+10",
        "0.25",
        "1E5",
        "\"\"",
        "\"a\\\"\\u00e9\"",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        "[1,2]",
        "[[],[[]],{}]",
        "{\"a\":1,\"b\":[{\"c\":{}}]}",
        " \t\n\r[ 1 , { \"a\" : null } ]",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char text[128];
        snprintf(text, sizeof text, "%s,x", good[i]);
        nib_scan scan = {.text = text, .length = strlen(text)};
        CHECK_OK(nib_scan_skip(&scan));
        CHECK_INT(scan.at, strlen(good[i]));
        json_t *value = json_loads(good[i], JSON_DECODE_ANY, NULL);
        CHECK(value != NULL); /* the list is what jansson takes too */
        json_decref(value);
    }
}

TEST(what_is_no_value_is_refused_at_its_byte) {
    static const struct {
        const char *text;
        int64_t offset;
    } bad[] = {
        {"", 0},           {"x", 0},          {"nul", 0},        {"01", 0},      {"+1", 0},
        {".5", 0},         {"1.", 0},         {"1e", 0},         {"-", 0},       {"[1", 2},
        {"[1,]", 3},       {"[1 2]", 3},      {"{1:2}", 1},      {"{\"a\"}", 4}, {"{\"a\":}", 5},
        {"{\"a\":1,}", 7}, {"[}", 1},         {"{]", 1},         {"\"a", 2},     {"\"\\", 1},
        {"[\"\\q\"]", 2},  {"[\"\x01\"]", 2}, {"[\"\xff\"]", 2},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        nib_scan scan = {
            .text = bad[i].text, .length = strlen(bad[i].text), .path = "p", .base = 100};
        if (nib_scan_skip(&scan) == NIB_OK) FAIL_AT("\"%s\" was passed over", bad[i].text);
        CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
        CHECK_TEXT(nib_last_error()->path, "p");
        if (nib_last_error()->offset != 100 + bad[i].offset)
            FAIL_AT("\"%s\": offset %lld, want %lld", bad[i].text,
                    (long long)nib_last_error()->offset - 100, (long long)bad[i].offset);
    }
}

TEST(nesting_ends_at_64) {
    char text[200];
    for (int depth = 63; depth <= 65; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        nib_scan scan = {.text = text, .length = 2 * (size_t)depth};
        if (depth <= 64)
            CHECK_OK(nib_scan_skip(&scan));
        else
            CHECK_FAILS(nib_scan_skip(&scan), NIB_E_FORMAT, "64 levels");
    }
}

TEST(counts_end_at_two_to_the_63) {
    int64_t value;
    nib_scan scan = {.text = "9223372036854775807 9223372036854775808", .length = 39};
    CHECK_OK(nib_scan_count(&scan, &value));
    CHECK(value == INT64_MAX);
    CHECK_FAILS(nib_scan_count(&scan, &value), NIB_E_FORMAT, "2^63");
    CHECK_INT(nib_last_error()->offset, 20);
}

TESTS(RUNS(values_of_every_kind_are_passed_over_whole),
      RUNS(what_is_no_value_is_refused_at_its_byte), RUNS(nesting_ends_at_64),
      RUNS(counts_end_at_two_to_the_63))
