/* quantize_neon.c: floats to codes and back, 4 at a time, every float step rounded to `math`.
 * The three values of `math` become three copies of each loop, so the choice costs nothing. */
#include <string.h>

#include "kernel/arm/float_neon.h"
#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))
#define FOR_EACH_MATH(math, call)                                                                  \
    do {                                                                                           \
        if (math == NIB_BF16)                                                                      \
            call(NIB_BF16);                                                                        \
        else if (math == NIB_F16)                                                                  \
            call(NIB_F16);                                                                         \
        else                                                                                       \
            call(NIB_F32);                                                                         \
    } while (0)

INLINE float32x4_t rounded(float32x4_t x, const nib_dtype math) {
    return math == NIB_BF16 ? neon_round_bf16(x) : math == NIB_F16 ? neon_round_f16(x) : x;
}

/* What one group needs, spread over lanes. */
typedef struct lanes {
    float32x4_t factor, shift; /* inverse or scale; what is subtracted or added */
    float32x4_t low, high;     /* bounds in code units, or of the fp8 format */
    int32x4_t zero;
} lanes;

/* The integer codes of 4 floats in code units. Conversion rounds to nearest even; clamping first
 * to whole bounds gives the same code, and keeps it in range. */
INLINE uint32x4_t to_codes(float32x4_t d, const lanes *u) {
    const float32x4_t in_range = vminq_f32(vmaxq_f32(d, u->low), u->high);
    const int32x4_t codes = vaddq_s32(vcvtnq_s32_f32(in_range), u->zero);
    return vandq_u32(vreinterpretq_u32_s32(codes), vceqq_f32(d, d));
}

typedef enum step { SCALED, DIVIDED, SHIFTED_DIVIDED, F8 } step;

INLINE uint32x4_t quantize4(float32x4_t x, const lanes *u, const step how, const nib_dtype format,
                            const nib_dtype math) {
    if (how == SCALED) return to_codes(rounded(vmulq_f32(x, u->factor), math), u);
    const float32x4_t moved = how == SHIFTED_DIVIDED ? rounded(vsubq_f32(x, u->shift), math) : x;
    const float32x4_t d = rounded(vdivq_f32(moved, u->factor), math);
    if (how != F8) return to_codes(d, u);

    float32x4_t in_range = vminq_f32(vmaxq_f32(d, u->low), u->high);
    in_range = vbslq_f32(vceqq_f32(d, d), in_range, neon_with_sign(vdupq_n_f32(NAN), x));
    const uint32x4_t nothing = vandq_u32(vceqzq_f32(x), vceqzq_f32(u->factor));
    return neon_f8_codes(vbslq_f32(nothing, vdupq_n_f32(0), in_range), format);
}

INLINE void quantize_group(uint8_t *q, const float *x, int64_t G, const lanes *u, const step how,
                           const nib_dtype format, const nib_dtype math) {
    int64_t i = 0;
    for (; i + 16 <= G; i += 16)
        vst1q_u8(q + i, neon_low_bytes(quantize4(vld1q_f32(x + i), u, how, format, math),
                                       quantize4(vld1q_f32(x + i + 4), u, how, format, math),
                                       quantize4(vld1q_f32(x + i + 8), u, how, format, math),
                                       quantize4(vld1q_f32(x + i + 12), u, how, format, math)));
    for (; i < G; i += 4) {
        const size_t n = (size_t)(G - i);
        const uint32x4_t codes = quantize4(neon_load_first(x + i, n), u, how, format, math);
        uint8_t rest[16];
        vst1q_u8(rest, neon_low_bytes(codes, codes, codes, codes));
        memcpy(q + i, rest, n < 4 ? n : 4);
    }
}

INLINE void quantize_groups(uint8_t *q, const float *x, int64_t groups, int64_t G,
                            const float *shift, const float *factor, const int32_t *zero, int qmin,
                            int qmax, const step how, const nib_dtype math) {
    for (int64_t g = 0; g < groups; g++) {
        const int z = zero ? zero[g] : 0;
        const lanes u = {.factor = vdupq_n_f32(factor[g]),
                         .shift = vdupq_n_f32(how == SHIFTED_DIVIDED ? shift[g] : 0.0f),
                         .low = vdupq_n_f32((float)(qmin - z)),
                         .high = vdupq_n_f32((float)(qmax - z)),
                         .zero = vdupq_n_s32(z)};
        quantize_group(q + g * G, x + g * G, G, &u, how, NIB_F32, math);
    }
}

static void quantize_scaled(uint8_t *q, const float *x, int64_t groups, int64_t G,
                            const float *inverse, const int32_t *zero, int qmin, int qmax,
                            nib_dtype math) {
#define SCALED_IN(m) quantize_groups(q, x, groups, G, NULL, inverse, zero, qmin, qmax, SCALED, m)
    FOR_EACH_MATH(math, SCALED_IN);
}

static void quantize_divided(uint8_t *q, const float *x, int64_t groups, int64_t G,
                             const float *shift, const float *scale, const int32_t *zero, int qmin,
                             int qmax, nib_dtype math) {
#define DIVIDED_IN(m) quantize_groups(q, x, groups, G, NULL, scale, zero, qmin, qmax, DIVIDED, m)
#define SHIFTED_IN(m)                                                                              \
    quantize_groups(q, x, groups, G, shift, scale, zero, qmin, qmax, SHIFTED_DIVIDED, m)
    if (shift)
        FOR_EACH_MATH(math, SHIFTED_IN);
    else
        FOR_EACH_MATH(math, DIVIDED_IN);
}

static void quantize_lines(uint8_t *q, int64_t ldq, const float *x, int64_t ldx, int64_t rows,
                           int64_t n, float scale, int qmin, int qmax) {
    const lanes u = {.factor = vdupq_n_f32(scale),
                     .shift = vdupq_n_f32(0),
                     .low = vdupq_n_f32((float)qmin),
                     .high = vdupq_n_f32((float)qmax),
                     .zero = vdupq_n_s32(0)};
    for (int64_t r = 0; r < rows; r++)
        quantize_group(q + r * ldq, x + r * ldx, n, &u, DIVIDED, NIB_F32, NIB_F32);
}

INLINE void f8_groups(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *scale,
                      float limit, const nib_dtype format, const nib_dtype math) {
    for (int64_t g = 0; g < groups; g++) {
        const lanes u = {.factor = vdupq_n_f32(scale[g]),
                         .low = vdupq_n_f32(-limit),
                         .high = vdupq_n_f32(limit)};
        quantize_group(q + g * G, x + g * G, G, &u, F8, format, math);
    }
}

static void quantize_f8(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *scale,
                        float limit, nib_dtype format, nib_dtype math) {
#define E4M3FN_IN(m)   f8_groups(q, x, groups, G, scale, limit, NIB_F8_E4M3FN, m)
#define E5M2_IN(m)     f8_groups(q, x, groups, G, scale, limit, NIB_F8_E5M2, m)
#define E4M3FNUZ_IN(m) f8_groups(q, x, groups, G, scale, limit, NIB_F8_E4M3FNUZ, m)
    if (format == NIB_F8_E4M3FN)
        FOR_EACH_MATH(math, E4M3FN_IN);
    else if (format == NIB_F8_E5M2)
        FOR_EACH_MATH(math, E5M2_IN);
    else
        FOR_EACH_MATH(math, E4M3FNUZ_IN);
}

/* out = (q - zero) * scale, and with `add` one more step. */
INLINE float32x4_t dequantize4(int32x4_t q, const lanes *u, const bool add, const nib_dtype math) {
    const float32x4_t steps = vcvtq_f32_s32(vsubq_s32(q, u->zero));
    const float32x4_t product = rounded(vmulq_f32(steps, u->factor), math);
    return add ? rounded(vaddq_f32(product, u->shift), math) : product;
}

INLINE void dequantize_groups(float *out, const uint8_t *q, int64_t groups, int64_t G,
                              bool is_signed, const float *scale, const int32_t *zero,
                              const float *shift, const bool add, const nib_dtype math) {
    for (int64_t g = 0; g < groups; g++, out += G, q += G) {
        const lanes u = {.factor = vdupq_n_f32(scale[g]),
                         .shift = vdupq_n_f32(add ? shift[g] : 0.0f),
                         .zero = vdupq_n_s32(zero ? zero[g] : 0)};
        for (int64_t i = 0; i < G; i += 8) {
            const size_t n = (size_t)(G - i < 8 ? G - i : 8);
            uint8_t bytes[8] = {0};
            memcpy(bytes, q + i, n);
            const uint8x8_t b = vld1_u8(bytes);
            const int16x8_t wide =
                is_signed ? vmovl_s8(vreinterpret_s8_u8(b)) : vreinterpretq_s16_u16(vmovl_u8(b));
            const int32x4_t low = vmovl_s16(vget_low_s16(wide));
            const int32x4_t high = vmovl_s16(vget_high_s16(wide));
            neon_store_first(out + i, n, dequantize4(low, &u, add, math));
            if (n > 4) neon_store_first(out + i + 4, n - 4, dequantize4(high, &u, add, math));
        }
    }
}

static void dequantize_scaled(float *out, const uint8_t *q, int64_t groups, int64_t G,
                              bool is_signed, const float *scale, const int32_t *zero,
                              nib_dtype math) {
#define BACK_IN(m) dequantize_groups(out, q, groups, G, is_signed, scale, zero, NULL, false, m)
    FOR_EACH_MATH(math, BACK_IN);
}

static void dequantize_shifted(float *out, const uint8_t *q, int64_t groups, int64_t G,
                               bool is_signed, const float *scale, const float *add,
                               nib_dtype math) {
#define BACK_AND_ADD_IN(m)                                                                         \
    dequantize_groups(out, q, groups, G, is_signed, scale, NULL, add, true, m)
    FOR_EACH_MATH(math, BACK_AND_ADD_IN);
}

static void install(nib_kernels *k) {
    k->quantize_scaled = quantize_scaled;
    k->quantize_divided = quantize_divided;
    k->quantize_lines = quantize_lines;
    k->quantize_f8 = quantize_f8;
    k->dequantize_scaled = dequantize_scaled;
    k->dequantize_shifted = dequantize_shifted;
}
const nib_kernel_set nib_kernels_quantize_neon = {
    .name = "quantize_neon", .needs = NIB_CPU_NEON, .install = install};
