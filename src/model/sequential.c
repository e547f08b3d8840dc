/* sequential.c: networks that see pictures and are one layer after the other, described by a
 * config.json of our own, with layers, fields and tensor names of torch.nn.Sequential
 * (docs/models/sequential.md):
 *
 *   {"model_type": "sequential", "num_labels": 10, "num_channels": 1, "image_size": 28,
 *    "layers": [{"name": "fc", "type": "Linear", "in_features": 784, "out_features": 10}, ...]}
 */
#include <nibble/nn.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/path.h"
#include "model/decoder.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { MOST = 1 << 24 /* of a number of features */, MAX_SIDE = 1 << 12, MAX_LAYER_NAME = 96 };

static const nib_field fields[] = {
    NIB_COUNT("num_labels", vocab_size, .doc = "what a picture may show"),
};

static nib_status read(const json_t *config, const json_t *generation, nib_hparams *h) {
    (void)generation;
    json_t *layers;
    NIB_TRY(nib_hparams_begin(config, h));
    NIB_TRY(nib_hparams_fields(config, fields, sizeof fields / sizeof *fields, h));
    NIB_TRY(nib_picture_read(config, &h->picture));
    NIB_TRY(nib_json_array(config, "layers", true, &layers));
    if (!json_array_size(layers) || json_array_size(layers) > NIB_MAX_LAYERS)
        return NIB_RAISE(NIB_E_FORMAT, "\"layers\" has %zu entries, want 1 to %d",
                         json_array_size(layers), NIB_MAX_LAYERS);
    h->layers = layers;
    return NIB_OK;
}

/* ---- building ---- */

/* One layer on its way into the tree. */
typedef struct making {
    const nib_builder *b;
    nib_module *root;
    const json_t *row;
    const char *name;
} making;

static nib_status count(const making *m, const char *key, int64_t *value) {
    return nib_json_int(m->row, key, 1, MOST, true, value);
}

/* One number, which stands for both, or rows and columns; *v stays where there is none. */
static nib_status both(const making *m, const char *key, int64_t least, bool required,
                       int64_t v[2]) {
    const json_t *value = json_object_get(m->row, key);
    if (!value && !required) return NIB_OK;
    const bool pair = json_is_array(value) && json_array_size(value) == 2;
    for (size_t i = 0; i < 2; i++) {
        const json_t *n = pair ? json_array_get(value, i) : value;
        if (!json_is_integer(n) || json_integer_value(n) < least ||
            json_integer_value(n) > MAX_SIDE)
            return NIB_RAISE(NIB_E_FORMAT, "\"%s\" is no number from %lld to %d, nor two of these",
                             key, (long long)least, MAX_SIDE);
        v[i] = json_integer_value(n);
    }
    return NIB_OK;
}

static nib_status yes(const making *m, const char *key, bool fallback, bool *value) {
    return nib_hparams_switch(m->row, key, fallback, value);
}

static nib_tensor *vector(const making *m, const char *what, int64_t n, bool wanted) {
    return nib_build_vector(m->b, "", m->name, what, n, wanted);
}

static nib_status add(const making *m, nib_module *module) {
    return nib_module_add(m->root, m->name, module);
}

static nib_status linear(const making *m) {
    int64_t in, out;
    bool bias;
    NIB_TRY(count(m, "in_features", &in));
    NIB_TRY(count(m, "out_features", &out));
    NIB_TRY(yes(m, "bias", true, &bias));
    return nib_build_linear(m->b, m->root, "", m->name, out, in, bias);
}

static nib_status conv2d(const making *m) {
    char path[NIB_NAME_ROOM];
    nib_conv_options o = {0};
    int64_t in, out, groups = 1, size[2];
    bool biased;
    NIB_TRY(count(m, "in_channels", &in));
    NIB_TRY(count(m, "out_channels", &out));
    NIB_TRY(both(m, "kernel_size", 1, true, size));
    NIB_TRY(both(m, "stride", 1, false, o.stride));
    NIB_TRY(both(m, "dilation", 1, false, o.dilation));
    if (json_is_string(json_object_get(m->row, "padding")))
        o.pad = json_string_value(json_object_get(m->row, "padding"));
    else
        NIB_TRY(both(m, "padding", 0, false, o.padding));
    NIB_TRY(nib_json_string(m->row, "padding_mode", false, &o.padding_mode));
    NIB_TRY(nib_json_int(m->row, "groups", 1, MOST, false, &groups));
    NIB_TRY(yes(m, "bias", true, &biased));
    if (in % groups || out % groups)
        return NIB_RAISE(NIB_E_FORMAT, "%lld groups do not divide %lld and %lld channels",
                         (long long)groups, (long long)in, (long long)out);
    o.groups = groups;
    nib_tensor *bias = vector(m, "bias", out, biased);
    nib_tensor *weight =
        bias ? nib_build_tensor(m->b, nib_build_path(path, m->name, "weight"),
                                (nib_shape){4, {out, in / groups, size[0], size[1]}})
             : NULL;
    if (weight) return add(m, nib_conv2d_new(m->b->ctx, weight, bias, &o));
    nib_tensor_free(bias);
    return nib_last_error()->status;
}

static nib_status batch_norm2d(const making *m) {
    static const char *const names[] = {"weight", "bias", "running_mean", "running_var"};
    char path[NIB_NAME_ROOM];
    nib_tensor *t[4] = {0};
    nib_batch_norm_options o = {.eps = 1e-5};
    int64_t n;
    bool affine;
    NIB_TRY(count(m, "num_features", &n));
    NIB_TRY(yes(m, "affine", true, &affine));
    NIB_TRY(nib_json_double(m->row, "eps", false, &o.eps));
    for (int i = 0; i < 4; i++)
        if (!(t[i] = vector(m, names[i], n, affine || i > 1))) {
            while (i-- > 0) nib_tensor_free(t[i]);
            return nib_last_error()->status;
        }
    nib_module *norm = nib_batch_norm2d_new(m->b->ctx, t[0], t[1], t[2], t[3], &o);
    NIB_TRY(add(m, norm));
    nib_build_path(path, m->name, "num_batches_tracked");
    if (!nib_weights_has(m->b->weights, path)) return NIB_OK;
    return nib_module_set_buffer(norm, "num_batches_tracked",
                                 nib_weights_get_any(m->b->weights, path, &(nib_shape){0}));
}

static nib_status layer_norm(const making *m) {
    const json_t *shape = json_object_get(m->row, "normalized_shape");
    const json_t *only =
        json_is_array(shape) && json_array_size(shape) == 1 ? json_array_get(shape, 0) : shape;
    double eps = 1e-5;
    bool affine;
    NIB_TRY(nib_json_double(m->row, "eps", false, &eps));
    NIB_TRY(yes(m, "elementwise_affine", true, &affine));
    if (!json_is_integer(only) || json_integer_value(only) < 1 || json_integer_value(only) > MOST)
        return NIB_RAISE(NIB_E_FORMAT, "\"normalized_shape\" is not the length of one dimension");
    return nib_build_layer_norm(m->b, m->root, "", m->name, json_integer_value(only), affine, eps);
}

static nib_status pool(const making *m, nib_pool_options *o) {
    NIB_TRY(both(m, "kernel_size", 1, true, o->kernel_size));
    NIB_TRY(both(m, "stride", 1, false, o->stride));
    NIB_TRY(both(m, "padding", 0, false, o->padding));
    return yes(m, "ceil_mode", false, &o->ceil_mode);
}

static nib_status max_pool2d(const making *m) {
    nib_pool_options o = {0};
    NIB_TRY(pool(m, &o));
    NIB_TRY(both(m, "dilation", 1, false, o.dilation));
    return add(m, nib_max_pool2d_new(m->b->ctx, &o));
}

static nib_status avg_pool2d(const making *m) {
    nib_pool_options o = {0};
    bool counts;
    NIB_TRY(pool(m, &o));
    NIB_TRY(yes(m, "count_include_pad", true, &counts));
    o.padding_left_out = !counts;
    return add(m, nib_avg_pool2d_new(m->b->ctx, &o));
}

static nib_status adaptive_avg_pool2d(const making *m) {
    int64_t size[2];
    NIB_TRY(both(m, "output_size", 1, true, size));
    return add(m, nib_adaptive_avg_pool2d_new(m->b->ctx, size[0], size[1]));
}

static nib_status flatten(const making *m) {
    int64_t start = 1, end = -1;
    NIB_TRY(nib_json_int(m->row, "start_dim", -8, 8, false, &start));
    NIB_TRY(nib_json_int(m->row, "end_dim", -8, 8, false, &end));
    return add(m, nib_flatten_new(m->b->ctx, (int)start, (int)end));
}

static nib_status gelu(const making *m) {
    const char *how = "none";
    NIB_TRY(nib_json_string(m->row, "approximate", false, &how));
    return add(m, nib_gelu_new(m->b->ctx, strcmp(how, "tanh") == 0));
}

static nib_status dropout(const making *m) {
    double p = 0.5;
    NIB_TRY(nib_json_double(m->row, "p", false, &p));
    return add(m, nib_dropout_new(m->b->ctx, p));
}

static nib_status relu(const making *m) { return add(m, nib_relu_new(m->b->ctx)); }
static nib_status silu(const making *m) { return add(m, nib_silu_new(m->b->ctx)); }
static nib_status tanh_(const making *m) { return add(m, nib_tanh_new(m->b->ctx)); }
static nib_status sigmoid(const making *m) { return add(m, nib_sigmoid_new(m->b->ctx)); }
static nib_status hardswish(const making *m) { return add(m, nib_hardswish_new(m->b->ctx)); }
static nib_status identity(const making *m) { return add(m, nib_identity_new(m->b->ctx)); }

static const struct {
    const char *type;
    nib_status (*make)(const making *m);
} types[] = {{"Linear", linear},
             {"Conv2d", conv2d},
             {"BatchNorm2d", batch_norm2d},
             {"LayerNorm", layer_norm},
             {"MaxPool2d", max_pool2d},
             {"AvgPool2d", avg_pool2d},
             {"AdaptiveAvgPool2d", adaptive_avg_pool2d},
             {"Flatten", flatten},
             {"ReLU", relu},
             {"GELU", gelu},
             {"SiLU", silu},
             {"Tanh", tanh_},
             {"Sigmoid", sigmoid},
             {"Hardswish", hardswish},
             {"Dropout", dropout},
             {"Identity", identity}};
enum { TYPES = sizeof types / sizeof *types };

static nib_status add_layer(making *m) {
    const char *type, *names[TYPES + 1] = {0};
    if (!json_is_object(m->row)) return NIB_RAISE(NIB_E_FORMAT, "this layer is not an object");
    NIB_TRY(nib_json_string(m->row, "name", true, &m->name));
    NIB_TRY(nib_json_string(m->row, "type", true, &type));
    if (!*m->name || strchr(m->name, '.') || strlen(m->name) > MAX_LAYER_NAME)
        return NIB_RAISE(NIB_E_FORMAT, "\"name\" is no name of 1 to %d bytes without dots",
                         MAX_LAYER_NAME);
    if (nib_module_child(m->root, m->name))
        return NIB_RAISE(NIB_E_FORMAT, "there are two layers of this name");
    for (size_t i = 0; i < TYPES; i++) {
        if (strcmp(types[i].type, type) == 0) return types[i].make(m);
        names[i] = types[i].type;
    }
    const char *near = nib_text_nearest(type, names);
    return NIB_RAISE(NIB_E_UNSUPPORTED, "\"type\" \"%.40s\" is no layer that is known here%s%s%s",
                     type, near ? ", did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* Of a layer that cannot be built: config.json and its place there, unless a tensor is to blame. */
static nib_status blame(const nib_builder *b, const making *m, size_t index) {
    char place[128];
    snprintf(place, sizeof place, "layers[%zu]%s%.90s", index, m->name ? " " : "",
             m->name ? m->name : "");
    char *path = nib_checkpoint_path(nib_weights_checkpoint(b->weights), "config.json");
    if (!*nib_last_error()->path) nib_error_at(path, place, -1);
    nib_mem_strfree(nib_ctx_mem(b->ctx), path);
    return nib_last_error()->status;
}

/* Tensors that belong to no layer: weights and config.json are not of one network. */
static nib_status all_taken(const nib_builder *b, const nib_module *root) {
    for (size_t i = 0; i < nib_weights_count(b->weights); i++) {
        const char *name = nib_weights_name(b->weights, i), *dot = strchr(name, '.');
        char layer[MAX_LAYER_NAME + 1] = "";
        if (dot && dot - name <= MAX_LAYER_NAME) memcpy(layer, name, (size_t)(dot - name));
        if (*layer && nib_module_child(root, layer)) continue;
        NIB_RAISE(NIB_E_FORMAT, "there is a tensor %.200s, but config.json has no such layer",
                  name);
        return nib_weights_error_at(b->weights, name);
    }
    return NIB_OK;
}

static nib_module *build(nib_ctx *ctx, const nib_hparams *h, nib_weights *weights) {
    const nib_builder b = {ctx, h, weights};
    nib_module *root = nib_sequential_new(ctx);
    nib_status status = root ? NIB_OK : nib_last_error()->status;
    for (size_t i = 0; i < json_array_size(h->layers) && status >= NIB_OK; i++) {
        making m = {.b = &b, .root = root, .row = json_array_get(h->layers, i)};
        status = add_layer(&m);
        if (status < NIB_OK) blame(&b, &m, i);
    }
    if (status >= NIB_OK) status = all_taken(&b, root);
    if (status >= NIB_OK) return root;
    nib_module_free(root);
    return NULL;
}

/* ---- running ---- */

static nib_status forward(const nib_hparams *h, nib_module *root, const nib_batch *batch,
                          nib_tensor **logits) {
    (void)h, (void)root, (void)batch, (void)logits;
    return NIB_RAISE(NIB_E_UNSUPPORTED, "this network sees pictures and takes no tokens");
}

static nib_tensor *see(const nib_hparams *h, nib_module *root, nib_tensor *pictures) {
    if (!pictures) return NULL;
    const nib_shape want = {2, {pictures->shape.dim[0], h->vocab_size}};
    nib_tensor *y = nib_module_forward(root, pictures);
    if (y && nib_act8_is(y)) y = nib_dequantize(y);
    if (!y || (nib_shape_equal(&y->shape, &want) && y->dtype == NIB_F32)) return y;
    char got[96], wanted[96];
    return NIB_RAISE_NULL(NIB_E_SHAPE, "the last layer gives %s, but \"num_labels\" asks for %s",
                          nib_shape_text(&y->shape, got, sizeof got),
                          nib_shape_text(&want, wanted, sizeof wanted));
}

static const char *const model_types[] = {"sequential", NULL};

const nib_arch nib_arch_sequential = {
    .name = "sequential",
    .doc = "a network of layers in a row, for pictures",
    .model_types = model_types,
    .read = read,
    .build = build,
    .forward = forward,
    .see = see,
};
