/* The compiled step: the bits of the forward it was traced from, everywhere. */
#include "model/step.h"

#include <nibble/nn.h>

#include "base/mem.h"
#include "golden_model.h"
#include "tensor/context.h"

enum { PROMPT = 37 };

/* Both kinds side by side from a prompt to `most` tokens: logits and tokens are the same bits. */
static void race(void **state_, nib_ctx *ctx, const nib_model *model, int most, const char *kv,
                 const char *what) {
    nib_session *s[2];
    int32_t prompt[PROMPT], id[2];
    const int first = most / 2 < PROMPT ? most / 2 : PROMPT;
    uint64_t state = test_seed();
    for (int i = 0; i < PROMPT; i++) prompt[i] = (int32_t)(3 + test_random(&state) % 61);
    for (int k = 0; k < 2; k++) {
        s[k] = nib_session_new(
            ctx, model,
            &(nib_session_options){.ignore_eos = true,
                                   .max_tokens = most,
                                   .kv = kv,
                                   .compile = k ? NIB_COMPILE_ALWAYS : NIB_COMPILE_NEVER});
        CHECK_MADE(s[k]);
        CHECK_OK(nib_session_feed(s[k], prompt, (size_t)first));
    }
    for (int i = first; i < most; i++) {
        for (int k = 0; k < 2; k++) CHECK_OK(nib_session_next(s[k], &id[k]));
        size_t V;
        const float *want = nib_session_logits(s[0], &V), *got = nib_session_logits(s[1], NULL);
        if (id[0] != id[1] || memcmp(got, want, V * sizeof *got) != 0)
            FAIL_AT("%s: after token %d the compiled step differs", what, i);
    }
    for (int k = 0; k < 2; k++) nib_session_free(s[k]);
}

TEST(every_architecture_has_the_same_bits_compiled_until_its_last_position) {
    for (int c = 0; c < GOLDEN_CASES; c++) {
        for (int threads = 1; threads <= 3; threads += 2) {
            char folder[256];
            snprintf(folder, sizeof folder, GOLDEN "%s", golden_cases[c]);
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
            nib_model *model = nib_model_load(ctx, folder, NULL);
            CHECK_MADE(model);
            const int64_t most = nib_model_max_tokens(model);
            race(state_, ctx, model, most < 300 ? (int)most : 300, NULL, golden_cases[c]);
            nib_model_free(model);
            nib_ctx_free(ctx);
        }
    }
}

TEST(every_scheme_has_the_same_bits_compiled_on_every_instruction_set) {
    static const char *const levels[] = {"ref", "avx2", ""};
    const char *scheme, *doc;
    int tried = 0;
    for (size_t i = 0; (scheme = nib_list("scheme", i, &doc)); i++) {
        for (size_t k = 0; k < sizeof levels / sizeof *levels; k++) {
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2, .isa = levels[k]});
            if (!ctx) continue; /* another kind of machine names other levels */
            nib_config *config = nib_config_parse(scheme);
            nib_model *model = nib_model_load(ctx, GOLDEN "mistral_window", NULL);
            CHECK_MADE(config);
            if (nib_quantize(nib_model_root(model), config, &(nib_select){.leave_unfit = true}) >=
                NIB_OK) {
                race(state_, ctx, model, 80, NULL, scheme);
                tried++;
            }
            nib_config_free(config);
            nib_model_free(model);
            nib_ctx_free(ctx);
        }
    }
    print_message("%d schemes on instruction sets\n", tried);
    CHECK(tried > 0);
}

/* Static activations, found on a prompt, of every architecture. */
TEST(calibrated_models_have_the_same_bits_compiled) {
    static const char *const weights[] = {"qint8", "qint4", "qfloat8_e4m3fn"};
    for (int c = 0; c < GOLDEN_CASES; c++) {
        char folder[256];
        snprintf(folder, sizeof folder, GOLDEN "%s", golden_cases[c]);
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1 + c % 3});
        nib_model *model = nib_model_load(ctx, folder, NULL);
        CHECK_MADE(model);
        nib_module *root = nib_model_root(model);
        const nib_config *config =
            NIB_QUANTO(.weights = weights[c % 3],
                       .activations = c % 3 == 2 ? "qfloat8_e4m3fn" : "qint8",
                       .streamline = c % 2 ? "off" : "on");
        CHECK_OK(nib_quantize(root, config, &(nib_select){.leave_unfit = true}));
        CHECK_OK(nib_calibrate_begin(root, NULL, NULL));
        const int64_t most = nib_model_max_tokens(model);
        int32_t prompt[PROMPT];
        for (int i = 0; i < PROMPT; i++) prompt[i] = 3 + i % 61;
        nib_session *s = nib_session_new(ctx, model, NULL);
        CHECK_OK(nib_session_feed(s, prompt, (size_t)(most < PROMPT ? most / 2 : PROMPT)));
        nib_session_free(s);
        CHECK_OK(nib_calibrate_end(root, NULL));
        CHECK_OK(nib_freeze(root));
        race(state_, ctx, model, most < 60 ? (int)most : 60, NULL, golden_cases[c]);
        nib_model_free(model);
        nib_ctx_free(ctx);
    }
}

TEST(every_kind_of_cache_has_the_same_bits_compiled) {
    static const char *const kinds[] = {"float", "int8", "int4", "fp8", "int8_torchao"};
    static const char *const models[] = {"llama_gqa_bf16", "mistral_window", "qwen3_qk_norm"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (size_t c = 0; c < sizeof models / sizeof *models; c++) {
            char folder[256];
            snprintf(folder, sizeof folder, GOLDEN "%s", models[c]);
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
            nib_model *model = nib_model_load(ctx, folder, NULL);
            CHECK_MADE(model);
            race(state_, ctx, model, 110, kinds[i], kinds[i]);
            nib_model_free(model);
            nib_ctx_free(ctx);
        }
}

TEST(sessions_may_step_alone_and_together_in_any_turn) {
    enum { N = 3, STEPS = 20 };
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, GOLDEN "llama_gqa_bf16", NULL);
    nib_session *s[2][N];
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < N; i++) {
            s[k][i] = nib_session_new(
                ctx, model,
                &(nib_session_options){.ignore_eos = true,
                                       .compile = k ? NIB_COMPILE_ALWAYS : NIB_COMPILE_NEVER});
            CHECK_OK(nib_session_feed(s[k][i], (int32_t[]){5, 6, 7, 8 + i}, 4));
        }
    for (int step = 0; step < STEPS; step++) {
        int32_t ids[2][N];
        for (int k = 0; k < 2; k++) {
            if (step % 3 == 2)
                CHECK_OK(nib_sessions_step(s[k], N, ids[k]));
            else
                for (int i = 0; i < N; i++) CHECK_OK(nib_session_next(s[k][i], &ids[k][i]));
            if (step == 11) CHECK_OK(nib_session_feed(s[k][1], (int32_t[]){9, 9}, 2));
        }
        CHECK_BYTES(ids[1], ids[0], sizeof ids[0]);
        for (int i = 0; i < N; i++) {
            size_t V;
            const float *want = nib_session_logits(s[0][i], &V);
            CHECK_BYTES(nib_session_logits(s[1][i], NULL), want, V * sizeof *want);
        }
    }
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < N; i++) nib_session_free(s[k][i]);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TEST(a_token_allocates_nothing) {
    static const nib_session_options how[] = {
        {.compile = NIB_COMPILE_ALWAYS, .ignore_eos = true, .max_tokens = 120},
        {.compile = NIB_COMPILE_ALWAYS,
         .ignore_eos = true,
         .max_tokens = 120,
         .temperature = 0.8f,
         .top_k = 8,
         .top_p = 0.9f,
         .repetition_penalty = 1.2f}};
    static const char *const schemes[] = {NULL, "int8_weight_only", "qint4", "float8_weight_only",
                                          "int8_dynamic_activation_int8_weight"};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        for (int h = 0; h < 2; h++) {
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
            nib_config *config = schemes[i] ? nib_config_parse(schemes[i]) : NULL;
            nib_model *model = nib_model_load(ctx, GOLDEN "mistral_window", NULL);
            if (config)
                CHECK_OK(nib_quantize(nib_model_root(model), config,
                                      &(nib_select){.leave_unfit = true}));
            nib_session *s = nib_session_new(ctx, model, &how[h]);
            CHECK_MADE(s);
            int32_t id;
            CHECK_OK(nib_session_feed(s, (int32_t[]){5, 6, 7}, 3));
            for (int k = 0; k < 70; k++) CHECK_OK(nib_session_next(s, &id));
            nib_mem_fail_after(-1,
                               false); /* counts from here on; neither history nor cache grows */
            for (int k = 0; k < 40; k++) CHECK_OK(nib_session_next(s, &id));
            CHECK_INT(nib_mem_fail_after(-1, false), 0);
            nib_session_free(s);
            nib_model_free(model);
            nib_config_free(config);
            nib_ctx_free(ctx);
        }
}

static void count_fused(void *user, const char *op, int64_t calls, double ms, double bytes) {
    (void)ms;
    (void)bytes;
    if (strcmp(op, "linear_many") == 0) *(int64_t *)user += calls;
}

TEST(up_to_eight_sessions_together_run_compiled_with_the_same_bits_and_allocate_nothing) {
    enum { MOST = 9 };
    static const char *const kinds[] = {"float", "int8", "int4", "fp8"};
    for (int n = 2; n <= MOST; n++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1 + n % 2});
        nib_model *model = nib_model_load(ctx, GOLDEN "mistral_window", NULL);
        nib_session *s[2][MOST];
        int32_t ids[2][MOST];
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < n; i++) {
                s[k][i] = nib_session_new(
                    ctx, model,
                    &(nib_session_options){.ignore_eos = true,
                                           .max_tokens = 128,
                                           .kv = kinds[(i + n) % 4],
                                           .compile = k ? NIB_COMPILE_ALWAYS : NIB_COMPILE_NEVER});
                CHECK_MADE(s[k][i]);
                CHECK_OK(nib_session_feed(s[k][i], (int32_t[]){5, 6, 7, 8, 9, 3 + i},
                                          (size_t)(1 + i % 6)));
            }
        for (int step = 0; step < 110; step++) {
            int64_t fused = 0;
            for (int k = 0; k < 2; k++) {
                const bool watched = k && step == 100;
                if (watched) CHECK_OK(nib_profile_begin(ctx));
                if (k && step > 100 && n < MOST) nib_mem_fail_after(-1, false);
                CHECK_OK(nib_sessions_step(s[k], (size_t)n, ids[k]));
                if (k && step > 100 && n < MOST) CHECK_INT(nib_mem_fail_after(-1, false), 0);
                if (watched) CHECK_OK(nib_profile_end(ctx, count_fused, &fused));
            }
            if (step == 100) CHECK((fused > 0) == (n < MOST));
            CHECK_BYTES(ids[1], ids[0], (size_t)n * sizeof **ids);
            for (int i = 0; i < n; i++) {
                size_t V;
                const float *want = nib_session_logits(s[0][i], &V);
                CHECK_BYTES(nib_session_logits(s[1][i], NULL), want, V * sizeof *want);
            }
        }
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < n; i++) nib_session_free(s[k][i]);
        nib_model_free(model);
        nib_ctx_free(ctx);
    }
}

static nib_status see_module(void *self, nib_module *module, nib_tensor **input) {
    (void)module;
    (void)input;
    ++*(int *)self;
    return NIB_OK;
}

static void count_calls(void *user, const char *op, int64_t calls, double ms, double bytes) {
    (void)op;
    (void)ms;
    (void)bytes;
    *(int64_t *)user += calls;
}

TEST(modes_see_a_compiled_step_op_by_op_and_those_on_modules_run_the_forward) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, GOLDEN "llama_gqa_bf16", NULL);
    nib_session *s = nib_session_new(
        ctx, model, &(nib_session_options){.compile = NIB_COMPILE_ALWAYS, .ignore_eos = true});
    int32_t id;
    CHECK_OK(nib_session_feed(s, (int32_t[]){5, 6}, 2));
    for (int i = 0; i < 3; i++) CHECK_OK(nib_session_next(s, &id));
    int64_t calls = 0;
    CHECK_OK(nib_profile_begin(ctx));
    CHECK_OK(nib_session_next(s, &id));
    CHECK_OK(nib_profile_end(ctx, count_calls, &calls));
    CHECK(calls > 10);
    int modules = 0;
    static const nib_mode watch = {.name = "watch", .enter_module = see_module};
    CHECK_OK(nib_mode_push(ctx, &watch, &modules));
    CHECK_OK(nib_session_next(s, &id));
    CHECK_OK(nib_mode_pop(ctx));
    CHECK(modules > 5);
    nib_session_free(s);
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TESTS(RUNS(calibrated_models_have_the_same_bits_compiled),
      RUNS(every_kind_of_cache_has_the_same_bits_compiled), RUNS(a_token_allocates_nothing),
      RUNS(up_to_eight_sessions_together_run_compiled_with_the_same_bits_and_allocate_nothing),
      RUNS(every_architecture_has_the_same_bits_compiled_until_its_last_position),
      RUNS(every_scheme_has_the_same_bits_compiled_on_every_instruction_set),
      RUNS(sessions_may_step_alone_and_together_in_any_turn),
      RUNS(modes_see_a_compiled_step_op_by_op_and_those_on_modules_run_the_forward))
