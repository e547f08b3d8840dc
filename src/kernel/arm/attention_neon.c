/* attention_neon.c: queries against a part of a float cache; head elements in lanes. */
#include "kernel/arm/attention_neon.h"

/* out[0 .. d): sums over tokens of p[t] v[t], 32 elements at a time: 8 chains hide the latency. */
static void weighted_rows(float *out, const float *p, const float *v, int64_t ldv, int64_t tokens,
                          int64_t d) {
    int64_t i = 0;
    for (; i + 32 <= d; i += 32) {
        float32x4_t acc[8];
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) acc[j] = vdupq_n_f32(0);
        for (int64_t t = 0; t < tokens; t++)
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++)
                acc[j] = vfmaq_n_f32(acc[j], vld1q_f32(v + t * ldv + i + 4 * j), p[t]);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) vst1q_f32(out + i + 4 * j, acc[j]);
    }
    for (; i < d; i += 4) {
        float32x4_t acc = vdupq_n_f32(0);
        for (int64_t t = 0; t < tokens; t++)
            acc = vfmaq_n_f32(acc, neon_load_first(v + t * ldv + i, (size_t)(d - i)), p[t]);
        neon_store_first(out + i, (size_t)(d - i), acc);
    }
}

static void attention_f32(float *out, float *max, float *sum, const nib_attention_rows *a,
                          const nib_kv_part *part) {
    const float *k = part->k, *v = part->v;
    const int64_t d = a->d;
    for (int64_t r = 0; r < a->rows; r++) {
        const int first = a->first[r], end = a->end[r];
        float p[BLOCK] = {0}, y[NIB_ATTENTION_HEAD], part_max, part_sum;
        for (int t = first; t < end; t++)
            p[t] = neon_dot(a->q + r * d, k + t * d, (size_t)d) * a->scale;
        weigh(p, a, r, &part_max, &part_sum);
        weighted_rows(y, p + first, v + first * d, d, end - first, d);
        merge_part(out + r * d, &max[r], &sum[r], y, part_max, part_sum, d);
    }
}

static void install(nib_kernels *k) {
    k->attention_f32 = attention_f32;
    k->attention_merge_f32 = merge_part;
}
const nib_kernel_set nib_kernels_attention_neon = {
    .name = "attention_neon", .needs = NIB_CPU_NEON, .install = install};
