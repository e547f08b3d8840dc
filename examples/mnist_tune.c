/* A network for the digits of MNIST, trained, quantized and tuned without Python: float training,
 * the loss of accuracy by quantizing, an epoch of tuning that makes up for it, and the frozen
 * network. mnist_tune [FOLDER_OF_IDX_FILES mlp|cnn [WEIGHTS ACTIVATIONS]] Without arguments: a few
 * drawn digits, learned by heart. */
#include <math.h>
#include <nibble/io.h>
#include <nibble/train.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 28, PIXELS = SIDE * SIDE, DIGITS = 10, BATCH = 50 };

typedef struct data {
    unsigned char *images, *labels;
    int count;
} data;

static uint64_t random_state = 1;
static float uniform(void) { /* [-1, 1): splitmix64 */
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (float)((double)((z ^ (z >> 31)) >> 40) / 8388608.0 - 1.0);
}

/* Uniform in [-by, by); 0: zeros. */
static nib_tensor *drawn(nib_ctx *ctx, nib_shape shape, double by) {
    size_t count = 1;
    for (int i = 0; i < shape.ndim; i++) count *= (size_t)shape.dim[i];
    float *w = malloc(count * sizeof *w);
    for (size_t i = 0; w && i < count; i++) w[i] = uniform() * (float)by;
    return nib_tensor_wrap(ctx, NIB_F32, shape, w, w ? free : NULL, w);
}
static nib_module *linear(nib_ctx *ctx, int64_t in, int64_t out) {
    return nib_linear_new(ctx, drawn(ctx, (nib_shape){2, {out, in}}, sqrt(3.0 / (double)in)),
                          drawn(ctx, (nib_shape){1, {out}}, 0));
}
static nib_module *conv(nib_ctx *ctx, int64_t in, int64_t out) {
    return nib_conv2d_new(
        ctx, drawn(ctx, (nib_shape){4, {out, in, 3, 3}}, sqrt(6.0 / (double)(9 * in))),
        drawn(ctx, (nib_shape){1, {out}}, 0), &(nib_conv_options){.padding = {1, 1}});
}
static nib_module *halve(nib_ctx *ctx) {
    return nib_max_pool2d_new(ctx, &(nib_pool_options){.kernel_size = {2, 2}});
}
static nib_module *network(nib_ctx *ctx, bool images) {
    if (!images)
        return nib_sequential_of(ctx,
                                 (nib_module *[]){nib_flatten_new(ctx, 1, -1),
                                                  linear(ctx, PIXELS, 256), nib_relu_new(ctx),
                                                  linear(ctx, 256, 256), nib_relu_new(ctx),
                                                  linear(ctx, 256, DIGITS)},
                                 6);
    return nib_sequential_of(ctx,
                             (nib_module *[]){conv(ctx, 1, 16), nib_relu_new(ctx), halve(ctx),
                                              conv(ctx, 16, 32), nib_relu_new(ctx), halve(ctx),
                                              nib_flatten_new(ctx, 1, -1), linear(ctx, 32 * 49, 64),
                                              nib_relu_new(ctx), linear(ctx, 64, DIGITS)},
                             10);
}

/* Pictures `which` [n] through the network; with `o` a step of training, with `right` counted. */
static nib_status batch(nib_module *net, const data *d, const int *which, int n, nib_gradients *g,
                        nib_optimizer *o, int *right) {
    static float x[BATCH * PIXELS], y[BATCH * DIGITS];
    unsigned char digit[BATCH];
    nib_ctx *ctx = nib_module_ctx(net);
    const size_t mark = nib_scope_begin(ctx); /* results of operations live until its end */
    for (int i = 0; i < n; i++) {
        const unsigned char *from = d->images + (size_t)which[i] * PIXELS;
        for (int k = 0; k < PIXELS; k++)
            x[i * PIXELS + k] = ((float)from[k] / 255 - 0.1307f) / 0.3081f;
        digit[i] = d->labels[which[i]];
    }
    nib_tensor *in =
        nib_tensor_wrap(ctx, NIB_F32, (nib_shape){4, {n, 1, SIDE, SIDE}}, x, NULL, NULL);
    nib_tensor *truth = nib_tensor_wrap(ctx, NIB_U8, (nib_shape){1, {n}}, digit, NULL, NULL);
    nib_tensor *out = nib_module_forward(net, in);
    nib_status status = out ? NIB_OK : nib_last_error()->status;
    if (o && out) {
        nib_gradients_zero(g);
        status = nib_backward(nib_cross_entropy(out, truth), NIB_NONE);
        if (status == NIB_OK) status = nib_optimizer_step(o);
    } else if (out) {
        status = nib_tensor_read(nib_dequantize(out), y, (size_t)(n * DIGITS) * sizeof *y);
    }
    for (int i = 0; i < n && !o && status == NIB_OK && right; i++) {
        int best = 0;
        for (int k = 1; k < DIGITS; k++)
            if (y[i * DIGITS + k] > y[i * DIGITS + best]) best = k;
        *right += best == digit[i];
    }
    nib_tensor_free(in);
    nib_tensor_free(truth);
    nib_scope_end(ctx, mark);
    return status;
}

/* All pictures once; in another order each time when it trains. */
static nib_status epoch(nib_module *net, const data *d, nib_gradients *g, nib_optimizer *o,
                        int *right) {
    int *order = malloc((size_t)(d->count + 1) * sizeof *order);
    nib_status status = order ? NIB_OK : NIB_E_MEMORY;
    for (int i = 0; order && i < d->count; i++) order[i] = i;
    for (int i = d->count - 1; order && o && i > 0; i--) {
        const int k = (int)((uniform() + 1) / 2 * (float)i), swap = order[i];
        order[i] = order[k];
        order[k] = swap;
    }
    for (int at = 0, n; at < d->count && status == NIB_OK; at += n) {
        n = d->count - at < BATCH ? d->count - at : BATCH;
        status = batch(net, d, order + at, n, g, o, right);
    }
    free(order);
    return status;
}

static nib_status evaluate(nib_module *net, const data *d, const char *what, int *right) {
    *right = 0;
    const nib_status status = epoch(net, d, NULL, NULL, right);
    if (status == NIB_OK)
        printf("%-12s %d of %d right, %.2f %%\n", what, *right, d->count,
               100.0 * *right / d->count);
    fflush(stdout);
    return status;
}

static nib_status train(nib_module *net, const data *d, int epochs, double rate) {
    nib_ctx *ctx = nib_module_ctx(net);
    nib_gradients *g = nib_gradients_new(ctx);
    nib_status status = nib_gradients_watch_module(g, net); /* a failure passes through */
    nib_optimizer *o = status == NIB_OK ? nib_optimizer_new(g, NIB_ADAMW(.rate = rate)) : NULL;
    status = o ? nib_tape_begin(ctx, g) : nib_last_error()->status;
    if (status == NIB_OK) {
        nib_module_train(net, true);
        for (int i = 0; i < epochs && status == NIB_OK; i++) {
            nib_optimizer_set_rate(o, rate * (epochs - i) / epochs);
            status = epoch(net, d, g, o, NULL);
        }
        nib_module_train(net, false);
        nib_tape_end(ctx);
    }
    nib_optimizer_free(o);
    nib_gradients_free(g);
    return status;
}

static nib_status work(nib_module *net, const data *learn, const data *test, int epochs,
                       const nib_config *config) {
    int untrained, plain, rounded, tuned, frozen;
    const data some = {learn->images, learn->labels, learn->count < 1000 ? learn->count : 1000};
    nib_status status =
        net ? evaluate(net, test, "untrained", &untrained) : nib_last_error()->status;
    if (status == NIB_OK) status = train(net, learn, epochs, 0.001);
    if (status == NIB_OK) status = evaluate(net, test, "float", &plain);
    if (status == NIB_OK) status = nib_quantize(net, config, NULL);
    if (status == NIB_OK) status = nib_calibrate_begin(net, NULL, NULL);
    if (status == NIB_OK) {
        status = epoch(net, &some, NULL, NULL, NULL);
        const nib_status ended = nib_calibrate_end(net, NULL);
        if (status == NIB_OK) status = ended;
    }
    if (status == NIB_OK) status = evaluate(net, test, "quantized", &rounded);
    if (status == NIB_OK) status = train(net, learn, 1, 0.0002);
    if (status == NIB_OK) status = evaluate(net, test, "tuned", &tuned);
    if (status == NIB_OK) status = nib_freeze(net);
    if (status == NIB_OK) status = evaluate(net, test, "frozen", &frozen);
    if (status == NIB_OK && frozen != tuned) return NIB_E_DIFFERS;
    return status;
}

static data load(nib_ctx *ctx, const char *folder, const char *images, const char *labels) {
    char path[1024];
    data d = {0};
    snprintf(path, sizeof path, "%s%s", folder, images);
    nib_tensor *x = nib_idx_load(ctx, path);
    snprintf(path, sizeof path, "%s%s", folder, labels);
    nib_tensor *t = x ? nib_idx_load(ctx, path) : NULL;
    const int count = t ? (int)nib_tensor_shape(t).dim[0] : 0;
    d.images = malloc((size_t)count * PIXELS + 1);
    d.labels = malloc((size_t)count + 1);
    if (d.images && d.labels && t && nib_tensor_read(t, d.labels, (size_t)count) == NIB_OK &&
        nib_tensor_read(x, d.images, (size_t)count * PIXELS) == NIB_OK)
        d.count = count;
    nib_tensor_free(x);
    nib_tensor_free(t);
    return d;
}

int main(int argc, char **argv) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    const bool all = argc > 2, cnn = all && strcmp(argv[2], "cnn") == 0;
    char folder[1000];
    snprintf(folder, sizeof folder, "%s/", all ? argv[1] : "tests/golden/pictures");
    const data learn =
                   load(ctx, folder, all ? "train-images-idx3-ubyte.gz" : "images-idx3-ubyte.gz",
                        all ? "train-labels-idx1-ubyte.gz" : "labels-idx1-ubyte.gz"),
               test = load(ctx, folder, all ? "t10k-images-idx3-ubyte.gz" : "images-idx3-ubyte.gz",
                           all ? "t10k-labels-idx1-ubyte.gz" : "labels-idx1-ubyte.gz");
    nib_module *net = network(ctx, cnn);
    const nib_status status = learn.count && test.count
                                  ? work(net, &learn, &test, all ? 3 : 10,
                                         NIB_QUANTO(.weights = argc > 4 ? argv[3]
                                                               : all    ? "qint4"
                                                                        : "qint2",
                                                    .activations = argc > 4 ? argv[4] : "qint8"))
                                  : NIB_E_FORMAT;
    const nib_error *e = nib_last_error();
    if (status != NIB_OK) fprintf(stderr, "%s %s: %s\n", e->path, e->tensor, e->what);
    free(learn.images);
    free(learn.labels);
    free(test.images);
    free(test.labels);
    nib_module_free(net);
    nib_ctx_free(ctx);
    return status != NIB_OK;
}
