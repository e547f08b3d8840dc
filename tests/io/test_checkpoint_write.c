#include "io/checkpoint_write.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "base/error.h"
#include "base/path.h"
#include "base/sys.h"
#include "test_files.h"

#define S1    "model-00001-of-00002.safetensors"
#define S2    "model-00002-of-00002.safetensors"
#define INDEX "model.safetensors.index.json"

static const nib_safetensors_pair format = {"format", "pt"};
static const nib_safetensors_planned first[] = {{"a", NIB_U8, {1, {3}}}, {"b", NIB_U8, {1, {2}}}};
static const nib_safetensors_planned second[] = {{"c", NIB_U8, {1, {4}}}};
static const nib_safetensors_plan plan_1 = {first, 2, &format, 1};
static const nib_safetensors_plan plan_2 = {second, 1, &format, 1};

static nib_status put_shard(nib_checkpoint_writer *w, const char *name,
                            const nib_safetensors_plan *plan) {
    nib_shard_state state;
    NIB_TRY(nib_checkpoint_writer_begin(w, name, plan, &state));
    for (size_t i = 0; i < plan->count; i++)
        NIB_TRY(nib_checkpoint_writer_put(w, i, "1234", (size_t)plan->tensors[i].shape.dim[0], 0));
    return nib_checkpoint_writer_end(w);
}

/* Two shards, an index, a configuration and what the input carries along. */
static nib_status put_model(const nib_checkpoint_output *output) {
    nib_checkpoint_writer *w = nib_checkpoint_writer_open(NULL, output);
    if (!w) return nib_last_error()->status;
    nib_status status = put_shard(w, S1, &plan_1);
    if (status == NIB_OK) status = nib_checkpoint_writer_note(w, "note", 4);
    if (status == NIB_OK) status = put_shard(w, S2, &plan_2);
    if (status == NIB_OK) status = nib_checkpoint_writer_file(w, "config.json", "{}\n", 3);
    if (status == NIB_OK && output->input) status = nib_checkpoint_writer_carry(w, output->input);
    if (status == NIB_OK) return nib_checkpoint_writer_finish(w);
    nib_checkpoint_writer_abort(w);
    return status;
}

static void make_input(void **state_, const char *dir) {
    CHECK(mkdir(dir, 0700) == 0);
    nib_safetensors_writer *w =
        nib_safetensors_writer_open(NULL, IN(dir, "model.safetensors"), &plan_2);
    CHECK_MADE(w);
    CHECK_OK(nib_safetensors_writer_put(w, 0, "4321", 4, 0));
    CHECK_OK(nib_safetensors_writer_finish(w));
    test_write(IN(dir, "tokenizer.json"), "{\"t\":1}", 7);
    test_write(IN(dir, "config.json"), "{\"old\":1}", 9);
    test_write(IN(dir, "pytorch_model.bin"), "x", 1);
}

TEST(a_model_appears_whole_with_its_index_and_what_it_carries) {
    TEST_FOLDER(dir);
    make_input(state_, IN(dir, "in"));
    nib_checkpoint *in = nib_checkpoint_open(NULL, IN(dir, "in"));
    CHECK_MADE(in);
    const nib_checkpoint_output output = {.path = IN(dir, "out/"), .input = in, .need = 1};
    CHECK_OK(put_model(&output));
    nib_dir_list list;
    CHECK_OK(nib_dir_read(NULL, IN(dir, "out"), &list));
    static const char *const want[] = {"config.json", S1, S2, INDEX, "tokenizer.json"};
    CHECK_INT(list.count, 5);
    for (size_t i = 0; i < 5; i++) CHECK_TEXT(list.entries[i].name, want[i]);
    nib_dir_list_free(&list);
    CHECK(access(IN(dir, "out.partial"), F_OK) != 0);
    nib_checkpoint *out = nib_checkpoint_open(NULL, IN(dir, "out"));
    CHECK_MADE(out);
    CHECK_INT(out->count, 3);
    CHECK_INT(out->payload, 9);
    CHECK_BYTES(nib_checkpoint_data(out, nib_checkpoint_find(out, "c")), "1234", 4);
    char *config = test_read(IN(dir, "out/config.json"), NULL);
    CHECK_TEXT(config, "{}\n");
    free(config);
    nib_checkpoint_close(out);
    nib_checkpoint_close(in);
    test_folder_remove(dir);
}

TEST(one_shard_of_the_plain_name_has_no_index) {
    TEST_FOLDER(dir);
    CHECK(mkdir(IN(dir, "out"), 0700) == 0); /* an empty folder just makes way */
    nib_checkpoint_writer *w = nib_checkpoint_writer_open(
        NULL, &(nib_checkpoint_output){.path = IN(dir, "out"), .stem = "diffusion_pytorch_model"});
    CHECK_MADE(w);
    CHECK_OK(put_shard(w, "diffusion_pytorch_model.safetensors", &plan_1));
    CHECK_OK(nib_checkpoint_writer_finish(w));
    nib_dir_list list;
    CHECK_OK(nib_dir_read(NULL, IN(dir, "out"), &list));
    CHECK_INT(list.count, 1);
    nib_dir_list_free(&list);
    test_folder_remove(dir);
}

TEST(a_single_file_is_an_output_too) {
    TEST_FOLDER(dir);
    const nib_checkpoint_output output = {.path = IN(dir, "out.safetensors")};
    nib_checkpoint_writer *w = nib_checkpoint_writer_open(NULL, &output);
    nib_shard_state state;
    CHECK_MADE(w);
    CHECK_OK(nib_checkpoint_writer_note(w, "x", 1));
    CHECK_OK(put_shard(w, "model.safetensors", &plan_2));
    CHECK(access(output.path, F_OK) != 0);
    CHECK_OK(nib_checkpoint_writer_finish(w));
    char *picture = test_picture(dir);
    CHECK(strncmp(picture, "out.safetensors ", 16) == 0 && strchr(picture, '\n')[1] == '\0');
    free(picture);
    CHECK(!nib_checkpoint_writer_open(NULL, &output));
    CHECK_FAILS(nib_last_error()->status, NIB_E_ARGUMENT, "is there already");
    w = nib_checkpoint_writer_open(
        NULL, &(nib_checkpoint_output){.path = output.path, .overwrite = true});
    CHECK_MADE(w);
    CHECK_OK(nib_checkpoint_writer_begin(w, "model.safetensors", &plan_2, &state));
    CHECK_FAILS(nib_checkpoint_writer_begin(w, S2, &plan_2, &state), NIB_E_ARGUMENT, "not ended");
    CHECK_FAILS(nib_checkpoint_writer_file(w, "config.json", "", 0), NIB_E_ARGUMENT,
                "nothing else");
    CHECK_FAILS(nib_checkpoint_writer_finish(w), NIB_E_ARGUMENT, "an earlier step failed");
    char *after = test_picture(dir);
    CHECK(strncmp(after, "out.safetensors ", 16) == 0 && strchr(after, '\n')[1] == '\0');
    free(after);
    test_folder_remove(dir);
}

static void refused(void **state_, const char *dir, const nib_checkpoint_output *output,
                    nib_status status, const char *text) {
    char *before = test_picture(dir);
    const size_t used = nib_mem_used(NULL);
    CHECK(!nib_checkpoint_writer_open(NULL, output));
    CHECK_FAILS(nib_last_error()->status, status, text);
    CHECK(nib_last_error()->path[0]);
    CHECK_INT(nib_mem_used(NULL), used);
    char *after = test_picture(dir);
    CHECK_TEXT(after, before);
    free(before);
    free(after);
}
#define REFUSED(status, text, ...)                                                                 \
    refused(state_, dir, &(nib_checkpoint_output){__VA_ARGS__}, status, text)

TEST(what_may_not_be_written_is_refused_and_left_alone) {
    TEST_FOLDER(dir);
    make_input(state_, IN(dir, "in"));
    CHECK(symlink("in", IN(dir, "link")) == 0);
    CHECK(link(IN(dir, "in/model.safetensors"), IN(dir, "hard.safetensors")) == 0);
    CHECK(mkdir(IN(dir, "photos"), 0700) == 0);
    test_write(IN(dir, "photos/cat.jpg"), "x", 1);
    CHECK(mkdir(IN(dir, "deep"), 0700) == 0 && mkdir(IN(dir, "deep/sub"), 0700) == 0);
    test_write(IN(dir, "deep/model.safetensors"), "x", 1);
    test_write(IN(dir, "file"), "x", 1);
    CHECK(mkdir(IN(dir, "new.partial"), 0700) == 0);
    test_write(IN(dir, "odd.partial"), "x", 1);
    nib_checkpoint *in = nib_checkpoint_open(NULL, IN(dir, "in"));
    CHECK_MADE(in);
    const bool yes = true;
    REFUSED(NIB_E_ARGUMENT, "this is the input", .path = IN(dir, "in"), .input = in,
            .overwrite = yes);
    nib_checkpoint *file = nib_checkpoint_open(NULL, IN(dir, "in/model.safetensors"));
    CHECK_MADE(file);
    REFUSED(NIB_E_ARGUMENT, "this is the input", .path = IN(dir, "in"), .input = file,
            .overwrite = yes); /* the folder around it */
    nib_checkpoint_close(file);
    REFUSED(NIB_E_ARGUMENT, "this is the input", .path = IN(dir, "./link"), .input = in,
            .overwrite = yes);
    REFUSED(NIB_E_ARGUMENT, "this is the input", .path = IN(dir, "hard.safetensors"), .input = in,
            .overwrite = yes);
    REFUSED(NIB_E_ARGUMENT, "symbolic link", .path = IN(dir, "link"), .overwrite = yes);
    REFUSED(NIB_E_ARGUMENT, "is there already", .path = IN(dir, "photos"));
    REFUSED(NIB_E_ARGUMENT, "no model", .path = IN(dir, "photos"), .overwrite = yes);
    REFUSED(NIB_E_ARGUMENT, "the folder \"sub\"", .path = IN(dir, "deep"), .overwrite = yes);
    REFUSED(NIB_E_ARGUMENT, "not a folder", .path = IN(dir, "file"), .overwrite = yes);
    REFUSED(NIB_E_ARGUMENT, "--resume", .path = IN(dir, "new"));
    REFUSED(NIB_E_ARGUMENT, "in the way", .path = IN(dir, "odd"), .resume = yes);
    REFUSED(NIB_E_ARGUMENT, "does not name", .path = IN(dir, ".."));
    REFUSED(NIB_E_IO, "no such folder", .path = IN(dir, "no/where"));
    REFUSED(NIB_E_FULL, "are free", .path = IN(dir, "fresh"), .need = SIZE_MAX / 2);
    nib_checkpoint_close(in);
    test_folder_remove(dir);
}

TEST(an_old_model_is_replaced_as_a_whole) {
    TEST_FOLDER(dir);
    make_input(state_, IN(dir, "out"));
    const nib_checkpoint_output output = {.path = IN(dir, "out"), .overwrite = true};
    for (int again = 0; again < 2; again++) {
        CHECK_OK(put_model(&output));
        nib_checkpoint *out = nib_checkpoint_open(NULL, output.path);
        CHECK_MADE(out);
        CHECK_INT(out->count, 3);
        CHECK_INT(out->carried_count, 0);
        nib_checkpoint_close(out);
        char *picture = test_picture(dir);
        CHECK(!strstr(picture, "out."));
        free(picture);
    }
    test_folder_remove(dir);
}

static int no_exchange(const char *a, const char *b) {
    (void)a, (void)b;
    errno = EINVAL;
    return -1;
}

TEST(a_file_system_that_cannot_exchange_names_replaces_by_renaming) {
    TEST_FOLDER(dir);
    make_input(state_, IN(dir, "out"));
    nib_sys table = nib_sys_real;
    table.exchange = no_exchange;
    nib_sys_use(&table);
    const nib_status status =
        put_model(&(nib_checkpoint_output){.path = IN(dir, "out"), .overwrite = true});
    nib_sys_use(NULL);
    CHECK_OK(status);
    nib_checkpoint *out = nib_checkpoint_open(NULL, IN(dir, "out"));
    CHECK_MADE(out);
    CHECK_INT(out->count, 3);
    nib_checkpoint_close(out);
    char *picture = test_picture(dir);
    CHECK(!strstr(picture, "out."));
    free(picture);
    test_folder_remove(dir);
}

TEST(two_writers_do_not_share_an_output) {
    TEST_FOLDER(dir);
    const nib_checkpoint_output output = {.path = IN(dir, "out"), .overwrite = true};
    nib_checkpoint_writer *w = nib_checkpoint_writer_open(NULL, &output);
    CHECK_MADE(w);
    REFUSED(NIB_E_IO, "another process", .path = output.path, .overwrite = true);
    REFUSED(NIB_E_IO, "another process", .path = output.path, .resume = true);
    nib_checkpoint_writer_abort(w);
    char *left = test_picture(dir);
    CHECK_TEXT(left, "");
    free(left);
    test_folder_remove(dir);
}

TEST(interrupted_work_goes_on_where_it_was) {
    TEST_FOLDER(dir);
    const char *path = IN(dir, "out");
    nib_shard_state state;
    nib_checkpoint_writer *w =
        nib_checkpoint_writer_open(NULL, &(nib_checkpoint_output){.path = path});
    CHECK_MADE(w);
    CHECK_OK(put_shard(w, S1, &plan_1));
    CHECK_OK(nib_checkpoint_writer_note(w, "of c, 2 bytes", 13));
    CHECK_OK(nib_checkpoint_writer_begin(w, S2, &plan_2, &state));
    CHECK_INT(state, NIB_SHARD_NEW);
    CHECK_OK(nib_checkpoint_writer_put(w, 0, "12", 2, 0));
    nib_checkpoint_writer_leave(w);
    CHECK(access(IN(dir, "out.partial/" S1), F_OK) == 0);

    const nib_checkpoint_output again = {.path = path, .resume = true};
    w = nib_checkpoint_writer_open(NULL, &again);
    CHECK_MADE(w);
    size_t size = 0;
    nib_status status;
    char bytes[4], *note = nib_checkpoint_writer_noted(w, &size, &status);
    CHECK(note && status == NIB_OK && size == 13);
    CHECK_TEXT(note, "of c, 2 bytes");
    nib_mem_free(NULL, note, size + 1);
    CHECK_OK(nib_checkpoint_writer_begin(w, S1, &plan_1, &state));
    CHECK_INT(state, NIB_SHARD_DONE);
    CHECK_OK(nib_checkpoint_writer_get(w, 1, bytes, 2, 0));
    CHECK_BYTES(bytes, "12", 2);
    CHECK_FAILS(nib_checkpoint_writer_put(w, 1, "12", 2, 0), NIB_E_ARGUMENT, "finished by earlier");
    CHECK_OK(nib_checkpoint_writer_keep(w, 0));
    CHECK_OK(nib_checkpoint_writer_keep(w, 1));
    CHECK_OK(nib_checkpoint_writer_end(w));
    CHECK_OK(nib_checkpoint_writer_begin(w, S2, &plan_2, &state));
    CHECK_INT(state, NIB_SHARD_BEGUN);
    CHECK_OK(nib_checkpoint_writer_get(w, 0, bytes, 2, 0));
    CHECK_BYTES(bytes, "12", 2);
    CHECK_OK(nib_checkpoint_writer_put(w, 0, "1234", 4, 0));
    CHECK_OK(nib_checkpoint_writer_end(w));
    CHECK_OK(nib_checkpoint_writer_file(w, "config.json", "{}\n", 3));
    CHECK_OK(nib_checkpoint_writer_finish(w));
    /* the same bytes as work in one go, and nothing else */
    CHECK_OK(put_model(&(nib_checkpoint_output){.path = IN(dir, "whole")}));
    char *one = test_picture(path), *other = test_picture(IN(dir, "whole"));
    CHECK_TEXT(one, other);
    free(one);
    free(other);
    test_folder_remove(dir);
}

TEST(work_of_another_plan_is_not_taken_over) {
    TEST_FOLDER(dir);
    const char *path = IN(dir, "out");
    nib_shard_state state;
    nib_checkpoint_writer *w =
        nib_checkpoint_writer_open(NULL, &(nib_checkpoint_output){.path = path});
    CHECK_OK(put_shard(w, S1, &plan_2));
    CHECK_OK(put_shard(w, "stale.safetensors", &plan_2));
    CHECK_OK(nib_checkpoint_writer_file(w, "stale.json", "{}", 2));
    CHECK_OK(nib_checkpoint_writer_begin(w, S2, &plan_1, &state));
    nib_checkpoint_writer_leave(w);
    w = nib_checkpoint_writer_open(NULL, &(nib_checkpoint_output){.path = path, .resume = true});
    CHECK_MADE(w);
    CHECK_OK(nib_checkpoint_writer_begin(w, S1, &plan_1, &state));
    CHECK_INT(state, NIB_SHARD_NEW);
    CHECK_OK(nib_checkpoint_writer_put(w, 0, "123", 3, 0));
    CHECK_OK(nib_checkpoint_writer_put(w, 1, "12", 2, 0));
    CHECK_OK(nib_checkpoint_writer_end(w));
    CHECK_OK(nib_checkpoint_writer_begin(w, S2, &plan_2, &state));
    CHECK_INT(state, NIB_SHARD_NEW);
    CHECK_OK(nib_checkpoint_writer_put(w, 0, "1234", 4, 0));
    CHECK_OK(nib_checkpoint_writer_end(w));
    CHECK_OK(nib_checkpoint_writer_file(w, "config.json", "{}\n", 3));
    CHECK_OK(nib_checkpoint_writer_finish(w));
    CHECK_OK(put_model(&(nib_checkpoint_output){.path = IN(dir, "whole")}));
    char *one = test_picture(path), *other = test_picture(IN(dir, "whole"));
    CHECK_TEXT(one, other);
    free(one);
    free(other);
    test_folder_remove(dir);
}

TEST(a_shard_not_kept_or_not_whole_is_not_published) {
    TEST_FOLDER(dir);
    const char *path = IN(dir, "out");
    nib_shard_state state;
    nib_checkpoint_writer *w =
        nib_checkpoint_writer_open(NULL, &(nib_checkpoint_output){.path = path});
    CHECK_OK(put_shard(w, S1, &plan_1));
    nib_checkpoint_writer_leave(w);
    w = nib_checkpoint_writer_open(NULL, &(nib_checkpoint_output){.path = path, .resume = true});
    CHECK_OK(nib_checkpoint_writer_begin(w, S1, &plan_1, &state));
    CHECK_OK(nib_checkpoint_writer_keep(w, 1));
    CHECK_FAILS(nib_checkpoint_writer_end(w), NIB_E_ARGUMENT, "not kept");
    CHECK_TEXT(nib_last_error()->tensor, "a");
    CHECK_FAILS(nib_checkpoint_writer_finish(w), NIB_E_ARGUMENT, "an earlier step failed");
    w = nib_checkpoint_writer_open(NULL, &(nib_checkpoint_output){.path = path});
    CHECK_OK(nib_checkpoint_writer_begin(w, S1, &plan_1, &state));
    CHECK_FAILS(nib_checkpoint_writer_finish(w), NIB_E_ARGUMENT, "not ended");
    w = nib_checkpoint_writer_open(NULL, &(nib_checkpoint_output){.path = path});
    CHECK_FAILS(nib_checkpoint_writer_finish(w), NIB_E_ARGUMENT, "no shard was begun");
    char *left = test_picture(dir);
    CHECK_TEXT(left, "");
    free(left);
    test_folder_remove(dir);
}

static int no_sync(int fd) {
    (void)fd;
    return 0;
}

/* Replacing a model with each call failing once, then each allocation: OUT is the old or the new
 * model, whole; OUT.partial is gone but for the one case that is told. */
static void faults(void **state_, const int *reasons, bool replace) {
    TEST_FOLDER_IN_MEMORY(dir);
    make_input(state_, IN(dir, "in"));
    nib_checkpoint *in = nib_checkpoint_open(NULL, IN(dir, "in"));
    CHECK_MADE(in);
    nib_sys table = nib_sys_real;
    table.fsync = no_sync;
    nib_sys_use(&table);
    CHECK_OK(put_model(&(nib_checkpoint_output){.path = IN(dir, "want"), .input = in}));
    char *want = test_picture(IN(dir, "want")), *old = NULL;
    const nib_checkpoint_output output = {
        .path = IN(dir, "out"), .input = in, .overwrite = replace, .need = 10};
    for (; *reasons >= 0; reasons++) {
        for (long n = 0;; n++) {
            test_folder_remove(IN(dir, "out"));
            if (replace) make_input(state_, IN(dir, "out"));
            free(old);
            old = test_picture(IN(dir, "out"));
            const size_t used = nib_mem_used(NULL);
            if (*reasons)
                nib_sys_fail_after(n, *reasons);
            else
                nib_mem_fail_after(n, false);
            const nib_status status = put_model(&output);
            const long made = *reasons ? nib_sys_fail_after(-1, 0) : nib_mem_fail_after(-1, false);
            CHECK_INT(nib_mem_used(NULL), used);
            char *got = test_picture(IN(dir, "out"));
            const bool is_new = strcmp(got, want) == 0, is_old = strcmp(got, old) == 0;
            if (!is_new && !(is_old && status < NIB_OK))
                FAIL_AT("call %ld, errno %d: status %d (%s), and out holds\n%s", n, *reasons,
                        (int)status, nib_last_error()->what, got);
            free(got);
            const bool partial = access(IN(dir, "out.partial"), F_OK) == 0;
            const bool told =
                status < NIB_OK && strstr(nib_last_error()->what, "could not be removed");
            const bool unsynced =
                status < NIB_OK && is_new && strstr(nib_last_error()->what, "sync");
            if (partial && !told && !(replace && unsynced))
                FAIL_AT("call %ld, errno %d left out.partial (%s)", n, *reasons,
                        nib_last_error()->what);
            CHECK(access(IN(dir, "out.replaced"), F_OK) != 0);
            if (status < NIB_OK && *reasons) CHECK(told || nib_last_error()->os_errno == *reasons);
            test_folder_remove(IN(dir, "out.partial"));
            if (made <= n) {
                CHECK_OK(status);
                CHECK(n > 50);
                break;
            }
        }
    }
    nib_sys_use(NULL);
    free(want);
    free(old);
    nib_checkpoint_close(in);
    test_folder_remove(dir);
}

TEST(a_new_model_survives_any_failing_call_or_allocation) {
    faults(state_, (const int[]){EIO, ENOSPC, EACCES, 0, -1}, false);
}

TEST(replacing_a_model_survives_any_failing_call_or_allocation) {
    faults(state_, (const int[]){EIO, ENOSPC, 0, -1}, true);
}

static void write_over(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    if (f) fputs(text, f);
    if (f) fclose(f);
}

static int cannot_reserve(int fd, off_t size) {
    (void)fd, (void)size;
    return EOPNOTSUPP;
}

/* Mounts that nobody else sees: as root, or as root of a user namespace that holds this user. */
static bool own_mounts(void) {
    const unsigned user = getuid(), group = getgid();
    if (unshare(CLONE_NEWNS) != 0) {
        char map[32];
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
        snprintf(map, sizeof map, "0 %u 1", user);
        write_over("/proc/self/uid_map", map);
        snprintf(map, sizeof map, "0 %u 1", group);
        write_over("/proc/self/setgroups", "deny"); /* without it no gid_map */
        write_over("/proc/self/gid_map", map);
    }
    return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/* In a file system of 256 KiB of this process's own: 0 when all is as it should be, 77 when it may
 * not make one, else the number of what was wrong. */
static int fill_disk(const char *dir) {
    if (!own_mounts() || mount("none", dir, "tmpfs", 0, "size=256k") != 0) return 77;
    const nib_safetensors_planned big = {"w", NIB_U8, {1, {1 << 20}}};
    const nib_safetensors_plan plan = {&big, 1, NULL, 0};
    nib_sys table = nib_sys_real;
    char *before = test_picture(dir), *bytes = calloc(1, 1 << 20);
    int result = 0;
    for (int reserve = 1; reserve >= 0 && !result; reserve--) {
        if (!reserve) table.fallocate = cannot_reserve; /* then the writing itself finds out */
        nib_sys_use(&table);
        nib_shard_state state;
        nib_checkpoint_writer *w =
            nib_checkpoint_writer_open(NULL, &(nib_checkpoint_output){.path = IN(dir, "out")});
        if (!w) return 1;
        nib_status status = nib_checkpoint_writer_begin(w, "model.safetensors", &plan, &state);
        if (reserve && status == NIB_OK) result = 2;
        if (status == NIB_OK) status = nib_checkpoint_writer_put(w, 0, bytes, 1 << 20, 0);
        nib_checkpoint_writer_abort(w);
        if (status != NIB_E_FULL || nib_last_error()->os_errno != ENOSPC) result = 3;
        if (!strstr(nib_last_error()->path, "model.safetensors")) result = 4;
        char *after = test_picture(dir);
        if (strcmp(before, after) != 0) result = 5;
        free(after);
    }
    nib_sys_use(NULL);
    nib_checkpoint_writer *w = nib_checkpoint_writer_open(
        NULL, &(nib_checkpoint_output){.path = IN(dir, "out"), .need = 1 << 20});
    if (w || nib_last_error()->status != NIB_E_FULL) result = 6;
    free(before);
    free(bytes);
    umount(dir);
    return result;
}

TEST(a_full_disk_is_told_and_left_as_it_was) {
    TEST_FOLDER(dir);
    int how = 0;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(fill_disk(dir));
    CHECK(waitpid(child, &how, 0) == child);
    test_folder_remove(dir);
    CHECK(WIFEXITED(how));
    if (WEXITSTATUS(how) == 77)
        print_message("skipped: this user cannot mount a small tmpfs\n");
    else
        CHECK_INT(WEXITSTATUS(how), 0);
}

/* Killed at any moment: the name holds the old model or the new one, and the next run succeeds. */
TEST(a_kill_leaves_the_old_model_or_the_new_one) {
    TEST_FOLDER_IN_MEMORY(dir);
    make_input(state_, IN(dir, "in"));
    nib_checkpoint *in = nib_checkpoint_open(NULL, IN(dir, "in"));
    CHECK_MADE(in);
    CHECK_OK(put_model(&(nib_checkpoint_output){.path = IN(dir, "want"), .input = in}));
    make_input(state_, IN(dir, "out"));
    char *old = test_picture(IN(dir, "out")), *want = test_picture(IN(dir, "want"));
    const nib_checkpoint_output output = {.path = IN(dir, "out"), .input = in, .overwrite = true};
    uint64_t seed = test_seed();
    for (int i = 0; i < 60; i++) {
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            nib_sys table = nib_sys_real; /* a kill loses nothing that only waits for the disk */
            table.fsync = no_sync;
            nib_sys_use(&table);
            put_model(&output);
            _exit(0);
        }
        usleep((useconds_t)(test_random(&seed) % 3000));
        kill(child, SIGKILL);
        CHECK(waitpid(child, NULL, 0) == child);
        char *got = test_picture(IN(dir, "out"));
        const bool is_new = strcmp(got, want) == 0;
        if (!is_new && strcmp(got, old) != 0) FAIL_AT("kill %d left\n%s", i, got);
        free(got);
        if (is_new) {
            test_folder_remove(IN(dir, "out"));
            make_input(state_, IN(dir, "out"));
        }
    }
    CHECK_OK(put_model(&output));
    char *got = test_picture(IN(dir, "out"));
    CHECK_TEXT(got, want);
    CHECK(access(IN(dir, "out.partial"), F_OK) != 0);
    free(got);
    free(old);
    free(want);
    nib_checkpoint_close(in);
    test_folder_remove(dir);
}

TESTS(RUNS(a_model_appears_whole_with_its_index_and_what_it_carries),
      RUNS(one_shard_of_the_plain_name_has_no_index), RUNS(a_single_file_is_an_output_too),
      RUNS(what_may_not_be_written_is_refused_and_left_alone),
      RUNS(an_old_model_is_replaced_as_a_whole),
      RUNS(a_file_system_that_cannot_exchange_names_replaces_by_renaming),
      RUNS(two_writers_do_not_share_an_output), RUNS(interrupted_work_goes_on_where_it_was),
      RUNS(work_of_another_plan_is_not_taken_over),
      RUNS(a_shard_not_kept_or_not_whole_is_not_published),
      RUNS(a_new_model_survives_any_failing_call_or_allocation),
      RUNS(replacing_a_model_survives_any_failing_call_or_allocation),
      RUNS(a_full_disk_is_told_and_left_as_it_was),
      RUNS(a_kill_leaves_the_old_model_or_the_new_one))
