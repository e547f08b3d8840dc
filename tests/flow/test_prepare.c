/* Preparing: weights in lanes give the bits that weights as stored give, and can be saved. */
#include <nibble/nn.h>
#include <string.h>

#include "op/product.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

static const char *const configs[] = {
    "int8_weight_only",
    "int8_weight_only:granularity=group,group_size=32",
    "int8_weight_only:granularity=tensor",
    "int4_weight_only:group_size=32",
    "int4_weight_only:group_size=64,numerics=tinygemm",
    "intx_weight_only:bits=1",
    "intx_weight_only:bits=2,granularity=group,group_size=32",
    "intx_weight_only:bits=3,granularity=group,group_size=64",
    "intx_weight_only:bits=4,mapping=asymmetric",
    "intx_weight_only:bits=5,mapping=asymmetric,granularity=group,group_size=32",
    "intx_weight_only:bits=6",
    "intx_weight_only:bits=7,granularity=group,group_size=16",
    "float8_weight_only",
    "float8_weight_only:dtype=e5m2,granularity=group,group_size=32",
    "quanto:weights=qint8",
    "quanto:weights=qint4",
    "quanto:weights=qint2",
    "quanto:weights=qfloat8_e4m3fnuz",
};
enum { CONFIGS = sizeof configs / sizeof *configs };

static nib_tensor *random_tensor(nib_ctx *ctx, nib_dtype dtype, int64_t rows, int64_t cols,
                                 uint64_t *seed) {
    nib_tensor *t = nib_tensor_new(ctx, dtype, (nib_shape){2, {rows, cols}});
    for (int64_t i = 0; i < rows * cols; i++) {
        const float x = test_uniform(seed);
        if (dtype == NIB_F32)
            ((float *)nib_tensor_data_mut(t))[i] = x;
        else
            ctx->kernels.f32_to_bf16((uint16_t *)nib_tensor_data_mut(t) + i, &x, 1);
    }
    return t;
}

/* A quantized weight that the caller owns. */
static nib_tensor *quantized(nib_ctx *ctx, const char *text, int64_t N, int64_t K, uint64_t *seed) {
    nib_config *config = nib_config_parse(text);
    nib_tensor *w = random_tensor(ctx, NIB_BF16, N, K, seed);
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *q = nib_keep(nib_quantize_tensor(w, config));
    if (!q) print_error("%s: %s\n", text, nib_last_error()->what);
    nib_scope_end(ctx, mark);
    nib_tensor_free(w);
    nib_config_free(config);
    return q;
}

static void product_of(nib_ctx *ctx, nib_module *m, const nib_tensor *x, float *out) {
    const size_t mark = nib_scope_begin(ctx);
    const nib_tensor *y = nib_module_forward(m, (nib_tensor *)(uintptr_t)x);
    memcpy(out, nib_tensor_data(y), nib_tensor_bytes(y));
    nib_scope_end(ctx, mark);
}

TEST(a_prepared_weight_gives_the_same_bits) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    const int64_t K = 192, rows[] = {1, 3, 8, 9, 41};
    static float before[41 * 128], after[41 * 128];
    for (int i = 0; i < 2 * CONFIGS; i++) {
        const char *const text = configs[i / 2];
        const int64_t N = i % 2 ? 128 : 83; /* whole panels in each band of a weight, or not */
        if (!test_has_scheme(text)) continue;
        nib_tensor *w = quantized(ctx, text, N, K, &seed);
        for (int integer = 0; w && integer < 2; integer++) {
            if (integer && strstr(text, "float8")) continue;
            if (integer)
                w->act = (nib_act){.when = NIB_ACT_DYNAMIC,
                                   .dtype = NIB_I8,
                                   .symmetric = i / 2 % 2,
                                   .block = {2, {1, K}},
                                   .eps = 1e-5f};
            nib_tensor *x = random_tensor(ctx, NIB_F32, 41, K, &seed);
            nib_module *plain = nib_linear_new(ctx, nib_tensor_retain(w), NIB_NONE);
            nib_module *lanes = nib_linear_new(ctx, nib_tensor_retain(w), NIB_NONE);
            CHECK_OK(nib_prepare(lanes));
            const nib_tensor *prepared = nib_module_parameter(lanes, "weight");
            const bool fits = nib_layout_of_kernel(&w->desc) != NULL;
            CHECK_INT(prepared->layout->kernel, fits);
            CHECK_OK(nib_prepare(lanes)); /* again: nothing to do */
            for (int r = 0; r < 5; r++) {
                nib_tensor *some = nib_tensor_slice(x, 0, 0, rows[r]);
                product_of(ctx, plain, some, before);
                product_of(ctx, lanes, some, after);
                if (memcmp(before, after, (size_t)(rows[r] * N) * 4) != 0)
                    FAIL_AT("%s, %d rows, %s inputs: other bits after preparing", text,
                            (int)rows[r], integer ? "8-bit" : "float");
                /* Row by row the same as all at once. */
                for (int64_t m = 0; m < rows[r]; m++) {
                    nib_tensor *one = nib_tensor_slice(x, 0, m, 1);
                    product_of(ctx, lanes, one, before);
                    CHECK_INT(memcmp(before, after + m * N, (size_t)N * 4), 0);
                    nib_tensor_free(one);
                }
                nib_tensor_free(some);
            }
            nib_module_free(plain);
            nib_module_free(lanes);
            nib_tensor_free(x);
        }
        CHECK(w != NULL);
        nib_tensor_free(w);
    }
    nib_ctx_free(ctx);
}

TEST(a_weight_shared_by_two_modules_is_prepared_once_for_both) {
    NEEDS_SCHEME("int4_weight_only");
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    static const nib_module_kind both = {.name = "Both"};
    nib_tensor *w = quantized(ctx, "int4_weight_only:group_size=32", 48, 64, &seed);
    nib_module *root = nib_module_new(ctx, &both, NULL);
    CHECK_OK(nib_module_add(root, "table", nib_embedding_new(ctx, nib_tensor_retain(w))));
    CHECK_OK(nib_module_add(root, "head", nib_linear_new(ctx, w, NIB_NONE)));
    CHECK_OK(nib_prepare(root));
    const nib_tensor *a = nib_module_parameter(nib_module_child(root, "table"), "weight");
    CHECK(a == nib_module_parameter(nib_module_child(root, "head"), "weight"));
    CHECK(a->layout->kernel);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

/* residual + silu(x W^T + b) * (x U^T + c), and several weights at once, against op by op. */
TEST(what_follows_a_product_gives_the_bits_of_the_ops_by_themselves) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    const int64_t N = 83, K = 192;
    const char *const texts[] = {"", "int8_weight_only", "int4_weight_only:group_size=32"};
    for (int i = 0; i < 3; i++)
        for (int64_t M = 1; M <= 12 && test_has_scheme(texts[i]); M += 11) {
            nib_tensor *w[2], *b[2];
            for (int s = 0; s < 2; s++) {
                w[s] = i ? quantized(ctx, texts[i], N, K, &seed)
                         : random_tensor(ctx, NIB_BF16, N, K, &seed);
                nib_tensor *row = random_tensor(ctx, NIB_BF16, 1, N, &seed);
                b[s] = nib_tensor_reshape(row, (nib_shape){1, {N}});
                nib_tensor_free(row);
            }
            nib_tensor *x = random_tensor(ctx, NIB_F32, M, K, &seed);
            nib_tensor *residual = random_tensor(ctx, NIB_F32, M, N, &seed);
            const size_t mark = nib_scope_begin(ctx);
            const nib_tensor *gate = nib_linear(x, w[0], b[0]), *up = nib_linear(x, w[1], b[1]);
            static float gated[12 * 83], summed[12 * 83], own[12 * 83], relu[12 * 83];
            const float *g = nib_tensor_data(gate), *u = nib_tensor_data(up),
                        *r = nib_tensor_data(residual);
            memcpy(own, r, (size_t)(M * N) * 4);
            const nib_product products[4] = {
                {w[0], b[0], NIB_SILU, w[1], b[1], NULL, gated, NIB_F32, 0, false},
                {w[0], b[0], NIB_IDENTITY, NIB_NONE, NIB_NONE, r, summed, NIB_F32, 0, false},
                {w[1], b[1], NIB_IDENTITY, NIB_NONE, NIB_NONE, own, own, NIB_F32, 0, false},
                {w[1], b[1], NIB_RELU, NIB_NONE, NIB_NONE, NULL, relu, NIB_F32, 0, false},
            };
            CHECK_OK(nib_products(ctx, x, products, 4));
            static float want[12 * 83];
            ctx->kernels.silu_mul_f32(want, g, u, (size_t)(M * N));
            CHECK_INT(memcmp(gated, want, (size_t)(M * N) * 4), 0);
            for (int64_t k = 0; k < M * N; k++) {
                CHECK_NEAR(summed[k], r[k] + g[k], 0);
                CHECK_NEAR(own[k], r[k] + u[k], 0);
                CHECK_NEAR(relu[k], u[k] < 0 ? 0 : u[k], 0);
            }
            static uint16_t narrow[12 * 83], wanted[12 * 83];
            const nib_activation activations[] = {NIB_GELU, NIB_GELU_TANH, NIB_SILU};
            const nib_kernels *kernels = &ctx->kernels;
            void (*const functions[])(float *, const float *, size_t) = {
                kernels->gelu_f32, kernels->gelu_tanh_f32, kernels->silu_f32};
            for (int a = 0; a < 3; a++) {
                const nib_product one = {w[0], b[0],   activations[a], NIB_NONE, NIB_NONE,
                                         NULL, narrow, NIB_BF16,       0,        false};
                CHECK_OK(nib_products(ctx, x, &one, 1));
                functions[a](want, g, (size_t)(M * N));
                kernels->f32_to_bf16(wanted, want, (size_t)(M * N));
                CHECK_INT(memcmp(narrow, wanted, (size_t)(M * N) * 2), 0);
            }
            nib_scope_end(ctx, mark);
            for (int s = 0; s < 2; s++) {
                nib_tensor_free(w[s]);
                nib_tensor_free(b[s]);
            }
            nib_tensor_free(x);
            nib_tensor_free(residual);
        }
    nib_ctx_free(ctx);
}

/* What of a weight lies in which allocation. */
static nib_storage *storage_of(void **state_, nib_module *root, const char *child) {
    nib_tensor *w = nib_module_parameter(nib_module_child(root, child), "weight");
    for (int i = 1; i < w->nparts; i++) CHECK(w->part[i] == w->part[0]);
    return w->part[0];
}

static void small_weights_share_an_allocation_that_just_holds_them(void **state_) {
    NEEDS_SCHEME("int8_weight_only");
    static const nib_module_kind holder = {.name = "Weights"};
    uint64_t seed = 7;
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = nib_module_new(ctx, &holder, NULL);
    const struct {
        const char *name;
        int64_t rows;
    } linears[] = {{"a", 64}, {"large", 2100}, {"b", 50}, {"c", 16}};
    for (size_t i = 0; i < 4; i++)
        CHECK_OK(nib_module_add(
            root, linears[i].name,
            nib_linear_new(ctx, quantized(ctx, "int8_weight_only", linears[i].rows, 2048, &seed),
                           NIB_NONE)));
    CHECK_OK(nib_prepare(root));
    nib_storage *shelf = storage_of(state_, root, "a"), *large = storage_of(state_, root, "large");
    CHECK(shelf == storage_of(state_, root, "b") && shelf == storage_of(state_, root, "c"));
    CHECK(large != shelf);
    CHECK(large->size >= 2100 * 2048);
    const size_t codes = (64 + 64 + 16) * 2048; /* 50 channels are four panels */
    CHECK(shelf->size >= codes && shelf->size < codes + 8192);
    /* who stays last keeps it */
    nib_tensor *kept =
        nib_tensor_retain(nib_module_parameter(nib_module_child(root, "b"), "weight"));
    nib_module_free(root);
    CHECK_INT(atomic_load(&shelf->refs), kept->nparts);
    nib_tensor_free(kept);
    nib_ctx_free(ctx);
}

/* Where inputs are more than caches keep, several pieces of a weight meet some columns of them at a
 * time; few rows are never cut so. */
TEST(rows_beyond_the_caches_give_the_bits_of_few) {
    enum { M = 1024, FEW = 8, N = 520, K = 4128 };
    static float all[M * N], few[FEW * N];
    uint64_t seed = 11;
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1}); /* whose runs are longest */
    nib_tensor *x = random_tensor(ctx, NIB_F32, M, K, &seed);
    nib_tensor *some = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {FEW, K}},
                                       (void *)(uintptr_t)nib_tensor_data(x), NULL, NULL);
    for (int i = 0; i < 3; i++) {
        if (i == 2 && !test_has_scheme("int4_weight_only")) continue;
        nib_tensor *w = i == 0   ? random_tensor(ctx, NIB_BF16, N, K, &seed)
                        : i == 1 ? random_tensor(ctx, NIB_F32, N, K, &seed)
                                 : quantized(ctx, "int4_weight_only:group_size=32", N, K, &seed);
        nib_module *m = nib_linear_new(ctx, w, NIB_NONE);
        CHECK_OK(nib_prepare(m));
        product_of(ctx, m, x, all);
        product_of(ctx, m, some, few);
        CHECK_INT(memcmp(all, few, sizeof few), 0);
        nib_module_free(m);
    }
    nib_tensor_free(some);
    nib_tensor_free(x);
    nib_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        RUNS(rows_beyond_the_caches_give_the_bits_of_few),
        RUNS(small_weights_share_an_allocation_that_just_holds_them),
        RUNS(a_prepared_weight_gives_the_same_bits),
        RUNS(a_weight_shared_by_two_modules_is_prepared_once_for_both),
        RUNS(what_follows_a_product_gives_the_bits_of_the_ops_by_themselves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
