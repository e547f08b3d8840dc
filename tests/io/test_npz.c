#include "io/npz.h"

#include <nibble/io.h>

#include "base/error.h"
#include "test_files.h"
#include "zip_bytes.h"

#define GOLDEN "tests/golden/io/"

TEST(arrays_are_those_that_numpy_saved_stored_or_compressed) {
    static const char *const paths[] = {GOLDEN "stored.npz", GOLDEN "compressed.npz"};
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (size_t i = 0; i < 2; i++) {
        nib_reader *r = nib_reader_open(ctx, paths[i]);
        CHECK_MADE(r);
        CHECK_INT((long long)nib_reader_count(r), 4);
        nib_tensor *x = nib_reader_load(r, "x"), *ids = nib_reader_load(r, "ids");
        nib_tensor *flag = nib_reader_load(r, "flag"), *none = nib_reader_load(r, "none");
        CHECK(x && ids && flag && none);
        CHECK(nib_tensor_dtype(x) == NIB_F32 && nib_tensor_shape(x).ndim == 2);
        CHECK(nib_tensor_dtype(ids) == NIB_I64 && nib_tensor_dtype(none) == NIB_F16);
        CHECK_INT(nib_tensor_shape(flag).ndim, 0);
        float values[6];
        CHECK_OK(nib_tensor_read(x, values, sizeof values));
        for (int k = 0; k < 6; k++) CHECK_NEAR(values[k], k, 0);
        nib_tensor_free(x);
        nib_tensor_free(ids);
        nib_tensor_free(flag);
        nib_tensor_free(none);
        CHECK(!nib_reader_load(r, "y"));
        nib_reader_free(r);
    }
    nib_ctx_free(ctx);
}

TEST(an_array_of_objects_is_refused_by_name_and_byte) {
    CHECK(!nib_npz_open(NULL, GOLDEN "object.npz"));
    CHECK_FAILS(nib_last_error()->status, NIB_E_UNSUPPORTED, "Python objects");
    CHECK_TEXT(nib_last_error()->tensor, "bad.npy");
    CHECK(nib_last_error()->offset > 200);
    CHECK_INT((long long)nib_mem_used(NULL), 0);
}

TEST(entries_that_are_no_arrays_or_lie_are_refused) {
    static zip_bytes z;
    static const struct {
        zip_part part;
        const char *text;
    } cases[] = {
        {{.name = "x.txt", .bytes = "x", .size = 1}, "no .npy file"},
        {{.name = "\xff.npy", .bytes = "x", .size = 1}, "no .npy file"},
        {{.name = "x.npy", .bytes = "hello", .size = 5}, "not a .npy file"},
        {{.name = "x.npy", .bytes = "\3\0", .size = 2, .method = 8}, "not a .npy file"},
        {{.name = "x.npy", .bytes = "\3\0", .size = 2, .claimed = 1u << 31, .method = 8},
         "refused as a bomb"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zip_make(&z, &cases[i].part, 1);
        /* the empty stream unpacks to nothing, and says so */
        if (i == 3) memset(z.data + z.size - 22 - 46 - 5 + 24, 0, 4), memset(z.data + 22, 0, 4);
        CHECK(!nib_npz_parse(NULL, "bad.npz", z.data, z.size));
        CHECK_FAILS(nib_last_error()->status, NIB_E_FORMAT, cases[i].text);
        CHECK_TEXT(nib_last_error()->path, "bad.npz");
        CHECK(nib_last_error()->offset >= 0 && nib_last_error()->offset <= (int64_t)z.size);
        CHECK_INT((long long)nib_mem_used(NULL), 0);
    }
}

TEST(a_file_cut_after_any_byte_or_with_another_byte_is_refused_or_read) {
    static const char *const paths[] = {GOLDEN "stored.npz", GOLDEN "compressed.npz"};
    for (size_t i = 0; i < 2; i++) {
        size_t whole = 0;
        char *bytes = test_read(paths[i], &whole);
        CHECK(bytes != NULL);
        for (size_t size = 0; size < whole; size++) {
            CHECK(!nib_npz_parse(NULL, "cut.npz", bytes, size));
            CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
        }
        for (size_t at = 0; at < whole; at++) {
            bytes[at] ^= 0x41;
            nib_tensor_file_close(nib_npz_parse(NULL, "changed.npz", bytes, whole));
            bytes[at] ^= 0x41;
        }
        CHECK_INT((long long)nib_mem_used(NULL), 0);
        free(bytes);
    }
}

TEST(every_allocation_of_opening_may_fail) {
    for (long n = 0, reached = 1; reached > 0; n++) {
        nib_mem_fail_after(n, false);
        nib_tensor_file *file = nib_tensor_file_open(NULL, GOLDEN "compressed.npz");
        reached = nib_mem_fail_after(-1, false) - n;
        CHECK(file || nib_last_error()->status == NIB_E_MEMORY);
        nib_tensor_file_close(file);
        CHECK_INT((long long)nib_mem_used(NULL), 0);
    }
}

TESTS(RUNS(arrays_are_those_that_numpy_saved_stored_or_compressed),
      RUNS(an_array_of_objects_is_refused_by_name_and_byte),
      RUNS(entries_that_are_no_arrays_or_lie_are_refused),
      RUNS(a_file_cut_after_any_byte_or_with_another_byte_is_refused_or_read),
      RUNS(every_allocation_of_opening_may_fail))
