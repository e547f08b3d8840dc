/* sounds.c: sounds as data: one file, or all in a folder. */
#include "base/error.h"
#include "base/path.h"
#include "base/text_util.h"
#include "model/listen.h"
#include "model/speech.h"
#include "tensor/context.h"

bool nib_sound_is(const char *path) {
    static const char *const ends[] = {".wav", ".flac", ".ogg", ".WAV", ".FLAC", ".OGG"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (nib_text_ends(path, ends[i])) return true;
    return false;
}

static nib_status one(nib_ctx *ctx, const char *path, nib_sound_use *use, void *user) {
    nib_tensor *sound = nib_audio_load(ctx, path, NIB_SPEECH_RATE);
    if (!sound) return nib_last_error()->status;
    const nib_status status = use(user, sound);
    nib_tensor_free(sound);
    return status < NIB_OK ? nib_error_at(path, NULL, -1) : status;
}

static nib_status all(nib_ctx *ctx, const char *folder, const nib_dir_list *list, int64_t most,
                      nib_sound_use *use, void *user) {
    int64_t count = 0, done = 0;
    for (size_t i = 0; i < list->count; i++)
        count += list->entries[i].kind == NIB_PATH_FILE && nib_sound_is(list->entries[i].name);
    if (!count) {
        NIB_RAISE(NIB_E_FORMAT, "no file in this folder is named as a sound (.wav, .flac, .ogg)");
        return nib_error_at(folder, NULL, -1);
    }
    if (count > most) count = most;
    for (size_t i = 0; i < list->count && done < count; i++) {
        if (list->entries[i].kind != NIB_PATH_FILE || !nib_sound_is(list->entries[i].name))
            continue;
        char *path = nib_path_join(nib_ctx_mem(ctx), folder, list->entries[i].name);
        if (!path) return nib_last_error()->status;
        nib_status status = one(ctx, path, use, user);
        nib_mem_strfree(nib_ctx_mem(ctx), path);
        done++;
        if (status >= NIB_OK) status = nib_ctx_progress(ctx, "data", (double)done, (double)count);
        NIB_TRY(status);
    }
    return NIB_OK;
}

nib_status nib_sounds_each(nib_ctx *ctx, const char *path, int64_t most, nib_sound_use *use,
                           void *user) {
    nib_path_kind kind;
    NIB_TRY(nib_path_look(path, true, &kind));
    if (kind != NIB_PATH_FOLDER) return one(ctx, path, use, user);
    nib_dir_list list;
    nib_status status = nib_dir_read(nib_ctx_mem(ctx), path, &list);
    if (status >= NIB_OK) status = all(ctx, path, &list, most, use, user);
    nib_dir_list_free(&list);
    return status;
}
