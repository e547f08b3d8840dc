/* Digits of MNIST by two networks made by hand, with weights that were trained in torch
 * (examples/mnist_train.py writes them).
 *     mnist [FOLDER_OF_IDX_FILES WEIGHTS mlp|cnn]
 * Without arguments it shows the networks, and what they make of a drawn digit untrained. */
#include <nibble/io.h>
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 28, PIXELS = SIDE * SIDE, DIGITS = 10, BATCH = 250 };

/* A parameter to be loaded: zeros until then. */
static nib_tensor *zeros(nib_ctx *ctx, nib_shape shape) {
    size_t count = 1;
    for (int i = 0; i < shape.ndim; i++) count *= (size_t)shape.dim[i];
    float *data = calloc(count, sizeof *data);
    return nib_tensor_wrap(ctx, NIB_F32, shape, data, data ? free : NULL, data);
}
#define VECTOR(n) zeros(ctx, (nib_shape){1, {(n)}})

static nib_module *linear(nib_ctx *ctx, int64_t in, int64_t out) {
    return nib_linear_new(ctx, zeros(ctx, (nib_shape){2, {out, in}}), VECTOR(out));
}
static nib_module *conv(nib_ctx *ctx, int64_t in, int64_t out) {
    return nib_conv2d_new(ctx, zeros(ctx, (nib_shape){4, {out, in, 3, 3}}), VECTOR(out),
                          &(nib_conv_options){.padding = {1, 1}});
}
static nib_module *norm(nib_ctx *ctx, int64_t channels) {
    return nib_batch_norm2d_new(ctx, VECTOR(channels), VECTOR(channels), VECTOR(channels),
                                VECTOR(channels), NULL);
}
static nib_module *halve(nib_ctx *ctx) {
    return nib_max_pool2d_new(ctx, &(nib_pool_options){.kernel_size = {2, 2}});
}

/* Names are those of the state dict; a call that gets the NULL of a failure passes it on. */
static nib_module *mlp(nib_ctx *ctx) {
    nib_module *m = nib_sequential_new(ctx);
    const bool made = nib_module_add(m, "flatten", nib_flatten_new(ctx, 1, -1)) == NIB_OK &&
                      nib_module_add(m, "input_layer", linear(ctx, PIXELS, 256)) == NIB_OK &&
                      nib_module_add(m, "act1", nib_relu_new(ctx)) == NIB_OK &&
                      nib_module_add(m, "mid_layer", linear(ctx, 256, 256)) == NIB_OK &&
                      nib_module_add(m, "act2", nib_relu_new(ctx)) == NIB_OK &&
                      nib_module_add(m, "output_layer", linear(ctx, 256, DIGITS)) == NIB_OK;
    if (made) return m;
    nib_module_free(m);
    return NULL;
}

static nib_module *cnn(nib_ctx *ctx) {
    nib_module *m = nib_sequential_new(ctx);
    const bool made = nib_module_add(m, "conv1", conv(ctx, 1, 16)) == NIB_OK &&
                      nib_module_add(m, "bn1", norm(ctx, 16)) == NIB_OK &&
                      nib_module_add(m, "act1", nib_relu_new(ctx)) == NIB_OK &&
                      nib_module_add(m, "pool1", halve(ctx)) == NIB_OK &&
                      nib_module_add(m, "conv2", conv(ctx, 16, 32)) == NIB_OK &&
                      nib_module_add(m, "bn2", norm(ctx, 32)) == NIB_OK &&
                      nib_module_add(m, "act2", nib_relu_new(ctx)) == NIB_OK &&
                      nib_module_add(m, "pool2", halve(ctx)) == NIB_OK &&
                      nib_module_add(m, "flatten", nib_flatten_new(ctx, 1, -1)) == NIB_OK &&
                      nib_module_add(m, "drop", nib_dropout_new(ctx, 0.25)) == NIB_OK &&
                      nib_module_add(m, "fc1", linear(ctx, 32 * 7 * 7, 64)) == NIB_OK &&
                      nib_module_add(m, "act3", nib_relu_new(ctx)) == NIB_OK &&
                      nib_module_add(m, "fc2", linear(ctx, 64, DIGITS)) == NIB_OK;
    if (made) return m;
    nib_module_free(m);
    return NULL;
}

/* The digit that each of n images shows most, pixels as torchvision's users normalize them. */
static nib_status classify(nib_ctx *ctx, nib_module *net, const unsigned char *pixels, int n,
                           int digit[BATCH]) {
    static float x[BATCH * PIXELS];
    float y[BATCH * DIGITS];
    for (int i = 0; i < n * PIXELS; i++) x[i] = ((float)pixels[i] / 255 - 0.1307f) / 0.3081f;
    const size_t mark = nib_scope_begin(ctx); /* results of operations live until its end */
    nib_tensor *in =
        nib_tensor_wrap(ctx, NIB_F32, (nib_shape){4, {n, 1, SIDE, SIDE}}, x, NULL, NULL);
    const nib_status status =
        nib_tensor_read(nib_module_forward(net, in), y, (size_t)(n * DIGITS) * sizeof *y);
    nib_tensor_free(in);
    nib_scope_end(ctx, mark);
    for (int i = 0; i < n && status == NIB_OK; i++) {
        digit[i] = 0;
        for (int d = 1; d < DIGITS; d++)
            if (y[i * DIGITS + d] > y[i * DIGITS + digit[i]]) digit[i] = d;
    }
    return status;
}

static nib_tensor *load(nib_ctx *ctx, const char *folder, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    if (!f) snprintf(path, sizeof path, "%s/%s.gz", folder, name);
    return nib_idx_load(ctx, path);
}

static nib_status evaluate(nib_ctx *ctx, nib_module *net, const char *folder) {
    nib_tensor *images = load(ctx, folder, "t10k-images-idx3-ubyte"),
               *labels = load(ctx, folder, "t10k-labels-idx1-ubyte");
    const nib_shape s = nib_tensor_shape(images);
    const int count = images ? (int)s.dim[0] : 0;
    unsigned char *pixels = malloc((size_t)count * PIXELS + 1), *truth = malloc((size_t)count + 1);
    int right = 0;
    nib_status status = NIB_E_MEMORY;
    if (pixels && truth) status = nib_tensor_read(images, pixels, (size_t)count * PIXELS);
    if (status == NIB_OK) status = nib_tensor_read(labels, truth, (size_t)count);
    for (int i = 0; i < count && status == NIB_OK; i += BATCH) {
        int digit[BATCH];
        const int n = count - i < BATCH ? count - i : BATCH;
        status = classify(ctx, net, pixels + (size_t)i * PIXELS, n, digit);
        for (int k = 0; k < n && status == NIB_OK; k++) right += digit[k] == truth[i + k];
    }
    if (status == NIB_OK) printf("%d of %d right: %.2f %%\n", right, count, 100.0 * right / count);
    free(pixels);
    free(truth);
    nib_tensor_free(images);
    nib_tensor_free(labels);
    return status;
}

static void show_time(void *user, const char *name, const char *kind, int64_t calls, double ms) {
    (void)user;
    printf("%8.1f ms  %4d calls  %s %s\n", ms, (int)calls, kind, name);
}

static nib_status run(nib_ctx *ctx, nib_module *net, char **argv) {
    nib_status status =
        nib_module_load(net, argv[2], NULL); /* every name must be there, and no other */
    if (status == NIB_OK) status = nib_time_begin(ctx);
    if (status != NIB_OK) return status;
    status = evaluate(ctx, net, argv[1]);
    const nib_status ended = nib_time_end(ctx, net, status == NIB_OK ? show_time : NULL, NULL);
    return status == NIB_OK ? ended : status;
}

/* The tree of a network, and an answer, which untrained is always the first digit. */
static nib_status show(nib_ctx *ctx, nib_module *net) {
    unsigned char one[PIXELS] = {0};
    int digit[BATCH];
    for (int y = 4; y < 24; y++) one[y * SIDE + 14] = 255;
    char *tree = nib_module_print(net);
    if (tree) printf("%s", tree);
    nib_text_release(tree);
    const nib_status status = classify(ctx, net, one, 1, digit);
    if (status == NIB_OK) printf("  untrained, it sees a %d\n", digit[0]);
    return status;
}

int main(int argc, char **argv) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *nets[2] = {mlp(ctx), cnn(ctx)};
    nib_status status = nets[0] && nets[1] ? NIB_OK : nib_last_error()->status;
    if (status == NIB_OK && argc == 4) {
        status = run(ctx, nets[strcmp(argv[3], "cnn") == 0], argv);
    } else {
        for (int i = 0; i < 2 && status == NIB_OK; i++) status = show(ctx, nets[i]);
    }
    const nib_error *e = nib_last_error();
    if (status != NIB_OK) fprintf(stderr, "%s %s: %s\n", e->path, e->tensor, e->what);
    nib_module_free(nets[0]);
    nib_module_free(nets[1]);
    nib_ctx_free(ctx);
    return status != NIB_OK;
}
