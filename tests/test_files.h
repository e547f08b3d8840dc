/* test_files.h: folders that tests may fill, and pictures of them to compare. Independent of the
 * library's own file access, which is what these tests are about. */
#ifndef NIB_TESTS_TEST_FILES_H
#define NIB_TESTS_TEST_FILES_H
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

/* A new empty folder, on the disk or for loops over faults in memory, where that exists. Remove
 * with test_folder_remove. */
static inline const char *test_folder(char *path, size_t room, bool in_memory) {
    const char *root = getenv("TMPDIR");
    if (in_memory && access("/dev/shm", W_OK) == 0) root = "/dev/shm";
    snprintf(path, room, "%s/nibble-test-XXXXXX", root ? root : "/tmp");
    if (!mkdtemp(path)) abort();
    return path;
}
#define TEST_FOLDER(name)                                                                          \
    char name[256];                                                                                \
    test_folder(name, sizeof name, false)
#define TEST_FOLDER_IN_MEMORY(name)                                                                \
    char name[256];                                                                                \
    test_folder(name, sizeof name, true)

static inline const char *test_path(char *path, size_t room, const char *folder, const char *name) {
    if (snprintf(path, room, "%s/%s", folder, name) >= (int)room) abort();
    return path;
}
static inline void test_folder_remove(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *d; (d = readdir(dir));) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0) continue;
        char inner[2048];
        struct stat about;
        test_path(inner, sizeof inner, path, d->d_name);
        if (lstat(inner, &about) == 0 && S_ISDIR(about.st_mode))
            test_folder_remove(inner);
        else
            unlink(inner);
    }
    closedir(dir);
    rmdir(path);
}

/* A path that lives as long as the block it is written in. */
#define IN(folder, name) test_path((char[1024]){0}, 1024, folder, name)

static inline void test_write(const char *path, const void *bytes, size_t size) {
    unlink(path); /* ext4 flushes a file that is cut and written again */
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, size, f) != size || fclose(f) != 0) abort();
}

/* The whole file, with a zero byte behind it; free() it. */
static inline char *test_read(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    size_t room = 1 << 16, length = 0;
    char *bytes = malloc(room);
    for (size_t n; bytes && (n = fread(bytes + length, 1, room - length - 1, f)) > 0;) {
        length += n;
        if (room - length < 2) bytes = realloc(bytes, room *= 2);
    }
    fclose(f);
    if (!bytes) abort();
    bytes[length] = '\0';
    if (size) *size = length;
    return bytes;
}

/* Everything below a folder as text: "name kind size hash" for each, in order of names. Two
 * pictures are equal when the folders hold the same. free() it. */
static inline char *test_picture(const char *path) {
    struct dirent **names = NULL;
    const int count = scandir(path, &names, NULL, alphasort);
    size_t room = 64, length = 0;
    char *text = calloc(1, room);
    for (int i = 0; i < count; i++) {
        const char *name = names[i]->d_name;
        char inner[2048], line[4096], *below = NULL;
        struct stat about = {0};
        test_path(inner, sizeof inner, path, name);
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && lstat(inner, &about) == 0) {
            uint64_t hash = 1469598103934665603u;
            if (S_ISREG(about.st_mode)) {
                size_t size;
                char *bytes = test_read(inner, &size);
                for (size_t k = 0; bytes && k < size; k++)
                    hash = (hash ^ (unsigned char)bytes[k]) * 1099511628211u;
                free(bytes);
            } else if (S_ISDIR(about.st_mode)) {
                below = test_picture(inner);
            }
            snprintf(line, sizeof line, "%s %o %lld %016" PRIx64 "\n", name,
                     (unsigned)about.st_mode & S_IFMT,
                     S_ISREG(about.st_mode) ? (long long)about.st_size : 0, hash);
            const size_t more = strlen(line) + (below ? strlen(below) : 0);
            while (length + more + 1 > room) text = realloc(text, room *= 2);
            length += (size_t)sprintf(text + length, "%s%s", line, below ? below : "");
            free(below);
        }
        free(names[i]);
    }
    free(names);
    return text;
}
#endif
