/* Training from beginning to end: a float network learns a fixed task; quantized and not frozen it
 * is tuned and gets better; freezing keeps what it computes, to the bit. */
#include "nn/quantized.h"
#include "op/calls.h"
#include "tensor/context.h"
#include "train_golden.h"

enum { POINTS = 192, HIDDEN = 24, CLASSES = 3 };

/* Three arms of a spiral, which no straight line tells apart. */
static void spiral(float x[POINTS * 2], int32_t arm[POINTS]) {
    for (int i = 0; i < POINTS; i++) {
        const int k = i % CLASSES;
        const double r = 0.1 + 0.9 * (double)(i / CLASSES) / (POINTS / CLASSES - 1);
        const double angle = 2.5 * r + 2.0943951023931953 * k;
        x[2 * i] = (float)(r * cos(angle));
        x[2 * i + 1] = (float)(r * sin(angle));
        arm[i] = k;
    }
}

static nib_module *layer(nib_ctx *ctx, int64_t in, int64_t out, uint64_t *seed) {
    nib_tensor *w = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {out, in}});
    nib_tensor *b = nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {out}});
    if (w && b) {
        float *p = nib_tensor_data_mut(w);
        const float by = sqrtf(2.0f / (float)in);
        for (int64_t i = 0; i < out * in; i++) p[i] = test_uniform(seed) * by;
        memset(nib_tensor_data_mut(b), 0, nib_tensor_bytes(b));
    }
    return nib_linear_new(ctx, w, b);
}

static nib_module *network(nib_ctx *ctx) {
    uint64_t seed = 7;
    return nib_sequential_of(ctx,
                             (nib_module *[]){layer(ctx, 2, HIDDEN, &seed), nib_relu_new(ctx),
                                              layer(ctx, HIDDEN, HIDDEN, &seed), nib_relu_new(ctx),
                                              layer(ctx, HIDDEN, CLASSES, &seed)},
                             5);
}

typedef struct task {
    nib_ctx *ctx;
    float point[POINTS * 2];
    int32_t arm[POINTS];
    nib_tensor *x, *target;
} task;

static void task_open(task *t, int threads) {
    t->ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    spiral(t->point, t->arm);
    t->x = nib_tensor_wrap(t->ctx, NIB_F32, (nib_shape){2, {POINTS, 2}}, t->point, NULL, NULL);
    t->target = nib_tensor_wrap(t->ctx, NIB_I32, (nib_shape){1, {POINTS}}, t->arm, NULL, NULL);
}
static void task_close(task *t) {
    nib_tensor_free(t->x);
    nib_tensor_free(t->target);
    nib_ctx_free(t->ctx);
}

/* The loss as it stands; and after so many steps over all points. */
static double loss_of(void **state_, const task *t, nib_module *m) {
    const size_t mark = nib_scope_begin(t->ctx);
    float value;
    CHECK_OK(nib_tensor_read(nib_cross_entropy(nib_module_forward(m, t->x), t->target), &value,
                             sizeof value));
    nib_scope_end(t->ctx, mark);
    return value;
}

static void train(void **state_, const task *t, nib_module *m, int steps, double rate) {
    nib_gradients *g = nib_gradients_new(t->ctx);
    CHECK_OK(nib_gradients_watch_module(g, m));
    nib_optimizer *o = nib_optimizer_new(g, NIB_ADAMW(.rate = rate, .weight_decay = -1));
    CHECK_MADE(o);
    CHECK_OK(nib_tape_begin(t->ctx, g));
    for (int i = 0; i < steps; i++) {
        const size_t mark = nib_scope_begin(t->ctx);
        nib_gradients_zero(g);
        CHECK_OK(nib_backward(nib_cross_entropy(nib_module_forward(m, t->x), t->target), NIB_NONE));
        CHECK_OK(nib_optimizer_step(o));
        nib_scope_end(t->ctx, mark);
    }
    CHECK_OK(nib_tape_end(t->ctx));
    nib_optimizer_free(o);
    nib_gradients_free(g);
}

TEST(a_network_learns_with_the_same_bits_for_every_number_of_threads) {
    task t[2];
    nib_module *m[2];
    for (int i = 0; i < 2; i++) {
        task_open(&t[i], i ? 3 : 1);
        m[i] = network(t[i].ctx);
        CHECK_MADE(m[i]);
        CHECK(loss_of(state_, &t[i], m[i]) > 0.9);
        train(state_, &t[i], m[i], 300, 0.01);
    }
    const double loss = loss_of(state_, &t[0], m[0]);
    print_message("loss %.4f\n", loss);
    CHECK(loss < 0.05);
    const char *const places[] = {"0", "2", "4"};
    for (int i = 0; i < 3; i++) {
        const nib_tensor *a = nib_module_parameter(nib_module_child(m[0], places[i]), "weight"),
                         *b = nib_module_parameter(nib_module_child(m[1], places[i]), "weight");
        CHECK_BYTES(nib_tensor_data(a), nib_tensor_data(b), nib_tensor_bytes(a));
    }
    for (int i = 0; i < 2; i++) {
        nib_module_free(m[i]);
        task_close(&t[i]);
    }
}

TEST(tuning_a_quantized_network_makes_it_better_and_freezing_keeps_it) {
    NEEDS_SCHEME("quanto");
    static const char *const configs[] = {"quanto:weights=qint4,activations=qint8",
                                          "quanto:weights=qint2,unfrozen=true",
                                          "quanto:weights=qfloat8_e5m2,unfrozen=true"};
    for (int c = 0; c < 3; c++) {
        task t;
        task_open(&t, 2);
        nib_module *m = network(t.ctx);
        CHECK_MADE(m);
        train(state_, &t, m, 300, 0.01);
        const double before = loss_of(state_, &t, m);
        nib_config *config = nib_config_parse(configs[c]);
        CHECK_MADE(config);
        CHECK_OK(nib_quantize(m, config, NULL));
        if (strstr(configs[c], "activations")) {
            CHECK_OK(nib_calibrate_begin(m, NULL, NULL));
            (void)loss_of(state_, &t, m);
            CHECK_OK(nib_calibrate_end(m, NULL));
        }
        const double rounded = loss_of(state_, &t, m);
        train(state_, &t, m, 100, 0.003);
        const double tuned = loss_of(state_, &t, m);
        print_message("%s: float %.4f, quantized %.4f, tuned %.4f\n", configs[c], before, rounded,
                      tuned);
        CHECK(tuned < rounded);
        if (strstr(configs[c], "qint2")) CHECK(rounded > 20 * before && tuned < rounded / 10);
        const size_t mark = nib_scope_begin(t.ctx);
        nib_tensor *y = nib_module_forward(m, t.x);
        CHECK_OK(nib_freeze(m));
        nib_tensor *frozen = nib_module_forward(m, t.x);
        CHECK_MADE(frozen);
        CHECK(nib_module_parameter(nib_module_child(m, "0"), "weight")->layout);
        CHECK_BYTES(nib_tensor_data(frozen), nib_tensor_data(y), nib_tensor_bytes(y));
        nib_scope_end(t.ctx, mark);
        nib_config_free(config);
        nib_module_free(m);
        task_close(&t);
    }
}

TESTS(RUNS(a_network_learns_with_the_same_bits_for_every_number_of_threads),
      RUNS(tuning_a_quantized_network_makes_it_better_and_freezing_keeps_it))
