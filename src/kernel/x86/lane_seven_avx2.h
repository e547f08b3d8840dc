/* lane_seven_avx2.h: many rows of inputs within [-64, 64] with 8-bit weights in lanes, two cells at
 * a time where that is exact.
 *
 * vpmaddubsw takes the inputs as its unsigned side, x = q + 64 <= 128, and the codes as the signed
 * one, c = u - 128. Four products of a 16-bit lane then fit if the positive and the negative c
 * among them each sum to at most 255. Real weights, most of them small, do so nearly everywhere; a
 * block's 32 columns that do not are done one cell at a time, for which 2 * 128 * 128 fits as any
 * negative sum and 2 * 128 * 127 as any positive one. What x adds to a group is 64 times the sum
 * of its c, which a block's sums begin without. */
#ifndef NIB_KERNEL_X86_LANE_SEVEN_AVX2_H
#define NIB_KERNEL_X86_LANE_SEVEN_AVX2_H
#include "kernel/x86/lane_tiles_avx2.h"

enum {
    SEVEN_KC = 512,
    SEVEN_ROWS = 128,
    SEVEN_PANELS = 8, /* that a block of inputs serves */
    SEVEN_STRIDE = SEVEN_KC + 64,
};

typedef struct seven_scratch {
    uint8_t codes[SEVEN_KC * NIB_PANEL]; /* c */
    lane_values values[LANE_BLOCK_GROUPS];
    int32_t starts[LANE_BLOCK_GROUPS][NIB_PANEL]; /* -64 times the sums of c */
    bool small[SEVEN_KC / 32]; /* whether two cells fit, for eight after eight of a group */
    float y[SEVEN_PANELS][SEVEN_ROWS * NIB_PANEL];
    int32_t parts[SEVEN_PANELS][SEVEN_ROWS * NIB_PANEL];
    uint8_t q[SEVEN_ROWS * SEVEN_STRIDE]; /* x */
} seven_scratch;
_Static_assert(sizeof(seven_scratch) <= NIB_LANE_SCRATCH, "the scratch holds a block");

/* Codes of a block as c, with what the scratch says of them. */
static void seven_codes(seven_scratch *at, const lane_block *b, const uint8_t *codes) {
    const __m256i flip = _mm256_set1_epi8(-128), zero = _mm256_setzero_si256();
    const __m256i bytes = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
    const __m256i most = _mm256_set1_epi16(255);
    uint8_t *out = at->codes;
    bool *small = at->small;
    for (int64_t s = 0; s < b->segments; s++) {
        __m256i sum[2] = {zero, zero};
        for (int64_t left = b->cells; left > 0; left -= 8) {
            __m256i more = zero;
            for (int64_t i = 0; i < 8 && i < left; i += 2)
                for (int h = 0; h < 2; h++) {
                    __m256i up = zero, down = zero; /* sums of positive, of -negative c */
                    for (int64_t j = i; j < i + 2 && j < left; j++) {
                        const __m256i c =
                            _mm256_xor_si256(lane_load(codes + j * 64 + 32 * h), flip);
                        const __m256i positive = _mm256_max_epi8(c, zero);
                        const __m256i negative = _mm256_sub_epi8(_mm256_abs_epi8(c), positive);
                        _mm256_storeu_si256((__m256i *)(out + j * 64 + 32 * h), c);
                        up = _mm256_add_epi16(up, _mm256_maddubs_epi16(positive, bytes));
                        down = _mm256_add_epi16(down, _mm256_maddubs_epi16(negative, bytes));
                    }
                    more = _mm256_or_si256(more, _mm256_cmpgt_epi16(up, most));
                    more = _mm256_or_si256(more, _mm256_cmpgt_epi16(down, most));
                    sum[h] = _mm256_add_epi32(sum[h],
                                              _mm256_madd_epi16(_mm256_sub_epi16(up, down), ones));
                }
            *small++ = _mm256_testz_si256(more, more);
            const int64_t done = left < 8 ? left : 8;
            codes += done * 64, out += done * 64;
        }
        for (int h = 0; h < 2; h++)
            _mm256_storeu_si256((__m256i *)(at->starts[s] + 8 * h),
                                _mm256_sub_epi32(zero, _mm256_slli_epi32(sum[h], 6)));
    }
}

/* One cell, or two, into 32-bit sums t, q[r] + at being its inputs. */
INLINE void seven_cells(const bool two, const int R, __m256i t[4][2], const uint8_t *w,
                        const uint8_t *const q[4], const int at) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i c[2][2] = {{lane_load(w), lane_load(w + 32)}};
    lane_keep_two(&c[0][0], &c[0][1]);
    if (two) {
        c[1][0] = lane_load(w + 64), c[1][1] = lane_load(w + 96);
        lane_keep_two(&c[1][0], &c[1][1]);
    }
    LANE_UNROLL
    for (int r = 0; r < R; r++) {
        const __m256i x = lane_four(q[r] + at);
        __m256i a = _mm256_maddubs_epi16(x, c[0][0]), b = _mm256_maddubs_epi16(x, c[0][1]);
        if (two) {
            const __m256i next = lane_four(q[r] + at + 4);
            a = _mm256_add_epi16(a, _mm256_maddubs_epi16(next, c[1][0]));
            b = _mm256_add_epi16(b, _mm256_maddubs_epi16(next, c[1][1]));
        }
        t[r][0] = _mm256_add_epi32(t[r][0], _mm256_madd_epi16(a, ones));
        t[r][1] = _mm256_add_epi32(t[r][1], _mm256_madd_epi16(b, ones));
    }
    lane_keep(R, t);
}

/* R rows of a block; the arguments are those of lane_tile. */
INLINE void seven_tile(const int R, const seven_scratch *at, const lane_block *b,
                       const uint8_t *q_0, const int32_t *sums, float *y, int32_t *parts) {
    const uint8_t *w = at->codes, *q[4];
    const bool *small = at->small;
    for (int r = 0; r < 4; r++) q[r] = q_0 + (r < R ? r : 0) * SEVEN_STRIDE;
    for (int64_t s = 0; s < b->segments; s++, sums++) {
        __m256i t[4][2];
        LANE_UNROLL
        for (int r = 0; r < 4; r++)
            for (int h = 0; h < 2; h++) t[r][h] = lane_load(at->starts[s] + 8 * h);
        int64_t left = b->cells;
        for (; left >= 8; left -= 8, w += 512) {
            lane_keep_rows(R, q);
            if (*small++) {
                LANE_UNROLL
                for (int j = 0; j < 8; j += 2) seven_cells(true, R, t, w + 64 * j, q, 4 * j);
            } else {
                LANE_UNROLL
                for (int j = 0; j < 8; j++) seven_cells(false, R, t, w + 64 * j, q, 4 * j);
            }
            for (int r = 0; r < R; r++) q[r] += 32;
        }
        for (; left; left--, w += 64) { /* the end of a whole row */
            lane_keep_rows(R, q);
            seven_cells(false, R, t, w, q, 0);
            for (int r = 0; r < R; r++) q[r] += 4;
        }
        lane_settle(R, b, s, b->w->mid - 128, !b->starts, b->ends, t, sums, y, parts);
    }
}

/* Rows [m, m + count) and panels [p, p + panels), at most SEVEN_ROWS and SEVEN_PANELS. */
static void seven_block(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t m, int64_t count,
                        const nib_lane_weight *w, int64_t p, int64_t panels, seven_scratch *at) {
    for (int64_t i = 0; i < panels; i++)
        memset(at->y[i], 0, (size_t)count * NIB_PANEL * sizeof(float));
    int64_t k = 0;
    do {
        lane_block b = lane_next_block(w, k, SEVEN_KC);
        b.values = at->values;
        for (int64_t i = 0; i < count; i++) /* rows go on with zeros to a multiple of 64 */
            for (int64_t j = 0; j < b.columns; j += 32)
                _mm256_storeu_si256((__m256i *)(at->q + i * SEVEN_STRIDE + j),
                                    _mm256_add_epi8(lane_load(rows->q + (m + i) * rows->ld + k + j),
                                                    _mm256_set1_epi8(64)));
        for (int64_t i = 0; i < panels; i++) {
            seven_codes(at, &b, w->codes + (p + i) * w->panel_bytes + k * NIB_PANEL);
            lane_groups(at->values, w, p + i, b.group, b.segments);
            const int32_t *sums = rows->sums + m * w->groups + b.group;
            for (int64_t r = 0; r < count; r += 4, sums += 4 * w->groups) {
                const uint8_t *q = at->q + r * SEVEN_STRIDE;
                float *y_r = at->y[i] + r * NIB_PANEL;
                int32_t *parts = at->parts[i] + r * NIB_PANEL;
                if (count - r >= 4) seven_tile(4, at, &b, q, sums, y_r, parts);
                if (count - r == 3) seven_tile(3, at, &b, q, sums, y_r, parts);
                if (count - r == 2) seven_tile(2, at, &b, q, sums, y_r, parts);
                if (count - r == 1) seven_tile(1, at, &b, q, sums, y_r, parts);
            }
        }
        k += b.columns;
    } while (k < w->K);
    for (int64_t j = 0; j < count; j++)
        for (int64_t i = 0; i < panels; i++)
            lane_finish(y, ldy, rows, m + j, w, p + i, at->y[i] + j * NIB_PANEL);
}

static void seven_many_rows(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                            const nib_lane_weight *w, int64_t panel, int64_t panels,
                            seven_scratch *at) {
    for (int64_t m = 0; m < M; m += SEVEN_ROWS)
        for (int64_t p = 0; p < panels; p += SEVEN_PANELS)
            seven_block(y, ldy, rows, m, M - m < SEVEN_ROWS ? M - m : SEVEN_ROWS, w, panel + p,
                        panels - p < SEVEN_PANELS ? panels - p : SEVEN_PANELS, at);
}
#endif
