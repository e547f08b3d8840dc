/* lane_wx_avx512.c: float inputs and weights of 1, 3, 5, 6 or 7 bits in planes of lanes.
 *
 * Codes are put together and widened 64 columns at a time into L1, where M <= 8 rows meet them. */
#include "kernel/x86/lane_avx512.h"

enum { CHUNK = 64, MOST = 4 }; /* columns and panels at a time */

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

/* Four columns from k on, k a multiple of 4: bytes 0 to 3 of a cell at one place. */
INLINE void four_codes(__m512i u[4], const plane planes[3], int64_t k) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) u[j] = _mm512_setzero_si512();
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        const int bits = 4 >> i, columns = 32 / bits;
        if (!planes[i].bits) continue;
        const __m512i cell = _mm512_loadu_si512(planes[i].codes + k / columns * 64);
        const __m512i at = _mm512_srl_epi32(cell, _mm_cvtsi32_si128((int)(k % columns) / 4 * bits));
        const __m512i ones = _mm512_set1_epi32((1 << bits) - 1);
        const __m128i up = _mm_cvtsi32_si128(planes[i].up);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512i code = _mm512_and_si512(_mm512_srli_epi32(at, (unsigned)(8 * j)), ones);
            u[j] = _mm512_or_si512(u[j], _mm512_sll_epi32(code, up));
        }
    }
}

/* Columns [k, k + kc) of a panel, k a multiple of 4, whole cells of padding and all. */
static void weights(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    plane planes[3];
    planes_of(planes, w, panel);
    const __m512 mid = _mm512_set1_ps((float)w->mid);
    const int64_t stop = k + kc;
    while (k < stop) {
        const lane_group at = lane_group_of(w, panel, k / w->G);
        const int64_t group_end = (k / w->G + 1) * w->G, end = group_end < stop ? group_end : stop;
        for (; k < end; k += 4) {
            __m512i u[4];
            four_codes(u, planes, k);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                if (k + j >= end) break;
                const __m512 c = _mm512_sub_ps(_mm512_cvtepi32_ps(u[j]), mid);
                _mm512_storeu_ps(out, _mm512_fmadd_ps(at.scale, c, at.offset));
                out += NIB_PANEL;
            }
        }
        k = end;
    }
}

static void widen(float *out, const nib_lane_weight *w, int64_t panel, int64_t k, int64_t kc) {
    const __mmask16 channels = lane_mask(w, panel);
    weights(out, w, panel, k, kc);
    if (channels == 0xffff) return;
    for (int64_t i = 0; i < kc; i++)
        _mm512_storeu_ps(out + i * NIB_PANEL, _mm512_maskz_loadu_ps(channels, out + i * NIB_PANEL));
}

INLINE void block(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                  int64_t ldx, int64_t M, const nib_lane_weight *w, int64_t panel, int64_t last) {
    float chunk[MOST][CHUNK * NIB_PANEL];
    __m512 acc[NIB_LANE_ROWS][MOST];
    const float *x_m[NIB_LANE_ROWS];
    for (int m = 0; m < rows; m++) {
        x_m[m] = x + (m < M ? m : M - 1) * ldx;
        for (int p = 0; p < panels; p++) acc[m][p] = _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < w->K; k += CHUNK) {
        const int64_t kc = w->K - k < CHUNK ? w->K - k : CHUNK;
        for (int p = 0; p < panels; p++)
            weights(chunk[p], w, panel + p < last ? panel + p : last, k, kc);
        for (int64_t i = 0; i < kc; i++)
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++) {
                const __m512 x_k = _mm512_set1_ps(x_m[m][k + i]);
#pragma GCC unroll 4
                for (int p = 0; p < panels; p++)
                    acc[m][p] =
                        _mm512_fmadd_ps(x_k, _mm512_loadu_ps(chunk[p] + i * NIB_PANEL), acc[m][p]);
            }
    }
    for (int p = 0; p < panels && panel + p <= last; p++)
        for (int m = 0; m < rows && m < M; m++)
            _mm512_mask_storeu_ps(y + m * ldy + (panel + p) * NIB_PANEL, lane_mask(w, panel + p),
                                  acc[m][p]);
}

INLINE void all(const int rows, const int panels, float *y, int64_t ldy, const float *x,
                int64_t ldx, int64_t M, const nib_lane_weight *w, int64_t panel, int64_t end) {
    for (; panel < end; panel += panels) block(rows, panels, y, ldy, x, ldx, M, w, panel, end - 1);
}

static void lane_rows(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
                      const nib_lane_weight *w, int64_t panel, int64_t panels) {
    if (M == 1)
        all(1, 4, y, ldy, x, ldx, M, w, panel, panel + panels);
    else if (M > 0 && M <= 4)
        all(4, 4, y, ldy, x, ldx, M, w, panel, panel + panels);
    else if (M > 0)
        all(8, 2, y, ldy, x, ldx, M, w, panel, panel + panels);
}

static void install(nib_kernels *k) {
    k->lane_rows[NIB_LANE_WX] = lane_rows;
    k->lane_widen[NIB_LANE_WX] = widen;
}
const nib_kernel_set nib_kernels_lane_wx_avx512 = {
    .name = "lane_wx_avx512", .needs = NIB_CPU_AVX512, .install = install};
