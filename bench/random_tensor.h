/* random_tensor.h: weights and inputs that no model made, the same in every run, and the way to
 * give up, of benches that build modules by hand. */
#ifndef NIB_BENCH_RANDOM_TENSOR_H
#define NIB_BENCH_RANDOM_TENSOR_H
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>

static void fail(void) {
    fprintf(stderr, "%s\n", nib_last_error()->what);
    exit(1);
}

static uint32_t state = 1;
static float normal(void) { /* nearly: a sum of four */
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        state = state * 1664525u + 1013904223u;
        sum += (float)(state >> 8) * 0x1p-24f - 0.5f;
    }
    return sum * 1.7320508f;
}

static nib_tensor *random_tensor(nib_ctx *ctx, nib_shape shape, float scale) {
    int64_t count = 1;
    for (int i = 0; i < shape.ndim; i++) count *= shape.dim[i];
    float *data = malloc((size_t)count * sizeof *data);
    if (!data) exit(1);
    for (int64_t i = 0; i < count; i++) data[i] = scale * normal();
    return nib_tensor_wrap(ctx, NIB_F32, shape, data, free, data);
}
#endif
