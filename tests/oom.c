/* Every allocation of whole jobs fails once: the job then either does without or fails with
 * NIB_E_MEMORY and a message, gives everything back, and leaves the folder as it was. */
#include <limits.h>

#include "fault_scenarios.h"

static void loop(void **state_, const scenario *s, long *faults, int *wrongs) {
    TEST_FOLDER_IN_MEMORY(dir);
    prepare(state_, s, dir);
    char *before = test_picture(dir), *whole = NULL;
    uint64_t want = 0;
    size_t used = nib_mem_used(NULL);
    CHECK_OK(s->run(s, dir, &want));
    whole = test_picture(dir);
    test_folder_remove(IN(dir, "out"));
    for (long n = 0, made = LONG_MAX; made > n - FAULT_STEP;
         n += FAULT_STEP) { /* until none was reached */
        uint64_t got = 0;
        nib_mem_fail_after(n, false);
        const nib_status status = s->run(s, dir, &got);
        made = nib_mem_fail_after(-1, false);
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
        if (wrong) {
            print_error("%s %s, allocation %ld (of %ld) %s: status %d (%s), %ld blocks of the "
                        "context and %zd bytes of the "
                        "process are left\n",
                        s->name, s->scheme ? s->scheme : "", n, made, wrong, (int)status,
                        nib_last_error()->what, atomic_load(&blocks_live),
                        (ssize_t)(nib_mem_used(NULL) - used));
            if (++*wrongs == 10) FAIL_AT("and so on");
            atomic_store(&blocks_live, 0);
            used = nib_mem_used(NULL);
        }
        free(after);
        test_folder_remove(IN(dir, "out"));
    }
    free(before);
    free(whole);
    test_folder_remove(dir);
}

TEST(every_allocation_of_every_job_may_fail) {
    static scenario list[MOST_SCENARIOS];
    const size_t count = all_scenarios(list);
    long faults = 0;
    int wrongs = 0;
    for (size_t i = 0; i < count; i++) loop(state_, &list[i], &faults, &wrongs);
    print_message("%zu jobs, %ld failed allocations%s\n", count, faults,
                  FAULT_STEP > 1 ? " (a sample, as this is a sanitizer's build)" : "");
    CHECK_INT(wrongs, 0);
}

TESTS(RUNS(every_allocation_of_every_job_may_fail))
