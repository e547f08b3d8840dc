/* quanto_tree: two networks for tests/interop/quanto_workflow.py, the second where data is
 * pictures:
 *
 *   fc1 - LayerNorm - relu - fc2
 *   conv1 - relu - conv2 - flatten - LayerNorm - fc2
 *
 *   quanto_tree make FLOAT.safetensors DATA.safetensors SCHEME FOLDER
 *       the float network quantized, calibrated with batch0, batch1 ... of DATA, frozen, saved
 *   quanto_tree run FOLDER DATA.safetensors DTYPE OUT.bin
 *       a saved network put on an empty one of that dtype; f32 results for x of DATA */
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"
#include "op/calls.h"
#include "quant/act8.h"
#include "tensor/tensor.h"

enum { IN = 256, MIDDLE = 48, OUT = 16 };
enum { CHANNELS = 3, WIDE = 32, NARROW = 16, FLAT = NARROW * 6 * 6 }; /* of pictures 12 x 12 */

static int failed(const char *what) {
    const nib_error *e = nib_last_error();
    fprintf(stderr, "quanto_tree: %s: %s [%s %s]\n", what, e->what, e->path, e->tensor);
    return 1;
}

static nib_tensor *forward(nib_module *m, nib_tensor *x) {
    x = nib_module_forward(nib_module_child(m, "fc1"), x);
    x = nib_module_forward(nib_module_child(m, "norm"), x);
    return nib_module_forward(nib_module_child(m, "fc2"), x ? nib_relu(x) : NULL);
}
static const nib_module_kind kind = {.name = "Net", .forward = forward};

static nib_tensor *see(nib_module *m, nib_tensor *x) {
    x = nib_module_forward(nib_module_child(m, "conv1"), x);
    x = nib_module_forward(nib_module_child(m, "conv2"), x ? nib_relu(x) : NULL);
    x = nib_module_forward(nib_module_child(m, "norm"), x ? nib_flatten(x, 1, -1) : NULL);
    return nib_module_forward(nib_module_child(m, "fc2"), x);
}
static const nib_module_kind kind_of_pictures = {.name = "ConvNet", .forward = see};

static nib_tensor *zeros(nib_ctx *ctx, nib_dtype dtype, int64_t rows, int64_t cols) {
    nib_tensor *t = nib_tensor_new(ctx, dtype, (nib_shape){cols ? 2 : 1, {rows, cols}});
    if (t) memset(nib_tensor_data_mut(t), 0, nib_tensor_bytes(t));
    return t;
}

static nib_tensor *filters(nib_ctx *ctx, nib_dtype dtype, int64_t out, int64_t in) {
    nib_tensor *t = nib_tensor_new(ctx, dtype, (nib_shape){4, {out, in, 3, 3}});
    if (t) memset(nib_tensor_data_mut(t), 0, nib_tensor_bytes(t));
    return t;
}

static nib_module *empty_of_pictures(nib_ctx *ctx, nib_dtype dtype) {
    nib_module *m = nib_module_new(ctx, &kind_of_pictures, NULL);
    nib_module_add(m, "conv1",
                   nib_conv2d_new(ctx, filters(ctx, dtype, WIDE, CHANNELS),
                                  zeros(ctx, dtype, WIDE, 0),
                                  &(nib_conv_options){.padding = {1, 1}}));
    nib_module_add(m, "conv2",
                   nib_conv2d_new(ctx, filters(ctx, dtype, NARROW, WIDE),
                                  zeros(ctx, dtype, NARROW, 0),
                                  &(nib_conv_options){.padding = {1, 1}, .stride = {2, 2}}));
    nib_module_add(
        m, "norm",
        nib_layer_norm_new(ctx, zeros(ctx, dtype, FLAT, 0), zeros(ctx, dtype, FLAT, 0), 1, 1e-5));
    nib_module_add(m, "fc2",
                   nib_linear_new(ctx, zeros(ctx, dtype, OUT, FLAT), zeros(ctx, dtype, OUT, 0)));
    return m;
}

static nib_module *empty(nib_ctx *ctx, nib_dtype dtype, const nib_safetensors *data) {
    if (nib_safetensors_find(data, "x")->shape.ndim == 4) return empty_of_pictures(ctx, dtype);
    nib_module *m = nib_module_new(ctx, &kind, NULL);
    nib_module_add(
        m, "fc1", nib_linear_new(ctx, zeros(ctx, dtype, MIDDLE, IN), zeros(ctx, dtype, MIDDLE, 0)));
    nib_module_add(m, "norm",
                   nib_layer_norm_new(ctx, zeros(ctx, dtype, MIDDLE, 0),
                                      zeros(ctx, dtype, MIDDLE, 0), 1, 1e-5));
    nib_module_add(m, "fc2",
                   nib_linear_new(ctx, zeros(ctx, dtype, OUT, MIDDLE), zeros(ctx, dtype, OUT, 0)));
    return m;
}

static nib_tensor *tensor(nib_ctx *ctx, nib_safetensors *file, const char *name) {
    const nib_safetensors_entry *e = nib_safetensors_find(file, name);
    nib_tensor *t = e ? nib_tensor_new(ctx, e->dtype, e->shape) : NULL;
    if (t) memcpy(nib_tensor_data_mut(t), nib_safetensors_data(file, e), e->size);
    return t;
}

static int make(nib_ctx *ctx, char **argv) {
    nib_safetensors *data = nib_safetensors_open(NULL, argv[1]);
    nib_safetensors *weights = nib_safetensors_open(NULL, argv[0]);
    if (!data || !weights) return failed("open");
    nib_module *m = empty(ctx, nib_safetensors_find(weights, "fc2.weight")->dtype, data);
    nib_config *config = nib_config_parse(argv[2]);
    if (!config || nib_module_load(m, argv[0], NULL) < NIB_OK) return failed("load");
    if (strstr(argv[2], "activations=none")) {
        if (nib_quantize(m, config, NULL) < NIB_OK) return failed("quantize");
    } else {
        if (nib_calibrate_begin(m, config, NULL) < NIB_OK) return failed("begin");
        for (int i = 0;; i++) {
            char name[16];
            snprintf(name, sizeof name, "batch%d", i);
            nib_tensor *x = tensor(ctx, data, name);
            if (!x) break;
            const size_t mark = nib_scope_begin(ctx);
            if (!nib_module_forward(m, x)) return failed("forward");
            nib_scope_end(ctx, mark);
            nib_tensor_free(x);
        }
        if (nib_calibrate_end(m, NULL) < NIB_OK || nib_freeze(m) < NIB_OK) return failed("freeze");
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/model.safetensors", argv[3]);
    if (nib_module_save(m, path) < NIB_OK) return failed("save");
    nib_config_free(config);
    nib_module_free(m);
    nib_safetensors_close(weights);
    nib_safetensors_close(data);
    return 0;
}

static int run(nib_ctx *ctx, char **argv) {
    static const struct {
        const char *name;
        nib_dtype dtype;
    } dtypes[] = {{"f32", NIB_F32}, {"f16", NIB_F16}, {"bf16", NIB_BF16}};
    nib_dtype dtype = NIB_F32;
    for (int i = 0; i < 3; i++)
        if (strcmp(argv[2], dtypes[i].name) == 0) dtype = dtypes[i].dtype;
    nib_safetensors *data = nib_safetensors_open(NULL, argv[1]);
    nib_module *m = data ? empty(ctx, dtype, data) : NULL;
    if (!data || nib_requantize_file(m, argv[0], NULL) < NIB_OK) return failed("requantize");
    nib_tensor *x = tensor(ctx, data, "x");
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *y = nib_module_forward(m, x);
    if (y && nib_act8_is(y)) y = nib_dequantize(y);
    FILE *out = y ? fopen(argv[3], "wb") : NULL;
    if (!out) return failed("forward");
    const size_t size = nib_tensor_bytes(y);
    const int code = fwrite(nib_tensor_data(y), 1, size, out) == size && fclose(out) == 0 ? 0 : 1;
    nib_scope_end(ctx, mark);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_safetensors_close(data);
    return code;
}

int main(int argc, char **argv) {
    nib_ctx *ctx = argc == 6 ? nib_ctx_new(NULL) : NULL;
    if (!ctx) {
        fprintf(stderr, "usage: quanto_tree make FLOAT DATA SCHEME FOLDER\n"
                        "       quanto_tree run FOLDER DATA DTYPE OUT\n");
        return 2;
    }
    const int code = strcmp(argv[1], "make") == 0 ? make(ctx, argv + 2) : run(ctx, argv + 2);
    nib_ctx_free(ctx);
    return code;
}
