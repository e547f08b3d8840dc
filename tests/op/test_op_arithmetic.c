/* Element by element, other shapes and orders, dropout: the definitions, to the bit. */
#include "op/calls.h"
#include "tensor/context.h"
#include "test.h"

static nib_tensor *random_tensor(nib_ctx *ctx, uint64_t *seed, nib_shape shape) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, shape));
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; i < nib_tensor_count(t); i++) data[i] = test_uniform(seed);
    return t;
}
#define REFUSED(call, want, text)                                                                  \
    CHECK_FAILS((call) ? NIB_OK : nib_last_error()->status, want, text)

/* The element of t that stands at `index` of a larger shape. */
static float repeated(const nib_tensor *t, const nib_shape *shape, int64_t index) {
    int64_t at = 0, stride = 1;
    for (int i = 1; i <= shape->ndim; i++) {
        const int64_t k = index % shape->dim[shape->ndim - i];
        index /= shape->dim[shape->ndim - i];
        if (i > t->shape.ndim) continue;
        const int64_t d = t->shape.dim[t->shape.ndim - i];
        at += d == 1 ? 0 : k * stride;
        stride *= d;
    }
    return ((const float *)nib_tensor_data(t))[at];
}

TEST(arithmetic_repeats_dimensions_of_length_one) {
    static const nib_shape pairs[][2] = {
        {{0}, {0}},
        {{1, {5}}, {0}},
        {{0}, {2, {3, 4}}},
        {{2, {3, 4}}, {2, {3, 4}}},
        {{3, {2, 3, 4}}, {1, {4}}},
        {{3, {2, 3, 4}}, {2, {3, 1}}},
        {{3, {2, 1, 4}}, {2, {3, 1}}},
        {{4, {2, 3, 1, 5}}, {4, {1, 3, 4, 1}}},
        {{2, {1, 1}}, {3, {1, 7, 1}}},
        {{4, {2, 6, 50, 50}}, {4, {1, 6, 1, 1}}},
        {{2, {0, 3}}, {1, {3}}},
    };
    uint64_t seed = test_seed();
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1 + (int)p % 3});
        nib_tensor *a = random_tensor(ctx, &seed, pairs[p][0]),
                   *b = random_tensor(ctx, &seed, pairs[p][1]);
        nib_tensor *y[] = {nib_add(a, b), nib_sub(a, b), nib_mul(a, b), nib_div(a, b)};
        for (int op = 0; op < 4; op++) {
            CHECK_MADE(y[op]);
            for (int64_t i = 0; i < nib_tensor_count(y[op]); i++) {
                const float u = repeated(a, &y[op]->shape, i), v = repeated(b, &y[op]->shape, i);
                const float want = op == 0 ? u + v : op == 1 ? u - v : op == 2 ? u * v : u / v;
                CHECK_NEAR(((const float *)nib_tensor_data(y[op]))[i], want, 0);
            }
        }
        nib_ctx_free(ctx);
    }
    nib_ctx *ctx = nib_ctx_new(NULL);
    REFUSED(nib_mul(random_tensor(ctx, &seed, (nib_shape){2, {3, 4}}),
                    random_tensor(ctx, &seed, (nib_shape){2, {3, 2}})),
            NIB_E_SHAPE, "mul: self is [3, 4] but other is [3, 2]");
    nib_ctx_free(ctx);
}

TEST(permute_moves_every_element_to_its_place) {
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(NULL);
    const nib_shape s = {4, {2, 3, 4, 5}};
    nib_tensor *x = random_tensor(ctx, &seed, s);
    const int dims[4] = {2, -4, 3, 1};
    nib_tensor *y = nib_permute(x, dims);
    CHECK_MADE(y);
    CHECK(nib_shape_equal(&y->shape, &(nib_shape){4, {4, 2, 5, 3}}));
    const float *from = nib_tensor_data(x), *to = nib_tensor_data(y);
    for (int64_t a = 0; a < 2; a++)
        for (int64_t b = 0; b < 3; b++)
            for (int64_t c = 0; c < 4; c++)
                for (int64_t d = 0; d < 5; d++)
                    CHECK_NEAR(to[((c * 2 + a) * 5 + d) * 3 + b],
                               from[((a * 3 + b) * 4 + c) * 5 + d], 0);
    nib_tensor *back = nib_transpose(nib_transpose(x, 1, -1), -1, 1);
    CHECK_BYTES(nib_tensor_data(back), from, nib_tensor_bytes(x));
    REFUSED(nib_permute(x, (const int[]){0, 1, 2, 2}), NIB_E_ARGUMENT, "each of 4 dimensions once");
    REFUSED(nib_transpose(x, 0, 4), NIB_E_ARGUMENT, "tensor has 4");
    nib_ctx_free(ctx);
}

TEST(reshape_and_flatten_are_views) {
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){3, {2, 3, 4}});
    nib_tensor *y = nib_reshape(x, &(nib_shape){2, {-1, 6}}), *flat = nib_flatten(x, 1, -1);
    CHECK_MADE(y);
    CHECK(nib_shape_equal(&y->shape, &(nib_shape){2, {4, 6}}));
    CHECK(nib_tensor_data(y) == nib_tensor_data(x));
    CHECK(nib_shape_equal(&flat->shape, &(nib_shape){2, {2, 12}}));
    CHECK(nib_shape_equal(&nib_flatten(x, 0, 1)->shape, &(nib_shape){2, {6, 4}}));
    REFUSED(nib_reshape(x, &(nib_shape){2, {-1, 5}}), NIB_E_SHAPE, "no length fits for -1");
    REFUSED(nib_reshape(x, &(nib_shape){2, {2, 5}}), NIB_E_SHAPE, "changes the number");
    REFUSED(nib_flatten(x, 2, 1), NIB_E_ARGUMENT, "flatten of dimensions 2 to 1");
    nib_ctx_free(ctx);
}

TEST(pad_refuses_what_it_cannot_mirror) {
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){2, {1, 3}});
    nib_tensor *y = nib_pad(x, (const int64_t[]){1, 2, 1, 0}, "constant", 9);
    CHECK_MADE(y);
    CHECK(nib_shape_equal(&y->shape, &(nib_shape){2, {2, 6}}));
    const float *d = nib_tensor_data(y), *from = nib_tensor_data(x);
    CHECK_NEAR(d[5], 9, 0);
    CHECK_NEAR(d[6], 9, 0);
    CHECK_NEAR(d[7], from[0], 0);
    CHECK_NEAR(d[9], from[2], 0);
    REFUSED(nib_pad(x, (const int64_t[]){3, 0, 0, 0}, "reflect", 0), NIB_E_ARGUMENT,
            "mode reflect");
    REFUSED(nib_pad(x, (const int64_t[]){0, 0, 0, 0}, "odd", 0), NIB_E_ARGUMENT, "\"odd\"");
    nib_ctx_free(ctx);
}

TEST(dropout_is_the_same_for_every_number_of_threads_and_keeps_the_mean) {
    enum { N = 40000 };
    float first[N];
    for (int threads = 1; threads <= 3; threads++) {
        uint64_t seed = 5;
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){1, {N}});
        const float *from = nib_tensor_data(x);
        nib_tensor *y = nib_dropout(x, 0.25, true, 11, 3);
        CHECK_MADE(y);
        const float *d = nib_tensor_data(y);
        int gone = 0;
        for (int i = 0; i < N; i++) {
            if (d[i] == 0)
                gone++;
            else
                CHECK_NEAR(d[i], from[i] * (float)(1 / 0.75), 0);
        }
        CHECK_NEAR((double)gone / N, 0.25,
                   5 * sqrt(0.25 * 0.75 / N)); /* five standard deviations */
        if (threads == 1) memcpy(first, d, sizeof first);
        CHECK_BYTES(d, first, sizeof first);
        y = nib_dropout(x, 0.25, true, 11, 4);
        CHECK(memcmp(nib_tensor_data(y), first, sizeof first) != 0);
        y = nib_dropout(x, 0.25, false, 11, 3);
        CHECK_BYTES(nib_tensor_data(y), from, sizeof first);
        y = nib_dropout(x, 1, true, 11, 3);
        for (int i = 0; i < N; i++) CHECK_NEAR(((const float *)nib_tensor_data(y))[i], 0, 0);
        REFUSED(nib_dropout(x, 1.5, true, 0, 0), NIB_E_ARGUMENT, "1.5");
        nib_ctx_free(ctx);
    }
}

TEST(attention_ignores_what_is_masked_and_gives_zeros_where_all_is) {
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *q = random_tensor(ctx, &seed, (nib_shape){3, {2, 3, 20}}),
               *k = random_tensor(ctx, &seed, (nib_shape){3, {2, 40, 20}}),
               *v = random_tensor(ctx, &seed, (nib_shape){3, {2, 40, 17}});
    nib_tensor *mask = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_BOOL, (nib_shape){2, {3, 40}}));
    unsigned char *seen = nib_tensor_data_mut(mask);
    for (int i = 0; i < 120; i++) seen[i] = i < 40 ? 1 : i == 63; /* all, only key 23, none */
    nib_tensor *y = nib_scaled_dot_product_attention(q, k, v, mask, false, 0),
               *all = nib_scaled_dot_product_attention(q, k, v, NIB_NONE, false, 0);
    CHECK_MADE(y);
    const float *d = nib_tensor_data(y), *free_of = nib_tensor_data(all), *vd = nib_tensor_data(v);
    for (int h = 0; h < 2; h++)
        for (int c = 0; c < 17; c++) {
            CHECK_NEAR(d[(h * 3 + 0) * 17 + c], free_of[(h * 3 + 0) * 17 + c], 0);
            CHECK_NEAR(d[(h * 3 + 1) * 17 + c], vd[(h * 40 + 23) * 17 + c], 0);
            CHECK_NEAR(d[(h * 3 + 2) * 17 + c], 0, 0);
        }
    REFUSED(nib_scaled_dot_product_attention(q, v, v, NIB_NONE, false, 0), NIB_E_SHAPE,
            "[..., S, E]");
    REFUSED(nib_scaled_dot_product_attention(q, k, v, v, false, 0), NIB_E_SHAPE, "the mask is");
    nib_ctx_free(ctx);
}

TEST(pooling_and_norms_refuse_shapes_by_name) {
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *x = random_tensor(ctx, &seed, (nib_shape){4, {1, 4, 3, 3}}),
               *w = random_tensor(ctx, &seed, (nib_shape){1, {3}}),
               *flat = random_tensor(ctx, &seed, (nib_shape){2, {1, 4}});
    nib_window big = {.size = {5, 5}, .stride = {1, 1}, .dilation = {1, 1}},
               padded = {.size = {2, 2}, .stride = {1, 1}, .padding = {2, 0}, .dilation = {1, 1}};
    REFUSED(nib_max_pool2d(x, &big, false), NIB_E_SHAPE,
            "does not fit the padded input [1, 4, 3, 3]");
    REFUSED(nib_avg_pool2d(x, &padded, false, true, 0), NIB_E_ARGUMENT, "more than half");
    REFUSED(nib_max_pool2d(w, &big, false), NIB_E_SHAPE, "want [N, C, H, W]");
    REFUSED(nib_adaptive_avg_pool2d(x, -1, 2), NIB_E_SHAPE, "to -1 x 2");
    REFUSED(nib_softmax(x, 4), NIB_E_ARGUMENT, "no dimension 4");
    REFUSED(nib_group_norm(x, 3, NIB_NONE, NIB_NONE, 0), NIB_E_SHAPE, "multiple of 3 groups");
    REFUSED(nib_group_norm(x, 2, w, NIB_NONE, 0), NIB_E_SHAPE, "weight is [3]");
    REFUSED(nib_batch_norm(x, w, NIB_NONE, NIB_NONE, NIB_NONE, true, 0.1, 0), NIB_E_SHAPE,
            "one for each of 4 channels");
    REFUSED(nib_batch_norm(x, NIB_NONE, NIB_NONE, NIB_NONE, NIB_NONE, false, 0.1, 0),
            NIB_E_ARGUMENT, "come together");
    REFUSED(nib_batch_norm(flat, NIB_NONE, NIB_NONE, NIB_NONE, NIB_NONE, true, 0.1, 0), NIB_E_SHAPE,
            "one value a channel");
    nib_ctx_free(ctx);
}

TESTS(RUNS(arithmetic_repeats_dimensions_of_length_one),
      RUNS(permute_moves_every_element_to_its_place), RUNS(reshape_and_flatten_are_views),
      RUNS(pad_refuses_what_it_cannot_mirror),
      RUNS(dropout_is_the_same_for_every_number_of_threads_and_keeps_the_mean),
      RUNS(attention_ignores_what_is_masked_and_gives_zeros_where_all_is),
      RUNS(pooling_and_norms_refuse_shapes_by_name))
