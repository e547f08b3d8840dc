/* State in and out by dotted name, in memory and in files; dtypes; time. */
#include <nibble/extend.h>
#include <nibble/io.h>
#include <nibble/nn.h>

#include "base/mem.h"
#include "golden_layers.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test_files.h"

static nib_tensor *filled(nib_ctx *ctx, nib_shape shape, float first) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; data && i < nib_tensor_count(t); i++) data[i] = first + (float)i;
    return t;
}
#define SHAPE1(a)    ((nib_shape){1, {(a)}})
#define SHAPE2(a, b) ((nib_shape){2, {(a), (b)}})

/* 0: Linear [3, 2] with bias; 1: Linear [2, 3] without, and a buffer "seen" i64. */
static nib_module *two_linears(nib_ctx *ctx, float first) {
    nib_module *parts[2] = {
        nib_linear_new(ctx, filled(ctx, SHAPE2(3, 2), first), filled(ctx, SHAPE1(3), first + 100)),
        nib_linear_new(ctx, filled(ctx, SHAPE2(2, 3), first + 10), NIB_NONE)};
    nib_module *root = nib_sequential_of(ctx, parts, 2);
    if (!root) return NULL;
    nib_tensor *seen = nib_tensor_new(ctx, NIB_I64, (nib_shape){0});
    int64_t *data = nib_tensor_data_mut(seen);
    if (data) *data = 7;
    if (nib_module_set_buffer(nib_module_child(root, "1"), "seen", seen) >= NIB_OK) return root;
    nib_module_free(root);
    return NULL;
}

static float first_of(const nib_module *root, const char *child, const char *name) {
    const nib_tensor *t = nib_module_parameter(nib_module_child(root, child), name);
    return t ? ((const float *)nib_tensor_data(t))[0] : -1;
}

static nib_status note_state(void *user, const char *dotted, nib_module *owner, const char *name,
                             nib_tensor *t) {
    (void)owner, (void)name, (void)t;
    strcat(strcat(user, dotted), "|");
    return NIB_OK;
}

TEST(state_is_parameters_then_buffers_of_each_module) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = two_linears(ctx, 0);
    CHECK_MADE(root);
    char names[200] = "";
    CHECK_OK(nib_module_walk_state(root, note_state, names));
    CHECK_TEXT(names, "0.weight|0.bias|1.weight|1.seen|");
    names[0] = '\0';
    CHECK_OK(nib_module_walk_parameters(root, note_state, names));
    CHECK_TEXT(names, "0.weight|0.bias|1.weight|");
    CHECK(nib_module_buffer(nib_module_child(root, "1"), "seen") != NULL);
    CHECK(!nib_module_parameter(nib_module_child(root, "1"), "seen"));
    nib_module_free(root);
    nib_ctx_free(ctx);
}

TEST(what_is_missing_unexpected_or_of_another_shape_is_named_in_one_message) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = two_linears(ctx, 0);
    CHECK_MADE(root);
    nib_tensor *w = filled(ctx, SHAPE2(3, 2), 50), *odd = filled(ctx, SHAPE2(3, 3), 60);
    nib_state_report report = {.size = sizeof report};
    nib_named_tensor state[] = {{"0.weight", w}, {"1.weight", odd}, {"2.weight", w}};
    const nib_state_options strict = {.report = &report};
    CHECK_FAILS(nib_module_load_state(root, state, 3, &strict), NIB_E_SHAPE,
                "2 missing (0.bias, 1.seen); 1 unexpected (2.weight); 1 of another shape "
                "(1.weight is [3, 3], the module's [2, 3])");
    CHECK_INT(report.loaded, 0);
    CHECK_INT(report.missing, 2);
    CHECK_INT(report.unexpected, 1);
    CHECK_INT(report.mismatched, 1);
    CHECK_NEAR(first_of(root, "0", "weight"), 0, 0); /* nothing was taken */
    CHECK_FAILS(nib_module_load_state(root, state, 1, NULL), NIB_E_FORMAT,
                "3 missing (0.bias, 1.weight, 1.seen)");
    const nib_state_options lenient = {.lenient = true, .report = &report};
    CHECK_FAILS(nib_module_load_state(root, state, 3, &lenient), NIB_E_SHAPE, "1 of another shape");
    state[1].name = "nobody";
    CHECK_OK(nib_module_load_state(root, state, 3, &lenient));
    CHECK_INT(report.loaded, 1);
    CHECK_INT(report.unexpected, 2);
    CHECK_NEAR(first_of(root, "0", "weight"), 50, 0);
    CHECK_NEAR(first_of(root, "1", "weight"), 10, 0);
    nib_tensor_free(w);
    nib_tensor_free(odd);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

TEST(a_state_of_another_dtype_takes_the_modules_unless_it_is_assigned) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    static const uint16_t halves[6] = {0x3f80, 0x4000, 0, 0, 0, 0}; /* bf16 1, 2 */
    nib_module *linear = nib_linear_new(ctx, filled(ctx, SHAPE2(3, 2), 0), NIB_NONE);
    nib_tensor *w = nib_tensor_wrap(ctx, NIB_BF16, SHAPE2(3, 2), halves, NULL, NULL);
    const nib_named_tensor state = {"weight", w};
    CHECK_OK(nib_module_load_state(linear, &state, 1, NULL));
    CHECK_INT(nib_tensor_dtype(nib_module_parameter(linear, "weight")), NIB_F32);
    CHECK_NEAR(first_of(linear, "", "weight"), 1, 0);
    CHECK_OK(nib_module_load_state(linear, &state, 1, &(nib_state_options){.assign = true}));
    CHECK_INT(nib_tensor_dtype(nib_module_parameter(linear, "weight")), NIB_BF16);
    nib_module_free(linear);
    nib_tensor_free(w);
    nib_ctx_free(ctx);
}

TEST(a_saved_state_comes_back_from_its_file) {
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = two_linears(ctx, 3), *other = two_linears(ctx, 0);
    CHECK_OK(nib_module_save(root, IN(folder, "state.safetensors")));
    *(int64_t *)nib_tensor_data_mut(nib_module_buffer(nib_module_child(other, "1"), "seen")) = 0;
    nib_state_report report = {.size = sizeof report};
    CHECK_OK(nib_module_load(other, IN(folder, "state.safetensors"),
                             &(nib_state_options){.report = &report}));
    CHECK_INT(report.loaded, 4);
    CHECK_NEAR(first_of(other, "0", "weight"), 3, 0);
    CHECK_NEAR(first_of(other, "0", "bias"), 103, 0);
    CHECK_NEAR(first_of(other, "1", "weight"), 13, 0);
    const nib_tensor *seen = nib_module_buffer(nib_module_child(other, "1"), "seen");
    CHECK_INT(*(const int64_t *)nib_tensor_data(seen), 7);
    CHECK_FAILS(
        nib_module_load(nib_module_child(other, "0"), IN(folder, "state.safetensors"), NULL),
        NIB_E_FORMAT, "2 missing (weight, bias); 4 unexpected");
    CHECK(strstr(nib_last_error()->path, "state.safetensors"));
    CHECK(nib_module_load(other, IN(folder, "nothing.safetensors"), NULL) < NIB_OK);
    nib_module_free(root);
    nib_module_free(other);
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TEST(quantized_weights_come_in_and_are_not_written_as_floats) {
    NEEDS_SCHEME("qint8");
    TEST_FOLDER(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = two_linears(ctx, 1);
    nib_tensor *w = nib_quantize_tensor(nib_module_parameter(nib_module_child(root, "0"), "weight"),
                                        NIB_QUANTO(.weights = "qint8"));
    CHECK_MADE(w);
    const nib_named_tensor state = {"0.weight", w};
    CHECK_OK(nib_module_load_state(root, &state, 1, &(nib_state_options){.lenient = true}));
    CHECK(nib_module_parameter(nib_module_child(root, "0"), "weight") == w);
    CHECK_OK(nib_module_save(root, IN(folder, "x.safetensors"))); /* in parts, with the map */
    CHECK(access(IN(folder, "quanto_qmap.json"), R_OK) == 0);
    CHECK_OK(nib_module_to_dtype(root, NIB_F16));
    CHECK_INT(nib_tensor_dtype(nib_module_parameter(nib_module_child(root, "0"), "weight")),
              NIB_F16);
    nib_module_free(root);
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TEST(floats_of_a_tree_move_to_another_dtype_and_integers_stay) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = two_linears(ctx, 1);
    CHECK_OK(nib_module_to_dtype(root, NIB_F16));
    const nib_tensor *w = nib_module_parameter(nib_module_child(root, "0"), "weight");
    CHECK_INT(nib_tensor_dtype(w), NIB_F16);
    CHECK_INT(((const uint16_t *)nib_tensor_data(w))[1], 0x4000); /* 2 */
    CHECK_INT(nib_tensor_dtype(nib_module_buffer(nib_module_child(root, "1"), "seen")), NIB_I64);
    CHECK_OK(nib_module_to_dtype(root, NIB_BF16));
    CHECK_OK(nib_module_to_dtype(root, NIB_F32));
    CHECK_NEAR(first_of(root, "1", "weight"), 11, 0);
    CHECK_FAILS(nib_module_to_dtype(root, NIB_I8), NIB_E_DTYPE, "i8");
    CHECK_OK(nib_module_to_device(root, "cpu"));
    CHECK_FAILS(nib_module_to_device(root, "cuda:0"), NIB_E_DEVICE, "no device \"cuda:0\"");
    nib_module_free(root);
    nib_ctx_free(ctx);
}

static void note_time(void *user, const char *dotted, const char *kind, int64_t calls, double ms) {
    char line[64];
    snprintf(line, sizeof line, "%s:%s:%d:%d|", dotted, kind, (int)calls, ms >= 0);
    strcat(user, line);
}

TEST(each_module_is_timed_with_what_it_calls) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *root = two_linears(ctx, 1);
    nib_tensor *x = filled(ctx, SHAPE2(1, 2), 1), *bad = filled(ctx, SHAPE2(1, 5), 1);
    CHECK_OK(nib_time_begin(ctx));
    CHECK_MADE(nib_module_forward(root, x));
    CHECK(!nib_module_forward(root, bad)); /* fails in 0; root is entered and never left */
    CHECK_MADE(nib_module_forward(root, x));
    char lines[256] = "";
    CHECK_OK(nib_time_end(ctx, root, note_time, lines));
    CHECK_TEXT(lines, ":Sequential:2:1|0:Linear:2:1|1:Linear:2:1|");
    CHECK_FAILS(nib_time_end(ctx, root, note_time, lines), NIB_E_ARGUMENT, "not the innermost");
    nib_tensor_free(x);
    nib_tensor_free(bad);
    nib_module_free(root);
    nib_ctx_free(ctx);
}

/* The network of tests/golden/nn/make_state.py, its state still anything. */
static nib_module *torchs_network(nib_ctx *ctx) {
    nib_module *block[] = {
        nib_linear_new(ctx, filled(ctx, SHAPE2(8, 36), 0), filled(ctx, SHAPE1(8), 0)),
        nib_layer_norm_new(ctx, filled(ctx, SHAPE1(8), 0), filled(ctx, SHAPE1(8), 0), 1, 1e-5),
        nib_linear_new(ctx, filled(ctx, SHAPE2(3, 8), 0), filled(ctx, SHAPE1(3), 0))};
    const struct {
        const char *name;
        nib_module *module;
    } parts[] = {
        {"conv", nib_conv2d_new(ctx, filled(ctx, (nib_shape){4, {4, 2, 3, 3}}, 0), NIB_NONE,
                                &(nib_conv_options){.stride = {2}, .padding = {1, 1}})},
        {"bn", nib_batch_norm2d_new(ctx, filled(ctx, SHAPE1(4), 0), filled(ctx, SHAPE1(4), 0),
                                    filled(ctx, SHAPE1(4), 0), filled(ctx, SHAPE1(4), 0), NULL)},
        {"act", nib_silu_new(ctx)},
        {"flatten", nib_flatten_new(ctx, 1, -1)},
        {"block", nib_sequential_of(ctx, block, 3)},
    };
    nib_module *net = nib_sequential_new(ctx);
    for (int i = 0; i < 5; i++)
        if (nib_module_add(net, parts[i].name, parts[i].module) < NIB_OK) return NULL;
    return net;
}

TEST(a_state_dict_of_torch_goes_in_and_its_answers_come_out) {
    static const struct {
        const char *path;
        double tolerance; /* f16: its weights are rounded to 2^-11 */
    } files[] = {{"tests/golden/nn/state.safetensors", 1e-6},
                 {"tests/golden/nn/state.pt", 1e-6},
                 {"tests/golden/nn/state_f16.pt", 4e-3}};
    nib_safetensors *io = nib_safetensors_open(NULL, "tests/golden/nn/state_io.safetensors");
    CHECK_MADE(io);
    for (int i = 0; i < 3; i++) {
        nib_ctx *ctx = nib_ctx_new(NULL);
        nib_module *net = torchs_network(ctx);
        CHECK_MADE(net);
        const nib_safetensors_entry *x = nib_safetensors_find(io, "x"),
                                    *y = nib_safetensors_find(io, "y");
        nib_tensor *in = nib_tensor_wrap(ctx, NIB_F32, x->shape, nib_safetensors_data(io, x), NULL,
                                         NULL),
                   *want = nib_tensor_wrap(ctx, NIB_F32, y->shape, nib_safetensors_data(io, y),
                                           NULL, NULL);
        CHECK_OK(nib_module_load(net, files[i].path, NULL));
        CHECK_INT(*(const int64_t *)nib_tensor_data(
                      nib_module_buffer(nib_module_child(net, "bn"), "num_batches_tracked")),
                  1);
        nib_tensor *got = nib_module_forward(net, in);
        CHECK_MADE(got);
        if (!(golden_distance(got, want) <= files[i].tolerance))
            FAIL_AT("%s: off by %g", files[i].path, golden_distance(got, want));
        nib_tensor_free(in);
        nib_tensor_free(want);
        nib_module_free(net);
        nib_ctx_free(ctx);
    }
    nib_safetensors_close(io);
}

static nib_status whole_job(nib_ctx *ctx, const char *path) {
    nib_module *root = two_linears(ctx, 1), *other = two_linears(ctx, 2);
    nib_status status = root && other ? nib_module_save(root, path) : nib_last_error()->status;
    if (status >= NIB_OK) status = nib_module_load(other, path, NULL);
    if (status >= NIB_OK) status = nib_module_to_dtype(other, NIB_BF16);
    nib_module_free(root);
    nib_module_free(other);
    return status;
}

TEST(every_failed_allocation_of_saving_and_loading_leaves_nothing_behind) {
    TEST_FOLDER_IN_MEMORY(folder);
    nib_ctx *ctx = nib_ctx_new(NULL);
    const size_t before = nib_mem_used(nib_ctx_mem(ctx));
    nib_status status = NIB_E_MEMORY;
    for (long n = 0; status < NIB_OK; n++) {
        nib_mem_fail_after(n, false);
        status = whole_job(ctx, IN(folder, "state.safetensors"));
        nib_mem_fail_after(-1, false);
        if (status < NIB_OK) CHECK_INT(status, NIB_E_MEMORY);
        CHECK_INT(nib_mem_used(nib_ctx_mem(ctx)), before);
    }
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TESTS(RUNS(a_state_dict_of_torch_goes_in_and_its_answers_come_out),
      RUNS(state_is_parameters_then_buffers_of_each_module),
      RUNS(what_is_missing_unexpected_or_of_another_shape_is_named_in_one_message),
      RUNS(a_state_of_another_dtype_takes_the_modules_unless_it_is_assigned),
      RUNS(a_saved_state_comes_back_from_its_file),
      RUNS(quantized_weights_come_in_and_are_not_written_as_floats),
      RUNS(floats_of_a_tree_move_to_another_dtype_and_integers_stay),
      RUNS(each_module_is_timed_with_what_it_calls),
      RUNS(every_failed_allocation_of_saving_and_loading_leaves_nothing_behind))
