/* test.h: over cmocka. A test is a sentence about behaviour and fails with numbers in hand.
 *
 *   TEST(int4_group_of_zeros_comes_back_as_zeros) { ... CHECK_NEAR(back[i], w[i], 0.0f); }
 *   int main(void) { return RUN(int4_group_of_zeros_comes_back_as_zeros, ...); }        */
#ifndef NIB_TESTS_TEST_H
#define NIB_TESTS_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <math.h>
#include <nibble/nibble.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST(name) static void name(void **state_)
#define RUNS(name) cmocka_unit_test(name)

/* Put as the last thing in a test program: TESTS(RUNS(a), RUNS(b)) */
#define TESTS(...)                                                                                 \
    int main(void) {                                                                               \
        const struct CMUnitTest tests_[] = {__VA_ARGS__};                                          \
        return cmocka_run_group_tests(tests_, NULL, NULL);                                         \
    }

#define FAIL_AT(...)                                                                               \
    do {                                                                                           \
        (void)state_;                                                                              \
        print_error(__VA_ARGS__);                                                                  \
        print_error("\n");                                                                         \
        fail();                                                                                    \
    } while (0)

/* A call that must succeed; prints the error on record when it does not. */
#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        const long long check_status_ = (long long)(call);                                         \
        if (check_status_ < 0)                                                                     \
            FAIL_AT("%s: %s [%s %s @%lld]", #call, nib_last_error()->what, nib_last_error()->path, \
                    nib_last_error()->tensor, (long long)nib_last_error()->offset);                \
    } while (0)

/* A pointer that must not be NULL. */
#define CHECK_MADE(pointer)                                                                        \
    do {                                                                                           \
        if (!(pointer))                                                                            \
            FAIL_AT("%s is NULL: %s [%s %s @%lld]", #pointer, nib_last_error()->what,              \
                    nib_last_error()->path, nib_last_error()->tensor,                              \
                    (long long)nib_last_error()->offset);                                          \
    } while (0)

/* A call that must fail with `status`, its message holding `text`. */
#define CHECK_FAILS(call, want_status, text)                                                       \
    do {                                                                                           \
        const nib_status check_status_ = (call);                                                   \
        if (check_status_ != (want_status))                                                        \
            FAIL_AT("%s: status %d, want %d (%s)", #call, (int)check_status_, (int)(want_status),  \
                    nib_last_error()->what);                                                       \
        if (!strstr(nib_last_error()->what, (text)))                                               \
            FAIL_AT("%s: \"%s\" does not hold \"%s\"", #call, nib_last_error()->what, (text));     \
    } while (0)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) FAIL_AT("%s:%d: %s", __FILE__, __LINE__, #condition);                    \
    } while (0)

#define CHECK_INT(got, want)                                                                       \
    do {                                                                                           \
        const long long got_ = (long long)(got), want_ = (long long)(want);                        \
        if (got_ != want_)                                                                         \
            FAIL_AT("%s:%d: %s is %lld, want %lld", __FILE__, __LINE__, #got, got_, want_);        \
    } while (0)

#define CHECK_NEAR(got, want, tolerance)                                                           \
    do {                                                                                           \
        const double got_ = (double)(got), want_ = (double)(want);                                 \
        if (!(fabs(got_ - want_) <= (double)(tolerance)) && !(got_ == want_))                      \
            FAIL_AT("%s:%d: %s is %.9g, want %.9g, off by %.3g over %.3g", __FILE__, __LINE__,     \
                    #got, got_, want_, fabs(got_ - want_), (double)(tolerance));                   \
    } while (0)

#define CHECK_TEXT(got, want)                                                                      \
    do {                                                                                           \
        const char *got_ = (got), *want_ = (want);                                                 \
        if (strcmp(got_, want_) != 0)                                                              \
            FAIL_AT("%s:%d: %s is \"%s\", want \"%s\"", __FILE__, __LINE__, #got, got_, want_);    \
    } while (0)

/* The same bytes; names the first that differs. */
#define CHECK_BYTES(got, want, size)                                                               \
    do {                                                                                           \
        const unsigned char *g_ = (const void *)(got), *w_ = (const void *)(want);                 \
        for (size_t i_ = 0; i_ < (size_t)(size); i_++)                                             \
            if (g_[i_] != w_[i_])                                                                  \
                FAIL_AT("%s:%d: %s differs at byte %zu: got %02x, want %02x", __FILE__, __LINE__,  \
                        #got, i_, g_[i_], w_[i_]);                                                 \
    } while (0)

/* What follows is about a scheme, which a build may lack: a scheme is one file and one line. */
#define NEEDS_SCHEME(text)                                                                         \
    do {                                                                                           \
        nib_config *needed_ = nib_config_parse(text);                                              \
        if (!needed_) {                                                                            \
            print_message("skipped: %s\n", nib_last_error()->what);                                \
            return;                                                                                \
        }                                                                                          \
        nib_config_free(needed_);                                                                  \
    } while (0)

/* The same of one case among many. No text, or "", is a float weight. */
static inline bool test_has_scheme(const char *text) {
    nib_config *config = text && *text ? nib_config_parse(text) : NULL;
    nib_config_free(config);
    return config || !text || !*text;
}

/* A sanitizer makes everything several times slower: under one, a test may take a share of its
 * cases and say so, where others of the same kind are left. */
#ifdef __has_feature
#define TEST_HAS_FEATURE(name) __has_feature(name)
#else
#define TEST_HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || TEST_HAS_FEATURE(thread_sanitizer)
#define TEST_WATCHES_THREADS 1
#else
#define TEST_WATCHES_THREADS 0
#endif
#if TEST_WATCHES_THREADS || defined(__SANITIZE_ADDRESS__) || TEST_HAS_FEATURE(address_sanitizer)
#define TEST_SANITIZED 1
#else
#define TEST_SANITIZED 0
#endif

/* The seed of random tests: SEED in the environment, or a fixed one; printed by the caller. */
static inline uint64_t test_seed(void) {
    const char *given = getenv("SEED");
    return given ? strtoull(given, NULL, 10) : 20;
}

/* splitmix64, so that tests need nothing from the library they test. */
static inline uint64_t test_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline float test_uniform(uint64_t *state) { /* [-1, 1) */
    return (float)((double)(test_random(state) >> 40) / 8388608.0 - 1.0);
}

/* A file of the data sets or models that the repository does not carry, or NULL after saying so. */
static inline const char *test_shared(const char *variable, const char *fallback, const char *name,
                                      char *path, size_t room) {
    const char *root = getenv(variable);
    snprintf(path, room, "%s/%s", root ? root : fallback, name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        print_message("skipped: %s is not there (set %s)\n", path, variable);
        return NULL;
    }
    fclose(f);
    return path;
}
#define test_data(name, path) test_shared("NIB_DATA", "../shared/data", name, path, sizeof(path))
#define test_model(name, path)                                                                     \
    test_shared("NIB_MODELS", "../shared/models", name, path, sizeof(path))
#endif
