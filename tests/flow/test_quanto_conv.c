/* A convolution through quanto's workflow, against optimum-quanto: make_workflow.py. */
#include <nibble/nn.h>

#include "golden_file.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "quanto_golden.h"
#include "tensor/context.h"
#include "test.h"

GOLDEN_FILE("tests/golden/quanto/conv.safetensors")

static nib_module *conv(void) {
    return nib_conv2d_new(ctx, golden_tensor(ctx, file, "float.weight"),
                          golden_tensor(ctx, file, "float.bias"),
                          &(nib_conv_options){.padding = {1, 1}});
}

typedef struct seen {
    const char *key;
    char wrong[96];
} seen;
static nib_status see(void *user, const char *dotted, nib_module *owner, const char *name,
                      nib_tensor *t) {
    seen *s = user;
    (void)owner;
    nib_tensor *want = golden_tensor(ctx, file, "%s.%s", s->key, dotted);
    bool same = want && want->dtype == t->dtype && nib_shape_equal(&want->shape, &t->shape);
    if (same && strstr(name, "put_scale")) {
        const float a = *(const float *)nib_tensor_data(want),
                    b = *(const float *)nib_tensor_data(t);
        same = fabsf(a - b) <= 1e-4f * a;
    } else if (same) {
        same = !memcmp(nib_tensor_data(want), nib_tensor_data(t), nib_tensor_bytes(t));
    }
    if (!same) snprintf(s->wrong, sizeof s->wrong, "%s.%s", s->key, dotted);
    nib_tensor_free(want);
    return NIB_OK;
}

TEST(a_convolution_is_quantized_calibrated_and_saved_as_upstreams) {
    NEEDS_SCHEME("qint8");
    static const char *const weights[] = {"qint8", "qint4", "qint2", "qfloat8_e4m3fn"};
    for (int i = 0; i < 8; i++) {
        char text[120], key[64];
        const char *act = i % 2 ? "qint8" : "none";
        snprintf(text, sizeof text, "quanto:weights=%s,activations=%s,streamline=off",
                 weights[i / 2], act);
        snprintf(key, sizeof key, "%s.%s", weights[i / 2], act);
        nib_config *config = nib_config_parse(text);
        nib_module *m = conv();
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *batch = golden_tensor(ctx, file, "batch"), *x = golden_tensor(ctx, file, "x"),
                   *want = golden_tensor(ctx, file, "%s.y", key);
        if (i % 2) {
            CHECK_OK(nib_calibrate_begin(m, config, NULL));
            CHECK_MADE(nib_module_forward(m, batch));
            CHECK_OK(nib_calibrate_end(m, NULL));
            CHECK_OK(nib_freeze(m));
        } else {
            CHECK_OK(nib_quantize(m, config, NULL));
        }
        seen s = {.key = key};
        CHECK_OK(nib_module_walk_saved(m, see, &s));
        CHECK_TEXT(s.wrong, "");
        nib_tensor *y = nib_module_forward(m, x);
        CHECK_MADE(y);
        CHECK_INT(nib_act8_is(y), i % 2);
        if (nib_act8_is(y)) y = nib_dequantize(y);
        const float *g = nib_tensor_data(y), *w = nib_tensor_data(want);
        /* A sum that rounds the other way may cross a tie: one step of 1 / 127 of the largest. */
        for (int64_t k = 0; k < nib_tensor_count(y); k++)
            CHECK_NEAR(g[k], w[k], i % 2 ? 0.04 : 1e-5);
        nib_tensor_free(batch);
        nib_tensor_free(x);
        nib_tensor_free(want);
        nib_scope_end(ctx, mark);
        nib_module_free(m);
        nib_config_free(config);
    }
}

typedef struct saved {
    nib_named_tensor tensors[8];
    char names[8][64];
    size_t count;
} saved;
static nib_status save(void *user, const char *dotted, nib_module *owner, const char *name,
                       nib_tensor *t) {
    saved *s = user;
    (void)owner;
    (void)name;
    snprintf(s->names[s->count], sizeof s->names[0], "%s", dotted);
    s->tensors[s->count] = (nib_named_tensor){s->names[s->count], nib_tensor_retain(t)};
    s->count++;
    return NIB_OK;
}

static nib_module *network(void) {
    nib_module *root = nib_sequential_new(ctx);
    nib_module_append(root, conv());
    return root;
}

TEST(a_convolution_asked_to_quantizes_its_input_and_the_map_remembers) {
    NEEDS_SCHEME("qint8");
    const size_t mark = nib_scope_begin(ctx);
    nib_module *root = network(), *again = network(), *m = nib_module_child(root, "0");
    nib_tensor *x = golden_tensor(ctx, file, "batch");
    CHECK_OK(nib_calibrate_begin(
        root, NIB_QUANTO(.activations = "qint8", .streamline = "off", .inputs = "all"), NULL));
    CHECK_MADE(nib_module_forward(root, x));
    CHECK_OK(nib_calibrate_end(root, NULL));
    CHECK_OK(nib_freeze(root));
    const nib_window window = {.stride = {1, 1}, .padding = {1, 1}, .dilation = {1, 1}};
    const nib_tensor *codes =
        nib_quantize_activation(x, nib_module_buffer(m, "input_scale"), NIB_I8);
    const nib_tensor *want = nib_conv_codes(
        codes, nib_module_parameter(m, "weight"), nib_module_parameter(m, "bias"), &window, 1,
        nib_module_buffer(m, "output_scale"), NIB_I8, NIB_NONE, 0, false);
    const nib_tensor *y = nib_module_forward(root, x);
    CHECK_MADE(want);
    CHECK_MADE(y);
    CHECK(nib_act8_is(y));
    const size_t size = (size_t)nib_tensor_count(want);
    CHECK_BYTES(nib_act8_data(y), nib_act8_data(want), size);

    saved s = {.count = 0};
    CHECK_OK(nib_module_walk_saved(root, save, &s));
    char *map = nib_quantization_map(root);
    CHECK_MADE(map);
    CHECK(strstr(map, "\"inputs\": true"));
    CHECK_OK(nib_requantize(again, s.tensors, s.count, map, NULL));
    const nib_tensor *z = nib_module_forward(again, x);
    CHECK_MADE(z);
    CHECK_BYTES(nib_act8_data(z), nib_act8_data(want), size);
    CHECK_OK(nib_prepare(again));
    z = nib_module_forward(again, x);
    CHECK_MADE(z);
    CHECK_BYTES(nib_act8_data(z), nib_act8_data(want), size);
    for (size_t i = 0; i < s.count; i++) nib_tensor_free(s.tensors[i].tensor);
    nib_text_release(map);
    nib_tensor_free(x);
    nib_scope_end(ctx, mark);
    nib_module_free(root);
    nib_module_free(again);
}

/* Convolutions that a ReLU follows, of codes and of what has none. */
TEST(a_relu_behind_a_convolution_gives_what_it_gives_by_itself) {
    NEEDS_SCHEME("qint8");
    static const char *const types[] = {"qint8", "qfloat8_e4m3fn"};
    for (int i = 0; i < 2; i++) {
        const size_t mark = nib_scope_begin(ctx);
        nib_module *root = network(), *m = nib_module_child(root, "0");
        CHECK_OK(nib_module_append(root, nib_relu_new(ctx)));
        nib_tensor *x = golden_tensor(ctx, file, "batch");
        const nib_config *config =
            NIB_QUANTO(.activations = types[i], .streamline = "off", .inputs = "all");
        CHECK_OK(nib_calibrate_begin(root, config, NULL));
        CHECK_MADE(nib_module_forward(root, x));
        CHECK_OK(nib_calibrate_end(root, NULL));
        CHECK_OK(nib_freeze(root));
        nib_tensor *between = nib_module_forward(m, x), *want = nib_relu(between);
        const nib_tensor *y = nib_module_forward(root, x);
        CHECK_MADE(y);
        CHECK_MADE(want);
        CHECK(nib_act8_is(between));
        CHECK_INT(nib_act8_is(y), nib_act8_is(want));
        if (nib_act8_is(y)) {
            CHECK(nib_act8_scale(y) == nib_act8_scale(want));
            CHECK_BYTES(nib_act8_data(y), nib_act8_data(want), (size_t)nib_tensor_count(y));
        } else {
            CHECK_BYTES(nib_tensor_data(y), nib_tensor_data(want), nib_tensor_bytes(want));
        }
        nib_tensor_free(x);
        nib_scope_end(ctx, mark);
        nib_module_free(root);
    }
}

GOLDEN_TESTS(RUNS(a_convolution_is_quantized_calibrated_and_saved_as_upstreams),
             RUNS(a_convolution_asked_to_quantizes_its_input_and_the_map_remembers),
             RUNS(a_relu_behind_a_convolution_gives_what_it_gives_by_itself))
