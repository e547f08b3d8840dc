/* train_golden.h: files that torch and optimum-quanto made (tests/golden/train), and comparing. */
#ifndef NIB_TESTS_TRAIN_GOLDEN_H
#define NIB_TESTS_TRAIN_GOLDEN_H
#include <nibble/train.h>

#include "quanto_golden.h"
#include "test.h"

static inline nib_safetensors *train_golden(const char *name) {
    char path[256];
    snprintf(path, sizeof path, "tests/golden/train/%s.safetensors", name);
    return nib_safetensors_open(NULL, path);
}

/* The largest difference, by the largest of `want`. */
static inline double train_difference(const nib_tensor *got, const nib_tensor *want) {
    if (!got || !want || nib_tensor_count(got) != nib_tensor_count(want)) return INFINITY;
    const float *g = nib_tensor_data(got), *w = nib_tensor_data(want);
    double most = 0, largest = 0;
    for (int64_t i = 0; i < nib_tensor_count(want); i++) {
        most = fmax(most, fabs((double)g[i] - w[i]));
        largest = fmax(largest, fabs((double)w[i]));
        if (isnan(g[i]) || isnan(w[i])) return INFINITY;
    }
    return largest > 0 ? most / largest : most;
}
#endif
