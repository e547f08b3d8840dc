#include "op/rearrange.h"

#include <string.h>

#include "base/parallel.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

typedef struct job {
    const char *x;
    char *y;
    size_t width; /* bytes of an element */
    int ndim;
    const int64_t *length, *step;
} job;

static inline void apart(char *y, const char *x, int64_t n, int64_t step, size_t width) {
    for (int64_t i = 0; i < n; i++)
        memcpy(y + (size_t)i * width, x + i * step * (int64_t)width, width);
}

static void rows(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const int last = j->ndim - 1;
    const int64_t n = j->length[last], step = j->step[last];
    for (int64_t r = begin; r < end; r++) {
        int64_t at = r, from = 0;
        for (int i = last - 1; i >= 0; i--) {
            from += at % j->length[i] * j->step[i];
            at /= j->length[i];
        }
        const char *x = j->x + from * (int64_t)j->width;
        char *y = j->y + (size_t)(r * n) * j->width;
        if (step == 1)
            memcpy(y, x, (size_t)n * j->width);
        else if (j->width == 4) /* known widths, so that compilers need no call */
            apart(y, x, n, step, 4);
        else if (j->width == 1)
            apart(y, x, n, step, 1);
        else
            apart(y, x, n, step, j->width);
    }
}

void nib_rearrange(nib_ctx *ctx, const nib_tensor *x, int64_t first, const int64_t step[],
                   nib_tensor *out) {
    const size_t width = (size_t)nib_dtype_bits(x->dtype) / 8;
    const int64_t count = nib_tensor_count(out);
    const char *from = (const char *)nib_tensor_data(x) + (size_t)first * width;
    if (!count) return;
    if (!out->shape.ndim) {
        memcpy(nib_tensor_data_mut(out), from, width);
        return;
    }
    job j = {.x = from,
             .y = nib_tensor_data_mut(out),
             .width = width,
             .ndim = out->shape.ndim,
             .length = out->shape.dim,
             .step = step};
    const int64_t n = j.length[j.ndim - 1];
    nib_parallel_for(ctx->pool, count / n, 1 + 4096 / n, rows, &j);
}

void nib_rearrange_steps(const nib_shape *shape, int64_t step[NIB_MAX_DIMS]) {
    int64_t product = 1;
    for (int i = shape->ndim - 1; i >= 0; i--) {
        step[i] = product;
        product *= shape->dim[i];
    }
}
