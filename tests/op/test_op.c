#include "op/op.h"

#include "base/mem.h"
#include "op/calls.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "test.h"

static nib_tensor *random_tensor(nib_ctx *ctx, uint64_t *seed, nib_shape shape) {
    nib_tensor *t = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, shape));
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; i < nib_tensor_count(t); i++) data[i] = test_uniform(seed);
    return t;
}

#define SHAPE1(a)       ((nib_shape){1, {(a)}})
#define SHAPE2(a, b)    ((nib_shape){2, {(a), (b)}})
#define SHAPE3(a, b, c) ((nib_shape){3, {(a), (b), (c)}})

TEST(linear_is_one_chain_of_fma_for_each_output_then_the_bias) {
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {1, 17, 33}, {7, 16, 64}, {33, 50, 129}, {3, 5, 0}};
    uint64_t seed = test_seed();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t M = sizes[i][0], N = sizes[i][1], K = sizes[i][2];
        for (int threads = 1; threads <= 3; threads += 2) {
            nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
            nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(M, K)),
                       *w = random_tensor(ctx, &seed, SHAPE2(N, K)),
                       *b = random_tensor(ctx, &seed, SHAPE1(N)), *y = nib_linear(x, w, b);
            CHECK_MADE(y);
            const float *xd = nib_tensor_data(x), *wd = nib_tensor_data(w),
                        *bd = nib_tensor_data(b);
            for (int64_t m = 0; m < M; m++)
                for (int64_t n = 0; n < N; n++) {
                    float sum = 0;
                    for (int64_t k = 0; k < K; k++) sum = fmaf(xd[m * K + k], wd[n * K + k], sum);
                    CHECK_NEAR(((const float *)nib_tensor_data(y))[m * N + n], sum + bd[n], 0);
                }
            nib_ctx_free(ctx);
        }
    }
}

TEST(fused_products_have_the_bits_of_the_ops_one_by_one) {
    static const int64_t sizes[][3] = {{1, 1, 1}, {1, 100, 64}, {5, 65, 33}, {20, 16, 130}};
    uint64_t seed = test_seed();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t M = sizes[i][0], N = sizes[i][1], K = sizes[i][2];
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1 + (int)i % 3});
        nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(M, K)),
                   *r = random_tensor(ctx, &seed, SHAPE2(M, N)), *b[3], *w[3], *y[3];
        for (int k = 0; k < 3; k++) {
            w[k] = random_tensor(ctx, &seed, SHAPE2(k == 2 ? N + 7 : N, K));
            b[k] = k == 1 ? random_tensor(ctx, &seed, SHAPE1(N)) : NIB_NONE;
        }
        CHECK_OK(
            nib_linear_many(x, (const nib_tensor *const *)w, (const nib_tensor *const *)b, 3, y));
        nib_tensor *want[3];
        for (int k = 0; k < 3; k++) {
            want[k] = nib_linear(x, w[k], b[k]);
            CHECK_BYTES(nib_tensor_data(y[k]), nib_tensor_data(want[k]), nib_tensor_bytes(want[k]));
        }
        nib_tensor *fused = nib_linear_silu_mul(x, w[0], w[1], b[0], b[1]),
                   *apart = nib_silu_mul(want[0], want[1]);
        CHECK_BYTES(nib_tensor_data(fused), nib_tensor_data(apart), nib_tensor_bytes(apart));
        fused = nib_linear_add(x, w[1], b[1], r), apart = nib_add(r, want[1]);
        CHECK_BYTES(nib_tensor_data(fused), nib_tensor_data(apart), nib_tensor_bytes(apart));
        CHECK(!nib_linear_add(x, w[2], b[2], r));
        CHECK(!nib_linear_silu_mul(x, w[0], w[2], NIB_NONE, NIB_NONE));
        nib_ctx_free(ctx);
    }
}

TEST(attention_equals_softmax_in_double_and_its_bits_do_not_hang_on_chunks_or_threads) {
    enum { T = 150, H = 4, HK = 2, D = 8 };
    static const int64_t windows[] = {0, 5, 64, 100};
    uint64_t seed = test_seed();
    for (size_t w = 0; w < 4; w++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
        nib_ctx *many = nib_ctx_new(&(nib_ctx_options){.threads = 4});
        const uint64_t start_seed = seed;
        nib_tensor *q = random_tensor(ctx, &seed, SHAPE2(T, H * D)),
                   *k = random_tensor(ctx, &seed, SHAPE3(HK, T, D)),
                   *v = random_tensor(ctx, &seed, SHAPE3(HK, T, D));
        static const float lean[H] = {0.5f, 0.25f, 0.125f, 2.0f};
        nib_tensor *slopes =
            w % 2 ? nib_scope_own(ctx, nib_tensor_wrap(ctx, NIB_F32, SHAPE1(H), lean, NULL, NULL))
                  : NIB_NONE;
        nib_tensor *y = nib_attention_alibi(q, k, v, slopes, H, 0, windows[w], 0.35);
        uint64_t again = start_seed;
        nib_tensor *q2 = random_tensor(many, &again, SHAPE2(T, H * D));
        nib_tensor *y2 = nib_attention_alibi(q2, k, v, slopes, H, 0, windows[w], 0.35);
        CHECK_MADE(y);
        CHECK_MADE(y2);
        CHECK_BYTES(nib_tensor_data(y2), nib_tensor_data(y), T * H * D * sizeof(float));
        for (int64_t m = 0; m < T; m += 7) { /* one row by itself: the same bits */
            nib_tensor *row = nib_scope_own(ctx, nib_tensor_slice(q, 0, m, 1));
            nib_tensor *one = nib_attention_alibi(row, k, v, slopes, H, m, windows[w], 0.35);
            CHECK_MADE(one);
            CHECK_BYTES(nib_tensor_data(one), (const float *)nib_tensor_data(y) + m * H * D,
                        H * D * sizeof(float));
            const int64_t first = windows[w] && m >= windows[w] ? m - windows[w] + 1 : 0;
            for (int h = 0; h < H; h++) {
                const float *qd = (const float *)nib_tensor_data(q) + (m * H + h) * D;
                const float *kd = (const float *)nib_tensor_data(k) + (h / 2) * T * D;
                const float *vd = (const float *)nib_tensor_data(v) + (h / 2) * T * D;
                double sum = 0, out[D] = {0};
                for (int64_t t = first; t <= m; t++) {
                    double dot = 0;
                    for (int i = 0; i < D; i++) dot += (double)qd[i] * (double)kd[t * D + i];
                    const double p =
                        exp(dot * 0.35 + (w % 2 ? (double)lean[h] * (double)(t - m) : 0));
                    sum += p;
                    for (int i = 0; i < D; i++) out[i] += p * (double)vd[t * D + i];
                }
                for (int i = 0; i < D; i++)
                    CHECK_NEAR(((const float *)nib_tensor_data(one))[h * D + i], out[i] / sum,
                               2e-6);
            }
        }
        nib_ctx_free(many);
        nib_ctx_free(ctx);
    }
}

TEST(a_fused_projection_is_split_in_blocks_or_per_head) {
    enum { M = 3, HEADS = 2, W = 4, D = HEADS * W };
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_tensor *x = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, SHAPE2(M, 3 * D))), *out[3];
    float *data = nib_tensor_data_mut(x);
    for (int i = 0; i < M * 3 * D; i++) data[i] = (float)i;
    for (int per_head = 0; per_head < 2; per_head++) {
        CHECK_OK(nib_split_qkv(x, HEADS, per_head, out));
        for (int i = 0; i < 3; i++)
            for (int m = 0; m < M; m++)
                for (int c = 0; c < D; c++) {
                    const int at = per_head ? c / W * 3 * W + i * W + c % W : i * D + c;
                    CHECK_NEAR(((const float *)nib_tensor_data(out[i]))[m * D + c], m * 3 * D + at,
                               0);
                }
    }
    CHECK_FAILS(nib_split_qkv(x, 5, true, out), NIB_E_SHAPE, "want three times 5 heads");
    CHECK(!out[0] && !out[1] && !out[2]);
    nib_ctx_free(ctx);
}

TEST(slopes_of_another_number_of_heads_are_refused) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = 1;
    nib_tensor *q = random_tensor(ctx, &seed, SHAPE2(1, 16)),
               *k = random_tensor(ctx, &seed, SHAPE3(2, 4, 8)),
               *slopes = random_tensor(ctx, &seed, SHAPE1(3));
    CHECK(!nib_attention_alibi(q, k, k, slopes, 2, 0, 0, 1));
    CHECK(strstr(nib_last_error()->what, "slopes are [3] for 2 heads"));
    nib_ctx_free(ctx);
}

TEST(rope_turns_the_halves_of_each_head_and_keeps_their_length) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    enum { M = 3, H = 2, D = 8 };
    static const int32_t position[M] = {0, 5, 1000};
    static const float inv_freq[D / 2] = {1.0f, 0.1f, 0.01f, 0.001f};
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(M, H * D));
    nib_tensor *p =
        nib_scope_own(ctx, nib_tensor_wrap(ctx, NIB_I32, SHAPE1(M), position, NULL, NULL));
    nib_tensor *f =
        nib_scope_own(ctx, nib_tensor_wrap(ctx, NIB_F32, SHAPE1(D / 2), inv_freq, NULL, NULL));
    nib_tensor *y = nib_rope(x, nib_rope_angles(p, f, 1.0), H);
    CHECK_MADE(y);
    const float *a = nib_tensor_data(x), *b = nib_tensor_data(y);
    CHECK_BYTES(b, a, H * D * sizeof(float)); /* position 0 turns nothing */
    for (int m = 0; m < M; m++)
        for (int h = 0; h < H; h++)
            for (int j = 0; j < D / 2; j++) {
                const int at = (m * H + h) * D + j;
                const double angle = position[m] * (double)inv_freq[j];
                CHECK_NEAR(b[at], a[at] * cos(angle) - a[at + D / 2] * sin(angle), 2e-4);
                CHECK_NEAR(hypot((double)b[at], (double)b[at + D / 2]),
                           hypot((double)a[at], (double)a[at + D / 2]), 1e-6);
            }
    nib_ctx_free(ctx);
}

TEST(wrong_shapes_are_named_and_a_failed_chain_keeps_its_cause) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = 1;
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(4, 96)),
               *w = random_tensor(ctx, &seed, SHAPE2(8, 128));
    nib_tensor *y = nib_linear(x, w, NIB_NONE);
    CHECK(!nib_add(y, nib_rms_norm(y, w, 1e-5)));
    CHECK_INT(nib_last_error()->status, NIB_E_SHAPE);
    CHECK(strstr(nib_last_error()->what, "linear: input is [4, 96] but weight is [8, 128]"));
    nib_ctx_free(ctx);
}

typedef struct spy {
    int before, after;
    nib_ctx *ctx;
} spy;
static bool spy_before(void *self, const nib_op *op, nib_call_args *args) {
    spy *s = self;
    (void)op;
    s->before++;
    return args->op == &nib_op_silu_mul; /* answers in its place: no output */
}
static nib_status spy_after(void *self, const nib_op *op, nib_call_args *args) {
    spy *s = self;
    s->after++;
    if (op != &nib_op_add) return NIB_OK;
    args->out[0] = nib_add(args->out[0], args->in[1]); /* the mode is off inside itself */
    return args->out[0] ? NIB_OK : NIB_E_MEMORY;
}

TEST(a_mode_sees_answers_and_replaces_and_is_off_inside_itself) {
    static const nib_mode mode = {.name = "spy", .before_op = spy_before, .after_op = spy_after};
    nib_ctx *ctx = nib_ctx_new(NULL);
    spy s = {.ctx = ctx};
    uint64_t seed = 1;
    nib_tensor *a = random_tensor(ctx, &seed, SHAPE1(3)), *b = random_tensor(ctx, &seed, SHAPE1(3));
    CHECK_OK(nib_mode_push(ctx, &mode, &s));
    nib_tensor *sum = nib_add(a, b);
    CHECK_MADE(sum);
    const float *ad = nib_tensor_data(a), *bd = nib_tensor_data(b), *yd = nib_tensor_data(sum);
    for (int i = 0; i < 3; i++) CHECK_NEAR(yd[i], (ad[i] + bd[i]) + bd[i], 0);
    CHECK(nib_silu_mul(a, b) == NULL);
    CHECK_INT(s.before, 2);
    CHECK_INT(s.after, 1);
    CHECK_OK(nib_mode_pop(ctx));
    CHECK_FAILS(nib_mode_pop(ctx), NIB_E_ARGUMENT, "no mode");
    nib_ctx_free(ctx);
}

static void count_rows(void *user, const char *op, int64_t calls, double ms, double bytes) {
    if (strcmp(op, "add") == 0 && ms >= 0 && bytes == 2 * 3 * 12.0) *(int64_t *)user += calls;
}

TEST(profiling_counts_calls_and_bytes_of_each_op) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = 1;
    int64_t calls = 0;
    nib_tensor *a = random_tensor(ctx, &seed, SHAPE1(3));
    CHECK_OK(nib_profile_begin(ctx));
    CHECK_MADE(nib_add(a, a));
    CHECK_MADE(nib_add(a, a));
    CHECK_OK(nib_profile_end(ctx, count_rows, &calls));
    CHECK_INT(calls, 2);
    CHECK_FAILS(nib_profile_end(ctx, NULL, NULL), NIB_E_ARGUMENT, "not the innermost");
    nib_ctx_free(ctx);
}

TEST(every_op_states_its_schema_and_is_found_by_name) {
    for (size_t i = 0; nib_op_at(i); i++) {
        const nib_op *op = nib_op_at(i);
        CHECK(nib_op_find(op->name) == op);
        const char *name = strstr(op->schema, "::");
        CHECK(name && strncmp(name + 2, op->name, strlen(op->name)) == 0 &&
              strstr(op->schema, "->"));
        CHECK(op->shape != NULL);
    }
}

TESTS(RUNS(linear_is_one_chain_of_fma_for_each_output_then_the_bias),
      RUNS(fused_products_have_the_bits_of_the_ops_one_by_one),
      RUNS(attention_equals_softmax_in_double_and_its_bits_do_not_hang_on_chunks_or_threads),
      RUNS(a_fused_projection_is_split_in_blocks_or_per_head),
      RUNS(slopes_of_another_number_of_heads_are_refused),
      RUNS(rope_turns_the_halves_of_each_head_and_keeps_their_length),
      RUNS(wrong_shapes_are_named_and_a_failed_chain_keeps_its_cause),
      RUNS(a_mode_sees_answers_and_replaces_and_is_off_inside_itself),
      RUNS(profiling_counts_calls_and_bytes_of_each_op),
      RUNS(every_op_states_its_schema_and_is_found_by_name))
