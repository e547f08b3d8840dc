/* quanto_golden.h: what tests of quanto's workflow read from files of the library itself
 * (tests/golden/quanto). */
#ifndef NIB_TESTS_QUANTO_GOLDEN_H
#define NIB_TESTS_QUANTO_GOLDEN_H
#include <nibble/nn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io/safetensors.h"
#include "op/calls.h"
#include "tensor/tensor.h"

/* A tensor of the file as a copy of its own, caller owns; NULL for NULL. */
static inline nib_tensor *golden_copy(nib_ctx *ctx, nib_safetensors *file,
                                      const nib_safetensors_entry *e) {
    nib_tensor *t = e ? nib_tensor_new(ctx, e->dtype, e->shape) : NULL;
    if (t) memcpy(nib_tensor_data_mut(t), nib_safetensors_data(file, e), e->size);
    return t;
}

/* The same by its name; NULL when it is not there. */
static inline nib_tensor *golden_tensor(nib_ctx *ctx, nib_safetensors *file, const char *format,
                                        ...) {
    char name[160];
    va_list list;
    va_start(list, format);
    vsnprintf(name, sizeof name, format, list);
    va_end(list);
    return golden_copy(ctx, file, nib_safetensors_find(file, name));
}

/* The network of mlp.safetensors and its kin: three linears, ReLU between them. */
static inline nib_tensor *golden_mlp_forward(nib_module *m, nib_tensor *x) {
    const char *const names[] = {"fc1", "fc2", "fc3"};
    for (int i = 0; i < 3; i++) {
        x = nib_module_forward(nib_module_child(m, names[i]), x);
        if (i < 2 && x) x = nib_relu(x);
    }
    return x;
}
static inline nib_module *golden_mlp_new(nib_ctx *ctx) {
    static const nib_module_kind kind = {.name = "MLP", .forward = golden_mlp_forward};
    return nib_module_new(ctx, &kind, NULL);
}
#endif
