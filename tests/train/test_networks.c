/* Gradients of whole networks against torch (tests/golden/train/make_networks.py): what an op gets
 * right alone (tests/law_gradients.c), modules hand on, and nothing on the way is cut off. */
#include "golden_file.h"
#include "op/calls.h"
#include "tensor/context.h"
#include "train_golden.h"

GOLDEN_FILE("tests/golden/train/networks.safetensors")

/* Sums of at most a few hundred terms, each rounded: in two orders. */
#define ROOM 4e-6

static void near(void **state_, const nib_tensor *got, nib_tensor *want, const char *what) {
    const double off = train_difference(got, want);
    if (!(off <= ROOM)) FAIL_AT("%s: off by %.3g of the largest, over %.3g", what, off, ROOM);
    nib_tensor_free(want);
}

/* The loss, and the gradient of each that is watched under the name it has in the file. */
static void check(void **state_, nib_gradients *g, const nib_tensor *loss, const char *network) {
    const char *name;
    nib_tensor *t;
    const nib_tensor *gradient;
    size_t count = 0;
    CHECK_MADE(loss);
    near(state_, loss, golden_tensor(ctx, file, "%s.loss", network), "loss");
    CHECK_OK(nib_backward(loss, NIB_NONE));
    for (; nib_gradients_at(g, count, &name, &t, &gradient) == NIB_OK; count++) {
        if (!gradient) FAIL_AT("%s has no gradient", name);
        nib_tensor *want = golden_tensor(ctx, file, "%s.d.%s", network, name);
        if (!want) FAIL_AT("%s is not in the file", name);
        near(state_, gradient, want, name);
    }
    CHECK(count > 0);
}

#define P(network, name) golden_tensor(ctx, file, network ".p." name)

TEST(a_convolutional_network_in_training_has_torchs_gradients) {
    nib_tensor *zeros = nib_tensor_new(ctx, NIB_F32, (nib_shape){1, {4}});
    memset(nib_tensor_data_mut(zeros), 0, nib_tensor_bytes(zeros));
    nib_module *m = nib_sequential_of(
        ctx,
        (nib_module *[]){
            nib_conv2d_new(ctx, P("cnn", "0.weight"), NIB_NONE,
                           &(nib_conv_options){.padding = {1, 1}, .padding_mode = "reflect"}),
            nib_batch_norm2d_new(ctx, P("cnn", "1.weight"), P("cnn", "1.bias"), zeros,
                                 nib_tensor_retain(zeros), NULL),
            nib_relu_new(ctx),
            nib_max_pool2d_new(ctx, &(nib_pool_options){.kernel_size = {2}}),
            nib_conv2d_new(ctx, P("cnn", "4.weight"), P("cnn", "4.bias"),
                           &(nib_conv_options){.stride = {2}, .groups = 2}),
            nib_group_norm_new(ctx, 2, P("cnn", "5.weight"), P("cnn", "5.bias"), 1e-5),
            nib_silu_new(ctx),
            nib_adaptive_avg_pool2d_new(ctx, 2, 1),
            nib_flatten_new(ctx, 1, -1),
            nib_linear_new(ctx, P("cnn", "9.weight"), P("cnn", "9.bias")),
        },
        10);
    CHECK_MADE(m);
    nib_module_train(m, true);
    nib_gradients *g = nib_gradients_new(ctx);
    CHECK_OK(nib_gradients_watch_module(g, m));
    CHECK_OK(nib_tape_begin(ctx, g));
    nib_tensor *x = golden_tensor(ctx, file, "cnn.x"),
               *target = golden_tensor(ctx, file, "cnn.target");
    const size_t mark = nib_scope_begin(ctx);
    (void)nib_module_forward(m, x); /* moves the running statistics, which is no harm to a tape */
    check(state_, g, nib_cross_entropy(nib_module_forward(m, x), target), "cnn");
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_gradients_free(g);
    nib_tensor_free(x);
    nib_tensor_free(target);
    nib_module_free(m);
}

static nib_module *attention(void **state_) {
    nib_module *m = nib_multihead_attention_new(
        ctx, P("block", "attention.in_proj_weight"), P("block", "attention.in_proj_bias"),
        nib_linear_new(ctx, P("block", "attention.out_proj.weight"),
                       P("block", "attention.out_proj.bias")),
        &(nib_attention_options){.num_heads = 3, .batch_first = true});
    CHECK_MADE(m);
    CHECK_OK(nib_module_set(m, "bias_k", P("block", "attention.bias_k")));
    CHECK_OK(nib_module_set(m, "bias_v", P("block", "attention.bias_v")));
    return m;
}

TEST(a_block_of_attention_has_torchs_gradients) {
    static const nib_module_kind holder = {.name = "Block"};
    nib_module *m = nib_module_new(ctx, &holder, NULL);
    CHECK_OK(nib_module_add(m, "attention", attention(state_)));
    CHECK_OK(nib_module_add(
        m, "norm",
        nib_layer_norm_new(ctx, P("block", "norm.weight"), P("block", "norm.bias"), 1, 1e-5)));
    CHECK_OK(nib_module_add(m, "up",
                            nib_linear_new(ctx, P("block", "up.weight"), P("block", "up.bias"))));
    CHECK_OK(nib_module_add(
        m, "down", nib_linear_new(ctx, P("block", "down.weight"), P("block", "down.bias"))));
    nib_gradients *g = nib_gradients_new(ctx);
    nib_tensor *x = golden_tensor(ctx, file, "block.x"), *mask = P("block", "mask"),
               *target = golden_tensor(ctx, file, "block.target");
    CHECK_OK(nib_gradients_watch_module(g, m));
    CHECK_OK(nib_gradients_watch(g, mask, "mask"));
    CHECK_OK(nib_tape_begin(ctx, g));
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *seen = nib_module_forward_many(nib_module_child(m, "attention"),
                                               (nib_tensor *[]){x, x, x, NIB_NONE, mask}, 5);
    nib_tensor *y = nib_module_forward(nib_module_child(m, "norm"), nib_add(x, seen));
    nib_tensor *wide = nib_gelu(nib_module_forward(nib_module_child(m, "up"), y), false);
    y = nib_add(y, nib_module_forward(nib_module_child(m, "down"), wide));
    check(state_, g, nib_mse(y, target), "block");
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_gradients_free(g);
    nib_tensor_free(x);
    nib_tensor_free(mask);
    nib_tensor_free(target);
    nib_module_free(m);
}

TEST(weights_of_attention_are_torchs_and_have_gradients) {
    nib_module *m = attention(state_);
    nib_tensor *x = golden_tensor(ctx, file, "block.x"), *mask = P("block", "mask");
    nib_tensor *in[] = {x, x, x, NIB_NONE, mask};
    nib_gradients *g = nib_gradients_new(ctx);
    CHECK_OK(nib_gradients_watch(g, x, "x"));
    CHECK_OK(nib_tape_begin(ctx, g));
    const size_t mark = nib_scope_begin(ctx);
    near(state_, nib_module_forward_many(m, in, 5), golden_tensor(ctx, file, "block.attention"),
         "y");
    near(state_, nib_multihead_attention_weights(m, in, 5, true),
         golden_tensor(ctx, file, "block.head_weights"), "of each head");
    nib_tensor *w = nib_multihead_attention_weights(m, in, 5, false);
    near(state_, w, golden_tensor(ctx, file, "block.weights"), "their mean");
    nib_tensor *target = nib_scope_own(ctx, nib_tensor_new(ctx, NIB_F32, w->shape));
    memset(nib_tensor_data_mut(target), 0, nib_tensor_bytes(target));
    CHECK_OK(nib_backward(nib_mse(w, target), NIB_NONE));
    CHECK(nib_gradient_of(g, x));
    nib_module *other = nib_relu_new(ctx);
    CHECK(!nib_multihead_attention_weights(other, in, 5, false));
    nib_module_free(other);
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_gradients_free(g);
    nib_tensor_free(x);
    nib_tensor_free(mask);
    nib_module_free(m);
}

/* ---- a block of llama, by the ops ---- */

enum { EMBED, NORM1, Q, K, V, O, NORM2, GATE, UP, DOWN, NORM, PARAMETERS };
static const char *const names[PARAMETERS] = {"embed", "norm1", "q",  "k",    "v",   "o",
                                              "norm2", "gate",  "up", "down", "norm"};
enum { LENGTH = 6, HEADS = 2, WIDTH = 8 };

static nib_tensor *heads(nib_tensor *x) {
    const nib_shape s = {3, {LENGTH, HEADS, WIDTH / HEADS}};
    return nib_permute(nib_reshape(x, &s), (const int[]){1, 0, 2});
}

TEST(a_block_of_llama_with_a_tied_head_has_torchs_gradients) {
    nib_gradients *g = nib_gradients_new(ctx);
    nib_tensor *p[PARAMETERS];
    for (int i = 0; i < PARAMETERS; i++) {
        p[i] = golden_tensor(ctx, file, "llama.p.%s", names[i]);
        CHECK_OK(nib_gradients_watch(g, p[i], names[i]));
    }
    nib_tensor *ids = golden_tensor(ctx, file, "llama.ids"),
               *target = golden_tensor(ctx, file, "llama.target"),
               *angles = golden_tensor(ctx, file, "llama.angles");
    CHECK_OK(nib_tape_begin(ctx, g));
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *h = nib_embedding(p[EMBED], ids), *n = nib_rms_norm(h, p[NORM1], 1e-5);
    nib_tensor *q = nib_rope(nib_linear(n, p[Q], NIB_NONE), angles, HEADS),
               *k = nib_rope(nib_linear(n, p[K], NIB_NONE), angles, HEADS);
    nib_tensor *a = nib_scaled_dot_product_attention(
        heads(q), heads(k), heads(nib_linear(n, p[V], NIB_NONE)), NIB_NONE, true, 0);
    const nib_shape flat = {2, {LENGTH, WIDTH}};
    a = nib_reshape(nib_permute(a, (const int[]){1, 0, 2}), &flat);
    h = nib_add(h, nib_linear(a, p[O], NIB_NONE));
    n = nib_rms_norm(h, p[NORM2], 1e-5);
    nib_tensor *gated =
        nib_silu_mul(nib_linear(n, p[GATE], NIB_NONE), nib_linear(n, p[UP], NIB_NONE));
    h = nib_add(h, nib_linear(gated, p[DOWN], NIB_NONE));
    check(state_, g,
          nib_cross_entropy(nib_linear(nib_rms_norm(h, p[NORM], 1e-5), p[EMBED], NIB_NONE), target),
          "llama");
    nib_scope_end(ctx, mark);
    CHECK_OK(nib_tape_end(ctx));
    nib_gradients_free(g);
    for (int i = 0; i < PARAMETERS; i++) nib_tensor_free(p[i]);
    nib_tensor_free(ids);
    nib_tensor_free(target);
    nib_tensor_free(angles);
}

GOLDEN_TESTS(RUNS(a_convolutional_network_in_training_has_torchs_gradients),
             RUNS(a_block_of_attention_has_torchs_gradients),
             RUNS(weights_of_attention_are_torchs_and_have_gradients),
             RUNS(a_block_of_llama_with_a_tied_head_has_torchs_gradients))
