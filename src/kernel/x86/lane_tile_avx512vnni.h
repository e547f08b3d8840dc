/* lane_tile_avx512vnni.h: many rows of 8-bit codes by integer weights in lanes.
 *
 * A tile is 7 rows by 2 panels: 14 sums of products and 14 results in registers, which leaves the
 * two dot product units always enough independent chains (latency 4) and makes the float steps at
 * the end of a group cheap. Codes of 4 and 2 bits are opened inside the tile, by units that the
 * products leave idle; planes are unpacked to bytes first. A row of bytes with one group has no
 * results before it ends: its tile is 12 rows high and reads each code half as often. Rows go in
 * blocks and long rows in spans so that the codes of the inputs stay in L2; codes of the weight
 * come from there too, as one stream through a whole span, so that a tile is entered seldom. */
#ifndef NIB_KERNEL_X86_LANE_TILE_AVX512VNNI_H
#define NIB_KERNEL_X86_LANE_TILE_AVX512VNNI_H
#include "kernel/x86/lane_avx512vnni.h"
#include "kernel/x86/transpose_avx512.h"

enum {
    TILE_ROWS = 7,
    TALL_ROWS = 12,
    TILE_PANELS = 2,
    TILE_WIDTH = TILE_PANELS * NIB_PANEL,
    ROW_BLOCK = 120, /* rows at most; of SPAN columns they are half of an L2 of 1 MiB */
    SPAN = 4096,
    SPAN_GROUPS = SPAN / 32,
    BYTES_DEPTH = 512, /* columns that are unpacked at a time */
};

/* What lies in the caller's scratch. */
typedef struct tile_scratch {
    uint8_t codes[TILE_PANELS][BYTES_DEPTH * NIB_PANEL];
    float y[ROW_BLOCK][TILE_WIDTH];      /* results so far */
    int32_t part[ROW_BLOCK][TILE_WIDTH]; /* sums of a group that is not complete */
    int32_t start[SPAN_GROUPS][ROW_BLOCK];
    float sums[SPAN_GROUPS][ROW_BLOCK];
    float scale[TILE_PANELS][SPAN_GROUPS][NIB_PANEL];
    float offset[TILE_PANELS][SPAN_GROUPS][NIB_PANEL];
} tile_scratch;
_Static_assert(sizeof(tile_scratch) <= NIB_LANE_SCRATCH, "scratch of a tile");

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
    int64_t height;        /* rows of a tile */
    int bits;              /* as a tile takes them: 8 where they are unpacked first */
    int columns;           /* of a cell */
} tile_job;

typedef struct tile_block {
    const tile_job *job;
    int64_t panel; /* the first */
    int panels;
    const int8_t *q; /* of the first row, at the first column */
    int64_t ld;
    const uint8_t *codes[TILE_PANELS]; /* twice the same for a last panel by itself */
    int64_t groups, cells;             /* groups, or 1 piece of one; cells in each */
    int64_t group;                     /* the first, within the span */
    bool begins, ends;                 /* the group, here */
    bool fresh;                        /* nothing was added to the results yet */
    bool offset;
    bool complete; /* sums of one group that begin and end here */
} tile_block;

/* What follows the sums of one group that is a whole row: the result of row m of the block. */
INLINE __m512 whole_row(const tile_job *t, int64_t m, __m512i part, __m512 scale, __m512 offset) {
    const __m512 v = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(part), _mm512_setzero_ps());
    if (t->w->offset_kind == NIB_OFFSET_NONE) return v;
    return _mm512_fmadd_ps(offset, _mm512_set1_ps(t->s->sums[0][m]), v);
}

/* The last steps of a result. */
INLINE __m512 last_steps(const tile_job *t, int64_t m, __m512 v, __m512 correction) {
    if (t->x->zero)
        v = _mm512_fmadd_ps(_mm512_set1_ps(-(float)t->x->zero[t->row + m]), correction, v);
    return _mm512_mul_ps(v, _mm512_set1_ps(t->x->scale[t->row + m]));
}
INLINE __m512 correction_of(const tile_job *t, int64_t panel) {
    return t->x->zero ? _mm512_loadu_ps(t->w->correction + panel * NIB_PANEL) : _mm512_setzero_ps();
}

/* What the sums of a row and panel begin with: what its group begins with, or what was left of it.
 */
INLINE __m512i first_sums(const tile_block *b, const tile_scratch *s, int64_t g, int64_t row,
                          const int panel) {
    return b->begins ? _mm512_set1_epi32(s->start[b->group + g][row])
                     : _mm512_load_si512(s->part[row] + panel * NIB_PANEL);
}

/* Where the rows of a tile are read: two pointers beside the first, and the distance of a row one
 * to four times, reach all twelve. The compiler is kept from seeing how they hang together: it
 * would make a pointer of each row, and spill those to vector registers, whose way back takes turns
 * of the units that multiply. */
typedef struct row_pointers {
    const int8_t *q[3]; /* rows 0, 5 and 10 */
    int64_t ld, ld3;
} row_pointers;

INLINE row_pointers rows_from(const int8_t *q, int64_t ld) {
    row_pointers r = {{q, q + 5 * ld, q + 10 * ld}, ld, 3 * ld};
    UNRELATED(r.q[0], r.q[1], r.q[2]);
    return r;
}
INLINE void next_column(row_pointers *r, const int rows) {
    r->q[0] += 4;
    if (rows > 5) r->q[1] += 4;
    if (rows > 10) r->q[2] += 4;
    UNRELATED(r->q[0], r->q[1], r->q[2]);
}
/* Four codes of row r, a constant, in all lanes. */
INLINE __m512i row_codes(const row_pointers *p, const int r) {
    const int8_t *q = p->q[r / 5] + (r % 5 == 3 ? p->ld3 : r % 5 * p->ld);
    return _mm512_set1_epi32(*(const four_codes *)q);
}

/* Rows [row, row + rows) of the block; `bits` (8, 4 or 2) and `rows` are constant. */
INLINE void tile(const int bits, const int rows, const tile_block *b, tile_scratch *s,
                 int64_t row) {
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    row_pointers x = rows_from(b->q + row * b->ld, b->ld);
    const uint8_t *codes[TILE_PANELS] = {b->codes[0], b->codes[1]};
    __m512 y[TILE_ROWS][TILE_PANELS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        y[r][0] = b->fresh ? _mm512_setzero_ps() : _mm512_load_ps(s->y[row + r]);
        y[r][1] = b->fresh ? _mm512_setzero_ps() : _mm512_load_ps(s->y[row + r] + NIB_PANEL);
    }
    for (int64_t g = 0; g < b->groups; g++) {
        __m512i acc[TILE_ROWS][TILE_PANELS];
        UNROLL
        for (int r = 0; r < rows; r++) {
            acc[r][0] = first_sums(b, s, g, row + r, 0);
            acc[r][1] = first_sums(b, s, g, row + r, 1);
        }
        for (int64_t i = 0; i < b->cells; i++) {
            UNROLL
            for (int j = 0; j < 8 / bits; j++) {
                __m512i u[TILE_PANELS] = {shifted(_mm512_loadu_si512(codes[0]), j * bits),
                                          shifted(_mm512_loadu_si512(codes[1]), j * bits)};
                if (bits < 8) u[0] = _mm512_and_si512(u[0], mask);
                if (bits < 8) u[1] = _mm512_and_si512(u[1], mask);
                UNROLL
                for (int r = 0; r < rows; r++) {
                    const __m512i q = row_codes(&x, r);
                    DOT(acc[r][0], u[0], q);
                    DOT(acc[r][1], u[1], q);
                }
                next_column(&x, rows);
                UNRELATED(codes[0], codes[1], x.ld3); /* reads the cell anew: two registers less */
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

/* Where a row has one group of bytes no results need registers until it ends: a taller tile reads
 * each code half as often. */
INLINE void tall(const int rows, const tile_block *b, tile_scratch *s, int64_t row) {
    row_pointers x = rows_from(b->q + row * b->ld, b->ld);
    const uint8_t *codes[TILE_PANELS] = {b->codes[0], b->codes[1]};
    __m512i acc[TALL_ROWS][TILE_PANELS];
    UNROLL
    for (int r = 0; r < rows; r++) {
        acc[r][0] = first_sums(b, s, 0, row + r, 0);
        acc[r][1] = first_sums(b, s, 0, row + r, 1);
    }
    for (int64_t i = 0; i < b->cells; i++) {
        const __m512i u[] = {_mm512_loadu_si512(codes[0]), _mm512_loadu_si512(codes[1])};
        UNROLL
        for (int r = 0; r < rows; r++) {
            const __m512i q = row_codes(&x, r);
            DOT(acc[r][0], u[0], q);
            DOT(acc[r][1], u[1], q);
        }
        next_column(&x, rows);
        codes[0] += 64;
        codes[1] += 64;
    }
    if (b->complete) {
        const tile_job *t = b->job;
        UNROLL
        for (int p = 0; p < TILE_PANELS; p++) {
            if (p >= b->panels) return;
            const __mmask16 channels = channels_of(t->w, b->panel + p);
            const __m512 scale = _mm512_load_ps(s->scale[p][0]);
            const __m512 offset = _mm512_load_ps(s->offset[p][0]);
            const __m512 correction = correction_of(t, b->panel + p);
            float *y = t->y + (t->row + row) * t->ldy + (b->panel + p) * NIB_PANEL;
            UNROLL
            for (int r = 0; r < rows; r++, y += t->ldy) {
                const __m512 v = whole_row(t, row + r, acc[r][p], scale, offset);
                _mm512_mask_storeu_ps(y, channels, last_steps(t, row + r, v, correction));
            }
        }
        return;
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        _mm512_store_si512(s->part[row + r], acc[r][0]);
        _mm512_store_si512(s->part[row + r] + NIB_PANEL, acc[r][1]);
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
TILE_OF(8, 7)
TILE_OF(4, 4)
TILE_OF(4, 5)
TILE_OF(4, 6)
TILE_OF(4, 7)
TILE_OF(2, 4)
TILE_OF(2, 5)
TILE_OF(2, 6)
TILE_OF(2, 7)
#undef TILE_OF
#define TALL_OF(rows)                                                                              \
    static void tall_##rows(const tile_block *b, tile_scratch *s, int64_t row) {                   \
        tall(rows, b, s, row);                                                                     \
    }
TALL_OF(1)
TALL_OF(2)
TALL_OF(3)
TALL_OF(4)
TALL_OF(5)
TALL_OF(6)
TALL_OF(7)
TALL_OF(8)
TALL_OF(9)
TALL_OF(10)
TALL_OF(11)
TALL_OF(12)
#undef TALL_OF

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
                _mm512_mask_storeu_epi32(s->start[g + i] + m, of_rows,
                                         _mm512_mullo_epi32(r[i], factor));
                _mm512_mask_storeu_ps(s->sums[g + i] + m, of_rows, _mm512_cvtepi32_ps(r[i]));
            }
        }
    }
}

/* What earlier spans left in y: results, or the sums of the one group as they are. */
static void begin_rows(const tile_job *t, int64_t panel, int panels, int64_t row, int64_t rows) {
    const bool one_group = t->w->groups == 1;
    for (int p = 0; p < panels; p++) {
        const __mmask16 channels = channels_of(t->w, panel + p);
        const float *y = t->y + (t->row + row) * t->ldy + (panel + p) * NIB_PANEL;
        for (int64_t m = row; m < row + rows; m++, y += t->ldy)
            _mm512_store_ps((one_group ? (float *)t->s->part[m] : t->s->y[m]) + p * NIB_PANEL,
                            _mm512_maskz_loadu_ps(channels, y));
    }
}

/* Results of rows that are complete, and what is left for the next span of those that are not. */
static void end_rows(const tile_job *t, int64_t panel, int panels, int64_t row, int64_t rows) {
    const nib_lane_weight *w = t->w;
    const bool one_group = w->groups == 1, complete = t->end == w->K;
    for (int p = 0; p < panels; p++) {
        const __mmask16 channels = channels_of(w, panel + p);
        const __m512 scale = _mm512_load_ps(t->s->scale[p][0]);
        const __m512 offset = _mm512_load_ps(t->s->offset[p][0]);
        const __m512 correction = correction_of(t, panel + p);
        float *y = t->y + (t->row + row) * t->ldy + (panel + p) * NIB_PANEL;
        for (int64_t m = row; m < row + rows; m++, y += t->ldy) {
            __m512 v = _mm512_load_ps(t->s->y[m] + p * NIB_PANEL);
            if (one_group) {
                const __m512i part = _mm512_load_si512(t->s->part[m] + p * NIB_PANEL);
                v = complete ? whole_row(t, m, part, scale, offset) : _mm512_castsi512_ps(part);
            }
            if (complete) v = last_steps(t, m, v, correction);
            _mm512_mask_storeu_ps(y, channels, v);
        }
    }
}

/* Where results go that the tile now at work will have: asked for to be written. */
static void expect_rows(const tile_job *t, int64_t panel, int64_t row, int64_t rows) {
    const char *y = (const char *)(t->y + (t->row + row) * t->ldy + panel * NIB_PANEL);
    for (int64_t m = 0; m < rows; m++, y += t->ldy * (int64_t)sizeof(float)) {
        EXPECT(y);
        EXPECT(y + 64);
    }
}

/* All rows over one block of codes, in tiles as even as they go: from 8 rows on, none is lower
 * than 4. */
static void tiles(const tile_job *t, const tile_block *b, int64_t panel, int panels, bool first,
                  bool last) {
    static tile_function *const of[][TALL_ROWS] = {
        {tall_1, tall_2, tall_3, tall_4, tall_5, tall_6, tall_7, tall_8, tall_9, tall_10, tall_11,
         tall_12},
        {tile_8_1, tile_8_2, tile_8_3, tile_8_4, tile_8_5, tile_8_6, tile_8_7},
        {NULL, NULL, NULL, tile_4_4, tile_4_5, tile_4_6, tile_4_7},
        {NULL, NULL, NULL, tile_2_4, tile_2_5, tile_2_6, tile_2_7}};
    tile_function *const *tile_of = of[t->height == TALL_ROWS ? 0
                                       : t->bits == 8         ? 1
                                       : t->bits == 4         ? 2
                                                              : 3];
    const int64_t count = (t->rows + t->height - 1) / t->height;
    for (int64_t i = 0, row = 0; i < count; i++) {
        const int64_t height = t->rows / count + (i < t->rows % count);
        if (first && t->k) begin_rows(t, panel, panels, row, height);
        if (last) expect_rows(t, panel, row, height);
        tile_of[height - 1](b, t->s, row);
        if (last && !b->complete) end_rows(t, panel, panels, row, height);
        row += height;
    }
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
                        .complete = t->height == TALL_ROWS && k == 0 && k + kc == w->K};
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
                _mm512_store_ps(t->s->scale[p][i], scale);
                if (b.offset) _mm512_store_ps(t->s->offset[p][i], offset_at(w, at, scale));
            }
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
            for (int64_t p = panel; p < panel + panels; p += TILE_PANELS)
                span(&t, p, (int)least(panel + panels - p, TILE_PANELS));
        }
        t.k = t.end;
    } while (t.k < w->K);
}
#endif
