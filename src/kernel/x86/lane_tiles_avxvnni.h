/* lane_tiles_avxvnni.h: tiles of 8-bit inputs with codes of a byte each, by vpdpbusd of 256 bits:
 * four products of an unsigned and a signed byte into each 32-bit lane, exact for all codes. */
#ifndef NIB_KERNEL_X86_LANE_TILES_AVXVNNI_H
#define NIB_KERNEL_X86_LANE_TILES_AVXVNNI_H
#include "kernel/x86/lane_i8_avx2.h"

/* acc += four products a lane. Written out, because gcc 12 copies every accumulator around the
 * intrinsic. */
#ifdef __AVXVNNI__
#define LANE_DOT(acc, u, q) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(u), "x"(q))
#else
#define LANE_DOT(acc, u, q) ((acc) = _mm256_dpbusd_avx_epi32(acc, u, q))
#endif

enum { LANE_VNNI_ROWS = 6 }; /* of a tile: 12 sums, 2 vectors of codes, 1 of inputs */

/* One cell for R rows, q their inputs at its columns, into the sums of one chain. */
INLINE void lane_vnni_cell(const int R, __m256i t[LANE_VNNI_ROWS][2], const uint8_t *cell,
                           const uint8_t *q, int64_t ldq) {
    const __m256i low = lane_load(cell), high = lane_load(cell + 32);
    LANE_UNROLL
    for (int r = 0; r < R; r++) {
        const __m256i x = lane_four(q + r * ldq);
        LANE_DOT(t[r][0], low, x);
        LANE_DOT(t[r][1], high, x);
    }
}

/* R rows of a block. One or two keep two chains of sums, so that a product need not wait for the
 * one before. The last cell may be longer than the rows: these go on with zeros. */
INLINE void lane_vnni_tile(const int R, const lane_block *b, const uint8_t *q, int64_t ldq,
                           const int32_t *sums, float *y, int32_t *parts) {
    const int64_t groups = b->w->groups;
    const uint8_t *codes = b->codes;
    for (int64_t s = 0; s < b->segments; s++, sums++) {
        __m256i t[LANE_VNNI_ROWS][2], more[LANE_VNNI_ROWS][2];
        LANE_UNROLL
        for (int r = 0; r < R; r++)
            for (int h = 0; h < 2; h++) {
                t[r][h] = b->starts ? lane_start(b->w, sums[r * groups])
                                    : lane_load(parts + r * NIB_PANEL + 8 * h);
                more[r][h] = _mm256_setzero_si256();
            }
        int64_t left = b->cells;
        for (; left >= 2; left -= 2, codes += 128, q += 8) {
            if (R <= 2) lane_fetch(codes, LANE_AHEAD), lane_fetch(codes, LANE_AHEAD + 64);
            lane_vnni_cell(R, t, codes, q, ldq);
            lane_vnni_cell(R, R <= 2 ? more : t, codes + 64, q + 4, ldq);
        }
        if (left) lane_vnni_cell(R, t, codes, q, ldq), codes += 64, q += 4;
        LANE_UNROLL
        for (int r = 0; r < R; r++)
            for (int h = 0; h < 2; h++) {
                const lane_values *v = b->values + s;
                const __m256i sum = R <= 2 ? _mm256_add_epi32(t[r][h], more[r][h]) : t[r][h];
                float *at = y + r * NIB_PANEL + 8 * h;
                if (!b->ends) {
                    _mm256_storeu_si256((__m256i *)(parts + r * NIB_PANEL + 8 * h), sum);
                    continue;
                }
                _mm256_storeu_ps(at, lane_flush(b->w, _mm256_loadu_ps(v->scale + 8 * h),
                                                _mm256_loadu_ps(v->offset + 8 * h), sum,
                                                sums[r * groups], _mm256_loadu_ps(at)));
            }
    }
}

static void lane_vnni_tiles(const lane_block *b, const uint8_t *q, int64_t ldq, const int32_t *sums,
                            int64_t M, float *y, int32_t *parts) {
    const int64_t groups = b->w->groups;
    for (; M >= LANE_VNNI_ROWS; M -= LANE_VNNI_ROWS) {
        lane_vnni_tile(LANE_VNNI_ROWS, b, q, ldq, sums, y, parts);
        q += LANE_VNNI_ROWS * ldq, sums += LANE_VNNI_ROWS * groups;
        y += LANE_VNNI_ROWS * NIB_PANEL, parts += LANE_VNNI_ROWS * NIB_PANEL;
    }
    if (M == 5) lane_vnni_tile(5, b, q, ldq, sums, y, parts);
    if (M == 4) lane_vnni_tile(4, b, q, ldq, sums, y, parts);
    if (M == 3) lane_vnni_tile(3, b, q, ldq, sums, y, parts);
    if (M == 2) lane_vnni_tile(2, b, q, ldq, sums, y, parts);
    if (M == 1) lane_vnni_tile(1, b, q, ldq, sums, y, parts);
}
#endif
