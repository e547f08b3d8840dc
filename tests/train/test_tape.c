#include "base/error.h"
#include "nn/quantized.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "tensor/context.h"
#include "train/tape.h"
#include "train_golden.h"

static nib_ctx *ctx;
static nib_gradients *gradients;
static int setup(void **state) {
    (void)state;
    ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    gradients = nib_gradients_new(ctx);
    return ctx && gradients ? 0 : -1;
}
static int teardown(void **state) {
    (void)state;
    nib_gradients_free(gradients);
    nib_ctx_free(ctx);
    return 0;
}

static nib_tensor *floats(int64_t rows, int64_t columns, uint64_t seed) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {rows, columns}});
    float *x = t ? nib_tensor_data_mut(t) : NULL;
    for (int64_t i = 0; t && i < rows * columns; i++) x[i] = test_uniform(&seed);
    return t;
}

static const float *found(const nib_tensor *t) {
    const nib_tensor *g = nib_gradient_of(gradients, t);
    return g ? nib_tensor_data(g) : NULL;
}

/* ---- what reaches what ---- */

TEST(a_tensor_that_is_used_twice_gets_both_gradients) {
    nib_tensor *w = floats(2, 3, 1), *x = floats(4, 3, 2);
    CHECK_OK(nib_gradients_watch(gradients, w, "w"));
    CHECK_OK(nib_tape_begin(ctx, gradients));
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *one = nib_linear(x, w, NIB_NONE), *up = floats(4, 2, 3);
    CHECK_OK(nib_backward(one, up));
    float once[6];
    memcpy(once, found(w), sizeof once);
    nib_gradients_zero(gradients);
    CHECK(!found(w));
    nib_tensor *twice[] = {nib_linear(x, w, NIB_NONE), nib_linear(x, w, NIB_NONE)};
    CHECK_OK(nib_backward(twice[0], up)); /* forgets the other one: */
    CHECK_FAILS(nib_backward(twice[1], up), NIB_E_ARGUMENT, "no watched tensor reaches");
    for (int i = 0; i < 6; i++) CHECK_NEAR(found(w)[i], once[i], 0);
    CHECK_OK(nib_backward(nib_linear(x, w, NIB_NONE), up)); /* a second batch: the sum */
    for (int i = 0; i < 6; i++) CHECK_NEAR(found(w)[i], once[i] + once[i], 0);
    nib_tensor_free(up);
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(w);
    nib_tensor_free(x);
}

TEST(views_hand_gradients_to_the_places_that_they_show) {
    nib_tensor *x = floats(4, 3, 5), *w = floats(2, 3, 6), *up = floats(2, 2, 7);
    CHECK_OK(nib_gradients_watch(gradients, x, "x"));
    CHECK_OK(nib_tape_begin(ctx, gradients));
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *rows = nib_scope_own(ctx, nib_tensor_slice(x, 0, 1, 2)); /* rows 1 and 2 */
    nib_tensor *flat = nib_flatten(rows, 0, 1);
    nib_tensor *back = nib_reshape(flat, &(nib_shape){2, {2, 3}});
    CHECK_OK(nib_backward(nib_linear(nib_relu(back), w, NIB_NONE), up));
    const float *g = found(x), *v = nib_tensor_data(x), *wd = nib_tensor_data(w),
                *u = nib_tensor_data(up);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++) {
            float want = 0;
            if (i >= 1 && i <= 2 && v[i * 3 + k] > 0)
                want = fmaf(u[(i - 1) * 2 + 1], wd[3 + k], u[(i - 1) * 2] * wd[k]);
            CHECK_NEAR(g[i * 3 + k], want, 0);
        }
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(x);
    nib_tensor_free(w);
    nib_tensor_free(up);
}

TEST(what_is_needed_outlives_its_scope_and_its_names) {
    nib_tensor *w = floats(3, 5, 1);
    CHECK_OK(nib_gradients_watch(gradients, w, NULL));
    CHECK_OK(nib_tape_begin(ctx, gradients));
    nib_tensor *x = floats(2, 5, 2);
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *y = nib_keep(nib_relu(nib_linear(x, w, NIB_NONE)));
    nib_tensor *target = floats(2, 3, 3);
    nib_tensor *l = nib_keep(nib_mse(y, target));
    nib_scope_end(ctx, mark);
    nib_tensor_free(x);
    nib_tensor_free(y);
    nib_tensor_free(target);
    CHECK_OK(nib_backward(l, NIB_NONE));
    CHECK(found(w));
    nib_tensor_free(l);
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(w);
}

TEST(a_value_that_was_changed_is_named_and_gradients_stay) {
    nib_tensor *w = floats(3, 5, 1), *x = floats(2, 5, 2), *up = floats(2, 3, 3);
    CHECK_OK(nib_gradients_watch(gradients, w, NULL));
    CHECK_OK(nib_tape_begin(ctx, gradients));
    const size_t mark = nib_scope_begin(ctx);
    CHECK_OK(nib_backward(nib_linear(x, w, NIB_NONE), up));
    float before[15];
    memcpy(before, found(w), sizeof before);
    nib_tensor *y = nib_linear(x, w, NIB_NONE);
    *(float *)nib_tensor_data_mut(x) = 2;
    CHECK_FAILS(nib_backward(y, up), NIB_E_ARGUMENT, "linear needs its input 0, which was changed");
    CHECK_BYTES(found(w), before, sizeof before);
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(w);
    nib_tensor_free(x);
    nib_tensor_free(up);
}

TEST(an_op_without_a_gradient_is_refused_by_name_where_it_is_reached) {
    nib_tensor *w = floats(3, 4, 1), *x = floats(2, 4, 2), *slopes = floats(1, 2, 3);
    nib_tensor *logits = nib_tensor_reshape(slopes, (nib_shape){1, {2}});
    CHECK_OK(nib_gradients_watch(gradients, w, NULL));
    CHECK_OK(nib_tape_begin(ctx, gradients));
    const size_t mark = nib_scope_begin(ctx);
    const nib_sampling greedy = {0};
    CHECK_MADE(nib_sample(logits, NIB_NONE, &greedy, 1, 0)); /* nothing watched there */
    nib_tensor *y = nib_linear(x, w, NIB_NONE);
    nib_tensor *row = nib_flatten(y, 0, 1);
    CHECK(!nib_sample(row, NIB_NONE, &greedy, 1, 0));
    CHECK(strstr(nib_last_error()->what, "sample has no gradient"));
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(logits);
    nib_tensor_free(slopes);
    nib_tensor_free(w);
    nib_tensor_free(x);
}

typedef struct looked {
    const nib_tensor *weight[4];
    bool wants[4];
    float g[4];
    int count, fails;
} looked;

static nib_status look(void *user, const nib_backward_args *args) {
    looked *l = user;
    l->weight[l->count] = args->call->in[1];
    l->wants[l->count] = args->wants[0];
    l->g[l->count] = *(const float *)nib_tensor_data(args->out[0]);
    if (++l->count == l->fails) return NIB_RAISE(NIB_E_CANCELLED, "enough");
    return NIB_OK;
}

/* d x = g w of the one that comes later; past the first one nothing goes. */
TEST(a_choice_hands_gradients_to_what_it_took_and_none_to_what_it_went_by) {
    nib_tensor *a = floats(3, 4, 1), *b = floats(3, 4, 2);
    CHECK_OK(nib_gradients_watch(gradients, a, NULL));
    CHECK_OK(nib_gradients_watch(gradients, b, NULL));
    CHECK_OK(nib_tape_begin(ctx, gradients));
    const size_t mark = nib_scope_begin(ctx);
    const nib_tensor *least = nib_where(nib_lt(a, b), a, b);
    nib_tensor *ones = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {3, 4}});
    CHECK_MADE(ones);
    for (int i = 0; i < 12; i++) ((float *)nib_tensor_data_mut(ones))[i] = 1;
    CHECK_OK(nib_backward(least, ones));
    const float *x = nib_tensor_data(a), *y = nib_tensor_data(b),
                *dx = nib_tensor_data(nib_gradient_of(gradients, a)),
                *dy = nib_tensor_data(nib_gradient_of(gradients, b));
    for (int i = 0; i < 12; i++) {
        CHECK(dx[i] == (x[i] < y[i] ? 1 : 0));
        CHECK(dy[i] == (x[i] < y[i] ? 0 : 1));
    }
    nib_tensor_free(ones);
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(a);
    nib_tensor_free(b);
}

TEST(calls_of_one_op_are_looked_at_on_the_way_back_though_nothing_is_watched) {
    nib_tensor *x = floats(1, 1, 1), *w = floats(1, 1, 2), *v = floats(1, 1, 3),
               *up = floats(1, 1, 4);
    const float g = *(const float *)nib_tensor_data(up);
    looked l = {0};
    CHECK_FAILS(nib_tape_look_at(ctx, &nib_op_linear, look, &l), NIB_E_ARGUMENT, "no tape");
    CHECK_OK(nib_tape_begin(ctx, gradients));
    CHECK_OK(nib_tape_look_at(ctx, &nib_op_linear, look, &l));
    for (l.fails = 0; l.fails < 2; l.fails++) {
        l.count = 0;
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *y = nib_linear(nib_linear(nib_add(x, x), w, NIB_NONE), v, NIB_NONE);
        if (l.fails)
            CHECK_FAILS(nib_backward(y, up), NIB_E_CANCELLED, "enough");
        else
            CHECK_OK(nib_backward(y, up));
        nib_scope_end(ctx, mark);
        CHECK_INT(l.count, l.fails ? 1 : 2);
        CHECK(l.weight[0] == v && l.wants[0]);
        CHECK_NEAR(l.g[0], g, 0);
    }
    CHECK(l.weight[1] == w && !l.wants[1]);
    CHECK_NEAR(l.g[1], g * *(const float *)nib_tensor_data(v), 0);
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(x);
    nib_tensor_free(w);
    nib_tensor_free(v);
    nib_tensor_free(up);
}

/* Token after token: what a later one does to the cache is a change that earlier ones would need
 * undone; a cache that was filled first is one value for all. */
TEST(a_cache_is_a_new_value_each_time_it_is_appended_to) {
    nib_tensor *w = floats(2, 2, 1), *x = floats(1, 2, 2), *up = floats(1, 2, 3);
    nib_tensor *cache[2];
    for (int i = 0; i < 2; i++) {
        cache[i] = nib_tensor_new(ctx, NIB_F32, (nib_shape){3, {1, 2, 2}});
        memset(nib_tensor_data_mut(cache[i]), 0, nib_tensor_bytes(cache[i]));
    }
    CHECK_OK(nib_gradients_watch(gradients, w, NULL));
    CHECK_OK(nib_tape_begin(ctx, gradients));
    for (int between = 0; between < 2; between++) {
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *y = NULL, *k = nib_linear(x, w, NIB_NONE);
        for (int at = 0; at < 2; at++) {
            for (int i = 0; i < 2; i++) CHECK_OK(nib_kv_append(cache[i], k, at));
            if (!between && !at) continue;
            nib_tensor *row = nib_attention(x, cache[0], cache[1], 1, at, 0, 1);
            y = y ? nib_add(y, row) : row;
        }
        if (between) {
            CHECK_FAILS(nib_backward(y, up), NIB_E_ARGUMENT, "attention needs its input 1");
        } else {
            /* Both tokens are x w^T, so the row is, whatever the scores: dw = up^T x. */
            CHECK_OK(nib_backward(y, up));
            const float *g = nib_tensor_data(up), *v = nib_tensor_data(x);
            for (int i = 0; i < 4; i++) CHECK_NEAR(found(w)[i], g[i / 2] * v[i % 2], 1e-6);
        }
        nib_scope_end(ctx, mark);
    }
    CHECK_OK(nib_tape_end(ctx));
    for (int i = 0; i < 2; i++) nib_tensor_free(cache[i]);
    nib_tensor_free(w);
    nib_tensor_free(x);
    nib_tensor_free(up);
}

TEST(beginnings_and_ends_that_do_not_match_are_said) {
    CHECK_FAILS(nib_tape_end(ctx), NIB_E_ARGUMENT, "not the innermost");
    nib_tensor *x = floats(2, 2, 1), *w = floats(2, 2, 2);
    CHECK_FAILS(nib_backward(x, NIB_NONE), NIB_E_ARGUMENT, "no tape");
    CHECK_OK(nib_tape_begin(ctx, gradients));
    CHECK_FAILS(nib_tape_begin(ctx, gradients), NIB_E_ARGUMENT, "begun already");
    CHECK_FAILS(nib_backward(x, NIB_NONE), NIB_E_ARGUMENT, "no watched tensor");
    CHECK_OK(nib_gradients_watch(gradients, w, NULL));
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *y = nib_linear(x, w, NIB_NONE);
    CHECK_FAILS(nib_backward(y, NIB_NONE), NIB_E_SHAPE, "not one number");
    y = nib_linear(x, w, NIB_NONE);
    nib_tensor *wrong = floats(1, 4, 2);
    CHECK_FAILS(nib_backward(y, wrong), NIB_E_SHAPE, "[1, 4]");
    nib_tensor_free(wrong);
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_profile_begin(ctx));
    CHECK_FAILS(nib_tape_end(ctx), NIB_E_ARGUMENT, "not the innermost");
    CHECK_OK(nib_profile_end(ctx, NULL, NULL));
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(x);
    nib_tensor_free(w);
}

/* ---- trees ---- */

TEST(watching_a_tree_gives_it_bytes_of_its_own_also_where_a_tensor_stands_twice) {
    static const float table[6] = {1, 2, 3, 4, 5, 6};
    nib_tensor *shared = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {2, 3}}, table, NULL, NULL);
    nib_tensor *again = nib_tensor_retain(shared);
    nib_module *m = nib_sequential_new(ctx);
    CHECK_OK(nib_module_append(m, nib_linear_new(ctx, shared, NIB_NONE)));
    CHECK_OK(nib_module_append(m, nib_linear_new(ctx, again, NIB_NONE)));
    CHECK_OK(nib_gradients_watch_module(gradients, m));
    const char *name;
    nib_tensor *t;
    CHECK_INT(nib_gradients_at(gradients, 0, &name, &t, NULL), NIB_OK);
    CHECK_TEXT(name, "0.weight");
    CHECK_INT(nib_gradients_at(gradients, 1, NULL, NULL, NULL), NIB_END);
    CHECK(t == nib_module_parameter(nib_module_child(m, "0"), "weight"));
    CHECK(t == nib_module_parameter(nib_module_child(m, "1"), "weight"));
    CHECK(nib_tensor_data(t) != (const void *)table);
    CHECK_BYTES(nib_tensor_data(t), table, sizeof table);
    CHECK_MADE(nib_tensor_data_mut(t));
    nib_module_free(m);
}

TEST(a_tree_of_quantized_weights_alone_has_nothing_to_train) {
    NEEDS_SCHEME("int8_weight_only");
    nib_module *m = nib_linear_new(ctx, floats(4, 32, 1), NIB_NONE);
    CHECK_OK(nib_quantize(m, NIB_INT8_WEIGHT_ONLY(), NULL));
    CHECK_FAILS(nib_gradients_watch_module(gradients, m), NIB_E_ARGUMENT, "no float parameter");
    nib_tensor *other = floats(1, 3, 2);
    CHECK_OK(nib_gradients_watch(gradients, other, NULL)); /* which is none of the tree's */
    CHECK_FAILS(nib_gradients_watch_module(gradients, m), NIB_E_ARGUMENT, "no float parameter");
    nib_tensor_free(other);
    nib_module_free(m);
}

/* ---- optimum-quanto's QLinear ---- */

TEST(rounding_hands_the_gradient_on_as_it_is) {
    NEEDS_SCHEME("qint8");
    nib_tensor *w = floats(3, 32, 1), *up = floats(3, 32, 2),
               *scale = nib_scale_tensor(ctx, NIB_F32, 0.01f);
    const char *const schemes[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    CHECK_OK(nib_gradients_watch(gradients, w, NULL));
    CHECK_OK(nib_tape_begin(ctx, gradients));
    for (int i = 0; i < 5; i++) {
        const size_t mark = nib_scope_begin(ctx);
        nib_config *config = i < 4 ? nib_config_parse(schemes[i]) : NULL;
        nib_tensor *q =
            i < 4 ? nib_quantize_weight(w, config) : nib_quantize_activation(w, scale, NIB_I8);
        nib_gradients_zero(gradients);
        CHECK_OK(nib_backward(nib_dequantize(q), up));
        CHECK_BYTES(found(w), nib_tensor_data(up), nib_tensor_bytes(up));
        nib_scope_end(ctx, mark);
        nib_config_free(config);
    }
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(w);
    nib_tensor_free(up);
    nib_tensor_free(scale);
}

static void set_scales(void **state_, nib_module *m, nib_safetensors *file, const char *key) {
    const char *const names[] = {"input_scale", "output_scale"};
    for (int i = 0; i < 2; i++) {
        nib_tensor *s = golden_tensor(ctx, file, "%s.%s", key, names[i]);
        CHECK_MADE(s);
        CHECK_OK(nib_module_set_scale(m, names[i], *(const float *)nib_tensor_data(s)));
        nib_tensor_free(s);
    }
}

static void near(void **state_, const nib_tensor *got, nib_tensor *want, double room,
                 const char *what) {
    const double off = train_difference(got, want);
    if (!(off <= room)) FAIL_AT("%s: off by %.3g of the largest, over %.3g", what, off, room);
    nib_tensor_free(want);
}

/* Upstream's own tolerances are 1e-6 (bias), 1e-5, and 5e-3 of int4 and float8 weights, against the
 * float module. This is against upstream: sums of at most 12 terms in two orders. */
TEST(gradients_of_a_linear_that_is_not_frozen_are_upstreams) {
    NEEDS_SCHEME("quanto");
    const char *const weights[] = {"qint4", "qint8", "qfloat8_e4m3fn"};
    const char *const activations[] = {"none", "qint8", "qfloat8_e4m3fn"};
    const double room = 1e-6;
    nib_safetensors *file = train_golden("gradients");
    CHECK_MADE(file);
    for (int i = 0; i < 9; i++) {
        char key[64], text[128];
        snprintf(key, sizeof key, "%s.%s", weights[i / 3], activations[i % 3]);
        snprintf(text, sizeof text, "quanto:weights=%s,activations=%s", weights[i / 3],
                 activations[i % 3]);
        nib_config *config = nib_config_parse(text);
        CHECK_MADE(config);
        nib_module *m = nib_linear_new(ctx, golden_tensor(ctx, file, "weight"),
                                       golden_tensor(ctx, file, "bias"));
        CHECK_OK(nib_module_quantize(m, config));
        set_scales(state_, m, file, key);
        nib_tensor *x = golden_tensor(ctx, file, "x"), *up = golden_tensor(ctx, file, "upstream");
        nib_tensor *weight = nib_module_parameter(m, "weight"),
                   *bias = nib_module_parameter(m, "bias");
        nib_gradients *g = nib_gradients_new(ctx);
        CHECK_OK(nib_gradients_watch_module(g, m));
        CHECK_OK(nib_gradients_watch(g, x, "x"));
        CHECK_OK(nib_tape_begin(ctx, g));
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *y = nib_module_forward(m, x);
        CHECK_MADE(y);
        if (nib_act8_is(y)) y = nib_dequantize(y);
        near(state_, y, golden_tensor(ctx, file, "%s.y", key), 1e-6, key);
        CHECK_OK(nib_backward(y, up));
        near(state_, nib_gradient_of(g, x), golden_tensor(ctx, file, "%s.dx", key), room, key);
        near(state_, nib_gradient_of(g, weight), golden_tensor(ctx, file, "%s.dweight", key), room,
             key);
        near(state_, nib_gradient_of(g, bias), golden_tensor(ctx, file, "%s.dbias", key), room,
             key);
        nib_scope_end(ctx, mark);
        CHECK_OK(nib_tape_end(ctx));
        nib_gradients_free(g);
        nib_tensor_free(x);
        nib_tensor_free(up);
        nib_module_free(m);
        nib_config_free(config);
    }
    nib_safetensors_close(file);
}

/* Two such linears: what the second one's input gets goes through the codes that the first one
 * gave. */
TEST(gradients_of_a_network_with_static_activations_are_upstreams) {
    NEEDS_SCHEME("quanto");
    nib_safetensors *file = train_golden("gradients");
    CHECK_MADE(file);
    nib_module *m = nib_sequential_new(ctx);
    const char *const places[] = {"0", "2"}, *const names[] = {"weight", "bias"};
    for (int i = 0; i < 2; i++) {
        CHECK_OK(nib_module_append(
            m, nib_linear_new(ctx, golden_tensor(ctx, file, "mlp.%s.weight", places[i]),
                              golden_tensor(ctx, file, "mlp.%s.bias", places[i]))));
        if (i == 0) CHECK_OK(nib_module_append(m, nib_relu_new(ctx)));
    }
    nib_config *config = nib_config_parse("quanto:weights=qint8,activations=qint8");
    CHECK_MADE(config);
    for (int i = 0; i < 2; i++) {
        char key[32];
        snprintf(key, sizeof key, "mlp.%s", places[i]);
        CHECK_OK(nib_module_quantize(nib_module_child(m, places[i]), config));
        set_scales(state_, nib_module_child(m, places[i]), file, key);
    }
    CHECK_OK(nib_gradients_watch_module(gradients, m));
    CHECK_OK(nib_tape_begin(ctx, gradients));
    nib_tensor *x = golden_tensor(ctx, file, "x"), *target = golden_tensor(ctx, file, "mlp.target");
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *y = nib_module_forward(m, x);
    CHECK_MADE(y);
    nib_tensor *l = nib_cross_entropy(y, target);
    CHECK_MADE(l);
    near(state_, l, golden_tensor(ctx, file, "mlp.loss"), 1e-6, "loss");
    CHECK_OK(nib_backward(l, NIB_NONE));
    for (int i = 0; i < 4; i++) {
        const nib_tensor *p =
            nib_module_parameter(nib_module_child(m, places[i / 2]), names[i % 2]);
        near(state_, nib_gradient_of(gradients, p),
             golden_tensor(ctx, file, "mlp.d.%s.%s", places[i / 2], names[i % 2]), 2e-6,
             names[i % 2]);
    }
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_tensor_free(x);
    nib_tensor_free(target);
    nib_module_free(m);
    nib_config_free(config);
    nib_safetensors_close(file);
}

#define EACH(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
TESTS(EACH(a_tensor_that_is_used_twice_gets_both_gradients),
      EACH(views_hand_gradients_to_the_places_that_they_show),
      EACH(what_is_needed_outlives_its_scope_and_its_names),
      EACH(a_value_that_was_changed_is_named_and_gradients_stay),
      EACH(an_op_without_a_gradient_is_refused_by_name_where_it_is_reached),
      EACH(a_choice_hands_gradients_to_what_it_took_and_none_to_what_it_went_by),
      EACH(calls_of_one_op_are_looked_at_on_the_way_back_though_nothing_is_watched),
      EACH(a_cache_is_a_new_value_each_time_it_is_appended_to),
      EACH(beginnings_and_ends_that_do_not_match_are_said),
      EACH(watching_a_tree_gives_it_bytes_of_its_own_also_where_a_tensor_stands_twice),
      EACH(a_tree_of_quantized_weights_alone_has_nothing_to_train),
      EACH(rounding_hands_the_gradient_on_as_it_is),
      EACH(gradients_of_a_linear_that_is_not_frozen_are_upstreams),
      EACH(gradients_of_a_network_with_static_activations_are_upstreams))
