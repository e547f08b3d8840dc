/* Every registered op that has a gradient, against finite differences of its own forward.
 *
 * With seeded numbers r, L(x) = sum of r[i] y[i] is a function of each input, summed in double. Its
 * slope by steps of h and 2 h, D(h) = (L(x + h) - L(x - h)) / 2h, is good to h^4 once extrapolated,
 * (4 D(h) - D(2h)) / 3; what the two differ by bounds the rest, and y is off by a few roundings of
 * what it is summed from:
 *
 *   |gradient - slope| <= |D(h) - D(2h)| + ROUNDINGS eps ((sum |r y| + 1) / h + |gradient|)
 *
 * Inputs of an op with kinks keep 4 h away from them. */
#include <float.h>
#include <nibble/train.h>

#include "op/calls.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "test.h"

enum { MOST = 4096, ROUNDINGS = 4 };

typedef enum fill {
    PLAIN,    /* [-1, 1) */
    POSITIVE, /* [0.5, 1.5) */
    APART,    /* any two, and zero, at least 0.05 apart: a shuffled row of steps */
    INDEX,    /* i32, below `below` */
    ANSWERS,  /* bool */
} fill;

typedef struct given {
    nib_shape shape;
    fill fill;
    bool absent;
    bool still; /* is not differentiated by */
    int below;
} given;

typedef struct test_case {
    const char *op;
    int nin;
    given in[5];
    int nattr;
    nib_attr attr[12];
    const char *quantized; /* config of in[1], which has no gradient then */
} test_case;

#define SHAPE(...)                                                                                 \
    {                                                                                              \
        (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), { __VA_ARGS__ }                 \
    }
#define IN(...)                                                                                    \
    { .shape = SHAPE(__VA_ARGS__) }
#define STILL(how, ...)                                                                            \
    { .shape = SHAPE(__VA_ARGS__), .fill = how, .still = true }
#define AWAY(how, ...)                                                                             \
    { .shape = SHAPE(__VA_ARGS__), .fill = how }
#define YES_OR_NO(...)                                                                             \
    { .shape = SHAPE(__VA_ARGS__), .fill = ANSWERS }
#define NO                                                                                         \
    { .absent = true }

#define LINEAR(...)     .op = "linear", .nin = 3, .in = {__VA_ARGS__}
#define TWO(name, ...)  .op = name, .nin = 2, .in = {__VA_ARGS__}
#define NORM(name, ...) .op = name, .nin = 3, .in = {__VA_ARGS__}
#define BATCH(...)      .op = "batch_norm", .nin = 5, .in = {__VA_ARGS__}
#define CACHED(...)     .op = "attention", .nin = 4, .in = {__VA_ARGS__}
#define APPEND(...)     .op = "kv_append", .nin = 3, .in = {__VA_ARGS__}
#define ATTENTION(...)  .op = "scaled_dot_product_attention", .nin = 4, .in = {__VA_ARGS__}
#define I(value)                                                                                   \
    { .i = value }
#define NINE(a, b, c, d, e, f, g, h, j) I(a), I(b), I(c), I(d), I(e), I(f), I(g), I(h), I(j)
#define CONV(name, ...)                 .op = name, .nin = 3, .in = {__VA_ARGS__}
#define OF(name, ...)                   .op = name, .nin = 1, .in = {__VA_ARGS__}

static const test_case cases[] = {
    {LINEAR(IN(5, 7), IN(3, 7), IN(3))},
    {LINEAR(IN(7), IN(1, 7), NO)},
    {LINEAR(IN(2, 3, 1), IN(17, 1), IN(17))},
    {LINEAR(IN(3, 33), IN(19, 33), IN(19)), .quantized = "int8_weight_only"},
    {LINEAR(IN(3, 32), IN(5, 32), NO), .quantized = "quanto:weights=qint4"},
    {OF("relu", {.shape = SHAPE(3, 11), .fill = APART})},
    {OF("tanh", IN(3, 7))},
    {OF("sigmoid", IN(3, 7))},
    {OF("silu", IN(3, 7))},
    {OF("gelu", IN(3, 7)), .nattr = 1, .attr = {{.s = "none"}}},
    {OF("gelu", IN(3, 7)), .nattr = 1, .attr = {{.s = "tanh"}}},
    {CONV("conv2d", IN(2, 3, 6, 5), IN(4, 3, 3, 2), IN(4)), /* stride, padding, dilation, groups */
     .nattr = 7, .attr = {{.i = 2}, {.i = 1}, {.i = 1}, {.i = 2}, {.i = 1}, {.i = 2}, {.i = 1}}},
    {CONV("conv2d", IN(4, 5, 4), IN(6, 2, 3, 3), NO), .nattr = 7,
     .attr = {{.i = 1}, {.i = 1}, {.i = 3}, {.i = 0}, {.i = 1}, {.i = 1}, {.i = 2}}},
    {CONV("conv2d", IN(1, 1, 3, 3), IN(1, 1, 1, 1), IN(1)), .nattr = 7,
     .attr = {{.i = 3}, {.i = 2}, {.i = 0}, {.i = 0}, {.i = 1}, {.i = 1}, {.i = 1}}},
    {CONV("conv2d", IN(1, 2, 5, 5), IN(3, 2, 3, 3), IN(3)), .nattr = 7,
     .attr = {{.i = 1}, {.i = 1}, {.i = 1}, {.i = 1}, {.i = 1}, {.i = 1}, {.i = 1}},
     .quantized = "quanto:weights=qint8"},
    {CONV("conv1d", IN(2, 3, 9), IN(4, 3, 3), IN(4)), .nattr = 4,
     .attr = {{.i = 2}, {.i = 2}, {.i = 2}, {.i = 1}}},
    {OF("leaky_relu", AWAY(APART, 3, 11)), .nattr = 1, .attr = {{.d = 0.3}}},
    {OF("hardtanh", AWAY(APART, 3, 11)), .nattr = 2, .attr = {{.d = -0.5}, {.d = 1}}},
    {OF("elu", AWAY(APART, 3, 11)), .nattr = 3, .attr = {{.d = 1.5}, {.d = 0.7}, {.d = 1.2}}},
    {OF("hardsigmoid", AWAY(APART, 3, 23))}, /* to 3.4: past both corners */
    {OF("hardswish", AWAY(APART, 3, 23))},
    {OF("permute", IN(2, 3, 4)), .nattr = 3, .attr = {{.i = 2}, {.i = 0}, {.i = 1}}},
    {OF("pad", IN(2, 3, 4)), .nattr = 6, .attr = {I(2), I(0), I(1), I(3), {.s = "constant"}}},
    {OF("pad", IN(2, 3, 4)), .nattr = 6, .attr = {I(2), I(3), I(1), I(2), {.s = "reflect"}}},
    {OF("pad", IN(3, 4)), .nattr = 6, .attr = {I(2), I(5), I(1), I(2), {.s = "replicate"}}},
    {OF("pad", IN(5)), .nattr = 6, .attr = {I(2), I(4), I(0), I(0), {.s = "circular"}}},
    {OF("dropout", IN(3, 33)), .nattr = 4, .attr = {{.d = 0.3}, {.i = 1}, {.i = 5}, {.i = 6}}},
    {OF("dropout", IN(3, 3)), .nattr = 4, .attr = {{.d = 0.3}, {.i = 0}, {.i = 5}, {.i = 6}}},
    {OF("softmax", IN(3, 17)), .nattr = 2, .attr = {{.i = -1}, {.i = 0}}},
    {OF("softmax", IN(2, 5, 3)), .nattr = 2, .attr = {{.i = 1}, {.i = 0}}},
    {OF("max_pool2d", AWAY(APART, 2, 5, 6)), .nattr = 9, .attr = {NINE(3, 2, 2, 1, 1, 0, 1, 2, 0)}},
    {OF("max_pool2d", AWAY(APART, 1, 2, 4, 4)), .nattr = 9,
     .attr = {NINE(2, 2, 2, 2, 0, 0, 1, 1, 1)}},
    {OF("avg_pool2d", IN(2, 5, 6)), .nattr = 9, .attr = {NINE(3, 2, 2, 1, 1, 1, 0, 1, 0)}},
    {OF("avg_pool2d", IN(1, 2, 6, 6)), .nattr = 9, .attr = {NINE(3, 3, 2, 2, 1, 1, 1, 0, 0)}},
    {OF("avg_pool2d", IN(1, 4, 4)), .nattr = 9, .attr = {NINE(2, 2, 1, 2, 0, 0, 0, 1, 3)}},
    {OF("adaptive_avg_pool2d", IN(2, 5, 7)), .nattr = 2, .attr = {{.i = 3}, {.i = 2}}},
    {TWO("add", IN(3, 5), IN(3, 5)), .nattr = 1, .attr = {{.d = 1}}},
    {TWO("add", IN(2, 3, 1, 5), IN(3, 4, 1)), .nattr = 1, .attr = {{.d = 1}}},
    {TWO("sub", IN(3, 5), IN(5)), .nattr = 1, .attr = {{.d = 1}}},
    {TWO("sub", IN(1), IN(2, 5)), .nattr = 1, .attr = {{.d = 1}}},
    {TWO("mul", IN(2, 1, 5), IN(3, 5))},
    {TWO("mul", IN(7), {.shape = {0}})},
    {TWO("div", IN(2, 1, 5), AWAY(POSITIVE, 3, 1))},
    {TWO("mm", IN(3, 5), IN(5, 17))},
    {TWO("bmm", IN(2, 3, 5), IN(2, 5, 4))},
    {TWO("cat", IN(2, 3, 2), IN(2, 1, 2)), .nattr = 1, .attr = {I(1)}},
    {TWO("silu_mul", IN(3, 7), IN(3, 7))},
    {TWO("cat", IN(2, 3), IN(4, 3)), .nattr = 1},
    {TWO("stack", IN(2, 3), IN(2, 3)), .nattr = 1, .attr = {I(1)}},
    {TWO("stack", IN(2, 3), IN(2, 3)), .nattr = 1, .attr = {I(2)}},
    {OF("split", IN(2, 5, 3)), .nattr = 2, .attr = {I(2), I(1)}},
    {OF("expand", IN(3, 1)), .nattr = 4, .attr = {I(2), I(-1), I(4), I(0)}},
    {.op = "where", .nin = 3, .in = {YES_OR_NO(3, 5), IN(5), IN(2, 3, 1)}},
    {TWO("rope", IN(3, 12), STILL(PLAIN, 3, 2, 3)), .nattr = 1, .attr = {{.i = 2}}},
    {TWO("rms_norm", IN(3, 7), IN(7)), .nattr = 2, .attr = {{.i = 7}, {.d = 0.01}}},
    {TWO("embedding", IN(6, 5), {.shape = SHAPE(9), .fill = INDEX, .below = 6}), .nattr = 3},
    {NORM("layer_norm", IN(3, 17), IN(17), IN(17)), .nattr = 3, .attr = {{.i = 1}, {.d = 0.01}}},
    {NORM("layer_norm", IN(2, 3, 5), NO, NO), .nattr = 3, .attr = {{.i = 2}, {.d = 0.01}}},
    {NORM("group_norm", IN(2, 6, 5), IN(6), IN(6)), .nattr = 3, .attr = {{.i = 3}, {.d = 0.01}}},
    {NORM("group_norm", IN(3, 4), NO, NO), .nattr = 3, .attr = {{.i = 2}, {.d = 0.01}}},
    {BATCH(IN(3, 2, 5), IN(2), IN(2), NO, NO), .nattr = 4,
     .attr = {{.i = 1}, {.d = 0.1}, {.d = 0.01}}},
    {BATCH(IN(5, 3), NO, NO, NO, NO), .nattr = 4, .attr = {{.i = 1}, {.d = 0.1}, {.d = 0.01}}},
    {BATCH(IN(2, 3, 2, 2), IN(3), IN(3), STILL(PLAIN, 3), STILL(POSITIVE, 3)), .nattr = 4,
     .attr = {{.i = 0}, {.d = 0.1}, {.d = 0.01}}},
    {ATTENTION(IN(2, 3, 5), IN(2, 4, 5), IN(2, 4, 3), NO), .nattr = 4},
    {ATTENTION(IN(5, 4), IN(5, 4), IN(5, 4), STILL(PLAIN, 5, 5)), .nattr = 4,
     .attr = {{.d = 0}, {.i = 1}, {.d = 0.7}}},
    {ATTENTION(IN(2, 3, 5), IN(2, 4, 5), IN(2, 4, 3), IN(2, 1, 4)), .nattr = 4},
    {ATTENTION(IN(2, 3, 4), IN(2, 5, 4), IN(2, 5, 4), IN(3, 5)), .nattr = 4,
     .attr = {{.d = 0}, {.i = 1}, {.d = 0.7}}},
    {CACHED(IN(3, 12), IN(2, 6, 3), IN(2, 6, 3), NO), .nattr = 4,
     .attr = {I(4), I(0), I(0), {.d = 0.7}}},
    {CACHED(IN(4, 12), IN(2, 7, 3), IN(2, 7, 3), STILL(PLAIN, 4)), .nattr = 4,
     .attr = {I(4), I(2), I(3), {.d = 0.7}}},
    {CACHED(IN(70, 2), IN(1, 71, 2), IN(1, 71, 2), NO), .nattr = 4, /* more than a tile */
     .attr = {I(1), I(1), I(0), {.d = 1}}},
    {APPEND(IN(2, 5, 4), IN(3, 8), NO), .nattr = 1, .attr = {I(1)}},
    {APPEND(IN(2, 3, 4), IN(3, 8), STILL(PLAIN, 3, 2, 2)), .nattr = 1},
    {OF("split_qkv", IN(3, 12)), .nattr = 2, .attr = {I(2), I(0)}},
    {OF("split_qkv", IN(3, 12)), .nattr = 2, .attr = {I(2), I(1)}},
    {.op = "mse_loss", .nin = 2, .in = {IN(3, 5), IN(3, 5)}, .nattr = 1, .attr = {{.i = 1}}},
    {.op = "cross_entropy_loss", /* rows of class 2 do not count */
     .nin = 3,
     .in = {IN(6, 5), {.shape = SHAPE(6), .fill = INDEX, .below = 5}, NO},
     .nattr = 3,
     .attr = {{.i = 1}, {.i = 2}, {.d = 0}}},
    {.op = "cross_entropy_loss",
     .nin = 3,
     .in = {IN(17), {.shape = {0}, .fill = INDEX, .below = 17}, NO},
     .nattr = 3,
     .attr = {{.i = 1}, {.i = -100}, {.d = 0}}},
};

/* Rounding has no slope: gradients go through it as it stands (tests/train/test_tape.c). */
static const char *const straight_through[] = {"quantize_weight", "quantize_activation",
                                               "dequantize"};

typedef struct setting {
    const test_case *c;
    nib_ctx *ctx;
    float *data[5];
    int32_t index[MOST];
    nib_tensor *in[5];
} setting;

static void fill_floats(float *x, int64_t n, fill how, uint64_t *state) {
    for (int64_t i = 0; i < n; i++) {
        if (how == PLAIN) x[i] = test_uniform(state);
        if (how == POSITIVE) x[i] = 1 + 0.5f * test_uniform(state);
        if (how == APART) x[i] = ((float)(i - n / 2) + 0.5f) * 0.1f;
    }
    for (int64_t i = n - 1; how == APART && i > 0; i--) {
        const int64_t k = (int64_t)(test_random(state) % (uint64_t)(i + 1));
        const float swap = x[i];
        x[i] = x[k];
        x[k] = swap;
    }
}

static int64_t count_of(const nib_shape *s) {
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++) n *= s->dim[i];
    return n;
}

static void set_up(void **state_, setting *s, const test_case *c, nib_ctx *ctx) {
    uint64_t seed = test_seed();
    *s = (setting){.c = c, .ctx = ctx};
    for (int i = 0; i < c->nin; i++) {
        const given *g = &c->in[i];
        const int64_t n = count_of(&g->shape);
        CHECK(n <= MOST);
        if (g->absent) {
            s->in[i] = NIB_NONE;
        } else if (g->fill == INDEX) {
            for (int64_t k = 0; k < n; k++)
                s->index[k] = (int32_t)(test_random(&seed) % (uint64_t)g->below);
            s->in[i] = nib_tensor_wrap(ctx, NIB_I32, g->shape, s->index, NULL, NULL);
        } else if (g->fill == ANSWERS) {
            unsigned char *answers = (unsigned char *)s->index;
            for (int64_t k = 0; k < n; k++) answers[k] = test_random(&seed) % 2;
            s->in[i] = nib_tensor_wrap(ctx, NIB_BOOL, g->shape, answers, NULL, NULL);
        } else {
            s->in[i] = nib_tensor_new(ctx, NIB_F32, g->shape); /* which ops may change */
            CHECK_MADE(s->in[i]);
            s->data[i] = nib_tensor_data_mut(s->in[i]);
            fill_floats(s->data[i], n, g->fill, &seed);
        }
        CHECK_MADE(s->in[i]);
        if (i == 1 && c->quantized) {
            nib_config *config = nib_config_parse(c->quantized);
            CHECK_MADE(config);
            nib_tensor *q = nib_keep(nib_quantize_tensor(s->in[i], config));
            CHECK_MADE(q);
            nib_config_free(config);
            nib_tensor_free(s->in[i]);
            s->data[i] = NULL;
            s->in[i] = q;
        }
    }
}

static void tear_down(setting *s) {
    for (int i = 0; i < s->c->nin; i++) nib_tensor_free(s->in[i]);
}

static nib_status call(const setting *s, nib_call_args *args) {
    *args = (nib_call_args){
        .ctx = s->ctx, .op = nib_op_find(s->c->op), .nin = s->c->nin, .nattr = s->c->nattr};
    for (int i = 0; i < s->c->nin; i++) args->in[i] = s->in[i];
    for (int i = 0; i < s->c->nattr; i++) args->attr[i] = s->c->attr[i];
    return nib_call(args);
}

/* What a call made; of an op without results what it changed. */
static const nib_tensor *result_of(const nib_call_args *args, int i) {
    return args->nout ? args->out[i] : args->in[0];
}
static int results_of(const nib_call_args *args) { return args->nout ? args->nout : 1; }

/* The numbers r of a result. */
static float weight_of(int result, int64_t i) {
    uint64_t state = (uint64_t)(result * 7919 + i + 1);
    return test_uniform(&state);
}

/* L, and sum |r y|. */
static double loss(void **state_, const setting *s, double *magnitude) {
    const size_t mark = nib_scope_begin(s->ctx);
    nib_call_args args;
    double sum = 0;
    *magnitude = 0;
    CHECK_OK(call(s, &args));
    for (int o = 0; o < results_of(&args); o++) {
        const float *y = nib_tensor_data(result_of(&args, o));
        for (int64_t i = 0; i < nib_tensor_count(result_of(&args, o)); i++) {
            const double term = (double)weight_of(o, i) * y[i];
            sum += term;
            *magnitude += fabs(term);
        }
    }
    nib_scope_end(s->ctx, mark);
    return sum;
}

static nib_gradients *gradients_of(void **state_, const setting *s) {
    nib_gradients *g = nib_gradients_new(s->ctx);
    nib_call_args args;
    CHECK_MADE(g);
    for (int i = 0; i < s->c->nin; i++)
        if (s->data[i] && !s->c->in[i].still) CHECK_OK(nib_gradients_watch(g, s->in[i], NULL));
    CHECK_OK(nib_tape_begin(s->ctx, g));
    const size_t mark = nib_scope_begin(s->ctx);
    CHECK_OK(call(s, &args));
    const int nout = results_of(&args);
    for (int o = 0; o < nout; o++) {
        if (o) CHECK_OK(call(s, &args)); /* going back forgets: one result at a time */
        const nib_tensor *y = result_of(&args, o);
        float *r = malloc((size_t)nib_tensor_count(y) * sizeof *r);
        for (int64_t i = 0; i < nib_tensor_count(y); i++) r[i] = weight_of(o, i);
        nib_tensor *up = nib_tensor_wrap(s->ctx, NIB_F32, y->shape, r, NULL, NULL);
        CHECK_OK(nib_backward(y, up));
        nib_tensor_free(up);
        free(r);
    }
    nib_scope_end(s->ctx, mark);
    CHECK_OK(nib_tape_end(s->ctx));
    return g;
}

static double slope(void **state_, const setting *s, float *at, double h, double *magnitude) {
    const float was = *at;
    *at = (float)(was + h);
    const float above = *at;
    const double high = loss(state_, s, magnitude);
    *at = (float)(was - h);
    const double width = (double)above - *at, low = loss(state_, s, magnitude);
    *at = was;
    return (high - low) / width;
}

static void check(void **state_, const setting *s, const nib_gradients *g) {
    const double h = 1.0 / 128;
    for (int i = 0; i < s->c->nin; i++) {
        if (!s->data[i] || s->c->in[i].still) continue;
        const nib_tensor *gradient = nib_gradient_of(g, s->in[i]);
        if (!gradient || !nib_shape_equal(&gradient->shape, &s->in[i]->shape))
            FAIL_AT("%s: no gradient of input %d", s->c->op, i);
        const float *got = nib_tensor_data(gradient);
        for (int64_t k = 0; k < nib_tensor_count(s->in[i]); k++) {
            double magnitude;
            const double wide = slope(state_, s, &s->data[i][k], 2 * h, &magnitude),
                         near = slope(state_, s, &s->data[i][k], h, &magnitude),
                         want = (4 * near - wide) / 3;
            const double room =
                fabs(near - wide) +
                ROUNDINGS * FLT_EPSILON * ((magnitude + 1) / h + fabs((double)got[k]));
            if (!(fabs(got[k] - want) <= room))
                FAIL_AT("%s (case %d): input %d, element %d: gradient %.9g, slope %.9g, off by "
                        "%.3g over %.3g",
                        s->c->op, (int)(s->c - cases), i, (int)k, (double)got[k], want,
                        fabs(got[k] - want), room);
        }
    }
}

TEST(every_gradient_is_the_slope_of_its_op) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!test_has_scheme(cases[i].quantized)) continue;
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        setting *s = malloc(sizeof *s);
        set_up(state_, s, &cases[i], ctx);
        nib_gradients *g = gradients_of(state_, s);
        check(state_, s, g);
        nib_gradients_free(g);
        tear_down(s);
        free(s);
        nib_ctx_free(ctx);
    }
}

TEST(gradients_have_the_same_bits_for_every_number_of_threads) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!test_has_scheme(cases[i].quantized)) continue;
        nib_gradients *g[2];
        setting *s[2];
        nib_ctx *ctx[2];
        for (int t = 0; t < 2; t++) {
            ctx[t] = nib_ctx_new(&(nib_ctx_options){.threads = t ? 3 : 1, .isa = t ? NULL : "ref"});
            s[t] = malloc(sizeof *s[t]);
            set_up(state_, s[t], &cases[i], ctx[t]);
            g[t] = gradients_of(state_, s[t]);
        }
        for (int k = 0; k < cases[i].nin; k++) {
            if (!s[0]->data[k] || cases[i].in[k].still) continue;
            const nib_tensor *a = nib_gradient_of(g[0], s[0]->in[k]),
                             *b = nib_gradient_of(g[1], s[1]->in[k]);
            if (memcmp(nib_tensor_data(a), nib_tensor_data(b), nib_tensor_bytes(a)) != 0)
                FAIL_AT("%s: gradient of input %d differs", cases[i].op, k);
        }
        for (int t = 0; t < 2; t++) {
            nib_gradients_free(g[t]);
            tear_down(s[t]);
            free(s[t]);
            nib_ctx_free(ctx[t]);
        }
    }
}

TEST(every_op_with_a_gradient_stands_here) {
    for (size_t i = 0; nib_op_at(i); i++) {
        const nib_op *op = nib_op_at(i);
        bool here = !op->backward;
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
            here = here || strcmp(cases[k].op, op->name) == 0;
        for (size_t k = 0; k < sizeof straight_through / sizeof *straight_through; k++)
            here = here || strcmp(straight_through[k], op->name) == 0;
        if (!here) FAIL_AT("%s has a gradient that no case looks at", op->name);
    }
}

TESTS(RUNS(every_gradient_is_the_slope_of_its_op),
      RUNS(gradients_have_the_same_bits_for_every_number_of_threads),
      RUNS(every_op_with_a_gradient_stands_here))
