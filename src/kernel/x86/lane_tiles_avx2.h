/* lane_tiles_avx2.h: many rows of 8-bit inputs with weights in lanes, in tiles of 4 rows by 16
 * channels.
 * Codes are unpacked to a byte each, or to 16 bits. */
#ifndef NIB_KERNEL_X86_LANE_TILES_AVX2_H
#define NIB_KERNEL_X86_LANE_TILES_AVX2_H
#include "kernel/x86/lane_i8_avx2.h"

/* How a tile multiplies four columns of 16 channels with a row. */
typedef enum lane_step {
    LANE_DEEP,   /* vpmaddubsw, sums of `depth` cells in 16 bits */
    LANE_PAIRS,  /* vpmaddubsw of two cells, then vpmaddwd with ones */
    LANE_SINGLE, /* vpmaddubsw, then vpmaddwd with ones at once */
    LANE_WIDE,   /* codes and inputs widened to 16 bits as columns (0, 2), (1, 3): vpmaddwd */
} lane_step;

enum { LANE_DEEP_ROWS = 3 };

/* What four columns of 16 channels do to R rows of sums, q[r] + at being their inputs. `ahead`:
 * bytes from these codes to those that are to be fetched, or 0. */
INLINE void lane_cell(const lane_step step, const int ahead, const int R, const bool begin,
                      __m256i c[4][2], const uint8_t *w, const uint8_t *const q[4], const int at) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i low = lane_load(w), high = lane_load(w + 32);
    if (ahead) lane_fetch(w, ahead);
    lane_keep_two(&low, &high);
    LANE_UNROLL
    for (int r = 0; r < R; r++) {
        const __m256i x = lane_four(q[r] + at);
        if (step == LANE_WIDE) {
            c[r][0] = _mm256_add_epi32(c[r][0], _mm256_madd_epi16(low, x));
            c[r][1] = _mm256_add_epi32(c[r][1], _mm256_madd_epi16(high, x));
            continue;
        }
        const __m256i a = _mm256_maddubs_epi16(low, x), b = _mm256_maddubs_epi16(high, x);
        if (step == LANE_SINGLE) {
            c[r][0] = _mm256_add_epi32(c[r][0], _mm256_madd_epi16(a, ones));
            c[r][1] = _mm256_add_epi32(c[r][1], _mm256_madd_epi16(b, ones));
        } else {
            c[r][0] = begin ? a : _mm256_add_epi16(c[r][0], a);
            c[r][1] = begin ? b : _mm256_add_epi16(c[r][1], b);
        }
    }
    lane_keep(R, c);
}

/* Two cells into 32-bit sums t. */
INLINE void lane_two_cells(const int R, __m256i t[4][2], const uint8_t *w,
                           const uint8_t *const q[4], const int at) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i low = lane_load(w), high = lane_load(w + 32);
    __m256i next_low = lane_load(w + 64), next_high = lane_load(w + 96);
    lane_keep_two(&low, &high);
    lane_keep_two(&next_low, &next_high);
    LANE_UNROLL
    for (int r = 0; r < R; r++) {
        const __m256i x = lane_four(q[r] + at), next = lane_four(q[r] + at + 4);
        const __m256i a =
            _mm256_add_epi16(_mm256_maddubs_epi16(low, x), _mm256_maddubs_epi16(next_low, next));
        const __m256i b =
            _mm256_add_epi16(_mm256_maddubs_epi16(high, x), _mm256_maddubs_epi16(next_high, next));
        t[r][0] = _mm256_add_epi32(t[r][0], _mm256_madd_epi16(a, ones));
        t[r][1] = _mm256_add_epi32(t[r][1], _mm256_madd_epi16(b, ones));
    }
    lane_keep(R, t);
}

/* `cells` of them, on from *w and q. */
INLINE void lane_cells(const lane_step step, const int ahead, const int R, __m256i c[4][2],
                       const uint8_t **w, const uint8_t *q[4], int64_t cells) {
    bool begin = step == LANE_DEEP;
    if (begin && cells >= 8) {
        lane_keep_rows(R, q);
        LANE_UNROLL
        for (int j = 0; j < 8; j++) lane_cell(step, ahead, R, j == 0, c, *w + 64 * j, q, 4 * j);
        cells -= 8, *w += 512, begin = false;
        for (int r = 0; r < R; r++) q[r] += 32;
    }
    if (begin)
        for (int r = 0; r < R; r++) c[r][0] = c[r][1] = _mm256_setzero_si256();
    for (; cells >= 8; cells -= 8, *w += 512) {
        lane_keep_rows(R, q);
        LANE_UNROLL
        for (int j = 0; j < 8; j++)
            if (step != LANE_PAIRS)
                lane_cell(step, ahead, R, false, c, *w + 64 * j, q, 4 * j);
            else if (j % 2)
                lane_two_cells(R, c, *w + 64 * (j - 1), q, 4 * (j - 1));
        for (int r = 0; r < R; r++) q[r] += 32;
    }
    for (; cells; cells--, *w += 64) {
        lane_keep_rows(R, q);
        lane_cell(step == LANE_PAIRS ? LANE_SINGLE : step, ahead, R, false, c, *w, q, 0);
        for (int r = 0; r < R; r++) q[r] += 4;
    }
}

/* R rows' sums t over segment s of a block, or over a run of it: onto what `parts` holds of the
 * group if it has begun, and into y if it ends, else back into `parts`. */
INLINE void lane_settle(const int R, const lane_block *b, int64_t s, int mid, bool begun, bool ends,
                        __m256i t[4][2], const int32_t *sums, float *y, int32_t *parts) {
    const __m256i minus_mid = _mm256_set1_epi32(-mid);
    if (begun) {
        LANE_UNROLL
        for (int r = 0; r < R; r++)
            for (int h = 0; h < 2; h++)
                t[r][h] = _mm256_add_epi32(t[r][h], lane_load(parts + r * NIB_PANEL + 8 * h));
    } else if (mid) {
        LANE_UNROLL
        for (int r = 0; r < R; r++) {
            const __m256i sum = _mm256_set1_epi32(sums[r * b->w->groups]);
            const __m256i zero = _mm256_mullo_epi32(sum, minus_mid);
            for (int h = 0; h < 2; h++) t[r][h] = _mm256_add_epi32(t[r][h], zero);
        }
    }
    if (!ends) {
        LANE_UNROLL
        for (int r = 0; r < R; r++)
            for (int h = 0; h < 2; h++)
                _mm256_storeu_si256((__m256i *)(parts + r * NIB_PANEL + 8 * h), t[r][h]);
        return;
    }
    const lane_values *v = b->values + s;
    const __m256 scale[2] = {_mm256_loadu_ps(v->scale), _mm256_loadu_ps(v->scale + 8)};
    const __m256 offset[2] = {_mm256_loadu_ps(v->offset), _mm256_loadu_ps(v->offset + 8)};
    LANE_UNROLL
    for (int r = 0; r < R; r++)
        for (int h = 0; h < 2; h++) {
            float *at = y + r * NIB_PANEL + 8 * h;
            _mm256_storeu_ps(at, lane_flush(b->w, scale[h], offset[h], t[r][h],
                                            sums[r * b->w->groups], _mm256_loadu_ps(at)));
        }
}

/* R rows of a block: q at its first column, rows ldq bytes apart; sums at its first group. */
INLINE void lane_tile(const lane_step step, const int ahead, const int R, const lane_block *b,
                      const uint8_t *q_0, int64_t ldq, const int32_t *sums, float *y,
                      int32_t *parts) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int64_t depth = step == LANE_DEEP ? lane_depth(b->w->bits) : INT64_MAX;
    const int64_t cells = step == LANE_WIDE ? 2 * b->cells : b->cells;
    const uint8_t *w = b->codes, *q[4];
    for (int r = 0; r < 4; r++) q[r] = q_0 + (r < R ? r : 0) * ldq;
    for (int64_t s = 0; s < b->segments; s++, sums++) {
        bool begun = !b->starts;
        int64_t left = cells;
        do {
            __m256i c[4][2];
            const int64_t run = left < depth ? left : depth;
            left -= run;
            LANE_UNROLL
            for (int r = 0; r < 4; r++) c[r][0] = c[r][1] = _mm256_setzero_si256();
            lane_cells(step, ahead, R, c, &w, q, run);
            LANE_UNROLL
            for (int r = 0; r < R && step == LANE_DEEP; r++)
                for (int h = 0; h < 2; h++) c[r][h] = _mm256_madd_epi16(c[r][h], ones);
            lane_settle(R, b, s, b->w->mid, begun, b->ends && !left, c, sums, y, parts);
            begun = true;
        } while (left);
    }
}

/* Three rows of LANE_DEEP: their sums of 16 and of 32 bits are all in registers until a group ends,
 * and three rows are the digits of one. */
INLINE void lane_deep_tile(const lane_block *b, const uint8_t *q_0, int64_t ldq,
                           const int32_t *sums, float *y, int32_t *parts) {
    enum { R = LANE_DEEP_ROWS };
    const __m256i ones = _mm256_set1_epi16(1);
    const int64_t depth = lane_depth(b->w->bits);
    const uint8_t *w = b->codes, *q[4] = {q_0, q_0 + ldq, q_0 + 2 * ldq, q_0};
    for (int64_t s = 0; s < b->segments; s++, sums++) {
        __m256i c[4][2], t[4][2];
        LANE_UNROLL
        for (int r = 0; r < R; r++) t[r][0] = t[r][1] = _mm256_setzero_si256();
        for (int64_t left = b->cells, run; left; left -= run) {
            run = left < depth ? left : depth;
            lane_cells(LANE_DEEP, 0, R, c, &w, q, run);
            LANE_UNROLL
            for (int r = 0; r < R; r++)
                for (int h = 0; h < 2; h++)
                    t[r][h] = _mm256_add_epi32(t[r][h], _mm256_madd_epi16(c[r][h], ones));
        }
        lane_settle(R, b, s, b->w->mid, !b->starts, b->ends, t, sums, y, parts);
    }
}

/* M rows of a block. */
INLINE void lane_block_rows(const lane_step step, const int ahead, const lane_block *b,
                            const uint8_t *q, int64_t ldq, const int32_t *sums, int64_t M, float *y,
                            int32_t *parts) {
    const int64_t groups = b->w->groups;
    int64_t m = 0;
    for (; step == LANE_DEEP && !ahead && m + LANE_DEEP_ROWS <= M; m += LANE_DEEP_ROWS)
        lane_deep_tile(b, q + m * ldq, ldq, sums + m * groups, y + m * NIB_PANEL,
                       parts + m * NIB_PANEL);
    for (; m + LANE_FEW <= M; m += LANE_FEW)
        lane_tile(step, ahead, LANE_FEW, b, q + m * ldq, ldq, sums + m * groups, y + m * NIB_PANEL,
                  parts + m * NIB_PANEL);
    q += m * ldq, sums += m * groups, y += m * NIB_PANEL, parts += m * NIB_PANEL;
    switch (M - m) {
    case 3:
        lane_tile(step, ahead, 3, b, q, ldq, sums, y, parts);
        break;
    case 2:
        lane_tile(step, ahead, 2, b, q, ldq, sums, y, parts);
        break;
    case 1:
        lane_tile(step, ahead, 1, b, q, ldq, sums, y, parts);
        break;
    default:
        break;
    }
}
#endif
