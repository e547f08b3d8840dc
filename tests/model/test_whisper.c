/* Whisper against transformers (make_whisper.py in tests/golden/model says how the cases were
 * made), and what a model, a sound and options may be. */
#include <jansson.h>

#include "golden_whisper.h"
#include "model/step.h"

static const char *const cases[] = {"whisper_f32", "whisper_forced_f16", "whisper_scaled_untied",
                                    "whisper_english"};
enum { CASES = sizeof cases / sizeof *cases };

TEST(what_is_encoded_and_every_logit_agree_with_transformers) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (int i = 0; i < CASES; i++) {
        nib_model *m = load(ctx, cases[i]);
        CHECK_MADE(m);
        nib_tensor *mel = reference(ctx, cases[i], "mel"),
                   *want = reference(ctx, cases[i], "encoded"),
                   *ids = reference(ctx, cases[i], "ids"),
                   *logits = reference(ctx, cases[i], "logits");
        nib_tensor *taken = sound(ctx, SHORT);
        nib_tensor *own = nib_log_mel(taken, m->hparams.speech.num_mel_bins, 16000);
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *encoded = m->arch->encode(&m->hparams, m->root, mel);
        CHECK_MADE(encoded);
        const double heard = apart(encoded, want),
                     said = apart(logits_of(state_, ctx, m, encoded, ids), logits);
        print_message("%-24s mel off by %.2e, encoder %.2e, logits %.2e of the largest\n", cases[i],
                      apart(own, mel), heard, said);
        if (!(heard <= 1e-4) || !(said <= 1e-4))
            FAIL_AT("%s: encoder off by %g, logits by %g of the largest", cases[i], heard, said);
        nib_scope_end(ctx, mark);
        nib_tensor *const made[] = {mel, want, ids, logits, taken, own};
        for (size_t k = 0; k < sizeof made / sizeof *made; k++) nib_tensor_free(made[k]);
        nib_model_free(m);
    }
    nib_ctx_free(ctx);
}

static const struct {
    const char *name;
    nib_transcribe_options how;
    bool whole;
} asked[] = {
    {"said.", {0}, false},
    {"said.times", {.timestamps = true}, false},
    {"said.en", {.language = "en"}, false},
    {"said.times.de", {.language = "<|de|>", .timestamps = true}, false},
    {"said.en.translate", {.language = "en", .task = "translate"}, false},
    {"said.times.long", {.timestamps = true}, true},
};
enum { ASKED = sizeof asked / sizeof *asked };

static void transcribes_as(void **state_, nib_ctx *ctx, const nib_model *m, const char *name,
                           int row) {
    nib_tensor *want = reference(ctx, name, asked[row].name);
    if (!want) return;
    nib_tensor *s = sound(ctx, asked[row].whole ? 0 : SHORT);
    nib_ids ids = {0};
    CHECK_OK(nib_transcribe(ctx, m, s, &asked[row].how, &ids));
    const int32_t *wanted = nib_tensor_data(want);
    const size_t n = (size_t)nib_tensor_count(want);
    for (size_t i = 0; i < n && i < ids.count; i++)
        if (ids.data[i] != wanted[i])
            FAIL_AT("%s %s: id %zu is %d, want %d", name, asked[row].name, i, (int)ids.data[i],
                    (int)wanted[i]);
    if (ids.count != n) FAIL_AT("%s %s: %zu ids, want %zu", name, asked[row].name, ids.count, n);
    nib_ids_free(&ids);
    nib_tensor_free(s);
    nib_tensor_free(want);
}

TEST(ids_of_every_case_equal_those_of_generate) {
    for (int threads = 1; threads <= 3; threads += 2) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        for (int i = 0; i < CASES; i++) {
            nib_model *m = load(ctx, cases[i]);
            CHECK_MADE(m);
            for (int row = 0; row < ASKED; row++) transcribes_as(state_, ctx, m, cases[i], row);
            nib_model_free(m);
        }
        nib_ctx_free(ctx);
    }
}

typedef struct pieces {
    int count, text, calls_left; /* 0: as many as there are */
    double last;
    bool back;
} pieces;

static nib_status see(void *user, const nib_spoken *piece) {
    pieces *p = user;
    p->count++;
    p->text += (int)piece->count;
    p->back |= piece->end < piece->start || piece->start < p->last;
    p->last = piece->start;
    for (size_t i = 0; i < piece->count; i++) p->back |= piece->ids[i] > 106;
    return --p->calls_left ? NIB_OK : NIB_E_CANCELLED;
}

TEST(pieces_hold_text_alone_and_go_forward_in_time) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *m = load(ctx, "whisper_f32");
    nib_tensor *s = sound(ctx, 0);
    nib_ids with = {0}, without = {0};
    pieces p = {0}, q = {0};
    CHECK_OK(nib_transcribe(
        ctx, m, s, &(nib_transcribe_options){.timestamps = true, .piece = see, .user = &p}, &with));
    CHECK_OK(
        nib_transcribe(ctx, m, s, &(nib_transcribe_options){.piece = see, .user = &q}, &without));
    CHECK(p.count >= 3 && !p.back);
    CHECK_INT(p.count, q.count);
    CHECK_INT(without.count, p.text);
    CHECK(with.count > without.count);
    pieces one = {.calls_left = 1};
    CHECK_INT(
        nib_transcribe(ctx, m, s, &(nib_transcribe_options){.piece = see, .user = &one}, NULL),
        NIB_E_CANCELLED);
    CHECK_INT(one.count, 1);
    nib_ids_free(&with);
    nib_ids_free(&without);
    nib_tensor_free(s);
    nib_model_free(m);
    nib_ctx_free(ctx);
}

/* ---- text ---- */

typedef struct telling {
    void **state_;
    nib_tokenizer *tokenizer;
    const json_t *pieces; /* NULL: none are told */
    size_t count;
    nib_string text;
} telling;

static nib_status tell(void *user, const nib_spoken *piece) {
    telling *t = user;
    void **state_ = t->state_;
    nib_string own = {0};
    CHECK_OK(nib_tokenizer_decode(t->tokenizer, piece->ids, piece->count, true, &own));
    CHECK_OK(nib_tokenizer_decode(t->tokenizer, piece->ids, piece->count, true, &t->text));
    const json_t *want = json_array_get(t->pieces, t->count++);
    if (want) {
        CHECK_TEXT(own.data, json_string_value(json_object_get(want, "text")));
        CHECK_NEAR(piece->start, json_number_value(json_object_get(want, "start")), 1e-6);
        CHECK_NEAR(piece->end, json_number_value(json_object_get(want, "end")), 1e-6);
    }
    nib_string_free(&own);
    return NIB_OK;
}

TEST(text_and_segments_are_those_of_the_library) {
    static const struct {
        const char *name;
        nib_transcribe_options how;
        bool whole;
    } told[] = {{"", {0}, false},
                {"times", {.timestamps = true}, false},
                {"en.times", {.timestamps = true, .language = "en"}, false},
                {"times.long", {.timestamps = true}, true}};
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *m = load(ctx, "whisper_text");
    json_t *wanted = json_load_file(GOLDEN "whisper_text/reference.json", 0, NULL);
    CHECK_MADE(m);
    CHECK(wanted);
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        const json_t *want = json_object_get(wanted, told[i].name);
        nib_tensor *s = sound(ctx, told[i].whole ? 0 : SHORT);
        telling t = {.state_ = state_,
                     .tokenizer = nib_tokenizer_load(ctx, GOLDEN "whisper_text"),
                     .pieces = json_object_get(want, "pieces")};
        nib_transcribe_options how = told[i].how;
        how.piece = tell;
        how.user = &t;
        CHECK_MADE(t.tokenizer);
        CHECK_OK(nib_transcribe(ctx, m, s, &how, NULL));
        if (t.pieces) CHECK_INT(t.count, json_array_size(t.pieces));
        CHECK_TEXT(t.text.data, json_string_value(json_object_get(want, "text")));
        nib_string_free(&t.text);
        nib_tokenizer_free(t.tokenizer);
        nib_tensor_free(s);
    }
    json_decref(wanted);
    nib_model_free(m);
    nib_ctx_free(ctx);
}

TEST(a_sound_or_option_that_no_model_takes_is_one_clear_error) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *m = load(ctx, "whisper_f32"), *english = load(ctx, "whisper_english"),
              *deaf = load(ctx, "opt_norm_before");
    nib_tensor *s = sound(ctx, SHORT);
    nib_tensor *flat = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {2, 8}});
    nib_tensor *whole = nib_tensor_new(ctx, NIB_I32, (nib_shape){1, {8}});
    CHECK_FAILS(nib_transcribe(ctx, deaf, s, NULL, NULL), NIB_E_UNSUPPORTED, "hears no sound");
    CHECK_FAILS(nib_transcribe(ctx, m, flat, NULL, NULL), NIB_E_SHAPE, "a sound is a vector");
    CHECK_FAILS(nib_transcribe(ctx, m, whole, NULL, NULL), NIB_E_SHAPE, "a sound is a vector");
    CHECK_FAILS(nib_transcribe(ctx, m, s, &(nib_transcribe_options){.language = "xx"}, NULL),
                NIB_E_ARGUMENT, "\"xx\" is not one of the model's: en de");
    CHECK_FAILS(nib_transcribe(ctx, m, s, &(nib_transcribe_options){.task = "sing"}, NULL),
                NIB_E_ARGUMENT, "task \"sing\" is not known");
    CHECK_FAILS(nib_transcribe(ctx, english, s, &(nib_transcribe_options){.language = "en"}, NULL),
                NIB_E_ARGUMENT, "English only");
    CHECK_FAILS(nib_transcribe(ctx, m, s, &(nib_transcribe_options){.max_tokens = -1}, NULL),
                NIB_E_ARGUMENT, "max_tokens is -1");
    CHECK_FAILS(nib_transcribe(ctx, m, s, &(nib_transcribe_options){.kv = "int5"}, NULL),
                NIB_E_ARGUMENT, "int5");
    nib_session *talk = nib_session_new(ctx, m, NULL);
    CHECK_MADE(talk);
    CHECK_FAILS(nib_session_feed(talk, &(int32_t){5}, 1), NIB_E_UNSUPPORTED, "nib_transcribe");
    nib_session_free(talk);
    nib_tensor_free(flat);
    nib_tensor_free(whole);
    nib_tensor_free(s);
    nib_model_free(m);
    nib_model_free(english);
    nib_model_free(deaf);
    nib_ctx_free(ctx);
}

/* ---- the compiled step ---- */

typedef struct listening {
    nib_kvcache cache, heard;
} listening;

static void open_listening(void **state_, nib_ctx *ctx, const nib_model *m, const char *kv,
                           nib_tensor *mel, listening *l) {
    const nib_hparams *h = &m->hparams;
    nib_kvcache *both[] = {&l->cache, &l->heard};
    for (int i = 0; i < 2; i++)
        CHECK_OK(nib_kvcache_init(ctx, nib_kv_kind_find(kv), h->num_hidden_layers,
                                  h->num_key_value_heads, h->head_dim, both[i]));
    CHECK_OK(nib_kvcache_reserve(&l->heard, h->speech.max_source_positions, 0));
    const size_t mark = nib_scope_begin(ctx);
    CHECK_OK(m->arch->hear(h, m->root, m->arch->encode(h, m->root, mel), &l->heard));
    nib_scope_end(ctx, mark);
    l->cache.heard = &l->heard;
}

static void run_ids(void **state_, nib_ctx *ctx, const nib_model *m, listening *l,
                    const int32_t *ids, int64_t start, int64_t n, float *logits) {
    const nib_segment segment = {&l->cache, start, n, start + n};
    const nib_batch batch = {.ctx = ctx,
                             .tokens = ids,
                             .segments = &segment,
                             .nsegments = 1,
                             .M = n,
                             .logits = NIB_WANT_LAST};
    nib_tensor *t = NULL;
    const size_t mark = nib_scope_begin(ctx);
    CHECK_OK(nib_kvcache_reserve(&l->cache, start + n, start));
    CHECK_OK(m->arch->forward(&m->hparams, m->root, &batch, &t));
    memcpy(logits, nib_tensor_data(t), (size_t)m->hparams.vocab_size * sizeof *logits);
    nib_scope_end(ctx, mark);
}

/* Both ways side by side, in two windows with other sounds: the step stays the same. */
static void race(void **state_, const char *name, const char *scheme, const char *kv, int threads) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    nib_config *config = scheme ? nib_config_parse(scheme) : NULL;
    nib_model *m = nib_model_load(ctx, IN(GOLDEN, name), &(nib_load_options){.quantize = config});
    CHECK_MADE(m);
    CHECK_OK(nib_model_prepare(ctx, m));
    const int V = m->hparams.vocab_size, most = m->hparams.max_position_embeddings;
    nib_tensor *mel = reference(ctx, name, "mel");
    nib_step *step = NULL;
    listening l[2] = {0};
    float want[512];
    for (int i = 0; i < 2; i++) open_listening(state_, ctx, m, kv, mel, &l[i]);
    uint64_t random = test_seed();
    for (int window = 0; window < 2; window++) {
        for (int64_t i = 0; window && i < nib_tensor_count(mel); i++)
            ((float *)nib_tensor_data_mut(mel))[i] *= -0.5f;
        for (int i = 0; window && i < 2; i++) {
            const size_t mark = nib_scope_begin(ctx);
            CHECK_OK(m->arch->hear(&m->hparams, m->root, m->arch->encode(&m->hparams, m->root, mel),
                                   &l[i].heard));
            nib_scope_end(ctx, mark);
        }
        const int32_t first[] = {101, 102, 105};
        for (int i = 0; i < 2; i++) run_ids(state_, ctx, m, &l[i], first, 0, 3, want);
        for (int at = 3; at < most; at++) {
            const int32_t id = (int32_t)(test_random(&random) % 100);
            const nib_step_row row = {&l[1].cache, at, id};
            const float *got;
            run_ids(state_, ctx, m, &l[0], &id, at, 1, want);
            CHECK_OK(nib_kvcache_reserve(&l[1].cache, at + 1, at));
            if (!step) CHECK_MADE(step = nib_step_new(ctx, m, &row, 1, NULL));
            CHECK_OK(nib_step_run(step, &row, &got));
            if (memcmp(got, want, (size_t)V * sizeof *got) != 0)
                FAIL_AT("%s %s %s: window %d, after id %d the compiled step differs", name,
                        scheme ? scheme : "", kv, window, at);
        }
    }
    nib_step_free(step);
    for (int i = 0; i < 2; i++) {
        nib_kvcache_free(&l[i].cache);
        nib_kvcache_free(&l[i].heard);
    }
    nib_tensor_free(mel);
    nib_config_free(config);
    nib_model_free(m);
    nib_ctx_free(ctx);
}

TEST(the_compiled_step_has_the_bits_of_the_forward_in_every_window) {
    static const char *const kinds[] = {"float", "int8", "int4", "fp8"};
    for (int i = 0; i < CASES; i++)
        for (int threads = 1; threads <= 3; threads += 2)
            race(state_, cases[i], NULL, "float", threads);
    for (size_t k = 1; k < sizeof kinds / sizeof *kinds; k++)
        race(state_, "whisper_f32", NULL, kinds[k], 2);
    race(state_, "whisper_f32", "int8_weight_only", "float", 2);
    race(state_, "whisper_f32", "int8_dynamic_activation_int8_weight", "float", 2);
}

TEST(compiled_or_not_the_same_ids_are_said) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *m = load(ctx, "whisper_f32");
    nib_tensor *s = sound(ctx, 0);
    nib_ids ids[2] = {{0}, {0}};
    for (int i = 0; i < 2; i++)
        CHECK_OK(nib_transcribe(
            ctx, m, s,
            &(nib_transcribe_options){.timestamps = true,
                                      .compile = i ? NIB_COMPILE_ALWAYS : NIB_COMPILE_NEVER},
            &ids[i]));
    CHECK_INT(ids[0].count, ids[1].count);
    CHECK(ids[0].count && memcmp(ids[0].data, ids[1].data, ids[0].count * sizeof(int32_t)) == 0);
    for (int i = 0; i < 2; i++) nib_ids_free(&ids[i]);
    nib_tensor_free(s);
    nib_model_free(m);
    nib_ctx_free(ctx);
}

TEST(a_quantized_checkpoint_says_what_quantizing_while_loading_says) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(out);
    const nib_config *config = NIB_INT8_WEIGHT_ONLY();
    CHECK_OK(nib_quantize_file(ctx, GOLDEN "whisper_f32", IN(out, "q"), &(nib_rule){"*", config}, 1,
                               NULL, NULL));
    nib_model *stored = nib_model_load(ctx, IN(out, "q"), NULL),
              *now = nib_model_load(ctx, GOLDEN "whisper_f32",
                                    &(nib_load_options){.quantize = config});
    CHECK_MADE(stored);
    CHECK_MADE(now);
    nib_module *conv = nib_module_child(stored->root, "model.encoder.conv1");
    CHECK(conv && !nib_module_parameter(conv, "weight")->layout);
    nib_module *across = nib_module_child(now->root, "model.decoder.layers.1.encoder_attn.k_proj");
    CHECK(across && nib_module_parameter(across, "weight")->layout);
    nib_tensor *s = sound(ctx, SHORT);
    nib_ids a = {0}, b = {0};
    CHECK_OK(nib_transcribe(ctx, stored, s, NULL, &a));
    CHECK_OK(nib_transcribe(ctx, now, s, NULL, &b));
    CHECK_INT(a.count, b.count);
    CHECK(a.count && memcmp(a.data, b.data, a.count * sizeof *a.data) == 0);
    nib_ids_free(&a);
    nib_ids_free(&b);
    nib_tensor_free(s);
    test_folder_remove(out);
    nib_model_free(stored);
    nib_model_free(now);
    nib_ctx_free(ctx);
}

TEST(a_tied_head_that_is_quantized_has_the_name_that_the_model_reads) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    TEST_FOLDER(out);
    const nib_config *config = NIB_INT8_WEIGHT_ONLY();
    const nib_select select = {.head = true};
    CHECK_OK(nib_quantize_file(ctx, GOLDEN "whisper_f32", IN(out, "q"), &(nib_rule){"*", config}, 1,
                               &select, NULL));
    CHECK_OK(nib_verify_file(ctx, IN(out, "q"), GOLDEN "whisper_f32", NULL));
    nib_model *stored = nib_model_load(ctx, IN(out, "q"), NULL),
              *now = nib_model_load(ctx, GOLDEN "whisper_f32", NULL);
    CHECK_MADE(stored);
    CHECK_MADE(now);
    CHECK_OK(nib_quantize(now->root, config, &select));
    const char *const head = "proj_out";
    CHECK(nib_module_parameter(nib_module_child(stored->root, head), "weight")->layout);
    CHECK(nib_module_parameter(nib_module_child(now->root, head), "weight")->layout);
    nib_tensor *s = sound(ctx, SHORT);
    nib_ids a = {0}, b = {0};
    CHECK_OK(nib_transcribe(ctx, stored, s, NULL, &a));
    CHECK_OK(nib_transcribe(ctx, now, s, NULL, &b));
    CHECK_INT(a.count, b.count);
    CHECK(a.count && memcmp(a.data, b.data, a.count * sizeof *a.data) == 0);
    nib_ids_free(&a);
    nib_ids_free(&b);
    nib_tensor_free(s);
    nib_model_free(stored);
    nib_model_free(now);
    test_folder_remove(out);
    nib_ctx_free(ctx);
}

TESTS(RUNS(what_is_encoded_and_every_logit_agree_with_transformers),
      RUNS(ids_of_every_case_equal_those_of_generate),
      RUNS(pieces_hold_text_alone_and_go_forward_in_time),
      RUNS(text_and_segments_are_those_of_the_library),
      RUNS(a_sound_or_option_that_no_model_takes_is_one_clear_error),
      RUNS(the_compiled_step_has_the_bits_of_the_forward_in_every_window),
      RUNS(compiled_or_not_the_same_ids_are_said),
      RUNS(a_quantized_checkpoint_says_what_quantizing_while_loading_says),
      RUNS(a_tied_head_that_is_quantized_has_the_name_that_the_model_reads))
