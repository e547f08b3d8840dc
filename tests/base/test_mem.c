#include "base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/sys.h"
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

/* ---- large results; a sanitizer has nothing kept, to see each block come and go ---- */

enum { MIB = 1 << 20 };
#define KEEPS_OR_RETURN(mem)                                                                       \
    nib_mem_keep(mem);                                                                             \
    if (TEST_SANITIZED) {                                                                          \
        CHECK(!(mem)->shelf);                                                                      \
        return;                                                                                    \
    }

/* The most that may be kept, by the words of the header. */
static size_t bound(const nib_mem *mem, size_t live, size_t most) {
    const size_t used = nib_mem_used(mem), peak = nib_mem_peak(mem);
    const size_t results = most + most / 8 - live, whole = peak + most / 8 - used;
    return results < whole ? results : whole;
}

TEST(a_second_round_of_results_gets_the_pages_of_the_first) {
    static const size_t size[] = {3 * MIB, 200 << 10, MIB + 5, 3 * MIB};
    nib_mem mem = {0};
    KEEPS_OR_RETURN(&mem)
    for (int round = 0; round < 3; round++) {
        unsigned char *block[4];
        nib_sys_fail_after(-1, 0);
        for (int i = 0; i < 4; i++) {
            block[i] = nib_mem_alloc_result(&mem, size[i]);
            CHECK(block[i] && (uintptr_t)block[i] % NIB_MEM_ALIGN == 0);
            for (int before = 0; before < i; before++)
                CHECK(block[before] >= block[i] + size[i] ||
                      block[i] >= block[before] + size[before]);
            memset(block[i], i, size[i]);
        }
        if (round) CHECK_INT(nib_mem_kept(&mem), 0);
        for (int i = 0; i < 4; i++) {
            for (size_t b = 0; b < size[i]; b += 1000) CHECK_INT(block[i][b], i);
            nib_mem_free_result(&mem, block[i], size[i]);
        }
        const long calls = nib_sys_fail_after(-1, 0); /* maps, and nothing given back */
        CHECK(round ? calls == 0 : calls == 4);
        CHECK_INT(nib_mem_used(&mem), 0);
        CHECK(nib_mem_kept(&mem) >= 7 * MIB + (200 << 10) + 5 && nib_mem_kept(&mem) < 8 * MIB);
    }
    nib_mem_trim(&mem);
    CHECK_INT(nib_mem_kept(&mem), 0);
    nib_mem_keep_end(&mem);
}

TEST(what_is_kept_stays_within_its_bound) {
    enum { BLOCKS = 24, KINDS = 3 };
    nib_mem mem = {0};
    KEEPS_OR_RETURN(&mem)
    void *block[BLOCKS] = {NULL};
    size_t size[BLOCKS] = {0}, live = 0, most = 0;
    int kind[BLOCKS] = {0};
    uint64_t seed = test_seed();
    bool kept_some = false;
    for (int i = 0; i < 20000; i++) {
        const int k = (int)(test_random(&seed) % BLOCKS);
        if (block[k]) {
            (kind[k] ? nib_mem_free : nib_mem_free_result)(&mem, block[k], size[k]);
            if (!kind[k]) live -= size[k];
            block[k] = NULL;
        } else {
            size[k] = (5 + test_random(&seed) % 60) * ((size_t)64 << 10); /* whole pages */
            kind[k] = (int)(test_random(&seed) % KINDS);
            block[k] = !kind[k]       ? nib_mem_alloc_result(&mem, size[k])
                       : kind[k] == 1 ? nib_mem_alloc(&mem, size[k])
                                      : nib_mem_alloc_brief(&mem, size[k]);
            CHECK(block[k]);
            if (!kind[k]) live += size[k];
        }
        if (live > most) most = live;
        CHECK(nib_mem_kept(&mem) <= bound(&mem, live, most));
        kept_some |= nib_mem_kept(&mem) > most / 2;
    }
    CHECK(kept_some);
    for (int k = 0; k < BLOCKS; k++)
        if (block[k]) (kind[k] ? nib_mem_free : nib_mem_free_result)(&mem, block[k], size[k]);
    CHECK_INT(nib_mem_used(&mem), 0);
    nib_mem_keep_end(&mem);
}

TEST(what_is_kept_makes_room_for_others_and_below_the_limit) {
    nib_mem mem = {.limit = 20 * MIB};
    KEEPS_OR_RETURN(&mem)
    void *result = nib_mem_alloc_result(&mem, 16 * MIB);
    CHECK(result);
    nib_mem_free_result(&mem, result, 16 * MIB);
    CHECK_INT(nib_mem_kept(&mem), 16 * MIB);
    void *weight = nib_mem_alloc(&mem, 10 * MIB); /* the peak is 16 */
    CHECK(weight);
    CHECK_INT(nib_mem_kept(&mem), 6 * MIB);
    void *soon_gone = nib_mem_alloc_brief(&mem, 3 * MIB); /* an eighth of 16 is 2 */
    CHECK(soon_gone);
    CHECK_INT(nib_mem_kept(&mem), 5 * MIB);
    nib_mem_free(&mem, soon_gone, 3 * MIB);
    void *more = nib_mem_alloc_brief(&mem, 9 * MIB);
    CHECK(more);
    CHECK_INT(nib_mem_kept(&mem), MIB);
    CHECK(!nib_mem_alloc(&mem, 2 * MIB)); /* the limit is that of what is in use */
    CHECK_INT(nib_mem_peak(&mem), 19 * MIB);
    nib_mem_free(&mem, weight, 10 * MIB);
    nib_mem_free(&mem, more, 9 * MIB);
    nib_mem_keep_end(&mem);
}

/* A system that has 24 MiB, and says so when more is asked for. */
static size_t mapped;
static void *map_of_few(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    if (mapped + size > 24 * MIB) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    mapped += size;
    return mmap(at, size, protection, flags, fd, offset);
}
static int unmap_of_few(void *at, size_t size) {
    mapped -= size;
    return munmap(at, size);
}

TEST(where_the_system_has_none_left_what_is_kept_goes_back_first) {
    nib_mem mem = {0};
    KEEPS_OR_RETURN(&mem)
    nib_sys few = nib_sys_real;
    few.mmap = map_of_few;
    few.munmap = unmap_of_few;
    nib_sys_use(&few);
    mapped = 0;
    void *a = nib_mem_alloc_result(&mem, 10 * MIB), *b = nib_mem_alloc_result(&mem, 10 * MIB);
    CHECK(a && b && !nib_mem_alloc_result(&mem, 10 * MIB));
    CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
    CHECK_INT(nib_mem_used(&mem), 20 * MIB);
    nib_mem_free_result(&mem, a, 10 * MIB);
    CHECK_INT(nib_mem_kept(&mem), 10 * MIB);
    void *c = nib_mem_alloc_result(&mem, 13 * MIB);
    CHECK(c);
    CHECK_INT(mapped, 23 * MIB);
    nib_mem_fail_after(0, false); /* also one that what is kept would serve */
    nib_mem_free_result(&mem, b, 10 * MIB);
    CHECK(!nib_mem_alloc_result(&mem, MIB));
    nib_mem_fail_after(-1, false);
    nib_mem_free_result(&mem, c, 13 * MIB);
    nib_mem_keep_end(&mem);
    CHECK_INT(mapped, 0);
    nib_sys_use(NULL);
}

TEST(what_results_once_had_is_forgotten) {
    nib_mem mem = {0};
    KEEPS_OR_RETURN(&mem)
    void *large = nib_mem_alloc_result(&mem, 16 * MIB);
    CHECK(large);
    nib_mem_free_result(&mem, large, 16 * MIB);
    for (int i = 0; i < 1 << 16; i++) {
        void *small = nib_mem_alloc(&mem, 64), *result = nib_mem_alloc_result(&mem, MIB);
        CHECK(small && result);
        nib_mem_free(&mem, small, 64);
        nib_mem_free_result(&mem, result, MIB);
        if (i == 1 << 14) CHECK_INT(nib_mem_kept(&mem), 16 * MIB);
    }
    CHECK(nib_mem_kept(&mem) >= MIB && nib_mem_kept(&mem) <= MIB + MIB / 8);
    for (int i = 0; i < 1 << 17; i++) {
        void *small = nib_mem_alloc(&mem, 64);
        CHECK(small);
        nib_mem_free(&mem, small, 64);
    }
    CHECK_INT(nib_mem_kept(&mem), 0);
    nib_mem_keep_end(&mem);
}

static void *own_alloc(void *user, size_t size, size_t align) {
    *(size_t *)user += size;
    return aligned_alloc(align, (size + align - 1) & ~(align - 1));
}
static void own_dealloc(void *user, void *ptr, size_t size) {
    *(size_t *)user -= size;
    free(ptr);
}

TEST(results_of_a_caller_s_allocator_go_back_to_it) {
    size_t out = 0;
    nib_mem mem = {.user = &out, .alloc = own_alloc, .dealloc = own_dealloc};
    nib_mem_keep(&mem);
    void *result = nib_mem_alloc_result(&mem, MIB);
    CHECK(result && out == MIB);
    nib_mem_free_result(&mem, result, MIB);
    CHECK(out == 0 && nib_mem_kept(&mem) == 0);
    nib_mem_keep_end(&mem);
    result = nib_mem_alloc_result(NULL, MIB);
    CHECK(result);
    nib_mem_free_result(NULL, result, MIB);
    nib_mem_free_result(NULL, NULL, 0);
}

TEST(a_product_that_overflows_is_refused) {
    CHECK(!nib_mem_alloc_array(NULL, SIZE_MAX / 2, 3));
    CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
}

TESTS(RUNS(the_account_goes_back_to_zero_and_keeps_the_peak), RUNS(a_limit_is_kept_and_said),
      RUNS(kept_blocks_are_whole_and_counted_as_given_back), RUNS(threads_share_what_is_kept),
      RUNS(a_second_round_of_results_gets_the_pages_of_the_first),
      RUNS(what_is_kept_stays_within_its_bound),
      RUNS(what_is_kept_makes_room_for_others_and_below_the_limit),
      RUNS(where_the_system_has_none_left_what_is_kept_goes_back_first),
      RUNS(what_results_once_had_is_forgotten), RUNS(results_of_a_caller_s_allocator_go_back_to_it),
      RUNS(the_nth_allocation_can_be_made_to_fail), RUNS(a_product_that_overflows_is_refused))
