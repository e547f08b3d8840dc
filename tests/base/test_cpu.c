#include "base/cpu.h"

#include <sched.h>

#include "test.h"

TEST(a_level_keeps_itself_and_those_before_it) {
    uint32_t ref, all;
    CHECK_OK(nib_cpu_parse("ref", &ref));
    CHECK_INT(ref, 0);
    CHECK_OK(nib_cpu_parse(NULL, &all));
    CHECK_INT(nib_cpu_features() & all, nib_cpu_features());
    CHECK_OK(nib_cpu_parse("", &all));
    CHECK_INT(all, UINT32_MAX);
#if defined(__x86_64__)
    uint32_t avx2, avx512;
    CHECK_OK(nib_cpu_parse("avx2", &avx2));
    CHECK_INT(avx2, NIB_CPU_AVX2);
    CHECK_OK(nib_cpu_parse("avx512", &avx512));
    CHECK((avx512 & NIB_CPU_AVX2) && (avx512 & NIB_CPU_AVX512));
    CHECK(!(avx512 & NIB_CPU_AVX512BF16));
#endif
}

TEST(an_unknown_level_is_named_with_the_known_ones) {
    uint32_t mask;
    CHECK_FAILS(nib_cpu_parse("avx3", &mask), NIB_E_ARGUMENT, "\"avx3\"");
    CHECK_FAILS(nib_cpu_parse("avx3", &mask), NIB_E_ARGUMENT, "known here: ref");
}

TEST(the_name_of_a_level_parses_to_its_features) {
    CHECK_TEXT(nib_cpu_level(0), "ref");
    uint32_t mask;
    CHECK_OK(nib_cpu_parse(nib_cpu_level(nib_cpu_features()), &mask));
    CHECK_TEXT(nib_cpu_level(nib_cpu_features() & mask), nib_cpu_level(nib_cpu_features()));
}

static cpu_set_t set_of(int a, int b) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)a, &set);
    CPU_SET((size_t)b, &set);
    return set;
}

TEST(a_thread_leaves_a_processor_and_may_still_run_on_all_it_could) {
    cpu_set_t allowed, after;
    CHECK_INT(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    int a = 0, b;
    while (!CPU_ISSET((size_t)a, &allowed)) a++;
    for (b = a + 1; b < CPU_SETSIZE && !CPU_ISSET((size_t)b, &allowed);) b++;
    const cpu_set_t one = set_of(a, a), two = set_of(a, b < CPU_SETSIZE ? b : a);
    CHECK_INT(sched_setaffinity(0, sizeof one, &one), 0);
    CHECK_INT(nib_cpu_here(), a);
    nib_cpu_leave(a); /* there is no other */
    CHECK_INT(nib_cpu_here(), a);
    int left = 0;
    for (int i = 0; b < CPU_SETSIZE && i < 100; i++) { /* a busy system may bring it back at once */
        CHECK_INT(sched_setaffinity(0, sizeof one, &one), 0);
        CHECK_INT(sched_setaffinity(0, sizeof two, &two), 0);
        nib_cpu_leave(a);
        left += nib_cpu_here() == b;
        CHECK_INT(sched_getaffinity(0, sizeof after, &after), 0);
        CHECK(CPU_EQUAL(&after, &two));
    }
    CHECK_INT(sched_setaffinity(0, sizeof allowed, &allowed), 0);
    nib_cpu_leave(-1);
    nib_cpu_leave(CPU_SETSIZE);
    if (b < CPU_SETSIZE) CHECK(left > 0);
}

TEST(what_is_asked_for_ahead_may_be_anywhere) {
    const char text[] = "as it was";
    nib_cpu_fetch(text, sizeof text);
    nib_cpu_fetch(text + 1, 0);
    nib_cpu_fetch(text + 5, 10000); /* a hint reads nothing, not even what is not there */
    nib_cpu_fetch(NULL, 64);
    CHECK_TEXT(text, "as it was");
}

TEST(there_is_a_core) { CHECK(nib_cpu_cores() >= 1); }

TESTS(RUNS(what_is_asked_for_ahead_may_be_anywhere), RUNS(a_level_keeps_itself_and_those_before_it),
      RUNS(an_unknown_level_is_named_with_the_known_ones),
      RUNS(the_name_of_a_level_parses_to_its_features),
      RUNS(a_thread_leaves_a_processor_and_may_still_run_on_all_it_could), RUNS(there_is_a_core))
