/* quantize_ref.c: floats to codes and back, every float step rounded to the dtype `math`. */
#include <math.h>

#include "base/halffloat.h"
#include "kernel/kernel.h"

static float round_to(float x, nib_dtype math) {
    if (math == NIB_BF16) return nib_bf16_to_f32(nib_f32_to_bf16(x));
    if (math == NIB_F16) return nib_f16_to_f32(nib_f32_to_f16(x));
    return x;
}

/* d is a float in code units. Clamping before converting keeps the conversion in range. */
static uint8_t code_of(float d, int32_t zero, int qmin, int qmax) {
    if (isnan(d)) return 0;
    const float low = (float)(qmin - zero), high = (float)(qmax - zero), r = rintf(d);
    return (uint8_t)((int)(r < low ? low : r > high ? high : r) + zero);
}

static void quantize_scaled(uint8_t *q, const float *x, int64_t groups, int64_t G,
                            const float *inverse, const int32_t *zero, int qmin, int qmax,
                            nib_dtype math) {
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = g * G; i < (g + 1) * G; i++)
            q[i] = code_of(round_to(x[i] * inverse[g], math), zero ? zero[g] : 0, qmin, qmax);
}

static void quantize_divided(uint8_t *q, const float *x, int64_t groups, int64_t G,
                             const float *shift, const float *scale, const int32_t *zero, int qmin,
                             int qmax, nib_dtype math) {
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t i = g * G; i < (g + 1) * G; i++) {
            const float moved = shift ? round_to(x[i] - shift[g], math) : x[i];
            q[i] = code_of(round_to(moved / scale[g], math), zero ? zero[g] : 0, qmin, qmax);
        }
    }
}

static void quantize_lines(uint8_t *q, int64_t ldq, const float *x, int64_t ldx, int64_t rows,
                           int64_t n, float scale, int qmin, int qmax) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++)
            q[r * ldq + i] = code_of(x[r * ldx + i] / scale, 0, qmin, qmax);
}

static void quantize_f8(uint8_t *q, const float *x, int64_t groups, int64_t G, const float *scale,
                        float limit, nib_dtype format, nib_dtype math) {
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t i = g * G; i < (g + 1) * G; i++) {
            float d = round_to(x[i] / scale[g], math);
            if (x[i] == 0 && scale[g] == 0)
                d = 0;
            else if (isnan(d))
                d = copysignf(NAN, x[i]);
            else
                d = d < -limit ? -limit : d > limit ? limit : d;
            q[i] = format == NIB_F8_E4M3FN ? nib_f32_to_f8_e4m3fn(d)
                   : format == NIB_F8_E5M2 ? nib_f32_to_f8_e5m2(d)
                                           : nib_f32_to_f8_e4m3fnuz(d);
        }
    }
}

static int value_of(uint8_t q, bool is_signed) { return is_signed ? (int8_t)q : q; }

static void dequantize_scaled(float *out, const uint8_t *q, int64_t groups, int64_t G,
                              bool is_signed, const float *scale, const int32_t *zero,
                              nib_dtype math) {
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = g * G; i < (g + 1) * G; i++) {
            const int steps = value_of(q[i], is_signed) - (zero ? zero[g] : 0);
            out[i] = round_to((float)steps * scale[g], math);
        }
}

static void dequantize_shifted(float *out, const uint8_t *q, int64_t groups, int64_t G,
                               bool is_signed, const float *scale, const float *add,
                               nib_dtype math) {
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = g * G; i < (g + 1) * G; i++) {
            const float product = round_to((float)value_of(q[i], is_signed) * scale[g], math);
            out[i] = round_to(product + add[g], math);
        }
}

static void install(nib_kernels *k) {
    k->quantize_scaled = quantize_scaled;
    k->quantize_divided = quantize_divided;
    k->quantize_lines = quantize_lines;
    k->quantize_f8 = quantize_f8;
    k->dequantize_scaled = dequantize_scaled;
    k->dequantize_shifted = dequantize_shifted;
}
const nib_kernel_set nib_kernels_quantize_ref = {.name = "quantize_ref", .install = install};
