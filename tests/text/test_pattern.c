/* Patterns in Oniguruma's syntax match what they match in the `tokenizers` wheel: 1,000 strings and
 * all code points for each pattern of tests/golden/tokenizer/patterns.py. */
#include "text/pattern.h"

#include "text/golden_text.h"
#include "text/unicode_property.h"

/* The ends of the pieces that the matches of `pattern` cut text into, hashed. */
static uint64_t hash_pieces(const nib_pattern *pattern, nib_matcher *matcher, const char *text,
                            size_t length, uint64_t h, nib_status *status) {
    nib_match match = {0};
    int32_t end;
    size_t done = 0;
    while ((*status = nib_pattern_next(pattern, matcher, text, length, &match)) == NIB_OK) {
        const size_t ends[] = {match.start, match.end};
        for (int i = 0; i < 2; i++) {
            if (ends[i] == done) continue;
            done = ends[i];
            end = (int32_t)done;
            h = fnv(h,
                    (unsigned char[]){(unsigned char)end, (unsigned char)(end >> 8),
                                      (unsigned char)(end >> 16), (unsigned char)(end >> 24)},
                    4);
        }
    }
    if (done < length) {
        end = (int32_t)length;
        h = fnv(h,
                (unsigned char[]){(unsigned char)end, (unsigned char)(end >> 8),
                                  (unsigned char)(end >> 16), (unsigned char)(end >> 24)},
                4);
    }
    return fnv(h, "\xff\xff\xff\xff", 4);
}

TEST(patterns_cut_as_in_the_wheel) {
    golden strings = read_golden("strings.bin"), patterns = read_golden("patterns.bin");
    nib_matcher *matcher = nib_matcher_new(NULL);
    CHECK_MADE(matcher);
    static char codes[4096 * 4];
    int bad = 0, count = 0;
    for (size_t at = 0; at < patterns.size; count++) {
        const size_t n = (size_t)little_endian(patterns.bytes + at, 4);
        const char *regex = (const char *)patterns.bytes + at + 4;
        const uint64_t want = little_endian(patterns.bytes + at + 4 + n, 8);
        at += 4 + n + 8;
        nib_pattern *pattern = nib_pattern_regex(NULL, regex, n);
        if (!pattern) {
            print_error("%.*s: %s\n", (int)n, regex, nib_last_error()->what);
            bad++;
            continue;
        }
        uint64_t h = FNV_START;
        nib_status status = NIB_END;
        for (size_t s = 0; s < strings.size && status == NIB_END;) {
            const size_t length = (size_t)little_endian(strings.bytes + s, 4);
            h = hash_pieces(pattern, matcher, (const char *)strings.bytes + s + 4, length, h,
                            &status);
            s += 4 + length;
        }
        for (uint32_t block = 0; block < CODE_BLOCKS && status == NIB_END; block++) {
            size_t length = 0;
            for (uint32_t c = block * 4096; c < (block + 1) * 4096; c++)
                if (c < 0xd800 || c >= 0xe000) length += put_code(codes + length, c);
            h = hash_pieces(pattern, matcher, codes, length, h, &status);
        }
        if (status != NIB_END) print_error("%.*s: %s\n", (int)n, regex, nib_last_error()->what);
        if (h != want) print_error("%.*s: cuts otherwise than the wheel\n", (int)n, regex);
        bad += h != want;
        nib_pattern_free(pattern);
    }
    nib_matcher_free(matcher);
    free_golden(&patterns);
    free_golden(&strings);
    CHECK(count > 100);
    CHECK_INT(bad, 0);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TEST(strings_to_look_for_are_no_expressions) {
    nib_pattern *pattern = nib_pattern_string(NULL, ".a", 2);
    nib_matcher *matcher = nib_matcher_new(NULL);
    CHECK_MADE(pattern);
    CHECK_MADE(matcher);
    nib_match match = {0};
    CHECK_INT(nib_pattern_next(pattern, matcher, "xa.a.a\0.a", 9, &match), NIB_OK);
    CHECK_INT(match.start, 2);
    CHECK_INT(nib_pattern_next(pattern, matcher, "xa.a.a\0.a", 9, &match), NIB_OK);
    CHECK_INT(match.start, 4);
    CHECK_INT(nib_pattern_next(pattern, matcher, "xa.a.a\0.a", 9, &match), NIB_OK);
    CHECK_INT(match.start, 7);
    CHECK_INT(nib_pattern_next(pattern, matcher, "xa.a.a\0.a", 9, &match), NIB_END);
    nib_matcher_free(matcher);
    nib_pattern_free(pattern);
    CHECK(!nib_pattern_string(NULL, "", 0));
}

TESTS(RUNS(patterns_cut_as_in_the_wheel), RUNS(strings_to_look_for_are_no_expressions))
