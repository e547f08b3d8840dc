/* Every registered op that meets quantized activations runs compiled with the bits that it has op
 * by op, and where the results are codes, with their scale: for each type of codes, fused or not.
 * An op that no case looks at fails the test, unless it stands among those that meet none. */
#include <nibble/graph.h>
#include <nibble/nn.h>

#include "op/calls.h"
#include "quant/act8.h"
#include "tensor/context.h"
#include "test.h"

typedef enum fill {
    CODES,    /* of what the graph is given, with the scale of all codes */
    OTHER,    /* the same with another scale */
    FLOATS,   /* what the graph is given */
    CONSTANT, /* [-1, 1) */
    POSITIVE, /* [0.5, 1.5) */
    INDEX,    /* i32, below `below` */
    TRUTH,    /* bool */
    NONE,
} fill;

typedef struct given {
    nib_shape shape;
    fill fill;
    int below;
    const char *quantized; /* config of a weight */
} given;

typedef struct test_case {
    const char *op;
    int nin;
    given in[6];
    int nattr;
    nib_attr attr[12];
} test_case;

#define SHAPE(...)                                                                                 \
    {                                                                                              \
        (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), { __VA_ARGS__ }                 \
    }
#define OF(how, ...)                                                                               \
    { .shape = SHAPE(__VA_ARGS__), .fill = how }
#define Q(...) OF(CODES, __VA_ARGS__)
#define W(...) OF(CONSTANT, __VA_ARGS__)
#define W8(...)                                                                                    \
    { .shape = SHAPE(__VA_ARGS__), .fill = CONSTANT, .quantized = "quanto:weights=qint8" }
#define NUMBER                                                                                     \
    { .fill = POSITIVE }
#define ABSENT                                                                                     \
    { .fill = NONE }
#define I(value)                                                                                   \
    { .i = value }
#define D(value)                                                                                   \
    { .d = value }
#define FOUR(a, b, c, d)                I(a), I(b), I(c), I(d)
#define SEVEN(a, b, c, d, e, f, g)      FOUR(a, b, c, d), I(e), I(f), I(g)
#define NINE(a, b, c, d, e, f, g, h, j) SEVEN(a, b, c, d, e, f, g), I(h), I(j)

static const test_case cases[] = {
    {"adaptive_avg_pool2d", 1, {Q(2, 5, 7)}, 2, {I(3), I(2)}},
    {"add", 2, {Q(3, 33), Q(3, 33)}, 1, {D(1)}},
    {"add", 2, {OF(FLOATS, 3, 33), Q(33)}, 1, {D(1)}},
    {"attention", 4, {Q(3, 12), Q(2, 6, 3), Q(2, 6, 3), ABSENT}, 4, {I(4), I(0), I(0), D(0.7)}},
    {"avg_pool2d", 1, {Q(2, 5, 6)}, 9, {NINE(3, 2, 2, 1, 1, 1, 0, 1, 0)}},
    {"batch_norm",
     5,
     {Q(2, 3, 2, 2), W(3), W(3), W(3), OF(POSITIVE, 3)},
     4,
     {I(0), D(0.1), D(0.01)}},
    {"bmm", 2, {Q(2, 3, 5), Q(2, 5, 40)}, 0, {{0}}},
    {"bmm", 2, {Q(2, 70, 33), OF(OTHER, 2, 33, 4)}, 0, {{0}}},
    {"bmm", 2, {Q(2, 3, 5), OF(FLOATS, 2, 5, 4)}, 0, {{0}}},
    {"cat", 2, {Q(2, 3, 5), Q(2, 1, 5)}, 1, {I(1)}},
    {"cat", 2, {Q(2, 5), OF(OTHER, 3, 5)}, 1, {I(0)}},
    {"cat", 3, {Q(2, 5), Q(3, 5), Q(1, 5)}, 1, {I(0)}},
    {"conv1d", 3, {Q(2, 3, 9), W8(4, 3, 3), W(4)}, 4, {FOUR(2, 2, 2, 1)}},
    {"conv2d", 3, {Q(2, 3, 6, 5), W8(4, 3, 3, 2), W(4)}, 7, {SEVEN(1, 1, 1, 1, 1, 1, 1)}},
    {"conv2d", 3, {Q(2, 4, 6, 5), W(4, 2, 3, 2), ABSENT}, 7, {SEVEN(2, 1, 1, 0, 1, 1, 2)}},
    {"conv_codes",
     5,
     {Q(2, 3, 6, 5), W8(4, 3, 3, 2), W(4), NUMBER, ABSENT},
     10,
     {SEVEN(1, 1, 1, 1, 1, 1, 1), I(NIB_I8), I(0), I(0)}},
    {"conv_codes",
     5,
     {Q(2, 3, 6, 5), W8(4, 3, 3, 2), W(4), NUMBER, ABSENT},
     10,
     {SEVEN(1, 1, 1, 1, 1, 1, 1), I(NIB_I8), I(0), I(1)}},
    {"cross_entropy_loss",
     3,
     {Q(6, 5), {.shape = SHAPE(6), .fill = INDEX, .below = 5}, ABSENT},
     3,
     {I(1), I(2), D(0)}},
    {"dequantize", 1, {Q(3, 300)}, 0, {{0}}},
    {"div", 2, {Q(3, 33), NUMBER}, 0, {{0}}},
    {"div", 2, {OF(FLOATS, 3, 33), Q(3, 33)}, 0, {{0}}},
    {"div", 2, {NUMBER, Q(3, 33)}, 0, {{0}}},
    {"dropout", 1, {Q(3, 33)}, 4, {D(0.3), I(1), I(5), I(6)}},
    {"elu", 1, {Q(3, 300)}, 3, {D(1.5), D(0.7), D(1.2)}},
    {"embedding", 2, {Q(6, 5), {.shape = SHAPE(9), .fill = INDEX, .below = 6}}, 3, {{0}}},
    {"expand", 1, {Q(1, 3, 5)}, 5, {FOUR(2, 4, 3, 5), I(0)}},
    {"gelu", 1, {Q(3, 300)}, 1, {{.s = "none"}}},
    {"gelu", 1, {Q(3, 7)}, 1, {{.s = "tanh"}}},
    {"group_norm", 3, {Q(2, 6, 5), W(6), W(6)}, 3, {I(3), D(0.01)}},
    {"hardsigmoid", 1, {Q(3, 300)}, 0, {{0}}},
    {"hardswish", 1, {Q(3, 300)}, 0, {{0}}},
    {"hardtanh", 1, {Q(3, 300)}, 2, {D(-0.5), D(1)}},
    {"layer_norm", 3, {Q(3, 17), W(17), W(17)}, 3, {I(1), D(0.01)}},
    {"leaky_relu", 1, {Q(3, 300)}, 1, {D(0.3)}},
    {"linear", 3, {Q(3, 33), W8(19, 33), W(19)}, 0, {{0}}},
    {"linear", 3, {Q(70, 33), W(19, 33), ABSENT}, 0, {{0}}},
    {"linear_act",
     6,
     {Q(3, 33), W8(19, 33), W(19), ABSENT, ABSENT, NUMBER},
     3,
     {I(0), I(NIB_I8), I(1)}},
    {"linear_add", 4, {Q(3, 33), W8(19, 33), W(19), Q(3, 19)}, 0, {{0}}},
    {"linear_many", 5, {Q(3, 33), W8(19, 33), W8(5, 33), W(19), W(5)}, 0, {{0}}},
    {"linear_silu_mul", 5, {Q(3, 33), W8(19, 33), W8(19, 33), W(19), ABSENT}, 0, {{0}}},
    {"lt", 2, {Q(3, 33), Q(3, 33)}, 0, {{0}}},
    {"lt", 2, {Q(3, 33), OF(OTHER, 3, 33)}, 0, {{0}}},
    {"lt", 2, {Q(3, 33), OF(FLOATS, 3, 1)}, 0, {{0}}},
    {"max_pool2d", 1, {Q(2, 5, 6)}, 9, {NINE(3, 2, 2, 1, 1, 0, 1, 2, 0)}},
    {"mm", 2, {Q(3, 5), Q(5, 40)}, 0, {{0}}},
    {"mse_loss", 2, {Q(3, 5), Q(3, 5)}, 1, {I(1)}},
    {"mul", 2, {Q(3, 33), NUMBER}, 0, {{0}}},
    {"mul", 2, {NUMBER, Q(3, 33)}, 0, {{0}}},
    {"mul", 2, {Q(3, 33), Q(33)}, 0, {{0}}},
    {"mul", 2, {Q(3, 33), OF(FLOATS, 3, 1)}, 0, {{0}}},
    {"neg", 1, {Q(3, 300)}, 0, {{0}}},
    {"norm_codes", 4, {Q(3, 17), W(17), W(17), NUMBER}, 4, {I(1), D(0.01), I(NIB_I8), I(0)}},
    {"pad", 1, {Q(2, 3, 4)}, 6, {FOUR(2, 0, 1, 3), {.s = "constant"}, D(0.5)}},
    {"permute", 1, {Q(2, 3, 4)}, 3, {I(2), I(0), I(1)}},
    {"quantize_activation", 2, {Q(3, 33), NUMBER}, 1, {I(NIB_F8_E5M2)}},
    {"relu", 1, {Q(3, 300)}, 0, {{0}}},
    {"rms_norm", 2, {Q(3, 17), W(17)}, 2, {I(17), D(0.01)}},
    {"rope", 2, {Q(3, 12), W(3, 2, 3)}, 1, {I(2)}},
    {"sample", 2, {Q(33), ABSENT}, 7, {D(0), I(0), D(0), D(0), D(0), I(1), I(1)}},
    {"scaled_dot_product_attention", 4, {Q(2, 3, 5), Q(2, 40, 5), Q(2, 40, 3), ABSENT}, 4, {{0}}},
    {"scaled_dot_product_attention",
     4,
     {Q(2, 3, 5), OF(FLOATS, 2, 4, 5), OF(OTHER, 2, 4, 3), W(3, 4)},
     4,
     {{0}}},
    {"sigmoid", 1, {Q(3, 300)}, 0, {{0}}},
    {"silu", 1, {Q(3, 300)}, 0, {{0}}},
    {"silu_mul", 2, {Q(3, 33), OF(OTHER, 3, 33)}, 0, {{0}}},
    {"softmax", 1, {Q(2, 5, 33)}, 2, {I(-1), I(0)}},
    {"split", 1, {Q(3, 7)}, 2, {I(3), I(1)}},
    {"split_qkv", 1, {Q(3, 12)}, 2, {I(2), I(1)}},
    {"stack", 2, {Q(3, 5), Q(3, 5)}, 1, {I(1)}},
    {"stack", 2, {Q(3, 5), OF(OTHER, 3, 5)}, 1, {I(2)}},
    {"sub", 2, {Q(3, 5), Q(5)}, 1, {D(1)}},
    {"tanh", 1, {Q(3, 300)}, 0, {{0}}},
    {"where", 3, {OF(TRUTH, 3, 33), Q(3, 33), OF(FLOATS, 3, 33)}, 0, {{0}}},
    {"where", 3, {OF(TRUTH, 3, 33), Q(3, 33), OF(OTHER, 3, 33)}, 0, {{0}}},
    {"where", 3, {OF(TRUTH, 3, 33), OF(FLOATS, 3, 33), Q(3, 33)}, 0, {{0}}},
};

/* kv_append has no result but what it changes, rope_angles takes positions, quantize_weight
 * weights, and only the compiler calls rms_norm_quantize, on floats (its rows have gaps). */
static const char *const meet_none[] = {"kv_append", "rope_angles", "quantize_weight",
                                        "rms_norm_quantize"};

static const nib_dtype codes[] = {NIB_I8, NIB_I7, NIB_F8_E4M3FN, NIB_F8_E5M2, NIB_F8_E4M3FNUZ};

/* ---- an op as a module, whose input holds what all its tensors are made of ---- */

typedef struct setting {
    const test_case *c;
    nib_ctx *ctx;
    nib_dtype code;
    int result, results; /* which is looked at; how many the last forward had */
    int64_t size;
    nib_tensor *constant[6], *scale[2]; /* of CODES, of OTHER */
} setting;

static int64_t count_of(const nib_shape *s) {
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++) n *= s->dim[i];
    return n;
}

static bool from_input(const given *g) { return g->fill <= FLOATS; }

static nib_tensor *made_of(nib_tensor *x, int64_t at, const given *g) {
    nib_tensor *run = nib_scope_own(x->ctx, nib_tensor_slice(x, 0, at, count_of(&g->shape)));
    return run ? nib_scope_own(x->ctx, nib_tensor_reshape(run, g->shape)) : NULL;
}

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    setting *s = nib_module_self(m);
    const test_case *c = s->c;
    nib_call_args args = {
        .ctx = s->ctx, .op = nib_op_find(c->op), .nin = c->nin, .nattr = c->nattr};
    int64_t at = 0;
    for (int i = 0; i < c->nin; i++) {
        const given *g = &c->in[i];
        nib_tensor *t = s->constant[i];
        if (from_input(g)) {
            t = made_of(x, at, g);
            at += count_of(&g->shape);
            if (g->fill != FLOATS)
                t = nib_quantize_activation(t, s->scale[g->fill == OTHER], s->code);
        }
        args.in[i] = t;
    }
    for (int i = 0; i < c->nattr; i++) args.attr[i] = c->attr[i];
    if (nib_call(&args) < NIB_OK) return NULL;
    s->results = args.nout;
    return args.out[s->result];
}
static const nib_module_kind kind = {.name = "One", .forward = forward};

static nib_tensor *number(nib_ctx *ctx, float value) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, (nib_shape){0});
    if (t) *(float *)nib_tensor_data_mut(t) = value;
    return t;
}

static nib_tensor *constant(void **state_, nib_ctx *ctx, const given *g, uint64_t *seed) {
    if (g->fill == NONE) return NIB_NONE;
    const nib_dtype dtype = g->fill == INDEX ? NIB_I32 : g->fill == TRUTH ? NIB_BOOL : NIB_F32;
    nib_tensor *t = nib_tensor_new(ctx, dtype, g->shape);
    CHECK_MADE(t);
    void *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; i < count_of(&g->shape); i++) {
        if (g->fill == INDEX)
            ((int32_t *)data)[i] = (int32_t)(test_random(seed) % (uint64_t)g->below);
        else if (g->fill == TRUTH)
            ((unsigned char *)data)[i] = (unsigned char)(test_random(seed) >> 63);
        else
            ((float *)data)[i] =
                g->fill == POSITIVE ? 1 + 0.5f * test_uniform(seed) : test_uniform(seed);
    }
    if (!test_has_scheme(g->quantized) || !g->quantized) return t;
    nib_config *config = nib_config_parse(g->quantized);
    nib_tensor *q = nib_keep(nib_quantize_tensor(t, config));
    CHECK_MADE(q);
    nib_config_free(config);
    nib_tensor_free(t);
    return q;
}

static void set_up(void **state_, setting *s, uint64_t *seed) {
    const test_case *c = s->c;
    s->size = 0;
    for (int i = 0; i < c->nin; i++) {
        const bool made = from_input(&c->in[i]);
        s->constant[i] = made ? NULL : constant(state_, s->ctx, &c->in[i], seed);
        s->size += made ? count_of(&c->in[i].shape) : 0;
    }
    for (int i = 0; i < 2; i++)
        s->scale[i] = number(s->ctx, (i ? 1.3f : 1.1f) / nib_act8_largest(s->code));
}

static void tear_down(setting *s) {
    for (int i = 0; i < s->c->nin; i++) nib_tensor_free(s->constant[i]);
    for (int i = 0; i < 2; i++) nib_tensor_free(s->scale[i]);
}

static void fill_input(const setting *s, nib_tensor *x, uint64_t *seed) {
    float *data = nib_tensor_data_mut(x);
    for (int64_t i = 0; i < s->size; i++) data[i] = 1.2f * test_uniform(seed);
    data[0] = -1e9f; /* the first code there is */
}

static void check_same(void **state_, const setting *s, const nib_tensor *got,
                       const nib_tensor *want) {
    const bool same =
        nib_shape_equal(&got->shape, &want->shape) && got->dtype == want->dtype &&
        got->layout == want->layout &&
        (!nib_act8_is(want) || nib_act8_scale(got) == nib_act8_scale(want)) &&
        memcmp(nib_tensor_data(got), nib_tensor_data(want),
               nib_act8_is(want) ? (size_t)nib_tensor_count(want) : nib_tensor_bytes(want)) == 0;
    if (!same)
        FAIL_AT("%s (case %d) of %s: result %d differs", s->c->op, (int)(s->c - cases),
                nib_dtype_name(s->code), s->result);
}

/* One result, in all ways. */
static void check_result(void **state_, setting *s, nib_module *m, nib_tensor *x, uint64_t *seed) {
    for (int fused = 0; fused < 2; fused++) {
        nib_graph *g = nib_compile(m, x, &(nib_compile_options){.no_fusion = !fused});
        if (!g)
            FAIL_AT("%s (case %d) of %s: %s", s->c->op, (int)(s->c - cases),
                    nib_dtype_name(s->code), nib_last_error()->what);
        for (int run = 0; run < 2; run++) {
            const size_t mark = nib_scope_begin(s->ctx);
            fill_input(s, x, seed);
            const nib_tensor *want = nib_module_forward(m, x);
            CHECK_MADE(want);
            const nib_tensor *got = nib_graph_run(g, x);
            CHECK_MADE(got);
            check_same(state_, s, got, want);
            nib_scope_end(s->ctx, mark);
        }
        nib_graph_free(g);
    }
}

TEST(every_op_on_codes_has_its_bits_compiled) {
    uint64_t seed = test_seed();
    for (size_t k = 0; k < sizeof codes / sizeof *codes; k++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
            setting s = {.c = &cases[i], .ctx = ctx, .code = codes[k]};
            set_up(state_, &s, &seed);
            nib_tensor *x = nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {s.size}});
            nib_module *m = nib_module_new(ctx, &kind, &s);
            CHECK(x && m);
            fill_input(&s, x, &seed);
            do check_result(state_, &s, m, x, &seed);
            while (++s.result < s.results);
            nib_module_free(m);
            nib_tensor_free(x);
            tear_down(&s);
            nib_ctx_free(ctx);
        }
}

TEST(every_op_stands_here) {
    for (size_t i = 0; nib_op_at(i); i++) {
        bool here = false;
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
            here = here || strcmp(cases[k].op, nib_op_at(i)->name) == 0;
        for (size_t k = 0; k < sizeof meet_none / sizeof *meet_none; k++)
            here = here || strcmp(meet_none[k], nib_op_at(i)->name) == 0;
        if (!here) FAIL_AT("no case shows what %s makes of codes", nib_op_at(i)->name);
    }
}

TESTS(RUNS(every_op_on_codes_has_its_bits_compiled), RUNS(every_op_stands_here))
