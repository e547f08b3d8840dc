/* Linears frozen in turn: what they make up for, the same with any number of threads, and nothing
 * half done. */
#include <nibble/train.h>
#include <string.h>

#include "model/samples.h"
#include "model/scorer.h"
#include "nn/quantized.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

enum {
    SAMPLES = 8,
    CONTEXT = 390,
    APART = 4,
    LENGTH = 128
}; /* rows for each column of down_proj */
static const char path[] = "models/kjv-llama";
static const nib_data some = {.samples = SAMPLES, .context = CONTEXT};
static const nib_select one_layer = {.include = "model.layers.0.*"};

static nib_model *sensed(void **state_, nib_ctx *ctx, const char *folder, const nib_config *config,
                         const nib_select *select, nib_data data) {
    nib_model *model = nib_model_load(ctx, folder, NULL);
    CHECK_MADE(model);
    CHECK_OK(nib_calibrate_begin(nib_model_root(model), config, select));
    CHECK_OK(nib_model_sense(ctx, model, &data));
    CHECK_OK(nib_calibrate_end(nib_model_root(model), NULL));
    return model;
}

/* Mean divergence from a float model on samples that nobody was calibrated on. */
static double divergence(void **state_, nib_ctx *ctx, const nib_model *model,
                         const nib_model *floats) {
    nib_samples s = {0};
    nib_scorer of = {0}, reference = {0};
    static nib_score score[LENGTH];
    double sum = 0;
    CHECK_OK(nib_samples_draw(ctx, floats, SAMPLES + APART, LENGTH, &s));
    CHECK_OK(nib_scorer_open(ctx, model, NULL, &of));
    CHECK_OK(nib_scorer_open(ctx, floats, NULL, &reference));
    for (size_t i = SAMPLES; i < SAMPLES + APART; i++) {
        const int32_t *ids = s.ids + (s.ends[i] - LENGTH);
        const float *a, *b;
        CHECK_OK(nib_scorer_step(&of, ids, 0, LENGTH - 1, LENGTH - 1, NIB_WANT_ALL, &a));
        CHECK_OK(nib_scorer_step(&reference, ids, 0, LENGTH - 1, LENGTH - 1, NIB_WANT_ALL, &b));
        CHECK_OK(nib_score_rows(&of, a, &reference, b, ids + 1, LENGTH - 1, score));
        for (int m = 0; m < LENGTH - 1; m++) sum += score[m].kl / (APART * (LENGTH - 1));
    }
    nib_scorer_close(&of);
    nib_scorer_close(&reference);
    nib_samples_free(&s);
    return sum;
}

TEST(linears_in_turn_diverge_less_on_what_they_were_not_calibrated_on) {
    NEEDS_SCHEME("qint4:algo=gptq");
    const nib_config *config = NIB_QUANTO(.weights = "qint2", .algo = NIB_ALGO_GPTQ);
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    nib_model *floats = nib_model_load(ctx, path, NULL);
    CHECK_MADE(floats);
    nib_model *alone = sensed(state_, ctx, path, config, &one_layer, some),
              *turn = sensed(state_, ctx, path, config, &one_layer, some);
    CHECK_OK(nib_freeze(nib_model_root(alone)));
    nib_data data = some;
    CHECK_OK(nib_model_freeze(ctx, turn, &data));
    CHECK_INT(data.tokens, SAMPLES * CONTEXT);
    CHECK_INT(ctx->nmodes, 0);
    const double a = divergence(state_, ctx, alone, floats),
                 b = divergence(state_, ctx, turn, floats);
    if (!(b > 0 && b < 0.97 * a)) FAIL_AT("alone %.5f, in turn %.5f", a, b);
    nib_model_free(turn);
    nib_model_free(alone);
    nib_model_free(floats);
    nib_ctx_free(ctx);
}

typedef struct weights {
    nib_tensor *list[64];
    int count;
} weights;

static nib_status collect(void *user, const char *dotted, nib_module *module) {
    weights *w = user;
    (void)dotted;
    if (!nib_module_quantized(module) || w->count == 64) return NIB_OK;
    w->list[w->count++] = nib_tensor_retain(nib_module_parameter(module, "weight"));
    return NIB_OK;
}

/* Of every architecture, with activations and without: they run in float meanwhile, and as before
 * after it. */
TEST(every_decoder_is_frozen_in_turn_alike_with_any_number_of_threads) {
    NEEDS_SCHEME("qint4:algo=gptq");
    static const char *const decoders[] = {"tests/golden/model/mistral_window",
                                           "tests/golden/model/qwen3_qk_norm",
                                           "tests/golden/model/opt_norm_after_projected",
                                           "tests/golden/model/gpt2_trunk_names",
                                           "tests/golden/model/bloom_six_heads",
                                           "tests/golden/model/bloom_residual_after_norm"};
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++) {
        weights made[2] = {0};
        nib_ctx *ctx[2];
        nib_model *model[2];
        for (int t = 0; t < 2; t++) {
            ctx[t] = nib_ctx_new(&(nib_ctx_options){.threads = t ? 3 : 1});
            nib_data data = {.samples = 20, .context = 24};
            model[t] = sensed(state_, ctx[t], decoders[i],
                              NIB_QUANTO(.weights = "qint8", .algo = NIB_ALGO_GPTQ), NULL, data);
            CHECK_OK(nib_model_freeze(ctx[t], model[t], &data));
            CHECK_OK(nib_module_walk(nib_model_root(model[t]), collect, &made[t]));
        }
        CHECK(made[0].count == made[1].count && made[0].count >= 4);
        for (int k = 0; k < made[0].count; k++) {
            const nib_tensor *a = made[0].list[k], *b = made[1].list[k];
            if (!a->layout || !b->layout) FAIL_AT("%s: linear %d is float", decoders[i], k);
            for (int p = 0; p < a->nparts; p++)
                CHECK(a->part[p]->size == b->part[p]->size &&
                      memcmp(a->part[p]->data, b->part[p]->data, a->part[p]->size) == 0);
        }
        for (int t = 0; t < 2; t++) {
            for (int k = 0; k < made[t].count; k++) nib_tensor_free(made[t].list[k]);
            nib_model_free(model[t]);
            nib_ctx_free(ctx[t]);
        }
    }
}

static bool stop(void *user, const char *what, double done, double total) {
    (void)user, (void)total;
    return strcmp(what, "in turn") != 0 || done < 2;
}

TEST(a_stopped_freeze_leaves_floats_that_may_still_be_frozen) {
    NEEDS_SCHEME("qint4:algo=gptq");
    static const char small[] = "tests/golden/model/mistral_window";
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.progress = stop});
    nib_data data = {.samples = 3, .context = 12};
    nib_model *model = sensed(state_, ctx, small,
                              NIB_QUANTO(.weights = "qint8", .algo = NIB_ALGO_GPTQ), NULL, data);
    weights before = {0}, after = {0};
    CHECK_OK(nib_module_walk(nib_model_root(model), collect, &before));
    CHECK_FAILS(nib_model_freeze(ctx, model, &data), NIB_E_CANCELLED, "");
    CHECK_INT(ctx->nmodes, 0);
    CHECK_OK(nib_module_walk(nib_model_root(model), collect, &after));
    CHECK_INT(before.count, after.count);
    for (int i = 0; i < before.count; i++) {
        CHECK(before.list[i] == after.list[i] && !after.list[i]->layout);
        nib_tensor_free(before.list[i]);
        nib_tensor_free(after.list[i]);
    }
    CHECK_OK(nib_freeze(nib_model_root(model)));
    CHECK_FAILS(nib_model_freeze(ctx, model, NULL), NIB_E_ARGUMENT, "needs data");
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TESTS(RUNS(linears_in_turn_diverge_less_on_what_they_were_not_calibrated_on),
      RUNS(every_decoder_is_frozen_in_turn_alike_with_any_number_of_threads),
      RUNS(a_stopped_freeze_leaves_floats_that_may_still_be_frozen))
