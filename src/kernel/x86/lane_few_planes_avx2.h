/* lane_few_planes_avx2.h: few rows of 8-bit inputs with codes in planes, by vpmaddubsw. */
#ifndef NIB_KERNEL_X86_LANE_FEW_PLANES_AVX2_H
#define NIB_KERNEL_X86_LANE_FEW_PLANES_AVX2_H
#include "kernel/x86/lane_planes_avx2.h"

/* A chunk of R rows, q their inputs, into 32-bit sums t. */
INLINE void lane_few_chunk(const int bits, const int R, __m256i t[4][2], lane_chunk at,
                           const uint8_t *const q[4]) {
    const int depth = lane_depth(bits) < 8 ? lane_depth(bits) : 8;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i c[4][2];
    LANE_UNROLL
    for (int j = 0; j < 8; j++) {
        __m256i a = lane_put_together(bits, at, j, 0), b = lane_put_together(bits, at, j, 1);
        lane_keep_two(&a, &b);
        LANE_UNROLL
        for (int r = 0; r < R; r++) {
            const __m256i x = lane_four(q[r] + 4 * j);
            const __m256i low = _mm256_maddubs_epi16(a, x), high = _mm256_maddubs_epi16(b, x);
            c[r][0] = j % depth ? _mm256_add_epi16(c[r][0], low) : low;
            c[r][1] = j % depth ? _mm256_add_epi16(c[r][1], high) : high;
        }
        lane_keep(R, c);
        if ((j + 1) % depth) continue;
        LANE_UNROLL
        for (int r = 0; r < R; r++)
            for (int h = 0; h < 2; h++)
                t[r][h] = _mm256_add_epi32(t[r][h], _mm256_madd_epi16(c[r][h], ones));
    }
}

/* R rows of one panel. */
INLINE void lane_few_of_planes(const int bits, const int R, float *y, int64_t ldy,
                               const nib_rows_i8 *rows, const nib_lane_weight *w, int64_t panel) {
    lane_chunk at = lane_chunk_at(w, panel, 0);
    float y_all[4][NIB_PANEL] = {0};
    const uint8_t *q[4];
    for (int r = 0; r < 4; r++) q[r] = (const uint8_t *)rows->q + (r < R ? r : 0) * rows->ld;
    const int32_t *sums = rows->sums;
    for (int64_t g = 0; g < w->groups; g++, sums++) {
        __m256i t[4][2];
        LANE_UNROLL
        for (int r = 0; r < R; r++) t[r][0] = t[r][1] = lane_start(w, sums[r * w->groups]);
        for (int64_t left = w->G; left > 0; left -= 32) {
            lane_fetch_chunk(bits, at);
            lane_keep_rows(R, q);
            lane_few_chunk(bits, R, t, at, q);
            at.four += 256, at.two += 128, at.one += 64;
            for (int r = 0; r < R; r++) q[r] += 32;
        }
        const lane_pair v = lane_group(w, panel, g);
        LANE_UNROLL
        for (int r = 0; r < R; r++)
            for (int h = 0; h < 2; h++) {
                float *to = y_all[r] + 8 * h;
                _mm256_storeu_ps(to, lane_flush(w, v.scale[h], v.offset[h], t[r][h],
                                                sums[r * w->groups], _mm256_loadu_ps(to)));
            }
    }
    LANE_UNROLL
    for (int r = 0; r < R; r++) lane_finish(y, ldy, rows, r, w, panel, y_all[r]);
}

typedef void lane_few_function(float *, int64_t, const nib_rows_i8 *, const nib_lane_weight *,
                               int64_t);

#define LANE_FEW_OF(bits, R)                                                                       \
    static void lane_few_##bits##_##R(float *y, int64_t ldy, const nib_rows_i8 *rows,              \
                                      const nib_lane_weight *w, int64_t panel) {                   \
        lane_few_of_planes(bits, R, y, ldy, rows, w, panel);                                       \
    }
#define LANE_FEW_OF_ALL(bits) LANE_FEW_OF(bits, 1) LANE_FEW_OF(bits, 2) LANE_FEW_OF(bits, 4)
LANE_FEW_OF_ALL(1)
LANE_FEW_OF_ALL(3)
LANE_FEW_OF_ALL(5)
LANE_FEW_OF_ALL(6)
LANE_FEW_OF_ALL(7)

/* Any few rows: fours, then two, then one, a panel at a time, which the cache then holds. */
static void lane_few_planes(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                            const nib_lane_weight *w, int64_t panel, int64_t panels) {
    static lane_few_function *const few[8][3] = {[1] = {lane_few_1_1, lane_few_1_2, lane_few_1_4},
                                                 [3] = {lane_few_3_1, lane_few_3_2, lane_few_3_4},
                                                 [5] = {lane_few_5_1, lane_few_5_2, lane_few_5_4},
                                                 [6] = {lane_few_6_1, lane_few_6_2, lane_few_6_4},
                                                 [7] = {lane_few_7_1, lane_few_7_2, lane_few_7_4}};
    for (int64_t p = panel; p < panel + panels; p++)
        for (int64_t m = 0; m < M;) {
            const int which = M - m >= 4 ? 2 : M - m >= 2 ? 1 : 0;
            const nib_rows_i8 rest = lane_rows_from(rows, m, w->groups);
            few[w->bits][which](y + m * ldy, ldy, &rest, w, p);
            m += 1 << which;
        }
}
#endif
