#include <nibble/nn.h>

#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

static nib_tensor *values(nib_ctx *ctx, nib_shape shape, float first, float step) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    float *data = t ? nib_tensor_data_mut(t) : NULL;
    for (int64_t i = 0; data && i < nib_tensor_count(t); i++) data[i] = first + step * (float)i;
    return t;
}

#define SHAPE1(a)    ((nib_shape){1, {(a)}})
#define SHAPE2(a, b) ((nib_shape){2, {(a), (b)}})

TEST(a_layer_norm_runs_with_what_parameters_it_has_and_names_them) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *x = nib_scope_own(ctx, values(ctx, SHAPE2(1, 2), -3, 6)); /* -3, 3: variance 9 */
    for (int c = 0; c < 4; c++) {
        const bool weighted = c & 1, biased = c & 2;
        nib_module *m =
            nib_layer_norm_new(ctx, weighted ? values(ctx, SHAPE1(2), 2, 1) : NIB_NONE,
                               biased ? values(ctx, SHAPE1(2), 10, 10) : NIB_NONE, 1, 0);
        CHECK_MADE(m);
        CHECK_INT(nib_module_parameter(m, "weight") != NULL, weighted);
        CHECK_INT(nib_module_parameter(m, "bias") != NULL, biased);
        nib_tensor *y = nib_module_forward(m, x);
        CHECK_MADE(y);
        const float *got = nib_tensor_data(y);
        CHECK_NEAR(got[0], (weighted ? -2 : -1) + (biased ? 10 : 0), 0);
        CHECK_NEAR(got[1], (weighted ? 3 : 1) + (biased ? 20 : 0), 0);
        nib_module_free(m);
    }
    nib_ctx_free(ctx);
}

TEST(norms_print_as_torch_names_them) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *m = nib_layer_norm_new(ctx, values(ctx, SHAPE2(2, 3), 1, 0),
                                       values(ctx, SHAPE2(2, 3), 1, 0), 2, 1e-5);
    char *text = nib_module_print(m);
    CHECK_TEXT(text, "LayerNorm  weight [2, 3] f32  bias [2, 3] f32\n");
    nib_text_release(text);
    nib_module_free(m);
    CHECK(!nib_rms_norm_new(ctx, NIB_NONE, 1e-5));
    CHECK_INT(nib_last_error()->status, NIB_E_ARGUMENT);
    nib_ctx_free(ctx);
}

TESTS(RUNS(a_layer_norm_runs_with_what_parameters_it_has_and_names_them),
      RUNS(norms_print_as_torch_names_them))
