/* Gradients of the embedded model's linears against differences, and data that it makes up. */
#include <math.h>
#include <nibble/train.h>
#include <string.h>

#include "model/recording.h"
#include "model/samples.h"
#include "model/scorer.h"
#include "nn/quantized.h"
#include "quant/codes.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

static const char path[] = "models/kjv-llama";
static const int32_t ids[] = {0, 300, 12, 845, 77, 1503, 9};
enum { COUNT = sizeof ids / sizeof *ids, VOCABULARY = 2048 };

/* sum over rows of -log p(next), and its gradient by the logits. */
static double loss_of(nib_scorer *scorer, float *gradient) {
    const float *logits;
    if (nib_scorer_step(scorer, ids, 0, COUNT, COUNT, NIB_WANT_ALL, &logits) < NIB_OK) return NAN;
    double loss = 0;
    for (int m = 0; m < COUNT; m++) {
        const float *row = logits + m * VOCABULARY;
        const int next = ids[(m + 1) % COUNT];
        double sum = 0;
        for (int i = 0; i < VOCABULARY; i++) sum += exp((double)row[i]);
        loss += log(sum) - (double)row[next];
        for (int i = 0; gradient && i < VOCABULARY; i++)
            gradient[m * VOCABULARY + i] = (float)(exp((double)row[i]) / sum) - (i == next);
    }
    return loss;
}

enum { MODULES = 7 };
typedef struct sought {
    nib_tensor *weights[MODULES];
    float *gradients[MODULES];
} sought;

/* dW = g^T x, in double. */
static nib_status add_gradient(void *user, const nib_tensor *weight, const float *x, const float *g,
                               int64_t M) {
    const sought *f = user;
    const int64_t N = weight->shape.dim[0], K = weight->shape.dim[1];
    for (int i = 0; i < MODULES; i++)
        for (int64_t at = 0; f->weights[i] == weight && at < N * K; at++) {
            double sum = 0;
            for (int64_t m = 0; m < M; m++)
                sum += (double)g[m * N + at / K] * (double)x[m * K + at % K];
            f->gradients[i][at] += (float)sum;
        }
    return NIB_OK;
}

TEST(gradients_at_linears_tell_what_the_loss_moves_by) {
    static const char *const modules[MODULES] = {
        "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj",
        "model.layers.2.self_attn.v_proj", "model.layers.1.self_attn.o_proj",
        "model.layers.0.mlp.gate_proj",    "model.layers.3.mlp.up_proj",
        "model.layers.4.mlp.down_proj"};
    static float logit_gradient[COUNT * VOCABULARY];
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    nib_model *model = nib_model_load(ctx, path, NULL);
    CHECK_MADE(model);
    nib_recording recording;
    nib_recording_open(ctx, &recording);
    sought found;
    float **gradients = found.gradients;
    nib_tensor **weights = found.weights;
    recording.linear = add_gradient;
    recording.user = &found;
    for (int i = 0; i < MODULES; i++) {
        nib_module *m = nib_module_child(nib_model_root(model), modules[i]);
        const nib_tensor *t = nib_module_parameter(m, "weight");
        weights[i] = nib_tensor_new(ctx, NIB_F32, t->shape);
        gradients[i] = calloc((size_t)nib_tensor_count(t), sizeof *gradients[i]);
        nib_to_f32(t->dtype, nib_tensor_data_mut(weights[i]), nib_tensor_data(t),
                   (size_t)nib_tensor_count(t));
        CHECK_OK(nib_module_set(m, "weight", nib_tensor_retain(weights[i])));
    }
    nib_scorer scorer = {0};
    CHECK_OK(nib_scorer_open(ctx, model, NULL, &scorer));
    CHECK_OK(nib_recording_begin(&recording));
    const double before = loss_of(&scorer, logit_gradient);
    nib_recording_end(&recording);
    CHECK(before > 0);
    CHECK_OK(nib_recording_backward(&recording, logit_gradient));
    uint64_t seed = test_seed();
    for (int i = 0; i < MODULES; i++) {
        /* along a random direction, so that one difference tells of all the numbers */
        float *w = nib_tensor_data_mut(weights[i]);
        const int64_t count = nib_tensor_count(weights[i]);
        float *d = calloc((size_t)count, sizeof *d), *kept = calloc((size_t)count, sizeof *kept);
        memcpy(kept, w, (size_t)count * sizeof *w);
        double expected = 0, square = 0;
        for (int64_t k = 0; k < count; k++) square += (double)(gradients[i][k] * gradients[i][k]);
        for (int64_t k = 0; k < count; k++) {
            d[k] = 0.5f * gradients[i][k] / (float)sqrt(square) +
                   (test_uniform(&seed) - 0.5f) / sqrtf((float)count);
            expected += (double)d[k] * (double)gradients[i][k];
        }
        double loss[2];
        for (int side = 0; side < 2; side++) {
            const float h = side ? 2e-2f : -2e-2f;
            for (int64_t k = 0; k < count; k++) w[k] = kept[k] + h * d[k];
            loss[side] = loss_of(&scorer, NULL);
        }
        memcpy(w, kept, (size_t)count * sizeof *w);
        const double seen = (loss[1] - loss[0]) / 4e-2;
        if (!(fabs(seen - expected) <= 0.02 * fabs(expected) + 1e-3))
            FAIL_AT("%s: the loss moves by %.5g, its gradient says %.5g", modules[i], seen,
                    expected);
        free(d);
        free(kept);
    }
    nib_recording_close(&recording);
    nib_scorer_close(&scorer);
    for (int i = 0; i < MODULES; i++) {
        nib_tensor_free(weights[i]);
        free(gradients[i]);
    }
    nib_model_free(model);
    nib_ctx_free(ctx);
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

TESTS(RUNS(gradients_at_linears_tell_what_the_loss_moves_by),
      RUNS(a_model_makes_up_the_same_data_with_any_number_of_threads),
      RUNS(data_is_not_made_up_by_a_model_whose_activations_wait),
      RUNS(what_was_sensed_is_forgotten_when_it_is_stopped))
