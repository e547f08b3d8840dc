/* Gradients of what decoders compute against differences, what is sensed by them, and data that a
 * model makes up. */
#include <math.h>
#include <nibble/train.h>
#include <string.h>

#include "model/samples.h"
#include "model/scorer.h"
#include "nn/quantized.h"
#include "quant/codes.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

#define GOLDEN "tests/golden/model/"
static const char path[] = "models/kjv-llama";
/* Of every architecture, norms before and after, ALiBi, windows, norms of heads, projections. */
static const char *const decoders[] = {path,
                                       GOLDEN "mistral_window",
                                       GOLDEN "qwen3_qk_norm",
                                       GOLDEN "opt_norm_before",
                                       GOLDEN "opt_norm_after_projected",
                                       GOLDEN "gpt2_trunk_names",
                                       GOLDEN "gpt2_by_layer_upcast",
                                       GOLDEN "bloom_six_heads",
                                       GOLDEN "bloom_residual_after_norm"};
enum { DECODERS = sizeof decoders / sizeof *decoders, COUNT = 9, VOCABULARY = 2048 };
static const float STEP = 1e-2f;
static const int32_t ids[COUNT] = {0, 30, 12, 45, 7, 53, 9, 12, 61};

/* sum over rows of -log p(next), and its gradient by the logits. */
static double loss_of(nib_scorer *scorer, float *gradient) {
    const float *logits;
    if (nib_scorer_step(scorer, ids, 0, COUNT, COUNT, NIB_WANT_ALL, &logits) < NIB_OK) return NAN;
    const int V = scorer->model->hparams.vocab_size;
    double loss = 0;
    for (int m = 0; m < COUNT; m++) {
        const float *row = logits + m * V;
        const int next = ids[(m + 1) % COUNT];
        double sum = 0;
        for (int i = 0; i < V; i++) sum += exp((double)row[i]);
        loss += log(sum) - (double)row[next];
        for (int i = 0; gradient && i < V; i++)
            gradient[m * V + i] = (float)(exp((double)row[i]) / sum) - (i == next);
    }
    return loss;
}

/* Along a direction half of which is the gradient, half random, so that one difference tells of all
 * the numbers of a parameter. */
static void check_slope(void **state_, const char *folder, const char *name, nib_tensor *weight,
                        const nib_tensor *gradient, nib_scorer *scorer) {
    uint64_t seed = test_seed();
    float *w = nib_tensor_data_mut(weight);
    const float *g = nib_tensor_data(gradient);
    const size_t count = (size_t)nib_tensor_count(weight);
    float *d = calloc(count, sizeof *d), *kept = calloc(count, sizeof *kept);
    memcpy(kept, w, count * sizeof *w);
    double expected = 0, square = 1e-30, loss[2];
    for (size_t k = 0; k < count; k++) square += (double)(g[k] * g[k]);
    for (size_t k = 0; k < count; k++) {
        d[k] =
            0.5f * g[k] / (float)sqrt(square) + (test_uniform(&seed) - 0.5f) / sqrtf((float)count);
        expected += (double)d[k] * (double)g[k];
    }
    for (int side = 0; side < 2; side++) {
        const float h = side ? STEP : -STEP;
        for (size_t k = 0; k < count; k++) w[k] = kept[k] + h * d[k];
        loss[side] = loss_of(scorer, NULL);
    }
    memcpy(w, kept, count * sizeof *w);
    free(d);
    free(kept);
    const double seen = (loss[1] - loss[0]) / (2.0 * (double)STEP);
    if (!(fabs(seen - expected) <= 0.02 * fabs(expected) + 2e-3))
        FAIL_AT("%s: %s: the loss moves by %.5g, its gradient says %.5g", folder, name, seen,
                expected);
}

TEST(gradients_of_parameters_are_what_the_loss_moves_by) {
    static float logit_gradient[COUNT * VOCABULARY];
    for (int i = 0; i < DECODERS; i++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        nib_model *model = nib_model_load(ctx, decoders[i], NULL);
        CHECK_MADE(model);
        nib_gradients *gradients = nib_gradients_new(ctx);
        CHECK_OK(nib_module_to_dtype(nib_model_root(model), NIB_F32));
        CHECK_OK(nib_gradients_watch_module(gradients, nib_model_root(model)));
        nib_scorer scorer = {0};
        CHECK_OK(nib_scorer_open(ctx, model, NULL, &scorer));
        CHECK_OK(nib_tape_begin(ctx, gradients));
        CHECK(loss_of(&scorer, logit_gradient) > 0);
        nib_tensor *g =
            nib_tensor_wrap(ctx, NIB_F32, scorer.logits->shape, logit_gradient, NULL, NULL);
        CHECK_OK(nib_backward(scorer.logits, g));
        nib_tensor_free(g);
        CHECK_OK(nib_tape_end(ctx));
        const char *name;
        nib_tensor *weight;
        const nib_tensor *gradient;
        size_t seen = 0;
        for (; nib_gradients_at(gradients, seen, &name, &weight, &gradient) == NIB_OK; seen++) {
            CHECK_MADE(gradient);
            check_slope(state_, decoders[i], name, weight, gradient, &scorer);
        }
        CHECK(seen > 10);
        nib_scorer_close(&scorer);
        nib_gradients_free(gradients);
        nib_model_free(model);
        nib_ctx_free(ctx);
    }
}

typedef struct sums {
    int modules;
    double *ins, *outs; /* [0] is of the first linear */
    int64_t K, N;
} sums;

static nib_status look(void *user, const char *dotted, nib_module *module) {
    sums *s = user;
    (void)dotted;
    const nib_quantized *q = nib_module_quantized(module);
    if (!nib_quantized_feeds(q)) return NIB_OK;
    double in = 0, out = 0;
    for (int64_t i = 0; q->sums && i < q->K; i++) in += q->sums[i * q->K + i];
    for (int64_t i = 0; q->outs && i < q->N; i++) out += q->outs[i * q->N + i];
    if (!q->sensed || !isfinite(in) || !isfinite(out) || !(in > 0) || !(out > 0)) return NIB_END;
    if (s->modules++) return NIB_OK;
    s->K = q->K;
    s->N = q->N;
    s->ins = malloc((size_t)(s->K * s->K) * sizeof *s->ins);
    s->outs = malloc((size_t)(s->N * s->N) * sizeof *s->outs);
    memcpy(s->ins, q->sums, (size_t)(s->K * s->K) * sizeof *s->ins);
    memcpy(s->outs, q->outs, (size_t)(s->N * s->N) * sizeof *s->outs);
    return NIB_OK;
}

TEST(every_linear_is_sensed_alike_with_any_number_of_threads) {
    NEEDS_SCHEME("qint4:algo=gptq");
    const nib_config *config = NIB_QUANTO(.weights = "qint8", .algo = NIB_ALGO_GPTQ);
    for (int i = 0; i < DECODERS; i++) {
        sums seen[2] = {0};
        for (int t = 0; t < 2; t++) {
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = t ? 3 : 1});
            nib_model *model = nib_model_load(ctx, decoders[i], NULL);
            CHECK_MADE(model);
            nib_module *root = nib_model_root(model);
            CHECK_OK(nib_calibrate_begin(root, config, NULL));
            nib_data data = {.samples = 3, .context = 12};
            CHECK_OK(nib_model_sense(ctx, model, &data));
            CHECK_INT(data.tokens, 36);
            CHECK_INT(ctx->nmodes, 1);
            CHECK_OK(nib_calibrate_end(root, NULL));
            if (nib_module_walk(root, look, &seen[t]) != NIB_OK || seen[t].modules < 4)
                FAIL_AT("%s: a linear after %d was not sensed", decoders[i], seen[t].modules);
            if (i && t) CHECK_OK(nib_freeze(root)); /* by what was sensed */
            nib_model_free(model);
            nib_ctx_free(ctx);
        }
        CHECK_INT(seen[0].modules, seen[1].modules);
        const size_t ins = (size_t)(seen[0].K * seen[0].K), outs = (size_t)(seen[0].N * seen[0].N);
        CHECK(memcmp(seen[0].ins, seen[1].ins, ins * sizeof(double)) == 0);
        CHECK(memcmp(seen[0].outs, seen[1].outs, outs * sizeof(double)) == 0);
        for (int t = 0; t < 2; t++) {
            free(seen[t].ins);
            free(seen[t].outs);
        }
    }
}

TEST(a_model_makes_up_the_same_data_with_any_number_of_threads) {
    nib_samples drawn[2];
    nib_ctx *ctx[2];
    nib_model *model[2];
    for (int i = 0; i < 2; i++) {
        ctx[i] = nib_ctx_new(&(nib_ctx_options){.threads = i + 1});
        model[i] = nib_model_load(ctx[i], path, NULL);
        CHECK_MADE(model[i]);
        CHECK_OK(nib_samples_read(ctx[i], model[i], &(nib_data){.samples = 18, .context = 12},
                                  &drawn[i]));
    }
    CHECK_INT(drawn[0].samples, 18);
    CHECK_INT(drawn[0].count, 18 * 12);
    CHECK(memcmp(drawn[0].ids, drawn[1].ids, drawn[0].count * sizeof(int32_t)) == 0);
    int different = 0;
    for (size_t i = 0; i < drawn[0].count; i++) {
        const int32_t id = drawn[0].ids[i];
        CHECK(i % 12 == 0 ? id == 0 : id > 0 && id < VOCABULARY); /* begins, and never ends */
        different += i >= 12 && id != drawn[0].ids[i - 12];
    }
    CHECK(different > 100);
    for (int i = 0; i < 2; i++) {
        nib_samples_free(&drawn[i]);
        nib_model_free(model[i]);
        nib_ctx_free(ctx[i]);
    }
}

TEST(data_is_not_made_up_by_a_model_whose_activations_wait) {
    NEEDS_SCHEME("qint8");
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_model *model = nib_model_load(ctx, path, NULL);
    CHECK_MADE(model);
    const nib_config *config = NIB_QUANTO(.weights = "qint8", .activations = "qint8");
    CHECK_OK(nib_calibrate_begin(nib_model_root(model), config, NULL));
    CHECK_FAILS(nib_model_feed(ctx, model, &(nib_data){.samples = 1, .context = 8}), NIB_E_ARGUMENT,
                "name a file of data");
    CHECK_OK(nib_calibrate_end(nib_model_root(model), NULL));
    nib_model_free(model);
    nib_ctx_free(ctx);
}

static bool stop(void *user, const char *what, double done, double total) {
    (void)user, (void)done, (void)total;
    return strcmp(what, "data") != 0;
}

TEST(what_was_sensed_is_forgotten_when_it_is_stopped) {
    NEEDS_SCHEME("qint4:algo=gptq");
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.progress = stop});
    nib_model *model = nib_model_load(ctx, path, NULL);
    CHECK_MADE(model);
    nib_module *root = nib_model_root(model);
    const nib_config *config = NIB_QUANTO(.weights = "qint4", .algo = NIB_ALGO_GPTQ);
    CHECK_OK(nib_calibrate_begin(root, config, NULL));
    CHECK_FAILS(nib_model_sense(ctx, model, &(nib_data){.samples = 2, .context = 8}),
                NIB_E_CANCELLED, "");
    CHECK_INT(ctx->nmodes, 1);
    CHECK_OK(nib_calibrate_end(root, NULL));
    CHECK_FAILS(nib_freeze(root), NIB_E_ARGUMENT, "saw no inputs");
    nib_model_free(model);
    nib_ctx_free(ctx);
}

TESTS(RUNS(gradients_of_parameters_are_what_the_loss_moves_by),
      RUNS(every_linear_is_sensed_alike_with_any_number_of_threads),
      RUNS(a_model_makes_up_the_same_data_with_any_number_of_threads),
      RUNS(data_is_not_made_up_by_a_model_whose_activations_wait),
      RUNS(what_was_sensed_is_forgotten_when_it_is_stopped))
