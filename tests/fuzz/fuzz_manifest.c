/* fuzz_manifest.c: checkpoints that say anything of themselves.
 *
 * An input is the header of a safetensors file, with the metadata that torchao or nibble keep
 * there; behind a form feed, which JSON cannot hold, may follow config.json, and behind another one
 * quanto_qmap.json. The file is as long as its largest offset asks. What is accepted has every part
 * of every weight, as large as its layout says, and a config that reads back from its text; what is
 * not names a file. */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "manifest_checks.h"

enum { FORM_FEED = 12 };
static char folder[64];
static const char *const names[] = {"model.safetensors", "config.json", "quanto_qmap.json"};

static const char *path_of(int file) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, names[file]);
    return path;
}

static void remove_folder(void) {
    for (int i = 0; i < 3; i++) unlink(path_of(i));
    rmdir(folder);
}

static void make_folder(void) {
    snprintf(folder, sizeof folder, "%s/nibble-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    MUST(mkdtemp(folder));
    atexit(remove_folder);
}

/* `length` is the file's; what no bytes are given for is zeros. */
static void write_file(int file, const void *head, size_t head_size, const void *bytes, size_t size,
                       size_t length) {
    const int f = open(path_of(file), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    MUST(f >= 0);
    MUST(write(f, head, head_size) == (ssize_t)head_size);
    MUST(write(f, bytes, size) == (ssize_t)size);
    MUST(ftruncate(f, (off_t)length) == 0);
    close(f);
}

/* The largest number of up to seven digits before a ']'. */
static size_t largest_end(const uint8_t *text, size_t size) {
    size_t largest = 0;
    for (size_t i = 0; i < size; i++) {
        size_t value = 0, n = 0;
        while (i < size && text[i] >= '0' && text[i] <= '9') {
            value = n++ < 7 ? 10 * value + (size_t)(text[i] - '0') : 0;
            i++;
        }
        if (i < size && text[i] == ']' && n <= 7 && value > largest) largest = value;
    }
    return largest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!folder[0]) make_folder();
    const uint8_t *part[3] = {data, NULL, NULL};
    size_t length[3] = {size, 0, 0};
    for (int i = 0; i < 2 && part[i]; i++) {
        const uint8_t *end = length[i] ? memchr(part[i], FORM_FEED, length[i]) : NULL;
        if (!end) break;
        part[i + 1] = end + 1;
        length[i + 1] = length[i] - (size_t)(end + 1 - part[i]);
        length[i] = (size_t)(end - part[i]);
    }
    uint8_t head[8];
    for (int i = 0; i < 8; i++) head[i] = (uint8_t)((uint64_t)length[0] >> 8 * i);
    write_file(0, head, 8, data, length[0], 8 + length[0] + largest_end(data, length[0]));
    for (int i = 1; i < 3; i++) {
        unlink(path_of(i));
        if (part[i]) write_file(i, "", 0, part[i], length[i], length[i]);
    }
    json_t *config =
        part[1] ? nib_json_parse((const char *)part[1], length[1], "config.json", 0) : NULL;
    nib_checkpoint *c = nib_checkpoint_open(NULL, folder);
    if (c) {
        nib_manifest m = {0};
        if (nib_manifest_read(NULL, c, config, &m) >= NIB_OK) {
            check_items(&m, c);
        } else {
            check_refused();
            MUST(nib_last_error()->path[0]);
        }
        nib_manifest_free(&m);
        nib_checkpoint_close(c);
    }
    json_decref(config);
    MUST(nib_mem_used(NULL) == 0);
    return 0;
}
