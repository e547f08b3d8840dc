/* golden_layers.h: what torch made of a layer, case by case, and how near to it we must be. */
#ifndef NIB_TESTS_GOLDEN_LAYERS_H
#define NIB_TESTS_GOLDEN_LAYERS_H
#include <nibble/nn.h>

#include "io/safetensors.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

/* A tensor of the golden file, the caller's; NIB_NONE where it has none of that name. */
static inline nib_tensor *golden(nib_ctx *ctx, nib_safetensors *file, const char *name,
                                 const char *part) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", name, part);
    const nib_safetensors_entry *e = nib_safetensors_find(file, key);
    if (!e) return NIB_NONE;
    return nib_tensor_wrap(ctx, e->dtype, e->shape, nib_safetensors_data(file, e), NULL, NULL);
}

/* The largest difference by the largest value, which sums of some hundred f32 keep below 1e-6
 * however they are ordered; infinite where shapes or what is NaN differ. */
static inline double golden_distance(const nib_tensor *got, const nib_tensor *want) {
    if (!got || !nib_shape_equal(&got->shape, &want->shape)) return INFINITY;
    const float *g = nib_tensor_data(got), *w = nib_tensor_data(want);
    double most = 0, largest = 1e-30;
    for (int64_t i = 0; i < nib_tensor_count(want); i++) {
        if (isnan(g[i]) != isnan(w[i])) return INFINITY;
        if (isnan(g[i]) || g[i] == w[i]) continue;
        most = fmax(most, fabs((double)g[i] - (double)w[i]));
        largest = fmax(largest, fabs((double)w[i]));
    }
    for (int64_t i = 0; i < nib_tensor_count(want); i++)
        if (isfinite(w[i])) largest = fmax(largest, fabs((double)w[i]));
    return most / largest;
}

#define CHECK_GOLDEN(got, want, name)                                                              \
    do {                                                                                           \
        CHECK_MADE(got);                                                                           \
        const double distance_ = golden_distance(got, want);                                       \
        if (!(distance_ <= 1e-6)) {                                                                \
            char a_[96];                                                                           \
            FAIL_AT("%s: off by %.3g of the largest value, shape %s", name, distance_,             \
                    nib_shape_text(&(got)->shape, a_, sizeof a_));                                 \
        }                                                                                          \
    } while (0)

/* A call that makes, and must fail. */
#define REFUSED(call, want, text)                                                                  \
    CHECK_FAILS((call) ? NIB_OK : nib_last_error()->status, want, text)
#endif
