/* cast.c: dense floats in another dtype. */
#include "quant/cast.h"

#include <string.h>

#include "base/error.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

static bool is_wide(nib_dtype dtype) {
    return dtype == NIB_F32 || dtype == NIB_F16 || dtype == NIB_BF16;
}

static void round_all(float *values, int64_t count, nib_dtype dtype) {
    for (int64_t i = 0; values && i < count; i++) values[i] = nib_round_to(values[i], dtype);
}

/* The same codes; what has the weight's dtype, scales and shifts as a rule, is rounded to the
 * other. */
static nib_tensor *cast_quantized(const nib_tensor *t, nib_dtype dtype) {
    const nib_dtype old = t->desc.math;
    nib_codes codes;
    if (!is_wide(dtype))
        return NIB_RAISE_NULL(NIB_E_DTYPE, "a quantized weight is not cast to %s",
                              nib_dtype_name(dtype));
    if (dtype == old) return nib_tensor_retain(t);
    NIB_TRY_NULL(nib_unpack_rows(t, 0, t->desc.rows, &codes));
    codes.desc.shape = t->desc.shape;
    codes.desc.math = dtype;
    const int64_t blocks = nib_qdesc_blocks(&codes.desc);
    if (codes.desc.scale_dtype == old) {
        codes.desc.scale_dtype = dtype;
        round_all(codes.scale, blocks, dtype);
    }
    if (codes.zero && codes.desc.zero_dtype == old) {
        codes.desc.zero_dtype = dtype;
        round_all(codes.zero, blocks, dtype);
    }
    const nib_layout *layout =
        t->layout->holds(&codes.desc) ? t->layout : nib_layout_for(&codes.desc);
    nib_tensor *made = layout ? nib_pack_tensor(t->ctx, layout, &codes) : NULL;
    nib_codes_free(nib_ctx_mem(t->ctx), &codes);
    if (made) made->act = t->act;
    if (made && t->config && !(made->config = nib_config_copy(t->config))) {
        nib_tensor_free(made);
        return NULL;
    }
    return made;
}

nib_tensor *nib_tensor_cast(const nib_tensor *t, nib_dtype dtype) {
    enum { RUN = 1024 };
    if (t->layout) return cast_quantized(t, dtype);
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
