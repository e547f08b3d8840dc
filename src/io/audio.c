#include "io/audio.h"

#include <math.h>
#include <nibble/io.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { MAX_RATE = 768000, BLOCK = 4096 /* frames */ };

void nib_audio_free(nib_mem *mem, nib_audio *audio) {
    nib_mem_free(mem, audio->samples, (size_t)audio->count * sizeof *audio->samples);
    *audio = (nib_audio){0};
}

#ifndef NIB_HAS_AUDIO
nib_status nib_audio_read(nib_mem *mem, const char *path, int rate, nib_audio *audio) {
    (void)mem, (void)rate;
    *audio = (nib_audio){0};
    NIB_RAISE(NIB_E_UNSUPPORTED,
              "sound is not read: nibble was built without libsndfile and libsamplerate");
    return nib_error_at(path, NULL, -1);
}
#else
#include <samplerate.h>
#include <sndfile.h>

/* ---- libsndfile reads through our own files, so that what fails is known ---- */
typedef struct source {
    nib_file file;
    sf_count_t at;
    bool failed; /* an error of reading stands in the record */
} source;

static sf_count_t get_length(void *user) { return (sf_count_t)((const source *)user)->file.size; }
static sf_count_t tell(void *user) { return ((const source *)user)->at; }
static sf_count_t seek(sf_count_t offset, int whence, void *user) {
    source *s = user;
    const sf_count_t from = whence == SEEK_CUR ? s->at : whence == SEEK_END ? get_length(s) : 0;
    if (offset < -from || offset > get_length(s) - from) return -1;
    return s->at = from + offset;
}
static sf_count_t read_some(void *to, sf_count_t count, void *user) {
    source *s = user;
    if (count > get_length(s) - s->at) count = get_length(s) - s->at;
    if (count <= 0 || s->failed) return 0;
    if (nib_file_read(&s->file, to, (size_t)count, (size_t)s->at) < NIB_OK) {
        s->failed = true;
        return 0;
    }
    s->at += count;
    return count;
}
static sf_count_t write_some(const void *from, sf_count_t count, void *user) {
    (void)from, (void)count, (void)user;
    return 0;
}

/* libsndfile takes what there is of a WAV whose end is missing; its sizes tell. Those of a file
 * that was written to a pipe are 0 or all ones, and stand for the rest of it. */
static nib_status check_sizes(const nib_file *file) {
    unsigned char b[12];
    size_t at = 12;
    if (file->size < sizeof b) return NIB_OK;
    NIB_TRY(nib_file_read(file, b, sizeof b, 0));
    if (memcmp(b, "RIFF", 4) != 0 || memcmp(b + 8, "WAVE", 4) != 0) return NIB_OK;
    while (file->size - at >= 8) {
        NIB_TRY(nib_file_read(file, b, 8, at));
        const uint32_t size =
            b[4] | (uint32_t)b[5] << 8 | (uint32_t)b[6] << 16 | (uint32_t)b[7] << 24;
        const size_t left = file->size - at - 8;
        const bool data = memcmp(b, "data", 4) == 0;
        if (data && (size == 0 || size == UINT32_MAX)) return NIB_OK;
        if (size > left) {
            NIB_RAISE(NIB_E_FORMAT, "the file is %zu bytes short of its samples",
                      (size_t)size - left);
            return nib_error_at(file->path, NULL, (int64_t)file->size);
        }
        if (data) return NIB_OK;
        at += 8 + (size_t)size;
        if (size % 2 && at < file->size) at++; /* chunks begin at even bytes */
    }
    return NIB_OK;
}

static nib_status read_frames(nib_mem *mem, SNDFILE *from, const SF_INFO *info, const source *s,
                              nib_audio *audio) {
    const size_t room = (size_t)BLOCK * (size_t)info->channels * sizeof(float);
    float *block = nib_mem_alloc(mem, room);
    if (!block) return NIB_E_MEMORY;
    int64_t done = 0;
    while (done < info->frames) {
        const sf_count_t want = info->frames - done < BLOCK ? info->frames - done : BLOCK;
        const sf_count_t got = sf_readf_float(from, block, want);
        for (sf_count_t i = 0; i < got; i++) {
            double sum = 0;
            for (int c = 0; c < info->channels; c++) sum += (double)block[i * info->channels + c];
            audio->samples[done + i] = (float)(sum / info->channels);
        }
        if (got <= 0) break;
        done += got;
    }
    nib_mem_free(mem, block, room);
    if (done == info->frames) return NIB_OK;
    if (s->failed) return nib_last_error()->status;
    NIB_RAISE(NIB_E_FORMAT, "the sound ends after %lld of %lld samples", (long long)done,
              (long long)info->frames);
    return nib_error_at(s->file.path, NULL, (int64_t)s->at);
}

static nib_status check_finite(const nib_audio *audio, const char *path) {
    for (int64_t i = 0; i < audio->count; i++) {
        if (isfinite(audio->samples[i])) continue;
        NIB_RAISE(NIB_E_FORMAT, "sample %lld is not a number", (long long)i);
        return nib_error_at(path, NULL, -1);
    }
    return NIB_OK;
}

/* The same sound at another rate, by libsamplerate's best band-limited interpolation. */
static nib_status resample(nib_mem *mem, nib_audio *audio, int rate) {
    const double ratio = (double)rate / audio->rate;
    const double length = ceil((double)audio->count * ratio);
    if (audio->count > INT32_MAX || length > INT32_MAX - 1)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%lld samples are too many to resample at once",
                         (long long)audio->count);
    nib_audio to = {.count = (int64_t)length, .rate = rate};
    to.samples = nib_mem_alloc_array(mem, (size_t)to.count, sizeof *to.samples);
    if (!to.samples) return NIB_E_MEMORY;
    SRC_DATA data = {.data_in = audio->samples,
                     .data_out = to.samples,
                     .input_frames = (long)audio->count,
                     .output_frames = (long)to.count,
                     .src_ratio = ratio};
    const int failed = src_simple(&data, SRC_SINC_BEST_QUALITY, 1);
    if (failed) {
        nib_audio_free(mem, &to);
        return NIB_RAISE(NIB_E_UNSUPPORTED, "%d samples a second cannot become %d: %s", audio->rate,
                         rate, src_strerror(failed));
    }
    memset(to.samples + data.output_frames_gen, 0,
           (size_t)(to.count - data.output_frames_gen) * sizeof *to.samples);
    nib_audio_free(mem, audio);
    *audio = to;
    return NIB_OK;
}

static nib_status read_sound(nib_mem *mem, source *s, SNDFILE *from, const SF_INFO *info,
                             nib_audio *audio) {
    const char *path = s->file.path;
    if (info->samplerate < 1 || info->samplerate > MAX_RATE || info->channels < 1 ||
        info->frames < 0) {
        NIB_RAISE(NIB_E_FORMAT, "%d samples a second in %d channels make no sound",
                  info->samplerate, info->channels);
        return nib_error_at(path, NULL, -1);
    }
    /* Each sample of every format that is read takes at least a bit of the file. */
    if (info->frames == 0 || info->frames / 64 > (sf_count_t)s->file.size * 8) {
        NIB_RAISE(NIB_E_FORMAT, info->frames ? "more samples than the file has bits"
                                             : "there are no samples in the file");
        return nib_error_at(path, NULL, -1);
    }
    *audio = (nib_audio){.count = info->frames, .rate = info->samplerate};
    audio->samples = nib_mem_alloc_array(mem, (size_t)audio->count, sizeof *audio->samples);
    if (!audio->samples) return NIB_E_MEMORY;
    NIB_TRY(read_frames(mem, from, info, s, audio));
    return check_finite(audio, path);
}

nib_status nib_audio_read(nib_mem *mem, const char *path, int rate, nib_audio *audio) {
    *audio = (nib_audio){0};
    if (rate < 0 || rate > MAX_RATE)
        return NIB_RAISE(NIB_E_ARGUMENT, "%d samples a second; up to %d are made", rate, MAX_RATE);
    source s = {0};
    NIB_TRY(nib_file_open(mem, path, &s.file));
    nib_status status = check_sizes(&s.file);
    SF_INFO info = {0};
    SF_VIRTUAL_IO io = {.get_filelen = get_length,
                        .seek = seek,
                        .read = read_some,
                        .write = write_some,
                        .tell = tell};
    SNDFILE *from = status == NIB_OK ? sf_open_virtual(&io, SFM_READ, &info, &s) : NULL;
    if (status == NIB_OK && !from) {
        status = s.failed ? nib_last_error()->status : NIB_E_FORMAT;
        if (!s.failed) NIB_RAISE(NIB_E_FORMAT, "no sound that is known: %s", sf_strerror(NULL));
    }
    if (from) status = read_sound(mem, &s, from, &info, audio);
    if (from) sf_close(from);
    if (status == NIB_OK && rate && rate != audio->rate) status = resample(mem, audio, rate);
    nib_file_close(&s.file);
    if (status == NIB_OK) return NIB_OK;
    nib_audio_free(mem, audio);
    return nib_error_at(path, NULL, -1);
}
#endif

nib_tensor *nib_audio_load(nib_ctx *ctx, const char *path, int rate) {
    if (!ctx) return NULL;
    if (!path) return NIB_RAISE_NULL(NIB_E_ARGUMENT, "no path to read from");
    nib_audio audio;
    nib_mem *mem = nib_ctx_mem(ctx);
    NIB_TRY_NULL(nib_audio_read(mem, path, rate, &audio));
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {audio.count}});
    if (t) memcpy(nib_tensor_data_mut(t), audio.samples, (size_t)audio.count * sizeof(float));
    nib_audio_free(mem, &audio);
    return t;
}
