/* reduce_range of the scheme quanto: int8 activations whose codes lie in [-64, 63]. */
#include <math.h>
#include <nibble/graph.h>
#include <nibble/nn.h>

#include "nn/quantized.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "tensor/context.h"
#include "test.h"
#include "test_files.h"

enum { COLUMNS = 96, OUT = 35, MOST = 40, CALIBRATED = 64 };

static nib_tensor *random_tensor(nib_ctx *ctx, uint64_t *seed, nib_shape shape) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; t && i < nib_tensor_count(t); i++) data[i] = test_uniform(seed);
    return t;
}

static nib_module *linear(nib_ctx *ctx, uint64_t *seed, int64_t in, int64_t out) {
    nib_tensor *w = random_tensor(ctx, seed, (nib_shape){2, {out, in}});
    return nib_linear_new(ctx, w, random_tensor(ctx, seed, (nib_shape){1, {out}}));
}

static nib_module *network(nib_ctx *ctx, uint64_t *seed) {
    return nib_sequential_of(ctx,
                             (nib_module *[]){linear(ctx, seed, COLUMNS, 128), nib_relu_new(ctx),
                                              linear(ctx, seed, 128, 64),
                                              linear(ctx, seed, 64, OUT)},
                             4);
}

static nib_module *calibrated(void **state_, nib_ctx *ctx, const nib_config *config) {
    uint64_t seed = 11;
    nib_module *m = network(ctx, &seed);
    nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){2, {CALIBRATED, COLUMNS}});
    CHECK_OK(nib_calibrate_begin(m, config, NULL));
    const size_t mark = nib_scope_begin(ctx);
    CHECK_MADE(nib_module_forward(m, x));
    nib_scope_end(ctx, mark);
    nib_tensor_free(x);
    CHECK_OK(nib_calibrate_end(m, NULL));
    CHECK_OK(nib_freeze(m));
    return m;
}

/* Codes of the result and of each module's, for inputs also far beyond what was calibrated. */
static void check_codes(void **state_, const nib_tensor *t) {
    const int8_t *q = nib_act8_data(t);
    CHECK(nib_act8_is(t));
    CHECK_INT(t->desc.code, NIB_I7);
    for (int64_t i = 0; i < nib_tensor_count(t); i++)
        if (q[i] < -64 || q[i] > 63) FAIL_AT("code %d at %lld", q[i], (long long)i);
}

static void run_both(void **state_, const char *isa, const char *weights, int64_t rows,
                     int8_t *out) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2, .isa = isa});
    nib_module *m = calibrated(state_, ctx,
                               NIB_QUANTO(.weights = weights, .activations = "qint8",
                                          .streamline = "off", .reduce_range = true));
    CHECK_OK(nib_prepare(m));
    uint64_t seed = 5;
    nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){2, {rows, COLUMNS}});
    float *data = nib_tensor_data_mut(x);
    data[0] = -1e9f;
    data[rows * COLUMNS - 1] = 1e9f;
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *y = nib_module_forward(m, x);
    CHECK_MADE(y);
    check_codes(state_, y);
    memcpy(out, nib_act8_data(y), (size_t)(rows * OUT));
    nib_tensor *step = x;
    for (int i = 0; i < 4; i++) {
        step = nib_module_forward(nib_module_child(m, (const char[]){(char)('0' + i), 0}), step);
        CHECK_MADE(step);
        check_codes(state_, step);
    }
    nib_graph *g = nib_compile(m, x, NULL);
    CHECK_MADE(g);
    const nib_tensor *compiled = nib_graph_run(g, x);
    CHECK_MADE(compiled);
    check_codes(state_, compiled);
    CHECK_BYTES(nib_act8_data(compiled), out, (size_t)(rows * OUT));
    nib_scope_end(ctx, mark);
    nib_graph_free(g);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

TEST(codes_stay_in_the_range_and_are_the_same_on_every_instruction_set) {
    NEEDS_SCHEME("qint8");
    static const char *const isas[] = {"ref", "avx2", "avxvnni", "avx512", NULL};
    static const char *const weights[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    static const int64_t rows[] = {1, 3, 9, MOST};
    for (int w = 0; w < 4; w++)
        for (int r = 0; r < 4; r++) {
            static int8_t want[MOST * OUT], got[MOST * OUT];
            run_both(state_, isas[0], weights[w], rows[r], want);
            for (int i = 1; i < 5; i++) {
                run_both(state_, isas[i], weights[w], rows[r], got);
                CHECK_BYTES(got, want, (size_t)(rows[r] * OUT));
            }
        }
}

/* The mean square of what two results differ by, of that of the first. */
static double noise(const nib_tensor *floats, const nib_tensor *y) {
    const float *f = nib_tensor_data(floats), *g = nib_tensor_data(y);
    double square = 0, apart = 0;
    for (int64_t i = 0; i < nib_tensor_count(floats); i++) {
        const double d = (double)f[i] - (double)g[i];
        square += (double)f[i] * (double)f[i];
        apart += d * d;
    }
    return apart / square;
}

TEST(a_bit_less_costs_what_a_bit_is_worth) {
    NEEDS_SCHEME("qint8");
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = 11;
    nib_module *floats = network(ctx, &seed);
    nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){2, {CALIBRATED, COLUMNS}});
    const size_t mark = nib_scope_begin(ctx);
    const nib_tensor *want = nib_module_forward(floats, x);
    double apart[2];
    for (int reduced = 0; reduced < 2; reduced++) {
        nib_module *m = calibrated(
            state_, ctx, NIB_QUANTO(.activations = "qint8", .reduce_range = reduced != 0));
        const float scale = nib_module_scale(nib_module_child(m, "0"), "input_scale");
        float most = 0;
        for (int i = 0; i < CALIBRATED * COLUMNS; i++)
            most = fmaxf(most, fabsf(((const float *)nib_tensor_data(x))[i]));
        CHECK_NEAR(scale, most / (reduced ? 63 : 127), 0);
        const nib_tensor *y = nib_module_forward(m, x);
        CHECK_MADE(y);
        apart[reduced] = noise(want, nib_act8_is(y) ? nib_dequantize(y) : y);
        nib_module_free(m);
    }
    nib_scope_end(ctx, mark);
    print_message("noise %.3g, reduced %.3g\n", apart[0], apart[1]);
    CHECK(apart[1] < 1e-3);                                      /* 30 dB */
    CHECK(apart[1] > 1.5 * apart[0] && apart[1] < 6 * apart[0]); /* (127 / 63)^2 = 4.1 at most */
    nib_tensor_free(x);
    nib_module_free(floats);
    nib_ctx_free(ctx);
}

TEST(the_map_remembers_it_and_requantizing_gives_the_same_bits) {
    NEEDS_SCHEME("qint8");
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    TEST_FOLDER(folder);
    uint64_t seed = 3;
    nib_module *m = calibrated(state_, ctx,
                               NIB_QUANTO(.activations = "qint8", .reduce_range = true)),
               *again = network(ctx, &seed);
    CHECK_OK(nib_module_save(m, IN(folder, "model.safetensors")));
    char *map = nib_quantization_map(m);
    CHECK_MADE(map);
    CHECK(strstr(map, "\"reduce_range\": true"));
    nib_text_release(map);
    CHECK_OK(nib_requantize_file(again, folder, NULL));
    CHECK_INT(nib_module_quantized(nib_module_child(again, "2"))->input, NIB_I7);
    nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){2, {9, COLUMNS}});
    const size_t mark = nib_scope_begin(ctx);
    const nib_tensor *y = nib_module_forward(m, x), *z = nib_module_forward(again, x);
    CHECK_MADE(y);
    CHECK_MADE(z);
    CHECK_INT(nib_act8_is(y), nib_act8_is(z));
    CHECK_BYTES(nib_tensor_data(z), nib_tensor_data(y),
                (size_t)(9 * OUT) * (nib_act8_is(y) ? 1 : sizeof(float)));
    nib_scope_end(ctx, mark);
    nib_tensor_free(x);
    nib_module_free(again);
    nib_module_free(m);
    test_folder_remove(folder);
    nib_ctx_free(ctx);
}

TEST(operations_on_such_codes_keep_the_range) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const size_t mark = nib_scope_begin(ctx);
    const float values[] = {-100, -64, -63, 0, 63, 100};
    nib_tensor *x = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {2, 3}});
    memcpy(nib_tensor_data_mut(x), values, sizeof values);
    nib_tensor *one = nib_scale_tensor(ctx, NIB_F32, 1);
    const nib_tensor *q = nib_quantize_activation(x, one, NIB_I7);
    CHECK_MADE(q);
    check_codes(state_, q);
    CHECK_BYTES(nib_act8_data(q), ((const int8_t[]){-64, -64, -63, 0, 63, 63}), 6);
    const nib_tensor *n = nib_neg(q), *r = nib_relu(q);
    check_codes(state_, n);
    check_codes(state_, r);
    CHECK_BYTES(nib_act8_data(n), ((const int8_t[]){63, 63, 63, 0, -63, -63}), 6);
    CHECK_BYTES(nib_act8_data(r), ((const int8_t[]){0, 0, 0, 0, 63, 63}), 6);
    const nib_tensor *turned = nib_permute(q, (const int[]){1, 0});
    check_codes(state_, turned);
    const nib_tensor *product = nib_mm(q, turned);
    CHECK_MADE(product);
    const float *p = nib_tensor_data(product);
    CHECK_NEAR(p[0], 64 * 64 + 64 * 64 + 63 * 63, 0);
    CHECK_NEAR(p[1], -64 * 63 - 63 * 63, 0);
    nib_scope_end(ctx, mark);
    nib_tensor_free(one);
    nib_tensor_free(x);
    nib_ctx_free(ctx);
}

TEST(it_is_for_int8_activations_alone) {
    NEEDS_SCHEME("qint8");
    static const char *const configs[] = {"quanto:reduce_range=true",
                                          "quanto:activations=qfloat8_e4m3fn,reduce_range=true"};
    for (int i = 0; i < 2; i++) {
        CHECK(!nib_config_parse(configs[i]));
        CHECK(strstr(nib_last_error()->what, "reduce_range is for activations=qint8"));
    }
}

TESTS(RUNS(codes_stay_in_the_range_and_are_the_same_on_every_instruction_set),
      RUNS(a_bit_less_costs_what_a_bit_is_worth),
      RUNS(the_map_remembers_it_and_requantizing_gives_the_same_bits),
      RUNS(operations_on_such_codes_keep_the_range), RUNS(it_is_for_int8_activations_alone))
