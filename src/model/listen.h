/* listen.h: what transcribing has for others in this folder: each window of a sound with the ids
 * that were said to it, and the sounds that data names. */
#ifndef NIB_MODEL_LISTEN_H
#define NIB_MODEL_LISTEN_H
#include <nibble/io.h>

#include "model/arch.h"

/* A window as the encoder takes it, [bands, frames] in the open scope, and what was said to it, the
 * first ids before. Less than NIB_OK stops with it. */
typedef nib_status nib_window_use(void *user, nib_tensor *mel, const int32_t *said, int64_t count);

/* nib_transcribe, with `use` (NULL is fine) called after each window. */
nib_status nib_listen(nib_ctx *ctx, const nib_model *model, const nib_tensor *sound,
                      const nib_transcribe_options *options, nib_ids *ids, nib_window_use *use,
                      void *user);

/* A sound of data, as nib_transcribe takes it; borrowed. */
typedef nib_status nib_sound_use(void *user, const nib_tensor *sound);

/* Every sound that data->file names, up to `most` of them: the file itself, or those in the folder
 * whose names end as those of sounds do (.wav, .flac, .ogg), by name. Fails: a folder without any;
 * what `use` says is told with the file's name. */
nib_status nib_sounds_each(nib_ctx *ctx, const char *path, int64_t most, nib_sound_use *use,
                           void *user);

/* Names a sound: for those who read text. */
bool nib_sound_is(const char *path);
#endif
