/* Text that grows id by id is the text of all ids together, and never ends inside a character. */
#include <nibble/io.h>

#include "base/mem.h"
#include "base/text_util.h"
#include "text/golden_text.h"

static const char *const families[] = {"gpt2",  "opt",    "whisper",   "llama3", "qwen2",
                                       "bloom", "llama2", "tinyllama", "mixed"};

static nib_tokenizer *load(const char *family) {
    char path[256];
    snprintf(path, sizeof path, GOLDEN "%s.json", family);
    return nib_tokenizer_load(NULL, path);
}

TEST(ids_one_by_one_give_the_text_of_all_of_them) {
    golden strings = read_golden("strings.bin");
    for (size_t f = 0; f < COUNT(families); f++) {
        nib_tokenizer *t = load(families[f]);
        CHECK_MADE(t);
        nib_ids ids = {0};
        nib_string whole = {0}, grown = {0};
        for (size_t at = 0; at < strings.size;) {
            const size_t length = (size_t)little_endian(strings.bytes + at, 4);
            const char *s = (const char *)strings.bytes + at + 4;
            at += 4 + length;
            for (int skip = 0; skip < 2; skip++) {
                ids.count = whole.length = grown.length = 0;
                CHECK_OK(nib_tokenizer_encode(t, s, length, true, &ids));
                CHECK_OK(nib_tokenizer_decode(t, ids.data, ids.count, skip, &whole));
                nib_detokenizer *stream = nib_detokenizer_new(t, skip);
                CHECK_MADE(stream);
                for (size_t i = 0; i < ids.count; i++) {
                    CHECK_OK(nib_detokenizer_next(stream, ids.data[i], &grown));
                    CHECK_INT(nib_utf8_valid(grown.data, grown.length), grown.length);
                }
                CHECK_OK(nib_detokenizer_end(stream, &grown));
                nib_detokenizer_free(stream);
                if (grown.length != whole.length ||
                    memcmp(grown.data, whole.data, whole.length) != 0)
                    FAIL_AT("%s: \"%s\" grew to \"%s\"", families[f], whole.data, grown.data);
            }
        }
        nib_string_free(&whole);
        nib_string_free(&grown);
        nib_ids_free(&ids);
        nib_tokenizer_free(t);
    }
    free_golden(&strings);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TEST(bytes_of_a_character_are_held_back_until_it_is_whole) {
    static const char *const spellings[][4] = {
        {"\u00f0", "\u0141", "\u013a", "\u0122"}, /* F0 9F 98 80 as GPT-2 spells bytes */
        {"<0xF0>", "<0x9F>", "<0x98>", "<0x80>"},
    };
    for (int f = 0; f < 2; f++) {
        nib_tokenizer *t = load(f ? "llama2" : "gpt2");
        CHECK_MADE(t);
        nib_detokenizer *stream = nib_detokenizer_new(t, false);
        CHECK_MADE(stream);
        nib_string text = {0};
        for (int i = 0; i < 4; i++) {
            const int32_t id = nib_tokenizer_id(t, spellings[f][i], strlen(spellings[f][i]));
            CHECK(id >= 0);
            CHECK_OK(nib_detokenizer_next(stream, id, &text));
            CHECK_TEXT(text.data, i < 3 ? "" : "\U0001F600");
        }
        /* one byte that nothing follows comes out at the end */
        const int32_t lone = nib_tokenizer_id(t, spellings[f][0], strlen(spellings[f][0]));
        CHECK_OK(nib_detokenizer_next(stream, lone, &text));
        CHECK_TEXT(text.data, "\U0001F600");
        CHECK_OK(nib_detokenizer_end(stream, &text));
        CHECK_TEXT(text.data, "\U0001F600\uFFFD");
        nib_string_free(&text);
        nib_detokenizer_free(stream);
        nib_tokenizer_free(t);
    }
}

TEST(any_ids_give_valid_text_that_does_not_wait_for_ever) {
    uint64_t seed = test_seed();
    for (size_t f = 0; f < COUNT(families); f++) {
        nib_tokenizer *t = load(families[f]);
        CHECK_MADE(t);
        nib_string text = {0};
        nib_detokenizer *stream = nib_detokenizer_new(t, false);
        CHECK_MADE(stream);
        size_t shown = 0;
        int waits = 0;
        for (int i = 0; i < 20000; i++) {
            /* mostly single bytes: the ones that break characters */
            const int32_t id = (int32_t)(test_random(&seed) %
                                         (test_random(&seed) % 4 ? 260 : nib_tokenizer_size(t)));
            CHECK_OK(nib_detokenizer_next(stream, id, &text));
            waits = text.length == shown ? waits + 1 : 0;
            shown = text.length;
            CHECK(waits < 40); /* pieces that decode to nothing aside, 3 are the most */
        }
        CHECK_OK(nib_detokenizer_end(stream, &text));
        CHECK_INT(nib_utf8_valid(text.data, text.length), text.length);
        CHECK_FAILS(nib_detokenizer_next(stream, -1, &text), NIB_E_ARGUMENT, "-1");
        nib_detokenizer_free(stream);
        nib_string_free(&text);
        nib_tokenizer_free(t);
    }
    CHECK_INT(nib_mem_used(NULL), 0);
}

TESTS(RUNS(ids_one_by_one_give_the_text_of_all_of_them),
      RUNS(bytes_of_a_character_are_held_back_until_it_is_whole),
      RUNS(any_ids_give_valid_text_that_does_not_wait_for_ever))
