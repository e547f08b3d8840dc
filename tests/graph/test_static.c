/* Static activations in a compiled module: codes go from op to op as they do op by op, whatever is
 * fused, and floats that nobody reads are never made. */
#include <nibble/graph.h>
#include <nibble/nn.h>

#include "base/mem.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "tensor/context.h"
#include "test.h"

static nib_tensor *random_tensor(nib_ctx *ctx, uint64_t *seed, nib_shape shape) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; t && i < nib_tensor_count(t); i++) data[i] = test_uniform(seed);
    return t;
}

static nib_module *linear(nib_ctx *ctx, uint64_t *seed, int64_t in, int64_t out, bool biased) {
    nib_tensor *w = random_tensor(ctx, seed, (nib_shape){2, {out, in}});
    nib_tensor *b = biased ? random_tensor(ctx, seed, (nib_shape){1, {out}}) : NIB_NONE;
    return nib_linear_new(ctx, w, b);
}

/* ---- modules that meet every join ---- */

static nib_module *mlp(nib_ctx *ctx, uint64_t *seed, bool biased) {
    return nib_sequential_of(
        ctx,
        (nib_module *[]){linear(ctx, seed, 96, 80, biased), nib_relu_new(ctx),
                         linear(ctx, seed, 80, 128, biased), nib_gelu_new(ctx, false),
                         linear(ctx, seed, 128, 35, !biased), nib_silu_new(ctx),
                         linear(ctx, seed, 35, 64, biased), nib_gelu_new(ctx, true),
                         linear(ctx, seed, 64, 10, biased)},
        9);
}

static nib_tensor *child(nib_module *m, const char *name, nib_tensor *x) {
    return nib_module_forward(nib_module_child(m, name), x);
}

/* A transformer layer without attention: norms, three linears of one input, a gate, residuals, and
 * views of codes. */
static nib_tensor *layer_forward(nib_module *m, nib_tensor *x) {
    nib_tensor *n = child(m, "norm", x);
    nib_tensor *q = child(m, "q", n), *k = child(m, "k", n), *v = child(m, "v", n);
    nib_tensor *a = nib_add(nib_mul(q, k), v);
    x = nib_add(x, child(m, "out", a));
    n = child(m, "rms", x);
    nib_tensor *f = nib_silu_mul(child(m, "gate", n), child(m, "up", n));
    x = nib_add(child(m, "down", f), x);
    const nib_shape flat = {2, {-1, 32}}, back = {2, {-1, 96}};
    nib_tensor *r = nib_relu(nib_reshape(child(m, "view", x), &flat));
    return child(m, "last", nib_reshape(r, &back));
}
static const nib_module_kind kind_layer = {.name = "Layer", .forward = layer_forward};

static nib_module *layer(nib_ctx *ctx, uint64_t *seed, bool biased) {
    static const struct {
        const char *name;
        int64_t in, out;
    } linears[] = {{"q", 96, 96},    {"k", 96, 96},    {"v", 96, 96},
                   {"out", 96, 96},  {"gate", 96, 72}, {"up", 96, 72},
                   {"down", 72, 96}, {"view", 96, 96}, {"last", 96, 33}};
    nib_module *m = nib_module_new(ctx, &kind_layer, NULL);
    nib_module_add(m, "norm",
                   nib_layer_norm_new(ctx, random_tensor(ctx, seed, (nib_shape){1, {96}}),
                                      random_tensor(ctx, seed, (nib_shape){1, {96}}), 1, 1e-5));
    nib_module_add(m, "rms",
                   nib_rms_norm_new(ctx, random_tensor(ctx, seed, (nib_shape){1, {96}}), 1e-5));
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        nib_module_add(m, linears[i].name,
                       linear(ctx, seed, linears[i].in, linears[i].out, biased));
    return m;
}

/* Attention by all that may become of codes between linears: moved, taken apart and together,
 * multiplied by each other, by numbers, softmaxed. */
static nib_tensor *number(nib_ctx *ctx, float value) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){0}));
    if (t) *(float *)nib_tensor_data_mut(t) = value;
    return t;
}

static nib_tensor *heads_of(nib_tensor *x) {
    const nib_shape split = {3, {-1, 4, 24}};
    return nib_permute(nib_reshape(x, &split), (const int[]){1, 0, 2});
}

static nib_tensor *attends_forward(nib_module *m, nib_tensor *x) {
    nib_ctx *ctx = nib_module_ctx(m);
    nib_tensor *n = child(m, "norm", x);
    nib_tensor *q = heads_of(child(m, "q", n)), *k = heads_of(child(m, "k", n)),
               *v = heads_of(child(m, "v", n));
    nib_tensor *scores = nib_matmul(nib_mul(q, number(ctx, 0.2f)), nib_transpose(k, 1, 2));
    nib_tensor *own = nib_matmul(nib_softmax(scores, -1), v);
    nib_tensor *other = nib_scaled_dot_product_attention(nib_neg(q), k, nib_div(v, number(ctx, 3)),
                                                         NIB_NONE, false, 0);
    nib_tensor *piece[NIB_MAX_OUTPUTS];
    const nib_shape rows = {2, {-1, 96}};
    if (nib_split(v, 12, -1, piece) != 2) return NULL;
    nib_tensor *turned = nib_cat_along((const nib_tensor *[]){piece[1], piece[0]}, 2, -1);
    nib_tensor *a = nib_add(nib_add(own, other), turned);
    a = child(m, "out", nib_reshape(nib_permute(a, (const int[]){1, 0, 2}), &rows));
    nib_tensor *f = nib_silu(nib_tanh(child(m, "view", nib_add(x, a))));
    return child(m, "last", nib_gelu(f, false));
}
static const nib_module_kind kind_attends = {.name = "Attends", .forward = attends_forward};

static nib_module *attends(nib_ctx *ctx, uint64_t *seed, bool biased) {
    static const char *const linears[] = {"q", "k", "v", "out", "view", "last"};
    nib_module *m = nib_module_new(ctx, &kind_attends, NULL);
    nib_module_add(m, "norm", nib_layer_norm_new(ctx, NIB_NONE, NIB_NONE, 1, 1e-5));
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        nib_module_add(m, linears[i], linear(ctx, seed, 96, 96, biased));
    return m;
}

typedef nib_module *make(nib_ctx *ctx, uint64_t *seed, bool biased);

static nib_module *calibrated(void **state_, nib_ctx *ctx, uint64_t *seed, make *of, bool biased,
                              const nib_config *config) {
    nib_module *m = of(ctx, seed, biased);
    CHECK_OK(nib_quantize(m, config, NULL));
    CHECK_OK(nib_calibrate_begin(m, NULL, NULL));
    nib_tensor *x = random_tensor(ctx, seed, (nib_shape){2, {24, 96}});
    const size_t mark = nib_scope_begin(ctx);
    CHECK_MADE(nib_module_forward(m, x));
    nib_scope_end(ctx, mark);
    nib_tensor_free(x);
    CHECK_OK(nib_calibrate_end(m, NULL));
    CHECK_OK(nib_freeze(m));
    return m;
}

/* Bytes of a result, codes as codes. */
static void check_same(void **state_, const nib_tensor *got, const nib_tensor *want) {
    CHECK(nib_shape_equal(&got->shape, &want->shape));
    CHECK_INT(nib_act8_is(got), nib_act8_is(want));
    if (nib_act8_is(want)) CHECK_NEAR(nib_act8_scale(got), nib_act8_scale(want), 0);
    const size_t size =
        (size_t)nib_tensor_count(want) * (nib_act8_is(want) ? sizeof(int8_t) : sizeof(float));
    CHECK_BYTES(nib_tensor_data(got), nib_tensor_data(want), size);
}

static void check_compiled(void **state_, make *of, const nib_config *config, int threads) {
    static const int64_t rows[] = {1, 3, 40, 250};
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    for (int biased = 0; biased < 2; biased++) {
        nib_module *m = calibrated(state_, ctx, &seed, of, biased, config);
        for (int prepared = 0; prepared < 2; prepared++) {
            if (prepared) CHECK_OK(nib_prepare(m));
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
                for (int fused = 0; fused < 2; fused++) {
                    nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){2, {rows[r], 96}});
                    nib_graph *g = nib_compile(m, x, &(nib_compile_options){.no_fusion = !fused});
                    CHECK_MADE(g);
                    float *data = nib_tensor_data_mut(x);
                    data[0] = 1e9f; /* beyond what was calibrated */
                    data[rows[r] * 96 - 1] = -NAN;
                    const size_t mark = nib_scope_begin(ctx);
                    for (int run = 0; run < 2; run++) {
                        nib_tensor *want = nib_module_forward(m, x);
                        const nib_tensor *got = nib_graph_run(g, x);
                        CHECK_MADE(want);
                        CHECK_MADE(got);
                        check_same(state_, got, want);
                        for (int64_t i = 0; i < rows[r] * 96; i++) data[i] = test_uniform(&seed);
                    }
                    nib_scope_end(ctx, mark);
                    nib_graph_free(g);
                    nib_tensor_free(x);
                }
        }
        nib_module_free(m);
    }
    nib_ctx_free(ctx);
}

TEST(compiled_static_int8_gives_the_bits_of_the_forward) {
    for (int threads = 1; threads <= 3; threads++)
        for (int i = 0; i < 2; i++)
            check_compiled(state_, i ? mlp : layer, NIB_QUANTO(.activations = "qint8"), threads);
}

TEST(so_do_other_weights_and_float8_activations) {
    static const char *const weights[] = {"qint4", "qint2", "qfloat8_e4m3fn"};
    for (int w = 0; w < 3; w++)
        for (int i = 0; i < 2; i++)
            check_compiled(state_, i ? mlp : layer,
                           NIB_QUANTO(.weights = weights[w], .activations = "qint8"), 2);
    for (int i = 0; i < 2; i++)
        check_compiled(state_, i ? mlp : layer,
                       NIB_QUANTO(.weights = "qfloat8_e4m3fn", .activations = "qfloat8_e5m2"), 2);
}

TEST(so_do_modules_whose_every_output_is_quantized) {
    for (int i = 0; i < 2; i++)
        check_compiled(state_, i ? mlp : layer,
                       NIB_QUANTO(.activations = "qint8", .streamline = "off"), 2);
}

TEST(so_does_attention_over_codes) {
    static const char *const activations[] = {"qint8", "qfloat8_e4m3fn"};
    for (int threads = 1; threads <= 3; threads++)
        for (int i = 0; i < 4; i++)
            check_compiled(
                state_, attends,
                NIB_QUANTO(.activations = activations[i / 2], .streamline = i % 2 ? "off" : "on"),
                threads);
}

TEST(running_asks_for_no_memory) {
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    for (int i = 0; i < 3; i++) {
        nib_module *m = calibrated(state_, ctx, &seed,
                                   i == 2 ? attends
                                   : i    ? mlp
                                          : layer,
                                   true, NIB_QUANTO(.activations = "qint8", .streamline = "off"));
        nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){2, {40, 96}});
        nib_graph *g = nib_compile(m, x, NULL);
        CHECK_MADE(g);
        CHECK_MADE(nib_graph_run(g, x));
        nib_mem_fail_after(-1, false);
        CHECK_MADE(nib_graph_run(g, x));
        CHECK_INT(nib_mem_fail_after(-1, false), 0);
        nib_graph_free(g);
        nib_tensor_free(x);
        nib_module_free(m);
    }
    nib_ctx_free(ctx);
}

/* ---- what is left of the calls ---- */

static int nodes_of(void **state_, const nib_graph *g, const char *op) {
    char *text = nib_graph_print(g);
    CHECK_MADE(text);
    int count = 0;
    for (const char *at = text; (at = strstr(at, op)); at++) count++;
    nib_text_release(text);
    return count;
}

static void check_nodes(void **state_, make *of, const char *streamline, const char *const ops[],
                        const int counts[]) {
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *m = calibrated(state_, ctx, &seed, of, true,
                               NIB_QUANTO(.activations = "qint8", .streamline = streamline));
    nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){2, {4, 96}});
    nib_graph *g = nib_compile(m, x, NULL);
    CHECK_MADE(g);
    for (int i = 0; ops[i]; i++)
        if (nodes_of(state_, g, ops[i]) != counts[i]) {
            char *text = nib_graph_print(g);
            FAIL_AT("%d nodes of %s, want %d, in\n%s", nodes_of(state_, g, ops[i]), ops[i],
                    counts[i], text);
        }
    nib_graph_free(g);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

TEST(codes_come_straight_out_of_products_and_norms) {
    /* The input, four linears that give codes, and one that gives floats. */
    check_nodes(state_, mlp, NULL,
                (const char *const[]){"quantize_activation(", "linear_act(", " linear(", "relu(",
                                      "gelu(", "silu(", NULL},
                (const int[]){1, 4, 1, 0, 0, 0});
    check_nodes(state_, layer, NULL,
                (const char *const[]){"norm_codes(", "layer_norm(", "rms_norm(", "silu_mul(",
                                      "linear_many(", "linear_add(", NULL},
                (const int[]){2, 0, 0, 0, 1, 3});
}

TEST(codes_come_straight_out_of_convolutions) {
    for (int streamlined = 0; streamlined < 2; streamlined++) {
        uint64_t seed = test_seed();
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        nib_module *m = nib_sequential_new(ctx);
        for (int i = 0; i < 2; i++) {
            nib_tensor *w = random_tensor(ctx, &seed, (nib_shape){4, {8, i ? 4 : 8, 3, 3}});
            nib_module_append(m, nib_conv2d_new(ctx, w, NIB_NONE,
                                                &(nib_conv_options){.stride = {1 + i, 1},
                                                                    .padding = {1, i},
                                                                    .groups = 1 + i}));
            if (!i) nib_module_append(m, nib_relu_new(ctx));
        }
        nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){4, {2, 8, 9, 7}});
        const nib_config *config = NIB_QUANTO(.activations = "qint8", .inputs = "all",
                                              .streamline = streamlined ? "on" : "off");
        CHECK_OK(nib_calibrate_begin(m, config, NULL));
        const size_t mark = nib_scope_begin(ctx);
        CHECK_MADE(nib_module_forward(m, x));
        CHECK_OK(nib_calibrate_end(m, NULL));
        CHECK_OK(nib_freeze(m));
        CHECK_OK(nib_prepare(m));
        nib_graph *g = nib_compile(m, x, NULL);
        CHECK_MADE(g);
        const nib_tensor *got = nib_graph_run(g, x);
        CHECK_MADE(got);
        check_same(state_, got, nib_module_forward(m, x));
        CHECK_INT(nodes_of(state_, g, "conv_codes("), 2 - streamlined);
        CHECK_INT(nodes_of(state_, g, "quantize_activation("), 1);
        nib_scope_end(ctx, mark);
        nib_graph_free(g);
        nib_tensor_free(x);
        nib_module_free(m);
        nib_ctx_free(ctx);
    }
}

TESTS(RUNS(compiled_static_int8_gives_the_bits_of_the_forward),
      RUNS(so_do_other_weights_and_float8_activations),
      RUNS(so_do_modules_whose_every_output_is_quantized), RUNS(so_does_attention_over_codes),
      RUNS(running_asks_for_no_memory), RUNS(codes_come_straight_out_of_products_and_norms),
      RUNS(codes_come_straight_out_of_convolutions))
