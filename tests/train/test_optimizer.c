#include "tensor/context.h"
#include "train/optimizer.h"
#include "train_golden.h"

static const struct row {
    const char *key;
    nib_sgd sgd;
    nib_adamw adamw;
} rows[] = {
    {.key = "sgd", .sgd = {.rate = 0.1}},
    {.key = "sgd_momentum", .sgd = {.rate = 0.05, .momentum = 0.9}},
    {.key = "sgd_all",
     .sgd = {.rate = 0.05, .momentum = 0.8, .dampening = 0.3, .weight_decay = 0.02}},
    {.key = "sgd_nesterov",
     .sgd = {.rate = 0.05, .momentum = 0.9, .weight_decay = 0.1, .nesterov = true}},
    {.key = "adamw", .adamw = {.rate = 0}},
    {.key = "adamw_all",
     .adamw = {.rate = 0.02, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-5, .weight_decay = 0.1}},
    {.key = "adamw_no_decay", .adamw = {.rate = 0.02, .weight_decay = -1}},
};

static nib_optimizer *optimizer_of(nib_gradients *g, const struct row *row) {
    if (row->key[0] == 's') {
        nib_sgd sgd = row->sgd;
        sgd.config = NIB_SGD()[0];
        return nib_optimizer_new(g, &sgd.config);
    }
    nib_adamw adamw = row->adamw;
    adamw.config = NIB_ADAMW()[0];
    return nib_optimizer_new(g, &adamw.config);
}

/* Torch rounds a step in other places where it is vectorized: a few units in the last place each.
 */
TEST(steps_are_those_of_torch) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    nib_safetensors *file = train_golden("optimizers");
    CHECK_MADE(file);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        nib_tensor *p = golden_tensor(ctx, file, "start");
        nib_gradients *g = nib_gradients_new(ctx);
        CHECK_OK(nib_gradients_watch(g, p, "p"));
        nib_optimizer *o = optimizer_of(g, &rows[r]);
        CHECK_MADE(o);
        CHECK_OK(nib_tape_begin(ctx, g));
        for (int step = 0; step < 5; step++) {
            nib_tensor *d = golden_tensor(ctx, file, "gradient.%d", step);
            nib_gradients_zero(g);
            CHECK_OK(nib_backward(p, d)); /* a watched tensor is a result of its own */
            CHECK_OK(nib_optimizer_step(o));
            nib_tensor *want = golden_tensor(ctx, file, "%s.%d", rows[r].key, step);
            const double off = train_difference(p, want);
            if (!(off <= 4 * 1.2e-7)) FAIL_AT("%s, step %d: off by %.3g", rows[r].key, step, off);
            nib_tensor_free(want);
            nib_tensor_free(d);
        }
        CHECK_OK(nib_tape_end(ctx));
        nib_optimizer_free(o);
        nib_gradients_free(g);
        nib_tensor_free(p);
    }
    nib_safetensors_close(file);
    nib_ctx_free(ctx);
}

/* As nib_parallel_for cuts it, and any thread takes any piece. */
TEST(a_step_is_the_same_however_it_is_cut) {
    enum { COUNT = 97, STEPS = 3 };
    static const int64_t cuts[][2] = {{50, COUNT}, {0, 7}, {7, 50}};
    const nib_optimizer_kind *kind;
    for (size_t i = 0; (kind = nib_optimizer_kind_at(i)); i++) {
        nib_optimizer_config *config = calloc(1, kind->config_size);
        *config = (nib_optimizer_config){kind, kind->config_size};
        CHECK_OK(kind->prepare(config));
        CHECK(kind->states <= NIB_OPTIMIZER_STATES);
        float p[2][COUNT], g[COUNT], state[2][NIB_OPTIMIZER_STATES][COUNT] = {0};
        uint64_t seed = test_seed();
        for (int k = 0; k < COUNT; k++) p[0][k] = p[1][k] = test_uniform(&seed);
        double power[NIB_OPTIMIZER_STATES] = {1, 1};
        for (int step = 1; step <= STEPS; step++) {
            for (int k = 0; k < COUNT; k++) g[k] = test_uniform(&seed);
            for (int k = 0; k < kind->states && kind->decay; k++)
                power[k] *= kind->decay(config, k);
            for (int side = 0; side < 2; side++) {
                nib_optimizer_slot slot = {.p = p[side], .g = g, .count = COUNT, .steps = step};
                for (int k = 0; k < kind->states; k++) slot.state[k] = state[side][k];
                memcpy(slot.power, power, sizeof power);
                if (!side) kind->step(config, &slot, 0, COUNT);
                for (int c = 0; side && c < 3; c++)
                    kind->step(config, &slot, cuts[c][0], cuts[c][1]);
            }
            if (memcmp(p[0], p[1], sizeof p[0]) != 0 ||
                memcmp(state[0], state[1], sizeof state[0]) != 0)
                FAIL_AT("%s: step %d differs where it is cut", kind->name, step);
        }
        free(config);
    }
}

TEST(wrong_configs_and_tensors_are_refused) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_gradients *g = nib_gradients_new(ctx);
    CHECK(!nib_optimizer_new(g, NIB_SGD()));
    CHECK(strstr(nib_last_error()->what, "nothing is watched"));
    nib_tensor *p = nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {3}});
    CHECK_OK(nib_gradients_watch(g, p, "p"));
    CHECK(!nib_optimizer_new(g, NIB_SGD(.momentum = -1)));
    CHECK(!nib_optimizer_new(g, NIB_SGD(.rate = -1)));
    CHECK(!nib_optimizer_new(g, NIB_SGD(.nesterov = true)));
    CHECK(!nib_optimizer_new(g, NIB_ADAMW(.beta1 = 1)));
    nib_optimizer *o = nib_optimizer_new(g, NIB_ADAMW());
    CHECK_MADE(o);
    CHECK_NEAR(nib_optimizer_rate(o), 0.001, 0);
    CHECK_FAILS(nib_optimizer_set_rate(o, NAN), NIB_E_ARGUMENT, "rate");
    CHECK_OK(nib_optimizer_set_rate(o, 0.5));
    CHECK_NEAR(nib_optimizer_rate(o), 0.5, 0);
    nib_optimizer_free(o);
    nib_tensor *half = nib_tensor_new(ctx, NIB_BF16, (nib_shape){1, {3}});
    CHECK_OK(nib_gradients_watch(g, half, "half"));
    CHECK(!nib_optimizer_new(g, NIB_SGD()));
    CHECK_TEXT(nib_last_error()->tensor, "half");
    nib_gradients_free(g);
    nib_tensor_free(p);
    nib_tensor_free(half);
    nib_ctx_free(ctx);
}

TESTS(RUNS(steps_are_those_of_torch), RUNS(a_step_is_the_same_however_it_is_cut),
      RUNS(wrong_configs_and_tensors_are_refused))
