#include "base/path.h"

#include <errno.h>

#include "base/error.h"
#include "base/sys.h"
#include "test_files.h"

static void check_text(void **state_, char *got, const char *want) {
    CHECK_MADE(got);
    CHECK_TEXT(got, want);
    nib_mem_strfree(NULL, got);
}

TEST(names_are_joined_and_taken_apart) {
    check_text(state_, nib_path_join(NULL, "a", "b"), "a/b");
    check_text(state_, nib_path_join(NULL, "a//", "b"), "a/b");
    check_text(state_, nib_path_join(NULL, "/", "b"), "/b");
    check_text(state_, nib_path_join(NULL, "", "b"), "b");
    check_text(state_, nib_path_join(NULL, ".", "b"), "b");
    check_text(state_, nib_path_parent(NULL, "a/b"), "a");
    check_text(state_, nib_path_parent(NULL, "a//b"), "a");
    check_text(state_, nib_path_parent(NULL, "a/b/"), "a");
    check_text(state_, nib_path_parent(NULL, "b"), ".");
    check_text(state_, nib_path_parent(NULL, "/b"), "/");
    check_text(state_, nib_path_with_suffix(NULL, "a/b", ".c"), "a/b.c");
    check_text(state_, nib_path_parent(NULL, "/"), "/");
    CHECK_TEXT(nib_path_base("a/b.c"), "b.c");
    CHECK_TEXT(nib_path_base("b.c"), "b.c");
    CHECK(nib_path_is_plain("model.safetensors") && nib_path_is_plain("..."));
    CHECK(!nib_path_is_plain("") && !nib_path_is_plain(".") && !nib_path_is_plain(".."));
    CHECK(!nib_path_is_plain("../x") && !nib_path_is_plain("a/b") && !nib_path_is_plain("/"));
}

TEST(one_file_under_two_names_is_the_same_and_a_copy_is_not) {
    TEST_FOLDER(dir);
    bool same;
    test_write(IN(dir, "a"), "x", 1);
    test_write(IN(dir, "copy"), "x", 1);
    CHECK(link(IN(dir, "a"), IN(dir, "hard")) == 0);
    CHECK(symlink("a", IN(dir, "soft")) == 0);
    CHECK_OK(nib_path_same(IN(dir, "a"), IN(dir, "hard"), &same));
    CHECK(same);
    CHECK_OK(nib_path_same(IN(dir, "soft"), IN(dir, "./a"), &same));
    CHECK(same);
    CHECK_OK(nib_path_same(IN(dir, "a"), IN(dir, "copy"), &same));
    CHECK(!same);
    CHECK_OK(nib_path_same(IN(dir, "none"), IN(dir, "none"), &same));
    CHECK(!same);
    test_folder_remove(dir);
}

TEST(what_lies_under_a_name_is_told_with_and_without_its_links) {
    TEST_FOLDER(dir);
    nib_path_kind kind;
    test_write(IN(dir, "a"), "x", 1);
    CHECK(symlink("a", IN(dir, "soft")) == 0 && symlink("none", IN(dir, "dangling")) == 0);
    CHECK_OK(nib_path_look(IN(dir, "a"), false, &kind));
    CHECK_INT(kind, NIB_PATH_FILE);
    CHECK_OK(nib_path_look(IN(dir, "soft"), false, &kind));
    CHECK_INT(kind, NIB_PATH_LINK);
    CHECK_OK(nib_path_look(IN(dir, "soft"), true, &kind));
    CHECK_INT(kind, NIB_PATH_FILE);
    CHECK_OK(nib_path_look(IN(dir, "dangling"), true, &kind));
    CHECK_INT(kind, NIB_PATH_NONE);
    CHECK_OK(nib_path_look(dir, false, &kind));
    CHECK_INT(kind, NIB_PATH_FOLDER);
    CHECK_OK(nib_path_look(IN(dir, "a/b"), true, &kind));
    CHECK_INT(kind, NIB_PATH_NONE);
    test_folder_remove(dir);
}

TEST(a_folder_is_listed_in_order_of_names) {
    TEST_FOLDER(dir);
    for (int i = 39; i >= 0; i--) {
        char name[16];
        snprintf(name, sizeof name, "f%02d", i);
        test_write(IN(dir, name), "12345", (size_t)i % 6);
    }
    CHECK(mkdir(IN(dir, "a"), 0700) == 0);
    nib_dir_list list;
    CHECK_OK(nib_dir_read(NULL, dir, &list));
    CHECK_INT(list.count, 41);
    CHECK_TEXT(list.entries[0].name, "a");
    CHECK_INT(list.entries[0].kind, NIB_PATH_FOLDER);
    for (size_t i = 1; i < list.count; i++) {
        CHECK(strcmp(list.entries[i - 1].name, list.entries[i].name) < 0);
        CHECK_INT(list.entries[i].size, (i - 1) % 6);
        CHECK(nib_dir_find(&list, list.entries[i].name) == &list.entries[i]);
    }
    CHECK(!nib_dir_find(&list, "f") && !nib_dir_find(&list, "zz"));
    nib_dir_list_free(&list);
    CHECK_FAILS(nib_dir_read(NULL, IN(dir, "none"), &list), NIB_E_IO, "No such file");
    nib_dir_list_free(&list);
    test_folder_remove(dir);
}

TEST(a_folder_with_folders_in_it_is_not_removed) {
    TEST_FOLDER(dir);
    CHECK(mkdir(IN(dir, "t"), 0700) == 0 && mkdir(IN(dir, "t/sub"), 0700) == 0);
    test_write(IN(dir, "t/a"), "x", 1);
    char *before = test_picture(dir);
    CHECK_FAILS(nib_dir_remove(NULL, IN(dir, "t")), NIB_E_IO, "holds the folder \"sub\"");
    char *after = test_picture(dir);
    CHECK_TEXT(after, before);
    free(before);
    free(after);
    CHECK(rmdir(IN(dir, "t/sub")) == 0);
    test_write(IN(dir, "outside"), "keep", 4);
    CHECK(symlink("../outside", IN(dir, "t/soft")) == 0); /* the link goes, its target stays */
    CHECK(symlink("..", IN(dir, "t/up")) == 0);
    CHECK_OK(nib_dir_remove(NULL, IN(dir, "t")));
    CHECK(access(IN(dir, "t"), F_OK) != 0 && access(IN(dir, "outside"), F_OK) == 0);
    test_folder_remove(dir);
}

TEST(listing_survives_any_failing_call_or_allocation) {
    TEST_FOLDER_IN_MEMORY(dir);
    for (int i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof name, "f%02d", i);
        test_write(IN(dir, name), "", 0);
    }
    nib_dir_list list;
    const size_t used = nib_mem_used(NULL);
    for (long n = 0, calls = 1; n < calls; n++) {
        nib_sys_fail_after(n, EIO);
        const nib_status status = nib_dir_read(NULL, dir, &list);
        calls = nib_sys_fail_after(-1, 0);
        if (status == NIB_OK)
            CHECK_INT(list.count, 20);
        else
            CHECK_INT(list.count, 0);
        /* only a failing close of what was read whole is no loss */
        CHECK(status < NIB_OK || n >= calls - 1);
        nib_dir_list_free(&list);
        CHECK_INT(nib_mem_used(NULL), used);
    }
    for (long n = 0;; n++) {
        nib_mem_fail_after(n, false);
        const nib_status status = nib_dir_read(NULL, dir, &list);
        nib_mem_fail_after(-1, false);
        nib_dir_list_free(&list);
        CHECK_INT(nib_mem_used(NULL), used);
        if (status == NIB_OK) break;
        CHECK_INT(status, NIB_E_MEMORY);
    }
    test_folder_remove(dir);
}

TESTS(RUNS(names_are_joined_and_taken_apart),
      RUNS(one_file_under_two_names_is_the_same_and_a_copy_is_not),
      RUNS(what_lies_under_a_name_is_told_with_and_without_its_links),
      RUNS(a_folder_is_listed_in_order_of_names), RUNS(a_folder_with_folders_in_it_is_not_removed),
      RUNS(listing_survives_any_failing_call_or_allocation))
