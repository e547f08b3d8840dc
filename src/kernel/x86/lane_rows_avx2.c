/* lane_rows_avx2.c: float inputs and weights of 8 bits in lanes, M <= 8.
 *
 * A result is one chain of fma over k; two start a cycle and each takes four. One and two rows take
 * four eights of channels at a time, four rows two: four chains beside as many fma that make
 * weights, or eight chains. More sums than eight leave no registers for the rest. */
#include "kernel/x86/lane_floats_avx2.h"

enum {
    LANE_MOST = 4,     /* rows, and eights, at a time */
    LANE_AHEAD = 2048, /* bytes that are asked for before they are needed */
};

/* What a block reads anew from its memory for every four columns, because the registers are for
 * the sums: gcc would keep these in them, and spill those. */
typedef struct lane_constants {
    lane_codec codec;
    __m256 scale[LANE_MOST], offset[LANE_MOST];
} lane_constants;
#define LANE_READ_ANEW(constants) __asm__ volatile("" : : "r"(constants) : "memory")
/* Keeps a sum in its register, and what comes later behind it. */
#define LANE_KEEP(sum) __asm__ volatile("" : "+x"(sum))

INLINE void lane_store(float *y, const nib_lane_weight *w, int64_t eight, __m256 sum) {
    const int64_t left = w->N - eight * 8;
    if (left > 0) avx2_store_first(y + eight * 8, (size_t)left, sum);
}

/* An eight by way of lane_exact. */
__attribute__((noinline)) static void lane_exact_rows(float *y, int64_t ldy, const float *x,
                                                      int64_t ldx, int64_t M,
                                                      const nib_lane_weight *w, int64_t eight) {
    enum { CHUNK = 64 };
    float weights[CHUNK * 8];
    __m256 acc[NIB_LANE_ROWS];
    for (int m = 0; m < NIB_LANE_ROWS; m++) acc[m] = _mm256_setzero_ps();
    for (int64_t k = 0; k < w->K; k += CHUNK) {
        const int64_t kc = w->K - k < CHUNK ? w->K - k : CHUNK;
        lane_exact(weights, 8, w, eight, k, kc);
        for (int64_t i = 0; i < kc; i++)
            for (int64_t m = 0; m < M; m++)
                acc[m] = _mm256_fmadd_ps(_mm256_broadcast_ss(x + m * ldx + k + i),
                                         _mm256_loadu_ps(weights + 8 * i), acc[m]);
    }
    for (int64_t m = 0; m < M; m++) lane_store(y + m * ldy, w, eight, acc[m]);
}

/* The cell at column k, for eights [begin, end). */
INLINE void lane_add_four(const lane_kind kind, const int rows, const int begin, const int end,
                          __m256 acc[LANE_MOST][LANE_MOST], const lane_constants *c,
                          const uint8_t *const at[LANE_MOST / 2], const float *const x_m[LANE_MOST],
                          int64_t k) {
    __m256i four[LANE_MOST];
    LANE_READ_ANEW(c);
#pragma GCC unroll 4
    for (int e = begin; e < end; e++)
        four[e] = lane_four_columns(kind, &c->codec, at[e / 2], lane_offset(kind, e));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m256 v[LANE_MOST];
#pragma GCC unroll 4
        for (int e = begin; e < end; e++) {
            const __m256 number =
                lane_column(kind, &c->codec, at[e / 2], lane_offset(kind, e), four[e], i);
            v[e] = _mm256_fmadd_ps(c->scale[e], number, c->offset[e]);
        }
#pragma GCC unroll 4
        for (int m = 0; m < rows; m++) {
            const __m256 x_k = _mm256_broadcast_ss(x_m[m] + k + i);
#pragma GCC unroll 4
            for (int e = begin; e < end; e++) acc[m][e] = _mm256_fmadd_ps(x_k, v[e], acc[m][e]);
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int e = begin; e < end; e++) LANE_KEEP(acc[m][e]);
}

/* y of `rows` rows and `eights` eights from `first` on, the first half of a panel; those past
 * `last` and past M are computed as those, once more, and not stored. */
INLINE void lane_block(const lane_kind kind, const int rows, const int eights, float *y,
                       int64_t ldy, const float *x, int64_t ldx, int64_t M,
                       const nib_lane_weight *w, int64_t first, int64_t last) {
    const int panels = eights / 2;
    const int together = rows == 2 ? 2 : eights; /* more, and sums are spilled */
    lane_constants c = {.codec = lane_codec_of(kind, w)};
    const float *x_m[LANE_MOST];
    const uint8_t *at[LANE_MOST / 2];
    __m256 acc[LANE_MOST][LANE_MOST];
    int64_t eight[LANE_MOST];
    __m256i bad = _mm256_setzero_si256(), seen = bad; /* scales, narrow floats */
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++) {
        x_m[m] = x + (m < M ? m : M - 1) * ldx;
#pragma GCC unroll 4
        for (int e = 0; e < eights; e++) acc[m][e] = _mm256_setzero_ps();
    }
#pragma GCC unroll 4
    for (int e = 0; e < eights; e++) {
        eight[e] = first + e <= last ? first + e : last - 1 + e % 2;
        if (e % 2 == 0) at[e / 2] = w->codes + eight[e] / 2 * w->panel_bytes;
    }
    for (int64_t g = 0; g < w->groups; g++) {
#pragma GCC unroll 4
        for (int e = 0; e < eights; e++) {
            lane_group of = lane_group_of(w, eight[e], g);
            bad = _mm256_or_si256(bad, lane_rescale(kind, &c.codec, &of.scale));
            c.scale[e] = of.scale, c.offset[e] = of.offset;
        }
        const int64_t end = (g + 1) * w->G;
        int64_t k = g * w->G;
        for (; k + LANE_COLUMNS <= end; k += LANE_COLUMNS) {
            /* past its end a panel is followed by the one this loop has next, not its neighbour */
            const int64_t left = (w->K - k) * NIB_PANEL;
            const int64_t ahead =
                left > LANE_AHEAD ? LANE_AHEAD : LANE_AHEAD + (panels - 1) * w->panel_bytes;
#pragma GCC unroll 2
            for (int p = 0; p < panels; p++) {
                if (kind == FLOAT8) seen = lane_see(&c.codec, seen, at[p]);
                lane_fetch(at[p], ahead);
            }
#pragma GCC unroll 2
            for (int e = 0; e < eights; e += together)
                lane_add_four(kind, rows, e, e + together, acc, &c, at, x_m, k);
#pragma GCC unroll 2
            for (int p = 0; p < panels; p++) at[p] += 64;
        }
        if (k == end) continue;
#pragma GCC unroll 4
        for (int e = 0; e < eights; e++) { /* part of a last cell */
            float rest[LANE_COLUMNS * 8];
            lane_exact(rest, 8, w, eight[e], k, end - k);
            for (int64_t i = 0; i < end - k; i++)
#pragma GCC unroll 4
                for (int m = 0; m < rows; m++)
                    acc[m][e] = _mm256_fmadd_ps(_mm256_broadcast_ss(x_m[m] + k + i),
                                                _mm256_loadu_ps(rest + 8 * i), acc[m][e]);
        }
    }
    if (_mm256_movemask_epi8(bad) || (kind == FLOAT8 && lane_is_odd(&c.codec, seen))) {
        for (int64_t e = first; e < first + eights && e <= last; e++)
            lane_exact_rows(y, ldy, x, ldx, M < rows ? M : rows, w, e);
        return;
    }
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int e = 0; e < eights; e++)
            if (m < M && first + e <= last) lane_store(y + m * ldy, w, first + e, acc[m][e]);
}

/* Two panels at most, so that a cache holds them for the rows from the fifth on. */
INLINE void lane_rows_of(const lane_kind kind, float *y, int64_t ldy, const float *x, int64_t ldx,
                         int64_t M, const nib_lane_weight *w, int64_t panel, int64_t panels) {
    const int64_t last = 2 * (panel + panels) - 1;
    for (int64_t e = 2 * panel; e <= last; e += 4)
        for (int64_t m = 0; m < M; m += 4) {
            const int64_t left = M - m;
            const float *x_m = x + m * ldx;
            float *y_m = y + m * ldy;
            if (left == 1)
                lane_block(kind, 1, 4, y_m, ldy, x_m, ldx, left, w, e, last);
            else if (left == 2)
                lane_block(kind, 2, 4, y_m, ldy, x_m, ldx, left, w, e, last);
            else
                for (int64_t f = e; f < e + 4 && f <= last; f += 2)
                    lane_block(kind, 4, 2, y_m, ldy, x_m, ldx, left, w, f, last);
        }
}

#define LANE_ROWS(name, kind)                                                                      \
    static void name(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,                \
                     const nib_lane_weight *w, int64_t panel, int64_t panels) {                    \
        lane_rows_of(kind, y, ldy, x, ldx, M, w, panel, panels);                                   \
    }

LANE_ROWS(int8, INT8)
LANE_ROWS(uint8, UINT8)
LANE_ROWS(f8, FLOAT8)

static void w8(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t M,
               const nib_lane_weight *w, int64_t panel, int64_t panels) {
    (w->mid ? int8 : uint8)(y, ldy, x, ldx, M, w, panel, panels);
}

static void install(nib_kernels *k) {
    k->lane_rows[NIB_LANE_W8] = w8;
    k->lane_rows[NIB_LANE_F8] = f8;
}
const nib_kernel_set nib_kernels_lane_rows_avx2 = {
    .name = "lane_rows_avx2", .needs = NIB_CPU_AVX2, .install = install};
