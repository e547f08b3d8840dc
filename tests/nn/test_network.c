/* A network of many layers: its tree as text, laws between layers, and memory that runs out. */
#include <nibble/graph.h>
#include <nibble/nn.h>
#include <sys/resource.h>

#include "base/mem.h"
#include "base/sys.h"
#include "op/calls.h"
#include "tensor/context.h"
#include "test.h"

static nib_tensor *random_new(nib_ctx *ctx, uint64_t *seed, nib_shape shape) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; data && i < nib_tensor_count(t); i++)
        data[i] = 0.1f + test_uniform(seed) / 8;
    return t;
}
#define SHAPE1(a)          ((nib_shape){1, {(a)}})
#define SHAPE2(a, b)       ((nib_shape){2, {(a), (b)}})
#define SHAPE3(a, b, c)    ((nib_shape){3, {(a), (b), (c)}})
#define SHAPE4(a, b, c, d) ((nib_shape){4, {(a), (b), (c), (d)}})

static nib_module *network(nib_ctx *ctx) {
    uint64_t seed = 3;
    const nib_conv_options reflected = {.padding = {1, 1}, .padding_mode = "reflect"};
    nib_module *parts[] = {
        nib_conv2d_new(ctx, random_new(ctx, &seed, SHAPE4(4, 1, 3, 3)),
                       random_new(ctx, &seed, SHAPE1(4)), &reflected),
        nib_batch_norm2d_new(ctx, random_new(ctx, &seed, SHAPE1(4)),
                             random_new(ctx, &seed, SHAPE1(4)), random_new(ctx, &seed, SHAPE1(4)),
                             random_new(ctx, &seed, SHAPE1(4)), NULL),
        nib_relu_new(ctx),
        nib_max_pool2d_new(ctx, &(nib_pool_options){.kernel_size = {2}}),
        nib_group_norm_new(ctx, 2, NIB_NONE, NIB_NONE, 1e-5),
        nib_adaptive_avg_pool2d_new(ctx, 2, 3),
        nib_dropout_new(ctx, 0.5),
        nib_flatten_new(ctx, 2, -1), /* [N, 4, 6] */
        nib_multihead_attention_new(ctx, random_new(ctx, &seed, SHAPE2(18, 6)), NIB_NONE,
                                    nib_linear_new(ctx, random_new(ctx, &seed, SHAPE2(6, 6)),
                                                   random_new(ctx, &seed, SHAPE1(6))),
                                    &(nib_attention_options){.num_heads = 2, .batch_first = true}),
        nib_flatten_new(ctx, 1, -1),
        nib_linear_new(ctx, random_new(ctx, &seed, SHAPE2(5, 24)), NIB_NONE),
        nib_softmax_new(ctx, -1),
    };
    return nib_sequential_of(ctx, parts, sizeof parts / sizeof *parts);
}

TEST(a_network_prints_as_a_tree) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *m = network(ctx);
    CHECK_MADE(m);
    char *text = nib_module_print(m);
    CHECK_TEXT(
        text,
        "Sequential\n"
        "  0: Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), padding_mode=reflect)"
        "  weight [4, 1, 3, 3] f32  bias [4] f32\n"
        "  1: BatchNorm2d(eps=1e-05, momentum=0.1)  weight [4] f32  bias [4] f32"
        "  running_mean [4] f32  running_var [4] f32  num_batches_tracked [] i64\n"
        "  2: ReLU\n"
        "  3: MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), "
        "ceil_mode=False)\n"
        "  4: GroupNorm(2, eps=1e-05)\n"
        "  5: AdaptiveAvgPool2d(output_size=(2, 3))\n"
        "  6: Dropout(p=0.5)\n"
        "  7: Flatten(start_dim=2, end_dim=-1)\n"
        "  8: MultiheadAttention(num_heads=2, batch_first=True)  in_proj_weight [18, 6] f32\n"
        "    out_proj: Linear  weight [6, 6] f32  bias [6] f32\n"
        "  9: Flatten(start_dim=1, end_dim=-1)\n"
        "  10: Linear  weight [5, 24] f32\n"
        "  11: Softmax(dim=-1)\n");
    nib_text_release(text);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

TEST(a_row_of_a_batch_does_not_depend_on_the_others) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *m = network(ctx);
    uint64_t seed = 8;
    nib_tensor *x = nib_scope_own(ctx, random_new(ctx, &seed, SHAPE4(3, 1, 9, 8)));
    nib_tensor *all = nib_module_forward(m, x),
               *one = nib_module_forward(m, nib_scope_own(ctx, nib_tensor_slice(x, 0, 1, 1)));
    CHECK_MADE(all);
    CHECK_MADE(one);
    CHECK(nib_shape_equal(&all->shape, &SHAPE2(3, 5)));
    CHECK_BYTES((const float *)nib_tensor_data(all) + 5, nib_tensor_data(one), 5 * sizeof(float));
    nib_module_train(m, true); /* drops numbers, and takes the batch's mean */
    nib_tensor *trained = nib_module_forward(m, x);
    CHECK_MADE(trained);
    CHECK(memcmp(nib_tensor_data(trained), nib_tensor_data(all), nib_tensor_bytes(all)) != 0);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

TEST(a_network_of_narrow_weights_runs_and_stays_near) {
    static const struct {
        nib_dtype dtype;
        double tolerance; /* some roundings of weights to 11 or 8 bits, and a softmax behind them */
    } cases[] = {{NIB_F16, 0x1p-8}, {NIB_BF16, 0x1p-5}};
    for (int i = 0; i < 2; i++) {
        nib_ctx *ctx = nib_ctx_new(NULL);
        nib_module *m = network(ctx);
        uint64_t seed = 8;
        nib_tensor *x = nib_scope_own(ctx, random_new(ctx, &seed, SHAPE4(3, 1, 9, 8)));
        const nib_tensor *want = nib_module_forward(m, x);
        CHECK_MADE(want);
        CHECK_OK(nib_module_to_dtype(m, cases[i].dtype));
        const nib_tensor *got = nib_module_forward(m, x);
        CHECK_MADE(got);
        CHECK(memcmp(nib_tensor_data(got), nib_tensor_data(want), nib_tensor_bytes(want)) != 0);
        for (int64_t k = 0; k < 15; k++)
            CHECK_NEAR(((const float *)nib_tensor_data(got))[k],
                       ((const float *)nib_tensor_data(want))[k], cases[i].tolerance);
        nib_module_free(m);
        nib_ctx_free(ctx);
    }
}

TEST(a_compiled_network_gives_the_bits_of_its_forward) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *m = network(ctx);
    uint64_t seed = 8;
    nib_tensor *x = nib_scope_own(ctx, random_new(ctx, &seed, SHAPE4(3, 1, 9, 8))),
               *other = nib_scope_own(ctx, random_new(ctx, &seed, SHAPE4(3, 1, 9, 8)));
    nib_graph *g = nib_compile(m, x, NULL);
    CHECK_MADE(g);
    for (int i = 0; i < 2; i++) {
        const nib_tensor *want = nib_module_forward(m, i ? x : other),
                         *got = nib_graph_run(g, i ? x : other);
        CHECK_MADE(want);
        CHECK_MADE(got);
        CHECK_BYTES(nib_tensor_data(got), nib_tensor_data(want), nib_tensor_bytes(want));
    }
    nib_graph_free(g);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

TEST(a_convolution_by_one_point_is_a_linear_of_every_position) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    nib_tensor *x = nib_scope_own(ctx, random_new(ctx, &seed, SHAPE4(2, 37, 5, 9))),
               *w = nib_scope_own(ctx, random_new(ctx, &seed, SHAPE4(11, 37, 1, 1))),
               *b = nib_scope_own(ctx, random_new(ctx, &seed, SHAPE1(11)));
    const nib_window window = {.stride = {1, 1}, .dilation = {1, 1}};
    nib_tensor *y = nib_conv2d(x, w, b, &window, 1);
    nib_tensor *rows = nib_permute(x, (const int[]){0, 2, 3, 1});
    nib_tensor *flat = nib_linear(rows, nib_reshape(w, &SHAPE2(11, 37)), b);
    nib_tensor *want = nib_permute(flat, (const int[]){0, 3, 1, 2});
    CHECK_MADE(want);
    CHECK_BYTES(nib_tensor_data(y), nib_tensor_data(want), nib_tensor_bytes(want));
    nib_ctx_free(ctx);
}

TEST(dropout_layers_draw_numbers_of_their_own_and_the_same_when_made_again) {
    float got[2][2][64];
    for (int again = 0; again < 2; again++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.seed = 77});
        nib_module *a = nib_dropout_new(ctx, 0.5), *b = nib_dropout_new(ctx, 0.5);
        nib_tensor *x = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, SHAPE1(64)));
        for (int i = 0; i < 64; i++) ((float *)nib_tensor_data_mut(x))[i] = 1;
        CHECK(nib_module_forward(a, x) == x);
        nib_module_train(a, true);
        nib_module_train(b, true);
        CHECK_OK(nib_tensor_read(nib_module_forward(a, x), got[again][0], sizeof got[0][0]));
        CHECK_OK(nib_tensor_read(nib_module_forward(b, x), got[again][1], sizeof got[0][0]));
        nib_tensor *next = nib_module_forward(a, x);
        CHECK(memcmp(nib_tensor_data(next), got[again][0], sizeof got[0][0]) != 0);
        nib_module_free(a);
        nib_module_free(b);
        nib_ctx_free(ctx);
    }
    CHECK(memcmp(got[0][0], got[0][1], sizeof got[0][0]) != 0);
    CHECK_BYTES(got[0], got[1], sizeof got[0]);
}

TEST(every_failed_allocation_of_a_network_leaves_nothing_behind) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    nib_ctx *probe = nib_ctx_new(NULL);
    const size_t before = nib_mem_used(nib_ctx_mem(probe));
    nib_ctx_free(probe);
    bool done = false;
    for (long n = 0; !done; n++) {
        nib_ctx_free(ctx);
        ctx = nib_ctx_new(NULL); /* anew: workspaces stay with a context */
        float first[72];
        for (int i = 0; i < 72; i++) first[i] = (float)i;
        const size_t mark = nib_scope_begin(ctx);
        nib_mem_fail_after(n, false);
        nib_module *m = network(ctx);
        nib_tensor *x = nib_tensor_wrap(ctx, NIB_F32, SHAPE4(1, 1, 9, 8), first, NULL, NULL);
        nib_tensor *y = nib_module_forward(m, x);
        nib_mem_fail_after(-1, false);
        done = y != NULL;
        if (!done) CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
        nib_scope_end(ctx, mark);
        nib_tensor_free(x);
        nib_module_free(m);
        nib_mem_free(&ctx->mem, ctx->workspace, ctx->workspace_size);
        nib_mem_free(&ctx->mem, ctx->owned, ctx->owned_room * sizeof *ctx->owned);
        ctx->workspace = NULL, ctx->workspace_size = 0;
        ctx->owned = NULL, ctx->owned_room = 0;
        CHECK_INT(nib_mem_used(nib_ctx_mem(ctx)), before);
    }
    nib_ctx_free(ctx);
}

/* A sanitizer has nothing kept, so as to see each block come and go. */
TEST(a_second_forward_has_the_memory_of_the_first) {
    enum { ROWS = 512, WIDTH = 640, RESULT = ROWS * WIDTH * 4 };
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = 5;
    nib_module *parts[] = {
        nib_linear_new(ctx, random_new(ctx, &seed, SHAPE2(WIDTH, WIDTH)), NIB_NONE),
        nib_gelu_new(ctx, false),
        nib_linear_new(ctx, random_new(ctx, &seed, SHAPE2(WIDTH, WIDTH)), NIB_NONE),
    };
    nib_module *m = nib_sequential_of(ctx, parts, sizeof parts / sizeof *parts);
    nib_tensor *x = random_new(ctx, &seed, SHAPE2(ROWS, WIDTH));
    CHECK_MADE(m);
    CHECK_MADE(x);
    static unsigned char first[RESULT], now[RESULT];
    for (int i = 0; i < 4; i++) {
        struct rusage before, after;
        const size_t mark = nib_scope_begin(ctx);
        nib_sys_fail_after(-1, 0);
        getrusage(RUSAGE_SELF, &before);
        const nib_tensor *y = nib_module_forward(m, x);
        getrusage(RUSAGE_SELF, &after);
        const long calls = nib_sys_fail_after(-1, 0), faults = after.ru_minflt - before.ru_minflt;
        CHECK_MADE(y);
        CHECK_OK(nib_tensor_read(y, i ? now : first, RESULT));
        if (i) CHECK_BYTES(now, first, RESULT);
        if (i == 2 && !TEST_SANITIZED) CHECK(calls == 0 && faults < RESULT / 4096 / 4);
        nib_scope_end(ctx, mark);
        CHECK(TEST_SANITIZED || nib_mem_kept(&ctx->mem) >= 3 * RESULT);
        if (i < 2) continue;
        nib_ctx_trim(ctx);
        CHECK_INT(nib_mem_kept(&ctx->mem), 0);
    }
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

TESTS(RUNS(a_second_forward_has_the_memory_of_the_first), RUNS(a_network_prints_as_a_tree),
      RUNS(a_row_of_a_batch_does_not_depend_on_the_others),
      RUNS(a_network_of_narrow_weights_runs_and_stays_near),
      RUNS(a_compiled_network_gives_the_bits_of_its_forward),
      RUNS(a_convolution_by_one_point_is_a_linear_of_every_position),
      RUNS(dropout_layers_draw_numbers_of_their_own_and_the_same_when_made_again),
      RUNS(every_failed_allocation_of_a_network_leaves_nothing_behind))
