/* An attention block with RoPE and a LayerNorm, built by nn.h and quantized, against float and
 * against optimum-quanto: tests/golden/quanto/make_attention.py. */
#include "golden_file.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "quanto_golden.h"
#include "tensor/context.h"
#include "test.h"

GOLDEN_FILE("tests/golden/quanto/attention.safetensors")

enum { B = 2, S = 16, H = 4, D = 32, W = H * D };

static nib_tensor *drawn(uint64_t *seed, nib_shape shape, float bound) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    float *to = nib_tensor_data_mut(t);
    for (int64_t i = 0; i < nib_tensor_count(t); i++) to[i] = test_uniform(seed) * bound;
    return t;
}

static nib_tensor *angles(void) {
    nib_tensor *position =
        nib_scope_own(ctx, nib_tensor_new(ctx, NIB_I32, (nib_shape){1, {B * S}}));
    nib_tensor *frequency =
        nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {D / 2}}));
    for (int i = 0; i < B * S; i++) ((int32_t *)nib_tensor_data_mut(position))[i] = i % S;
    for (int i = 0; i < D / 2; i++)
        ((float *)nib_tensor_data_mut(frequency))[i] = (float)pow(10000, -2.0 * i / D);
    return nib_rope_angles(position, frequency, 1);
}

static nib_tensor *projected(nib_module *m, const char *name, nib_tensor *x) {
    return nib_module_forward(nib_module_child(m, name), x);
}
static nib_tensor *heads(const nib_tensor *x) { /* -> [B, H, S, D] */
    return nib_permute(nib_reshape(x, &(nib_shape){4, {B, S, H, D}}), (const int[]){0, 2, 1, 3});
}
static nib_tensor *turned(const nib_tensor *x) {
    return heads(nib_rope(nib_reshape(x, &(nib_shape){2, {B * S, W}}), angles(), H));
}

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    nib_tensor *q = turned(projected(m, "q_proj", x)), *k = turned(projected(m, "k_proj", x)),
               *v = heads(projected(m, "v_proj", x));
    nib_tensor *scale = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){0}));
    *(float *)nib_tensor_data_mut(scale) = sqrtf(D);
    nib_tensor *score = nib_div(nib_matmul(q, nib_transpose(k, 2, 3)), scale);
    nib_tensor *y = nib_permute(nib_matmul(nib_softmax(score, -1), v), (const int[]){0, 2, 1, 3});
    return projected(m, "o_proj", nib_reshape(y, &(nib_shape){3, {B, S, W}}));
}
static const nib_module_kind kind = {.name = "Attention", .forward = forward};

static nib_tensor *run_floats(void **state_, nib_module *root, nib_tensor *x) {
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *y = nib_module_forward(root, x);
    CHECK_MADE(y);
    if (nib_act8_is(y)) y = nib_dequantize(y);
    nib_keep(y);
    nib_scope_end(ctx, mark);
    return y;
}

/* 1 - cosine, and the largest difference. */
static double apart(const nib_tensor *a, const nib_tensor *b, double *most) {
    const float *x = nib_tensor_data(a), *y = nib_tensor_data(b);
    double xy = 0, xx = 0, yy = 0;
    *most = 0;
    for (int64_t i = 0; i < nib_tensor_count(a); i++) {
        xy += (double)x[i] * (double)y[i];
        xx += (double)x[i] * (double)x[i];
        yy += (double)y[i] * (double)y[i];
        *most = fmax(*most, fabs((double)x[i] - (double)y[i]));
    }
    return 1 - xy / sqrt(xx * yy);
}

TEST(an_attention_block_is_as_near_to_float_as_upstream_asks_and_is) {
    static const struct {
        const char *weights, *activations;
        double cosine;
    } cases[] = {{"qint8", NULL, 1e-4},           {"qfloat8_e4m3fn", NULL, 1e-3},
                 {"qint8", "qint8", 1e-3},        {"qint8", "qfloat8_e4m3fn", 1e-2},
                 {"qint8", "qfloat8_e5m2", 1e-2}, {"qint8", "qfloat8_e4m3fnuz", 1e-2}};
    NEEDS_SCHEME("qint8");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const char *const names[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
        uint64_t seed = 20;
        nib_module *root = nib_module_new(ctx, &kind, NULL);
        for (int p = 0; p < 4; p++)
            CHECK_OK(nib_module_add(
                root, names[p],
                nib_linear_new(ctx, drawn(&seed, (nib_shape){2, {W, W}}, (float)(1 / sqrt(W))),
                               NIB_NONE)));
        nib_tensor *x = drawn(&seed, (nib_shape){3, {B, S, W}}, 1);
        nib_tensor *plain = run_floats(state_, root, x), *want = golden_tensor(ctx, file, "y");
        double most, upstream;
        CHECK_NEAR(apart(plain, want, &most), 0, 1e-6);
        CHECK_NEAR(most, 0, 1e-6);
        const nib_config *config =
            NIB_QUANTO(.weights = cases[i].weights, .activations = cases[i].activations);
        CHECK_OK(nib_quantize(root, config, NULL));
        if (cases[i].activations) {
            CHECK_OK(nib_calibrate_begin(root, NULL, NULL));
            nib_tensor_free(run_floats(state_, root, x));
            CHECK_OK(nib_calibrate_end(root, NULL));
            CHECK_OK(nib_freeze(root));
        }
        nib_tensor *y = run_floats(state_, root, x);
        nib_tensor *theirs = golden_tensor(ctx, file, "%s.%s.y", cases[i].weights,
                                           cases[i].activations ? cases[i].activations : "none");
        CHECK_MADE(theirs);
        apart(theirs, want, &upstream);
        CHECK_NEAR(apart(y, plain, &most), 0, cases[i].cosine + 1e-5);
        if (!(most <= 1.5 * upstream))
            FAIL_AT("%s, activations %s: largest error %.3g, upstream's %.3g", cases[i].weights,
                    cases[i].activations ? cases[i].activations : "none", most, upstream);
        nib_tensor_free(x);
        nib_tensor_free(y);
        nib_tensor_free(plain);
        nib_tensor_free(want);
        nib_tensor_free(theirs);
        nib_module_free(root);
    }
}

TEST(a_layer_norm_gives_upstreams_scale_and_codes) {
    static const char *const activations[] = {"qint8", "qfloat8_e4m3fn", "qfloat8_e5m2",
                                              "qfloat8_e4m3fnuz"};
    NEEDS_SCHEME("qint8");
    for (int i = 0; i < 4; i++) {
        nib_module *norm = nib_layer_norm_new(ctx, golden_tensor(ctx, file, "norm.weight"),
                                              golden_tensor(ctx, file, "norm.bias"), 1, 1e-5);
        nib_module *root = nib_sequential_of(ctx, (nib_module *[]){norm}, 1);
        nib_tensor *x = golden_tensor(ctx, file, "norm.x");
        CHECK_OK(nib_quantize(root, NIB_QUANTO(.activations = activations[i], .streamline = "off"),
                              NULL));
        CHECK_OK(nib_calibrate_begin(root, NULL, NULL));
        nib_tensor_free(run_floats(state_, root, x));
        CHECK_OK(nib_calibrate_end(root, NULL));
        CHECK_OK(nib_freeze(root));
        const size_t mark = nib_scope_begin(ctx);
        const nib_tensor *y = nib_module_forward(root, x);
        CHECK_MADE(y);
        CHECK(nib_act8_is(y));
        nib_tensor *q = golden_tensor(ctx, file, "norm.%s.q", activations[i]),
                   *scale = golden_tensor(ctx, file, "norm.%s.scale", activations[i]);
        const float s = *(const float *)nib_tensor_data(scale);
        CHECK_NEAR(nib_act8_scale(y), s, 1e-6f * s);
        const int8_t *got = nib_act8_data(y), *want = nib_tensor_data(q);
        int off = 0; /* an ulp of a norm may cross a tie, to the next code */
        for (int64_t k = 0; k < nib_tensor_count(q); k++) {
            off += got[k] != want[k];
            CHECK(abs(got[k] - want[k]) <= 1);
        }
        CHECK(off <= 2);
        nib_scope_end(ctx, mark);
        nib_tensor_free(q);
        nib_tensor_free(scale);
        nib_tensor_free(x);
        nib_module_free(root);
    }
}

GOLDEN_TESTS(RUNS(an_attention_block_is_as_near_to_float_as_upstream_asks_and_is),
             RUNS(a_layer_norm_gives_upstreams_scale_and_codes))
