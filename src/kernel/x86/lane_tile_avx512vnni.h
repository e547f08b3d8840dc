/* lane_tile_avx512vnni.h: the tiles of many rows of 8-bit codes by integer weights in lanes, which
 * lane_many_avx512vnni.h lets go over blocks and spans.
 *
 * A tile is 6 rows by 2 panels: 12 sums of products and 12 results in registers, which leaves the
 * two dot product units always enough independent chains (latency 4) and four registers, by which
 * the float steps at the end of a group go in between the first products of the next. Codes of 4
 * and 2 bits are opened inside the tile, by units that the products leave idle; planes are unpacked
 * to bytes first. A row of bytes with one group has no results before it ends: its tile is 12 rows
 * high and reads each code half as often. */
#ifndef NIB_KERNEL_X86_LANE_TILE_AVX512VNNI_H
#define NIB_KERNEL_X86_LANE_TILE_AVX512VNNI_H
#include "kernel/x86/lane_avx512vnni.h"

enum {
    TILE_ROWS = 6,
    TALL_ROWS = 12,
    TILE_PANELS = 2,
    TILE_WIDTH = TILE_PANELS * NIB_PANEL,
    ROW_BLOCK = 120, /* rows at most; of SPAN columns they are half of an L2 of 1 MiB */
    SPAN = 4096,
    SPAN_GROUPS = SPAN / 32,
    BYTES_DEPTH = 512, /* columns that are unpacked at a time */
    ASK_CELLS = 16,    /* of bytes, after which a tile asks for lines: */
    MOST_ASKED = 16,   /* at most so many of a panel */
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
        const int64_t ldy = t->ldy;
        UNROLL
        for (int r = 0; r < rows; r++, y += ldy) {
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
#endif
