/* What ops make of quantized activations, row by row of the table in src/op/on_codes.c, against
 * optimum-quanto's own dispatch: tests/golden/quanto/make_workflow.py. */
#include "golden_file.h"
#include "op/calls.h"
#include "op/on_codes.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "quanto_golden.h"
#include "tensor/context.h"
#include "test.h"

GOLDEN_FILE("tests/golden/quanto/codes.safetensors")

/* A tensor of the file, owned by the open scope; NULL when it is not there. */
static nib_tensor *golden(const char *a, const char *b, const char *c) {
    char name[96];
    snprintf(name, sizeof name, "%s%s%s%s%s", a, b ? "." : "", b ? b : "", c ? "." : "",
             c ? c : "");
    return nib_scope_own(ctx, golden_tensor(ctx, file, "%s", name));
}

static const struct act {
    const char *name;
    nib_dtype code;
} acts[] = {{"qint8", NIB_I8},
            {"qfloat8_e4m3fn", NIB_F8_E4M3FN},
            {"qfloat8_e5m2", NIB_F8_E5M2},
            {"qfloat8_e4m3fnuz", NIB_F8_E4M3FNUZ}};

static nib_tensor *quantized(const struct act *act, const char *what, const char *scale) {
    return nib_quantize_activation(golden(what, NULL, NULL), golden(act->name, scale, NULL),
                                   act->code);
}

/* Codes and scale to the bit where upstream's result is quantized; floats to `tolerance`. */
static void check(void **state_, const struct act *act, const char *op, const nib_tensor *got,
                  double tolerance) {
    if (!got) FAIL_AT("%s of %s: %s", op, act->name, nib_last_error()->what);
    const nib_tensor *q = golden(act->name, op, "q"), *y = golden(act->name, op, "y");
    if (q) {
        if (!nib_act8_is(got)) FAIL_AT("%s of %s gives floats, upstream codes", op, act->name);
        const float scale = nib_act8_scale(got),
                    want = *(const float *)nib_tensor_data(golden(act->name, op, "scale"));
        if (memcmp(&scale, &want, sizeof scale) != 0)
            FAIL_AT("%s of %s: scale %.9g, want %.9g", op, act->name, (double)scale, (double)want);
        CHECK_INT(nib_tensor_count(got), nib_tensor_count(q));
        CHECK(nib_shape_equal(&got->shape, &q->shape));
        CHECK_BYTES(nib_act8_data(got), nib_tensor_data(q), nib_tensor_count(q));
        return;
    }
    CHECK_MADE(y);
    if (got->layout)
        FAIL_AT("%s of %s gives %s, upstream floats", op, act->name, got->layout->name);
    CHECK(nib_shape_equal(&got->shape, &y->shape));
    if (y->dtype == NIB_BOOL) {
        CHECK(got->dtype == NIB_BOOL);
        CHECK_BYTES(nib_tensor_data(got), nib_tensor_data(y), nib_tensor_count(y));
        return;
    }
    const float *g = nib_tensor_data(got), *w = nib_tensor_data(y);
    for (int64_t i = 0; i < nib_tensor_count(y); i++) CHECK_NEAR(g[i], w[i], tolerance);
}

static nib_tensor *one_number(float value) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){0}));
    *(float *)nib_tensor_data_mut(t) = value;
    return t;
}

/* Sums of a few dozen products, and erf or exp: some roundings of numbers below 4. */
#define ROUNDINGS 4e-6

TEST(each_row_of_the_table_is_upstreams) {
    for (int i = 0; i < 4; i++) {
        const struct act *act = &acts[i];
        const size_t mark = nib_scope_begin(ctx);
        const nib_tensor *a = quantized(act, "a", "sa"), *b = quantized(act, "b", "sb"),
                         *same = quantized(act, "b", "sa");
        CHECK(a && b && same);
        check(state_, act, "dequantize", nib_dequantize(a), 0);
        check(state_, act, "relu", nib_relu(a), 0);
        check(state_, act, "cat_same", nib_cat((const nib_tensor *[]){a, same}, 2), 0);
        check(state_, act, "cat_other", nib_cat((const nib_tensor *[]){a, b}, 2), 0);
        check(state_, act, "cat_last", nib_cat_along((const nib_tensor *[]){a, same}, 2, -1), 0);
        check(state_, act, "stack_same", nib_stack((const nib_tensor *[]){a, same}, 2, 0), 0);
        check(state_, act, "stack_last", nib_stack((const nib_tensor *[]){a, same}, 2, -1), 0);
        check(state_, act, "neg", nib_neg(a), 0);
        check(state_, act, "mul", nib_mul(a, one_number(0.7f)), 0);
        check(state_, act, "mul_left", nib_mul(one_number(0.7f), a), 0);
        check(state_, act, "mul_tensor", nib_mul(a, b), 0);
        check(state_, act, "div", nib_div(a, one_number(3)), 0);
        check(state_, act, "permute", nib_permute(a, (const int[]){2, 0, 1}), 0);
        check(state_, act, "view",
              nib_scope_own(ctx, nib_tensor_reshape(a, (nib_shape){2, {24, 8}})), 0);
        check(state_, act, "rows", nib_scope_own(ctx, nib_tensor_slice(a, 0, 1, 2)), 0);
        check(state_, act, "unsqueeze", nib_reshape(a, &(nib_shape){4, {4, 1, -1, 8}}), 0);
        check(state_, act, "transpose", nib_transpose(a, 1, 2), 0);
        const nib_tensor *row = nib_scope_own(ctx, nib_tensor_slice(a, 0, 1, 1));
        check(state_, act, "expand", nib_expand(row, &(nib_shape){3, {3, 6, 8}}), 0);
        check(state_, act, "expand_front", nib_expand(a, &(nib_shape){4, {2, 4, 6, 8}}), 0);
        nib_tensor *piece[NIB_MAX_OUTPUTS];
        CHECK_INT(nib_split(a, 4, 1, piece), 2);
        check(state_, act, "split_0", piece[0], 0);
        check(state_, act, "split_1", piece[1], 0);
        CHECK_INT(nib_split(a, 1, 0, piece), 4);
        check(state_, act, "split_rows_2", piece[2], 0);
        check(state_, act, "add", nib_add(a, b), 0);
        check(state_, act, "gelu", nib_gelu(a, false), ROUNDINGS);
        check(state_, act, "silu", nib_silu(a), ROUNDINGS);
        check(state_, act, "layer_norm", nib_layer_norm(a, NIB_NONE, NIB_NONE, 1, 1e-5), ROUNDINGS);
        nib_scope_end(ctx, mark);
    }
}

TEST(choices_keep_the_scale_and_what_is_smaller_is_told_by_codes) {
    for (int i = 0; i < 4; i++) {
        const struct act *act = &acts[i];
        const size_t mark = nib_scope_begin(ctx);
        const nib_tensor *a = quantized(act, "a", "sa"), *b = quantized(act, "b", "sb"),
                         *same = quantized(act, "b", "sa"), *c = golden("condition", NULL, NULL);
        check(state_, act, "where", nib_where(c, a, golden("other", NULL, NULL)), 0);
        check(state_, act, "where_one", nib_where(c, a, one_number(-2)), 0);
        check(state_, act, "lt_other", nib_lt(a, b), 0);
        /* Upstream has no lt of float codes, and none of where with quantized others: floats. */
        const nib_tensor *floats = nib_lt(nib_dequantize(a), nib_dequantize(same));
        if (act->code == NIB_I8) check(state_, act, "lt_same", nib_lt(a, same), 0);
        CHECK_BYTES(nib_tensor_data(nib_lt(a, same)), nib_tensor_data(floats),
                    nib_tensor_count(floats));
        const nib_tensor *both = nib_where(c, a, b),
                         *want = nib_where(c, nib_dequantize(a), nib_dequantize(b));
        CHECK(both && !both->layout);
        CHECK_BYTES(nib_tensor_data(both), nib_tensor_data(want), nib_tensor_bytes(want));
        const nib_tensor *other = nib_stack((const nib_tensor *[]){a, b}, 2, 0);
        CHECK(other && !other->layout); /* upstream has no such way */
        /* A scale below zero turns the order around, which upstream does not see. */
        const nib_tensor *down = nib_mul(a, one_number(-1)), *low = nib_mul(same, one_number(-1));
        CHECK(nib_act8_is(down) && nib_act8_scale(down) < 0);
        CHECK_BYTES(nib_tensor_data(nib_lt(low, down)), nib_tensor_data(floats),
                    nib_tensor_count(floats));
        nib_scope_end(ctx, mark);
    }
}

TEST(two_activations_are_multiplied_in_integers_where_both_are_int8) {
    for (int i = 0; i < 4; i++) {
        const struct act *act = &acts[i];
        const size_t mark = nib_scope_begin(ctx);
        const nib_tensor *a = quantized(act, "a", "sa"), *b = quantized(act, "b", "sb"),
                         *fa = golden("a", NULL, NULL), *fb = golden("b", NULL, NULL);
        const nib_tensor *turned = nib_transpose(b, 1, 2);
        const nib_shape rows = {2, {24, 8}}, four = {4, {2, 2, 6, 8}};
        /* Sums of int8 codes are exact, here and there. */
        check(state_, act, "bmm", nib_bmm(a, turned), act->code == NIB_I8 ? 0 : ROUNDINGS);
        check(state_, act, "bmm_left", nib_bmm(a, nib_transpose(fb, 1, 2)), ROUNDINGS);
        check(state_, act, "bmm_right", nib_bmm(fa, turned), ROUNDINGS);
        check(state_, act, "mm",
              nib_mm(nib_reshape(a, &rows), nib_transpose(nib_reshape(b, &rows), 0, 1)), ROUNDINGS);
        check(state_, act, "matmul",
              nib_matmul(nib_reshape(a, &four), nib_transpose(nib_reshape(b, &four), 2, 3)),
              act->code == NIB_I8 ? 0 : ROUNDINGS);
        check(state_, act, "matmul_rows", nib_matmul(a, nib_transpose(nib_reshape(b, &rows), 0, 1)),
              ROUNDINGS);
        nib_scope_end(ctx, mark);
    }
}

/* All codes there are, -128 too, over several pieces and ragged edges: the sum as a whole number.
 */
TEST(sums_of_products_of_int8_codes_are_exact) {
    static const int64_t sizes[][4] = {{2, 300, 70, 33},  {1, 1, 16, 1040}, {3, 5, 1, 257},
                                       {1, 3, 130, 4096}, {0, 2, 2, 2},     {2, 2, 3, 1}};
    for (int threads = 1; threads <= 3; threads++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            const int64_t B = sizes[s][0], M = sizes[s][1], N = sizes[s][2], K = sizes[s][3];
            nib_ctx *own = nib_ctx_new(&(nib_ctx_options){.threads = threads});
            nib_tensor *a = nib_scope_own(own, nib_act8_new(own, NIB_I8, NIB_F32,
                                                            (nib_shape){3, {B, M, K}}, 0.37f)),
                       *b = nib_scope_own(own, nib_act8_new(own, NIB_I8, NIB_F32,
                                                            (nib_shape){3, {B, K, N}}, 0.11f));
            uint64_t seed = test_seed();
            int8_t *u = nib_act8_data_mut(a), *v = nib_act8_data_mut(b);
            for (int64_t i = 0; i < B * M * K; i++)
                u[i] = s % 2 ? -128 : (int8_t)(test_random(&seed) >> 56);
            for (int64_t i = 0; i < B * K * N; i++)
                v[i] = s % 2 ? -128 : (int8_t)(test_random(&seed) >> 56);
            const nib_tensor *y = nib_bmm(a, b);
            CHECK_MADE(y);
            CHECK(!y->layout && nib_tensor_count(y) == B * M * N);
            const float *got = nib_tensor_data(y), scale = 0.37f * 0.11f;
            for (int64_t i = 0; i < B * M * N; i++) {
                int64_t sum = 0;
                for (int64_t k = 0; k < K; k++)
                    sum += (int64_t)u[i / N * K + k] * v[(i / N / M * K + k) * N + i % N];
                CHECK_NEAR(got[i], (float)sum * scale, 0);
            }
            nib_ctx_free(own);
        }
}

TEST(a_softmax_is_requantized_with_the_scale_it_is_known_to_have) {
    for (int i = 0; i < 4; i++) {
        const struct act *act = &acts[i];
        const size_t mark = nib_scope_begin(ctx);
        const nib_tensor *y = nib_softmax(quantized(act, "a", "sa"), -1),
                         *q = golden(act->name, "softmax", "q");
        CHECK(nib_act8_is(y));
        CHECK_NEAR(nib_act8_scale(y), 1 / nib_act8_largest(act->code), 0);
        int apart = 0; /* a sum that rounds the other way may cross a tie */
        const uint8_t *g = nib_act8_data(y), *w = nib_tensor_data(q);
        for (int64_t k = 0; k < nib_tensor_count(q); k++) apart += g[k] != w[k];
        CHECK(apart <= 1);
        nib_scope_end(ctx, mark);
    }
}

TEST(int8_codes_meet_int8_weights_in_integers_and_other_weights_as_floats) {
    NEEDS_SCHEME("qint8");
    static const char *const weights[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    for (int i = 0; i < 4; i++)
        for (int w = 0; w < 4; w++) {
            const struct act *act = &acts[i];
            const size_t mark = nib_scope_begin(ctx);
            nib_config *config = nib_config_parse(weights[w]);
            const nib_tensor *a = quantized(act, "a", "sa"),
                             *t = nib_quantize_tensor(golden("w", NULL, NULL), config);
            const nib_tensor *y = nib_linear(a, t, NIB_NONE);
            CHECK_MADE(y);
            if (w == 0) check(state_, act, "linear", y, ROUNDINGS);
            const nib_tensor *plain = nib_linear(nib_dequantize(a), nib_dequantize(t), NIB_NONE);
            const float *g = nib_tensor_data(y), *p = nib_tensor_data(plain);
            for (int64_t k = 0; k < nib_tensor_count(y); k++) CHECK_NEAR(g[k], p[k], ROUNDINGS);
            nib_config_free(config);
            nib_scope_end(ctx, mark);
        }
}

TEST(the_largest_of_codes_is_the_float_that_the_largest_code_stands_for) {
    static const struct {
        int64_t h, w;
        nib_window window;
        bool ceil;
    } cases[] = {
        {28, 28, {{2, 2}, {2, 2}, {0, 0}, {1, 1}}, false},
        {9, 7, {{3, 3}, {1, 1}, {1, 1}, {1, 1}}, false},
        {11, 13, {{3, 2}, {2, 3}, {1, 1}, {1, 1}}, true},
        {5, 2500, {{2, 5}, {1, 2}, {0, 2}, {1, 1}}, true},     /* rows longer than a run */
        {5, 40, {{2, 2}, {5, 7}, {1, 0}, {1, 1}}, true},       /* steps over some */
        {9, 1300, {{2, 600}, {1, 3}, {0, 10}, {1, 1}}, false}, /* wider than half a run */
        {9, 9, {{2, 3}, {1, 1}, {1, 1}, {2, 2}}, false},       /* dilated: as floats */
        {1, 1, {{1, 1}, {1, 1}, {0, 0}, {1, 1}}, false},
    };
    uint64_t seed = test_seed();
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int type = 0; type < 3; type++) {
            const size_t mark = nib_scope_begin(ctx);
            static const nib_dtype codes[] = {NIB_I8, NIB_I7, NIB_F8_E4M3FN};
            nib_tensor *x = nib_scope_own(
                ctx, nib_tensor_new(ctx, NIB_F32, (nib_shape){4, {2, 3, cases[c].h, cases[c].w}}));
            float *v = nib_tensor_data_mut(x);
            for (int64_t i = 0; i < nib_tensor_count(x); i++) v[i] = 2 * test_uniform(&seed) - 1;
            const nib_tensor *q =
                nib_quantize_activation(x, one_number(type ? 0.03f : -0.01f), codes[type]);
            if (c % 2) q = nib_quantize_activation(x, one_number(0.01f), codes[type]);
            CHECK_MADE(q);
            const nib_tensor *got = nib_max_pool2d(q, &cases[c].window, cases[c].ceil),
                             *want =
                                 nib_max_pool2d(nib_dequantize(q), &cases[c].window, cases[c].ceil);
            CHECK_MADE(got);
            CHECK_MADE(want);
            CHECK(!got->layout && nib_shape_equal(&got->shape, &want->shape));
            CHECK_BYTES(nib_tensor_data(got), nib_tensor_data(want),
                        (size_t)nib_tensor_count(want) * sizeof(float));
            nib_scope_end(ctx, mark);
        }
}

/* All codes there are, few and many at once. */
TEST(a_function_of_every_element_gives_for_codes_what_it_gives_for_their_floats) {
    static const struct {
        const char *op;
        int nattr;
        nib_attr attr[3];
    } functions[] = {{"gelu", 1, {{.s = "none"}}},
                     {"gelu", 1, {{.s = "tanh"}}},
                     {"silu", 0, {{0}}},
                     {"tanh", 0, {{0}}},
                     {"sigmoid", 0, {{0}}},
                     {"leaky_relu", 1, {{.d = 0.3}}},
                     {"hardtanh", 2, {{.d = -0.5}, {.d = 1}}},
                     {"elu", 3, {{.d = 1.5}, {.d = 0.7}, {.d = 1.2}}},
                     {"hardsigmoid", 0, {{0}}},
                     {"hardswish", 0, {{0}}}};
    static const nib_dtype codes[] = {NIB_I8, NIB_I7, NIB_F8_E4M3FN, NIB_F8_E5M2, NIB_F8_E4M3FNUZ};
    for (size_t f = 0; f < sizeof functions / sizeof *functions; f++)
        for (size_t c = 0; c < sizeof codes / sizeof *codes; c++)
            for (int64_t n = 200; n <= 70000; n += 69800) {
                const size_t mark = nib_scope_begin(ctx);
                nib_tensor *x = nib_scope_own(
                    ctx, nib_act8_new(ctx, codes[c], NIB_F32, (nib_shape){1, {n}}, 0.043f));
                uint8_t *q = nib_act8_data_mut(x);
                for (int64_t i = 0; i < n; i++) q[i] = (uint8_t)(i * 77);
                const nib_op *op = nib_op_find(functions[f].op);
                const nib_tensor *floats = nib_dequantize(x);
                const nib_tensor *y = nib_call_one(ctx, op, 1, (const nib_tensor *[]){x},
                                                   functions[f].nattr, functions[f].attr),
                                 *want = nib_call_one(ctx, op, 1, &floats, functions[f].nattr,
                                                      functions[f].attr);
                CHECK(y && want && !y->layout && nib_shape_equal(&y->shape, &x->shape));
                CHECK_BYTES(nib_tensor_data(y), nib_tensor_data(want), nib_tensor_bytes(want));
                nib_scope_end(ctx, mark);
            }
}

/* Scores of codes are exact sums, and then all is as the single ops have it. */
TEST(attention_of_int8_codes_is_their_bmm_and_softmax) {
    static const int64_t sizes[][5] = {{2, 3, 5, 7, 3}, {1, 61, 100, 64, 64}, {3, 130, 17, 128, 5}};
    static const nib_dtype codes[] = {NIB_I8, NIB_I7};
    for (int c = 0; c < 2; c++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int opened = 0; opened < 2; opened++) {
                const int64_t B = sizes[s][0], L = sizes[s][1], S = sizes[s][2], E = sizes[s][3],
                              V = sizes[s][4];
                const size_t mark = nib_scope_begin(ctx);
                const nib_shape shape[] = {{3, {B, L, E}}, {3, {B, S, E}}, {3, {B, S, V}}};
                nib_tensor *t[3];
                uint64_t seed = test_seed();
                for (int i = 0; i < 3; i++) {
                    t[i] = nib_scope_own(ctx, nib_act8_new(ctx, codes[c], NIB_F32, shape[i],
                                                           0.02f + 0.01f * (float)i));
                    int8_t *q = nib_act8_data_mut(t[i]);
                    for (int64_t k = 0; k < nib_tensor_count(t[i]); k++)
                        q[k] = (int8_t)((int8_t)(test_random(&seed) >> 56) / (1 + c));
                }
                const nib_tensor *v = nib_dequantize(t[2]);
                const nib_tensor *y = nib_scaled_dot_product_attention(
                    t[0], t[1], opened ? v : t[2], NIB_NONE, false, 0.3);
                const nib_tensor *scores =
                    nib_mul(nib_bmm(t[0], nib_transpose(t[1], 1, 2)), one_number(0.3f));
                const nib_tensor *want = nib_bmm(nib_softmax(scores, -1), v);
                CHECK(y && want && !y->layout);
                CHECK_BYTES(nib_tensor_data(y), nib_tensor_data(want), nib_tensor_bytes(want));
                nib_scope_end(ctx, mark);
            }
}

TEST(an_op_without_a_row_gets_the_floats_whatever_it_is) {
    const size_t mark = nib_scope_begin(ctx);
    const nib_tensor *a = quantized(&acts[0], "a", "sa");
    CHECK(!nib_codes_keeps(&nib_op_sub));
    const nib_tensor *y = nib_sub(a, a), *want = nib_sub(nib_dequantize(a), nib_dequantize(a));
    CHECK(y && want && !y->layout);
    CHECK_BYTES(nib_tensor_data(y), nib_tensor_data(want), nib_tensor_bytes(want));
    const nib_tensor *again = nib_quantize_activation(a, golden("qint8", "sa", NULL), NIB_I8);
    CHECK_MADE(again); /* by way of the floats, which are the codes' own */
    CHECK_BYTES(nib_act8_data(again), nib_act8_data(a), nib_tensor_count(a));
    CHECK(!nib_quantize_activation(golden("a", NULL, NULL), golden("qint8", "sa", NULL), NIB_U4));
    CHECK(strstr(nib_last_error()->what, "8 bits"));
    nib_scope_end(ctx, mark);
}

GOLDEN_TESTS(RUNS(each_row_of_the_table_is_upstreams),
             RUNS(choices_keep_the_scale_and_what_is_smaller_is_told_by_codes),
             RUNS(two_activations_are_multiplied_in_integers_where_both_are_int8),
             RUNS(sums_of_products_of_int8_codes_are_exact),
             RUNS(a_softmax_is_requantized_with_the_scale_it_is_known_to_have),
             RUNS(int8_codes_meet_int8_weights_in_integers_and_other_weights_as_floats),
             RUNS(the_largest_of_codes_is_the_float_that_the_largest_code_stands_for),
             RUNS(a_function_of_every_element_gives_for_codes_what_it_gives_for_their_floats),
             RUNS(attention_of_int8_codes_is_their_bmm_and_softmax),
             RUNS(an_op_without_a_row_gets_the_floats_whatever_it_is))
