/* audio.h: one sound file as the samples of one channel. */
#ifndef NIB_IO_AUDIO_H
#define NIB_IO_AUDIO_H
#include <nibble/nibble.h>

#include "base/mem.h"

typedef struct nib_audio {
    float *samples; /* [count], -1 to 1 for files of integers */
    int64_t count;
    int rate; /* a second */
} nib_audio;

/* All of a file, its channels averaged, at `rate` samples a second; 0: as in the file. Give back
 * with nib_audio_free. Fails: NIB_E_FORMAT for a file that is cut, empty or no sound, with its byte
 * where it is known; NIB_E_UNSUPPORTED in a build without libsndfile and libsamplerate. */
nib_status nib_audio_read(nib_mem *mem, const char *path, int rate, nib_audio *audio);
void nib_audio_free(nib_mem *mem, nib_audio *audio);
#endif
