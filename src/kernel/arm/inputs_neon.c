/* inputs_neon.c: a row is read twice: once for its range, once to make codes of it, when it lies in
 * the first-level cache. */
#include "kernel/arm/float_neon.h"
#include "kernel/fixed_point.h"
#include "kernel/kernel.h"

/* Least and greatest, 0 among them, and the largest magnitude as bits, which a NaN puts above those
 * of infinity; NaN passed over by comparisons. */
typedef struct range {
    float32x4_t low, high;
    uint32x4_t most;
} range;

static range range_none(void) { return (range){vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_u32(0)}; }

static void range_add(range *r, float32x4_t x) {
    const uint32x4_t magnitude = vreinterpretq_u32_f32(vabsq_f32(x));
    r->most = vmaxq_u32(r->most, magnitude);
    r->low = vbslq_f32(vcltq_f32(x, r->low), x, r->low);
    r->high = vbslq_f32(vcgtq_f32(x, r->high), x, r->high);
}

/* Codes of a row whose range is known. */
static void codes_by(int8_t *q, float *scale, int32_t *zero, const float *x, int64_t n,
                     const range *r, int bits, float eps) {
    const int qmax = (1 << (bits - 1)) - 1, qmin = -qmax - 1;
    const float steps = (float)(qmax - qmin);
    const bool nan = vmaxvq_u32(r->most) > 0x7f800000u;
    const float low = nan ? NAN : vminvq_f32(r->low), high = nan ? NAN : vmaxvq_f32(r->high);
    float s = zero ? (high - low) / steps : (-low > high ? -low : high) / (steps / 2);
    if (s < eps) s = eps;
    *scale = s;
    int32_t z = 0;
    if (zero) {
        const float point = (float)qmin - rintf(low / s);
        if (!isnan(point)) z = point > (float)qmax ? qmax : point < (float)qmin ? qmin : (int)point;
        *zero = z;
    }
    const float32x4_t inverse = vdupq_n_f32(1.0f / s);
    const float32x4_t least = vdupq_n_f32((float)(qmin - z)), most = vdupq_n_f32((float)(qmax - z));
    for (int64_t i = 0; i < n; i += 4) {
        const size_t rest = (size_t)(n - i);
        const float32x4_t d = vmulq_f32(neon_load_first(x + i, rest), inverse);
        const float32x4_t in_range = vminq_f32(vmaxq_f32(d, least), most);
        const int32x4_t whole = vaddq_s32(vcvtnq_s32_f32(in_range), vdupq_n_s32(z));
        const uint32x4_t code = vandq_u32(vreinterpretq_u32_s32(whole), vceqq_f32(d, d));
        uint8_t bytes[16];
        vst1q_u8(bytes, neon_low_bytes(code, code, code, code));
        memcpy(q + i, bytes, rest < 4 ? rest : 4);
    }
}

static void quantize_row(int8_t *q, float *scale, int32_t *zero, const float *x, int64_t n,
                         int bits, float eps) {
    range r = range_none();
    for (int64_t i = 0; i < n; i += 4) range_add(&r, neon_load_first(x + i, (size_t)(n - i)));
    codes_by(q, scale, zero, x, n, &r, bits, eps);
}

static void rms_norm_quantize_i8(int8_t *q, float *scale, int32_t *zero, float *normed,
                                 const float *x, const float *weight, int64_t n, float epsilon,
                                 int bits, float eps) {
    const float mean = neon_dot(x, x, (size_t)n) / (float)n;
    const float32x4_t factor = vdupq_n_f32(1.0f / sqrtf(mean + epsilon));
    range r = range_none();
    for (int64_t i = 0; i < n; i += 4) {
        const size_t rest = (size_t)(n - i);
        float32x4_t y = vmulq_f32(neon_load_first(x + i, rest), factor);
        if (weight) y = vmulq_f32(y, neon_load_first(weight + i, rest));
        neon_store_first(normed + i, rest, y);
        /* what is not there may be 0 * infinity */
        range_add(&r, vbslq_f32(neon_first(rest), y, vdupq_n_f32(0)));
    }
    codes_by(q, scale, zero, normed, n, &r, bits, eps);
}

/* Adding 128 to a digit before it is cut off carries what the next is to have, and turns its
 * topmost bit. */
static void digits_row_i8(int8_t *q, int64_t ld, float scale[NIB_DIGITS], const float *x,
                          int64_t n) {
    range r = range_none();
    for (int64_t i = 0; i < n; i += 4) range_add(&r, neon_load_first(x + i, (size_t)(n - i)));
    const fixed_point to = fixed_point_of(vmaxvq_u32(r.most), scale);
    const uint32x4_t half = vdupq_n_u32(0x8080);
    for (int64_t i = 0; i < n; i += 4) {
        const size_t rest = (size_t)(n - i), here = rest < 4 ? rest : 4;
        const float32x4_t d = vmulq_n_f32(neon_load_first(x + i, rest), to.inverse);
        uint32x4_t c = vdupq_n_u32(0);
        if (to.finite) c = vreinterpretq_u32_s32(vcvtnq_s32_f32(d));
        c = veorq_u32(vaddq_u32(c, half), half);
        uint8_t bytes[16];
        vst1q_u8(bytes, neon_low_bytes(vshrq_n_u32(c, 16), vshrq_n_u32(c, 8), c, c));
        for (int k = 0; k < NIB_DIGITS; k++) memcpy(q + k * ld + i, bytes + 4 * k, here);
    }
}

static void add_digits(float *y, const float *t, int64_t ld, size_t n) {
    for (size_t i = 0; i < n; i += 4, t += 4) {
        const size_t rest = n - i;
        const float32x4_t v = vaddq_f32(neon_load_first(t, rest), neon_load_first(t + ld, rest));
        neon_store_first(y + i, rest, vaddq_f32(v, neon_load_first(t + 2 * ld, rest)));
    }
}

static void sums_i8(int32_t *sums, const int8_t *q, int64_t groups, int64_t G) {
    for (int64_t g = 0; g < groups; g++, q += G) {
        int32x4_t wide = vdupq_n_s32(0);
        int64_t i = 0;
        for (; i + 16 <= G; i += 16) wide = vpadalq_s16(wide, vpaddlq_s8(vld1q_s8(q + i)));
        int32_t sum = vaddvq_s32(wide);
        for (; i < G; i++) sum += q[i];
        sums[g] = sum;
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
const nib_kernel_set nib_kernels_inputs_neon = {
    .name = "inputs_neon", .needs = NIB_CPU_NEON, .install = install};
