/* attention_codes_neon.h: queries against a part of a cache of integers. Tokens (keys) and columns
 * (values) are the lanes, four to a vector. The file that includes this says how codes of 15 bits
 * are kept, and how they meet four lanes:
 *   codes, a type       split(codes *, r, const int16_t *code, n)     n codes of row r
 *   product(sums[R_MOST], R, u4, x, cells, const codes *, at)
 *     sums[r] = codes from `at` on of R rows times `cells` cells, 64 bytes apart, of which x is the
 *     quarter; bytes are u, or for 8 bits u - 128 */
#ifndef NIB_KERNEL_ARM_ATTENTION_CODES_NEON_H
#define NIB_KERNEL_ARM_ATTENTION_CODES_NEON_H
#include "kernel/kv_place.h"

enum { G = NIB_KV_GROUP };

/* 64 weights times the scales of the values, 0 where nothing is seen, as codes of row r; -> their
 * step. */
static inline float weight_codes(codes *to, int r, const float p[BLOCK], const float scale[BLOCK],
                                 int first, int end) {
    float w[BLOCK] = {0};
    int16_t code[BLOCK];
    for (int t = first; t < end; t++) w[t] = p[t] * scale[t];
    float32x4_t most = vdupq_n_f32(0);
    for (int t = 0; t < BLOCK; t += 4) most = vmaxq_f32(most, vld1q_f32(w + t)); /* a NaN stays */
    const float step = vmaxvq_f32(most) / 32512.0f;
    const float inverse = step >= 0x1p-126f ? 1.0f / step : 0.0f;
    for (int t = 0; t < BLOCK; t += 4) /* a NaN becomes 0 */
        vst1_s16(code + t, vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(w + t), inverse))));
    split(to, r, code, BLOCK);
    return step;
}

/* Values of columns [begin, end): sums * step - low, or without the last. */
INLINE void values(float *out, int64_t d, int64_t begin, int64_t end, const int R, const bool u4,
                   const uint8_t *v, const codes *w, const float *step, const float *low) {
    for (int64_t i = begin; i < end && i < d; i += 4) {
        int32x4_t sums[R_MOST];
        product(sums, R, u4, v + i / 16 * (u4 ? 512 : 1024) + i % 16 * 4, u4 ? 8 : 16, w, 0);
        for (int r = 0; r < R; r++) {
            const float32x4_t x = vcvtq_f32_s32(sums[r]);
            const float32x4_t y =
                u4 ? vfmaq_n_f32(vdupq_n_f32(-low[r]), x, step[r]) : vmulq_n_f32(x, step[r]);
            neon_store_first(out + r * d + i, (size_t)(d - i), y);
        }
    }
}

INLINE void rows_i8(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d, dp = nib_kv_dp(d);
    codes q, w;
    results found;
    float p[R_MOST][BLOCK], step[R_MOST];
    for (int r = 0; r < R; r++) split(&q, r, a->code + (row + r) * dp, dp);
    for (int t = 0; t < BLOCK; t += 4) {
        int32x4_t sums[R_MOST];
        product(sums, R, false, (const uint8_t *)part->k + t / 16 * dp * 16 + t % 16 * 4, dp / 4,
                &q, 0);
        const float32x4_t scale = vld1q_f32((const float *)part->k_scale + t);
        for (int r = 0; r < R; r++)
            vst1q_f32(p[r] + t,
                      vmulq_n_f32(vmulq_f32(vcvtq_f32_s32(sums[r]), scale), a->factor[row + r]));
    }
    for (int r = 0; r < R; r++) {
        const int first = a->first[row + r], end = a->end[row + r];
        weigh(p[r], a, row + r, &found.max[r], &found.sum[r]);
        step[r] = weight_codes(&w, r, p[r], part->v_scale, first, end);
    }
    values(found.out, d, 0, dp, R, false, part->v, &w, step, NULL);
    merge_rows(out, max, sum, row, R, &found, d);
}

static inline float32x4_t bf16_at(const void *x, int64_t i) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t *)x + i), 16));
}

INLINE void rows_i4(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d, dp = nib_kv_dp(d), groups = (d + G - 1) / G;
    codes q, w;
    results found;
    float p[R_MOST][BLOCK], step[R_MOST], low[R_MOST], scale[BLOCK], shift[BLOCK];
    for (int r = 0; r < R; r++) split(&q, r, a->code + (row + r) * dp, dp);
    for (int t = 0; t < BLOCK; t += 4) {
        const uint8_t *k = (const uint8_t *)part->k + t / 16 * dp * 8 + t % 16 * 4;
        float32x4_t score[R_MOST];
        for (int r = 0; r < R; r++) score[r] = vdupq_n_f32(0);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t begin = g * G, cells = (dp - begin < G ? dp - begin : G) / 8;
            const int64_t at = nib_kv_k4_scale(t, g, groups);
            const float32x4_t by = bf16_at(part->k_scale, at), off = bf16_at(part->k_shift, at);
            int32x4_t sums[R_MOST];
            product(sums, R, true, k + begin * 8, cells, &q, begin);
            for (int r = 0; r < R; r++) {
                const float total = (float)a->code_sum[(row + r) * groups + g];
                score[r] = vfmaq_f32(score[r], by, vcvtq_f32_s32(sums[r]));
                score[r] = vfmsq_f32(score[r], off, vdupq_n_f32(total));
            }
        }
        for (int r = 0; r < R; r++) vst1q_f32(p[r] + t, vmulq_n_f32(score[r], a->factor[row + r]));
    }
    for (int r = 0; r < R; r++) weigh(p[r], a, row + r, &found.max[r], &found.sum[r]);
    for (int64_t g = 0; g < groups; g++) {
        for (int t = 0; t < BLOCK; t += 4) {
            vst1q_f32(scale + t, bf16_at(part->v_scale, g * BLOCK + t));
            vst1q_f32(shift + t, bf16_at(part->v_shift, g * BLOCK + t));
        }
        for (int r = 0; r < R; r++) {
            const int first = a->first[row + r], end = a->end[row + r];
            float lane[16] = {0};
            for (int t = first; t < end; t++) lane[t % 16] = fmaf(p[r][t], shift[t], lane[t % 16]);
            const float32x4_t lanes[4] = {vld1q_f32(lane), vld1q_f32(lane + 4), vld1q_f32(lane + 8),
                                          vld1q_f32(lane + 12)};
            low[r] = neon_tree(lanes);
            step[r] = weight_codes(&w, r, p[r], scale, first, end);
        }
        values(found.out, d, g * G, (g + 1) * G, R, true, part->v, &w, step, low);
    }
    merge_rows(out, max, sum, row, R, &found, d);
}

#define KERNEL(name)                                                                               \
    static void attention_##name(float *out, float *max, float *sum, const nib_attention_rows *a,  \
                                 const nib_kv_part *part) {                                        \
        int64_t r = 0;                                                                             \
        for (; r + 4 <= a->rows; r += 4) rows_##name(out, max, sum, a, r, 4, part);                \
        for (; r + 2 <= a->rows; r += 2) rows_##name(out, max, sum, a, r, 2, part);                \
        for (; r < a->rows; r++) rows_##name(out, max, sum, a, r, 1, part);                        \
    }
KERNEL(i8)
KERNEL(i4)
#endif
