/* cast.c: dense floats in another dtype. */
#include "quant/cast.h"

#include <string.h>

#include "base/error.h"
#include "quant/codes.h"
#include "tensor/dtype.h"

static bool is_wide(nib_dtype dtype) {
    return dtype == NIB_F32 || dtype == NIB_F16 || dtype == NIB_BF16;
}

nib_tensor *nib_tensor_cast(const nib_tensor *t, nib_dtype dtype) {
    enum { RUN = 1024 };
    if (t->layout)
        return NIB_RAISE_NULL(NIB_E_UNSUPPORTED, "codes (%s) are not cast; dequantize them first",
                              t->layout->name);
    if (t->dtype == dtype || !nib_dtype_is_float(t->dtype)) return nib_tensor_retain(t);
    if (!is_wide(t->dtype) || !is_wide(dtype) || !nib_tensor_contiguous(t))
        return NIB_RAISE_NULL(NIB_E_DTYPE,
                              "%s is not cast to %s; want f32, f16 or bf16 without gaps",
                              nib_dtype_name(t->dtype), nib_dtype_name(dtype));
    nib_tensor *out = nib_tensor_new(t->ctx, dtype, t->shape);
    if (!out) return NULL;
    const unsigned char *from = nib_tensor_data(t);
    unsigned char *to = nib_tensor_data_mut(out);
    const size_t from_size = (size_t)nib_dtype_bits(t->dtype) / 8,
                 size = (size_t)nib_dtype_bits(dtype) / 8, count = (size_t)nib_tensor_count(t);
    float run[RUN];
    for (size_t i = 0; i < count; i += RUN) {
        const size_t n = count - i < RUN ? count - i : RUN;
        nib_to_f32(t->dtype, run, from + i * from_size, n);
        if (dtype == NIB_F32)
            memcpy(to + i * size, run, n * size);
        else if (dtype == NIB_F16)
            nib_codes_kernels()->f32_to_f16(to + i * size, run, n);
        else
            nib_codes_kernels()->f32_to_bf16(to + i * size, run, n);
    }
    return out;
}
