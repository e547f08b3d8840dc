/* cmocka.h: as much of cmocka as the tests of kernels use, for machines that have no cmocka:
 * every test runs in turn, a failed one is left where it failed. */
#ifndef NIB_TESTS_KERNEL_CROSS_CMOCKA_H
#define NIB_TESTS_KERNEL_CROSS_CMOCKA_H
#include <setjmp.h>
#include <stdio.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};
#define cmocka_unit_test(test)                                                                     \
    { #test, test }
#define print_message(...) (void)printf(__VA_ARGS__)
#define print_error(...)   (void)fprintf(stderr, __VA_ARGS__)

static jmp_buf failure_;
#define fail() longjmp(failure_, 1)

#define cmocka_run_group_tests(tests, begin, end)                                                  \
    run_tests_(tests, sizeof(tests) / sizeof((tests)[0]), begin, end)

static inline int run_tests_(const struct CMUnitTest *tests, size_t n, int (*begin)(void **),
                             int (*end)(void **)) {
    void *state = NULL;
    volatile int failed = 0;
    if (begin && begin(&state) != 0) return 1;
    for (volatile size_t i = 0; i < n; i++) {
        const int wrong = setjmp(failure_);
        if (!wrong) tests[i].run(&state);
        failed += wrong;
        printf("[  %s ] %s\n", wrong ? "FAILED" : "    OK", tests[i].name);
        fflush(stdout);
    }
    if (end) end(&state);
    return failed;
}
#endif
