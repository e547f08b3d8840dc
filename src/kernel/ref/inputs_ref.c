/* inputs_ref.c: rows of inputs to 8-bit codes, and sums of codes. */
#include <math.h>

#include "kernel/kernel.h"
#include "kernel/ref/float_ref.h"

static int8_t code_of(float steps, int32_t zero, int qmin, int qmax) {
    if (isnan(steps)) return 0;
    const float low = (float)(qmin - zero), high = (float)(qmax - zero), r = rintf(steps);
    return (int8_t)((int)(r < low ? low : r > high ? high : r) + zero);
}

static void quantize_row(int8_t *q, float *scale, int32_t *zero, const float *x, int64_t n,
                         int bits, float eps) {
    const int qmax = (1 << (bits - 1)) - 1, qmin = -qmax - 1;
    const float steps = (float)(qmax - qmin);
    float low = 0, high = 0;
    bool nan = false;
    for (int64_t i = 0; i < n; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
        nan |= isnan(x[i]);
    }
    if (nan) low = high = NAN;
    float s = zero ? (high - low) / steps : (-low > high ? -low : high) / (steps / 2);
    if (s < eps) s = eps;
    *scale = s;
    int32_t z = 0;
    if (zero) {
        const float point = (float)qmin - rintf(low / s);
        if (!isnan(point)) z = point > (float)qmax ? qmax : point < (float)qmin ? qmin : (int)point;
        *zero = z;
    }
    const float inverse = 1.0f / s;
    for (int64_t i = 0; i < n; i++) q[i] = code_of(x[i] * inverse, z, qmin, qmax);
}

static void rms_norm_quantize_i8(int8_t *q, float *scale, int32_t *zero, float *normed,
                                 const float *x, const float *weight, int64_t n, float epsilon,
                                 int bits, float eps) {
    const float factor = 1.0f / sqrtf(ref_dot(x, x, (size_t)n) / (float)n + epsilon);
    for (int64_t i = 0; i < n; i++) normed[i] = weight ? x[i] * factor * weight[i] : x[i] * factor;
    quantize_row(q, scale, zero, normed, n, bits, eps);
}

static void digits_row_i8(int8_t *q, int64_t ld, float scale[NIB_DIGITS], const float *x,
                          int64_t n) {
    float most = 0;
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= most)) most = isnan(x[i]) ? INFINITY : fabsf(x[i]);
    const bool finite = most < INFINITY;
    int e = -105;
    if (finite && most >= 0x1p-105f) e = ilogbf(most);
    for (int d = 0; d < NIB_DIGITS; d++) scale[d] = finite ? ldexpf(1, e - 5 - 8 * d) : NAN;
    const float inverse = ldexpf(1, 21 - e);
    for (int64_t i = 0; i < n; i++) {
        int32_t rest = finite ? (int32_t)rintf(x[i] * inverse) : 0;
        for (int d = NIB_DIGITS - 1; d >= 0; d--) {
            const int32_t low = (rest + 128) & 255;
            q[d * ld + i] = (int8_t)(low - 128);
            rest = (rest - (low - 128)) / 256;
        }
    }
}

static void add_digits(float *y, const float *t, int64_t ld, size_t n) {
    for (size_t i = 0; i < n; i++, t++) y[i] = (t[0] + t[ld]) + t[2 * ld];
}

static void sums_i8(int32_t *sums, const int8_t *q, int64_t groups, int64_t G) {
    for (int64_t g = 0; g < groups; g++) {
        sums[g] = 0;
        for (int64_t i = g * G; i < (g + 1) * G; i++) sums[g] += q[i];
    }
}

static void quantize_rows_i8(int8_t *q, int64_t ldq, float *scale, int32_t *zero, int32_t *sums,
                             const float *x, int64_t rows, int64_t n, int bits, float eps) {
    for (int64_t m = 0; m < rows; m++, q += ldq) {
        quantize_row(q, scale + m, zero ? zero + m : NULL, x + m * n, n, bits, eps);
        if (sums) sums_i8(sums + m, q, 1, n);
    }
}

static void install(nib_kernels *k) {
    k->quantize_rows_i8 = quantize_rows_i8;
    k->rms_norm_quantize_i8 = rms_norm_quantize_i8;
    k->digits_row_i8 = digits_row_i8;
    k->add_digits = add_digits;
    k->sums_i8 = sums_i8;
}
const nib_kernel_set nib_kernels_inputs_ref = {.name = "inputs_ref", .install = install};
