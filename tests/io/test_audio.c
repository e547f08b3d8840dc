#include <nibble/io.h>

#include "base/mem.h"
#include "tensor/context.h"
#include "test_files.h"

#define GOLDEN "tests/golden/io/audio/"

static nib_ctx *context(void **state_, int threads) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    CHECK(ctx);
    return ctx;
}

/* A build without the libraries of sound says so; then the rest of a test means nothing. */
static bool no_sound(void **state_, nib_ctx *ctx) {
    nib_tensor *t = nib_audio_load(ctx, GOLDEN "sweep.wav", 0);
    const bool missing = !t && nib_last_error()->status == NIB_E_UNSUPPORTED;
    if (missing) print_message("skipped: %s\n", nib_last_error()->what);
    CHECK(t || missing);
    nib_tensor_free(t);
    if (missing) nib_ctx_free(ctx);
    return missing;
}

static int64_t count_of(const nib_tensor *t) { return nib_tensor_shape(t).dim[0]; }

static float *values_of(void **state_, const nib_tensor *t, int64_t *count) {
    const nib_shape shape = nib_tensor_shape(t);
    *count = 1;
    for (int d = 0; d < shape.ndim; d++) *count *= shape.dim[d];
    float *values = malloc((size_t)*count * sizeof *values);
    CHECK_OK(nib_tensor_read(t, values, (size_t)*count * sizeof *values));
    return values;
}

/* ---- files of samples ---- */

static void put(unsigned char **to, uint32_t value, int bytes) {
    for (int i = 0; i < bytes; i++) *(*to)++ = (unsigned char)(value >> 8 * i);
}

/* A WAV of 16-bit samples, of a tone in the first channel and silence in all others. */
static size_t tone(unsigned char *wav, int rate, int channels, int frames, double hertz) {
    unsigned char *at = wav;
    const uint32_t bytes = (uint32_t)(frames * channels * 2);
    memcpy(at, "RIFF", 4), at += 4;
    put(&at, 36 + bytes, 4);
    memcpy(at, "WAVEfmt ", 8), at += 8;
    put(&at, 16, 4), put(&at, 1, 2), put(&at, (uint32_t)channels, 2), put(&at, (uint32_t)rate, 4);
    put(&at, (uint32_t)(rate * channels * 2), 4), put(&at, (uint32_t)(channels * 2), 2);
    put(&at, 16, 2);
    memcpy(at, "data", 4), at += 4;
    put(&at, bytes, 4);
    for (int i = 0; i < frames; i++)
        for (int c = 0; c < channels; c++)
            put(&at,
                c ? 0 : (uint32_t)(int)lrint(16384 * sin(6.283185307179586 * hertz * i / rate)), 2);
    return (size_t)(at - wav);
}

static unsigned char wav[1 << 20];

TEST(samples_are_those_of_the_file) {
    nib_ctx *ctx = context(state_, 1);
    if (no_sound(state_, ctx)) return;
    TEST_FOLDER(dir);
    test_write(IN(dir, "a.wav"), wav, tone(wav, 16000, 1, 1000, 440));
    nib_tensor *t = nib_audio_load(ctx, IN(dir, "a.wav"), 16000);
    CHECK(t);
    int64_t n;
    float *x = values_of(state_, t, &n);
    CHECK_INT(n, 1000);
    for (int i = 0; i < n; i++) {
        const int16_t code = (int16_t)(wav[44 + 2 * i] | wav[45 + 2 * i] << 8);
        CHECK_NEAR(x[i], code / 32768.0, 0.0);
    }
    free(x);
    nib_tensor_free(t);
    test_folder_remove(dir);
    nib_ctx_free(ctx);
}

TEST(channels_are_averaged_and_other_rates_become_the_one_asked_for) {
    static const int rates[] = {8000, 11025, 22050, 44100, 48000};
    nib_ctx *ctx = context(state_, 1);
    if (no_sound(state_, ctx)) return;
    TEST_FOLDER(dir);
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
        const int rate = rates[r], channels = r % 2 ? 2 : 3;
        test_write(IN(dir, "a.wav"), wav, tone(wav, rate, channels, rate / 2, 1000));
        nib_tensor *t = nib_audio_load(ctx, IN(dir, "a.wav"), 16000);
        CHECK(t);
        int64_t n;
        float *x = values_of(state_, t, &n);
        CHECK(n >= 8000 - 1 && n <= 8000 + 1);
        /* away from the ends, where the sound stops; the steps of 16-bit samples are 3e-5 */
        for (int64_t i = 800; i < n - 800; i++)
            CHECK_NEAR(x[i], 0.5 / channels * sin(6.283185307179586 * 1000 * (double)i / 16000),
                       2e-4);
        free(x);
        nib_tensor_free(t);
    }
    test_folder_remove(dir);
    nib_ctx_free(ctx);
}

static void refused(void **state_, nib_ctx *ctx, const char *path, int rate, nib_status status,
                    const char *word) {
    CHECK(!nib_audio_load(ctx, path, rate));
    const nib_error *e = nib_last_error();
    CHECK_INT(e->status, status);
    if (!strstr(e->what, word)) FAIL_AT("\"%s\" does not say \"%s\"", e->what, word);
}

TEST(files_that_are_cut_empty_or_no_sound_are_refused_with_the_reason) {
    nib_ctx *ctx = context(state_, 1);
    if (no_sound(state_, ctx)) return;
    TEST_FOLDER(dir);
    const char *path = IN(dir, "a.wav");
    const size_t size = tone(wav, 16000, 1, 1000, 440);
    test_write(path, wav, size - 11);
    refused(state_, ctx, path, 0, NIB_E_FORMAT, "11 bytes short");
    CHECK_INT(nib_last_error()->offset, (int64_t)size - 11);
    CHECK_TEXT(nib_last_error()->path, path);
    for (size_t cut = 0; cut < 44; cut++) { /* within the header */
        test_write(path, wav, cut);
        CHECK(!nib_audio_load(ctx, path, 0));
        CHECK_INT(nib_last_error()->status, NIB_E_FORMAT);
    }
    test_write(path, wav, tone(wav, 16000, 1, 0, 440));
    refused(state_, ctx, path, 0, NIB_E_FORMAT, "no samples");
    test_write(path, "this is not a sound at all, only some text", 42);
    refused(state_, ctx, path, 0, NIB_E_FORMAT, "no sound");
    refused(state_, ctx, IN(dir, "none.wav"), 0, NIB_E_IO, "");
    tone(wav, 16000, 1, 1000, 440);
    memset(wav + 22, 0, 2); /* no channels */
    test_write(path, wav, size);
    CHECK(!nib_audio_load(ctx, path, 0));
    tone(wav, 16000, 1, 1000, 440);
    memset(wav + 40, 0xff, 4); /* as a pipe leaves it: up to the end of the file */
    test_write(path, wav, size);
    nib_tensor *t = nib_audio_load(ctx, path, 0);
    CHECK(t);
    CHECK_INT(count_of(t), 1000);
    nib_tensor_free(t);
    refused(state_, ctx, path, -1, NIB_E_ARGUMENT, "-1 samples");
    refused(state_, ctx, path, 1, NIB_E_UNSUPPORTED, "16000 samples a second cannot become 1");
    test_folder_remove(dir);
    nib_ctx_free(ctx);
}

/* ---- what Whisper hears ---- */

static void hears(void **state_, nib_ctx *ctx, const char *path, const char *name, int bands,
                  const int *frames, int count) {
    char golden[128];
    snprintf(golden, sizeof golden, GOLDEN "%s_%d.npy", name, bands);
    nib_tensor *want = nib_npy_load(ctx, golden), *sound = nib_audio_load(ctx, path, 16000);
    CHECK(want && sound);
    nib_tensor *got = nib_log_mel(sound, bands, 480000);
    CHECK(got);
    CHECK_INT(nib_tensor_shape(got).dim[0], bands);
    CHECK_INT(nib_tensor_shape(got).dim[1], 3000);
    int64_t n, m;
    float *g = values_of(state_, got, &n), *w = values_of(state_, want, &m);
    CHECK_INT(m, bands * count);
    for (int b = 0; b < bands; b++)
        for (int i = 0; i < count;
             i++) /* the tolerance that upstream gives its own two ways: 1e-5 */
            CHECK_NEAR(g[b * 3000 + frames[i]], w[b * count + i], 1e-4);
    free(g);
    free(w);
    nib_tensor_free(got);
    nib_tensor_free(sound);
    nib_tensor_free(want);
}

TEST(log_mel_is_what_transformers_computes) {
    nib_ctx *ctx = context(state_, 2);
    if (no_sound(state_, ctx)) return;
    int frames[14], speech[30];
    for (int i = 0; i < 13; i++) frames[i] = 16 * i;
    for (int i = 0; i < 30; i++) speech[i] = 100 * i;
    frames[13] = 2999;
    hears(state_, ctx, GOLDEN "sweep.wav", "sweep", 80, frames, 14);
    hears(state_, ctx, GOLDEN "sweep.wav", "sweep", 128, frames, 14);
    char path[1024];
    if (test_data("speech/jfk.wav", path)) {
        hears(state_, ctx, path, "speech", 80, speech, 30);
        hears(state_, ctx, path, "speech", 128, speech, 30);
    }
    nib_ctx_free(ctx);
}

TEST(log_mel_is_the_same_for_any_number_of_threads) {
    float x[4000], *of[3];
    for (int i = 0; i < 4000; i++) x[i] = (float)sin(0.05 * i) * 0.3f;
    for (int t = 0; t < 3; t++) {
        nib_ctx *ctx = context(state_, 1 + 2 * t);
        nib_tensor *sound = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){1, {4000}}, x, NULL, NULL);
        nib_tensor *mel = nib_log_mel(sound, 80, 0);
        CHECK(mel);
        int64_t n;
        of[t] = values_of(state_, mel, &n);
        CHECK_INT(n, 80 * 25);
        CHECK_BYTES(of[t], of[0], (size_t)n * sizeof(float));
        nib_tensor_free(mel);
        nib_tensor_free(sound);
        nib_ctx_free(ctx);
    }
    for (int t = 0; t < 3; t++) free(of[t]);
}

TEST(log_mel_refuses_what_it_cannot_hear) {
    nib_ctx *ctx = context(state_, 1);
    static const float x[400];
    nib_tensor *sound = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){1, {200}}, x, NULL, NULL);
    nib_tensor *matrix = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {2, 200}}, x, NULL, NULL);
    CHECK(sound && matrix);
    CHECK(!nib_log_mel(sound, 80, 0));
    CHECK_INT(nib_last_error()->status, NIB_E_ARGUMENT);
    CHECK(!nib_log_mel(sound, 0, 480000));
    CHECK_INT(nib_last_error()->status, NIB_E_ARGUMENT);
    CHECK(!nib_log_mel(sound, 129, 480000));
    CHECK(!nib_log_mel(sound, 80, -1));
    CHECK(!nib_log_mel(matrix, 80, 480000));
    CHECK_INT(nib_last_error()->status, NIB_E_SHAPE);
    CHECK(!nib_log_mel(NULL, 80, 480000));
    nib_tensor_free(matrix);
    nib_tensor_free(sound);
    nib_ctx_free(ctx);
}

TEST(any_allocation_of_loading_a_sound_may_fail) {
    nib_ctx *ctx = context(state_, 1);
    if (no_sound(state_, ctx)) return;
    TEST_FOLDER(dir);
    test_write(IN(dir, "a.wav"), wav, tone(wav, 8000, 2, 1000, 440));
    const size_t used = nib_mem_used(nib_ctx_mem(ctx));
    for (long n = 0, made = 1; made > 0; n++) {
        nib_mem_fail_after(n, false);
        nib_tensor *t = nib_audio_load(ctx, IN(dir, "a.wav"), 16000);
        made = nib_mem_fail_after(-1, false) > n;
        CHECK(t ? !made : nib_last_error()->status == NIB_E_MEMORY);
        nib_tensor_free(t);
        CHECK_INT(nib_mem_used(nib_ctx_mem(ctx)), used);
    }
    test_folder_remove(dir);
    nib_ctx_free(ctx);
}

TESTS(RUNS(samples_are_those_of_the_file),
      RUNS(channels_are_averaged_and_other_rates_become_the_one_asked_for),
      RUNS(files_that_are_cut_empty_or_no_sound_are_refused_with_the_reason),
      RUNS(any_allocation_of_loading_a_sound_may_fail), RUNS(log_mel_is_what_transformers_computes),
      RUNS(log_mel_is_the_same_for_any_number_of_threads),
      RUNS(log_mel_refuses_what_it_cannot_hear))
