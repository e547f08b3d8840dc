/* lane_i8_avx512vnni.c: integer weights in lanes times 8-bit inputs: one row to eight here, which
 * memory limits, so that weights are read once and opened in registers; more by tiles. Digits of
 * float inputs come three rows at a time: of four such, too. */
#include <string.h>

#include "kernel/x86/lane_avx512vnni.h"
#include "kernel/x86/lane_many_avx512vnni.h"

enum {
    FEW = 12,
    /* Bytes: codes are one stream, which is asked for beside what the machine does by itself; of
     * three, with scales and offsets, twice as far. One thread takes 3 to 5 % longer with 8 KiB,
     * two take 1 % longer with 2. */
    AHEAD = 3072,
    AHEAD_OF_VALUES = 1024, /* of scales and offsets, where there are both */
};

/* Few rows as the loop reads them, one stream of everything. */
typedef struct few_rows {
    const int8_t *q;      /* [ceil(K / 64)][rows][64] */
    const int32_t *start; /* [groups][rows]: -mid times the sum of the group's codes */
    const int32_t *sums;  /* [groups][rows] */
} few_rows;

/* Of few rows, codes of 4 and 2 bits stay where they lie in their byte: a sum for each place, which
 * is 1, 4, 16 or 64 times as large, and divided at the end of a group. That spares the shifts, and
 * a sum waits for itself more seldom. 32 bits hold PLACED steps of 32 columns. */
enum { PLACES = 4, PLACED_ROWS = 3, PLACED = 1 << 12 };

typedef __m512i few_sums[FEW][PLACES];

INLINE bool in_planes(const int bits) { return bits != 8 && bits != 4 && bits != 2; }

/* 32 columns, from column k of the panel on, which lie at `at` unless in planes. */
INLINE void few_step(const int bits, const int rows, const int places, const uint8_t *panel,
                     int64_t Kp, int64_t k, const uint8_t *at, const int8_t *q, few_sums acc) {
    __m512i u[8];
    if (in_planes(bits)) unit_codes(bits, panel, Kp, k, u);
    UNROLL
    for (int j = 0; j < 8; j++) {
        if (!in_planes(bits) && j % (8 / bits) == 0)
            cell_codes(bits, places > 1, at + j * bits * 8, u + j);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const four_codes *four = (const four_codes *)(q + r * 64 + j * 4);
            DOT_ALL(acc[r][j % places], u[j], *four);
        }
    }
}

/* Rows [0, rows) by one panel; `bits`, `rows` and `places` are constant. The loop over the steps of
 * a group is short: all that goes on from group to group is pointers that move. */
INLINE void few(const int bits, const int rows, const int places, float *y, int64_t ldy,
                const nib_rows_i8 *x, const few_rows *f, const nib_lane_weight *w, int64_t panel) {
    const int64_t groups = w->groups, K = groups == 1 ? w->K : w->G;
    const int64_t steps = in_planes(bits) ? (K + 31) / 32 : K / 32, Kp = (w->K + 31) / 32 * 32;
    const int64_t tail = in_planes(bits) ? 0 : w->panel_bytes - groups * steps * bits * 64;
    const uint8_t *const codes = w->codes + panel * w->panel_bytes, *at = codes;
    const int8_t *q = f->q;
    const int32_t *start = f->start, *sums = f->sums;
    const char *ask_for =
        (const char *)at + (w->offset_kind == NIB_OFFSET_NONE ? AHEAD : 2 * AHEAD);
    const int64_t width = w->scale_dtype == NIB_F32 ? 4 : 2, first = panel * groups * NIB_PANEL;
    const char *scales = (const char *)w->scale + first * width;
    __m512 v[FEW];
    UNROLL
    for (int r = 0; r < rows; r++) v[r] = _mm512_setzero_ps();
    int64_t k = 0;
    for (int64_t g = 0; g < groups; g++, start += rows, sums += rows) {
        few_sums acc;
        UNROLL
        for (int r = 0; r < rows; r++) {
            acc[r][0] = _mm512_set1_epi32(start[r]);
            for (int p = 1; p < places; p++) acc[r][p] = _mm512_setzero_si512();
        }
        for (const uint8_t *end = at + steps * bits * 64; at < end; at += bits * 64, k += 32) {
            UNROLL
            for (int j = 0; j < bits; j++) _mm_prefetch(ask_for + j * 64, _MM_HINT_T0);
            ask_for += bits * 64;
            few_step(bits, rows, places, codes, Kp, k, at, q, acc);
            q += rows == 1 || k % 64 == 0 ? 32 : rows * 64 - 32;
        }
        if (tail) { /* the step of a ragged end */
            uint8_t last[512] __attribute__((aligned(64)));
            memcpy(last, at, (size_t)tail);
            few_step(bits, rows, places, codes, Kp, k, last, q, acc);
        }
        UNROLL
        for (int r = 0; r < rows; r++)
            for (int p = 1; p < places; p++)
                acc[r][0] =
                    _mm512_add_epi32(acc[r][0], _mm512_srai_epi32(acc[r][p], (unsigned)(p * bits)));
        const __m512 scale = values_at(w->scale_dtype, scales, 0);
        UNROLL
        for (int r = 0; r < rows; r++)
            v[r] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(acc[r][0]), v[r]);
        scales += NIB_PANEL * width;
        if (w->offset_kind == NIB_OFFSET_NONE) continue;
        const int64_t of_group = first + g * NIB_PANEL;
        const __m512 offset = offset_at(w, of_group, scale);
        _mm_prefetch(scales + AHEAD_OF_VALUES, _MM_HINT_T0);
        _mm_prefetch((const char *)w->offset + of_group * width + AHEAD_OF_VALUES, _MM_HINT_T0);
        UNROLL
        for (int r = 0; r < rows; r++)
            v[r] = _mm512_fmadd_ps(offset, _mm512_cvtepi32_ps(_mm512_set1_epi32(sums[r])), v[r]);
    }
    UNROLL
    for (int r = 0; r < rows; r++) finish_row(y + r * ldy, v[r], x, r, w, panel);
}

typedef void few_function(float *y, int64_t ldy, const nib_rows_i8 *x, const few_rows *f,
                          const nib_lane_weight *w, int64_t panel, int64_t panels);

/* Lay the rows out, then all panels; false when they do not fit the scratch. */
static bool few_laid_out(few_function *of, float *y, int64_t ldy, const nib_rows_i8 *x, int64_t M,
                         const nib_lane_weight *w, int64_t panel, int64_t panels, void *scratch) {
    const int64_t lines = (w->K + 63) / 64, groups = w->groups;
    const int64_t bytes = M * (4 * groups + (M > 1 ? 64 * lines + 4 * groups : 0));
    if (bytes > NIB_LANE_SCRATCH) return false;
    few_rows f = {.q = x->q, .start = scratch, .sums = x->sums};
    int8_t *q = scratch;
    if (M > 1) {
        for (int64_t i = 0; i < lines; i++)
            for (int64_t m = 0; m < M; m++)
                memcpy(q + (i * M + m) * 64, x->q + m * x->ld + i * 64, 64);
        int32_t *sums = (int32_t *)(void *)(q + lines * M * 64);
        for (int64_t m = 0; m < M; m++)
            for (int64_t g = 0; g < groups; g++) sums[g * M + m] = x->sums[m * groups + g];
        f = (few_rows){.q = q, .sums = sums, .start = sums + groups * M};
    }
    int32_t *start = (int32_t *)f.start;
    for (int64_t i = 0; i < M * groups; i++)
        start[i] = (int32_t)(0u - (uint32_t)w->mid * (uint32_t)f.sums[i]);
    of(y, ldy, x, &f, w, panel, panels);
    return true;
}

static void rows_of(few_function *const of[], float *y, int64_t ldy, const nib_rows_i8 *x,
                    int64_t M, const nib_lane_weight *w, int64_t panel, int64_t panels,
                    void *scratch) {
    if (M > 0 && M <= FEW && of[M - 1] &&
        few_laid_out(of[M - 1], y, ldy, x, M, w, panel, panels, scratch))
        return;
    if (M > 0) many_rows(y, ldy, x, M, w, panel, panels, scratch);
}

#define FEW_OF(name, bits, rows)                                                                   \
    static void few_##name##_##rows(float *y, int64_t ldy, const nib_rows_i8 *x,                   \
                                    const few_rows *f, const nib_lane_weight *w, int64_t panel,    \
                                    int64_t panels) {                                              \
        const int places = bits == 4 || bits == 2 ? 8 / bits : 1;                                  \
        if (rows <= PLACED_ROWS && places > 1 && (w->groups == 1 ? w->K : w->G) <= PLACED * 32)    \
            for (int64_t p = panel; p < panel + panels; p++)                                       \
                few(bits, rows, places, y, ldy, x, f, w, p);                                       \
        else                                                                                       \
            for (int64_t p = panel; p < panel + panels; p++)                                       \
                few(bits, rows, 1, y, ldy, x, f, w, p);                                            \
    }
#define FEW_OF_LANE(name, bits)                                                                    \
    FEW_OF(name, bits, 1)                                                                          \
    FEW_OF(name, bits, 2)                                                                          \
    FEW_OF(name, bits, 3)                                                                          \
    FEW_OF(name, bits, 4)                                                                          \
    FEW_OF(name, bits, 5)                                                                          \
    FEW_OF(name, bits, 6)                                                                          \
    FEW_OF(name, bits, 7)                                                                          \
    FEW_OF(name, bits, 8)                                                                          \
    FEW_OF(name, bits, 9)                                                                          \
    FEW_OF(name, bits, 12)                                                                         \
    static void lane_##name(float *y, int64_t ldy, const nib_rows_i8 *x, int64_t M,                \
                            const nib_lane_weight *w, int64_t panel, int64_t panels,               \
                            void *scratch) {                                                       \
        static few_function *const of[FEW] = {few_##name##_1, few_##name##_2, few_##name##_3,      \
                                              few_##name##_4, few_##name##_5, few_##name##_6,      \
                                              few_##name##_7, few_##name##_8, few_##name##_9,      \
                                              NULL,           NULL,           few_##name##_12};    \
        rows_of(of, y, ldy, x, M, w, panel, panels, scratch);                                      \
    }
FEW_OF_LANE(w8, 8)
FEW_OF_LANE(w4, 4)
FEW_OF_LANE(w2, 2)

FEW_OF(wx1, 1, 1)
FEW_OF(wx3, 3, 1)
FEW_OF(wx5, 5, 1)
FEW_OF(wx6, 6, 1)
FEW_OF(wx7, 7, 1)
FEW_OF(wx1, 1, 3)
FEW_OF(wx3, 3, 3)
FEW_OF(wx5, 5, 3)
FEW_OF(wx6, 6, 3)
FEW_OF(wx7, 7, 3)

static void lane_wx(float *y, int64_t ldy, const nib_rows_i8 *x, int64_t M,
                    const nib_lane_weight *w, int64_t panel, int64_t panels, void *scratch) {
    static few_function *const one[] = {NULL, few_wx1_1, NULL,      few_wx3_1,
                                        NULL, few_wx5_1, few_wx6_1, few_wx7_1};
    static few_function *const three[] = {NULL, few_wx1_3, NULL,      few_wx3_3,
                                          NULL, few_wx5_3, few_wx6_3, few_wx7_3};
    few_function *const of[FEW] = {one[w->bits], NULL, three[w->bits]};
    rows_of(of, y, ldy, x, M, w, panel, panels, scratch);
}

static void install(nib_kernels *k) {
    k->lane_i8[NIB_LANE_W8] = lane_w8;
    k->lane_i8[NIB_LANE_W4] = lane_w4;
    k->lane_i8[NIB_LANE_W2] = lane_w2;
    k->lane_i8[NIB_LANE_WX] = lane_wx;
}
const nib_kernel_set nib_kernels_lane_i8_avx512vnni = {.name = "lane_i8_avx512vnni",
                                                       .needs = NIB_CPU_AVX2 | NIB_CPU_AVX512 |
                                                                NIB_CPU_AVX512VNNI,
                                                       .install = install};
