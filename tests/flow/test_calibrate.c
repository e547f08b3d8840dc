/* Calibrating and freezing against optimum-quanto: tests/golden/quanto/make_workflow.py. */
#include <nibble/nn.h>

#include "io/safetensors.h"
#include "nn/quantized.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "quant/scheme.h"
#include "quanto_golden.h"
#include "tensor/context.h"
#include "test.h"

static nib_ctx *ctx;
static int setup(void **state) {
    (void)state;
    ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    return ctx ? 0 : -1;
}
static int teardown(void **state) {
    (void)state;
    nib_ctx_free(ctx);
    return 0;
}

static nib_safetensors *golden(void **state_, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "tests/golden/quanto/%s.safetensors", name);
    nib_safetensors *file = nib_safetensors_open(NULL, path);
    CHECK_MADE(file);
    return file;
}

static nib_config *config_of(void **state_, const char *format, ...) {
    char text[200];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    nib_config *config = nib_config_parse(text);
    CHECK_MADE(config);
    return config;
}

/* ---- one module that is fed what upstream's met ---- */

static nib_tensor *recorded; /* what the module gives, whatever comes in */
static nib_tensor *seen;     /* what came in */
static nib_tensor *play(nib_module *m, nib_tensor *x) {
    (void)m;
    seen = x;
    return recorded;
}
static const nib_module_kind player = {.name = "Linear", .forward = play};

static nib_module *player_of(nib_dtype dtype, const nib_config *config) {
    nib_module *m = nib_module_new(ctx, &player, NULL);
    nib_module_set(m, "weight", nib_tensor_new(ctx, dtype, (nib_shape){2, {6, 8}}));
    if (nib_module_quantize(m, config) < NIB_OK) abort();
    return m;
}

static void check_same(void **state_, const nib_tensor *got, nib_tensor *want, const char *what) {
    CHECK_MADE(want);
    CHECK_INT(got->dtype, want->dtype);
    CHECK_INT(nib_tensor_bytes(got), nib_tensor_bytes(want));
    if (memcmp(nib_tensor_data(got), nib_tensor_data(want), nib_tensor_bytes(want)) != 0)
        FAIL_AT("%s differs", what);
    nib_tensor_free(want);
}

static void check_batches(void **state_, nib_safetensors *file, const char *key, nib_dtype dtype,
                          const nib_config *config, const char *input_of) {
    nib_module *m = player_of(dtype, config);
    CHECK_OK(nib_calibrate_begin(m, NULL, NULL));
    for (int i = 0; i < 4; i++) {
        nib_tensor *x = golden_tensor(ctx, file, "%s.x%d", key, i);
        CHECK_MADE(x);
        recorded = golden_tensor(ctx, file, "%s.y%d", key, i);
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *y = nib_module_forward(m, x);
        CHECK_MADE(y);
        check_same(state_, nib_module_buffer(m, "input_scale"),
                   golden_tensor(ctx, file, "%s.%s%d", key, input_of, i), "input_scale");
        check_same(state_, nib_module_buffer(m, "output_scale"),
                   golden_tensor(ctx, file, "%s.output%d", key, i), "output_scale");
        CHECK(nib_act8_is(seen) && nib_act8_is(y));
        nib_tensor *q = golden_tensor(ctx, file, "%s.qy%d", key, i);
        CHECK_BYTES(nib_act8_data(y), nib_tensor_data(q), nib_tensor_bytes(q));
        nib_tensor_free(q);
        if (strcmp(input_of, "input") == 0) {
            q = golden_tensor(ctx, file, "%s.qx%d", key, i);
            CHECK_BYTES(nib_act8_data(seen), nib_tensor_data(q), nib_tensor_bytes(q));
            nib_tensor_free(q);
        }
        nib_scope_end(ctx, mark);
        nib_tensor_free(x);
        nib_tensor_free(recorded);
    }
    CHECK_OK(nib_calibrate_end(m, NULL));
    nib_module_free(m);
}

TEST(scales_and_codes_are_upstreams_to_the_bit_when_fed_what_it_recorded) {
    NEEDS_SCHEME("qint8");
    static const struct {
        const char *name;
        nib_dtype dtype;
    } dtypes[] = {{"f32", NIB_F32}, {"f16", NIB_F16}, {"bf16", NIB_BF16}};
    static const char *const activations[] = {"qint8", "qfloat8_e4m3fn", "qfloat8_e5m2",
                                              "qfloat8_e4m3fnuz"};
    static const char *const momenta[] = {"0.9", "0.35"};
    nib_safetensors *file = golden(state_, "calibrate");
    for (int d = 0; d < 3; d++)
        for (int a = 0; a < 4; a++)
            for (int m = 0; m < (a < 2 ? 2 : 1); m++) {
                char key[80];
                snprintf(key, sizeof key, "%s.%s.%s", dtypes[d].name, activations[a], momenta[m]);
                nib_config *upstream = config_of(
                    state_, "quanto:activations=%s,momentum=%s,streamline=off,calibration=upstream",
                    activations[a], momenta[m]);
                nib_config *own =
                    config_of(state_, "quanto:activations=%s,momentum=%s,streamline=off",
                              activations[a], momenta[m]);
                check_batches(state_, file, key, dtypes[d].dtype, upstream, "input");
                check_batches(state_, file, key, dtypes[d].dtype, own, "honoured");
                nib_config_free(upstream);
                nib_config_free(own);
            }
    nib_safetensors_close(file);
}

/* ---- a network of three ---- */

static nib_module *mlp(nib_safetensors *file) {
    nib_module *root = golden_mlp_new(ctx);
    for (int i = 1; i <= 3; i++) {
        char name[8];
        snprintf(name, sizeof name, "fc%d", i);
        nib_tensor *bias = golden_tensor(ctx, file, "float.fc%d.bias", i);
        nib_module_add(root, name,
                       nib_linear_new(ctx, golden_tensor(ctx, file, "float.fc%d.weight", i),
                                      bias ? bias : NIB_NONE));
    }
    return root;
}

static void feed(void **state_, nib_module *root, nib_safetensors *file) {
    for (int i = 0; i < 3; i++) {
        nib_tensor *x = golden_tensor(ctx, file, "batch%d", i);
        const size_t mark = nib_scope_begin(ctx);
        CHECK_MADE(nib_module_forward(root, x));
        nib_scope_end(ctx, mark);
        nib_tensor_free(x);
    }
}

/* The result as floats, caller owns. */
static nib_tensor *run_floats(void **state_, nib_module *root, nib_tensor *x) {
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *y = nib_module_forward(root, x);
    CHECK_MADE(y);
    if (nib_act8_is(y)) y = nib_dequantize(y);
    CHECK_MADE(y);
    nib_keep(y);
    nib_scope_end(ctx, mark);
    return y;
}

static void check_network(void **state_, nib_safetensors *file, const char *weights,
                          const char *activations, const char *streamline) {
    nib_module *root = mlp(file);
    nib_config *config = config_of(state_,
                                   "quanto:weights=%s,activations=%s,momentum=0.8,streamline=%s,"
                                   "calibration=upstream",
                                   weights, activations, streamline);
    CHECK_OK(nib_calibrate_begin(root, config, &(nib_select){.head = true}));
    feed(state_, root, file);
    CHECK_OK(nib_calibrate_end(root, NULL));
    for (int i = 1; i <= 3; i++)
        for (int s = 0; s < 2; s++) {
            char fc[8];
            const char *name = s ? "output_scale" : "input_scale";
            snprintf(fc, sizeof fc, "fc%d", i);
            nib_tensor *want = golden_tensor(ctx, file, "%s.%s.%s.%s.%s", weights, activations,
                                             streamline, fc, name);
            CHECK_MADE(want);
            const float w = *(const float *)nib_tensor_data(want);
            CHECK_NEAR(nib_module_scale(nib_module_child(root, fc), name), w, 1e-4f * w);
            nib_tensor_free(want);
        }
    nib_tensor *x = golden_tensor(ctx, file, "x"),
               *want = golden_tensor(ctx, file, "%s.%s.%s.y", weights, activations, streamline);
    nib_tensor *unfrozen = run_floats(state_, root, x);
    CHECK_OK(nib_freeze(root));
    nib_tensor *frozen = run_floats(state_, root, x);
    CHECK_BYTES(nib_tensor_data(frozen), nib_tensor_data(unfrozen), nib_tensor_bytes(frozen));
    CHECK_OK(nib_prepare(root));
    nib_tensor *prepared = run_floats(state_, root, x);
    CHECK_BYTES(nib_tensor_data(prepared), nib_tensor_data(frozen), nib_tensor_bytes(frozen));
    /* A code that falls on the other side of a tie moves a result by a step of its scale. */
    const float *got = nib_tensor_data(frozen), *w = nib_tensor_data(want);
    double dot = 0, gg = 0, ww = 0;
    for (int i = 0; i < 40; i++) {
        dot += (double)got[i] * (double)w[i];
        gg += (double)got[i] * (double)got[i];
        ww += (double)w[i] * (double)w[i];
    }
    CHECK_NEAR(dot / sqrt(gg * ww), 1, 1e-4);
    for (int i = 0; i < 40; i++) CHECK_NEAR(got[i], w[i], 0.03 * sqrt(ww / 40));
    nib_tensor_free(x);
    nib_tensor_free(want);
    nib_tensor_free(unfrozen);
    nib_tensor_free(frozen);
    nib_tensor_free(prepared);
    nib_config_free(config);
    nib_module_free(root);
}

TEST(a_network_calibrated_and_frozen_is_upstreams_within_rounding) {
    NEEDS_SCHEME("qint8");
    static const char *const weights[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    nib_safetensors *file = golden(state_, "mlp");
    for (int w = 0; w < 4; w++)
        for (int a = 0; a < 2; a++)
            for (int s = 0; s < 2; s++)
                check_network(state_, file, weights[w], a ? "qfloat8_e4m3fn" : "qint8",
                              s ? "on" : "off");
    nib_safetensors_close(file);
}

typedef struct rows {
    int count;
    bool outputs[8];
    int64_t batches[8];
} rows;
static void see(void *user, const nib_calibrated *row) {
    rows *r = user;
    r->outputs[r->count] = row->outputs;
    r->batches[r->count++] = row->batches;
}

TEST(outputs_that_an_op_takes_as_codes_stay_quantized_and_others_do_not) {
    NEEDS_SCHEME("qint8");
    nib_safetensors *file = golden(state_, "mlp");
    nib_module *root = mlp(file);
    nib_config *config = config_of(state_, "quanto:activations=qint8");
    rows r = {0};
    nib_calibration report = {.row = see, .user = &r};
    CHECK_OK(nib_calibrate_begin(root, config, &(nib_select){.head = true}));
    feed(state_, root, file);
    CHECK_OK(nib_calibrate_end(root, &report));
    CHECK_INT(report.modules, 3);
    CHECK_INT(report.streamlined, 1);
    CHECK_INT(report.missed, 0);
    CHECK(r.outputs[0] && r.outputs[1] && !r.outputs[2]); /* relu keeps codes; nobody takes fc3's */
    CHECK_INT(r.batches[1], 3);
    nib_config_free(config);
    nib_module_free(root);
    nib_safetensors_close(file);
}

TEST(a_module_never_calibrated_is_named_when_freezing) {
    NEEDS_SCHEME("qint8");
    nib_safetensors *file = golden(state_, "mlp");
    nib_module *root = mlp(file);
    nib_config *config = config_of(state_, "quanto:activations=qint8");
    CHECK_OK(nib_quantize(root, config, NULL));
    CHECK_NEAR(nib_module_scale(nib_module_child(root, "fc1"), "input_scale"), 1, 0);
    CHECK_FAILS(nib_freeze(root), NIB_E_ARGUMENT, "never calibrated");
    CHECK_TEXT(nib_last_error()->tensor, "fc1");
    CHECK_TEXT(nib_tensor_layout(nib_module_parameter(nib_module_child(root, "fc1"), "weight")),
               "dense");
    nib_config_free(config);
    nib_module_free(root);
    nib_safetensors_close(file);
}

TEST(unfrozen_weights_are_quantized_at_each_forward) {
    NEEDS_SCHEME("qint8");
    static const char *const weights[] = {"qint8", "qint4", "qint2", "qfloat8_e5m2"};
    nib_safetensors *file = golden(state_, "mlp");
    nib_tensor *x = golden_tensor(ctx, file, "x");
    for (int i = 0; i < 4; i++) {
        nib_module *later = mlp(file), *now = mlp(file);
        nib_config *keep = config_of(state_, "quanto:weights=%s,unfrozen=true", weights[i]),
                   *make = config_of(state_, "quanto:weights=%s", weights[i]);
        CHECK_OK(nib_quantize(later, keep, NULL));
        CHECK_OK(nib_quantize(now, make, NULL));
        nib_tensor *a = run_floats(state_, later, x), *b = run_floats(state_, now, x);
        CHECK_BYTES(nib_tensor_data(a), nib_tensor_data(b), nib_tensor_bytes(b));
        /* A weight that training moved counts at once. */
        float *w =
            nib_tensor_data_mut(nib_module_parameter(nib_module_child(later, "fc1"), "weight"));
        for (int k = 0; k < 32 * 48; k++) w[k] = -w[k];
        nib_tensor *c = run_floats(state_, later, x);
        CHECK(memcmp(nib_tensor_data(c), nib_tensor_data(b), nib_tensor_bytes(b)) != 0);
        CHECK_OK(nib_freeze(later));
        nib_tensor *d = run_floats(state_, later, x);
        CHECK_BYTES(nib_tensor_data(c), nib_tensor_data(d), nib_tensor_bytes(d));
        nib_tensor_free(a);
        nib_tensor_free(b);
        nib_tensor_free(c);
        nib_tensor_free(d);
        nib_config_free(keep);
        nib_config_free(make);
        nib_module_free(later);
        nib_module_free(now);
    }
    nib_tensor_free(x);
    nib_safetensors_close(file);
}

TEST(a_model_that_is_one_linear_works) {
    NEEDS_SCHEME("qint8");
    nib_safetensors *file = golden(state_, "mlp");
    nib_module *root = nib_linear_new(ctx, golden_tensor(ctx, file, "float.fc1.weight"),
                                      golden_tensor(ctx, file, "float.fc1.bias"));
    nib_config *config = config_of(state_, "quanto:weights=qint4,activations=qint8");
    CHECK_OK(nib_calibrate_begin(root, config, NULL));
    feed(state_, root, file);
    CHECK_OK(nib_calibrate_end(root, NULL));
    CHECK_OK(nib_freeze(root));
    CHECK(strcmp(nib_tensor_layout(nib_module_parameter(root, "weight")), "dense") != 0);
    nib_config_free(config);
    nib_module_free(root);
    nib_safetensors_close(file);
}

TEST(error_feedback_waits_for_data_and_says_so) {
    NEEDS_SCHEME("qint4:algo=gptq");
    nib_safetensors *file = golden(state_, "mlp");
    nib_module *root = mlp(file);
    nib_config *config = config_of(state_, "quanto:weights=qint4,algo=gptq");
    CHECK_OK(nib_quantize(root, config, NULL));
    CHECK_FAILS(nib_freeze(root), NIB_E_ARGUMENT, "saw no inputs");
    CHECK_TEXT(nib_last_error()->tensor, "fc1");
    CHECK_OK(nib_calibrate_begin(root, NULL, NULL));
    feed(state_, root, file);
    CHECK_OK(nib_calibrate_end(root, NULL));
    CHECK_OK(nib_freeze(root));
    CHECK(strcmp(nib_tensor_layout(nib_module_parameter(nib_module_child(root, "fc2"), "weight")),
                 "dense") != 0);
    nib_config_free(config);
    nib_module_free(root);
    nib_safetensors_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        RUNS(error_feedback_waits_for_data_and_says_so),
        RUNS(scales_and_codes_are_upstreams_to_the_bit_when_fed_what_it_recorded),
        RUNS(a_network_calibrated_and_frozen_is_upstreams_within_rounding),
        RUNS(outputs_that_an_op_takes_as_codes_stay_quantized_and_others_do_not),
        RUNS(a_module_never_calibrated_is_named_when_freezing),
        RUNS(unfrozen_weights_are_quantized_at_each_forward),
        RUNS(a_model_that_is_one_linear_works),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
