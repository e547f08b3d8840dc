#include "base/mem.h"

#include <pthread.h>

#include "base/error.h"
#include "test.h"

TEST(the_account_goes_back_to_zero_and_keeps_the_peak) {
    nib_mem mem = {0};
    void *a = nib_mem_alloc(&mem, 100), *b = nib_mem_alloc_zero(&mem, 28);
    CHECK(a && b && ((uintptr_t)a % NIB_MEM_ALIGN) == 0);
    CHECK_INT(nib_mem_used(&mem), 128);
    nib_mem_free(&mem, a, 100);
    nib_mem_free(&mem, b, 28);
    CHECK_INT(nib_mem_used(&mem), 0);
    CHECK_INT(nib_mem_peak(&mem), 128);
}

TEST(a_limit_is_kept_and_said) {
    nib_mem mem = {.limit = 64};
    void *a = nib_mem_alloc(&mem, 60);
    CHECK(a && !nib_mem_alloc(&mem, 5));
    CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
    CHECK_INT(nib_mem_used(&mem), 60);
    nib_mem_free(&mem, a, 60);
}

TEST(the_nth_allocation_can_be_made_to_fail) {
    nib_mem mem = {0};
    nib_mem_fail_after(1, false);
    void *a = nib_mem_alloc(&mem, 8), *b = nib_mem_alloc(&mem, 8), *c = nib_mem_alloc(&mem, 8);
    CHECK(a && !b && c);
    CHECK_INT(nib_mem_fail_after(-1, false), 3);
    nib_mem_free(&mem, a, 8);
    nib_mem_free(&mem, c, 8);
}

/* Blocks of all sizes around the classes, handed out in a random order again and again, each full
 * of a byte of its own: none may overlap another, be too small, or be lost to the account. */
TEST(kept_blocks_are_whole_and_counted_as_given_back) {
    enum { BLOCKS = 200 };
    nib_mem mem = {0};
    unsigned char *block[BLOCKS] = {NULL};
    size_t size[BLOCKS] = {0}, used = 0;
    uint64_t seed = test_seed();
    nib_mem_keep(&mem);
    for (int i = 0; i < 20000; i++) {
        const int k = (int)(test_random(&seed) % BLOCKS);
        if (block[k]) {
            for (size_t b = 0; b < size[k]; b++) CHECK_INT(block[k][b], k);
            nib_mem_free(&mem, block[k], size[k]);
            used -= size[k];
            block[k] = NULL;
        } else {
            const size_t edge = (size_t)64 << test_random(&seed) % 10;
            size[k] = edge + test_random(&seed) % 3 - 1;
            block[k] = nib_mem_alloc(&mem, size[k]);
            CHECK(block[k] && (uintptr_t)block[k] % NIB_MEM_ALIGN == 0);
            memset(block[k], k, size[k]);
            used += size[k];
        }
        CHECK_INT(nib_mem_used(&mem), used);
    }
    for (int k = 0; k < BLOCKS; k++)
        if (block[k]) nib_mem_free(&mem, block[k], size[k]);
    void *nothing = nib_mem_alloc(&mem, 0), *zeros = nib_mem_alloc_zero(&mem, 64);
    CHECK(nothing && zeros && memcmp(zeros, (const char[64]){0}, 64) == 0);
    nib_mem_free(&mem, nothing, 0);
    nib_mem_free(&mem, zeros, 64);
    CHECK_INT(nib_mem_used(&mem), 0);
    nib_mem_keep_end(&mem);
    void *plain = nib_mem_alloc(&mem, 64);
    CHECK(plain);
    nib_mem_free(&mem, plain, 64);
}

typedef struct churn {
    nib_mem *mem;
    bool whole;
} churn;

static void *take_and_give(void *user) {
    churn *c = user;
    for (int i = 0; i < 20000; i++) {
        unsigned char *a = nib_mem_alloc(c->mem, 100), *b = nib_mem_alloc(c->mem, 100);
        if (!a || !b) return NULL;
        memset(a, i, 100);
        memset(b, i + 1, 100);
        c->whole &= a[99] == (unsigned char)i && b[0] == (unsigned char)(i + 1);
        nib_mem_free(c->mem, a, 100);
        nib_mem_free(c->mem, b, 100);
    }
    return NULL;
}

TEST(threads_share_what_is_kept) {
    enum { THREADS = 4 };
    nib_mem mem = {0};
    pthread_t thread[THREADS];
    churn c[THREADS];
    nib_mem_keep(&mem);
    for (int i = 0; i < THREADS; i++) {
        c[i] = (churn){&mem, true};
        CHECK_INT(pthread_create(&thread[i], NULL, take_and_give, &c[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        CHECK(c[i].whole);
    }
    CHECK_INT(nib_mem_used(&mem), 0);
    nib_mem_keep_end(&mem);
}

TEST(a_product_that_overflows_is_refused) {
    CHECK(!nib_mem_alloc_array(NULL, SIZE_MAX / 2, 3));
    CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
}

TESTS(RUNS(the_account_goes_back_to_zero_and_keeps_the_peak), RUNS(a_limit_is_kept_and_said),
      RUNS(kept_blocks_are_whole_and_counted_as_given_back), RUNS(threads_share_what_is_kept),
      RUNS(the_nth_allocation_can_be_made_to_fail), RUNS(a_product_that_overflows_is_refused))
