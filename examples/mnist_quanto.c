/* optimum-quanto's example of MNIST in C: a trained network is quantized, calibrated, evaluated,
 * frozen, saved, put together again from what was saved, and evaluated once more. mnist_quanto
 * [IMAGES LABELS CALIBRATION MODEL [WEIGHTS ACTIVATIONS]] IMAGES and LABELS are idx files
 * (t10k-images-idx3-ubyte.gz), CALIBRATION is another one of images, MODEL a folder that
 * examples/mnist_train.py wrote. Without arguments: a small network on drawn digits. */
#include <nibble/io.h>
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIDE = 28, PIXELS = SIDE * SIDE, DIGITS = 10, BATCH = 100, CALIBRATED = 1000 };
#define GOLDEN "tests/golden/pictures/"

/* Bytes of an idx file: `count` of `each`. */
typedef struct bytes {
    unsigned char *at;
    int count;
} bytes;

typedef struct data {
    bytes images, labels, calibration;
} data;

static bytes load(nib_ctx *ctx, const char *path, size_t each) {
    nib_tensor *t = nib_idx_load(ctx, path);
    bytes b = {.count = t ? (int)nib_tensor_shape(t).dim[0] : 0};
    const size_t size = (size_t)b.count * each;
    b.at = t ? malloc(size + 1) : NULL;
    if (b.at && nib_tensor_read(t, b.at, size) != NIB_OK) { /* pictures of another size */
        free(b.at);
        b.at = NULL;
    }
    nib_tensor_free(t);
    return b;
}

/* Pictures through the network; `y` [n, DIGITS] or NULL. */
static nib_status run(nib_module *net, const unsigned char *pixels, int n, float *y) {
    nib_ctx *ctx = nib_module_ctx(net);
    static float x[BATCH * PIXELS];
    const size_t mark = nib_scope_begin(ctx); /* results of operations live until its end */
    for (int i = 0; i < n * PIXELS; i++) x[i] = ((float)pixels[i] / 255 - 0.1307f) / 0.3081f;
    nib_tensor *in =
        nib_tensor_wrap(ctx, NIB_F32, (nib_shape){4, {n, 1, SIDE, SIDE}}, x, NULL, NULL);
    nib_tensor *out = nib_module_forward(net, in);
    nib_status status = out ? NIB_OK : nib_last_error()->status;
    if (out && y)
        status = nib_tensor_read(nib_dequantize(out), y, (size_t)(n * DIGITS) * sizeof *y);
    nib_tensor_free(in);
    nib_scope_end(ctx, mark);
    return status;
}

static nib_status evaluate(nib_module *net, const data *d, const char *what, int *right) {
    const int count = d->labels.count;
    float y[BATCH * DIGITS];
    nib_status status = NIB_OK;
    *right = 0;
    for (int at = 0, n; at < count && status == NIB_OK; at += n) {
        n = count - at < BATCH ? count - at : BATCH;
        status = run(net, d->images.at + (size_t)at * PIXELS, n, y);
        for (int i = 0; i < n && status == NIB_OK; i++) {
            const float *row = y + (size_t)i * DIGITS;
            int best = 0;
            for (int k = 1; k < DIGITS; k++)
                if (row[k] > row[best]) best = k;
            *right += best == d->labels.at[at + i];
        }
    }
    if (status == NIB_OK)
        printf("%-24s %d of %d right, %.2f %%\n", what, *right, count, 100.0 * *right / count);
    return status;
}

static nib_status calibrate(nib_module *net, const data *d) {
    const int count = d->calibration.count < CALIBRATED ? d->calibration.count : CALIBRATED;
    nib_status status = nib_calibrate_begin(net, NULL, NULL); /* forwards now move the scales */
    if (status != NIB_OK) return status;
    for (int at = 0, n; at < count && status == NIB_OK; at += n) {
        n = count - at < BATCH ? count - at : BATCH;
        status = run(net, d->calibration.at + (size_t)at * PIXELS, n, NULL);
    }
    const nib_status ended = nib_calibrate_end(net, NULL);
    return status == NIB_OK ? ended : status;
}

/* The saved state and its map onto a float network of the same layers. */
static nib_status again(nib_ctx *ctx, const char *folder, const char *file, const data *d,
                        int *right) {
    nib_model *model = nib_model_load(ctx, folder, NULL);
    nib_status status = nib_requantize_file(nib_model_root(model), file, NULL);
    if (status == NIB_OK)
        status = evaluate(nib_model_root(model), d, "saved and requantized", right);
    nib_model_free(model);
    return status;
}

static nib_status work(nib_ctx *ctx, const data *d, const char *folder, const nib_config *config,
                       bool activations, const char *room) {
    char file[1100], map[1100];
    int plain, unfrozen, frozen, loaded;
    snprintf(file, sizeof file, "%s/model.safetensors", room);
    snprintf(map, sizeof map, "%s/quanto_qmap.json", room);
    nib_model *model = nib_model_load(ctx, folder, NULL);
    nib_module *net = nib_model_root(model); /* a Sequential; NULL in, failure out */
    nib_status status = model ? evaluate(net, d, "float", &plain) : nib_last_error()->status;
    if (status == NIB_OK) status = nib_quantize(net, config, NULL);
    if (status == NIB_OK && activations) {
        status = evaluate(net, d, "quantized, no scales yet", &unfrozen);
        if (status == NIB_OK) status = calibrate(net, d);
    }
    if (status == NIB_OK) status = evaluate(net, d, "quantized", &unfrozen);
    if (status == NIB_OK) status = nib_freeze(net); /* until now each forward quantized weights */
    if (status == NIB_OK) status = evaluate(net, d, "frozen", &frozen);
    if (status == NIB_OK) status = nib_module_save(net, file);
    if (status == NIB_OK) status = again(ctx, folder, file, d, &loaded);
    nib_model_free(model);
    unlink(file);
    unlink(map);
    if (status != NIB_OK) return status;
    if (frozen == unfrozen && loaded == frozen) return NIB_OK;
    fprintf(stderr, "freezing or saving changed what the network tells\n");
    return NIB_E_DIFFERS;
}

int main(int argc, char **argv) {
    const char *weights = argc > 6 ? argv[5] : "qint8", *activations = argc > 6 ? argv[6] : "qint8";
    const char *given = getenv("TMPDIR");
    char room[1024];
    snprintf(room, sizeof room, "%s/nibble-mnist-XXXXXX", given ? given : "/tmp");
    if (!mkdtemp(room)) {
        perror(room);
        return 1;
    }
    nib_ctx *ctx = nib_ctx_new(NULL);
    const data d = {.images = load(ctx, argc > 4 ? argv[1] : GOLDEN "images-idx3-ubyte.gz", PIXELS),
                    .labels = load(ctx, argc > 4 ? argv[2] : GOLDEN "labels-idx1-ubyte.gz", 1),
                    .calibration =
                        load(ctx, argc > 4 ? argv[3] : GOLDEN "images-idx3-ubyte.gz", PIXELS)};
    const bool loaded =
        d.images.at && d.labels.at && d.calibration.at && d.images.count == d.labels.count;
    nib_status status = loaded ? NIB_OK : NIB_E_FORMAT;
    if (status == NIB_OK)
        status = work(ctx, &d, argc > 4 ? argv[4] : GOLDEN "mlp",
                      NIB_QUANTO(.weights = weights, .activations = activations, .unfrozen = true),
                      strcmp(activations, "none") != 0, room);
    const nib_error *e = nib_last_error();
    if (status != NIB_OK && status != NIB_E_DIFFERS)
        fprintf(stderr, "%s %s: %s\n", e->path, e->tensor, e->what);
    free(d.images.at);
    free(d.labels.at);
    free(d.calibration.at);
    nib_ctx_free(ctx);
    rmdir(room);
    return status != NIB_OK;
}
