#include "base/text_util.h"
#include "test.h"

TEST(a_star_crosses_dots) {
    CHECK(nib_glob_match("model.layers.*.mlp.*", "model.layers.11.mlp.up_proj"));
    CHECK(nib_glob_match("*", ""));
    CHECK(nib_glob_match("*proj", "a.q_proj"));
    CHECK(!nib_glob_match("*proj", "a.q_proj.x"));
    CHECK(nib_glob_match("a*b*c", "a.b.b.c"));
    CHECK(!nib_glob_match("a*b*c", "a.b.b.d"));
}

TEST(classes_and_question_marks_match_one_byte) {
    CHECK(nib_glob_match("layer[0-3]?", "layer2x"));
    CHECK(!nib_glob_match("layer[0-3]", "layer4"));
    CHECK(nib_glob_match("layer[!0-3]", "layer4"));
    CHECK(nib_glob_match("a[b", "a[b"));
    CHECK(nib_glob_match("[]]", "]"));
}

TEST(numbers_are_read_whole_or_not_at_all) {
    int64_t i;
    double d;
    CHECK(nib_text_to_int("-9223372036854775808", &i) && i == INT64_MIN);
    CHECK(nib_text_to_int("9223372036854775807", &i) && i == INT64_MAX);
    CHECK(!nib_text_to_int("9223372036854775808", &i));
    CHECK(!nib_text_to_int("18446744073709551616", &i));
    CHECK(!nib_text_to_int("", &i) && !nib_text_to_int("-", &i) && !nib_text_to_int("1x", &i));
    CHECK(nib_text_to_double("0.25", &d) && d == 0.25);
    CHECK(nib_text_to_double("-1e-3", &d) && d == -1e-3);
    CHECK(nib_text_to_double("2.5E+2", &d) && d == 250);
    CHECK(!nib_text_to_double("1,5", &d) && !nib_text_to_double(".", &d));
}

TEST(the_nearest_name_is_suggested_and_a_far_one_is_not) {
    const char *const names[] = {"int8_weight_only", "int4_weight_only", "qint4", NULL};
    CHECK_TEXT(nib_text_nearest("int4_weigth_only", names), "int4_weight_only");
    CHECK_TEXT(nib_text_nearest("qint", names), "qint4");
    CHECK(nib_text_nearest("something else", names) == NULL);
}

TEST(invalid_utf8_is_found_at_its_byte) {
    CHECK_INT(nib_utf8_valid("h\xc3\xa9llo", 6), 6);
    CHECK_INT(nib_utf8_valid("ab\xff", 3), 2);
    CHECK_INT(nib_utf8_valid("\xe0\x80\x80", 3), 0);     /* overlong */
    CHECK_INT(nib_utf8_valid("a\xed\xa0\x80", 4), 1);    /* surrogate */
    CHECK_INT(nib_utf8_valid("\xf4\x90\x80\x80", 4), 0); /* past the last code point */
    CHECK_INT(nib_utf8_valid("abc\xe2\x82", 5), 3);      /* cut */
}

TEST(json_strings_are_escaped) {
    nib_text t = {0};
    nib_text_json_string(&t, "a\"\\\n\x01", 5);
    CHECK_TEXT(t.data, "\"a\\\"\\\\\\n\\u0001\"");
    nib_text_free(&t);
}

TEST(a_text_that_is_taken_is_a_string_and_leaves_nothing) {
    nib_text t = {0}, failed = {.failed = true};
    char *none = nib_text_take(&t);
    CHECK_TEXT(none, "");
    nib_mem_strfree(NULL, none);
    nib_text_format(&t, "%d%s", 12, "b");
    char *some = nib_text_take(&t);
    CHECK_TEXT(some, "12b");
    CHECK(!t.data && !t.length && !t.room);
    nib_mem_strfree(NULL, some);
    CHECK(!nib_text_take(&failed));
}

TEST(numbers_are_written_lowest_byte_first) {
    nib_text t = {0};
    nib_text_little(&t, 0x0102030405060708, 8);
    nib_text_little(&t, 0xfffe, 2);
    CHECK(t.length == 10 && memcmp(t.data, "\x8\x7\x6\x5\x4\x3\x2\x1\xfe\xff", 10) == 0);
    nib_text_free(&t);
}

/* The right side is what Python 3.11's json.dumps gives for the same string. */
TEST(json_strings_are_escaped_to_ascii) {
    nib_text t = {0};
    const char *from = "a\"\\/\n\x01\x7f\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80";
    nib_text_json_ascii(&t, from, strlen(from));
    CHECK_TEXT(t.data, "\"a\\\"\\\\/\\n\\u0001\\u007f\\u00e9\\u20ac\\ud83d\\ude00\"");
    nib_text_free(&t);
}

TESTS(RUNS(json_strings_are_escaped_to_ascii), RUNS(a_star_crosses_dots),
      RUNS(classes_and_question_marks_match_one_byte), RUNS(numbers_are_read_whole_or_not_at_all),
      RUNS(the_nearest_name_is_suggested_and_a_far_one_is_not),
      RUNS(invalid_utf8_is_found_at_its_byte), RUNS(json_strings_are_escaped),
      RUNS(numbers_are_written_lowest_byte_first),
      RUNS(a_text_that_is_taken_is_a_string_and_leaves_nothing))
