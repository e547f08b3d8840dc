/* act8.h: a quantized activation: 8-bit codes with one scale for the whole tensor, an ordinary
 * tensor of the layout "act8" whose dtype is that of the floats it stands for. Modules make them on
 * the way in and out (nn/quantized.h), the table of op/on_codes.c says which op keeps one. */
#ifndef NIB_QUANT_ACT8_H
#define NIB_QUANT_ACT8_H
#include "kernel/kernel.h"
#include "tensor/tensor.h"

extern const nib_layout nib_layout_act8;

static inline bool nib_act8_is(const nib_tensor *t) { return t && t->layout == &nib_layout_act8; }

/* I8, I7 (a reduced range: codes in [-64, 63]) and the three 8-bit floats that activations may
 * have: the largest number of a code, 127, 63 or the largest finite float, by which a scale
 * divides; 0: no such code. */
float nib_act8_largest(nib_dtype code);

static inline bool nib_act8_integer(nib_dtype code) { return code == NIB_I8 || code == NIB_I7; }

/* What a code is in memory: a byte, of 7 bits as well. */
static inline nib_dtype nib_act8_stored(nib_dtype code) { return code == NIB_I7 ? NIB_I8 : code; }

/* A tensor of such codes, not yet filled, standing for floats of dtype `math` (F32, F16, BF16). The
 * scale is one that `math` holds. Caller owns. */
nib_tensor *nib_act8_new(nib_ctx *ctx, nib_dtype code, nib_dtype math, nib_shape shape,
                         float scale);

/* The same over the codes of a dense, contiguous tensor of nib_act8_stored(code). Caller owns. */
nib_tensor *nib_act8_over(const nib_tensor *codes, nib_dtype code, nib_dtype math, float scale);

/* The codes alone, as a dense tensor of nib_act8_stored over the same bytes. Caller owns. */
nib_tensor *nib_act8_codes(const nib_tensor *t);

float nib_act8_scale(const nib_tensor *t);
static inline const void *nib_act8_data(const nib_tensor *t) { return nib_tensor_part(t, 0); }
void *nib_act8_data_mut(nib_tensor *t); /* of one that nib_act8_new just made */

/* Element i and the float that code q of a scale stands for, each step rounded to `math`. */
void nib_act8_to_f32(const nib_tensor *t, int64_t first, int64_t count, float *out);

/* What each byte stands for, with the tensor's type of codes and scale. */
void nib_act8_values(const nib_tensor *t, float value[256]);

/* q = clamp(round(x / scale)), floats cast instead of rounded, every step rounded to `math`; NaN is
 * code 0 of integers. x: `count` values of f32, each exact in `math`. */
void nib_act8_quantize(const nib_kernels *k, nib_dtype code, nib_dtype math, float scale,
                       const float *x, int64_t count, void *q);
#endif
