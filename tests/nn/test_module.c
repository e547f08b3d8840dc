#include <nibble/nn.h>

#include "base/mem.h"
#include "nn/quantized.h"
#include "op/mode.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

static const nib_module_kind container = {.name = "Block"};

static nib_module *small_tree(nib_ctx *ctx) {
    nib_module *root = nib_module_new(ctx, &container, NULL),
               *block = nib_module_new(ctx, &container, NULL);
    nib_tensor *w = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {2, 3}});
    float *data = w ? nib_tensor_data_mut(w) : NULL;
    for (int i = 0; data && i < 6; i++) data[i] = (float)i;
    nib_module *linear = nib_linear_new(ctx, w, NIB_NONE);
    const bool grown = nib_module_add(block, "up_proj", linear) >= NIB_OK;
    if (!grown) nib_module_free(block);
    if (grown && nib_module_add(root, "mlp", block) >= NIB_OK) return root;
    nib_module_free(root);
    return NULL;
}

static nib_status note(void *user, const char *dotted, nib_module *module) {
    (void)module;
    strcat(strcat(user, dotted), "|");
    return NIB_OK;
}
static nib_status note_parameter(void *user, const char *dotted, nib_module *owner,
                                 const char *name, nib_tensor *parameter) {
    (void)owner;
    (void)name;
    (void)parameter;
    strcat(strcat(user, dotted), "|");
    return NIB_OK;
}

TEST(a_tree_is_walked_by_dotted_names_and_found_by_them) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = small_tree(ctx);
    CHECK_MADE(root);
    char names[200] = "";
    CHECK_OK(nib_module_walk(root, note, names));
    CHECK_TEXT(names, "|mlp|mlp.up_proj|");
    names[0] = '\0';
    CHECK_OK(nib_module_walk_parameters(root, note_parameter, names));
    CHECK_TEXT(names, "mlp.up_proj.weight|");
    CHECK(nib_module_child(root, "mlp.up_proj") != NULL &&
          nib_module_child(root, "mlp.down_proj") == NULL);
    char *text = nib_module_print(root);
    CHECK_TEXT(text, "Block\n  mlp: Block\n    up_proj: Linear  weight [2, 3] f32\n");
    nib_text_release(text);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

static nib_status twice(void *self, nib_module *module, nib_tensor **output) {
    (void)module;
    ++*(int *)self;
    float *data = nib_tensor_data_mut(*output);
    for (int64_t i = 0; i < nib_tensor_count(*output); i++) data[i] *= 2;
    return NIB_OK;
}

TEST(a_mode_stands_at_the_doors_of_modules) {
    static const nib_mode mode = {.name = "twice", .leave_module = twice};
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = small_tree(ctx), *linear = nib_module_child(root, "mlp.up_proj");
    static const float x[3] = {1, 1, 1};
    nib_tensor *in = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {1, 3}}, x, NULL, NULL);
    int calls = 0;
    CHECK_OK(nib_mode_push(ctx, &mode, &calls));
    nib_tensor *y = nib_module_forward(linear, in);
    CHECK_MADE(y);
    CHECK_NEAR(((const float *)nib_tensor_data(y))[0], 6, 0); /* (0 + 1 + 2) * 2 */
    CHECK_NEAR(((const float *)nib_tensor_data(y))[1], 24, 0);
    CHECK_INT(calls, 1);
    CHECK_OK(nib_mode_pop(ctx));
    CHECK(!nib_module_forward(root, in));
    CHECK(strstr(nib_last_error()->what, "Block has no forward"));
    nib_tensor_free(in);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

TEST(every_failed_allocation_leaves_nothing_behind) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const size_t before = nib_mem_used(nib_ctx_mem(ctx));
    bool done = false;
    for (long n = 0; !done; n++) {
        nib_mem_fail_after(n, false);
        nib_module *root = small_tree(ctx);
        nib_mem_fail_after(-1, false);
        done = root != NULL;
        nib_module_free(root);
        CHECK_INT(nib_mem_used(nib_ctx_mem(ctx)), before);
    }
    nib_ctx_free(ctx);
}

TEST(names_with_dots_are_refused) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = nib_module_new(ctx, &container, NULL);
    CHECK_FAILS(nib_module_add(root, "a.b", nib_module_new(ctx, &container, NULL)), NIB_E_ARGUMENT,
                "a.b");
    nib_module_free(root);
    nib_ctx_free(ctx);
}

/* What a linear makes of ones: sums of the rows of its weight, and the bias. */
static bool gives(nib_module *linear, float first, float second) {
    const float ones[3] = {1, 1, 1};
    float y[2] = {0};
    nib_ctx *ctx = nib_module_ctx(linear);
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *x = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {1, 3}}, ones, NULL, NULL);
    const bool ran = nib_tensor_read(nib_module_forward(linear, x), y, sizeof y) >= NIB_OK;
    nib_tensor_free(x);
    nib_scope_end(ctx, mark);
    return ran && y[0] == first && y[1] == second;
}

static nib_tensor *all(nib_ctx *ctx, nib_shape shape, float value) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; data && i < nib_tensor_count(t); i++) data[i] = value;
    return t;
}

TEST(a_forward_meets_the_parameters_that_were_set_last) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const nib_shape matrix = {2, {2, 3}}, row = {1, {2}};
    nib_module *linear = nib_linear_new(ctx, all(ctx, matrix, 1), NIB_NONE);
    CHECK(gives(linear, 3, 3));
    CHECK_OK(nib_module_set(linear, "bias", all(ctx, row, 10)));
    CHECK(gives(linear, 13, 13));
    CHECK_OK(nib_module_set(linear, "weight", all(ctx, matrix, 2)));
    CHECK_OK(nib_module_set(linear, "bias", all(ctx, row, 20)));
    CHECK(gives(linear, 26, 26));
    CHECK_OK(nib_module_set_buffer(linear, "bias", all(ctx, row, 30))); /* no parameter any more */
    CHECK(gives(linear, 6, 6));
    CHECK_OK(nib_module_set(linear, "bias", all(ctx, row, 30)));
    CHECK(gives(linear, 36, 36));
    nib_module_drop(linear, "bias");
    CHECK(gives(linear, 6, 6));
    nib_module_free(linear);
    nib_ctx_free(ctx);
}

TEST(a_child_is_replaced_in_its_place) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = small_tree(ctx);
    CHECK_OK(nib_module_add(nib_module_child(root, "mlp"), "act",
                            nib_module_new(ctx, &container, NULL)));
    CHECK_OK(nib_module_replace(root, "mlp.up_proj", nib_module_new(ctx, &container, NULL)));
    char names[200] = "";
    CHECK_OK(nib_module_walk(root, note, names));
    CHECK_TEXT(names, "|mlp|mlp.up_proj|mlp.act|");
    CHECK_TEXT(nib_module_kind_of(nib_module_child(root, "mlp.up_proj"))->name, "Block");
    CHECK_FAILS(nib_module_replace(root, "mlp.down", nib_module_new(ctx, &container, NULL)),
                NIB_E_ARGUMENT, "no module \"mlp.down\"");
    CHECK_FAILS(nib_module_replace(root, "", nib_module_new(ctx, &container, NULL)), NIB_E_ARGUMENT,
                "to replace");
    CHECK_FAILS(nib_module_add(root, "mlp", nib_module_new(ctx, &container, NULL)), NIB_E_ARGUMENT,
                "called mlp");
    nib_module_free(root);
    nib_ctx_free(ctx);
}

TEST(a_shared_module_stands_in_two_places_and_goes_with_the_last) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const size_t before = nib_mem_used(nib_ctx_mem(ctx));
    nib_module *root = small_tree(ctx), *mlp = nib_module_child(root, "mlp");
    CHECK_OK(nib_module_add(root, "again", nib_module_share(mlp)));
    char names[200] = "";
    CHECK_OK(nib_module_walk(root, note, names));
    CHECK_TEXT(names, "|mlp|mlp.up_proj|again|again.up_proj|");
    CHECK_OK(nib_module_replace(root, "mlp", nib_module_new(ctx, &container, NULL)));
    CHECK(nib_module_child(root, "again.up_proj") != NULL);
    nib_module_free(root);
    CHECK_INT(nib_mem_used(nib_ctx_mem(ctx)), before);
    nib_ctx_free(ctx);
}

TEST(a_tree_trains_or_does_not) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = small_tree(ctx), *linear = nib_module_child(root, "mlp.up_proj");
    CHECK(!nib_module_is_training(linear));
    nib_module_train(root, true);
    CHECK(nib_module_is_training(root) && nib_module_is_training(linear));
    nib_module_train(root, false);
    CHECK(!nib_module_is_training(linear));
    nib_module_free(root);
    nib_ctx_free(ctx);
}

/* A user's own module of two inputs: x W^T where the second says so, else x. */
static nib_tensor *either(nib_module *m, nib_tensor *const in[], int count) {
    return count > 1 && in[1] != NIB_NONE
               ? nib_linear(in[0], nib_module_parameter(m, "weight"), NIB_NONE)
               : in[0];
}

TEST(a_module_of_ones_own_may_take_several_inputs) {
    static const nib_module_kind kind = {.name = "Either", .forward_many = either};
    static const float ones[3] = {1, 1, 1};
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *m = nib_module_new(ctx, &kind, NULL), *linear = NULL;
    nib_tensor *x = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {1, 3}}, ones, NULL, NULL);
    CHECK_OK(nib_module_set(m, "weight", nib_tensor_retain(x)));
    CHECK(nib_module_forward(m, x) == x);
    CHECK(nib_module_forward_many(m, (nib_tensor *[]){x, NIB_NONE}, 2) == x);
    nib_tensor *y = nib_module_forward_many(m, (nib_tensor *[]){x, x}, 2);
    CHECK_MADE(y);
    CHECK_NEAR(((const float *)nib_tensor_data(y))[0], 3, 0);
    linear = nib_linear_new(ctx, nib_tensor_retain(x), NIB_NONE);
    CHECK(!nib_module_forward_many(linear, (nib_tensor *[]){x, x}, 2));
    CHECK(strstr(nib_last_error()->what, "1 inputs at most, not 2"));
    nib_module_free(linear);
    nib_module_free(m);
    nib_tensor_free(x);
    nib_ctx_free(ctx);
}

TESTS(RUNS(a_forward_meets_the_parameters_that_were_set_last),
      RUNS(a_child_is_replaced_in_its_place),
      RUNS(a_shared_module_stands_in_two_places_and_goes_with_the_last),
      RUNS(a_tree_trains_or_does_not), RUNS(a_module_of_ones_own_may_take_several_inputs),
      RUNS(a_tree_is_walked_by_dotted_names_and_found_by_them),
      RUNS(a_mode_stands_at_the_doors_of_modules),
      RUNS(every_failed_allocation_leaves_nothing_behind), RUNS(names_with_dots_are_refused))
