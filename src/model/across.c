#include "model/across.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/text_util.h"
#include "tensor/dtype.h"

bool nib_across_name(const char *tensor) {
    static const char *const globs[] = {"*.c_attn.weight", "*.c_proj.weight", "*.c_fc.weight",
                                        "*.q_attn.weight", NULL};
    for (const char *const *glob = globs; *glob; glob++)
        if (nib_glob_match(*glob, tensor)) return true;
    return false;
}

/* A square one tells nothing. */
static bool tells(const nib_checkpoint *c, const nib_checkpoint_tensor *t) {
    const char *name = t->entry->name;
    const nib_shape *shape = &t->entry->shape;
    char bias[512];
    const size_t stem = strlen(name) - strlen("weight");
    if (shape->ndim != 2 || shape->dim[0] == shape->dim[1] || stem + 5 > sizeof bias) return false;
    memcpy(bias, name, stem);
    memcpy(bias + stem, "bias", 5);
    const nib_checkpoint_tensor *b = nib_checkpoint_find(c, bias);
    return b && b->entry->shape.ndim == 1 && b->entry->shape.dim[0] == shape->dim[1];
}

bool nib_across_checkpoint(const nib_checkpoint *c) {
    for (size_t i = 0; i < c->count; i++)
        if (nib_across_name(c->tensors[i].entry->name) && tells(c, &c->tensors[i])) return true;
    return false;
}

nib_shape nib_across_shape(const nib_shape *shape) {
    assert(shape->ndim == 2);
    return (nib_shape){2, {shape->dim[1], shape->dim[0]}};
}

/* Tile by tile, so that lines of both sides stay in the cache until they are done with. */
#define COPY(T)                                                                                    \
    do {                                                                                           \
        T *y = to;                                                                                 \
        const T *x = from;                                                                         \
        for (int64_t r0 = 0; r0 < rows; r0 += TILE)                                                \
            for (int64_t c0 = 0; c0 < cols; c0 += TILE)                                            \
                for (int64_t c = c0; c < cols && c < c0 + TILE; c++)                               \
                    for (int64_t r = r0; r < rows && r < r0 + TILE; r++)                           \
                        y[c * ld_to + r] = x[r * ld_from + c];                                     \
    } while (0)

void nib_across_copy(void *to, int64_t ld_to, const void *from, int64_t ld_from, int64_t rows,
                     int64_t cols, size_t size) {
    enum { TILE = 32 };
    assert(size == 2 || size == 4);
    if (size == 4)
        COPY(uint32_t);
    else
        COPY(uint16_t);
}

nib_status nib_across_read(const nib_checkpoint *c, const nib_checkpoint_tensor *t, void *to,
                           size_t size, size_t offset) {
    enum { LINES = 8, ELEMENTS = 1024 };
    uint32_t buffer[LINES * ELEMENTS]; /* some columns of some lines of the file */
    const int64_t K = t->entry->shape.dim[0], N = t->entry->shape.dim[1];
    const size_t element = (size_t)nib_dtype_bits(t->entry->dtype) / 8;
    const size_t row = (size_t)K * element;
    assert(size % row == 0);
    assert(offset % row == 0);
    const int64_t first = (int64_t)(offset / row), count = (int64_t)(size / row);
    for (int64_t n = 0; n < count; n += ELEMENTS) {
        const int64_t some = count - n < ELEMENTS ? count - n : ELEMENTS;
        for (int64_t k = 0; k < K; k += LINES) {
            const int64_t lines = K - k < LINES ? K - k : LINES;
            for (int64_t i = 0; i < lines; i++)
                NIB_TRY(nib_checkpoint_read(
                    c, t, (unsigned char *)buffer + (size_t)(i * some) * element,
                    (size_t)some * element, (size_t)((k + i) * N + first + n) * element));
            nib_across_copy((unsigned char *)to + (size_t)(n * K + k) * element, K, buffer, some,
                            lines, some, element);
        }
    }
    return NIB_OK;
}
