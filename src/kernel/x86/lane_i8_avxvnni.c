/* lane_i8_avxvnni.c: 8-bit inputs with weights in lanes of less than 8 bits.
 *
 * Up to twelve rows, which are four of digits: codes unpacked in registers, four columns of 16
 * channels at a time, and met by four rows at once. More rows: tiles over a panel unpacked to
 * bytes. */
#include "kernel/x86/lane_planes_avx2.h"
#include "kernel/x86/lane_tiles_avxvnni.h"

/* Columns of one cell, or of a cell of each plane. */
INLINE int cell_columns(const int bits) { return bits == 4 ? 8 : bits == 2 ? 16 : 32; }

INLINE void advance(const int bits, lane_chunk *at, const int columns) {
    if (bits & 4) at->four += columns * 8;
    if (bits & 2) at->two += columns * 4;
    if (bits & 1) at->one += columns * 2;
}

INLINE void fetch(const int bits, const lane_chunk *at, const int columns) {
    for (int i = 0; i < columns / 8 && bits & 4; i++) lane_fetch(at->four + 64 * i, LANE_AHEAD);
    for (int i = 0; i < columns / 16 && bits & 2; i++) lane_fetch(at->two + 64 * i, LANE_AHEAD / 2);
    if (bits & 1) lane_fetch(at->one, LANE_AHEAD / 4);
}

/* `columns` columns of R rows into sums t; one or two rows keep two chains, so that a product need
 * not wait for the one before. */
INLINE void add_columns(const int bits, const int R, const int columns, __m256i t[4][2],
                        __m256i more[4][2], lane_chunk at, const uint8_t *const q[4]) {
    LANE_UNROLL
    for (int j = 0; j < columns / 4; j++) {
        const bool other = R <= 2 && j % 2;
        __m256i a = lane_put_together(bits, at, j, 0), b = lane_put_together(bits, at, j, 1);
        lane_keep_two(&a, &b);
        LANE_UNROLL
        for (int r = 0; r < R; r++) {
            const __m256i x = lane_four(q[r] + 4 * j);
            if (other) {
                LANE_DOT(more[r][0], a, x);
                LANE_DOT(more[r][1], b, x);
            } else {
                LANE_DOT(t[r][0], a, x);
                LANE_DOT(t[r][1], b, x);
            }
        }
    }
}

/* R rows of one panel. */
INLINE void few_rows(const int bits, const int R, float *y, int64_t ldy, const nib_rows_i8 *rows,
                     const nib_lane_weight *w, int64_t panel) {
    const int step = cell_columns(bits);
    lane_chunk at = lane_chunk_at(w, panel, 0);
    float y_all[4][NIB_PANEL] = {0};
    const uint8_t *q[4];
    for (int r = 0; r < 4; r++) q[r] = (const uint8_t *)rows->q + (r < R ? r : 0) * rows->ld;
    const int32_t *sums = rows->sums;
    for (int64_t g = 0; g < w->groups; g++, sums++) {
        __m256i t[4][2], more[4][2];
        LANE_UNROLL
        for (int r = 0; r < R; r++)
            for (int h = 0; h < 2; h++) {
                t[r][h] = lane_start(w, sums[r * w->groups]);
                more[r][h] = _mm256_setzero_si256();
            }
        int64_t left = w->G;
        for (; left >= 32; left -= 32) {
            fetch(bits, &at, 32);
            lane_keep_rows(R, q);
            add_columns(bits, R, 32, t, more, at, q);
            advance(bits, &at, 32);
            for (int r = 0; r < R; r++) q[r] += 32;
        }
        for (; left > 0; left -= step) { /* the inputs go on with zeros */
            add_columns(bits, R, step, t, more, at, q);
            advance(bits, &at, step);
            for (int r = 0; r < R; r++) q[r] += step;
        }
        const lane_pair v = lane_group(w, panel, g);
        LANE_UNROLL
        for (int r = 0; r < R; r++)
            for (int h = 0; h < 2; h++) {
                const __m256i sum = R <= 2 ? _mm256_add_epi32(t[r][h], more[r][h]) : t[r][h];
                float *to = y_all[r] + 8 * h;
                _mm256_storeu_ps(to, lane_flush(w, v.scale[h], v.offset[h], sum,
                                                sums[r * w->groups], _mm256_loadu_ps(to)));
            }
    }
    LANE_UNROLL
    for (int r = 0; r < R; r++) lane_finish(y, ldy, rows, r, w, panel, y_all[r]);
}

typedef void few_function(float *, int64_t, const nib_rows_i8 *, const nib_lane_weight *, int64_t);

#define FEW(bits, R)                                                                               \
    static void few_##bits##_##R(float *y, int64_t ldy, const nib_rows_i8 *rows,                   \
                                 const nib_lane_weight *w, int64_t panel) {                        \
        few_rows(bits, R, y, ldy, rows, w, panel);                                                 \
    }
#define FEW_ALL(bits) FEW(bits, 1) FEW(bits, 2) FEW(bits, 3) FEW(bits, 4)
FEW_ALL(1)
FEW_ALL(2)
FEW_ALL(3)
FEW_ALL(4)
FEW_ALL(5)
FEW_ALL(6)
FEW_ALL(7)
#define FEW_OF(bits)                                                                               \
    { few_##bits##_1, few_##bits##_2, few_##bits##_3, few_##bits##_4 }
static few_function *const few[8][LANE_FEW] = {{0},       FEW_OF(1), FEW_OF(2), FEW_OF(3),
                                               FEW_OF(4), FEW_OF(5), FEW_OF(6), FEW_OF(7)};

static void lane_i8(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                    const nib_lane_weight *w, int64_t panel, int64_t panels, void *scratch) {
    static const lane_method method = {lane_unpack, lane_groups, lane_vnni_tiles, lane_finish};
    if (M > 3 * LANE_FEW) {
        lane_many_rows(&method, y, ldy, rows, M, w, panel, panels, scratch);
        return;
    }
    if (M <= 0) return;
    const int64_t most = lane_even_turns(M);
    for (int64_t p = panel; p < panel + panels; p++)
        for (int64_t m = 0; m < M; m += most) { /* all but the first find the panel in a cache */
            const nib_rows_i8 from = lane_rows_from(rows, m, w->groups);
            few[w->bits][(M - m < most ? M - m : most) - 1](y + m * ldy, ldy, &from, w, p);
        }
}

static void install(nib_kernels *k) {
    k->lane_i8[NIB_LANE_W4] = lane_i8;
    k->lane_i8[NIB_LANE_W2] = lane_i8;
    k->lane_i8[NIB_LANE_WX] = lane_i8;
}
const nib_kernel_set nib_kernels_lane_i8_avxvnni = {
    .name = "lane_i8_avxvnni", .needs = NIB_CPU_AVX2 | NIB_CPU_AVXVNNI, .install = install};
