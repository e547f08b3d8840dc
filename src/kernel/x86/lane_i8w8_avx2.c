/* lane_i8w8_avx2.c: 8-bit inputs with 8-bit weights in lanes.
 *
 * An unsigned byte times a signed one, twice, does not fit vpmaddubsw, so codes and inputs are
 * widened to 16 bits and met by vpmaddwd: exact for all codes. A word of two codes (0, 1) gives
 * columns 0 by a mask and 1 by a shift, so a widened cell has columns (0, 2) then (1, 3), and so
 * have the inputs. Inputs within [-64, 64] fit vpmaddubsw as they are: 2 * 255 * 64 < 32768; many
 * rows of them go by lane_seven_avx2.h. */
#include "kernel/x86/lane_seven_avx2.h"
#include "kernel/x86/lane_tiles_avx2.h"

enum {
    FEW_BYTES = 192 << 10, /* of widened inputs of few rows, at most */
    KC = 512,
    ROW_BLOCK = 64,
    PANELS = 8, /* that a block of widened inputs serves */
    STRIDE = KC * 2 + 64,
};

typedef struct scratch {
    uint16_t codes[KC * NIB_PANEL];
    lane_values values[LANE_BLOCK_GROUPS];
    float y[PANELS][ROW_BLOCK * NIB_PANEL];
    int32_t parts[PANELS][ROW_BLOCK * NIB_PANEL];
    uint8_t q[ROW_BLOCK * STRIDE];
} scratch;
_Static_assert(sizeof(scratch) <= NIB_LANE_SCRATCH, "the scratch holds a block");

/* Inputs [columns], columns a multiple of 4, to 16 bits in the order 0, 2, 1, 3 of each four. */
INLINE void widen_inputs(void *out, const int8_t *q, int64_t columns) {
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    uint8_t *to = out;
    int64_t k = 0;
    for (; k + 16 <= columns; k += 16, to += 32) {
        const __m128i x = _mm_loadu_si128((const __m128i *)(q + k));
        _mm256_storeu_si256((__m256i *)to, _mm256_cvtepi8_epi16(_mm_shuffle_epi8(x, order)));
    }
    for (; k < columns; k += 4, to += 8) {
        int32_t four;
        memcpy(&four, q + k, 4);
        const __m128i x = _mm_shuffle_epi8(_mm_cvtsi32_si128(four), order);
        _mm_storel_epi64((__m128i *)to, _mm_cvtepi8_epi16(x));
    }
}

static void widen_codes(uint16_t *out, const uint8_t *codes, int64_t cells) {
    const __m256i mask = _mm256_set1_epi16(0xff);
    for (int64_t i = 0; i < cells; i++, codes += 64, out += 64) {
        const __m256i low = lane_load(codes), high = lane_load(codes + 32);
        _mm256_storeu_si256((__m256i *)out, _mm256_and_si256(low, mask));
        _mm256_storeu_si256((__m256i *)(out + 16), _mm256_and_si256(high, mask));
        _mm256_storeu_si256((__m256i *)(out + 32), _mm256_srli_epi16(low, 8));
        _mm256_storeu_si256((__m256i *)(out + 48), _mm256_srli_epi16(high, 8));
    }
}

/* Rows [m, m + count) and panels [p, p + panels), at most ROW_BLOCK and PANELS. */
static void block_of_panels(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t m,
                            int64_t count, const nib_lane_weight *w, int64_t p, int64_t panels,
                            scratch *at) {
    for (int64_t i = 0; i < panels; i++)
        memset(at->y[i], 0, (size_t)count * NIB_PANEL * sizeof(float));
    int64_t k = 0;
    do {
        lane_block b = lane_next_block(w, k, KC);
        b.codes = (const uint8_t *)at->codes, b.values = at->values;
        const int64_t columns = (b.columns + 3) / 4 * 4;
        for (int64_t i = 0; i < count; i++)
            widen_inputs(at->q + i * STRIDE, rows->q + (m + i) * rows->ld + k, columns);
        for (int64_t i = 0; i < panels; i++) {
            widen_codes(at->codes, w->codes + (p + i) * w->panel_bytes + k * NIB_PANEL,
                        columns / 4);
            lane_groups(at->values, w, p + i, b.group, b.segments);
            lane_block_rows(LANE_WIDE, 0, &b, at->q, STRIDE, rows->sums + m * w->groups + b.group,
                            count, at->y[i], at->parts[i]);
        }
        k += b.columns;
    } while (k < w->K);
    for (int64_t j = 0; j < count; j++)
        for (int64_t i = 0; i < panels; i++)
            lane_finish(y, ldy, rows, m + j, w, p + i, at->y[i] + j * NIB_PANEL);
}

static void many_rows(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                      const nib_lane_weight *w, int64_t panel, int64_t panels, scratch *at) {
    for (int64_t m = 0; m < M; m += ROW_BLOCK)
        for (int64_t p = 0; p < panels; p += PANELS)
            block_of_panels(y, ldy, rows, m, M - m < ROW_BLOCK ? M - m : ROW_BLOCK, w, panel + p,
                            panels - p < PANELS ? panels - p : PANELS, at);
}

/* One cell of R rows into 32-bit sums t, q[r] + at being its inputs, widened. */
INLINE void few_cell(const int R, __m256i t[4][2], const uint8_t *codes, const uint8_t *const q[4],
                     const int at) {
    const __m256i mask = _mm256_set1_epi16(0xff);
    __m256i low = lane_load(codes), high = lane_load(codes + 32);
    lane_fetch(codes, LANE_AHEAD);
    lane_keep_two(&low, &high);
    LANE_UNROLL
    for (int j = 0; j < 2; j++) {
        __m256i a = j ? _mm256_srli_epi16(low, 8) : _mm256_and_si256(low, mask);
        __m256i b = j ? _mm256_srli_epi16(high, 8) : _mm256_and_si256(high, mask);
        lane_keep_two(&a, &b);
        LANE_UNROLL
        for (int r = 0; r < R; r++) {
            const __m256i x = lane_four(q[r] + at + 4 * j);
            t[r][0] = _mm256_add_epi32(t[r][0], _mm256_madd_epi16(a, x));
            t[r][1] = _mm256_add_epi32(t[r][1], _mm256_madd_epi16(b, x));
        }
        lane_keep(R, t);
    }
}

/* R rows, panel by panel, the codes widened in registers; q_0: all inputs widened, ldq apart. */
INLINE void few_rows(const int R, float *y, int64_t ldy, const nib_rows_i8 *rows,
                     const nib_lane_weight *w, int64_t panel, int64_t panels, const uint8_t *q_0,
                     int64_t ldq) {
    const int64_t cells = (w->G + 3) / 4;
    for (int64_t p = panel; p < panel + panels; p++) {
        const uint8_t *codes = w->codes + p * w->panel_bytes, *q[4];
        for (int r = 0; r < 4; r++) q[r] = q_0 + (r < R ? r : 0) * ldq;
        float y_all[4][NIB_PANEL] = {0}; /* four rows leave no registers for these */
        const int32_t *sums = rows->sums;
        for (int64_t g = 0; g < w->groups; g++, sums++) {
            __m256i t[4][2];
            LANE_UNROLL
            for (int r = 0; r < R; r++) t[r][0] = t[r][1] = lane_start(w, sums[r * w->groups]);
            int64_t left = cells;
            for (; left >= 4; left -= 4, codes += 256) {
                lane_keep_rows(R, q);
                LANE_UNROLL
                for (int i = 0; i < 4; i++) few_cell(R, t, codes + 64 * i, q, 8 * i);
                for (int r = 0; r < R; r++) q[r] += 32;
            }
            for (; left; left--, codes += 64) {
                few_cell(R, t, codes, q, 0);
                for (int r = 0; r < R; r++) q[r] += 8;
            }
            const lane_pair v = lane_group(w, p, g);
            LANE_UNROLL
            for (int r = 0; r < R; r++)
                for (int h = 0; h < 2; h++) {
                    float *at = y_all[r] + 8 * h;
                    _mm256_storeu_ps(at, lane_flush(w, v.scale[h], v.offset[h], t[r][h],
                                                    sums[r * w->groups], _mm256_loadu_ps(at)));
                }
        }
        LANE_UNROLL
        for (int r = 0; r < R; r++) lane_finish(y, ldy, rows, r, w, p, y_all[r]);
    }
}

static void few(int64_t R, float *y, int64_t ldy, const nib_rows_i8 *rows, const nib_lane_weight *w,
                int64_t panel, const uint8_t *q, int64_t ldq) {
    switch (R) {
    case 1:
        few_rows(1, y, ldy, rows, w, panel, 1, q, ldq);
        break;
    case 2:
        few_rows(2, y, ldy, rows, w, panel, 1, q, ldq);
        break;
    case 3:
        few_rows(3, y, ldy, rows, w, panel, 1, q, ldq);
        break;
    default:
        few_rows(4, y, ldy, rows, w, panel, 1, q, ldq);
        break;
    }
}

/* Cells of 8-bit codes are bytes already. */
static const uint8_t *as_they_are(uint8_t *space, const nib_lane_weight *w, int64_t panel,
                                  int64_t k, int64_t columns) {
    (void)space, (void)columns;
    return w->codes + panel * w->panel_bytes + k * NIB_PANEL;
}

static void few_seven_bits_rows(const lane_block *b, const uint8_t *q, int64_t ldq,
                                const int32_t *sums, int64_t M, float *y, int32_t *parts) {
    lane_block_rows(LANE_SINGLE, LANE_AHEAD, b, q, ldq, sums, M, y, parts);
}
static const lane_method few_seven_bits = {as_they_are, lane_groups, few_seven_bits_rows,
                                           lane_finish};

static void lane_i8_w8(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t M,
                       const nib_lane_weight *w, int64_t panel, int64_t panels, void *space) {
    const int64_t columns = (w->K + 3) / 4 * 4, ldq = columns * 2 + 64;
    if (M <= 0) return;
    if (rows->seven_bits && M > 2 * LANE_FEW) {
        seven_many_rows(y, ldy, rows, M, w, panel, panels, space);
        return;
    }
    if (rows->seven_bits) {
        lane_many_rows(&few_seven_bits, y, ldy, rows, M, w, panel, panels, space);
        return;
    }
    if (M > 2 * LANE_FEW || M * ldq > FEW_BYTES) {
        many_rows(y, ldy, rows, M, w, panel, panels, space);
        return;
    }
    const int64_t most = lane_even_turns(M);
    const uint8_t *q = space;
    for (int64_t m = 0; m < M; m++)
        widen_inputs((uint8_t *)space + m * ldq, rows->q + m * rows->ld, columns);
    for (int64_t p = panel; p < panel + panels; p++)
        for (int64_t m = 0; m < M; m += most) { /* all but the first find the panel in a cache */
            const nib_rows_i8 from = lane_rows_from(rows, m, w->groups);
            few(M - m < most ? M - m : most, y + m * ldy, ldy, &from, w, p, q + m * ldq, ldq);
        }
}

static void install(nib_kernels *k) { k->lane_i8[NIB_LANE_W8] = lane_i8_w8; }
const nib_kernel_set nib_kernels_lane_i8w8_avx2 = {
    .name = "lane_i8w8_avx2", .needs = NIB_CPU_AVX2, .install = install};
