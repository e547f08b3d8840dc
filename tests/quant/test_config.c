/* Configs as text: parsing, printing, checking and copying, by the field tables alone. */
#include "base/text_util.h"
#include "quant/scheme.h"
#include "test.h"

static void check_prints(void **state_, const char *text, const char *want) {
    nib_config *config = nib_config_parse(text);
    CHECK_MADE(config);
    nib_text out = {0};
    nib_config_print(config, &out);
    CHECK(!out.failed);
    CHECK_TEXT(out.data, want);
    nib_text_free(&out);
    nib_config_free(config);
}

static void check_refused(void **state_, const char *text, const char *says) {
    nib_config *config = nib_config_parse(text);
    if (config) FAIL_AT("\"%s\" was accepted", text);
    CHECK_INT(nib_last_error()->status, NIB_E_ARGUMENT);
    if (!strstr(nib_last_error()->what, says))
        FAIL_AT("\"%s\": \"%s\" does not hold \"%s\"", text, nib_last_error()->what, says);
}

TEST(text_and_config_say_the_same) {
    NEEDS_SCHEME("int4_weight_only");
    check_prints(state_, "int4_weight_only", "int4_weight_only");
    check_prints(state_, "int4_weight_only:group_size=128", "int4_weight_only");
    check_prints(state_, "int4_weight_only:numerics=tinygemm,group_size=32",
                 "int4_weight_only:group_size=32,numerics=tinygemm");
    check_prints(state_, "int4_weight_only:algo=minmax,numerics=plain", "int4_weight_only");
    check_prints(state_, "int4_weight_only:algo=hqq,numerics=tinygemm,eps=v0.17",
                 "int4_weight_only:algo=hqq,numerics=tinygemm,eps=v0.17");
    check_prints(state_, "leave", "leave");
}

TEST(class_names_of_torchao_are_aliases) {
    NEEDS_SCHEME("int8_weight_only");
    check_prints(state_, "Int8WeightOnlyConfig", "int8_weight_only");
    check_prints(state_, "Int8WeightOnlyConfig:granularity=group,group_size=64",
                 "int8_weight_only:granularity=group,group_size=64");
}

TEST(every_scheme_prints_a_name_without_options_when_all_is_default) {
    for (size_t i = 0; nib_scheme_at(i); i++) {
        nib_config *config = nib_config_parse(nib_scheme_at(i)->name);
        CHECK_MADE(config);
        nib_text printed = {0};
        nib_config_print(config, &printed);
        CHECK(nib_scheme_find(printed.data) == nib_scheme_at(i)); /* its name, or "qint8" */
        nib_text_free(&printed);
        nib_config_free(config);
    }
}

TEST(every_alias_parses_to_what_it_stands_for) {
    for (size_t i = 0; nib_scheme_at(i); i++)
        for (const char *const *a = nib_scheme_at(i)->aliases; a && *a; a += 2) {
            nib_config *config = nib_config_parse(a[1]);
            CHECK_MADE(config);
            nib_text want = {0};
            nib_config_print(config, &want);
            check_prints(state_, a[0], want.data);
            nib_text_free(&want);
            nib_config_free(config);
        }
}

TEST(every_value_of_every_field_prints_back) {
    for (size_t s = 0; nib_scheme_at(s); s++)
        for (int f = 0; f < nib_scheme_at(s)->nfields; f++) {
            const nib_field *field = &nib_scheme_at(s)->fields[f];
            for (int i = 0; field->names && field->names[i]; i++) {
                char text[256];
                if (!field->names[i][0]) continue;
                snprintf(text, sizeof text, "%s:%s=%s", nib_scheme_at(s)->name, field->name,
                         field->names[i]);
                nib_config *config = nib_config_parse(text);
                if (!config) continue; /* contradicts a default; said elsewhere */
                CHECK(nib_config_option_is(config, field->name, field->names[i]));
                nib_text printed = {0};
                nib_config_print(config, &printed);
                nib_config *again = nib_config_parse(printed.data);
                CHECK_MADE(again);
                CHECK(nib_config_option_is(again, field->name, field->names[i]));
                nib_config_free(again);
                nib_text_free(&printed);
                nib_config_free(config);
            }
        }
}

TEST(mistakes_are_named_with_the_nearest_name) {
    NEEDS_SCHEME("int4_weight_only");
    check_refused(state_, "int4_weight_onyl", "did you mean int4_weight_only?");
    check_refused(state_, "zzzzzzzzzzzz", "there is no scheme");
    check_refused(state_, "int4_weight_only:group=32", "did you mean group_size?");
    check_refused(state_, "int4_weight_only:group_size", "not of the form option=value");
    check_refused(state_, "int4_weight_only:group_size=32,algo=hqq,group_size=64",
                  "group_size is given twice");
    check_refused(state_, "int4_weight_only:group_size=", "whole number");
    check_refused(state_, "int4_weight_only:group_size=3x", "whole number");
    check_refused(state_, "int4_weight_only:group_size=48", "one of 32, 64, 128, 256");
    check_refused(state_, "int4_weight_only:group_size=99999999999999999999", "whole number");
    check_refused(state_, "int4_weight_only:numerics=mslk", "one of plain, tinygemm");
    check_refused(state_, "int4_weight_only:algo=hqq", "needs numerics=tinygemm");
    check_refused(state_, "", "there is no scheme");
    char lengthy[1024];
    memset(lengthy, 'a', sizeof lengthy - 1);
    lengthy[sizeof lengthy - 1] = '\0';
    check_refused(state_, lengthy, "too long");
}

TEST(contradictions_are_refused) {
    NEEDS_SCHEME("int8_weight_only");
    check_refused(state_, "int8_weight_only:group_size=64", "granularity=group");
    NEEDS_SCHEME("intx_weight_only");
    check_refused(state_, "intx_weight_only:bits=9", "1 to 8");
    check_refused(state_, "intx_weight_only:bits=1,mapping=symmetric_no_clipping_err", "bits=1");
    check_refused(state_, "intx_weight_only:algo=hqq,mapping=asymmetric", "symmetric");
}

TEST(a_config_filled_by_hand_is_checked_and_copied) {
    NEEDS_SCHEME("int4_weight_only");
    char numerics[] = "tinygemm"; /* not the table's own string */
    nib_int4_weight_only mine = {.config = {nib_scheme_find("int4_weight_only"), sizeof mine},
                                 .group_size = 64,
                                 .numerics = numerics};
    CHECK_OK(nib_config_check(&mine.config));
    nib_config *copy = nib_config_copy(&mine.config);
    CHECK_MADE(copy);
    numerics[0] = 'x';
    CHECK_TEXT(((nib_int4_weight_only *)(void *)copy)->numerics, "tinygemm");
    CHECK_FAILS(nib_config_check(&mine.config), NIB_E_ARGUMENT, "numerics");
    nib_config_free(copy);
    mine.numerics = NULL;
    mine.group_size = 33;
    CHECK_FAILS(nib_config_check(&mine.config), NIB_E_ARGUMENT, "group_size is 33");
}

TEST(a_shorter_config_of_an_older_caller_keeps_defaults) {
    NEEDS_SCHEME("int4_weight_only");
    const nib_int4_weight_only mine = {
        .config = {nib_scheme_find("int4_weight_only"), offsetof(nib_int4_weight_only, numerics)},
        .group_size = 64,
        .numerics = "not to be read"};
    nib_config *copy = nib_config_copy(&mine.config);
    CHECK_MADE(copy);
    nib_text out = {0};
    nib_config_print(copy, &out);
    CHECK_TEXT(out.data, "int4_weight_only:group_size=64");
    nib_text_free(&out);
    nib_config_free(copy);
}

TEST(a_failed_parse_keeps_its_cause_through_a_chain) {
    nib_config *config = nib_config_parse("no_such_scheme_at_all");
    CHECK(!config);
    CHECK(!nib_config_copy(config));
    CHECK_INT(nib_config_check(config), NIB_E_ARGUMENT);
    CHECK(strstr(nib_last_error()->what, "no_such_scheme_at_all"));
}

TESTS(RUNS(text_and_config_say_the_same), RUNS(class_names_of_torchao_are_aliases),
      RUNS(every_scheme_prints_a_name_without_options_when_all_is_default),
      RUNS(every_alias_parses_to_what_it_stands_for), RUNS(every_value_of_every_field_prints_back),
      RUNS(mistakes_are_named_with_the_nearest_name), RUNS(contradictions_are_refused),
      RUNS(a_config_filled_by_hand_is_checked_and_copied),
      RUNS(a_shorter_config_of_an_older_caller_keeps_defaults),
      RUNS(a_failed_parse_keeps_its_cause_through_a_chain))
