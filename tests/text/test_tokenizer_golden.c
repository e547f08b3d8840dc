/* Ids and texts equal those of the `tokenizers` wheel, for every family of pipelines. The goldens,
 * and which call made them, are in tests/golden/tokenizer/make.py. */
#include <nibble/io.h>

#include "text/golden_text.h"

static nib_tokenizer *load(const char *family) {
    char path[256];
    snprintf(path, sizeof path, GOLDEN "%s.json", family);
    return nib_tokenizer_load(NULL, path);
}

/* Escaped, for messages. */
static const char *shown(const char *text, size_t length) {
    static char out[600];
    size_t n = 0;
    for (size_t i = 0; i < length && n + 8 < sizeof out; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '\\' || c == 0x7f)
            n += (size_t)snprintf(out + n, 8, "\\x%02x", c);
        else
            out[n++] = text[i];
    }
    out[n] = '\0';
    return out;
}

static void show_ids(const char *what, const int32_t *got, const unsigned char *want, size_t n) {
    print_error("  %s:", what);
    for (size_t i = 0; i < n && i < 40; i++)
        print_error(" %lld", got ? (long long)got[i] : (long long)little_endian(want + 2 * i, 2));
    print_error("\n");
}

/* Some tokens that make.py added take the white space around them. */
static bool swallows_spaces(const char *text, size_t length) {
    static const char *const tokens[] = {"<left>", "<right>", "<both>"};
    for (int i = 0; i < 3; i++)
        if (memmem(text, length, tokens[i], strlen(tokens[i]))) return true;
    return false;
}

/* Each hand-picked string: ids with special tokens, without, and both ways back. */
static void check_strings(void **state_, const char *family, bool lossless) {
    char name[64];
    snprintf(name, sizeof name, "%s.strings", family);
    golden strings = read_golden("strings.bin"), wanted = read_golden(name);
    nib_tokenizer *t = load(family);
    CHECK_MADE(t);
    nib_ids ids = {0}, bare = {0};
    nib_string text = {0};
    int bad = 0, count = 0, back = 0;
    const unsigned char *want = wanted.bytes;
    for (size_t at = 0; at + 4 <= strings.size; count++) {
        const size_t length = (size_t)little_endian(strings.bytes + at, 4);
        const char *s = (const char *)strings.bytes + at + 4;
        at += 4 + length;
        const size_t n = (size_t)little_endian(want, 4);
        const unsigned char *want_ids = want + 4, *hashes = want_ids + 2 * n;
        want = hashes + 24;
        ids.count = bare.count = text.length = 0;
        CHECK_OK(nib_tokenizer_encode(t, s, length, true, &ids));
        bool same = ids.count == n;
        for (size_t i = 0; i < n && same; i++)
            same = ids.data[i] == (int32_t)little_endian(want_ids + 2 * i, 2);
        if (!same) {
            print_error("%s: string %d \"%s\"\n", family, count, shown(s, length));
            show_ids("got ", ids.data, NULL, ids.count);
            show_ids("want", NULL, want_ids, n);
        }
        CHECK_OK(nib_tokenizer_encode(t, s, length, false, &bare));
        const bool same_bare = ids_hash(bare.data, bare.count) == little_endian(hashes, 8);
        CHECK_OK(nib_tokenizer_decode(t, ids.data, ids.count, false, &text));
        const bool same_text =
            fnv(FNV_START, text.data, text.length) == little_endian(hashes + 8, 8);
        text.length = 0;
        CHECK_OK(nib_tokenizer_decode(t, ids.data, ids.count, true, &text));
        const bool same_plain =
            fnv(FNV_START, text.data, text.length) == little_endian(hashes + 16, 8);
        if (same && (!same_bare || !same_text || !same_plain))
            print_error("%s: string %d \"%s\":%s%s%s\n", family, count, shown(s, length),
                        same_bare ? "" : " ids without special tokens differ",
                        same_text ? "" : " decoded text differs",
                        same_plain ? "" : " text without special tokens differs");
        bad += !same || !same_bare || !same_text || !same_plain;
        if (lossless && !swallows_spaces(s, length)) {
            text.length = 0;
            CHECK_OK(nib_tokenizer_decode(t, bare.data, bare.count, false, &text));
            CHECK_INT(text.length, length);
            CHECK_BYTES(text.data, s, length);
            back++;
        }
    }
    CHECK_INT(count, 1000);
    CHECK(!lossless || back > 900);
    CHECK(want == wanted.bytes + wanted.size);
    nib_string_free(&text);
    nib_ids_free(&bare);
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
    free_golden(&wanted);
    free_golden(&strings);
    CHECK_INT(bad, 0);
    CHECK_INT(nib_mem_used(NULL), 0);
}

/* Under a sanitizer one block of seven: the others go through the same code with other words. */
enum { BLOCK_STEP = TEST_SANITIZED ? 7 : 1 };

/* 10 MB of words, signs and Unicode, one hash for each 64 KiB; then all code points. */
static void check_blocks(void **state_, const char *family, bool lossless) {
    static word_list list;
    static char text[CODES_PER_BLOCK * 28];
    char name[64];
    snprintf(name, sizeof name, "%s.blocks", family);
    golden wanted = read_golden(name);
    CHECK_INT(wanted.size, 8 * (BLOCKS + CODE_BLOCKS));
    read_words(&list);
    nib_tokenizer *t = load(family);
    CHECK_MADE(t);
    nib_string back = {0};
    nib_ids ids = {0};
    int bad = 0;
    if (BLOCK_STEP > 1) print_message("under a sanitizer: one block of %d\n", BLOCK_STEP);
    for (int block = 0; block < BLOCKS + CODE_BLOCKS; block += BLOCK_STEP) {
        const size_t length = block < BLOCKS ? block_text((uint64_t)block, &list, text)
                                             : code_text((uint32_t)(block - BLOCKS), text);
        ids.count = 0;
        CHECK_OK(nib_tokenizer_encode(t, text, length, false, &ids));
        if (lossless && block >= BLOCKS) {
            back.length = 0;
            CHECK_OK(nib_tokenizer_decode(t, ids.data, ids.count, false, &back));
            CHECK_INT(back.length, length);
            CHECK_BYTES(back.data, text, length);
        }
        const uint64_t got = ids_hash(ids.data, ids.count);
        const uint64_t want = little_endian(wanted.bytes + 8 * (size_t)block, 8);
        if (got != want && bad++ < 10)
            print_error("%s: %s %d: %zu ids with hash %016" PRIx64 ", want %016" PRIx64 "\n",
                        family, block < BLOCKS ? "block" : "code points from 4096 x",
                        block < BLOCKS ? block : block - BLOCKS, ids.count, got, want);
    }
    nib_string_free(&back);
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
    free_golden(&list.file);
    free_golden(&wanted);
    CHECK_INT(bad, 0);
    CHECK_INT(nib_mem_used(NULL), 0);
}

#define FAMILY(name, lossless)                                                                     \
    TEST(name##_encodes_and_decodes_1000_strings_as_the_wheel) {                                   \
        check_strings(state_, #name, lossless);                                                    \
    }                                                                                              \
    TEST(name##_encodes_ten_megabytes_and_all_code_points_as_the_wheel) {                          \
        check_blocks(state_, #name, lossless);                                                     \
    }

/* true: what was encoded comes back byte for byte. So it is where text is spelled as bytes, and
 * nothing is normalized (Qwen 2: NFC) or put in front (Whisper: a space). */
FAMILY(gpt2, true)
FAMILY(opt, true)
FAMILY(whisper, false)
FAMILY(llama3, true)
FAMILY(qwen2, false)
FAMILY(bloom, true)
FAMILY(llama2, false)
FAMILY(tinyllama, false)
FAMILY(mixed, false)

#define BOTH(name)                                                                                 \
    RUNS(name##_encodes_and_decodes_1000_strings_as_the_wheel),                                    \
        RUNS(name##_encodes_ten_megabytes_and_all_code_points_as_the_wheel)

TESTS(BOTH(gpt2), BOTH(opt), BOTH(whisper), BOTH(llama3), BOTH(qwen2), BOTH(bloom), BOTH(llama2),
      BOTH(tinyllama), BOTH(mixed))
