/* Sessions: the same bits however work is cut, and clear refusals. */
#include <errno.h>
#include <nibble/nn.h>

#include "base/mem.h"
#include "base/sys.h"
#include "golden_model.h"
#include "model/arch.h"
#include "tensor/context.h"
#include "test_files.h"

/* Cases that between them use every part of the forward pass. */
static const char *const samples[] = {
    "llama_gqa_bf16",           "llama_attention_bias", "llama_rope_llama3",
    "mistral_window",           "qwen2_layer_types",    "qwen3_qk_norm",
    "opt_norm_after_projected", "gpt2_inner",           "bloom_six_heads"};
enum { SAMPLES = sizeof samples / sizeof *samples, LONG = 300, NEW = 8, MAX_V = 64 };

/* A prompt longer than one chunk and several attention blocks. */
static void long_prompt(int32_t *ids) {
    uint64_t state = test_seed();
    for (int i = 0; i < LONG; i++) ids[i] = (int32_t)(3 + test_random(&state) % 61);
}

typedef struct trace {
    float logits[NEW + 1][MAX_V];
    int32_t ids[NEW];
} trace;

/* Feed in pieces of `piece` tokens, then take NEW tokens; everything seen on the way. */
static void converse_with(void **state_, nib_ctx *ctx, const nib_model *model, const char *kv,
                          int piece, trace *out) {
    int32_t prompt[LONG];
    long_prompt(prompt);
    memset(out, 0, sizeof *out);
    nib_session *s = nib_session_new(
        ctx, model, &(nib_session_options){.ignore_eos = true, .max_tokens = LONG + NEW, .kv = kv});
    CHECK_MADE(s);
    for (int i = 0; i < LONG; i += piece)
        CHECK_OK(nib_session_feed(s, prompt + i, (size_t)(LONG - i < piece ? LONG - i : piece)));
    for (int k = 0; k <= NEW; k++) {
        size_t count;
        if (k) CHECK_OK(nib_session_next(s, &out->ids[k - 1]));
        const float *logits = nib_session_logits(s, &count);
        CHECK_MADE(logits);
        CHECK_INT(count, MAX_V);
        memcpy(out->logits[k], logits, sizeof out->logits[k]);
    }
    nib_session_free(s);
}

static void converse(void **state_, nib_ctx *ctx, const nib_model *model, int piece, trace *out) {
    converse_with(state_, ctx, model, NULL, piece, out);
}

static nib_model *load(void **state_, nib_ctx *ctx, const char *name) {
    char folder[256];
    snprintf(folder, sizeof folder, GOLDEN "%s", name);
    nib_model *model = nib_model_load(ctx, folder, NULL);
    CHECK_MADE(model);
    return model;
}

TEST(logits_are_the_same_bits_for_any_cut_of_the_prompt) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    for (int c = 0; c < SAMPLES; c++) {
        nib_model *model = load(state_, ctx, samples[c]);
        trace whole, cut;
        converse(state_, ctx, model, LONG, &whole);
        static const int pieces[] = {1, 2, 7, 63, 64, 65, 255, 256, 299};
        for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
            converse(state_, ctx, model, pieces[i], &cut);
            CHECK_BYTES(&cut, &whole, sizeof whole);
        }
        nib_model_free(model);
    }
    nib_ctx_free(ctx);
}

static const char *const caches[] = {"int8", "int8_torchao", "int4", "fp8"};
enum { CACHES = sizeof caches / sizeof *caches };

TEST(a_quantized_cache_gives_the_same_bits_for_any_cut_and_any_threads_and_differs_from_float) {
    for (int c = 0; c < SAMPLES; c += 3) /* a window is among them */
        for (int kv = 0; kv < CACHES; kv++) {
            trace whole, cut, floats;
            for (int threads = 1; threads <= 3; threads++) {
                nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
                nib_model *model = load(state_, ctx, samples[c]);
                static const int pieces[] = {LONG, 1, 67, 256};
                converse_with(state_, ctx, model, caches[kv], pieces[threads],
                              threads == 1 ? &whole : &cut);
                if (threads > 1) CHECK_BYTES(&cut, &whole, sizeof whole);
                converse(state_, ctx, model, LONG, &floats);
                CHECK(memcmp(floats.logits, whole.logits, sizeof whole.logits) != 0);
                nib_model_free(model);
                nib_ctx_free(ctx);
            }
        }
}

TEST(a_cache_that_is_not_known_is_refused_by_name) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = load(state_, ctx, samples[0]);
    CHECK(!nib_session_new(ctx, model, &(nib_session_options){.kv = "int3"}));
    CHECK_INT(nib_last_error()->status, NIB_E_ARGUMENT);
    CHECK(strstr(nib_last_error()->what, "int3"));
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(logits_are_the_same_bits_for_any_number_of_threads) {
    static const int threads[] = {1, 2, 3, 4, 7, 8, 16};
    for (int c = 0; c < SAMPLES; c++) {
        trace first, other;
        for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads[i]});
            nib_model *model = load(state_, ctx, samples[c]);
            converse(state_, ctx, model, LONG, i ? &other : &first);
            if (i) CHECK_BYTES(&other, &first, sizeof first);
            nib_model_free(model);
            nib_ctx_free(ctx);
        }
    }
}

TEST(sessions_that_step_together_get_the_bits_they_get_alone) {
    enum { MOST = 19 }; /* over two groups of inputs of one op */
    nib_ctx *ctx = nib_ctx_new(NULL);
    int32_t prompt[LONG];
    long_prompt(prompt);
    for (int c = 0; c < SAMPLES; c++) {
        nib_model *model = load(state_, ctx, samples[c]);
        static float alone[MOST][NEW][MAX_V];
        for (int n = 1; n <= MOST; n += 6) {
            nib_session *s[MOST];
            for (int i = 0; i < n; i++) {
                s[i] = nib_session_new(ctx, model,
                                       &(nib_session_options){.ignore_eos = true,
                                                              .temperature = (float)(i % 3),
                                                              .seed = 5 + (uint64_t)i,
                                                              .max_tokens = 200});
                CHECK_MADE(s[i]);
                CHECK_OK(nib_session_feed(s[i], prompt + i, (size_t)(1 + i * 9)));
            }
            for (int k = 0; k < NEW; k++) {
                int32_t ids[MOST];
                CHECK_INT(nib_sessions_step(s, (size_t)n, ids), NIB_OK);
                for (int i = 0; i < n; i++) CHECK(ids[i] >= 0);
                for (int i = 0; i < n; i++) {
                    if (n == MOST)
                        memcpy(alone[i][k], nib_session_logits(s[i], NULL), sizeof alone[i][k]);
                }
            }
            for (int i = 0; i < n; i++) nib_session_free(s[i]);
        }
        for (int i = 0; i < MOST; i++) {
            nib_session *s = nib_session_new(ctx, model,
                                             &(nib_session_options){.ignore_eos = true,
                                                                    .temperature = (float)(i % 3),
                                                                    .seed = 5 + (uint64_t)i,
                                                                    .max_tokens = 200});
            CHECK_OK(nib_session_feed(s, prompt + i, (size_t)(1 + i * 9)));
            for (int k = 0; k < NEW; k++) {
                int32_t id;
                CHECK_OK(nib_session_next(s, &id));
                CHECK_BYTES(nib_session_logits(s, NULL), alone[i][k], sizeof alone[i][k]);
            }
            nib_session_free(s);
        }
        nib_model_free(model);
    }
    nib_ctx_free(ctx);
}

TEST(an_end_stops_a_session_and_more_input_goes_on) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    golden g;
    CHECK(golden_open("llama_gqa_bf16", &g));
    nib_model *model = nib_model_load(ctx, g.folder, NULL);
    CHECK_MADE(model);
    CHECK_INT(model->hparams.neos, 1);
    model->hparams.eos[0] = g.greedy[2];
    nib_session *s = nib_session_new(ctx, model, NULL);
    int32_t id;
    CHECK_OK(nib_session_feed(s, g.prompt, g.nprompt));
    CHECK_INT(nib_session_next(s, &id), NIB_OK);
    CHECK_INT(nib_session_next(s, &id), NIB_OK);
    CHECK_INT(id, g.greedy[1]);
    CHECK_INT(nib_session_next(s, &id), NIB_END);
    CHECK_INT(id, -1);
    CHECK_INT(nib_session_next(s, &id), NIB_END);
    CHECK_OK(nib_session_feed(s, &g.greedy[2], 1));
    CHECK_INT(nib_session_next(s, &id), NIB_OK);
    CHECK_INT(id, g.greedy[3]);
    nib_session_free(s);
    nib_model_free(model);
    golden_close(&g);
    nib_ctx_free(ctx);
}

TEST(a_session_is_no_longer_than_a_table_of_learned_positions) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = load(state_, ctx, "opt_norm_before");
    CHECK(!nib_session_new(ctx, model, &(nib_session_options){.max_tokens = 129}));
    CHECK_INT(nib_last_error()->status, NIB_E_ARGUMENT);
    CHECK(strstr(nib_last_error()->what, "max_tokens is 129 but the model has positions for 128"));
    nib_session *s = nib_session_new(ctx, model, &(nib_session_options){.ignore_eos = true});
    CHECK_MADE(s);
    CHECK_OK(nib_session_feed(s, (int32_t[]){5, 6}, 2));
    int32_t id;
    int said = 0;
    while (nib_session_next(s, &id) == NIB_OK) said++;
    CHECK_INT(said, 126);
    nib_session_free(s);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(max_tokens_bounds_prompt_and_answer_together) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = load(state_, ctx, "llama_gqa_bf16");
    const int32_t prompt[] = {5, 6, 7, 8};
    nib_session *s =
        nib_session_new(ctx, model, &(nib_session_options){.max_tokens = 6, .ignore_eos = true});
    int32_t id;
    CHECK_OK(nib_session_feed(s, prompt, 4));
    CHECK_FAILS(nib_session_feed(s, prompt, 3), NIB_E_ARGUMENT, "raise max_tokens");
    CHECK_INT(nib_session_next(s, &id), NIB_OK);
    CHECK_INT(nib_session_next(s, &id), NIB_OK);
    CHECK_INT(nib_session_next(s, &id), NIB_END);
    nib_session_free(s);
    s = nib_session_new(ctx, model, NULL); /* 0: what the model allows */
    for (int i = 0; i < 32; i++) CHECK_OK(nib_session_feed(s, prompt, 4));
    CHECK_FAILS(nib_session_feed(s, prompt, 1), NIB_E_ARGUMENT, "128");
    nib_session_free(s);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(bad_calls_are_refused_and_leave_the_session_usable) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = load(state_, ctx, "llama_gqa_bf16");
    nib_session *s = nib_session_new(ctx, model, NULL), *pair[2] = {s, s};
    int32_t id;
    size_t count;
    CHECK_FAILS(nib_session_next(s, &id), NIB_E_ARGUMENT, "feed a prompt first");
    CHECK(!nib_session_logits(s, &count));
    CHECK_FAILS(nib_session_feed(s, &(int32_t){64}, 1), NIB_E_ARGUMENT,
                "outside the vocabulary of 64");
    CHECK_FAILS(nib_session_feed(s, &(int32_t){-1}, 1), NIB_E_ARGUMENT, "token -1");
    CHECK_OK(nib_session_feed(s, &(int32_t){63}, 1));
    CHECK_FAILS(nib_sessions_step(pair, 2, (int32_t[2]){0}), NIB_E_ARGUMENT, "are the same");
    CHECK_INT(nib_session_next(s, &id), NIB_OK);
    CHECK(!nib_session_new(ctx, model, &(nib_session_options){.temperature = -1}));
    CHECK(strstr(nib_last_error()->what, "temperature"));
    CHECK(!nib_session_new(ctx, model, &(nib_session_options){.max_tokens = -5}));
    CHECK(strstr(nib_last_error()->what, "max_tokens"));
    nib_session_free(s);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(a_failed_session_refuses_calls_with_the_same_cause) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = load(state_, ctx, "llama_gqa_bf16");
    nib_session *s = nib_session_new(ctx, model, NULL);
    nib_mem_fail_after(0, true);
    const nib_status failed = nib_session_feed(s, (int32_t[]){4, 5}, 2);
    nib_mem_fail_after(-1, false);
    CHECK_INT(failed, NIB_E_MEMORY);
    const nib_error cause = *nib_last_error();
    int32_t id;
    CHECK(!nib_tensor_new(ctx, (nib_dtype)99, (nib_shape){0})); /* another failure meanwhile */
    CHECK_INT(nib_session_next(s, &id), NIB_E_MEMORY);
    CHECK_TEXT(nib_last_error()->what, cause.what);
    CHECK_INT(nib_session_feed(s, (int32_t[]){4}, 1), NIB_E_MEMORY);
    CHECK(!nib_session_logits(s, NULL));
    nib_session_free(s);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(every_failed_allocation_over_load_and_two_tokens_is_reported_and_leaks_nothing) {
    static const char *const cases[] = {"qwen3_bias_tied", "llama_sharded"};
    for (int c = 0; c < 2; c++) {
        char folder[256];
        snprintf(folder, sizeof folder, GOLDEN "%s", cases[c]);
        bool done = false;
        for (long n = 0; !done; n++) {
            nib_mem_fail_after(n, false);
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
            nib_model *model = nib_model_load(ctx, folder, NULL);
            nib_session *s = nib_session_new(
                ctx, model,
                &(nib_session_options){.temperature = 1, .top_p = 0.9f, .ignore_eos = true});
            int32_t ids[2];
            const bool ran = nib_session_feed(s, (int32_t[]){4, 5, 6}, 3) == NIB_OK &&
                             nib_session_next(s, &ids[0]) == NIB_OK &&
                             nib_session_next(s, &ids[1]) == NIB_OK;
            done = nib_mem_fail_after(-1, false) <= n;
            if (done) CHECK(ran);
            if (!ran) CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
            nib_session_free(s);
            nib_model_free(model);
            if (ctx) CHECK_INT(ctx->owned_count, 0);
            nib_ctx_free(ctx);
            CHECK(n < 100000);
        }
    }
}

TEST(quantized_weights_give_the_same_bits_on_any_threads_batch_and_cut) {
    static const char *const schemes[] = {"int8_weight_only",
                                          "int4_weight_only:group_size=32",
                                          "intx_weight_only:bits=3,granularity=row",
                                          "float8_weight_only",
                                          "qint8",
                                          "qint4",
                                          "qint2",
                                          "qfloat8"};
    int tried = 0;
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        nib_config *config = nib_config_parse(schemes[i]);
        if (!config) continue; /* a build without this scheme */
        trace first, other;
        for (int threads = 1; threads <= 4; threads += 3) {
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
            nib_model *model = load(state_, ctx, "llama_gqa_bf16");
            CHECK_OK(
                nib_quantize(nib_model_root(model), config, &(nib_select){.leave_unfit = true}));
            converse(state_, ctx, model, LONG, threads == 1 ? &first : &other);
            if (threads > 1) CHECK_BYTES(&other, &first, sizeof first);
            converse(state_, ctx, model, 77, &other);
            CHECK_BYTES(&other, &first, sizeof first);
            nib_session *s[2];
            int32_t ids[2], prompt[LONG];
            long_prompt(prompt);
            for (int k = 0; k < 2; k++) {
                s[k] = nib_session_new(
                    ctx, model, &(nib_session_options){.ignore_eos = true, .max_tokens = 400});
                CHECK_OK(nib_session_feed(s[k], prompt, LONG - (size_t)k));
            }
            for (int k = 0; k < NEW; k++) CHECK_OK(nib_sessions_step(s, 2, ids));
            CHECK_BYTES(nib_session_logits(s[0], NULL), first.logits[NEW],
                        sizeof first.logits[NEW]);
            for (int k = 0; k < 2; k++) nib_session_free(s[k]);
            nib_model_free(model);
            nib_ctx_free(ctx);
        }
        nib_config_free(config);
        tried++;
    }
    print_message("%d schemes\n", tried);
}

TEST(weights_that_are_no_numbers_end_a_session_with_a_clear_error) {
    TEST_FOLDER(folder);
    size_t size = 0;
    char *bytes = test_read(GOLDEN "llama_mha_f32/config.json", &size);
    test_write(IN(folder, "config.json"), bytes, size);
    free(bytes);
    bytes = test_read(GOLDEN "llama_mha_f32/model.safetensors", &size);
    const float nan = NAN;
    memcpy(bytes + size - sizeof nan, &nan, sizeof nan);
    test_write(IN(folder, "model.safetensors"), bytes, size);
    free(bytes);
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, folder, NULL);
    nib_session *s = nib_session_new(ctx, model, NULL);
    CHECK_MADE(s);
    int32_t id;
    CHECK_OK(nib_session_feed(s, (int32_t[]){3, 4}, 2));
    CHECK_FAILS(nib_session_next(s, &id), NIB_E_FORMAT, "is NaN");
    CHECK_FAILS(nib_session_next(s, &id), NIB_E_FORMAT, "is NaN");
    nib_session_free(s);
    nib_model_free(model);
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TEST(every_failed_system_call_over_load_and_two_tokens_is_reported_or_harmless) {
    bool done = false;
    for (long n = 0; !done; n++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
        nib_sys_fail_after(n, EIO);
        nib_model *model = nib_model_load(ctx, GOLDEN "llama_sharded", NULL);
        nib_session *s = nib_session_new(ctx, model, &(nib_session_options){.ignore_eos = true});
        int32_t ids[2];
        const bool ran = nib_session_feed(s, (int32_t[]){4, 5, 6}, 3) == NIB_OK &&
                         nib_session_next(s, &ids[0]) == NIB_OK &&
                         nib_session_next(s, &ids[1]) == NIB_OK;
        done = nib_sys_fail_after(-1, 0) <= n;
        if (!ran) CHECK_INT(nib_last_error()->status, NIB_E_IO);
        if (done) CHECK(ran && n > 5);
        nib_session_free(s);
        nib_model_free(model);
        nib_ctx_free(ctx);
    }
}

TESTS(
    RUNS(quantized_weights_give_the_same_bits_on_any_threads_batch_and_cut),
    RUNS(weights_that_are_no_numbers_end_a_session_with_a_clear_error),
    RUNS(every_failed_system_call_over_load_and_two_tokens_is_reported_or_harmless),
    RUNS(logits_are_the_same_bits_for_any_cut_of_the_prompt),
    RUNS(a_quantized_cache_gives_the_same_bits_for_any_cut_and_any_threads_and_differs_from_float),
    RUNS(a_cache_that_is_not_known_is_refused_by_name),
    RUNS(logits_are_the_same_bits_for_any_number_of_threads),
    RUNS(sessions_that_step_together_get_the_bits_they_get_alone),
    RUNS(an_end_stops_a_session_and_more_input_goes_on),
    RUNS(a_session_is_no_longer_than_a_table_of_learned_positions),
    RUNS(max_tokens_bounds_prompt_and_answer_together),
    RUNS(bad_calls_are_refused_and_leave_the_session_usable),
    RUNS(a_failed_session_refuses_calls_with_the_same_cause),
    RUNS(every_failed_allocation_over_load_and_two_tokens_is_reported_and_leaks_nothing))
