/* What holds for every tokenizer: results grow, failures leave them alone, threads may share. */
#include <nibble/io.h>
#include <pthread.h>

#include "base/mem.h"
#include "test_files.h"
#include "text/golden_text.h"

TEST(calls_append_and_a_failed_one_leaves_what_was_there) {
    nib_tokenizer *t = nib_tokenizer_load(NULL, GOLDEN "llama3.json");
    CHECK_MADE(t);
    nib_ids ids = {0};
    nib_string text = {0};
    CHECK_OK(nib_tokenizer_encode(t, "one", 3, true, &ids));
    CHECK_OK(nib_tokenizer_encode(t, " two", 4, false, &ids));
    const size_t count = ids.count;
    CHECK_FAILS(nib_tokenizer_encode(t, "three \xff", 7, true, &ids), NIB_E_FORMAT, "UTF-8");
    CHECK_INT(ids.count, count);
    CHECK_OK(nib_tokenizer_decode(t, ids.data, 0, true, &text));
    CHECK_TEXT(text.data, "");
    CHECK_OK(nib_tokenizer_decode(t, ids.data, ids.count, true, &text));
    CHECK_OK(nib_tokenizer_decode(t, ids.data + 1, 1, true, &text));
    CHECK(!strncmp(text.data, "one twoo", 8));
    CHECK_OK(nib_tokenizer_encode(t, NULL, 0, false, &ids));
    CHECK_INT(ids.count, count);
    CHECK_FAILS(nib_tokenizer_encode(t, NULL, 1, false, &ids), NIB_E_ARGUMENT, "text");
    CHECK_FAILS(nib_tokenizer_encode(t, "a", 1, false, NULL), NIB_E_ARGUMENT, "result");
    nib_string_free(&text);
    nib_ids_free(&ids);
    nib_tokenizer_free(t);
    nib_tokenizer_free(NULL);
    nib_detokenizer_free(NULL);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TEST(a_missing_tokenizer_passes_its_cause_on) {
    nib_ids ids = {0};
    nib_tokenizer *t = nib_tokenizer_load(NULL, "no-such-folder/tokenizer.json");
    CHECK(!t);
    CHECK_INT(nib_tokenizer_encode(t, "a", 1, true, &ids), NIB_E_IO);
    CHECK(!nib_detokenizer_new(t, true));
    CHECK(strstr(nib_last_error()->path, "no-such-folder") != NULL);
}

TEST(a_folder_tells_its_special_tokens) {
    static const char *const configs[] = {
        "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},\"pad_token\":null}",
        "{\"bos_token\":7}",
        "[",
    };
    TEST_FOLDER(folder);
    size_t size = 0;
    char *json = test_read(GOLDEN "opt.json", &size);
    CHECK_MADE(json);
    test_write(IN(folder, "tokenizer.json"), json, size);
    free(json);
    nib_tokenizer *t = nib_tokenizer_load(NULL, folder);
    CHECK_MADE(t);
    CHECK_INT(nib_tokenizer_special(t, "bos"), -1);
    nib_tokenizer_free(t);
    test_write(IN(folder, "tokenizer_config.json"), configs[0], strlen(configs[0]));
    t = nib_tokenizer_load(NULL, folder);
    CHECK_MADE(t);
    CHECK_INT(nib_tokenizer_special(t, "bos"), 0);
    CHECK_INT(nib_tokenizer_special(t, "eos"), 2);
    CHECK_INT(nib_tokenizer_special(t, "pad"), -1);
    CHECK_INT(nib_tokenizer_special(t, "sep"), -1);
    nib_tokenizer_free(t);
    for (int i = 1; i < 3; i++) {
        test_write(IN(folder, "tokenizer_config.json"), configs[i], strlen(configs[i]));
        CHECK(!nib_tokenizer_load(NULL, folder));
        CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
        CHECK(strstr(nib_last_error()->path, "tokenizer_config.json") != NULL);
    }
    test_folder_remove(folder);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TEST(a_long_text_leaves_no_large_work_space_behind) {
    if (TEST_WATCHES_THREADS) { /* one thread, minutes, and about memory */
        print_message("skipped under the thread sanitizer\n");
        return;
    }
    nib_tokenizer *t = nib_tokenizer_load(NULL, GOLDEN "llama2.json");
    CHECK_MADE(t);
    const size_t loaded = nib_mem_used(NULL), length = 2000000;
    char *text = malloc(length);
    CHECK_MADE(text);
    for (size_t i = 0; i < length; i++) text[i] = "a word and another one. "[i % 24];
    nib_ids ids = {0};
    CHECK_OK(nib_tokenizer_encode(t, text, length, false, &ids));
    CHECK(ids.count > 100000);
    nib_ids_free(&ids);
    CHECK(nib_mem_used(NULL) < loaded + (5 << 20));
    free(text);
    nib_tokenizer_free(t);
    CHECK_INT(nib_mem_used(NULL), 0);
}

enum { THREADS = 4, ROUNDS = 8 };
typedef struct worker {
    const nib_tokenizer *tokenizer;
    const word_list *words;
    uint64_t hash;
    bool failed;
} worker;

static void *encode_blocks(void *self) {
    worker *w = self;
    static _Thread_local char text[BLOCK_BYTES];
    nib_ids ids = {0};
    nib_string back = {0};
    for (uint64_t block = 0; block < ROUNDS; block++) {
        const size_t length = block_text(block, w->words, text);
        w->failed |= nib_tokenizer_encode(w->tokenizer, text, length, true, &ids) < NIB_OK;
        back.length = 0;
        w->failed |= nib_tokenizer_decode(w->tokenizer, ids.data, ids.count, true, &back) < NIB_OK;
    }
    w->hash = ids_hash(ids.data, ids.count);
    nib_string_free(&back);
    nib_ids_free(&ids);
    return NULL;
}

TEST(threads_share_a_tokenizer_and_get_the_same_ids) {
    static word_list words;
    read_words(&words);
    nib_tokenizer *t = nib_tokenizer_load(NULL, GOLDEN "llama3.json");
    CHECK_MADE(t);
    worker alone = {.tokenizer = t, .words = &words}, all[THREADS];
    pthread_t threads[THREADS];
    encode_blocks(&alone);
    for (int i = 0; i < THREADS; i++) {
        all[i] = (worker){.tokenizer = t, .words = &words};
        CHECK_INT(pthread_create(&threads[i], NULL, encode_blocks, &all[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) CHECK_INT(pthread_join(threads[i], NULL), 0);
    CHECK(!alone.failed);
    for (int i = 0; i < THREADS; i++) CHECK(!all[i].failed && all[i].hash == alone.hash);
    nib_tokenizer_free(t);
    free_golden(&words.file);
    CHECK_INT(nib_mem_used(NULL), 0);
}

TESTS(RUNS(calls_append_and_a_failed_one_leaves_what_was_there),
      RUNS(a_missing_tokenizer_passes_its_cause_on), RUNS(a_folder_tells_its_special_tokens),
      RUNS(a_long_text_leaves_no_large_work_space_behind),
      RUNS(threads_share_a_tokenizer_and_get_the_same_ids))
