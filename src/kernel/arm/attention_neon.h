/* attention_neon.h: what the NEON kernels of attention share: the softmax over a part, and how its
 * results are folded into those of parts before. */
#ifndef NIB_KERNEL_ARM_ATTENTION_NEON_H
#define NIB_KERNEL_ARM_ATTENTION_NEON_H
#include "kernel/arm/float_neon.h"
#include "kernel/kernel.h"

#define INLINE static inline __attribute__((always_inline))
enum { BLOCK = NIB_ATTENTION_BLOCK, R_MOST = 4 };

/* What ALiBi adds to the scores of row r. */
static inline void lean(float p[BLOCK], const nib_attention_rows *a, int64_t r) {
    static const int32_t four[4] = {0, 1, 2, 3};
    for (int t = 0; t < BLOCK; t += 4) {
        const int32x4_t from = vaddq_s32(vld1q_s32(four), vdupq_n_s32(t - a->own[r]));
        vst1q_f32(p + t, vfmaq_n_f32(vld1q_f32(p + t), vcvtq_f32_s32(from), a->slope[r]));
    }
}

/* Scores of row r to weights in place, 0 for tokens that it does not see, which changes no sum. */
static inline void weigh(float p[BLOCK], const nib_attention_rows *a, int64_t r, float *max,
                         float *sum) {
    const int first = a->first[r], end = a->end[r];
    if (a->slope) lean(p, a, r);
    const float most = neon_max(p + first, (size_t)(end - first));
    for (int t = 0; t < first; t++) p[t] = 0;
    for (int t = end; t < BLOCK; t++) p[t] = 0;
    for (int t = first; t < end; t += 4) {
        const size_t rest = (size_t)(end - t);
        const float32x4_t below = vsubq_f32(neon_load_first(p + t, rest), vdupq_n_f32(most));
        neon_store_first(p + t, rest, neon_exp(below));
    }
    *max = most + 0.0f;
    *sum = neon_sum(p, BLOCK);
}

/* kernel.h: attention_merge_f32 */
static inline void merge_part(float *out, float *max, float *sum, const float *part, float part_max,
                              float part_sum, int64_t d) {
    const float most = part_max > *max ? part_max : *max;
    const float32x4_t old = neon_exp(vdupq_n_f32(*max - most));
    const float32x4_t new = neon_exp(vdupq_n_f32(part_max - most));
    for (int64_t i = 0; i < d; i += 4) {
        const size_t rest = (size_t)(d - i);
        const float32x4_t kept = vmulq_f32(neon_load_first(out + i, rest), old);
        neon_store_first(out + i, rest, vfmaq_f32(kept, neon_load_first(part + i, rest), new));
    }
    *sum = fmaf(part_sum, vgetq_lane_f32(new, 0), *sum * vgetq_lane_f32(old, 0));
    *max = most;
}

/* What a part gives up to four rows. */
typedef struct results {
    float out[R_MOST * NIB_ATTENTION_HEAD], max[R_MOST], sum[R_MOST];
} results;

static inline void merge_rows(float *out, float *max, float *sum, int64_t row, int R,
                              const results *part, int64_t d) {
    for (int r = 0; r < R; r++)
        merge_part(out + (row + r) * d, &max[row + r], &sum[row + r], part->out + r * d,
                   part->max[r], part->sum[r], d);
}
#endif
