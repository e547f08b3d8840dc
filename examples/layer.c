/* Modules by hand: two linears under a kind of our own, quantized where they stand.
 *     layer */
#include <math.h>
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDTH = 128, HIDDEN = 256, ROWS = 4 };

/* y = down(up(x)); a module's forward sees its own children only. */
static nib_tensor *forward(nib_module *module, nib_tensor *x) {
    nib_tensor *hidden = nib_module_forward(nib_module_child(module, "up"), x);
    return nib_module_forward(nib_module_child(module, "down"), hidden);
}
static const nib_module_kind pair = {.name = "Pair", .forward = forward};

/* A linear without bias and any old weight; the tensor gives the memory back when it goes. */
static nib_module *linear(nib_ctx *ctx, int64_t out, int64_t in) {
    float *w = malloc((size_t)(out * in) * sizeof *w);
    uint32_t state = 1;
    for (int64_t i = 0; w && i < out * in; i++) {
        state = state * 1664525 + 1013904223;
        w[i] = (float)(state >> 8) / (1 << 27) - 0.0625f;
    }
    nib_tensor *weight =
        nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {out, in}}, w, w ? free : NULL, w);
    return nib_linear_new(ctx, weight, NIB_NONE);
}

/* The tree, and the answer to a fixed question. */
static nib_status show(nib_ctx *ctx, nib_module *layer, float answer[ROWS * WIDTH]) {
    float x[ROWS * WIDTH];
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = cosf((float)i);
    char *tree = nib_module_print(layer);
    if (tree) printf("%s", tree);
    nib_text_release(tree);
    const size_t mark = nib_scope_begin(ctx); /* results of operations live until its end */
    nib_tensor *in = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {ROWS, WIDTH}}, x, NULL, NULL);
    nib_tensor *out = nib_module_forward(layer, in);
    nib_status status = nib_tensor_read(out, answer, sizeof(float) * ROWS * WIDTH);
    nib_tensor_free(in);
    nib_scope_end(ctx, mark);
    return status;
}

int main(void) {
    float before[ROWS * WIDTH], after[ROWS * WIDTH];
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *layer = nib_module_new(ctx, &pair, NULL);
    nib_report report = {.size = sizeof report};
    nib_status status = nib_module_add(layer, "up", linear(ctx, HIDDEN, WIDTH));
    if (status == NIB_OK) status = nib_module_add(layer, "down", linear(ctx, WIDTH, HIDDEN));
    if (status == NIB_OK) status = show(ctx, layer, before);
    if (status == NIB_OK)
        status = nib_quantize(layer, NIB_INT4_WEIGHT_ONLY(.group_size = 32),
                              &(nib_select){.report = &report});
    if (status == NIB_OK) status = show(ctx, layer, after);
    if (status == NIB_OK) {
        double error = 0, power = 0;
        for (int i = 0; i < ROWS * WIDTH; i++) {
            error += pow((double)after[i] - (double)before[i], 2);
            power += pow((double)before[i], 2);
        }
        printf("%d weights: %zu -> %zu bytes, %.1f times smaller\n", report.quantized,
               report.bytes_before, report.bytes_after,
               (double)report.bytes_before / (double)report.bytes_after);
        printf("the answers differ by %.1f %%\n", 100 * sqrt(error / power));
    } else {
        fprintf(stderr, "%s\n", nib_last_error()->what);
    }
    nib_module_free(layer);
    nib_ctx_free(ctx);
    return status != NIB_OK;
}
