#include "io/pt_write.h"

#include <errno.h>

#include "base/error.h"
#include "base/sys.h"
#include "io/pt.h"
#include "io/tensor_writer.h"
#include "io/zip.h"
#include "test_files.h"

#define GOLDEN "tests/golden/pt/"

static const nib_safetensors_pair pairs[] = {{"format", "pt"}, {"who", "me"}};

/* The tensors of a safetensors file, in its order; free(plan.tensors). */
static nib_safetensors_plan plan_of(const nib_safetensors *file) {
    nib_safetensors_planned *planned = calloc(file->count, sizeof *planned);
    for (size_t i = 0; i < file->count; i++) {
        const nib_safetensors_entry *e = &file->entries[i];
        planned[i] = (nib_safetensors_planned){e->name, e->dtype, e->shape};
    }
    return (nib_safetensors_plan){planned, file->count, pairs, 2};
}

/* All its bytes to `path` as the plan says, `piece` at a time, from the last to the first. */
static nib_status write_again(nib_safetensors *file, const nib_safetensors_plan *plan,
                              const char *path, size_t piece) {
    nib_tensor_writer *w = nib_tensor_writer_open(NULL, path, plan);
    if (!w) return nib_last_error()->status;
    for (size_t i = plan->count; i-- > 0;) {
        const nib_safetensors_entry *e = &file->entries[i];
        for (size_t end = e->size; end > 0;) {
            char bytes[64];
            const size_t n = end < piece ? end : piece;
            nib_status status = nib_safetensors_read(file, e, bytes, n, end - n);
            if (status >= NIB_OK) status = nib_tensor_writer_put(w, i, bytes, n, end - n);
            if (status < NIB_OK) {
                const nib_error why = *nib_last_error();
                nib_tensor_writer_abort(w);
                nib_error_restore(&why);
                return status;
            }
            end -= n;
        }
    }
    return nib_tensor_writer_finish(w);
}

TEST(the_bytes_are_those_that_torch_was_seen_to_open) {
    TEST_FOLDER(dir);
    nib_safetensors *file = nib_safetensors_open(NULL, GOLDEN "new.safetensors");
    CHECK_MADE(file);
    const nib_safetensors_plan plan = plan_of(file);
    size_t want_size = 0, size = 0, payload = 0;
    char *want = test_read(GOLDEN "ours.pt", &want_size);
    static const size_t pieces[] = {64, 1, 3, 8};
    static const char *const names[] = {"a.pt", "b.pth", "c.bin", "d.pt"};
    for (size_t i = 0; i < 4; i++) {
        CHECK_OK(write_again(file, &plan, IN(dir, names[i]), pieces[i]));
        char *got = test_read(IN(dir, names[i]), &size);
        CHECK_INT((long long)size, (long long)want_size);
        CHECK_BYTES(got, want, size);
        free(got);
    }
    CHECK_OK(nib_pt_plan_size(NULL, &plan, &size, &payload));
    CHECK_INT((long long)size, (long long)want_size);
    free(want);
    free((void *)(uintptr_t)plan.tensors);
    nib_safetensors_close(file);
    test_folder_remove(dir);
}

TEST(what_is_written_is_read_back_aligned_with_metadata_and_crcs) {
    nib_tensor_file *back = nib_tensor_file_open(NULL, GOLDEN "ours.pt");
    nib_safetensors *file = nib_safetensors_open(NULL, GOLDEN "new.safetensors");
    CHECK_MADE(back);
    CHECK_MADE(file);
    CHECK_INT((long long)back->count, (long long)file->count);
    for (size_t i = 0; i < file->count; i++) {
        const nib_tensor_entry *want = &file->entries[i];
        const nib_tensor_entry *got = nib_tensor_file_find(back, want->name);
        CHECK(got && got->dtype == want->dtype && got->size == want->size);
        CHECK(nib_tensor_entry_dense(got) && got->offset % 64 == 0);
        CHECK_BYTES(nib_tensor_file_data(back, got), nib_safetensors_data(file, want), got->size);
    }
    CHECK_TEXT(nib_tensor_file_metadata(back, "format"), "pt");
    CHECK_TEXT(nib_tensor_file_metadata(back, "who"), "me");
    const nib_source source = {.path = "ours.pt", .file = &back->file, .size = back->file.size};
    nib_zip zip;
    CHECK_OK(nib_zip_read(NULL, &source, &zip));
    for (size_t i = 0; i < zip.count; i++) {
        unsigned char *bytes = nib_zip_load(&zip, &source, &zip.entries[i], 1 << 20);
        CHECK_MADE(bytes);
        CHECK(zip.entries[i].size == 0 || zip.entries[i].crc != 0);
        nib_mem_free(NULL, bytes, zip.entries[i].size);
    }
    nib_zip_free(&zip);
    nib_safetensors_close(file);
    nib_tensor_file_close(back);
}

TEST(sizes_over_32_bits_are_planned_with_the_fields_of_zip64) {
    static const nib_safetensors_planned tensors[] = {{"a", NIB_F32, {1, {(int64_t)3 << 30}}},
                                                      {"b", NIB_U8, {1, {7}}}};
    static const nib_safetensors_planned small[] = {{"a", NIB_F32, {1, {3}}},
                                                    {"b", NIB_U8, {1, {7}}}};
    size_t size = 0, payload = 0, size_small = 0;
    CHECK_OK(nib_pt_plan_size(NULL, &(nib_safetensors_plan){tensors, 2, NULL, 0}, &size, &payload));
    CHECK_OK(nib_pt_plan_size(NULL, &(nib_safetensors_plan){small, 2, NULL, 0}, &size_small, NULL));
    CHECK_INT((long long)payload, ((long long)12 << 30) + 7);
    /* two ends of 56 and 20 bytes more, sizes and places of 8, the number in the pickle */
    CHECK(size - payload > size_small - 19 + 76 + 40 && size - payload < size_small + 300);
}

static const nib_safetensors_planned two[] = {{"a", NIB_BF16, {2, {2, 3}}},
                                              {"b", NIB_U8, {1, {4}}}};

TEST(a_file_with_a_byte_not_given_or_given_twice_is_not_made) {
    TEST_FOLDER(dir);
    const char *path = IN(dir, "m.pt");
    test_write(path, "old", 3);
    char *before = test_picture(dir);
    const nib_safetensors_plan plan = {two, 2, NULL, 0};
    nib_pt_writer *w = nib_pt_writer_open(NULL, path, &plan);
    size_t index = 9;
    nib_safetensors_planned planned;
    CHECK_MADE(w);
    CHECK(nib_pt_writer_find(w, "b", &index, &planned) && index == 1);
    CHECK(planned.dtype == NIB_U8 && !nib_pt_writer_find(w, "c", &index, NULL));
    CHECK_OK(nib_pt_writer_put(w, 1, "4444", 4, 0));
    CHECK_OK(nib_pt_writer_put(w, 0, "01", 2, 0));
    CHECK_FAILS(nib_pt_writer_put(w, 0, "123", 3, 1), NIB_E_ARGUMENT, "given twice");
    CHECK_FAILS(nib_pt_writer_put(w, 0, "bc", 2, 11), NIB_E_ARGUMENT, "do not fit");
    CHECK_FAILS(nib_pt_writer_put(w, 2, "", 0, 0), NIB_E_ARGUMENT, "plan of 2");
    CHECK_FAILS(nib_pt_writer_finish(w), NIB_E_ARGUMENT, "not given from its byte 2 on");
    CHECK_TEXT(nib_last_error()->tensor, "a");
    char *after = test_picture(dir);
    CHECK_TEXT(after, before);
    CHECK_INT((long long)nib_mem_used(NULL), 0);
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
        {{{"a", NIB_U8, {0, {0}}}, {"a", NIB_F32, {0, {0}}}}, 2, {{0}}, 0, NIB_E_ARGUMENT, "two"},
        {{{"a\xff", NIB_U8, {0, {0}}}}, 1, {{0}}, 0, NIB_E_ARGUMENT, "UTF-8"},
        {{{"a", NIB_U4, {1, {2}}}}, 1, {{0}}, 0, NIB_E_DTYPE, "cannot hold u4"},
        {{{"a", NIB_F32, {2, {INT64_MAX, 2}}}}, 1, {{0}}, 0, NIB_E_SHAPE, "overflows"},
        {{{"a", NIB_F32, {1, {-1}}}}, 1, {{0}}, 0, NIB_E_SHAPE, "overflows"},
        {{{"a", NIB_U8, {1, {INT64_MAX - 5}}}}, 1, {{0}}, 0, NIB_E_SHAPE, "overflows"},
        {{{0}}, 0, {{"k", "1"}, {"k", "2"}}, 2, NIB_E_ARGUMENT, "\"k\" twice"},
        {{{0}}, 0, {{"k", "\xc3"}}, 1, NIB_E_ARGUMENT, "UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const nib_safetensors_plan plan = {cases[i].tensors, cases[i].count, cases[i].metadata,
                                           cases[i].metadata_count};
        CHECK(!nib_pt_writer_open(NULL, IN(dir, "m.pt"), &plan));
        CHECK_FAILS(nib_last_error()->status, cases[i].status, cases[i].text);
        CHECK_TEXT(nib_last_error()->path, IN(dir, "m.pt"));
    }
    char *left = test_picture(dir);
    CHECK_TEXT(left, "");
    CHECK_INT((long long)nib_mem_used(NULL), 0);
    free(left);
    test_folder_remove(dir);
}

static int no_sync(int fd) {
    (void)fd;
    return 0;
}

/* Each call failing once with each errno, each allocation failing: the old file or the new one,
 * nothing besides, nothing kept. */
TEST(writing_survives_any_failing_call_or_allocation) {
    TEST_FOLDER_IN_MEMORY(dir);
    static const int reasons[] = {EIO, ENOSPC, EINTR, 0};
    const char *path = IN(dir, "m.pt");
    nib_safetensors *file = nib_safetensors_open(NULL, GOLDEN "sharded.safetensors");
    CHECK_MADE(file);
    const nib_safetensors_plan plan = plan_of(file);
    size_t new_size = 0, size = 0;
    nib_sys table = nib_sys_real;
    table.fsync = no_sync;
    nib_sys_use(&table);
    CHECK_OK(write_again(file, &plan, path, 64));
    char *whole = test_read(path, &new_size);
    for (size_t r = 0; r < sizeof reasons / sizeof *reasons; r++) {
        for (long n = 0;; n++) {
            test_write(path, "old", 3);
            const size_t used = nib_mem_used(NULL);
            if (reasons[r])
                nib_sys_fail_after(n, reasons[r]);
            else
                nib_mem_fail_after(n, false);
            const nib_status status = write_again(file, &plan, path, 64);
            const long made =
                reasons[r] ? nib_sys_fail_after(-1, 0) : nib_mem_fail_after(-1, false);
            CHECK_INT((long long)nib_mem_used(NULL), (long long)used);
            char *got = test_read(path, &size), *picture = test_picture(dir);
            const bool is_new = size == new_size && memcmp(got, whole, size) == 0;
            CHECK(is_new || (status < NIB_OK && size == 3 && memcmp(got, "old", 3) == 0));
            CHECK(strchr(picture, '\n')[1] == '\0');
            free(got);
            free(picture);
            if (reasons[r] == EINTR) CHECK_OK(status);
            if (status < NIB_OK)
                CHECK_INT(nib_last_error()->status, !reasons[r]         ? NIB_E_MEMORY
                                                    : reasons[r] == EIO ? NIB_E_IO
                                                                        : NIB_E_FULL);
            if (made > n) continue;
            CHECK_OK(status);
            CHECK(n > 10);
            break;
        }
    }
    nib_sys_use(NULL);
    free(whole);
    free((void *)(uintptr_t)plan.tensors);
    nib_safetensors_close(file);
    test_folder_remove(dir);
}

TESTS(RUNS(the_bytes_are_those_that_torch_was_seen_to_open),
      RUNS(what_is_written_is_read_back_aligned_with_metadata_and_crcs),
      RUNS(sizes_over_32_bits_are_planned_with_the_fields_of_zip64),
      RUNS(a_file_with_a_byte_not_given_or_given_twice_is_not_made),
      RUNS(impossible_plans_are_refused_before_a_file_is_made),
      RUNS(writing_survives_any_failing_call_or_allocation))
