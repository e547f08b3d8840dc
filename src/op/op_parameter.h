/* op_parameter.h: weights and biases of norms, of any float dtype, as the floats that kernels read.
 */
#ifndef NIB_OP_OP_PARAMETER_H
#define NIB_OP_OP_PARAMETER_H
#include "quant/codes.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

static inline bool nib_parameter_dense(const nib_tensor *t) { /* or absent */
    return t == NIB_NONE || (!t->layout && nib_tensor_contiguous(t) &&
                             (t->dtype == NIB_F32 || t->dtype == NIB_F16 || t->dtype == NIB_BF16));
}

/* Floats of room that a parameter of n numbers takes. */
static inline int64_t nib_parameter_room(const nib_tensor *t, int64_t n) {
    return t != NIB_NONE && t->dtype != NIB_F32 ? n : 0;
}

/* A parameter as floats; NULL where there is none. `room` is taken from when it must be widened. */
static inline const float *nib_parameter_floats(const nib_tensor *t, float **room, int64_t n) {
    if (t == NIB_NONE) return NULL;
    if (t->dtype == NIB_F32) return nib_tensor_data(t);
    float *out = *room;
    *room += n;
    nib_to_f32(t->dtype, out, nib_tensor_data(t), (size_t)n);
    return out;
}
#endif
