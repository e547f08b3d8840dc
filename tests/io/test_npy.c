#include "io/npy.h"

#include <errno.h>
#include <nibble/io.h>

#include "base/error.h"
#include "base/sys.h"
#include "test_files.h"

#define GOLDEN "tests/golden/io/npy/"

TEST(arrays_of_numpy_are_read_and_written_again_byte_for_byte) {
    static const struct {
        const char *name;
        nib_dtype dtype;
        nib_shape shape;
    } cases[] = {
        {"f2", NIB_F16, {2, {2, 3}}},   {"f4", NIB_F32, {2, {2, 3}}},
        {"f8", NIB_F64, {2, {2, 3}}},   {"c8", NIB_C64, {2, {2, 3}}},
        {"i1", NIB_I8, {2, {2, 3}}},    {"i2", NIB_I16, {2, {2, 3}}},
        {"i4", NIB_I32, {2, {2, 3}}},   {"i8", NIB_I64, {2, {2, 3}}},
        {"u1", NIB_U8, {2, {2, 3}}},    {"u2", NIB_U16, {2, {2, 3}}},
        {"u4", NIB_U32, {2, {2, 3}}},   {"u8", NIB_U64, {2, {2, 3}}},
        {"b1", NIB_BOOL, {2, {2, 3}}},  {"scalar", NIB_F32, {0, {0}}},
        {"vector", NIB_I16, {1, {12}}}, {"none", NIB_F32, {3, {3, 0, 2}}},
    };
    TEST_FOLDER(dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[128];
        nib_npy array;
        void *data;
        snprintf(path, sizeof path, GOLDEN "%s.npy", cases[i].name);
        CHECK_OK(nib_npy_read(NULL, path, &array, &data));
        CHECK_INT(array.dtype, cases[i].dtype);
        CHECK_INT(array.shape.ndim, cases[i].shape.ndim);
        for (int d = 0; d < array.shape.ndim; d++)
            CHECK_INT(array.shape.dim[d], cases[i].shape.dim[d]);
        CHECK_OK(
            nib_npy_write(NULL, IN(dir, "a.npy"), array.dtype, &array.shape, data, array.size));
        size_t want_size = 0, got_size = 1;
        char *want = test_read(path, &want_size), *got = test_read(IN(dir, "a.npy"), &got_size);
        CHECK_INT(got_size, want_size);
        CHECK_BYTES(got, want, want_size);
        free(want);
        free(got);
        nib_mem_free(NULL, data, array.size);
    }
    test_folder_remove(dir);
}

TEST(values_are_those_that_were_saved_in_every_version) {
    static const char *const names[] = {"version2", "version3"};
    for (int i = 0; i < 2; i++) {
        char path[128];
        nib_npy array;
        void *data;
        snprintf(path, sizeof path, GOLDEN "%s.npy", names[i]);
        CHECK_OK(nib_npy_read(NULL, path, &array, &data));
        CHECK_INT(array.size, 12);
        for (int k = 0; k < 3; k++) {
            float value;
            memcpy(&value, (char *)data + 4 * k, 4);
            CHECK_NEAR(value, k, 0);
        }
        nib_mem_free(NULL, data, array.size);
    }
}

TEST(arrays_that_are_no_plain_numbers_are_refused_politely) {
    static const struct {
        const char *name, *text;
    } cases[] = {{"fortran", "Fortran order"},
                 {"big_endian", ">f4"},
                 {"object", "Python objects"},
                 {"record", "records"},
                 {"text", "<U2"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[128];
        nib_npy array;
        void *data;
        snprintf(path, sizeof path, GOLDEN "%s.npy", cases[i].name);
        CHECK_FAILS(nib_npy_read(NULL, path, &array, &data), NIB_E_UNSUPPORTED, cases[i].text);
        CHECK_TEXT(nib_last_error()->path, path);
        CHECK(nib_last_error()->offset >= 10 && nib_last_error()->offset < 80);
    }
}

TEST(a_file_cut_after_any_byte_or_too_long_is_refused) {
    size_t size = 0;
    char *whole = test_read(GOLDEN "f4.npy", &size);
    nib_npy array;
    for (size_t cut = 0; cut < size; cut++) {
        if (nib_npy_parse("p", whole, cut, cut, &array) == NIB_OK) FAIL_AT("cut at %zu", cut);
        CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
        CHECK_TEXT(nib_last_error()->path, "p");
        CHECK(nib_last_error()->offset == (int64_t)cut || cut < 10);
    }
    CHECK_FAILS(nib_npy_parse("p", whole, size, size + 1, &array), NIB_E_FORMAT, "1 bytes behind");
    CHECK_INT(nib_last_error()->offset, size);
    free(whole);
}

TEST(lies_of_a_description_are_refused) {
    static const struct {
        const char *text;
        nib_status status;
    } lies[] = {
        {"", NIB_E_FORMAT},
        {"{", NIB_E_FORMAT},
        {"[]", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': 1}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (,)}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': ()}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': ()} x", NIB_E_FORMAT},
        {"{'descr': '<f4, 'fortran_order': False, 'shape': ()}", NIB_E_UNSUPPORTED},
        {"{'descr': '<f4", NIB_E_FORMAT},
        {"{'de\\x': 1}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,)}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
         NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,)}", NIB_E_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}",
         NIB_E_UNSUPPORTED},
        {"{'descr': '<f16', 'fortran_order': False, 'shape': ()}", NIB_E_UNSUPPORTED},
        {"{'descr': '<V2', 'fortran_order': False, 'shape': ()}", NIB_E_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char bytes[256] = "\x93NUMPY\x01";
        const size_t length = strlen(lies[i].text);
        bytes[8] = (char)length;
        memcpy(bytes + 10, lies[i].text, length);
        nib_npy array;
        const nib_status status = nib_npy_parse("p", bytes, 14 + length, 14 + length, &array);
        if (status != lies[i].status)
            FAIL_AT("%s: status %d (%s)", lies[i].text, status, nib_last_error()->what);
        CHECK(nib_last_error()->offset >= 0 && nib_last_error()->offset <= 14 + (int64_t)length);
        CHECK_TEXT(nib_last_error()->path, "p");
    }
}

TEST(what_numpy_has_no_name_for_is_not_written) {
    TEST_FOLDER(dir);
    const nib_shape one = {1, {1}};
    CHECK_FAILS(nib_npy_write(NULL, IN(dir, "a"), NIB_BF16, &one, "xx", 2), NIB_E_DTYPE, "bf16");
    CHECK_FAILS(nib_npy_write(NULL, IN(dir, "a"), NIB_F32, &one, "xx", 2), NIB_E_SHAPE, "2 bytes");
    char *left = test_picture(dir);
    CHECK_TEXT(left, "");
    free(left);
    test_folder_remove(dir);
}

TEST(reading_and_writing_survive_any_failing_call_or_allocation) {
    TEST_FOLDER_IN_MEMORY(dir);
    const size_t used = nib_mem_used(NULL);
    for (int what = 0; what < 2; what++) {
        for (long n = 0;; n++) {
            nib_npy array;
            void *data = NULL;
            test_write(IN(dir, "a"), "old", 3);
            if (what)
                nib_mem_fail_after(n, false);
            else
                nib_sys_fail_after(n, EIO);
            nib_status status = nib_npy_read(NULL, GOLDEN "f4.npy", &array, &data);
            if (status == NIB_OK) {
                status =
                    nib_npy_write(NULL, IN(dir, "a"), array.dtype, &array.shape, data, array.size);
                nib_mem_free(NULL, data, array.size);
            }
            const long made = what ? nib_mem_fail_after(-1, false) : nib_sys_fail_after(-1, 0);
            CHECK_INT(nib_mem_used(NULL), used);
            char *picture = test_picture(dir);
            CHECK(strchr(picture, '\n')[1] == '\0');
            CHECK(status == NIB_OK || strstr(picture, " 3 ") || strstr(picture, " 152 "));
            free(picture);
            if (status < NIB_OK) {
                CHECK_INT(status, what ? NIB_E_MEMORY : NIB_E_IO);
                CHECK(nib_last_error()->path[0]);
            }
            if (made <= n) {
                CHECK_OK(status);
                break;
            }
        }
    }
    test_folder_remove(dir);
}

TEST(tensors_are_saved_and_loaded) {
    TEST_FOLDER(dir);
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *t = nib_npy_load(ctx, GOLDEN "f4.npy");
    CHECK_MADE(t);
    CHECK_INT(nib_tensor_dtype(t), NIB_F32);
    CHECK_INT(nib_tensor_shape(t).dim[1], 3);
    CHECK_OK(nib_npy_save(t, IN(dir, "a.npy")));
    size_t size = 0, got_size = 1;
    char *want = test_read(GOLDEN "f4.npy", &size), *got = test_read(IN(dir, "a.npy"), &got_size);
    CHECK_INT(got_size, size);
    CHECK_BYTES(got, want, size);
    free(want);
    free(got);
    nib_tensor_free(t);
    CHECK(!nib_npy_load(ctx, GOLDEN "object.npy"));
    nib_ctx_free(ctx);
    test_folder_remove(dir);
}

TESTS(RUNS(tensors_are_saved_and_loaded),
      RUNS(arrays_of_numpy_are_read_and_written_again_byte_for_byte),
      RUNS(values_are_those_that_were_saved_in_every_version),
      RUNS(arrays_that_are_no_plain_numbers_are_refused_politely),
      RUNS(a_file_cut_after_any_byte_or_too_long_is_refused),
      RUNS(lies_of_a_description_are_refused), RUNS(what_numpy_has_no_name_for_is_not_written),
      RUNS(reading_and_writing_survive_any_failing_call_or_allocation))
