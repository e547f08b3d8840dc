/* Whisper through quanto's workflow beside optimum-quanto on transformers' model
 * (make_whisper_quanto.py in tests/golden/model): scales of a sound that was transcribed while
 * calibrating, and what the frozen model says. */
#include <nibble/nn.h>

#include "golden_whisper.h"
#include "quant/scheme.h"

#define QUANTO GOLDEN "whisper_quanto.safetensors"

typedef struct scales {
    nib_ctx *ctx;
    const char *name;
    int count;
    double most; /* how far the farthest is, of its size */
    char where[256];
} scales;

static void look(scales *s, const char *module, const char *what, double got) {
    char name[200];
    snprintf(name, sizeof name, "%s:%s.%s", s->name, module, what);
    nib_tensor *want = stored(s->ctx, QUANTO, name);
    const double wanted = want ? (double)*(const float *)nib_tensor_data(want) : NAN;
    const double off = fabs(got / wanted - 1);
    if (!(off <= s->most))
        snprintf(s->where, sizeof s->where, "%s: %g, want %g", name, got, wanted);
    if (!(off <= s->most)) s->most = off;
    s->count++;
    nib_tensor_free(want);
}

static void see(void *user, const nib_calibrated *row) {
    scales *s = user;
    /* A norm has no input scale here or there. */
    if (row->inputs) look(s, row->name, "input_scale", (double)row->input_scale);
    if (row->outputs) look(s, row->name, "output_scale", (double)row->output_scale);
}

/* `scale`, `logits`: how far both may be from upstream's. Where a sum that torch adds in another
 * order stands at a tie, its code is the next one, and what follows moves with it. */
static void check_case(void **state_, const char *name, const char *config_text, bool times,
                       double scale, double logits) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    nib_model *m = load(ctx, "whisper_f32");
    nib_config *config = nib_config_parse(config_text);
    CHECK_MADE(m);
    CHECK_MADE(config);
    const nib_transcribe_options how = {.timestamps = times};
    nib_tensor *heard = sound(ctx, SHORT);
    scales s = {.ctx = ctx, .name = name};
    const bool waits = strstr(config_text, "activations") != NULL;
    if (waits) {
        CHECK_OK(nib_calibrate_begin(m->root, config, NULL));
        CHECK_OK(nib_transcribe(ctx, m, heard, &how, NULL));
        CHECK_OK(nib_calibrate_end(m->root, &(nib_calibration){.row = see, .user = &s}));
        CHECK_OK(nib_freeze(m->root));
    } else {
        CHECK_OK(nib_quantize(m->root, config, NULL));
    }
    char key[64];
    nib_tensor *t[4];
    static const char *const names[] = {"mel", "ids", "logits", "said"};
    for (int i = 0; i < 4; i++) {
        snprintf(key, sizeof key, "%s:%s", name, names[i]);
        CHECK_MADE(t[i] = stored(ctx, QUANTO, key));
    }
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *encoded = m->arch->encode(&m->hparams, m->root, t[0]);
    CHECK_MADE(encoded);
    const double said = apart(logits_of(state_, ctx, m, encoded, t[1]), t[2]);
    nib_scope_end(ctx, mark);
    nib_ids ids = {0};
    CHECK_OK(nib_transcribe(ctx, m, heard, &how, &ids));
    const bool same = (int64_t)ids.count == nib_tensor_count(t[3]) &&
                      memcmp(ids.data, nib_tensor_data(t[3]), ids.count * sizeof *ids.data) == 0;
    print_message("%-10s %d scales at most %.1e off (%s); logits %.1e of the "
                  "largest; ids %s\n",
                  name, s.count, s.most, s.where, said, same ? "equal" : "differ");
    if (!(s.most <= scale) || !(said <= logits) || !same || (waits && s.count < 32))
        FAIL_AT("%s: see above", name);
    nib_ids_free(&ids);
    for (int i = 0; i < 4; i++) nib_tensor_free(t[i]);
    nib_tensor_free(heard);
    nib_config_free(config);
    nib_model_free(m);
    nib_ctx_free(ctx);
}

TEST(scales_of_a_transcribed_sound_are_upstreams_and_the_frozen_model_says_the_same) {
    NEEDS_SCHEME("qint8");
    check_case(state_, "w8a8", "quanto:weights=qint8,activations=qint8,streamline=off", false, 1e-4,
               1e-4);
    check_case(state_, "w8a8.times", "quanto:weights=qint8,activations=qint8,streamline=off", true,
               1e-4, 2e-2);
    check_case(state_, "upstream", "quanto:weights=qint8,activations=qint8,calibration=upstream",
               false, 1e-4, 1e-4);
    check_case(state_, "w4a8", "quanto:weights=qint4,activations=qint8,streamline=off", false, 1e-4,
               2e-2);
    check_case(state_, "w4f8", "quanto:weights=qint4,activations=qfloat8_e4m3fn,streamline=off",
               false, 1e-2, 1e-1);
    check_case(state_, "w8", "quanto:weights=qint8", false, 0, 1e-4);
}

/* ---- data of sounds ---- */

TEST(a_folder_of_sounds_is_data_and_what_runs_is_what_is_said) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *m = load(ctx, "whisper_f32");
    size_t size = 0;
    char *wav = test_read(GOLDEN "whisper_sound.wav", &size);
    TEST_FOLDER(in);
    test_write(IN(in, "b.wav"), wav, size);
    test_write(IN(in, "a.WAV"), wav, size);
    test_write(IN(in, "words.txt"), "no sound", 8);
    nib_data one = {.file = GOLDEN "whisper_sound.wav"}, all = {.file = in},
             few = {.file = in, .samples = 1}, brief = {.file = in, .samples = 1, .context = 1};
    nib_tensor *heard = sound(ctx, 0);
    nib_ids ids = {0};
    CHECK_OK(nib_transcribe(ctx, m, heard, NULL, &ids));
    CHECK_OK(nib_model_feed(ctx, m, &one));
    CHECK_OK(nib_model_feed(ctx, m, &all));
    CHECK_OK(nib_model_feed(ctx, m, &few));
    CHECK_OK(nib_model_feed(ctx, m, &brief));
    CHECK_INT(one.tokens, (int64_t)ids.count);
    CHECK_INT(all.tokens, 2 * one.tokens);
    CHECK_INT(few.tokens, one.tokens);
    CHECK(brief.tokens < one.tokens);
    nib_ids_free(&ids);
    nib_tensor_free(heard);
    free(wav);
    test_folder_remove(in);
    nib_model_free(m);
    nib_ctx_free(ctx);
}

TEST(what_is_no_data_of_sounds_is_one_clear_error) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *m = load(ctx, "whisper_f32"), *reads = load(ctx, "opt_norm_before");
    TEST_FOLDER(in);
    test_write(IN(in, "words.txt"), "no sound", 8);
    CHECK_FAILS(nib_model_feed(ctx, m, &(nib_data){.file = IN(in, "words.txt")}), NIB_E_FORMAT,
                "no sound that is known");
    CHECK_FAILS(nib_model_feed(ctx, m, &(nib_data){.file = in}), NIB_E_FORMAT,
                "no file in this folder is named as a sound");
    CHECK_FAILS(nib_model_feed(ctx, m, &(nib_data){.file = IN(in, "none.wav")}), NIB_E_IO, "");
    CHECK_FAILS(nib_model_feed(ctx, m, &(nib_data){0}), NIB_E_ARGUMENT, "no file of data");
    CHECK_FAILS(nib_model_feed(ctx, m, &(nib_data){.file = in, .samples = -1}), NIB_E_ARGUMENT,
                "-1 samples");
    CHECK_FAILS(nib_model_feed(ctx, reads, &(nib_data){.file = GOLDEN "whisper_sound.wav"}),
                NIB_E_ARGUMENT, "reads text");
    CHECK_TEXT(nib_last_error()->path, GOLDEN "whisper_sound.wav");
    test_folder_remove(in);
    nib_model_free(m);
    nib_model_free(reads);
    nib_ctx_free(ctx);
}

typedef struct compared {
    int rows;
    double last;
    bool sorted, decoder, encoder, cross;
} compared;

static void see_compared(void *user, const nib_compared *row) {
    compared *c = user;
    c->sorted &= row->sqnr_db >= c->last;
    c->last = row->sqnr_db;
    c->rows++;
    c->encoder |= strcmp(row->name, "model.encoder.layers.0.fc1") == 0;
    c->cross |= strcmp(row->name, "model.decoder.layers.1.encoder_attn.k_proj") == 0;
    c->decoder |= strcmp(row->name, "model.decoder.layers.1.self_attn.q_proj") == 0;
}

TEST(layers_of_encoder_and_decoder_are_compared_on_what_is_said) {
    NEEDS_SCHEME("qint4");
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *m = load(ctx, "whisper_f32"), *coarse = load(ctx, "whisper_f32"),
              *fine = load(ctx, "whisper_f32");
    CHECK_OK(nib_quantize(coarse->root, NIB_QUANTO(.weights = "qint4"), NULL));
    CHECK_OK(nib_quantize(fine->root, NIB_QUANTO(.weights = "qint8"), NULL));
    compared seen = {.sorted = true, .last = -INFINITY};
    nib_comparison a = {.row = see_compared, .user = &seen, .try_worst = 2}, b = {.try_worst = 1};
    nib_data data = {.file = GOLDEN "whisper_sound.wav"};
    CHECK_OK(nib_model_compare(ctx, coarse, m, &data, &a));
    CHECK(data.tokens > 0);
    CHECK_OK(nib_model_compare(ctx, fine, m, &data, &b));
    CHECK_INT(seen.rows, 32); /* six linears of two layers, and ten */
    CHECK_INT(a.modules, 32);
    CHECK(seen.sorted && seen.encoder && seen.decoder && seen.cross);
    CHECK(b.kl > 0 && b.kl < a.kl);
    nib_model_free(m);
    nib_model_free(coarse);
    nib_model_free(fine);
    nib_ctx_free(ctx);
}

TESTS(RUNS(scales_of_a_transcribed_sound_are_upstreams_and_the_frozen_model_says_the_same),
      RUNS(a_folder_of_sounds_is_data_and_what_runs_is_what_is_said),
      RUNS(what_is_no_data_of_sounds_is_one_clear_error),
      RUNS(layers_of_encoder_and_decoder_are_compared_on_what_is_said))
