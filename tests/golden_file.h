/* golden_file.h: one context of two threads, `ctx`, and one golden file, `file`, open while the
 * tests of a program run.
 *
 *   GOLDEN_FILE("tests/golden/quanto/tensor.safetensors")     at the top
 *   GOLDEN_TESTS(RUNS(a), RUNS(b))                            in place of TESTS */
#ifndef NIB_TESTS_GOLDEN_FILE_H
#define NIB_TESTS_GOLDEN_FILE_H
#include "io/safetensors.h"
#include "test.h"

#define GOLDEN_FILE(path)                                                                          \
    static nib_ctx *ctx;                                                                           \
    static nib_safetensors *file;                                                                  \
    static int golden_open(void **state_) {                                                        \
        (void)state_;                                                                              \
        ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});                                       \
        file = nib_safetensors_open(NULL, path);                                                   \
        if (!ctx || !file) print_error("%s: %s\n", path, nib_last_error()->what);                  \
        return ctx && file ? 0 : -1;                                                               \
    }                                                                                              \
    static int golden_close(void **state_) {                                                       \
        (void)state_;                                                                              \
        nib_safetensors_close(file);                                                               \
        nib_ctx_free(ctx);                                                                         \
        return 0;                                                                                  \
    }

#define GOLDEN_TESTS(...)                                                                          \
    int main(void) {                                                                               \
        const struct CMUnitTest tests_[] = {__VA_ARGS__};                                          \
        return cmocka_run_group_tests(tests_, golden_open, golden_close);                          \
    }
#endif
