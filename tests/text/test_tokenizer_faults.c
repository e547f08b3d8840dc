/* Every allocation failing once, over load, encode, decode and streaming: one clear error, and
 * nothing left behind. jansson's own allocations fail in turn, too. */
#include <jansson.h>
#include <nibble/io.h>

#include "base/mem.h"
#include "test.h"

static const char *const files[] = {"byte_level",    "split",     "bloom",
                                    "sentencepiece", "metaspace", "affixes"};
static const char text[] = "the caf\u00e9 aa\u0301b  's <s>fox</s> \u4f60 012 the ab";

/* The whole road of one text; results are given back in every case. */
static nib_status road(const char *path) {
    nib_ids ids = {0};
    nib_string back = {0};
    nib_detokenizer *stream = NULL;
    nib_status status = NIB_OK;
    nib_tokenizer *t = nib_tokenizer_load(NULL, path);
    if (!t) return nib_last_error()->status;
    status = nib_tokenizer_encode(t, text, sizeof text - 1, true, &ids);
    if (status == NIB_OK) status = nib_tokenizer_decode(t, ids.data, ids.count, false, &back);
    if (status == NIB_OK) {
        stream = nib_detokenizer_new(t, true);
        if (!stream) status = nib_last_error()->status;
    }
    for (size_t i = 0; i < ids.count && status == NIB_OK; i++)
        status = nib_detokenizer_next(stream, ids.data[i], &back);
    if (status == NIB_OK) status = nib_detokenizer_end(stream, &back);
    nib_detokenizer_free(stream);
    nib_string_free(&back);
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
    return status;
}

TEST(each_allocation_may_fail) {
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char path[256];
        snprintf(path, sizeof path, "tests/fuzz/corpus/tokenizer/%s.json", files[f]);
        CHECK_OK(road(path));
        long failed = 0, n = 0;
        for (;; n++) {
            nib_mem_fail_after(n, false);
            const nib_status status = road(path);
            const long asked = nib_mem_fail_after(-1, false);
            CHECK_INT(nib_mem_used(NULL), 0);
            if (asked <= n) {
                CHECK_INT(status, NIB_OK);
                break;
            }
            /* PCRE2 does without some: those for its faster engine */
            if (status == NIB_OK) continue;
            if (status != NIB_E_MEMORY)
                FAIL_AT("%s, allocation %ld: status %d, %s", path, n, (int)status,
                        nib_last_error()->what);
            failed++;
        }
        print_message("%s: %ld of %ld allocations failed the call\n", files[f], failed, n);
        CHECK(failed > 20 && failed > n / 2);
    }
}

/* jansson 2.14 does not look whether the buffer of its lexer could grow, and overruns it when it
 * could not; that buffer has sizes of powers of two from 32 on, which are let pass here. */
static long left = -1;
static void *failing_malloc(size_t size) {
    const bool lexer = size >= 32 && (size & (size - 1)) == 0;
    return !lexer && left >= 0 && left-- == 0 ? NULL : malloc(size);
}

TEST(each_allocation_of_jansson_may_fail) {
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char path[256];
        snprintf(path, sizeof path, "tests/fuzz/corpus/tokenizer/%s.json", files[f]);
        json_set_alloc_funcs(failing_malloc, free);
        long n = 0;
        for (;; n++) {
            left = n;
            const nib_status status = road(path);
            const bool reached = left < 0;
            left = -1;
            CHECK_INT(nib_mem_used(NULL), 0);
            if (!reached) {
                CHECK_INT(status, NIB_OK);
                break;
            }
            /* it calls a failure within a string a syntax error */
            if (status != NIB_E_MEMORY && status != NIB_E_FORMAT)
                FAIL_AT("%s, allocation %ld: status %d, %s", path, n, (int)status,
                        nib_last_error()->what);
        }
        json_set_alloc_funcs(malloc, free);
        CHECK(n > 100);
    }
}

TESTS(RUNS(each_allocation_may_fail), RUNS(each_allocation_of_jansson_may_fail))
