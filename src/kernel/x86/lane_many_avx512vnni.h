/* lane_many_avx512vnni.h: many rows of 8-bit codes by integer weights in lanes, of any size.
 *
 * Rows go in blocks and long rows in spans so that the codes of the inputs stay in L2; codes of the
 * weight come from there too, as one stream through a whole span, so that a tile is entered seldom,
 * and all tiles of a block together ask for the codes that come next: the first one alone would
 * wait for them. */
#ifndef NIB_KERNEL_X86_LANE_MANY_AVX512VNNI_H
#define NIB_KERNEL_X86_LANE_MANY_AVX512VNNI_H
#include "kernel/x86/lane_tile_avx512vnni.h"
#include "kernel/x86/transpose_avx512.h"

/* Columns [k, k + kc) of one panel as bytes [.][16][4]; kc to whole cells. */
INLINE void unpack(const int bits, uint8_t *out, const uint8_t *panel, int64_t Kp, int64_t k,
                   int64_t kc) {
    const bool planes = bits != 4 && bits != 2;
    const int columns = planes ? 32 : 32 / bits;
    for (int64_t i = 0; i < kc; i += columns) {
        __m512i u[8];
        if (planes)
            unit_codes(bits, panel, Kp, k + i, u);
        else
            cell_codes(bits, false, panel + (k + i) * NIB_PANEL * bits / 8, u);
        UNROLL
        for (int j = 0; j < columns / 4; j++)
            _mm512_store_si512(out + (i + 4 * j) * NIB_PANEL, u[j]);
    }
}

static void unpack_any(uint8_t *out, const uint8_t *panel, int bits, int64_t Kp, int64_t k,
                       int64_t kc) {
    switch (bits) {
#define CASE(b)                                                                                    \
    case b:                                                                                        \
        unpack(b, out, panel, Kp, k, kc);                                                          \
        break;
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
#undef CASE
    default:
        break;
    }
}

/* What every panel meets alike: for rows [row, row + rows), groups from `group` on. */
static void lay_out_sums(tile_scratch *s, const nib_rows_i8 *x, int64_t row, int64_t rows, int mid,
                         int64_t all_groups, int64_t group, int64_t groups) {
    const __m512i factor = _mm512_set1_epi32(-mid);
    for (int64_t m = 0; m < rows; m += 16) {
        const __mmask16 of_rows = first_of(rows - m);
        for (int64_t g = 0; g < groups; g += 16) {
            const __mmask16 of_groups = first_of(groups - g);
            const int32_t *sums = x->sums + (row + m) * all_groups + group + g;
            __m512i r[16];
            UNROLL
            for (int i = 0; i < 16; i++)
                r[i] = _mm512_maskz_loadu_epi32(i < rows - m ? of_groups : 0,
                                                sums + (i < rows - m ? i : 0) * all_groups);
            transpose(r);
            for (int i = 0; i < 16 && i < groups - g; i++) {
                _mm512_mask_storeu_epi32(s->rows[g + i].start + m, of_rows,
                                         _mm512_mullo_epi32(r[i], factor));
                _mm512_mask_storeu_ps(s->rows[g + i].sums + m, of_rows, _mm512_cvtepi32_ps(r[i]));
            }
        }
    }
}

/* What earlier spans left in y of the one group: its sums as they are. */
static void begin_rows(const tile_job *t, int64_t panel, int panels, int64_t row, int64_t rows) {
    for (int p = 0; p < panels; p++) {
        const __mmask16 channels = channels_of(t->w, panel + p);
        const float *y = results_at(t, panel + p, row);
        for (int64_t m = row; m < row + rows; m++, y += t->ldy)
            _mm512_store_si512(t->s->part[m] + p * NIB_PANEL,
                               _mm512_maskz_loadu_epi32(channels, y));
    }
}

/* Results of the one group of rows that are complete, and sums of those that are not. */
static void end_rows(const tile_job *t, int64_t panel, int panels, int64_t row, int64_t rows) {
    const nib_lane_weight *w = t->w;
    const bool complete = t->end == w->K;
    for (int p = 0; p < panels; p++) {
        const __mmask16 channels = channels_of(w, panel + p);
        const __m512 scale = _mm512_load_ps(t->s->panels[0].scale[p]);
        const __m512 offset = _mm512_load_ps(t->s->panels[0].offset[p]);
        const __m512 correction = correction_of(t, panel + p);
        float *y = results_at(t, panel + p, row);
        for (int64_t m = row; m < row + rows; m++, y += t->ldy) {
            const __m512i part = _mm512_load_si512(t->s->part[m] + p * NIB_PANEL);
            __m512 v = _mm512_castsi512_ps(part);
            if (complete)
                v = last_steps(t, m, whole_row(t, m, part, scale, offset), t->x->zero, correction);
            _mm512_mask_storeu_ps(y, channels, v);
        }
    }
}

/* All rows over one block of codes, in tiles as even as they go: from 8 rows on, none is lower
 * than 4. */
static void tiles(const tile_job *t, const tile_block *b, int64_t panel, int panels, bool first,
                  bool last) {
    static tile_function *const of[][TALL_ROWS] = {
        {tall_1, tall_2, tall_3, tall_4, tall_5, tall_6, tall_7, tall_8, tall_9, tall_10, tall_11,
         tall_12},
        {tile_8_1, tile_8_2, tile_8_3, tile_8_4, tile_8_5, tile_8_6},
        {NULL, NULL, NULL, tile_4_4, tile_4_5, tile_4_6},
        {NULL, NULL, NULL, tile_2_4, tile_2_5, tile_2_6}};
    tile_function *const *tile_of = of[t->height == TALL_ROWS ? 0
                                       : t->bits == 8         ? 1
                                       : t->bits == 4         ? 2
                                                              : 3];
    const bool one_group = t->w->groups == 1;
    const int64_t count = (t->rows + t->height - 1) / t->height;
    const int64_t low = t->rows / count, taller = t->rows % count;
    for (int64_t i = 0, row = 0; i < count; i++) {
        const int64_t height = low + (i < taller);
        if (first && t->k && one_group) begin_rows(t, panel, panels, row, height);
        const bool more = i + 1 < count;
        t->s->results = more ? results_at(t, panel, row + height)
                             : t->y + t->next_row * t->ldy + t->next * NIB_PANEL;
        t->s->results_left = last && (more || t->next >= 0) ? t->height : 0;
        tile_of[height - 1](b, t->s, row);
        if (last && one_group && !b->complete) end_rows(t, panel, panels, row, height);
        row += height;
    }
}

/* Lines for the tiles of this block to ask for: of the panels that come next, as many each, and of
 * their results. */
static void expect_lines(const tile_job *t, tile_block *b, int64_t k, int64_t kc) {
    const nib_lane_weight *w = t->w;
    t->s->next = t->s->next_end = NULL;
    const int64_t asks =
        t->height == TALL_ROWS ? (b->cells + ASK_CELLS - 1) / ASK_CELLS : b->groups;
    b->expect = asks ? (t->height + asks - 1) / asks : 0;
    if (t->next < 0 || t->bits != w->bits) return;
    const int64_t bytes = kc * NIB_PANEL * w->bits / 8;
    const int64_t all = asks * ((t->rows + t->height - 1) / t->height);
    t->s->next = (const char *)w->codes + t->next * w->panel_bytes + k * NIB_PANEL * w->bits / 8;
    t->s->next_end = t->s->next + bytes;
    b->between = (t->next + 1) * NIB_PANEL < w->N ? w->panel_bytes : 0;
    b->ask = all ? least((bytes / 64 + all - 1) / all, MOST_ASKED) : 0;
}

/* A span of panels [panel, panel + panels) for a block of rows. */
static void span(const tile_job *t, int64_t panel, int panels) {
    const nib_lane_weight *w = t->w;
    const int64_t G = w->G;
    const bool one_group = w->groups == 1;
    const bool whole = G <= t->depth; /* groups fit a block of codes */
    int64_t k = t->k;
    do {
        const int64_t g = G ? k / G : 0;
        int64_t kc = least(t->end - k, whole && w->groups > 1 ? t->depth / G * G : t->depth);
        if (!whole) kc = least(kc, (g + 1) * G - k);
        const bool first = k == t->k, last = k + kc == t->end;
        tile_block b = {.job = t,
                        .panel = panel,
                        .panels = panels,
                        .q = t->x->q + t->row * t->x->ld + k,
                        .ld = t->x->ld,
                        .groups = whole && G ? kc / G : 1,
                        .group = g - t->group,
                        .begins = one_group ? k == 0 : whole || k == g * G,
                        .ends = !one_group && (whole || k + kc == (g + 1) * G),
                        .fresh = one_group || (whole ? k == 0 : g == 0),
                        .offset = w->offset_kind != NIB_OFFSET_NONE,
                        .complete =
                            (!one_group || (t->height == TALL_ROWS && k == 0)) && k + kc == w->K};
        b.plain = !b.offset && !t->x->zero && (panel + TILE_PANELS) * NIB_PANEL <= w->N;
        b.plain &= panels == TILE_PANELS;
        const int64_t padded = (kc + t->columns - 1) / t->columns * t->columns;
        b.cells = padded / b.groups * t->bits / 32;
        for (int p = 0; p < TILE_PANELS; p++) {
            const uint8_t *codes = w->codes + (panel + (p < panels ? p : 0)) * w->panel_bytes;
            b.codes[p] = codes + k * NIB_PANEL * w->bits / 8;
            if (t->bits == w->bits) continue;
            b.codes[p] = t->s->codes[p];
            if (p < panels) unpack_any(t->s->codes[p], codes, w->bits, t->Kp, k, padded);
        }
        for (int p = 0; p < panels; p++)
            for (int64_t i = 0; i < b.groups; i++) {
                const int64_t at = ((panel + p) * w->groups + g + i) * NIB_PANEL;
                const __m512 scale = values_at(w->scale_dtype, w->scale, at);
                _mm512_store_ps(t->s->panels[i].scale[p], scale);
                if (b.offset) _mm512_store_ps(t->s->panels[i].offset[p], offset_at(w, at, scale));
            }
        expect_lines(t, &b, k, kc);
        tiles(t, &b, panel, panels, first, last);
        k += kc;
    } while (k < t->end);
}

/* Columns of a span. One group may end anywhere, so its spans are even; and a row that is longer is
 * one span all the same where the rows of a block are few enough. */
static int64_t span_length(const nib_lane_weight *w, int64_t block) {
    if (w->groups > 1) return w->G <= SPAN ? SPAN / w->G * w->G : w->G;
    if (block * w->K <= ROW_BLOCK * SPAN) return w->K;
    const int64_t spans = (w->K + SPAN - 1) / SPAN, even = (w->K + spans - 1) / spans;
    return (even + BYTES_DEPTH - 1) / BYTES_DEPTH * BYTES_DEPTH;
}

static void many_rows(float *y, int64_t ldy, const nib_rows_i8 *x, int64_t M,
                      const nib_lane_weight *w, int64_t panel, int64_t panels, void *scratch) {
    static const int cell_columns[] = {4, 8, 16, 32};
    tile_job t = {.y = y,
                  .ldy = ldy,
                  .x = x,
                  .w = w,
                  .s = scratch,
                  .columns = cell_columns[w->lane],
                  .bits = w->lane == NIB_LANE_WX || M < 8 ? 8 : w->bits};
    t.Kp = (w->K + t.columns - 1) / t.columns * t.columns;
    t.height = t.bits == 8 && w->groups == 1 ? TALL_ROWS : TILE_ROWS;
    const int64_t most = ROW_BLOCK / t.height * t.height, blocks = (M + most - 1) / most;
    const int64_t even = (M + blocks - 1) / blocks;
    const int64_t block = (even + t.height - 1) / t.height * t.height;
    const int64_t G = w->G, length = span_length(w, block);
    t.depth = t.bits != w->bits ? BYTES_DEPTH : w->groups == 1 ? length : SPAN;
    do {
        t.end = least(w->K, t.k + length);
        t.group = G ? t.k / G : 0;
        const int64_t groups = w->groups == 1 ? 1 : (t.end - t.k) / G;
        for (t.row = 0; t.row < M; t.row += block) {
            t.rows = least(M - t.row, block);
            lay_out_sums(scratch, x, t.row, t.rows, w->mid, w->groups, t.group, groups);
            for (int64_t p = panel; p < panel + panels; p += TILE_PANELS) {
                t.next = p + TILE_PANELS;
                t.next_row = t.row;
                if (t.next >= panel + panels && t.row + block < M) {
                    t.next = panel;
                    t.next_row = t.row + block;
                }
                if (t.next * NIB_PANEL >= w->N) t.next = -1;
                span(&t, p, (int)least(panel + panels - p, TILE_PANELS));
            }
        }
        t.k = t.end;
    } while (t.k < w->K);
}
#endif
