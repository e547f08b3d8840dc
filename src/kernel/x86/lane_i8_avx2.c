/* lane_i8_avx2.c: 8-bit inputs with weights in lanes of less than 8 bits.
 *
 * Up to twelve rows, which are four of digits: codes unpacked in registers and met by four rows at
 * once, so that weights are read once, as they lie in memory. More rows: tiles over a panel
 * unpacked to bytes. */
#include "kernel/x86/lane_few_planes_avx2.h"
#include "kernel/x86/lane_tiles_avx2.h"

/* ---- few rows ---- */

/* One cell of R rows into 16-bit sums c, q[r] + at being its inputs. */
INLINE void few_cell(const int bits, const int R, __m256i c[4][2], const uint8_t *codes,
                     const uint8_t *const q[4], const int at) {
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    __m256i low = lane_load(codes), high = lane_load(codes + 32);
    lane_fetch(codes, LANE_AHEAD);
    lane_keep_two(&low, &high);
    LANE_UNROLL
    for (int j = 0; j < 8 / bits; j++) {
        __m256i a = _mm256_and_si256(_mm256_srli_epi16(low, bits * j), mask);
        __m256i b = _mm256_and_si256(_mm256_srli_epi16(high, bits * j), mask);
        lane_keep_two(&a, &b);
        LANE_UNROLL
        for (int r = 0; r < R; r++) {
            const __m256i x = lane_four(q[r] + at + 4 * j);
            c[r][0] = _mm256_add_epi16(c[r][0], _mm256_maddubs_epi16(a, x));
            c[r][1] = _mm256_add_epi16(c[r][1], _mm256_maddubs_epi16(b, x));
        }
        lane_keep(R, c);
    }
}

/* R rows of 4-bit or 2-bit codes, panel by panel. */
INLINE void few_rows(const int bits, const int R, float *y, int64_t ldy, const nib_rows_i8 *rows,
                     const nib_lane_weight *w, int64_t panel, int64_t panels) {
    const int columns = 32 / bits, unrolled = 32 / columns;
    const int64_t cells = (w->G + columns - 1) / columns, depth = bits == 4 ? 4 : 8;
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t p = panel; p < panel + panels; p++) {
        const uint8_t *codes = w->codes + p * w->panel_bytes, *q[4];
        for (int r = 0; r < 4; r++) q[r] = (const uint8_t *)rows->q + (r < R ? r : 0) * rows->ld;
        /* Three rows or more leave no register for these. */
        float y_all[4][NIB_PANEL] = {0};
        int32_t parts[4][NIB_PANEL];
        const int32_t *sums = rows->sums;
        for (int64_t g = 0; g < w->groups; g++, sums++) {
            bool begun = false; /* the sum of this group, whose beginning is in `parts` */
            int64_t left = cells;
            do {
                __m256i c[4][2], t[4][2];
                LANE_UNROLL
                for (int r = 0; r < 4; r++) c[r][0] = c[r][1] = _mm256_setzero_si256();
                int64_t run = left < depth ? left : depth;
                left -= run;
                for (; run >= unrolled; run -= unrolled, codes += 64 * unrolled) {
                    lane_keep_rows(R, q);
                    LANE_UNROLL
                    for (int i = 0; i < unrolled; i++)
                        few_cell(bits, R, c, codes + 64 * i, q, columns * i);
                    for (int r = 0; r < R; r++) q[r] += 32;
                }
                for (; run; run--, codes += 64) {
                    few_cell(bits, R, c, codes, q, 0);
                    for (int r = 0; r < R; r++) q[r] += columns;
                }
                LANE_UNROLL
                for (int r = 0; r < R; r++) {
                    const __m256i zero = lane_start(w, sums[r * w->groups]);
                    for (int h = 0; h < 2; h++)
                        t[r][h] = _mm256_add_epi32(begun ? lane_load(parts[r] + 8 * h) : zero,
                                                   _mm256_madd_epi16(c[r][h], ones));
                }
                if (left) {
                    LANE_UNROLL
                    for (int r = 0; r < R; r++)
                        for (int h = 0; h < 2; h++)
                            _mm256_storeu_si256((__m256i *)(parts[r] + 8 * h), t[r][h]);
                    begun = true;
                    continue;
                }
                const lane_pair v = lane_group(w, p, g);
                LANE_UNROLL
                for (int r = 0; r < R; r++)
                    for (int h = 0; h < 2; h++) {
                        float *at = y_all[r] + 8 * h;
                        _mm256_storeu_ps(at, lane_flush(w, v.scale[h], v.offset[h], t[r][h],
                                                        sums[r * w->groups], _mm256_loadu_ps(at)));
                    }
            } while (left);
        }
        LANE_UNROLL
        for (int r = 0; r < R; r++) lane_finish(y, ldy, rows, r, w, p, y_all[r]);
    }
}

#define FEW_ROWS(bits, R)                                                                          \
    static void few_##bits##_##R(float *y, int64_t ldy, const nib_rows_i8 *rows,                   \
                                 const nib_lane_weight *w, int64_t panel, int64_t panels) {        \
        few_rows(bits, R, y, ldy, rows, w, panel, panels);                                         \
    }
FEW_ROWS(4, 1)
FEW_ROWS(4, 2)
FEW_ROWS(4, 3)
FEW_ROWS(4, 4)
FEW_ROWS(2, 1)
FEW_ROWS(2, 2)
FEW_ROWS(2, 3)
FEW_ROWS(2, 4)

static void deep_rows(const lane_block *b, const uint8_t *q, int64_t ldq, const int32_t *sums,
                      int64_t M, float *y, int32_t *parts) {
    lane_block_rows(LANE_DEEP, 0, b, q, ldq, sums, M, y, parts);
}
static void pairs_rows(const lane_block *b, const uint8_t *q, int64_t ldq, const int32_t *sums,
                       int64_t M, float *y, int32_t *parts) {
    lane_block_rows(LANE_PAIRS, 0, b, q, ldq, sums, M, y, parts);
}
static void single_rows(const lane_block *b, const uint8_t *q, int64_t ldq, const int32_t *sums,
                        int64_t M, float *y, int32_t *parts) {
    lane_block_rows(LANE_SINGLE, 0, b, q, ldq, sums, M, y, parts);
}
/* By what the depth of 16-bit sums allows: 1 to 4 bits, 5 and 6, 7. */
static const lane_method deep = {lane_unpack, lane_groups, deep_rows, lane_finish};
static const lane_method pairs = {lane_unpack, lane_groups, pairs_rows, lane_finish};
static const lane_method single = {lane_unpack, lane_groups, single_rows, lane_finish};

typedef void few_function(float *, int64_t, const nib_rows_i8 *, const nib_lane_weight *, int64_t,
                          int64_t);

static void lane_i8(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                    const nib_lane_weight *w, int64_t panel, int64_t panels, void *scratch) {
    static few_function *const few[2][LANE_FEW] = {{few_4_1, few_4_2, few_4_3, few_4_4},
                                                   {few_2_1, few_2_2, few_2_3, few_2_4}};
    if (M <= 0) return;
    if (M <= 3 * LANE_FEW && w->lane == NIB_LANE_WX) {
        lane_few_planes(y, ldy, rows, M, w, panel, panels);
    } else if (M <= 3 * LANE_FEW) {
        const int64_t most = lane_even_turns(M);
        for (int64_t p = panel; p < panel + panels; p++)
            for (int64_t m = 0; m < M;
                 m += most) { /* all but the first find the panel in a cache */
                const int64_t R = M - m < most ? M - m : most;
                const nib_rows_i8 from = lane_rows_from(rows, m, w->groups);
                few[w->lane == NIB_LANE_W2][R - 1](y + m * ldy, ldy, &from, w, p, 1);
            }
    } else {
        lane_many_rows(w->bits < 5   ? &deep
                       : w->bits < 7 ? &pairs
                                     : &single,
                       y, ldy, rows, M, w, panel, panels, scratch);
    }
}

static void install(nib_kernels *k) {
    k->lane_i8[NIB_LANE_W4] = lane_i8;
    k->lane_i8[NIB_LANE_W2] = lane_i8;
    k->lane_i8[NIB_LANE_WX] = lane_i8;
}
const nib_kernel_set nib_kernels_lane_i8_avx2 = {
    .name = "lane_i8_avx2", .needs = NIB_CPU_AVX2, .install = install};
