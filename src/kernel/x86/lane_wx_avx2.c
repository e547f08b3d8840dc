/* lane_wx_avx2.c: float inputs and weights of 1, 3, 5, 6 or 7 bits in planes of lanes.
 *
 * Codes are put together and widened 64 columns at a time into L1, where M <= 8 rows meet them. */
#include "kernel/x86/lane_floats_avx2.h"

enum { CHUNK = 64, MOST = 2 }; /* columns and panels at a time */

/* The planes of a panel; of one that is not there `bits` is 0 and its codes are not read. */
typedef struct plane {
    const uint8_t *codes;
    int bits, up; /* where its bits go in a code */
} plane;

INLINE void planes_of(plane planes[3], const nib_lane_weight *w, int64_t panel) {
    const uint8_t *codes = w->codes + panel * w->panel_bytes;
    const int64_t Kp = (w->K + 31) / 32 * 32;
    int up = 0;
    for (int i = 0; i < 3; i++) {
        const int bits = w->bits & (4 >> i);
        planes[i] = (plane){codes, bits, up};
        codes += Kp * NIB_PANEL * bits / 8;
        up += bits;
    }
}

/* Four columns of eight channels from k on, k a multiple of 4: bytes 0 to 3 at one place. */
INLINE void four_codes(__m256i u[4], const plane planes[3], int64_t k, int half) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) u[j] = _mm256_setzero_si256();
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        const int bits = 4 >> i, columns = 32 / bits;
        if (!planes[i].bits) continue;
        const __m256i cell =
            _mm256_loadu_si256((const void *)(planes[i].codes + k / columns * 64 + 32 * half));
        const __m256i at = _mm256_srl_epi32(cell, _mm_cvtsi32_si128((int)(k % columns) / 4 * bits));
        const __m256i ones = _mm256_set1_epi32((1 << bits) - 1);
        const __m128i up = _mm_cvtsi32_si128(planes[i].up);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m256i code = _mm256_and_si256(_mm256_srli_epi32(at, 8 * j), ones);
            u[j] = _mm256_or_si256(u[j], _mm256_sll_epi32(code, up));
        }
    }
}

/* Columns [k, k + kc) of a panel, k a multiple of 4; what is not in `channels` as zeros. */
static void weights(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc,
                    const __m256i channels[2]) {
    plane planes[3];
    planes_of(planes, w, panel);
    const __m256 mid = _mm256_set1_ps((float)w->mid);
    const int64_t stop = k + kc;
    while (k < stop) {
        const lane_group at = lane_group_of(w, panel, k / w->G);
        const int64_t group_end = (k / w->G + 1) * w->G, end = group_end < stop ? group_end : stop;
        for (; k < end; k += 4, out += 4 * NIB_PANEL)
            for (int h = 0; h < 2; h++) {
                const __m256 there = _mm256_castsi256_ps(channels[h]);
                __m256i u[4];
                four_codes(u, planes, k, h);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    if (k + j >= end) break;
                    const __m256 c = _mm256_sub_ps(_mm256_cvtepi32_ps(u[j]), mid);
                    const __m256 v = _mm256_fmadd_ps(at.scale.v[h], c, at.offset.v[h]);
                    _mm256_storeu_ps(out + j * NIB_PANEL + 8 * h, _mm256_and_ps(v, there));
                }
            }
        k = end;
    }
}

static void widen(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    const __m256i channels[2] = {lane_mask(w, panel, 0), lane_mask(w, panel, 1)};
    weights(out, w, panel, k, kc, channels);
}

INLINE void block(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                  int64_t ldx, int64_t M, const nib_lane_weight *w, int64_t panel, int64_t last) {
    const __m256i every[2] = {_mm256_set1_epi32(-1), _mm256_set1_epi32(-1)};
    float chunk[MOST][CHUNK * NIB_PANEL];
    __m256 acc[NIB_LANE_ROWS][2 * MOST];
    const float *x_m[NIB_LANE_ROWS];
    for (int m = 0; m < rows; m++) {
        x_m[m] = x + (m < M ? m : M - 1) * ldx;
        for (int c = 0; c < 2 * panels; c++) acc[m][c] = _mm256_setzero_ps();
    }
    for (int64_t k = 0; k < w->K; k += CHUNK) {
        const int64_t kc = w->K - k < CHUNK ? w->K - k : CHUNK;
        for (int p = 0; p < panels; p++)
            weights(chunk[p], w, panel + p < last ? panel + p : last, k, kc, every);
        for (int64_t i = 0; i < kc; i++)
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++) {
                const __m256 x_k = _mm256_broadcast_ss(x_m[m] + k + i);
#pragma GCC unroll 4
                for (int c = 0; c < 2 * panels; c++)
                    acc[m][c] = _mm256_fmadd_ps(
                        x_k, _mm256_loadu_ps(chunk[c / 2] + i * NIB_PANEL + c % 2 * 8), acc[m][c]);
            }
    }
    for (int p = 0; p < panels && panel + p <= last; p++)
        for (int m = 0; m < rows && m < M; m++)
            for (int h = 0; h < 2; h++)
                _mm256_maskstore_ps(y + m * ldy + (panel + p) * NIB_PANEL + 8 * h,
                                    lane_mask(w, panel + p, h), acc[m][2 * p + h]);
}

INLINE void all(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                int64_t ldx, int64_t M, const nib_lane_weight *w, int64_t panel, int64_t end) {
    for (; panel < end; panel += panels) block(rows, panels, y, ldy, x, ldx, M, w, panel, end - 1);
}

static void lane_rows(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
                      const nib_lane_weight *w, int64_t panel, int64_t panels) {
    if (M == 1)
        all(1, 2, y, ldy, x, ldx, M, w, panel, panel + panels);
    else if (M > 0 && M <= 4)
        all(4, 1, y, ldy, x, ldx, M, w, panel, panel + panels);
    else if (M > 0)
        all(8, 1, y, ldy, x, ldx, M, w, panel, panel + panels);
}

static void install(nib_kernels *k) {
    k->lane_rows[NIB_LANE_WX] = lane_rows;
    k->lane_widen[NIB_LANE_WX] = widen;
}
const nib_kernel_set nib_kernels_lane_wx_avx2 = {
    .name = "lane_wx_avx2", .needs = NIB_CPU_AVX2, .install = install};
