/* lane_tile_avx512vnni.h: many rows of 8-bit codes by integer weights in lanes.
 *
 * A tile is 6 rows by 2 panels: 12 sums of products and 12 results in registers, which leaves the
 * two dot product units always enough independent chains (latency 4) and makes the float steps at
 * the end of a group cheap. Codes of 4 and 2 bits are opened inside the tile, by units that the
 * products leave idle; planes are unpacked to bytes first. All rows of a block pass over the same
 * 16 KiB of codes, which stay in L1. Rows go in blocks and long rows in spans so that the codes of
 * the inputs stay in L2. */
#ifndef NIB_KERNEL_X86_LANE_TILE_AVX512VNNI_H
#define NIB_KERNEL_X86_LANE_TILE_AVX512VNNI_H
#include "kernel/x86/lane_avx512vnni.h"

enum {
    TILE_ROWS = 6,
    TILE_PANELS = 2,
    TILE_WIDTH = TILE_PANELS * NIB_PANEL,
    ROW_BLOCK = 120, /* rows at most; of SPAN columns they are half of an L2 of 1 MiB */
    SPAN = 4096,
    SPAN_GROUPS = SPAN / 32,
    BYTES_DEPTH = 512, /* columns at a time: of bytes, ... */
    MOST_DEPTH = 2048, /* ... of 2 bits */
    DEPTH_GROUPS = MOST_DEPTH / 32,
};

/* What lies in the caller's scratch. */
typedef struct tile_scratch {
    uint8_t codes[TILE_PANELS][BYTES_DEPTH * NIB_PANEL];
    float y[ROW_BLOCK][TILE_WIDTH];      /* results so far */
    int32_t part[ROW_BLOCK][TILE_WIDTH]; /* sums of a group that is not complete */
    int32_t start[SPAN_GROUPS][ROW_BLOCK];
    float sums[SPAN_GROUPS][ROW_BLOCK];
    float scale[TILE_PANELS][DEPTH_GROUPS][NIB_PANEL];
    float offset[TILE_PANELS][DEPTH_GROUPS][NIB_PANEL];
} tile_scratch;
_Static_assert(sizeof(tile_scratch) <= NIB_LANE_SCRATCH, "scratch of a tile");

typedef struct tile_block {
    const int8_t *q; /* of the first row, at the first column */
    int64_t ld;
    const uint8_t *codes[TILE_PANELS]; /* twice the same for a last panel by itself */
    int64_t groups, cells;             /* groups, or 1 piece of one; cells in each */
    int64_t group;                     /* the first, within the span */
    bool begins, ends;                 /* the group, here */
    bool offset;
} tile_block;

/* Rows [row, row + rows) of the block; `bits` (8, 4 or 2) and `rows` are constant. */
INLINE void tile(const int bits, const int rows, const tile_block *b, tile_scratch *s,
                 int64_t row) {
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    const int64_t ld = b->ld;
    const int8_t *q = b->q + row * ld;
    const uint8_t *codes[TILE_PANELS] = {b->codes[0], b->codes[1]};
    __m512 y[TILE_ROWS][TILE_PANELS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        y[r][0] = _mm512_load_ps(s->y[row + r]);
        y[r][1] = _mm512_load_ps(s->y[row + r] + NIB_PANEL);
    }
    for (int64_t g = 0; g < b->groups; g++) {
        __m512i acc[TILE_ROWS][TILE_PANELS];
        UNROLL
        for (int r = 0; r < rows; r++) {
            const __m512i start = _mm512_set1_epi32(s->start[b->group + g][row + r]);
            acc[r][0] = b->begins ? start : _mm512_load_si512(s->part[row + r]);
            acc[r][1] = b->begins ? start : _mm512_load_si512(s->part[row + r] + NIB_PANEL);
        }
        for (int64_t i = 0; i < b->cells; i++) {
            const __m512i cell[] = {_mm512_loadu_si512(codes[0]), _mm512_loadu_si512(codes[1])};
            UNROLL
            for (int j = 0; j < 8 / bits; j++) {
                __m512i u[TILE_PANELS] = {shifted(cell[0], j * bits), shifted(cell[1], j * bits)};
                if (bits < 8) u[0] = _mm512_and_si512(u[0], mask);
                if (bits < 8) u[1] = _mm512_and_si512(u[1], mask);
                UNROLL
                for (int r = 0; r < rows; r++) {
                    const __m512i x = _mm512_set1_epi32(*(const four_codes *)(q + r * ld));
                    DOT(acc[r][0], u[0], x);
                    DOT(acc[r][1], u[1], x);
                }
                q += 4;
            }
            codes[0] += 64;
            codes[1] += 64;
        }
        if (!b->ends) {
            UNROLL
            for (int r = 0; r < rows; r++) {
                _mm512_store_si512(s->part[row + r], acc[r][0]);
                _mm512_store_si512(s->part[row + r] + NIB_PANEL, acc[r][1]);
            }
            return;
        }
        UNROLL
        for (int p = 0; p < TILE_PANELS; p++) {
            const __m512 scale = _mm512_load_ps(s->scale[p][g]);
            UNROLL
            for (int r = 0; r < rows; r++)
                y[r][p] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(acc[r][p]), y[r][p]);
        }
        if (!b->offset) continue;
        UNROLL
        for (int p = 0; p < TILE_PANELS; p++) {
            const __m512 offset = _mm512_load_ps(s->offset[p][g]);
            UNROLL
            for (int r = 0; r < rows; r++)
                y[r][p] = _mm512_fmadd_ps(offset, _mm512_set1_ps(s->sums[b->group + g][row + r]),
                                          y[r][p]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        _mm512_store_ps(s->y[row + r], y[r][0]);
        _mm512_store_ps(s->y[row + r] + NIB_PANEL, y[r][1]);
    }
}

typedef void tile_function(const tile_block *b, tile_scratch *s, int64_t row);
#define TILE_OF(bits, rows)                                                                        \
    static void tile_##bits##_##rows(const tile_block *b, tile_scratch *s, int64_t row) {          \
        tile(bits, rows, b, s, row);                                                               \
    }
TILE_OF(8, 1)
TILE_OF(8, 2)
TILE_OF(8, 3)
TILE_OF(8, 4)
TILE_OF(8, 5)
TILE_OF(8, 6)
TILE_OF(4, 4)
TILE_OF(4, 5)
TILE_OF(4, 6)
TILE_OF(2, 4)
TILE_OF(2, 5)
TILE_OF(2, 6)
#undef TILE_OF

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
            cell_codes(bits, panel + (k + i) * NIB_PANEL * bits / 8, u);
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
        CASE(3)
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
    const __m256i factor = _mm256_set1_epi32(-mid);
    for (int64_t m = 0; m < rows; m += 8) {
        const __m256i lane = _mm256_min_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                              _mm256_set1_epi32((int)least(rows - m, 8) - 1));
        const __m256i apart = _mm256_mullo_epi32(lane, _mm256_set1_epi32((int)all_groups));
        const int32_t *sums = x->sums + (row + m) * all_groups + group;
        for (int64_t g = 0; g < groups; g++) {
            const __m256i sum = _mm256_i32gather_epi32(sums + g, apart, 4);
            _mm256_store_si256((void *)(s->start[g] + m), _mm256_mullo_epi32(sum, factor));
            _mm256_store_ps(s->sums[g] + m, _mm256_cvtepi32_ps(sum));
        }
    }
}

/* What the tiles of a call share. */
typedef struct tile_job {
    float *y;
    int64_t ldy;
    const nib_rows_i8 *x;
    const nib_lane_weight *w;
    tile_scratch *s;
    int64_t row, rows;     /* a block of rows */
    int64_t k, end, group; /* a span of columns, the group at its beginning */
    int64_t Kp, depth;     /* columns of a panel, and of a block of codes */
    int bits;              /* as a tile takes them: 8 where they are unpacked first */
    int columns;           /* of a cell */
} tile_job;

/* What earlier spans left in y: results, or the sums of the one group as they are. */
static void begin_rows(const tile_job *t, int64_t panel, int panels, int64_t row, int64_t rows) {
    const bool one_group = t->w->groups == 1;
    for (int64_t m = row; m < row + rows; m++)
        for (int p = 0; p < TILE_PANELS; p++) {
            __m512 v = _mm512_setzero_ps();
            if (t->k && p < panels)
                v = _mm512_maskz_loadu_ps(channels_of(t->w, panel + p),
                                          t->y + (t->row + m) * t->ldy + (panel + p) * NIB_PANEL);
            _mm512_store_ps(t->s->y[m] + p * NIB_PANEL, one_group ? _mm512_setzero_ps() : v);
            if (one_group) _mm512_store_ps((float *)t->s->part[m] + p * NIB_PANEL, v);
        }
}

static void end_rows(const tile_job *t, int64_t panel, int panels, int64_t row, int64_t rows) {
    for (int64_t m = row; m < row + rows; m++)
        for (int p = 0; p < panels; p++) {
            const __m512 v = _mm512_load_ps(t->s->y[m] + p * NIB_PANEL);
            const __m512 part = _mm512_load_ps((float *)t->s->part[m] + p * NIB_PANEL);
            float *to = t->y + (t->row + m) * t->ldy;
            if (t->end == t->w->K)
                finish_row(to, v, t->x, t->row + m, t->w, panel + p);
            else
                _mm512_mask_storeu_ps(to + (panel + p) * NIB_PANEL, channels_of(t->w, panel + p),
                                      t->w->groups == 1 ? part : v);
        }
}

/* All rows over one block of codes, in tiles as even as they go: from 8 rows on, none is lower
 * than 4. Meanwhile the codes of the next block, `lines` at next[], are asked for. */
static void tiles(const tile_job *t, const tile_block *b, int64_t panel, int panels, bool first,
                  bool last, const uint8_t *const *next, int64_t lines) {
    static tile_function *const of[][TILE_ROWS] = {
        {tile_8_1, tile_8_2, tile_8_3, tile_8_4, tile_8_5, tile_8_6},
        {NULL, NULL, NULL, tile_4_4, tile_4_5, tile_4_6},
        {NULL, NULL, NULL, tile_2_4, tile_2_5, tile_2_6}};
    const int64_t count = (t->rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t i = 0, row = 0; i < count; i++) {
        const int64_t height = t->rows / count + (i < t->rows % count);
        if (first) begin_rows(t, panel, panels, row, height);
        for (int64_t line = i * lines / count; line < (i + 1) * lines / count; line++) {
            _mm_prefetch((const char *)next[0] + line * 64, _MM_HINT_T0);
            _mm_prefetch((const char *)next[1] + line * 64, _MM_HINT_T0);
        }
        of[t->bits == 8 ? 0 : t->bits == 4 ? 1 : 2][height - 1](b, t->s, row);
        if (last) end_rows(t, panel, panels, row, height);
        row += height;
    }
}

/* A span of panels [panel, panel + panels) for a block of rows. */
static void span(const tile_job *t, int64_t panel, int panels) {
    const nib_lane_weight *w = t->w;
    const int64_t G = w->G;
    const bool whole = G <= t->depth; /* groups fit a block of codes */
    int64_t k = t->k;
    do {
        const int64_t g = G ? k / G : 0;
        int64_t kc = least(t->end - k, whole && w->groups > 1 ? t->depth / G * G : t->depth);
        if (!whole) kc = least(kc, (g + 1) * G - k);
        const bool first = k == t->k, last = k + kc == t->end;
        tile_block b = {.q = t->x->q + t->row * t->x->ld + k,
                        .ld = t->x->ld,
                        .groups = whole && G ? kc / G : 1,
                        .group = g - t->group,
                        .begins = whole || k == g * G,
                        .ends = whole || k + kc == (g + 1) * G,
                        .offset = w->offset_kind != NIB_OFFSET_NONE};
        const int64_t padded = (kc + t->columns - 1) / t->columns * t->columns;
        const int64_t skip = NIB_PANEL * w->bits / 8; /* bytes of a column */
        b.cells = padded / b.groups * t->bits / 32;
        const uint8_t *next[TILE_PANELS];
        for (int p = 0; p < TILE_PANELS; p++) {
            const uint8_t *codes = w->codes + (panel + (p < panels ? p : 0)) * w->panel_bytes;
            next[p] = codes + (last ? TILE_PANELS * w->panel_bytes + t->k * skip : (k + kc) * skip);
            b.codes[p] = codes + k * skip;
            if (t->bits == w->bits) continue;
            b.codes[p] = t->s->codes[p];
            if (p < panels) unpack_any(t->s->codes[p], codes, w->bits, t->Kp, k, padded);
        }
        for (int p = 0; p < panels; p++)
            for (int64_t i = 0; i < b.groups; i++) {
                const int64_t at = ((panel + p) * w->groups + g + i) * NIB_PANEL;
                const __m512 scale = values_at(w->scale_dtype, w->scale, at);
                _mm512_store_ps(t->s->scale[p][i], scale);
                if (b.offset) _mm512_store_ps(t->s->offset[p][i], offset_at(w, at, scale));
            }
        tiles(t, &b, panel, panels, first, last, next, kc * skip / 64);
        k += kc;
    } while (k < t->end);
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
    t.depth = BYTES_DEPTH * 8 / t.bits;
    t.Kp = (w->K + t.columns - 1) / t.columns * t.columns;
    const int64_t blocks = (M + ROW_BLOCK - 1) / ROW_BLOCK, even = (M + blocks - 1) / blocks;
    const int64_t block = (even + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    const int64_t G = w->G, length = w->groups == 1 ? SPAN : G <= SPAN ? SPAN / G * G : G;
    do {
        t.end = least(w->K, t.k + length);
        t.group = G ? t.k / G : 0;
        const int64_t groups = w->groups == 1 ? 1 : (t.end - t.k) / G;
        for (t.row = 0; t.row < M; t.row += block) {
            t.rows = least(M - t.row, block);
            lay_out_sums(scratch, x, t.row, t.rows, w->mid, w->groups, t.group, groups);
            for (int64_t p = panel; p < panel + panels; p += TILE_PANELS)
                span(&t, p, (int)least(panel + panels - p, TILE_PANELS));
        }
        t.k = t.end;
    } while (t.k < w->K);
}
#endif
