#include <errno.h>
#include <sys/resource.h>

#include "base/error.h"
#include "base/sys.h"
#include "io/safetensors.h"
#include "test_files.h"

/* The plan of an existing file, its tensors in reverse. */
static nib_safetensors_plan plan_of(const nib_safetensors *file) {
    nib_safetensors_planned *tensors = calloc(file->count + 1, sizeof *tensors);
    for (size_t i = 0; i < file->count; i++) {
        const nib_safetensors_entry *entry = &file->entries[file->count - 1 - i];
        tensors[i] = (nib_safetensors_planned){entry->name, entry->dtype, entry->shape};
    }
    return (nib_safetensors_plan){tensors, file->count, file->metadata, file->metadata_count};
}

/* Write again what `file` holds, in pieces of `piece` bytes, last piece first. */
static nib_status write_again(const nib_safetensors *file, const nib_safetensors_plan *plan,
                              const char *path, size_t piece) {
    nib_safetensors_writer *writer = nib_safetensors_writer_open(NULL, path, plan);
    if (!writer) return nib_last_error()->status;
    for (size_t i = 0; i < plan->count; i++) {
        const nib_safetensors_entry *entry = nib_safetensors_find(file, plan->tensors[i].name);
        for (size_t end = entry->size; end > 0;) {
            unsigned char bytes[64];
            const size_t size = end < piece ? end : piece;
            nib_status status = nib_safetensors_read(file, entry, bytes, size, end - size);
            if (status == NIB_OK)
                status = nib_safetensors_writer_put(writer, i, bytes, size, end - size);
            if (status < NIB_OK) {
                nib_safetensors_writer_abort(writer);
                return status;
            }
            end -= size;
        }
    }
    return nib_safetensors_writer_finish(writer);
}

static const char *const goldens[] = {"all_dtypes", "shapes", "names", "empty",
                                      "empty_with_metadata"};

TEST(files_are_byte_for_byte_those_of_the_reference_library) {
    TEST_FOLDER(dir);
    for (size_t g = 0; g < sizeof goldens / sizeof *goldens; g++) {
        char path[128];
        snprintf(path, sizeof path, "tests/golden/io/%s.safetensors", goldens[g]);
        nib_safetensors *file = nib_safetensors_open(NULL, path);
        CHECK_MADE(file);
        const nib_safetensors_plan plan = plan_of(file);
        CHECK_OK(write_again(file, &plan, IN(dir, "m.safetensors"), 1 + g));
        size_t want_size = 0, got_size = 0, predicted, payload;
        char *want = test_read(path, &want_size),
             *got = test_read(IN(dir, "m.safetensors"), &got_size);
        CHECK_OK(nib_safetensors_plan_size(NULL, &plan, &predicted, &payload));
        CHECK_INT(got_size, want_size);
        CHECK_INT(predicted, want_size);
        CHECK_INT(payload, want_size - file->data_offset);
        CHECK_BYTES(got, want, want_size);
        free(want);
        free(got);
        free((void *)(uintptr_t)plan.tensors);
        nib_safetensors_close(file);
    }
    test_folder_remove(dir);
}

static const nib_safetensors_planned two[] = {{"a", NIB_BF16, {2, {2, 3}}},
                                              {"b", NIB_U8, {1, {4}}}};

TEST(a_file_with_a_byte_not_given_or_given_twice_is_not_made) {
    TEST_FOLDER(dir);
    const char *path = IN(dir, "m");
    test_write(path, "old", 3);
    char *before = test_picture(dir);
    const nib_safetensors_plan plan = {two, 2, NULL, 0};
    const size_t used = nib_mem_used(NULL);
    nib_safetensors_writer *w = nib_safetensors_writer_open(NULL, path, &plan);
    CHECK_MADE(w);
    CHECK_OK(nib_safetensors_writer_put(w, 1, "4444", 4, 0));
    CHECK_OK(nib_safetensors_writer_put(w, 0, "0", 1, 0));
    CHECK_OK(nib_safetensors_writer_put(w, 0, "2", 1, 2));
    CHECK_OK(nib_safetensors_writer_put(w, 0, "56789ab", 7, 5));
    CHECK_FAILS(nib_safetensors_writer_put(w, 0, "123", 3, 1), NIB_E_ARGUMENT, "given twice");
    CHECK_TEXT(nib_last_error()->tensor, "a");
    CHECK_FAILS(nib_safetensors_writer_put(w, 0, "4567", 4, 4), NIB_E_ARGUMENT, "given twice");
    CHECK_FAILS(nib_safetensors_writer_put(w, 0, "bc", 2, 11), NIB_E_ARGUMENT, "do not fit");
    CHECK_FAILS(nib_safetensors_writer_put(w, 0, "", SIZE_MAX, 1), NIB_E_ARGUMENT, "do not fit");
    CHECK_FAILS(nib_safetensors_writer_put(w, 2, "", 0, 0), NIB_E_ARGUMENT, "plan of 2");
    CHECK_OK(nib_safetensors_writer_put(w, 0, "34", 2, 3));
    CHECK_FAILS(nib_safetensors_writer_finish(w), NIB_E_ARGUMENT, "not given from its byte 1 on");
    CHECK_TEXT(nib_last_error()->tensor, "a");
    w = nib_safetensors_writer_open(NULL, path, &plan);
    CHECK_MADE(w);
    nib_safetensors_writer_abort(w);
    char *after = test_picture(dir);
    CHECK_TEXT(after, before);
    CHECK_INT(nib_mem_used(NULL), used);
    free(before);
    free(after);
    test_folder_remove(dir);
}

TEST(impossible_plans_are_refused_before_a_file_is_made) {
    TEST_FOLDER(dir);
    static const struct {
        nib_safetensors_planned tensors[2];
        size_t count;
        nib_safetensors_pair metadata[2];
        size_t metadata_count;
        nib_status status;
        const char *text;
    } cases[] = {
        {.tensors = {{"a", NIB_U8, {0, {0}}}, {"a", NIB_F32, {0, {0}}}},
         .count = 2,
         .status = NIB_E_ARGUMENT,
         .text = "two tensors have this name"},
        {.tensors = {{"__metadata__", NIB_U8, {0, {0}}}},
         .count = 1,
         .status = NIB_E_ARGUMENT,
         .text = "__metadata__"},
        {.tensors = {{"a\xff", NIB_U8, {0, {0}}}},
         .count = 1,
         .status = NIB_E_ARGUMENT,
         .text = "UTF-8"},
        {.tensors = {{"a", NIB_U4, {1, {2}}}},
         .count = 1,
         .status = NIB_E_DTYPE,
         .text = "cannot hold u4"},
        {.tensors = {{"a", NIB_F4_E2M1, {1, {3}}}},
         .count = 1,
         .status = NIB_E_SHAPE,
         .text = "whole bytes"},
        {.tensors = {{"a", NIB_F32, {2, {INT64_MAX, 2}}}},
         .count = 1,
         .status = NIB_E_SHAPE,
         .text = "overflows"},
        {.tensors = {{"a", NIB_F32, {1, {-1}}}},
         .count = 1,
         .status = NIB_E_SHAPE,
         .text = "overflows"},
        {.tensors = {{"a", NIB_U8, {1, {INT64_MAX / 8}}}, {"b", NIB_U8, {1, {INT64_MAX / 8}}}},
         .count = 2,
         .status = NIB_E_FULL,
         .text = ""},
        {.metadata = {{"k", "1"}, {"k", "2"}},
         .metadata_count = 2,
         .status = NIB_E_ARGUMENT,
         .text = "\"k\" twice"},
        {.metadata = {{"k", "\xc3"}},
         .metadata_count = 1,
         .status = NIB_E_ARGUMENT,
         .text = "UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const nib_safetensors_plan plan = {cases[i].tensors, cases[i].count, cases[i].metadata,
                                           cases[i].metadata_count};
        CHECK(!nib_safetensors_writer_open(NULL, IN(dir, "m"), &plan));
        CHECK_FAILS(nib_last_error()->status, cases[i].status, cases[i].text);
        CHECK_TEXT(nib_last_error()->path, IN(dir, "m"));
        CHECK(access(IN(dir, "m"), F_OK) != 0);
    }
    char *left = test_picture(dir);
    CHECK_TEXT(left, "");
    free(left);
    test_folder_remove(dir);
}

/* Hundreds of real ones take seconds and prove nothing here. */
static int no_sync(int fd) {
    (void)fd;
    return 0;
}

/* Each call failing once with each errno, each allocation failing: the old file or the new one,
 * nothing besides, nothing kept. */
TEST(writing_survives_any_failing_call_or_allocation) {
    TEST_FOLDER_IN_MEMORY(dir);
    static const int reasons[] = {EIO, ENOSPC, EDQUOT, EFBIG, EINTR, 0};
    const char *path = IN(dir, "m"), *from = "tests/golden/io/shapes.safetensors";
    nib_safetensors *file = nib_safetensors_open(NULL, from);
    CHECK_MADE(file);
    const nib_safetensors_plan plan = plan_of(file);
    size_t new_size = 0, size = 0;
    char *whole = test_read(from, &new_size);
    nib_sys table = nib_sys_real;
    table.fsync = no_sync;
    nib_sys_use(&table);
    for (size_t r = 0; r < sizeof reasons / sizeof *reasons; r++) {
        for (long n = 0;; n++) {
            test_write(path, "old", 3);
            const size_t used = nib_mem_used(NULL);
            nib_sys_short_io(r % 2 ? 5 : 0);
            if (reasons[r])
                nib_sys_fail_after(n, reasons[r]);
            else
                nib_mem_fail_after(n, false);
            const nib_status status = write_again(file, &plan, path, 64);
            const long made =
                reasons[r] ? nib_sys_fail_after(-1, 0) : nib_mem_fail_after(-1, false);
            nib_sys_short_io(0);
            CHECK_INT(nib_mem_used(NULL), used);
            char *got = test_read(path, &size), *picture = test_picture(dir);
            const bool is_new = size == new_size && memcmp(got, whole, size) == 0;
            CHECK(is_new || (status < NIB_OK && size == 3 && memcmp(got, "old", 3) == 0));
            CHECK(strchr(picture, '\n')[1] == '\0');
            free(got);
            free(picture);
            if (reasons[r] == EINTR) CHECK_OK(status);
            if (status < NIB_OK) {
                const nib_error *error = nib_last_error();
                CHECK_INT(error->os_errno, reasons[r]);
                CHECK_INT(error->status, !reasons[r]         ? NIB_E_MEMORY
                                         : reasons[r] == EIO ? NIB_E_IO
                                                             : NIB_E_FULL);
                CHECK(!reasons[r] || error->path[0]);
            }
            if (made <= n) {
                CHECK_OK(status);
                CHECK(n > 10);
                break;
            }
        }
    }
    nib_sys_use(NULL);
    free(whole);
    free((void *)(uintptr_t)plan.tensors);
    nib_safetensors_close(file);
    test_folder_remove(dir);
}

TEST(a_file_over_the_process_limit_is_refused_before_the_work) {
    TEST_FOLDER(dir);
    const nib_safetensors_planned big = {"w", NIB_F32, {2, {100, 100}}};
    const nib_safetensors_plan plan = {&big, 1, NULL, 0};
    struct rlimit had, small;
    CHECK(getrlimit(RLIMIT_FSIZE, &had) == 0);
    small = had;
    small.rlim_cur = 40000;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    nib_safetensors_writer *w = nib_safetensors_writer_open(NULL, IN(dir, "m"), &plan);
    CHECK(setrlimit(RLIMIT_FSIZE, &had) == 0);
    CHECK(!w);
    CHECK_INT(nib_last_error()->status, NIB_E_FULL);
    CHECK_TEXT(nib_last_error()->path, IN(dir, "m"));
    char *left = test_picture(dir);
    CHECK_TEXT(left, "");
    free(left);
    test_folder_remove(dir);
}

static ssize_t flipping_pwrite(int fd, const void *from, size_t size, off_t offset) {
    if (offset != 0) return pwrite(fd, from, size, offset);
    char bytes[4096];
    memcpy(bytes, from, size < sizeof bytes ? size : sizeof bytes);
    bytes[12] ^= 1; /* a letter of the first name */
    return pwrite(fd, bytes, size < sizeof bytes ? size : sizeof bytes, offset);
}

TEST(a_disk_that_changes_the_header_is_noticed) {
    TEST_FOLDER(dir);
    nib_sys table = nib_sys_real;
    table.pwrite = flipping_pwrite;
    const nib_safetensors_plan plan = {two, 2, NULL, 0};
    nib_sys_use(&table);
    nib_safetensors_writer *w = nib_safetensors_writer_open(NULL, IN(dir, "m"), &plan);
    CHECK_MADE(w);
    CHECK_OK(nib_safetensors_writer_put(w, 0, "0123456789ab", 12, 0));
    CHECK_OK(nib_safetensors_writer_put(w, 1, "0123", 4, 0));
    const nib_status status = nib_safetensors_writer_finish(w);
    nib_sys_use(NULL);
    CHECK(status < NIB_OK);
    char *left = test_picture(dir);
    CHECK_TEXT(left, "");
    free(left);
    test_folder_remove(dir);
}

TESTS(RUNS(files_are_byte_for_byte_those_of_the_reference_library),
      RUNS(a_file_with_a_byte_not_given_or_given_twice_is_not_made),
      RUNS(impossible_plans_are_refused_before_a_file_is_made),
      RUNS(writing_survives_any_failing_call_or_allocation),
      RUNS(a_file_over_the_process_limit_is_refused_before_the_work),
      RUNS(a_disk_that_changes_the_header_is_noticed))
