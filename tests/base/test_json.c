#include "base/json.h"

#include "base/mem.h"
#include "test.h"

static json_t *parse(const char *text) { return nib_json_parse(text, strlen(text), "f", 0); }

TEST(integers_that_no_int64_holds_are_reals) {
    json_t *root =
        parse("{\"max\": 1000000000000000019884624838656, \"s\": \"\\\"99999999999999999999\","
              "\"list\": [-99999999999999999999,9223372036854775807, 1.00000000000000000001,"
              "1e-000000000000000000001, 12345678901234567890.5, 12345678901234567890e0,"
              "-9223372036854775808, -9223372036854775809]}");
    CHECK_MADE(root);
    CHECK_NEAR(json_real_value(json_object_get(root, "max")), 1e30, 1e15);
    CHECK_TEXT(json_string_value(json_object_get(root, "s")), "\"99999999999999999999");
    const json_t *list = json_object_get(root, "list");
    CHECK_NEAR(json_real_value(json_array_get(list, 0)), -1e20, 1e5);
    CHECK(json_integer_value(json_array_get(list, 1)) == INT64_MAX);
    CHECK(json_integer_value(json_array_get(list, 6)) == INT64_MIN);
    CHECK_NEAR(json_real_value(json_array_get(list, 7)), -9223372036854775809.0, 0);
    CHECK_NEAR(json_real_value(json_array_get(list, 2)), 1, 0);
    CHECK_NEAR(json_real_value(json_array_get(list, 3)), 0.1, 1e-17);
    CHECK_NEAR(json_real_value(json_array_get(list, 4)), 12345678901234567890.5, 4096);
    CHECK_NEAR(json_real_value(json_array_get(list, 5)), 12345678901234567890.0, 4096);
    json_decref(root);
    int64_t value = 5;
    root = parse("{\"max\": 99999999999999999999}");
    CHECK_FAILS(nib_json_int(root, "max", 0, 10, true, &value), NIB_E_FORMAT, "not an integer");
    json_decref(root);
    CHECK(!parse("{\"max\": 1e999}"));
    CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
}

TEST(damaged_documents_are_refused_with_their_offset) {
    CHECK(!parse("{\"a\": 1, \"a\": 2}"));
    CHECK(strstr(nib_last_error()->what, "duplicate"));
    CHECK(!parse("{\"a\": }"));
    CHECK_INT(nib_last_error()->offset, 7);
    CHECK_TEXT(nib_last_error()->path, "f");
    CHECK(!parse("{\"a\": [10000000000000000000, -10000000000000000000], \"b\": }"));
    CHECK_INT(nib_last_error()->offset, 59);
    CHECK(!nib_json_parse("{\"a\": 1.0\0}", 11, "f", 10));
    CHECK_INT(nib_last_error()->offset, 10 + 9);
    char deep[200];
    memset(deep, '[', sizeof deep);
    CHECK(!nib_json_parse(deep, sizeof deep, "f", 10));
    CHECK_INT(nib_last_error()->offset, 10 + 64);
}

TESTS(RUNS(integers_that_no_int64_holds_are_reals),
      RUNS(damaged_documents_are_refused_with_their_offset))
