/* Products of many rows are cut in blocks of rows and runs of channels, and finished block by
 * block: none of that shows in the bits. */
#include <nibble/nn.h>

#include "op/calls.h"
#include "quant/act8.h"
#include "tensor/context.h"
#include "test.h"

enum { M = 301, N = 200, K = 192, FEW = 43, WEIGHTS = 2 };

static nib_tensor *random_tensor(nib_ctx *ctx, uint64_t *seed, nib_shape shape) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, shape));
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; i < nib_tensor_count(t); i++) data[i] = test_uniform(seed);
    return t;
}

/* What is made of rows: linear, its gate, its residual, codes of it, all of one scheme. */
enum { PLAIN, GATED, ADDED, CODES, KINDS };

static const nib_tensor *made(int kind, const nib_tensor *x, const nib_tensor *const w[WEIGHTS],
                              const nib_tensor *const b[WEIGHTS], const nib_tensor *residual,
                              const nib_tensor *scale) {
    switch (kind) {
    case PLAIN:
        return nib_linear(x, w[0], b[0]);
    case GATED:
        return nib_linear_silu_mul(x, w[0], w[1], b[0], b[1]);
    case ADDED:
        return nib_linear_add(x, w[0], b[0], residual);
    default:
        return nib_linear_codes(x, w[0], b[0], scale, NIB_I8);
    }
}

static const void *bytes_of(const nib_tensor *t) {
    return nib_act8_is(t) ? nib_act8_data(t) : nib_tensor_data(t);
}

TEST(blocks_of_rows_do_not_show_in_the_bits) {
    static const char *const schemes[] = {
        "int8_dynamic_activation_int8_weight",
        "int8_dynamic_activation_int8_weight:act_mapping_type=asymmetric",
        "int8_dynamic_activation_int4_weight:group_size=32", "int4_weight_only:group_size=64"};
    static const int64_t channels[] = {N, 2 * M}; /* fewer than rows, and more */
    uint64_t seed = test_seed();
    for (size_t s = 0; s < 2 * sizeof schemes / sizeof *schemes; s++)
        for (int threads = 1; threads <= 2; threads++) {
            const int64_t n = channels[s % 2];
            if (!test_has_scheme(schemes[s / 2])) continue;
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
            nib_config *config = nib_config_parse(schemes[s / 2]);
            CHECK_MADE(config);
            nib_module *layer[WEIGHTS];
            const nib_tensor *w[WEIGHTS], *b[WEIGHTS];
            for (int i = 0; i < WEIGHTS; i++) {
                nib_tensor *floats = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {n, K}});
                for (int64_t e = 0; e < n * K; e++)
                    ((float *)nib_tensor_data_mut(floats))[e] = test_uniform(&seed);
                layer[i] = nib_linear_new(ctx, floats, NIB_NONE);
                CHECK_OK(nib_quantize(layer[i], config, NULL));
                CHECK_OK(nib_prepare(layer[i]));
                w[i] = nib_module_parameter(layer[i], "weight");
                b[i] = random_tensor(ctx, &seed, (nib_shape){1, {n}});
            }
            const nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){2, {M, K}}),
                             *residual = random_tensor(ctx, &seed, (nib_shape){2, {M, n}});
            nib_tensor *scale = random_tensor(ctx, &seed, (nib_shape){0});
            *(float *)nib_tensor_data_mut(scale) = 0.05f;
            for (int kind = 0; kind < KINDS; kind++) {
                const nib_tensor *all = made(kind, x, w, b, residual, scale);
                CHECK_MADE(all);
                const size_t row = (size_t)n * (kind == CODES ? 1 : sizeof(float));
                for (int64_t m = 0; m < M; m += FEW) {
                    const int64_t rows = M - m < FEW ? M - m : FEW;
                    const nib_tensor *few =
                        made(kind, nib_scope_own(ctx, nib_tensor_slice(x, 0, m, rows)), w, b,
                             nib_scope_own(ctx, nib_tensor_slice(residual, 0, m, rows)), scale);
                    CHECK_MADE(few);
                    CHECK_BYTES((const char *)bytes_of(all) + (size_t)m * row, bytes_of(few),
                                (size_t)rows * row);
                }
            }
            for (int i = 0; i < WEIGHTS; i++) nib_module_free(layer[i]);
            nib_config_free(config);
            nib_ctx_free(ctx);
        }
}

TESTS(RUNS(blocks_of_rows_do_not_show_in_the_bits))
