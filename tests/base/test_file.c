#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/error.h"
#include "base/path.h"
#include "base/sys.h"
#include "test_files.h"

static bool holds(const char *path, const char *want) {
    size_t size;
    char *bytes = test_read(path, &size);
    const bool same = bytes && size == strlen(want) && memcmp(bytes, want, size) == 0;
    free(bytes);
    return same;
}

TEST(bytes_are_read_at_any_offset_also_a_few_at_a_time) {
    TEST_FOLDER(dir);
    test_write(IN(dir, "a"), "0123456789", 10);
    nib_file file;
    CHECK_OK(nib_file_open(NULL, IN(dir, "a"), &file));
    CHECK_INT(file.size, 10);
    for (size_t most = 0; most < 4; most++) {
        char got[8] = {0};
        nib_sys_short_io(most);
        CHECK_OK(nib_file_read(&file, got, 7, 2));
        CHECK_TEXT(got, "2345678");
    }
    nib_sys_short_io(0);
    nib_file_close(&file);
    nib_file_close(&file);
    test_folder_remove(dir);
}

TEST(a_file_that_ends_early_is_an_error_with_its_byte) {
    TEST_FOLDER(dir);
    const char *path = IN(dir, "a");
    test_write(path, "0123456789", 10);
    nib_file file;
    nib_map map;
    CHECK_OK(nib_file_open(NULL, path, &file));
    CHECK(truncate(path, 6) == 0);
    char got[10];
    CHECK_FAILS(nib_file_read(&file, got, 8, 1), NIB_E_FORMAT, "3 bytes short");
    CHECK_INT(nib_last_error()->offset, 6);
    CHECK_TEXT(nib_last_error()->path, path);
    CHECK_FAILS(nib_file_map(&file, &map), NIB_E_FORMAT,
                "had 10 bytes when it was opened and has 6");
    nib_file_close(&file);
    test_folder_remove(dir);
}

TEST(folders_pipes_and_missing_files_are_not_opened) {
    TEST_FOLDER(dir);
    nib_file file;
    CHECK_FAILS(nib_file_open(NULL, dir, &file), NIB_E_IO, "folder");
    CHECK_FAILS(nib_file_open(NULL, IN(dir, "none"), &file), NIB_E_IO, "No such file");
    CHECK_INT(nib_last_error()->os_errno, ENOENT);
    CHECK(mkfifo(IN(dir, "pipe"), 0600) == 0);
    CHECK_FAILS(nib_file_open(NULL, IN(dir, "pipe"), &file), NIB_E_IO, "not a regular file");
    CHECK_FAILS(nib_file_open(NULL, "/dev/zero", &file), NIB_E_IO, "not a regular file");
    test_folder_remove(dir);
}

TEST(a_whole_file_ends_with_a_zero_byte_and_keeps_to_its_limit) {
    TEST_FOLDER(dir);
    test_write(IN(dir, "a"), "hello", 5);
    test_write(IN(dir, "empty"), "", 0);
    size_t size;
    char *text = nib_file_read_whole(NULL, IN(dir, "a"), 5, &size);
    CHECK_MADE(text);
    CHECK_TEXT(text, "hello");
    nib_mem_free(NULL, text, size + 1);
    CHECK(!nib_file_read_whole(NULL, IN(dir, "a"), 4, &size));
    CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
    text = nib_file_read_whole(NULL, IN(dir, "empty"), 0, &size);
    CHECK(text && size == 0 && text[0] == '\0');
    nib_mem_free(NULL, text, 1);
    test_folder_remove(dir);
}

TEST(a_mapping_shows_the_bytes_and_outlives_its_file) {
    TEST_FOLDER(dir);
    test_write(IN(dir, "a"), "hello", 5);
    test_write(IN(dir, "empty"), "", 0);
    nib_file file;
    nib_map map;
    CHECK_OK(nib_file_open(NULL, IN(dir, "a"), &file));
    CHECK_OK(nib_file_map(&file, &map));
    nib_file_close(&file);
    nib_map_advise(&map, 0, 5, NIB_MAP_WILL_NEED);
    nib_map_advise(&map, 0, 5, NIB_MAP_DONE);
    nib_map_advise(&map, 4, SIZE_MAX, NIB_MAP_DONE);
    nib_map_advise(&map, 9, 1, NIB_MAP_DONE);
    CHECK_INT(map.size, 5);
    CHECK_BYTES(map.data, "hello", 5);
    nib_map_close(&map);
    CHECK_OK(nib_file_open(NULL, IN(dir, "empty"), &file));
    CHECK_OK(nib_file_map(&file, &map));
    CHECK(map.data == NULL && map.size == 0);
    nib_map_close(&map);
    nib_file_close(&file);
    test_folder_remove(dir);
}

TEST(a_written_file_appears_whole_at_the_commit_and_not_before) {
    TEST_FOLDER(dir);
    const char *path = IN(dir, "a");
    test_write(path, "old", 3);
    nib_sys_short_io(2);
    nib_file_writer *writer = nib_file_writer_open(NULL, path, 6);
    CHECK_MADE(writer);
    CHECK_OK(nib_file_writer_put(writer, "DEF", 3, 3));
    CHECK_OK(nib_file_writer_put(writer, "ABC", 3, 0));
    CHECK_FAILS(nib_file_writer_put(writer, "G", 1, 6), NIB_E_ARGUMENT, "do not fit");
    CHECK_FAILS(nib_file_writer_put(writer, "G", SIZE_MAX, 2), NIB_E_ARGUMENT, "do not fit");
    CHECK_OK(nib_file_writer_sync(writer));
    CHECK(holds(path, "old"));
    CHECK(holds(nib_file_writer_temp(writer), "ABCDEF"));
    CHECK_FAILS(nib_file_writer_put(writer, "X", 1, 0), NIB_E_ARGUMENT, "do not fit");
    CHECK_OK(nib_file_writer_commit(writer));
    nib_sys_short_io(0);
    CHECK(holds(path, "ABCDEF"));
    char *picture = test_picture(dir);
    CHECK(strchr(picture, '\n') == strrchr(picture, '\n'));
    free(picture);
    test_folder_remove(dir);
}

TEST(an_aborted_write_leaves_nothing_behind) {
    TEST_FOLDER(dir);
    test_write(IN(dir, "a"), "old", 3);
    char *before = test_picture(dir);
    nib_file_writer *writer = nib_file_writer_open(NULL, IN(dir, "a"), 6);
    CHECK_MADE(writer);
    CHECK_OK(nib_file_writer_put(writer, "ABC", 3, 0));
    nib_file_writer_abort(writer);
    nib_file_writer_abort(NULL);
    char *after = test_picture(dir);
    CHECK_TEXT(after, before);
    free(before);
    free(after);
    test_folder_remove(dir);
}

TEST(links_folders_and_devices_are_never_written_through) {
    TEST_FOLDER(dir);
    test_write(IN(dir, "real"), "old", 3);
    CHECK(symlink("real", IN(dir, "link")) == 0);
    CHECK(symlink("nowhere", IN(dir, "dangling")) == 0);
    CHECK(mkdir(IN(dir, "folder"), 0700) == 0);
    CHECK(mkfifo(IN(dir, "pipe"), 0600) == 0);
    char *before = test_picture(dir);
    CHECK_FAILS(nib_file_write_whole(NULL, IN(dir, "link"), "x", 1), NIB_E_ARGUMENT,
                "symbolic link");
    CHECK_FAILS(nib_file_write_whole(NULL, IN(dir, "dangling"), "x", 1), NIB_E_ARGUMENT, "link");
    CHECK_FAILS(nib_file_write_whole(NULL, IN(dir, "folder"), "x", 1), NIB_E_ARGUMENT, "folder");
    CHECK_FAILS(nib_file_write_whole(NULL, IN(dir, "pipe"), "x", 1), NIB_E_ARGUMENT, "pipe");
    CHECK_FAILS(nib_file_write_whole(NULL, IN(dir, "folder/"), "x", 1), NIB_E_ARGUMENT,
                "name a file");
    CHECK_FAILS(nib_file_write_whole(NULL, IN(dir, "no/x"), "x", 1), NIB_E_IO, "No such file");
    char *after = test_picture(dir);
    CHECK_TEXT(after, before);
    free(before);
    free(after);
    test_folder_remove(dir);
}

TEST(a_copy_is_the_same_bytes) {
    TEST_FOLDER(dir);
    const size_t size = (3u << 20) + 17; /* three pieces and a bit */
    unsigned char *bytes = malloc(size);
    uint64_t seed = test_seed();
    for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)test_random(&seed);
    test_write(IN(dir, "a"), bytes, size);
    CHECK_OK(nib_file_copy(NULL, IN(dir, "a"), IN(dir, "b")));
    size_t got_size = 0;
    char *got = test_read(IN(dir, "b"), &got_size);
    CHECK_INT(got_size, size);
    CHECK_BYTES(got, bytes, size);
    free(got);
    free(bytes);
    test_folder_remove(dir);
}

/* A size limit of the process is met before the kernel's signal would end it. */
TEST(a_file_over_the_process_limit_is_refused_as_full) {
    TEST_FOLDER(dir);
    test_write(IN(dir, "a"), "old", 3);
    struct rlimit had, small;
    CHECK(getrlimit(RLIMIT_FSIZE, &had) == 0);
    small = had;
    small.rlim_cur = 4096;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    nib_file_writer *writer = nib_file_writer_open(NULL, IN(dir, "a"), 4097);
    const nib_error said = *nib_last_error();
    CHECK_OK(nib_file_write_whole(NULL, IN(dir, "b"), "fits", 4));
    CHECK(setrlimit(RLIMIT_FSIZE, &had) == 0);
    CHECK(!writer);
    CHECK_INT(said.status, NIB_E_FULL);
    CHECK_TEXT(said.path, IN(dir, "a"));
    CHECK(holds(IN(dir, "a"), "old") && holds(IN(dir, "b"), "fits"));
    test_folder_remove(dir);
}

static int no_space(int fd, off_t size) {
    (void)fd, (void)size;
    return ENOSPC;
}
static int not_offered(int fd, off_t size) {
    (void)fd, (void)size;
    return EOPNOTSUPP;
}

TEST(a_full_disk_is_known_before_the_work_and_says_what_is_free) {
    TEST_FOLDER(dir);
    nib_sys table = nib_sys_real;
    table.fallocate = no_space;
    nib_sys_use(&table);
    CHECK(!nib_file_writer_open(NULL, IN(dir, "a"), 1000));
    CHECK_INT(nib_last_error()->status, NIB_E_FULL);
    CHECK(strstr(nib_last_error()->what, "1000 bytes of this file") != NULL);
    CHECK(strstr(nib_last_error()->what, "are free") != NULL);
    table.fallocate = not_offered; /* a file system that cannot reserve is no obstacle */
    CHECK_OK(nib_file_write_whole(NULL, IN(dir, "a"), "x", 1));
    CHECK(nib_sys_use(NULL) == &table);
    test_folder_remove(dir);
}

/* Every call failing once, with every errno that matters, over writing and copying: the old file
 * or the whole new one, nothing else in the folder, no memory kept. */
TEST(any_system_call_may_fail_and_leaves_old_or_new) {
    TEST_FOLDER_IN_MEMORY(dir);
    static const int reasons[] = {EIO, ENOSPC, EDQUOT, EFBIG, EAGAIN, EINTR, ENOMEM};
    const char *from = IN(dir, "from"), *to = IN(dir, "to");
    test_write(from, "new content", 11);
    for (size_t r = 0; r < sizeof reasons / sizeof *reasons; r++) {
        for (long n = 0;; n++) {
            test_write(to, "old", 3);
            nib_sys_short_io(r % 2 ? 4 : 0);
            nib_sys_fail_after(n, reasons[r]);
            const size_t used = nib_mem_used(NULL);
            const nib_status status = nib_file_copy(NULL, from, to);
            const long calls = nib_sys_fail_after(-1, 0);
            nib_sys_short_io(0);
            CHECK_INT(nib_mem_used(NULL), used);
            char *picture = test_picture(dir);
            int lines = 0;
            for (const char *p = picture; *p; p++) lines += *p == '\n';
            free(picture);
            CHECK_INT(lines, 2);
            CHECK(holds(to, "new content") || (status < NIB_OK && holds(to, "old")));
            if (status < NIB_OK) CHECK_INT(nib_last_error()->os_errno, reasons[r]);
            /* an interrupted call is made again */
            if (reasons[r] == EINTR) CHECK_OK(status);
            if (calls <= n) {
                CHECK_OK(status);
                CHECK(n > 10); /* the loop did pass through the calls */
                break;
            }
        }
    }
    test_folder_remove(dir);
}

TEST(any_allocation_may_fail_and_leaves_old_or_new) {
    TEST_FOLDER_IN_MEMORY(dir);
    test_write(IN(dir, "from"), "new content", 11);
    test_write(IN(dir, "to"), "old", 3);
    char *before = test_picture(dir);
    for (long n = 0;; n++) {
        const size_t used = nib_mem_used(NULL);
        nib_mem_fail_after(n, true);
        const nib_status status = nib_file_copy(NULL, IN(dir, "from"), IN(dir, "to"));
        nib_mem_fail_after(-1, false);
        CHECK_INT(nib_mem_used(NULL), used);
        if (status == NIB_OK) {
            CHECK(n > 4);
            break;
        }
        CHECK_INT(status, NIB_E_MEMORY);
        char *after = test_picture(dir);
        CHECK_TEXT(after, before);
        free(after);
    }
    free(before);
    test_folder_remove(dir);
}

TESTS(RUNS(bytes_are_read_at_any_offset_also_a_few_at_a_time),
      RUNS(a_file_that_ends_early_is_an_error_with_its_byte),
      RUNS(folders_pipes_and_missing_files_are_not_opened),
      RUNS(a_whole_file_ends_with_a_zero_byte_and_keeps_to_its_limit),
      RUNS(a_mapping_shows_the_bytes_and_outlives_its_file),
      RUNS(a_written_file_appears_whole_at_the_commit_and_not_before),
      RUNS(an_aborted_write_leaves_nothing_behind),
      RUNS(links_folders_and_devices_are_never_written_through), RUNS(a_copy_is_the_same_bytes),
      RUNS(a_file_over_the_process_limit_is_refused_as_full),
      RUNS(a_full_disk_is_known_before_the_work_and_says_what_is_free),
      RUNS(any_system_call_may_fail_and_leaves_old_or_new),
      RUNS(any_allocation_may_fail_and_leaves_old_or_new))
