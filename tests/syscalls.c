/* Every system call of whole jobs fails once, for several reasons: the job then either does without
 * or fails with the reason on record, gives everything back (memory, descriptors, maps), and the
 * folder holds what it held, or the whole new output. An interrupted call is only made again. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <sys/mman.h>

#include "base/sys.h"
#include "fault_scenarios.h"

/* ---- maps are counted by a table of calls in the place of the system's ---- */
static atomic_long maps_live;
static void *counted_map(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    void *map = mmap(at, size, protection, flags, fd, offset);
    if (map != MAP_FAILED) atomic_fetch_add(&maps_live, 1);
    return map;
}
static int counted_unmap(void *at, size_t size) {
    atomic_fetch_sub(&maps_live, 1);
    return munmap(at, size);
}

static int open_files(void) {
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir) return 0;
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

static nib_status status_of(int reason) {
    return reason == ENOSPC ? NIB_E_FULL : reason == ENOMEM ? NIB_E_MEMORY : NIB_E_IO;
}

typedef struct state {
    char *before, *whole;
    uint64_t want;
    size_t used;
    int files;
} state;

/* What is wrong after one fault, or NULL. */
static const char *judge(const scenario *s, const char *dir, const state *was, int reason,
                         nib_status status, uint64_t got) {
    char *after = test_picture(dir);
    const bool as_before = strcmp(after, was->before) == 0,
               as_whole = strcmp(after, was->whole) == 0;
    free(after);
    const nib_error *e = nib_last_error();
    if (open_files() != was->files) return "leaves a file open";
    if (atomic_load(&maps_live)) return "leaves a file mapped";
    if (nib_mem_used(NULL) != was->used || atomic_load(&blocks_live)) return "leaks memory";
    if (status >= NIB_OK)
        return got == was->want && as_whole ? NULL : "succeeds with another result";
    if (reason == EINTR) return "fails where it should ask again";
    if (status != status_of(reason) || e->os_errno != reason || !e->what[0])
        return "fails with another cause";
    /* All is there but the folder could not be synced, or a leftover not be removed: which is said.
     */
    const bool told = strstr(e->what, "sync") || strstr(e->what, "could not be removed");
    return as_before || (s->writes && told) ? NULL : "leaves something behind";
}

static void loop(void **state_, const scenario *s, int reason, long *faults, int *wrongs) {
    TEST_FOLDER_IN_MEMORY(dir);
    prepare(state_, s, dir);
    state was = {.before = test_picture(dir)};
    CHECK_OK(s->run(s, dir, &was.want));
    was.whole = test_picture(dir);
    was.used = nib_mem_used(NULL);
    was.files = open_files();
    test_folder_remove(IN(dir, "out"));
    for (long n = 0, made = LONG_MAX; made > n - FAULT_STEP;
         n += FAULT_STEP) { /* until none was reached */
        uint64_t got = 0;
        nib_sys_fail_after(n, reason);
        const nib_status status = s->run(s, dir, &got);
        made = nib_sys_fail_after(-1, 0);
        *faults += made > n;
        const char *wrong = judge(s, dir, &was, reason, status, got);
        if (wrong) {
            char *after = test_picture(dir);
            print_error("%s %s, %s in call %ld (of %ld) %s: status %d, errno %d (%s), the folder "
                        "holds\n%s\n",
                        s->name, s->scheme ? s->scheme : "", strerror(reason), n, made, wrong,
                        (int)status, nib_last_error()->os_errno, nib_last_error()->what, after);
            free(after);
            if (++*wrongs == 10) FAIL_AT("and so on");
        }
        test_folder_remove(IN(dir, "out"));
        test_folder_remove(IN(dir, "out.partial"));
    }
    free(was.before);
    free(was.whole);
    test_folder_remove(dir);
}

TEST(every_system_call_of_every_job_may_fail) {
    static const int reasons[] = {EIO, ENOSPC, EINTR};
    static scenario list[MOST_SCENARIOS];
    nib_sys counted = nib_sys_real;
    counted.mmap = counted_map;
    counted.munmap = counted_unmap;
    const nib_sys *left = nib_sys_use(&counted);
    const size_t count = all_scenarios(list);
    long faults = 0;
    int wrongs = 0;
    for (size_t i = 0; i < count; i++)
        for (int r = 0; r < 3; r++) loop(state_, &list[i], reasons[r], &faults, &wrongs);
    nib_sys_use(left);
    print_message("%zu jobs, %ld failed system calls%s\n", count, faults,
                  FAULT_STEP > 1 ? " (a sample, as this is a sanitizer's build)" : "");
    CHECK_INT(wrongs, 0);
}

TESTS(RUNS(every_system_call_of_every_job_may_fail))
