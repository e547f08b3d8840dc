/* reduce_neon.c: 16 lanes are four vectors; ranges compare floats as integers. */
#include "kernel/arm/float_neon.h"
#include "kernel/kernel.h"

static float dot_f32(const float *x, const float *y, size_t n) { return neon_dot(x, y, n); }
static float sum_f32(const float *x, size_t n) { return neon_sum(x, n); }
static float sum_squares_f32(const float *x, size_t n) { return neon_dot(x, x, n); }

/* Integers in the order of the floats, -0 before +0; the map is its own inverse. */
static int32x4_t rank(float32x4_t x) {
    const int32x4_t bits = vreinterpretq_s32_f32(x);
    const uint32x4_t flip = vshrq_n_u32(vreinterpretq_u32_s32(vshrq_n_s32(bits, 31)), 1);
    return veorq_s32(bits, vreinterpretq_s32_u32(flip));
}
static float of_rank(int32_t r) {
    return vgetq_lane_f32(vreinterpretq_f32_s32(vdupq_n_s32(r < 0 ? r ^ 0x7fffffff : r)), 0);
}

static void minmax_f32(float *min, float *max, const float *x, int64_t groups, int64_t G) {
    const int32_t rank_inf = 0x7f800000, rank_minus_inf = (int32_t)0x807fffffu;
    for (int64_t g = 0; g < groups; g++, x += G) {
        int32x4_t low = vdupq_n_s32(INT32_MAX), high = vdupq_n_s32(INT32_MIN);
        for (int64_t i = 0; i < G; i += 4) {
            const size_t rest = (size_t)(G - i);
            const int32x4_t a = rank(neon_load_first(x + i, rest));
            const uint32x4_t first = neon_first(rest);
            low = vminq_s32(low, vbslq_s32(first, a, low));
            high = vmaxq_s32(high, vbslq_s32(first, a, high));
        }
        const int32_t least = vminvq_s32(low), most = vmaxvq_s32(high);
        const bool nan = least < rank_minus_inf || most > rank_inf;
        min[g] = nan ? NAN : of_rank(least);
        max[g] = nan ? NAN : of_rank(most);
    }
}

static void absmax_f32(float *out, const float *x, int64_t groups, int64_t G) {
    const uint32x4_t all_but_sign = vdupq_n_u32(0x7fffffff);
    for (int64_t g = 0; g < groups; g++, x += G) {
        uint32x4_t most = vdupq_n_u32(0);
        for (int64_t i = 0; i < G; i += 4) {
            const float32x4_t v = neon_load_first(x + i, (size_t)(G - i));
            most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(v), all_but_sign));
        }
        out[g] = of_rank((int32_t)vmaxvq_u32(most));
    }
}

/* Lanes 0 to 7 of the sums, two a vector, and the largest error of each. */
typedef struct losses {
    float64x2_t kept[4], lost[4], most;
} losses;

static void add_losses(losses *l, const float *w, const float *v) {
    for (int i = 0; i < 4; i++) {
        const float64x2_t a = vcvt_f64_f32(vld1_f32(w + 2 * i));
        const float64x2_t error = vsubq_f64(a, vcvt_f64_f32(vld1_f32(v + 2 * i)));
        l->kept[i] = vaddq_f64(l->kept[i], vmulq_f64(a, a));
        l->lost[i] = vaddq_f64(l->lost[i], vmulq_f64(error, error));
        l->most = vmaxq_f64(l->most, vabsq_f64(error));
    }
}

static double tree(const float64x2_t lane[4]) {
    const float64x2_t two = vaddq_f64(vaddq_f64(lane[0], lane[2]), vaddq_f64(lane[1], lane[3]));
    return vgetq_lane_f64(two, 0) + vgetq_lane_f64(two, 1);
}

static void loss_f32(double *signal, double *noise, double *most, const float *w, const float *v,
                     size_t n) {
    losses l = {.most = vdupq_n_f64(0)};
    for (int i = 0; i < 4; i++) l.kept[i] = l.lost[i] = vdupq_n_f64(0);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) add_losses(&l, w + i, v + i);
    if (i < n) { /* the lanes that are missing add zeros */
        float a[8] = {0}, b[8] = {0};
        memcpy(a, w + i, (n - i) * sizeof(float));
        memcpy(b, v + i, (n - i) * sizeof(float));
        add_losses(&l, a, b);
    }
    *signal = tree(l.kept);
    *noise = tree(l.lost);
    *most = vmaxvq_f64(l.most);
}

static void install(nib_kernels *k) {
    k->dot_f32 = dot_f32;
    k->sum_f32 = sum_f32;
    k->sum_squares_f32 = sum_squares_f32;
    k->minmax_f32 = minmax_f32;
    k->absmax_f32 = absmax_f32;
    k->loss_f32 = loss_f32;
}
const nib_kernel_set nib_kernels_reduce_neon = {
    .name = "reduce_neon", .needs = NIB_CPU_NEON, .install = install};
