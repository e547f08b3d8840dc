/* A module by hand, compiled: what its forward calls is planned once and run often.
 *     compile */
#include <nibble/graph.h>
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WIDTH = 256, HIDDEN = 768, RUNS = 200 };

/* y = down(up(norm(x))) */
static nib_tensor *forward(nib_module *module, nib_tensor *x) {
    nib_tensor *n = nib_module_forward(nib_module_child(module, "norm"), x);
    nib_tensor *hidden = nib_module_forward(nib_module_child(module, "up"), n);
    return nib_module_forward(nib_module_child(module, "down"), hidden);
}
static const nib_module_kind kind = {.name = "Mlp", .forward = forward};

/* A tensor of any old numbers, which gives its memory back when it goes. */
static nib_tensor *numbers(nib_ctx *ctx, nib_shape shape) {
    const size_t count = (size_t)(shape.dim[0] * (shape.ndim > 1 ? shape.dim[1] : 1));
    float *w = malloc(count * sizeof *w);
    uint32_t state = 1;
    for (size_t i = 0; w && i < count; i++) {
        state = state * 1664525 + 1013904223;
        w[i] = (float)(state >> 8) / (1 << 27) - 0.0625f;
    }
    return nib_tensor_wrap(ctx, NIB_F32, shape, w, w ? free : NULL, w);
}

static nib_tensor *matrix(nib_ctx *ctx, int64_t rows, int64_t cols) {
    return numbers(ctx, (nib_shape){2, {rows, cols}});
}

static double now_us(void) {
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

int main(void) {
    static float eager[WIDTH], compiled[WIDTH];
    nib_ctx *ctx = nib_ctx_new(NULL);
    nib_module *m = nib_module_new(ctx, &kind, NULL);
    nib_tensor *x = matrix(ctx, 1, WIDTH);
    nib_module_add(m, "norm", nib_rms_norm_new(ctx, numbers(ctx, (nib_shape){1, {WIDTH}}), 1e-5));
    nib_module_add(m, "up", nib_linear_new(ctx, matrix(ctx, HIDDEN, WIDTH), NIB_NONE));
    nib_module_add(m, "down", nib_linear_new(ctx, matrix(ctx, WIDTH, HIDDEN), NIB_NONE));

    nib_graph *graph = nib_compile(m, x, NULL);
    char *text = nib_graph_print(graph);
    if (text) printf("%s", text);
    nib_text_release(text);

    nib_status status = graph ? NIB_OK : nib_last_error()->status;
    const double began = now_us();
    for (int i = 0; status == NIB_OK && i < RUNS; i++) {
        const size_t mark = nib_scope_begin(ctx);
        status = nib_tensor_read(nib_module_forward(m, x), eager, sizeof eager);
        nib_scope_end(ctx, mark);
    }
    const double between = now_us();
    for (int i = 0; status == NIB_OK && i < RUNS; i++)
        status = nib_tensor_read(nib_graph_run(graph, x), compiled, sizeof compiled);
    const double ended = now_us();
    const bool same = memcmp(eager, compiled, sizeof eager) == 0;
    if (status == NIB_OK)
        printf("%.1f us as modules, %.1f us compiled, %s bits\n", (between - began) / RUNS,
               (ended - between) / RUNS, same ? "the same" : "other");
    else
        fprintf(stderr, "%s\n", nib_last_error()->what);
    nib_graph_free(graph);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
    return status != NIB_OK || !same;
}
