/* layer_norm, relu, gelu and silu against torch. */
#include "io/safetensors.h"
#include "op/calls.h"
#include "tensor/context.h"
#include "test.h"

#define SHAPE1(a)    ((nib_shape){1, {(a)}})
#define SHAPE2(a, b) ((nib_shape){2, {(a), (b)}})

/* A tensor of the golden file in the open scope; NIB_NONE where it has none of that name. */
static nib_tensor *golden(nib_ctx *ctx, nib_safetensors *file, const char *name, const char *part) {
    char key[96];
    snprintf(key, sizeof key, "%s.%s", name, part);
    const nib_safetensors_entry *e = nib_safetensors_find(file, key);
    if (!e) return NIB_NONE;
    return nib_scope_own(
        ctx, nib_tensor_wrap(ctx, e->dtype, e->shape, nib_safetensors_data(file, e), NULL, NULL));
}

TEST(layer_norm_is_torchs_with_and_without_weight_and_bias) {
    static const char *const cases[] = {"both", "weight",        "bias", "neither", "two_dims",
                                        "eps",  "constant_rows", "bf16", "f16",     "no_rows"};
    for (int threads = 1; threads <= 3; threads += 2) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/op/layers.safetensors");
        CHECK_MADE(file);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            char name[64];
            snprintf(name, sizeof name, "norm.%s", cases[c]);
            int dims = 0;
            double eps = 0;
            const char *note = nib_safetensors_metadata(file, cases[c]);
            CHECK(note && sscanf(note, "%d %lf", &dims, &eps) == 2);
            nib_tensor *x = golden(ctx, file, name, "x"), *want = golden(ctx, file, name, "y");
            nib_tensor *y = nib_layer_norm(x, golden(ctx, file, name, "weight"),
                                           golden(ctx, file, name, "bias"), dims, eps);
            CHECK_MADE(y);
            CHECK(nib_shape_equal(&y->shape, &x->shape));
            const float *got = nib_tensor_data(y), *w = nib_tensor_data(want);
            double most = 0;
            for (int64_t i = 0; i < nib_tensor_count(y); i++) most = fmax(most, fabs((double)w[i]));
            for (int64_t i = 0; i < nib_tensor_count(y); i++) /* a few roundings of two sums */
                CHECK_NEAR(got[i], w[i], most * 0x1p-21);
        }
        nib_safetensors_close(file);
        nib_ctx_free(ctx);
    }
}

TEST(activations_are_torchs) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/op/layers.safetensors");
    CHECK_MADE(file);
    nib_tensor *x = golden(ctx, file, "act", "x");
    const struct {
        const char *name;
        nib_tensor *got;
        double slack; /* for values of about one; relu rounds nothing */
    } cases[] = {{"relu", nib_relu(x), 0},
                 {"silu", nib_silu(x), 0x1p-22},
                 {"gelu", nib_gelu(x, false), 0x1p-22},
                 {"gelu_tanh", nib_gelu(x, true), 0x1p-22}};
    const float *in = nib_tensor_data(x);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        CHECK_MADE(cases[c].got);
        const float *got = nib_tensor_data(cases[c].got);
        const float *want = nib_tensor_data(golden(ctx, file, "act", cases[c].name));
        for (int64_t i = 0; i < nib_tensor_count(x); i++) {
            CHECK_INT(isnan(got[i]), isnan(want[i]));
            if (isnan(want[i])) continue;
            CHECK_NEAR(got[i], want[i], cases[c].slack * fmax(1, fabs((double)in[i])));
            if (cases[c].slack == 0) CHECK_INT(signbit(got[i]) != 0, signbit(want[i]) != 0);
        }
    }
    nib_safetensors_close(file);
    nib_ctx_free(ctx);
}

static nib_tensor *ones(nib_ctx *ctx, nib_shape shape) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, shape));
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; i < nib_tensor_count(t); i++) data[i] = 1;
    return t;
}

TEST(a_norm_that_does_not_fit_is_named) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *x = ones(ctx, SHAPE2(4, 6)), *w = ones(ctx, SHAPE1(4));
    CHECK(!nib_layer_norm(x, w, NIB_NONE, 1, 1e-5));
    CHECK_TEXT(nib_last_error()->what,
               "layer_norm: input is [4, 6], normalized over its last 1 dimensions, but weight is "
               "[4]");
    CHECK_INT(nib_last_error()->status, NIB_E_SHAPE);
    CHECK(!nib_layer_norm(x, NIB_NONE, w, 1, 1e-5));
    CHECK(strstr(nib_last_error()->what, "but bias is [4]"));
    CHECK(!nib_layer_norm(x, NIB_NONE, NIB_NONE, 0, 1e-5));
    CHECK(!nib_layer_norm(x, NIB_NONE, NIB_NONE, 3, 1e-5));
    CHECK_INT(nib_last_error()->status, NIB_E_SHAPE);
    CHECK(!nib_layer_norm(NIB_NONE, NIB_NONE, NIB_NONE, 1, 1e-5));
    CHECK(!nib_relu(NULL) && !nib_gelu(NULL, false) && !nib_silu(NULL) && !nib_relu(NIB_NONE));
    nib_ctx_free(ctx);
}

TESTS(RUNS(layer_norm_is_torchs_with_and_without_weight_and_bias), RUNS(activations_are_torchs),
      RUNS(a_norm_that_does_not_fit_is_named))
