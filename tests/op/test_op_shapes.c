/* Products of two results, comparisons, choices, and tensors joined, cut and repeated, against
 * torch: tests/golden/op/make_shapes.py. */
#include "golden_file.h"
#include "op/calls.h"
#include "quanto_golden.h"
#include "tensor/context.h"
#include "test.h"

GOLDEN_FILE("tests/golden/op/shapes.safetensors")

static nib_tensor *in(const char *name) {
    return nib_scope_own(ctx, golden_tensor(ctx, file, "%s", name));
}

static void check(void **state_, const char *name, const nib_tensor *got) {
    const nib_tensor *want = in(name);
    if (!got || !want) FAIL_AT("%s: %s", name, nib_last_error()->what);
    CHECK_TEXT(nib_dtype_name(got->dtype), nib_dtype_name(want->dtype));
    char a[96], b[96];
    CHECK_TEXT(nib_shape_text(&got->shape, a, sizeof a), nib_shape_text(&want->shape, b, sizeof b));
    if (got->dtype == NIB_BOOL) {
        CHECK_BYTES(nib_tensor_data(got), nib_tensor_data(want), nib_tensor_bytes(want));
        return;
    }
    const float *g = nib_tensor_data(got), *w = nib_tensor_data(want);
    for (int64_t i = 0; i < nib_tensor_count(want); i++)
        if (!(isnan(g[i]) && isnan(w[i]))) CHECK_NEAR(g[i], w[i], 0);
}

static nib_tensor *first_of(const nib_tensor *t) { /* t[0] */
    nib_shape shape = {t->shape.ndim - 1, {0}};
    for (int i = 0; i < shape.ndim; i++) shape.dim[i] = t->shape.dim[i + 1];
    return nib_reshape(nib_scope_own(ctx, nib_tensor_slice(t, 0, 0, 1)), &shape);
}

#define REFUSED(call, want, text)                                                                  \
    CHECK_FAILS((call) ? NIB_OK : nib_last_error()->status, want, text)

TEST(products_of_two_results_are_torchs) {
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *a = in("a"), *b = in("b"), *four = in("four"), *three = in("three");
    check(state_, "bmm.batch", nib_bmm(a, b));
    check(state_, "mm.plain", nib_mm(first_of(a), first_of(b)));
    check(state_, "matmul.repeated", nib_matmul(four, three));
    check(state_, "matmul.rows", nib_matmul(four, in("two")));
    check(state_, "matmul.both", nib_matmul(in("one"), three));
    check(state_, "matmul.two", nib_matmul(first_of(a), first_of(b)));
    REFUSED(nib_bmm(a, a), NIB_E_SHAPE, "bmm: self is [3, 5, 17] and mat2 [3, 5, 17]");
    REFUSED(nib_mm(a, b), NIB_E_SHAPE, "want [M, K] and [K, N]");
    REFUSED(nib_matmul(four, a), NIB_E_SHAPE, "matmul of [2, 3, 4, 6] and [3, 5, 17]");
    REFUSED(nib_matmul(in("y"), first_of(first_of(a))), NIB_E_SHAPE, "want [..., M, K]");
    nib_scope_end(ctx, mark);
}

/* Sizes that are cut in several pieces along every dimension, and none: the chain, to the bit. */
TEST(a_product_is_the_same_however_it_is_cut) {
    static const int64_t sizes[][4] = {{1, 600, 130, 40}, {3, 257, 65, 1}, {2, 5, 3, 0},
                                       {1, 1, 200, 70},   {0, 4, 4, 4},    {2, 64, 64, 64}};
    for (int threads = 1; threads <= 3; threads++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            const int64_t B = sizes[s][0], M = sizes[s][1], N = sizes[s][2], K = sizes[s][3];
            nib_ctx *own = nib_ctx_new(&(nib_ctx_options){.threads = threads});
            nib_tensor *a = nib_scope_own(own,
                                          nib_tensor_new(own, NIB_F32, (nib_shape){3, {B, M, K}})),
                       *b = nib_scope_own(own,
                                          nib_tensor_new(own, NIB_F32, (nib_shape){3, {B, K, N}}));
            uint64_t seed = test_seed();
            float *u = nib_tensor_data_mut(a), *v = nib_tensor_data_mut(b);
            for (int64_t i = 0; i < B * M * K; i++) u[i] = test_uniform(&seed);
            for (int64_t i = 0; i < B * K * N; i++) v[i] = test_uniform(&seed);
            const nib_tensor *y = nib_bmm(a, b);
            CHECK_MADE(y);
            const float *got = nib_tensor_data(y);
            for (int64_t i = 0; i < B * M * N; i++) {
                const int64_t n = i % N, row = i / N, batch = row / M;
                float sum = 0;
                for (int64_t k = 0; k < K; k++)
                    sum = fmaf(u[row * K + k], v[(batch * K + k) * N + n], sum);
                CHECK_NEAR(got[i], sum, 0);
            }
            nib_ctx_free(own);
        }
}

TEST(comparisons_and_choices_are_torchs) {
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *x = in("x"), *y = in("y"), *u = in("u"), *v = in("v");
    check(state_, "lt.broadcast", nib_lt(x, y));
    check(state_, "lt.same", nib_lt(u, v));
    check(state_, "where.broadcast", nib_where(in("c"), x, y));
    check(state_, "where.same", nib_where(nib_lt(u, v), u, v));
    check(state_, "neg.all", nib_neg(x));
    REFUSED(nib_where(u, u, v), NIB_E_DTYPE, "condition is f32, want bool");
    REFUSED(nib_lt(u, in("a")), NIB_E_SHAPE, "lt: self is [2, 3, 5] but other is [3, 5, 17]");
    REFUSED(nib_lt(u, nib_lt(u, v)), NIB_E_DTYPE, "other is bool");
    nib_scope_end(ctx, mark);
}

TEST(tensors_are_joined_cut_and_repeated_as_torch_does) {
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *u = in("u"), *v = in("v"), *w = in("w"), *c = in("c"), *y = in("y");
    check(state_, "stack.first", nib_stack((const nib_tensor *[]){u, v}, 2, 0));
    check(state_, "stack.middle", nib_stack((const nib_tensor *[]){u, v, u}, 3, 1));
    check(state_, "stack.last", nib_stack((const nib_tensor *[]){u, v}, 2, -1));
    check(state_, "cat.middle", nib_cat_along((const nib_tensor *[]){u, w, v}, 3, 1));
    check(state_, "cat.last", nib_cat_along((const nib_tensor *[]){u, v}, 2, -1));
    check(state_, "expand.middle", nib_expand(w, &(nib_shape){3, {-1, 4, -1}}));
    check(state_, "expand.front", nib_expand(w, &(nib_shape){4, {3, 2, 1, 5}}));
    check(state_, "expand.both", nib_expand(y, &(nib_shape){3, {2, 5, 4}}));
    check(state_, "expand.bool", nib_expand(c, &(nib_shape){3, {4, 5, 3}}));
    nib_tensor *piece[NIB_MAX_OUTPUTS];
    CHECK_INT(nib_split(u, 2, -1, piece), 3);
    for (int i = 0; i < 3; i++)
        check(state_, i == 0 ? "split.last0" : i == 1 ? "split.last1" : "split.last2", piece[i]);
    CHECK_INT(nib_split(u, 1, 1, piece), 3);
    for (int i = 0; i < 3; i++)
        check(state_,
              i == 0   ? "split.middle0"
              : i == 1 ? "split.middle1"
                       : "split.middle2",
              piece[i]);
    CHECK(!piece[3]);
    REFUSED(nib_stack((const nib_tensor *[]){u, w}, 2, 0), NIB_E_SHAPE, "stack: [2, 3, 5] and");
    REFUSED(nib_stack((const nib_tensor *[]){u, v}, 2, 4), NIB_E_SHAPE, "no dimension 4");
    REFUSED(nib_cat_along((const nib_tensor *[]){u, v}, 2, 3), NIB_E_SHAPE, "no dimension 3");
    REFUSED(nib_cat((const nib_tensor *[]){u, c}, 2), NIB_E_DTYPE, "cat of f32 and bool");
    REFUSED(nib_expand(u, &(nib_shape){3, {2, 4, 5}}), NIB_E_SHAPE, "does not repeat to [2, 4, 5]");
    REFUSED(nib_expand(u, &(nib_shape){2, {3, 5}}), NIB_E_SHAPE, "does not repeat");
    REFUSED(nib_expand(y, &(nib_shape){3, {-1, 5, 1}}), NIB_E_SHAPE, "does not repeat");
    REFUSED(nib_split(u, 0, 0, piece), NIB_E_ARGUMENT, "in pieces of 0");
    REFUSED(nib_split(u, 1, 3, piece), NIB_E_ARGUMENT, "split of dimension 3");
    REFUSED(nib_split(in("b"), 2, 1, piece), NIB_E_ARGUMENT, "are 9, most are 4");
    nib_scope_end(ctx, mark);
}

GOLDEN_TESTS(RUNS(products_of_two_results_are_torchs),
             RUNS(a_product_is_the_same_however_it_is_cut),
             RUNS(comparisons_and_choices_are_torchs),
             RUNS(tensors_are_joined_cut_and_repeated_as_torch_does))
