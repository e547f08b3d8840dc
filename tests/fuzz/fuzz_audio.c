/* fuzz_audio.c: files that say they are sound. What is accepted has as many samples as it says, all
 * of them numbers; what is not names the file. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "io/audio.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) abort();                                                                 \
    } while (0)

static char path[64];
static void remove_file(void) { unlink(path); }

static void put_file(const uint8_t *bytes, size_t size) {
    if (!path[0]) {
        snprintf(path, sizeof path, "%s/nibble-fuzz-XXXXXX",
                 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        const int made = mkstemp(path);
        MUST(made >= 0);
        close(made);
        atexit(remove_file);
    }
    const int f = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    MUST(f >= 0 && write(f, bytes, size) == (ssize_t)size);
    close(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    put_file(bytes, size);
    nib_audio audio;
    if (nib_audio_read(NULL, path, 0, &audio) < NIB_OK) {
        MUST(!audio.samples && strcmp(nib_last_error()->path, path) == 0);
        return 0;
    }
    MUST(audio.count > 0 && audio.rate > 0);
    for (int64_t i = 0; i < audio.count; i++) MUST(isfinite(audio.samples[i]));
    nib_audio_free(NULL, &audio);
    return 0;
}
