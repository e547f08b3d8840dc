/* The same for memory that nibble does not ask for itself: every allocation inside jansson, and
 * where the C library's malloc can be replaced (not under a sanitizer) also inside PCRE2 and
 * utf8proc and whatever else calls it. The jobs give back every block of jansson's. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>

#include "fault_scenarios.h"

static atomic_long asked, fail_at = -1, jansson_live;

static bool fails(void) {
    const long at = atomic_load(&fail_at);
    if (at < 0 || atomic_fetch_add(&asked, 1) != at) return false;
    errno = ENOMEM;
    return true;
}

#if defined(__GLIBC__) && !TEST_SANITIZED
#define FOREIGN_MALLOC 1
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
__attribute__((visibility("default"))) void *malloc(size_t size) {
    return fails() ? NULL : __libc_malloc(size);
}
__attribute__((visibility("default"))) void *calloc(size_t count, size_t size) {
    return fails() ? NULL : __libc_calloc(count, size);
}
__attribute__((visibility("default"))) void *realloc(void *block, size_t size) {
    return fails() ? NULL : __libc_realloc(block, size);
}
#else
#define FOREIGN_MALLOC 0
#endif

/* jansson 2.14 does not look whether the buffer of its lexer could grow: a token loses its end, or
 * an assert of its own fails. Nothing above it can help that, so blocks of the sizes which that
 * buffer takes, 32, 64, 128..., are never refused. */
static void *jansson_alloc(size_t size) {
    const bool may_be_buffer = size >= 32 && (size & (size - 1)) == 0;
    const long at = atomic_load(&fail_at);
    if (may_be_buffer) atomic_store(&fail_at, -1);
    if (!FOREIGN_MALLOC && fails()) return NULL; /* else malloc counts it */
    void *block = malloc(size);
    if (may_be_buffer) atomic_store(&fail_at, at);
    if (block) atomic_fetch_add(&jansson_live, 1);
    return block;
}
static void jansson_free(void *block) {
    if (block) atomic_fetch_sub(&jansson_live, 1);
    free(block);
}

static void loop(void **state_, const scenario *s, long *faults, int *wrongs) {
    TEST_FOLDER_IN_MEMORY(dir);
    prepare(state_, s, dir);
    char *before = test_picture(dir), *whole = NULL;
    uint64_t want = 0;
    size_t used = nib_mem_used(NULL);
    CHECK_OK(s->run(s, dir, &want));
    whole = test_picture(dir);
    test_folder_remove(IN(dir, "out"));
    for (long n = 0, made = LONG_MAX; made > n - FAULT_STEP; n += FAULT_STEP) {
        uint64_t got = 0;
        atomic_store(&asked, 0);
        atomic_store(&fail_at, n);
        const nib_status status = s->run(s, dir, &got);
        atomic_store(&fail_at, -1);
        made = atomic_load(&asked);
        *faults += made > n;
        char *after = test_picture(dir);
        const bool as_before = strcmp(after, before) == 0, as_whole = strcmp(after, whole) == 0;
        const char *wrong = NULL;
        if (status < NIB_OK && (status != NIB_E_MEMORY || !nib_last_error()->what[0]))
            wrong = "fails otherwise";
        else if (status < NIB_OK && !as_before)
            wrong = "leaves something behind";
        else if (status >= NIB_OK && (got != want || !as_whole))
            wrong = "succeeds with another result";
        else if (nib_mem_used(NULL) != used || atomic_load(&blocks_live))
            wrong = "leaks";
        else if (atomic_load(&jansson_live))
            wrong = "leaks a document";
        if (wrong) {
            print_error("%s %s, allocation %ld (of %ld) %s: status %d (%s), %ld and %ld blocks\n",
                        s->name, s->scheme ? s->scheme : "", n, made, wrong, (int)status,
                        nib_last_error()->what, atomic_load(&blocks_live),
                        atomic_load(&jansson_live));
            if (++*wrongs == 20) FAIL_AT("and so on");
            atomic_store(&blocks_live, 0);
            atomic_store(&jansson_live, 0);
            used = nib_mem_used(NULL);
        }
        free(after);
        test_folder_remove(IN(dir, "out"));
    }
    free(before);
    free(whole);
    test_folder_remove(dir);
}

/* Of schemes that make the same documents one is enough. */
static bool tells_more(const char *scheme) {
    static const char *const same[] = {
        "int4_weight_only:group_size=32",
        "intx_weight_only:bits=3",
        "intx_weight_only:bits=4,granularity=group,group_size=32,algo=hqq",
        "float8_weight_only",
        "qint8",
        "qint4",
        "qfloat8"};
    for (size_t i = 0; scheme && i < sizeof same / sizeof *same; i++)
        if (strcmp(scheme, same[i]) == 0) return false;
    return true;
}

TEST(every_allocation_of_a_library_below_may_fail) {
    static scenario list[MOST_SCENARIOS];
    scenario_threads = 1; /* the C library keeps the stacks of threads */
    json_set_alloc_funcs(jansson_alloc, jansson_free);
    json_object_seed(7);
    const size_t count = all_scenarios(list);
    long faults = 0;
    int wrongs = 0;
    size_t jobs = 0;
    for (size_t i = 0; i < count; i++) {
        if (!tells_more(list[i].scheme)) continue;
        loop(state_, &list[i], &faults, &wrongs);
        jobs++;
    }
    print_message("%zu jobs, %ld failed allocations%s%s\n", jobs, faults,
                  FOREIGN_MALLOC ? "" : " (jansson's only)",
                  FAULT_STEP > 1 ? " (a sample, as this is a sanitizer's build)" : "");
    CHECK_INT(wrongs, 0);
}

TESTS(RUNS(every_allocation_of_a_library_below_may_fail))
