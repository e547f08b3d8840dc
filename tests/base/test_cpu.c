#include "base/cpu.h"

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

TEST(there_is_a_core) { CHECK(nib_cpu_cores() >= 1); }

TESTS(RUNS(a_level_keeps_itself_and_those_before_it),
      RUNS(an_unknown_level_is_named_with_the_known_ones),
      RUNS(the_name_of_a_level_parses_to_its_features), RUNS(there_is_a_core))
