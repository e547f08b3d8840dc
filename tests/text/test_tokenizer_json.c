/* Damaged and unknown tokenizer.json files: one clear error each, naming the file, and nothing left
 * behind. */
#include <nibble/io.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"
#include "text/golden_text.h"

/* A small whole tokenizer; each test replaces one part of it. */
static const char model[] =
    "{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,\"ab\":3,"
    "\"\\u0120\":4},\"merges\":[\"a b\"]}";

static size_t assemble(char *to, size_t room, const char *part, const char *value) {
    static const char *const parts[] = {"version", "added_tokens",   "normalizer", "pre_tokenizer",
                                        "model",   "post_processor", "decoder"};
    static const char *const plain[] = {"\"1.0\"", "[]", "null", "null", model, "null", "null"};
    size_t n = (size_t)snprintf(to, room, "{");
    for (int i = 0; i < 7; i++)
        n += (size_t)snprintf(to + n, room - n, "%s\"%s\":%s", i ? "," : "", parts[i],
                              !strcmp(parts[i], part) ? value : plain[i]);
    n += (size_t)snprintf(to + n, room - n, "}");
    return n;
}

static void check_refused(void **state_, const char *part, const char *value, nib_status status,
                          const char *says) {
    static char json[1 << 16];
    const size_t length = assemble(json, sizeof json, part, value);
    nib_tokenizer *t = nib_tokenizer_parse(NULL, json, length, "x/tokenizer.json");
    if (t) FAIL_AT("accepted: %s = %s", part, value);
    if (nib_last_error()->status != status || !strstr(nib_last_error()->what, says))
        FAIL_AT("%s = %.100s: status %d \"%s\", want %d with \"%s\"", part, value,
                (int)nib_last_error()->status, nib_last_error()->what, (int)status, says);
    CHECK_TEXT(nib_last_error()->path, "x/tokenizer.json");
    CHECK_INT(nib_mem_used(NULL), 0);
}

TEST(the_plain_file_that_tests_damage_is_whole) {
    static char json[1 << 16];
    const size_t length = assemble(json, sizeof json, "", "");
    nib_tokenizer *t = nib_tokenizer_parse(NULL, json, length, NULL);
    CHECK_MADE(t);
    nib_ids ids = {0};
    CHECK_OK(nib_tokenizer_encode(t, "abab?ba", 7, true, &ids));
    const int32_t want[] = {3, 3, 0, 2, 1};
    CHECK_INT(ids.count, 5);
    CHECK_BYTES(ids.data, want, sizeof want);
    CHECK_INT(nib_tokenizer_size(t), 5);
    CHECK_INT(nib_tokenizer_id(t, "ab", 2), 3);
    CHECK_INT(nib_tokenizer_id(t, "ba", 2), -1);
    size_t n = 0;
    CHECK_TEXT(nib_tokenizer_piece(t, 3, &n), "ab");
    CHECK_INT(n, 2);
    CHECK(!nib_tokenizer_piece(t, 5, &n));
    CHECK(!nib_tokenizer_piece(t, -1, &n));
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
}

TEST(unknown_kinds_are_refused_by_name) {
    static const struct {
        const char *part, *value, *says;
    } cases[] = {
        {"version", "\"2.0\"", "2.0"},
        {"model", "{\"type\":\"Unigram\",\"vocab\":[]}", "Unigram"},
        {"model", "{\"type\":\"WordPiece\",\"vocab\":{}}", "WordPiece"},
        {"model", "{\"vocab\":{}}", "model"},
        {"model", "{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}",
         "dropout"},
        {"normalizer", "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"\"}", "Precompiled"},
        {"normalizer", "{\"type\":\"BertNormalizer\"}", "BertNormalizer"},
        {"normalizer",
         "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Nmt\"}]}", "Nmt"},
        {"pre_tokenizer", "{\"type\":\"UnicodeScripts\"}", "UnicodeScripts"},
        {"pre_tokenizer",
         "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\","
         "\"invert\":false}",
         "Odd"},
        {"pre_tokenizer",
         "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}", "last"},
        {"post_processor", "{\"type\":\"Other\"}", "Other"},
        {"post_processor",
         "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\","
         "\"type_id\":0}}],\"special_tokens\":{}}",
         "sequence \"B\""},
        {"decoder", "{\"type\":\"WordPiece\"}", "WordPiece"},
        {"decoder", "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"CTC\"}]}", "CTC"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        check_refused(state_, cases[i].part, cases[i].value, NIB_E_UNSUPPORTED, cases[i].says);
}

TEST(patterns_that_cannot_be_rewritten_are_refused) {
    static const char *const patterns[] = {
        "(*UTF)a", "(?x)a", "a(?~b)", "\\\\X", "\\\\p{Nonsense}", "\\\\p{Cn}",     "[[:alpha:]]",
        "[a",      "(a",    "a)",     "[z-a]", "\\\\g<1>",        "\\\\x{110000}", "\\\\xff",
        "[]",      "[a&&]", "\\\\",   "*a",    "a{99999}",        "\\\\Qa\\\\E",   "(?<n>a)(?<n>b)",
        "\\\\p{L",
    };
    for (size_t i = 0; i < COUNT(patterns); i++) {
        char value[256];
        snprintf(value, sizeof value,
                 "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":"
                 "\"Isolated\",\"invert\":false}",
                 patterns[i]);
        check_refused(state_, "pre_tokenizer", value, NIB_E_UNSUPPORTED, "pattern");
    }
}

TEST(wrong_types_and_values_are_refused_with_their_key) {
    static const struct {
        const char *part, *value, *says;
    } cases[] = {
        {"version", "1", "version"},
        {"model", "null", "model"},
        {"model", "[]", "model"},
        {"model", "{\"type\":\"BPE\"}", "vocab"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0}}", "merges"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}", "no pieces"},
        {"model", "{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}", "vocab"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]}", "not an integer"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0.0},\"merges\":[]}", "not an integer"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}", "-1"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":2147483648},\"merges\":[]}", "2147483648"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":4294967296},\"merges\":[]}", "4294967296"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":9223372036854775807},\"merges\":[]}",
         "not from"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}", "id 1 belongs"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}", "\"b\""},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}", "\"aa\""},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}", "entry 0"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}", "entry 0"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}", "entry 0"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]}", "entry 0"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}", "entry 0"},
        {"model", "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":{}}", "merges"},
        {"model", "{\"type\":\"BPE\",\"unk_token\":\"u\",\"vocab\":{\"a\":0},\"merges\":[]}",
         "\"u\""},
        {"model", "{\"type\":\"BPE\",\"byte_fallback\":1,\"vocab\":{\"a\":0},\"merges\":[]}",
         "byte_fallback"},
        {"added_tokens", "{}", "added_tokens"},
        {"added_tokens", "[1]", "entry 0"},
        {"added_tokens", "[{\"id\":9}]", "content"},
        {"added_tokens", "[{\"id\":-1,\"content\":\"x\"}]", "id"},
        {"added_tokens", "[{\"id\":9,\"content\":\"x\",\"single_word\":0}]", "single_word"},
        {"normalizer", "[]", "normalizer"},
        {"normalizer", "{}", "type"},
        {"normalizer", "{\"type\":\"Replace\",\"content\":\"\"}", "pattern"},
        {"normalizer", "{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}", "String"},
        {"normalizer", "{\"type\":\"Sequence\"}", "normalizers"},
        {"pre_tokenizer", "{\"type\":\"ByteLevel\"}", "add_prefix_space"},
        {"pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"ab\"}", "one character"},
        {"pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"\"}", "one character"},
        {"pre_tokenizer",
         "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false,"
         "\"prepend_scheme\":\"first\"}",
         "prepend_scheme"},
        {"post_processor",
         "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
         "\"s\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"s\":{\"ids\":[5]}}}",
         "\"s\""},
        {"post_processor",
         "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
         "\"s\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{}}",
         "\"s\""},
        {"post_processor", "{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",1]}", "sep"},
        {"decoder", "{\"type\":\"Strip\",\"content\":\"ab\",\"start\":1,\"stop\":0}",
         "one character"},
        {"decoder", "{\"type\":\"Strip\",\"content\":\"a\",\"start\":-1,\"stop\":0}", "start"},
        {"decoder", "7", "decoder"},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        check_refused(state_, cases[i].part, cases[i].value, NIB_E_FORMAT, cases[i].says);
}

#define ADDED(id, content)                                                                         \
    "{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":false,"          \
    "\"rstrip\":false,\"normalized\":false,\"special\":true}"

TEST(added_tokens_that_contradict_the_vocab_are_refused) {
    check_refused(state_, "added_tokens", "[" ADDED(1, "x") "]", NIB_E_FORMAT, "\"x\"");
    check_refused(state_, "added_tokens", "[" ADDED(2, "a") "]", NIB_E_FORMAT, "\"a\"");
    check_refused(state_, "added_tokens", "[" ADDED(9, "a") "]", NIB_E_FORMAT, "\"a\"");
    check_refused(state_, "added_tokens", "[" ADDED(9, "x") "," ADDED(9, "y") "]", NIB_E_FORMAT,
                  "id 9");
    check_refused(state_, "added_tokens", "[" ADDED(9, "x") "," ADDED(8, "x") "]", NIB_E_FORMAT,
                  "\"x\"");
}

TEST(holes_between_ids_stand_for_nothing) {
    static char json[1 << 16];
    const size_t length = assemble(json, sizeof json, "added_tokens", "[" ADDED(9, "<end>") "]");
    nib_tokenizer *t = nib_tokenizer_parse(NULL, json, length, NULL);
    CHECK_MADE(t);
    CHECK_INT(nib_tokenizer_size(t), 10);
    CHECK(!nib_tokenizer_piece(t, 7, NULL));
    const int32_t ids[] = {1, 7, 2, 9, 123456};
    nib_string text = {0};
    CHECK_OK(nib_tokenizer_decode(t, ids, 5, false, &text));
    CHECK_TEXT(text.data, "a b <end>");
    CHECK_FAILS(nib_tokenizer_decode(t, (const int32_t[]){1, -5}, 2, false, &text), NIB_E_ARGUMENT,
                "-5");
    CHECK_TEXT(text.data, "a b <end>");
    nib_string_free(&text);
    nib_tokenizer_free(t);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TEST(a_file_cut_anywhere_is_one_clear_error) {
    golden file = read_golden("llama3.json");
    for (size_t cut = 0; cut < file.size - 1; cut += cut < 600 ? 1 : 997) {
        nib_tokenizer *t = nib_tokenizer_parse(NULL, (const char *)file.bytes, cut, "cut.json");
        CHECK(!t);
        CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
        CHECK_TEXT(nib_last_error()->path, "cut.json");
        CHECK(nib_last_error()->offset >= 0 && nib_last_error()->offset <= (int64_t)cut);
    }
    free_golden(&file);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TEST(a_missing_file_and_a_folder_without_one_are_named) {
    char folder[] = "tokenizer_test_XXXXXX";
    CHECK_MADE(mkdtemp(folder));
    CHECK(!nib_tokenizer_load(NULL, folder));
    CHECK_INT(nib_last_error()->status, NIB_E_IO);
    CHECK(strstr(nib_last_error()->path, "tokenizer.json") != NULL);
    CHECK(!nib_tokenizer_load(NULL, "no/such/tokenizer.json"));
    CHECK_INT(nib_last_error()->status, NIB_E_IO);
    CHECK_INT(rmdir(folder), 0);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TEST(text_that_is_not_utf8_is_refused_with_the_byte) {
    static const struct {
        const char *text;
        size_t length, offset;
    } cases[] = {
        {"\xff", 1, 0},
        {"ab\xc3", 3, 2},
        {"ab\xc3(", 4, 2},
        {"\xc0\x80", 2, 0},
        {"x\xed\xa0\x80", 4, 1},
        {"\xf4\x90\x80\x80", 4, 0},
        {"\xe2\x82\xac\x80", 4, 3},
        {"\xf0\x9f\x98", 3, 0},
        {"a\0\x80", 3, 2},
    };
    nib_tokenizer *t = nib_tokenizer_load(NULL, GOLDEN "gpt2.json");
    CHECK_MADE(t);
    nib_ids ids = {0};
    CHECK_OK(nib_tokenizer_encode(t, "kept", 4, true, &ids));
    const size_t count = ids.count;
    for (size_t i = 0; i < COUNT(cases); i++) {
        CHECK_FAILS(nib_tokenizer_encode(t, cases[i].text, cases[i].length, true, &ids),
                    NIB_E_FORMAT, "UTF-8");
        CHECK_INT(nib_last_error()->offset, cases[i].offset);
        CHECK_INT(ids.count, count);
    }
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
}

/* Byte pieces have exactly two hexadecimal digits; others are pieces like any. */
TEST(pieces_that_look_like_bytes_but_are_none_stay_text) {
    static char json[1 << 16];
    static const char odd[] =
        "{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<0x-1>\":0,\"<0x+A>\":1,\"<0x0G>\":"
        "2,"
        "\"<0x041>\":3,\"<0x4>\":4,\"<0x41>\":5,\"<0xC3>\":6,\"<0xA9>\":7,\"b\":8},\"merges\":[]}";
    size_t length = assemble(json, sizeof json, "model", odd);
    /* the decoder that reads them */
    const char *null_decoder = "\"decoder\":null}";
    length -= strlen(null_decoder);
    length += (size_t)snprintf(json + length, sizeof json - length,
                               "\"decoder\":{\"type\":\"ByteFallback\"}}");
    nib_tokenizer *t = nib_tokenizer_parse(NULL, json, length, NULL);
    CHECK_MADE(t);
    const int32_t ids[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    nib_string text = {0};
    CHECK_OK(nib_tokenizer_decode(t, ids, 9, false, &text));
    CHECK_TEXT(text.data, "<0x-1><0x+A><0x0G><0x041><0x4>A\u00e9b");
    nib_ids back = {0};
    CHECK_OK(nib_tokenizer_encode(t, "A\u00e9b", 4, false, &back));
    const int32_t want[] = {5, 6, 7, 8};
    CHECK_INT(back.count, 4);
    CHECK_BYTES(back.data, want, sizeof want);
    nib_ids_free(&back);
    nib_string_free(&text);
    nib_tokenizer_free(t);
}

TEST(a_pattern_that_takes_forever_is_given_up) {
    static char json[1 << 16], text[4096];
    const size_t length = assemble(json, sizeof json, "pre_tokenizer",
                                   "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a|aa)+$\"},"
                                   "\"behavior\":\"Isolated\",\"invert\":false}");
    nib_tokenizer *t = nib_tokenizer_parse(NULL, json, length, NULL);
    CHECK_MADE(t);
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'b';
    nib_ids ids = {0};
    CHECK_FAILS(nib_tokenizer_encode(t, text, sizeof text, true, &ids), NIB_E_FORMAT, "steps");
    CHECK_INT(ids.count, 0);
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TESTS(RUNS(the_plain_file_that_tests_damage_is_whole), RUNS(unknown_kinds_are_refused_by_name),
      RUNS(patterns_that_cannot_be_rewritten_are_refused),
      RUNS(wrong_types_and_values_are_refused_with_their_key),
      RUNS(added_tokens_that_contradict_the_vocab_are_refused),
      RUNS(holes_between_ids_stand_for_nothing), RUNS(a_file_cut_anywhere_is_one_clear_error),
      RUNS(a_missing_file_and_a_folder_without_one_are_named),
      RUNS(text_that_is_not_utf8_is_refused_with_the_byte),
      RUNS(pieces_that_look_like_bytes_but_are_none_stay_text),
      RUNS(a_pattern_that_takes_forever_is_given_up))
