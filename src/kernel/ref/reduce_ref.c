/* reduce_ref.c: sums over 16 lanes and a tree, and the range of groups. */
#include <math.h>

#include "kernel/kernel.h"
#include "kernel/ref/float_ref.h"

static float dot_f32(const float *x, const float *y, size_t n) { return ref_dot(x, y, n); }
static float sum_f32(const float *x, size_t n) { return ref_sum(x, n); }
static float sum_squares_f32(const float *x, size_t n) { return ref_dot(x, x, n); }

static void minmax_f32(float *min, float *max, const float *x, int64_t groups, int64_t G) {
    for (int64_t g = 0; g < groups; g++) {
        int32_t low = INT32_MAX, high = INT32_MIN;
        for (int64_t i = 0; i < G; i++) {
            const int32_t rank = ref_rank(x[g * G + i]);
            if (rank < low) low = rank;
            if (rank > high) high = rank;
        }
        const bool nan = low < ref_rank(-INFINITY) || high > ref_rank(INFINITY);
        min[g] = nan ? NAN : ref_of_rank(low);
        max[g] = nan ? NAN : ref_of_rank(high);
    }
}

static void absmax_f32(float *out, const float *x, int64_t groups, int64_t G) {
    for (int64_t g = 0; g < groups; g++) {
        uint32_t most = 0; /* magnitudes order as integers; a NaN is above all */
        for (int64_t i = 0; i < G; i++) {
            const uint32_t magnitude = nib_f32_bits(x[g * G + i]) & 0x7fffffffu;
            if (magnitude > most) most = magnitude;
        }
        out[g] = nib_bits_f32(most);
    }
}

static void loss_f32(double *signal, double *noise, double *most, const float *w, const float *v,
                     size_t n) {
    double kept[8] = {0}, lost[8] = {0};
    *most = 0;
    for (size_t i = 0; i < n; i++) {
        const double a = (double)w[i], error = a - (double)v[i];
        kept[i % 8] += a * a;
        lost[i % 8] += error * error;
        if (fabs(error) > *most) *most = fabs(error);
    }
    for (int half = 4; half; half /= 2) {
        for (int i = 0; i < half; i++) {
            kept[i] += kept[i + half];
            lost[i] += lost[i + half];
        }
    }
    *signal = kept[0];
    *noise = lost[0];
}

static void install(nib_kernels *k) {
    k->dot_f32 = dot_f32;
    k->sum_f32 = sum_f32;
    k->sum_squares_f32 = sum_squares_f32;
    k->minmax_f32 = minmax_f32;
    k->absmax_f32 = absmax_f32;
    k->loss_f32 = loss_f32;
}
const nib_kernel_set nib_kernels_reduce_ref = {.name = "reduce_ref", .install = install};
