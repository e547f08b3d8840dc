/* replay.c: feed a harness every file of the folders named, once, without libFuzzer. Whatever a
 * fuzzer ever found stays in tests/fuzz/corpus/<what>/ and is looked at again on every test run. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The whole file, its last byte at the end of its allocation so that a sanitizer sees one read
 * too far; NULL when it cannot be read. */
static uint8_t *read_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    long length = -1;
    uint8_t *bytes = NULL;
    if (f && fseek(f, 0, SEEK_END) == 0 && (length = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0)
        bytes = malloc(length > 0 ? (size_t)length : 1);
    if (bytes && fread(bytes, 1, (size_t)length, f) != (size_t)length) {
        free(bytes);
        bytes = NULL;
    }
    if (f) fclose(f);
    *size = bytes ? (size_t)length : 0;
    return bytes;
}

int main(int argc, char **argv) {
    size_t count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        if (!folder) {
            fprintf(stderr, "%s: no such corpus\n", argv[i]);
            return 1;
        }
        for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
            char path[1024];
            size_t size;
            if (entry->d_name[0] == '.') continue;
            snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name);
            uint8_t *bytes = read_file(path, &size);
            if (!bytes) {
                fprintf(stderr, "%s: cannot be read\n", path);
                return 1;
            }
            fprintf(stderr, "%s\n", path); /* the last one named is the one that crashed */
            LLVMFuzzerTestOneInput(bytes, size);
            free(bytes);
            count++;
        }
        closedir(folder);
    }
    printf("%zu inputs\n", count);
    return count ? 0 : 1;
}
