/* lane_tile_avx512vnni.h: many rows of 8-bit codes by integer weights in lanes.
 *
 * A tile is 6 rows by 2 panels: 12 sums of products and 12 results in registers, which leaves the
 * two dot product units always enough independent chains (latency 4) and four registers, by which
 * the float steps at the end of a group go in between the first products of the next. Codes of 4
 * and 2 bits are opened inside the tile, by units that the products leave idle; planes are unpacked
 * to bytes first. A row of bytes with one group has no results before it ends: its tile is 12 rows
 * high and reads each code half as often. Rows go in blocks and long rows in spans so that the
 * codes of the inputs stay in L2; codes of the weight come from there too, as one stream through a
 * whole span, so that a tile is entered seldom, and all tiles of a block together ask for the codes
 * that come next: the first one alone would wait for them. */
#ifndef NIB_KERNEL_X86_LANE_TILE_AVX512VNNI_H
#define NIB_KERNEL_X86_LANE_TILE_AVX512VNNI_H
#include "kernel/x86/lane_avx512vnni.h"
#include "kernel/x86/transpose_avx512.h"

enum {
    TILE_ROWS = 6,
    TALL_ROWS = 12,
    TILE_PANELS = 2,
    TILE_WIDTH = TILE_PANELS * NIB_PANEL,
    ROW_BLOCK = 120, /* rows at most; of SPAN columns they are half of an L2 of 1 MiB */
    SPAN = 4096,
    SPAN_GROUPS = SPAN / 32,
    BYTES_DEPTH = 512, /* columns that are unpacked at a time */
    ASK_CELLS = 8,     /* of bytes, after which a tile asks for lines: */
    MOST_ASKED = 8,    /* at most so many of a panel */
};

/* What the rows of a block bring to a group, and what two panels do. */
typedef struct group_of_rows {
    int32_t start[ROW_BLOCK]; /* -mid times the sum of the inputs' codes */
    float sums[ROW_BLOCK];    /* that sum */
} group_of_rows;
typedef struct group_of_panels {
    float scale[TILE_PANELS][NIB_PANEL], offset[TILE_PANELS][NIB_PANEL];
} group_of_panels;

/* What lies in the caller's scratch. */
typedef struct tile_scratch {
    uint8_t codes[TILE_PANELS][BYTES_DEPTH * NIB_PANEL];
    int32_t part[ROW_BLOCK][TILE_WIDTH]; /* sums of a group that is not complete */
    group_of_rows rows[SPAN_GROUPS];
    group_of_panels panels[SPAN_GROUPS];
    const char *next, *next_end; /* codes of the first of the next panels, not asked for yet */
    float *results;              /* the same of the results of the next tile */
    int64_t results_left;
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
    int64_t next;          /* panel that is met after these; -1: none */
    int64_t next_row;      /* the first row that meets it */
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
    bool complete;   /* what begins here or began earlier ends here */
    bool plain;      /* of two whole panels, by scales alone */
    int64_t ask;     /* lines of each of the next panels, and */
    int64_t expect;  /* rows of results, that are asked for every group or ASK_CELLS */
    int64_t between; /* bytes from one of these panels to the other */
} tile_block;

/* What follows the sums of one group that is a whole row: the result of row m of the block. */
INLINE __m512 whole_row(const tile_job *t, int64_t m, __m512i part, __m512 scale, __m512 offset) {
    const __m512 v = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(part), _mm512_setzero_ps());
    if (t->w->offset_kind == NIB_OFFSET_NONE) return v;
    return _mm512_fmadd_ps(offset, _mm512_set1_ps(t->s->rows[0].sums[m]), v);
}

/* The last steps of a result. */
INLINE __m512 last_steps(const tile_job *t, int64_t m, __m512 v, const bool zeros,
                         __m512 correction) {
    if (zeros) v = _mm512_fmadd_ps(_mm512_set1_ps(-(float)t->x->zero[t->row + m]), correction, v);
    return _mm512_mul_ps(v, _mm512_set1_ps(t->x->scale[t->row + m]));
}
INLINE __m512 correction_of(const tile_job *t, int64_t panel) {
    return t->x->zero ? _mm512_loadu_ps(t->w->correction + panel * NIB_PANEL) : _mm512_setzero_ps();
}

/* The place of results of row m of the block, and which of them there are. */
INLINE float *results_at(const tile_job *t, int64_t panel, int64_t m) {
    return t->y + (t->row + m) * t->ldy + panel * NIB_PANEL;
}
INLINE __mmask16 channels_at(const tile_block *b, const int panel) {
    return panel < b->panels ? channels_of(b->job->w, b->panel + panel) : 0;
}

/* Asks for some lines: of the next panels, to L2, where what one tile asks for follows
 * what the last did, and of results, to be written. */
INLINE void ask(const tile_block *b, tile_scratch *s) {
    for (int64_t i = 0; i < b->ask && s->next < s->next_end; i++, s->next += 64) {
        _mm_prefetch(s->next, _MM_HINT_T1);
        _mm_prefetch(s->next + b->between, _MM_HINT_T1);
    }
    for (int64_t i = 0; i < b->expect && s->results_left; i++, s->results_left--) {
        EXPECT(s->results);
        EXPECT(s->results + NIB_PANEL);
        s->results += b->job->ldy;
    }
}

/* Where the rows of a tile are read: two pointers beside the first, and the distance of a row one
 * to four times, reach all twelve; one, and the distance once or twice, reaches six. The compiler
 * is kept from seeing how they hang together: it would make a pointer of each row, and spill those
 * to vector registers, whose way back takes turns of the units that multiply. */
typedef struct row_pointers {
    const int8_t *q[3]; /* rows 0, 5 and 10, or 0 and 3 */
    int64_t ld, ld3;
} row_pointers;

INLINE int rows_of_pointer(const int rows) { return rows > 6 ? 5 : 3; }
INLINE row_pointers rows_from(const int8_t *q, int64_t ld, const int rows) {
    const int step = rows_of_pointer(rows);
    row_pointers r = {{q, q + step * ld, q + 2 * step * ld}, ld, 3 * ld};
    UNRELATED(r.q[0], r.q[1], r.q[2]);
    return r;
}
INLINE void next_column(row_pointers *r, const int rows) {
    r->q[0] += 4;
    if (rows > rows_of_pointer(rows)) r->q[1] += 4;
    if (rows > 2 * rows_of_pointer(rows)) r->q[2] += 4;
    UNRELATED(r->q[0], r->q[1], r->q[2]);
}
/* Four codes of row r, a constant; and in all lanes. */
INLINE const four_codes *codes_at(const row_pointers *p, const int rows, const int r) {
    const int step = rows_of_pointer(rows), at = r % step;
    return (const four_codes *)(p->q[r / step] + (at == 3 ? p->ld3 : at * p->ld));
}
INLINE __m512i row_codes(const row_pointers *p, const int rows, const int r) {
    return _mm512_set1_epi32(*codes_at(p, rows, r));
}

/* What a tile reads, and its registers. */
typedef struct tile_at {
    row_pointers x;
    const uint8_t *codes[TILE_PANELS];
} tile_at;
typedef __m512i tile_sums[TILE_ROWS][TILE_PANELS];
typedef __m512 tile_results[TILE_ROWS][TILE_PANELS];

/* Four columns, the j-th of a cell, of both panels. */
INLINE void open_codes(const int bits, const int j, const tile_at *at, __m512i *u) {
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    UNROLL
    for (int p = 0; p < TILE_PANELS; p++) {
        u[p] = shifted(_mm512_loadu_si512(at->codes[p]), j * bits);
        if (bits < 8) u[p] = _mm512_and_si512(u[p], mask);
    }
}
INLINE void next_step(const int bits, const int j, const int rows, tile_at *at) {
    next_column(&at->x, rows);
    /* the next four columns read the cell anew: two registers less */
    UNRELATED(at->codes[0], at->codes[1], at->x.ld3);
    if (j < 8 / bits - 1) return;
    at->codes[0] += 64;
    at->codes[1] += 64;
}
INLINE void step(const int bits, const int j, const int rows, tile_at *at, tile_sums acc) {
    __m512i u[TILE_PANELS];
    open_codes(bits, j, at, u);
    UNROLL
    for (int r = 0; r < rows; r++) {
        const __m512i q = row_codes(&at->x, rows, r);
        DOT(acc[r][0], u[0], q);
        DOT(acc[r][1], u[1], q);
    }
    next_step(bits, j, rows, at);
}

/* The first step of a group with the end of the one before: a row's sums are converted and begin
 * anew, and while the next row's are, they are added to the results. All of the end at once leaves
 * the units without products until the last sums have gone through it. */
INLINE void turn(const int bits, const int rows, const bool offset, const int32_t *start,
                 const float *sums, const group_of_panels *panels, tile_at *at, tile_sums acc,
                 tile_results y) {
    __m512i u[TILE_PANELS];
    tile_results v;
    open_codes(bits, 0, at, u);
    UNROLL
    for (int r = 0; r <= rows; r++) {
        if (r < rows) {
            CONVERT_HERE(v[r][0], acc[r][0]);
            CONVERT_HERE(v[r][1], acc[r][1]);
            ALL_LANES_HERE(acc[r][0], start[r]);
            ALL_LANES_HERE(acc[r][1], start[r]);
            DOT_HERE(acc[r][0], u[0],
                     *codes_at(&at->x, rows, r)); /* there is no register for them */
            DOT_HERE(acc[r][1], u[1], *codes_at(&at->x, rows, r));
        }
        if (!r) continue;
        ADD_HERE(y[r - 1][0], panels->scale[0], v[r - 1][0]);
        ADD_HERE(y[r - 1][1], panels->scale[1], v[r - 1][1]);
        if (!offset) continue;
        const __m512 sum = _mm512_set1_ps(sums[r - 1]);
        ADD_HERE(y[r - 1][0], panels->offset[0], sum);
        ADD_HERE(y[r - 1][1], panels->offset[1], sum);
    }
    next_step(bits, 0, rows, at);
}

/* The end of the last group of a tile. */
INLINE void last_turn(const int rows, const bool offset, const float *sums,
                      const group_of_panels *panels, tile_sums acc, tile_results y) {
    UNROLL
    for (int p = 0; p < TILE_PANELS; p++) {
        const __m512 scale = _mm512_load_ps(panels->scale[p]);
        UNROLL
        for (int r = 0; r < rows; r++)
            y[r][p] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(acc[r][p]), y[r][p]);
        if (!offset) continue;
        const __m512 of_panel = _mm512_load_ps(panels->offset[p]);
        UNROLL
        for (int r = 0; r < rows; r++)
            y[r][p] = _mm512_fmadd_ps(of_panel, _mm512_set1_ps(sums[r]), y[r][p]);
    }
}

/* Rows [row, row + rows) of the block; `bits` (8, 4 or 2) and `rows` are constant. */
INLINE void tile(const int bits, const int rows, const tile_block *b, tile_scratch *s,
                 int64_t row) {
    tile_results y;
    tile_sums acc;
    if (b->fresh) {
        UNROLL
        for (int r = 0; r < rows; r++) y[r][0] = y[r][1] = _mm512_setzero_ps();
    } else {
        const float *from = results_at(b->job, b->panel, row);
        const __mmask16 first = channels_at(b, 0), second = channels_at(b, 1);
        UNROLL
        for (int r = 0; r < rows; r++, from += b->job->ldy) {
            y[r][0] = _mm512_maskz_loadu_ps(first, from);
            y[r][1] = _mm512_maskz_loadu_ps(second, from + NIB_PANEL);
        }
    }
    enum { NEXT_GROUP = sizeof(group_of_rows) / 4 };
    const int32_t *start = s->rows[b->group].start + row;
    const float *sums = s->rows[b->group].sums + row;
    const group_of_panels *panels = s->panels;
    if (b->begins) {
        UNROLL
        for (int r = 0; r < rows; r++) acc[r][0] = acc[r][1] = _mm512_set1_epi32(start[r]);
    } else {
        UNROLL
        for (int r = 0; r < rows; r++) {
            acc[r][0] = _mm512_load_si512(s->part[row + r]);
            acc[r][1] = _mm512_load_si512(s->part[row + r] + NIB_PANEL);
        }
    }
    if (b->cells) {
        tile_at at = {rows_from(b->q + row * b->ld, b->ld, rows), {b->codes[0], b->codes[1]}};
        const group_of_panels *const last = panels + b->groups - 1;
        step(bits, 0, rows, &at, acc);
        for (;;) {
            UNROLL
            for (int j = 1; j < 8 / bits; j++) step(bits, j, rows, &at, acc);
            for (int64_t i = b->cells - 1; i > 0; i--) {
                UNROLL
                for (int j = 0; j < 8 / bits; j++) step(bits, j, rows, &at, acc);
            }
            ask(b, s);
            if (panels == last) break;
            start += NEXT_GROUP;
            if (b->offset)
                turn(bits, rows, true, start, sums, panels, &at, acc, y);
            else
                turn(bits, rows, false, start, sums, panels, &at, acc, y);
            sums += NEXT_GROUP;
            panels++;
        }
    }
    if (!b->ends) {
        UNROLL
        for (int r = 0; r < rows; r++) {
            _mm512_store_si512(s->part[row + r], acc[r][0]);
            _mm512_store_si512(s->part[row + r] + NIB_PANEL, acc[r][1]);
        }
        return;
    }
    if (b->offset)
        last_turn(rows, true, sums, panels, acc, y);
    else
        last_turn(rows, false, sums, panels, acc, y);
    const tile_job *t = b->job;
    UNROLL
    for (int p = 0; p < TILE_PANELS; p++) {
        if (p >= b->panels) return;
        const __mmask16 channels = channels_of(t->w, b->panel + p);
        const __m512 correction = correction_of(t, b->panel + p);
        float *to = results_at(t, b->panel + p, row);
        if (b->complete && t->x->zero) {
            UNROLL
            for (int r = 0; r < rows; r++)
                y[r][p] = last_steps(t, row + r, y[r][p], true, correction);
        } else if (b->complete) {
            UNROLL
            for (int r = 0; r < rows; r++)
                y[r][p] = last_steps(t, row + r, y[r][p], false, correction);
        }
        UNROLL
        for (int r = 0; r < rows; r++, to += t->ldy) _mm512_mask_storeu_ps(to, channels, y[r][p]);
    }
}

/* Where a row has one group of bytes no results need registers until it ends: a taller tile reads
 * each code half as often. */
INLINE void tall(const int rows, const tile_block *b, tile_scratch *s, int64_t row) {
    row_pointers x = rows_from(b->q + row * b->ld, b->ld, rows);
    const uint8_t *codes[TILE_PANELS] = {b->codes[0], b->codes[1]};
    __m512i acc[TALL_ROWS][TILE_PANELS];
    const int32_t *start = s->rows[b->group].start + row;
    if (b->begins) {
        UNROLL
        for (int r = 0; r < rows; r++) acc[r][0] = acc[r][1] = _mm512_set1_epi32(start[r]);
    } else {
        UNROLL
        for (int r = 0; r < rows; r++) {
            acc[r][0] = _mm512_load_si512(s->part[row + r]);
            acc[r][1] = _mm512_load_si512(s->part[row + r] + NIB_PANEL);
        }
    }
    for (int64_t i = 0; i < b->cells; i++) {
        if (i % ASK_CELLS == 0) ask(b, s);
        const __m512i u[] = {_mm512_loadu_si512(codes[0]), _mm512_loadu_si512(codes[1])};
        UNROLL
        for (int r = 0; r < rows; r++) {
            const __m512i q = row_codes(&x, rows, r);
            DOT(acc[r][0], u[0], q);
            DOT(acc[r][1], u[1], q);
        }
        next_column(&x, rows);
        codes[0] += 64;
        codes[1] += 64;
    }
    if (b->complete && b->plain) { /* without a question for each row: 1 % of 1024 columns */
        const tile_job *t = b->job;
        const float *const of_rows = t->x->scale + t->row + row;
        const __m512 first = _mm512_load_ps(s->panels[0].scale[0]);
        const __m512 second = _mm512_load_ps(s->panels[0].scale[1]), none = _mm512_setzero_ps();
        float *y = results_at(t, b->panel, row);
        UNROLL
        for (int r = 0; r < rows; r++, y += t->ldy) {
            const __m512 v = _mm512_fmadd_ps(first, _mm512_cvtepi32_ps(acc[r][0]), none);
            const __m512 u = _mm512_fmadd_ps(second, _mm512_cvtepi32_ps(acc[r][1]), none);
            const __m512 of_row = _mm512_set1_ps(of_rows[r]);
            _mm512_storeu_ps(y, _mm512_mul_ps(v, of_row));
            _mm512_storeu_ps(y + NIB_PANEL, _mm512_mul_ps(u, of_row));
        }
        return;
    }
    if (b->complete) {
        const tile_job *t = b->job;
        UNROLL
        for (int p = 0; p < TILE_PANELS; p++) {
            if (p >= b->panels) return;
            const __mmask16 channels = channels_of(t->w, b->panel + p);
            const __m512 scale = _mm512_load_ps(s->panels[0].scale[p]);
            const __m512 offset = _mm512_load_ps(s->panels[0].offset[p]);
            const __m512 correction = correction_of(t, b->panel + p);
            float *y = results_at(t, b->panel + p, row);
            UNROLL
            for (int r = 0; r < rows; r++, y += t->ldy) {
                const __m512 v = whole_row(t, row + r, acc[r][p], scale, offset);
                _mm512_mask_storeu_ps(y, channels,
                                      last_steps(t, row + r, v, t->x->zero, correction));
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
TILE_OF(4, 4)
TILE_OF(4, 5)
TILE_OF(4, 6)
TILE_OF(2, 4)
TILE_OF(2, 5)
TILE_OF(2, 6)
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
    for (int64_t i = 0, row = 0; i < count; i++) {
        const int64_t height = t->rows / count + (i < t->rows % count);
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
