/* test_options.c: command lines as verbs get them, and failures as exit codes. The command's files
 * are taken in whole, because its executable offers nothing to link against. */
#include "../../cli/options.c"
#include "../../cli/output.c"
#include "../../cli/progress.c"

#include "base/error.h"
#include "test.h"

#include <fcntl.h>
#include <unistd.h>

static struct {
    const char *prompt;
    int64_t count;
    double temperature;
    uint64_t salt;
    bool raw, greedy;
    cli_list rules;
} o;
static const cli_option options[] = {
    {"prompt", 'p', "TEXT", CLI_TEXT, &o.prompt, "what to go on from", 0, 0, true},
    {NULL, 'n', "NEW", CLI_INT, &o.count, "new tokens", 1, 100, false},
    {"temperature", 0, "T", CLI_NUMBER, &o.temperature, "flattens", 0, 2, false},
    {"salt", 0, "S", CLI_SEED, &o.salt, "any", 0, 0, false},
    {"raw", 'r', NULL, CLI_FLAG, &o.raw, "as it is", 0, 0, false},
    {"greedy", 'g', NULL, CLI_FLAG, &o.greedy, "the likeliest", 0, 0, false},
    {"rule", 0, "GLOB=S", CLI_LIST, &o.rules, "first match wins", 0, 0, false},
    {0},
};
static int nothing(cli *c) {
    (void)c;
    return CLI_OK;
}
static const cli_verb verb = {
    .name = "speak",
    .summary = "says things",
    .synopsis = "MODEL",
    .example = "x",
    .options = options,
    .common = CLI_THREADS | CLI_JSON | CLI_SEEDED | CLI_MMAP,
    .min_arguments = 1,
    .max_arguments = 2,
    .run = nothing,
};

static cli c;
static char said[4096]; /* what was printed on stderr between catch_begin and catch_end */
static FILE *caught;
static int stderr_before;

static void catch_begin(void) {
    fflush(stderr);
    caught = tmpfile();
    stderr_before = dup(STDERR_FILENO);
    dup2(fileno(caught), STDERR_FILENO);
}
static void catch_end(void) {
    fflush(stderr);
    dup2(stderr_before, STDERR_FILENO);
    close(stderr_before);
    const ssize_t n = pread(fileno(caught), said, sizeof(said) - 1, 0);
    said[n > 0 ? n : 0] = 0;
    fclose(caught);
}

/* Parse the words between the '|' of `text`. -> exit code */
static int parse(const char *text) {
    static char words[512], *argv[64];
    int argc = 0;
    cli_parse_end();
    memset(&o, 0, sizeof(o));
    c = (cli){.verb = &verb};
    snprintf(words, sizeof(words), "%s", text);
    for (char *word = strtok(words, "|"); word; word = strtok(NULL, "|")) argv[argc++] = word;
    catch_begin();
    const int code = cli_parse(&c, argc, argv);
    catch_end();
    return code;
}

TEST(every_spelling_of_an_option_is_read) {
    CHECK_INT(parse("--prompt|one|model|-n|7|--temperature=0.5|--salt|18446744073709551615"),
              CLI_OK);
    CHECK_TEXT(o.prompt, "one");
    CHECK_INT(o.count, 7);
    CHECK_NEAR(o.temperature, 0.5, 0);
    CHECK(o.salt == UINT64_MAX);
    CHECK(!o.raw && !o.greedy);
    CHECK_INT(parse("model|-rgn8|--prompt=a=b|-jqt2|--seed|9|--no-mmap"), CLI_OK);
    CHECK(o.raw && o.greedy && c.json && c.quiet && c.no_mmap && !c.verbose);
    CHECK_INT(o.count, 8);
    CHECK_INT(c.threads, 2);
    CHECK(c.seed == 9);
    CHECK_TEXT(o.prompt, "a=b");
}

TEST(arguments_keep_their_order_around_options) {
    CHECK_INT(parse("first|-p|-x|second"), CLI_OK);
    CHECK_TEXT(o.prompt, "-x");
    CHECK_INT(c.narguments, 2);
    CHECK_TEXT(c.arguments[0], "first");
    CHECK_TEXT(c.arguments[1], "second");
    CHECK_INT(parse("-px|--|--raw|-"), CLI_OK);
    CHECK_TEXT(c.arguments[0], "--raw");
    CHECK_TEXT(c.arguments[1], "-");
    CHECK(!o.raw);
}

TEST(a_list_keeps_what_it_was_given_in_order) {
    CHECK_INT(parse("m|-p|x|--rule|a=1|--rule=b=2|--rule|c=3"), CLI_OK);
    CHECK_INT(o.rules.count, 3);
    CHECK_TEXT(o.rules.items[0], "a=1");
    CHECK_TEXT(o.rules.items[1], "b=2");
    CHECK_TEXT(o.rules.items[2], "c=3");
}

TEST(mistakes_are_usage_errors_that_say_what_is_wrong) {
    static const char *const cases[][2] = {
        {"m|-p|x|-n|0", "-n wants 1 to 100, not 0"},
        {"m|-p|x|-n|101", "-n wants 1 to 100, not 101"},
        {"m|-p|x|-n|7x", "-n wants a whole number, not \"7x\""},
        {"m|-p|x|-n| 7", "-n wants a whole number, not \" 7\""},
        {"m|-p|x|-n|99999999999999999999", "-n wants a whole number"},
        {"m|-p|x|-n|-", "-n wants a whole number, not \"-\""},
        {"m|-p|x|--temperature|nan", "--temperature wants a number, not \"nan\""},
        {"m|-p|x|--temperature|1e999", "--temperature wants a number"},
        {"m|-p|x|--temperature|2.5", "--temperature wants 0 to 2, not 2.5"},
        {"m|-p|x|--temperature|1,5", "--temperature wants a number, not \"1,5\""},
        {"m|-p|x|--salt|-1", "--salt wants a whole number from 0 on, not \"-1\""},
        {"m|-p|x|--salt|18446744073709551616", "--salt wants a whole number from 0 on"},
        {"m|-p|x|--raw=1", "--raw takes no value"},
        {"m|-p|x|--tempratur|1", "did you mean --temperature?"},
        {"m|-p|x|--sed|1", "did you mean --seed?"},
        {"m|-p|x|-rz", "unknown option -z"},
        {"m|-p|x|--t", "unknown option --t\n"},
        {"m|-p", "-p wants a value: TEXT"},
        {"m", "--prompt TEXT is missing"},
        {"-p|x", "an argument is missing: nibble speak MODEL"},
        {"a|b|c|-p|x", "one argument too many: \"c\""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (parse(cases[i][0]) != CLI_USAGE) FAIL_AT("%s: is no usage error", cases[i][0]);
        if (!strstr(said, cases[i][1]))
            FAIL_AT("%s: \"%s\" lacks \"%s\"", cases[i][0], said, cases[i][1]);
    }
}

TEST(help_may_be_asked_for_whatever_else_is_missing) {
    CHECK_INT(parse("--help"), CLI_OK);
    CHECK(c.help);
}

TEST(each_kind_of_failure_has_its_exit_code) {
    static const struct {
        nib_status status;
        const char *path;
        int code;
    } cases[] = {
        {NIB_E_ARGUMENT, "", 2},    {NIB_E_FORMAT, "", 3},      {NIB_E_SHAPE, "", 1},
        {NIB_E_SHAPE, "f", 3},      {NIB_E_DTYPE, "", 1},       {NIB_E_DTYPE, "f", 3},
        {NIB_E_DIFFERS, "", 4},     {NIB_E_MEMORY, "", 5},      {NIB_E_FULL, "", 5},
        {NIB_E_IO, "f", 1},         {NIB_E_CANCELLED, "", 130}, {NIB_E_UNSUPPORTED, "f", 3},
        {NIB_E_UNSUPPORTED, "", 1}, {NIB_E_DEVICE, "", 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        nib_error error = {.status = cases[i].status, .offset = -1};
        snprintf(error.path, sizeof(error.path), "%s", cases[i].path);
        CHECK_INT(cli_exit_code(&error), cases[i].code);
    }
}

TEST(a_failure_is_one_line_with_file_tensor_and_byte) {
    c = (cli){.verb = &verb};
    (void)NIB_RAISE(NIB_E_FORMAT, "the header is %d bytes", 7);
    (void)nib_error_at("a/b.safetensors", "model.w", 12);
    catch_begin();
    const int code = cli_fail(&c);
    catch_end();
    CHECK_INT(code, CLI_BAD_FILE);
    CHECK_TEXT(said, "nibble speak: the header is 7 bytes "
                     "(file a/b.safetensors, tensor model.w, at byte 12)\n");
    (void)NIB_RAISE(NIB_E_UNSUPPORTED, "cannot");
    catch_begin();
    CHECK_INT(cli_fail(&c), CLI_FAILED);
    catch_end();
    CHECK_TEXT(said, "nibble speak: cannot\n");
}

TEST(an_interrupt_cancels_the_work_at_its_next_progress) {
    c = (cli){.verb = &verb, .quiet = true};
    cli_signals();
    CHECK(cli_progress(&c, "working", 1, 3));
    CHECK(!cli_interrupted());
    raise(SIGINT);
    CHECK(cli_interrupted());
    CHECK(!cli_progress(&c, "working", 2, 3));
}

TESTS(RUNS(every_spelling_of_an_option_is_read), RUNS(arguments_keep_their_order_around_options),
      RUNS(a_list_keeps_what_it_was_given_in_order),
      RUNS(mistakes_are_usage_errors_that_say_what_is_wrong),
      RUNS(help_may_be_asked_for_whatever_else_is_missing),
      RUNS(each_kind_of_failure_has_its_exit_code),
      RUNS(a_failure_is_one_line_with_file_tensor_and_byte),
      RUNS(an_interrupt_cancels_the_work_at_its_next_progress))
