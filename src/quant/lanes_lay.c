/* lanes_lay.c: bytes of sixteen rows, four a word, are laid side by side as pack_f32 lays floats;
 * lines and sums of codes are made of these words, and of the sums of a panel its corrections. */
#include "quant/lanes_lay.h"

#include <string.h>

#include "base/bits.h"
#include "base/mem.h"
#include "quant/codes.h"
#include "quant/lanes.h"
#include "quant/layout_part.h"

enum {
    BLOCK = 1024,      /* columns laid side by side at once: 16 KiB of words */
    WORDS = BLOCK / 4, /* of each channel */
    CELL = 64,         /* bytes of a line */
    MOST_BANDS = 4,    /* codes of a byte */
    MOST_PLANES = 3,
    LEAST_GROUP = 32, /* columns, which all lanes ask for */
    GROUPS = 64,      /* whose sums wait for their values: no fewer than those of a block and one */
};
_Static_assert(BLOCK / LEAST_GROUP + 1 <= GROUPS, "groups of a block");

/* The bits of codes that lie together in a panel. */
typedef struct plane {
    nib_lane lane;
    int bits, shift;
    int64_t at; /* bytes of a panel before it */
} plane;

/* A panel that is being made: one of each band. */
typedef struct panel {
    int64_t row; /* of the matrix */
    uint8_t *lanes[MOST_PLANES];
    int shift; /* of its codes in a byte */
    float correction[NIB_PANEL];
    int32_t sums[GROUPS][NIB_PANEL];
} panel;

typedef struct laying {
    const nib_qdesc *desc;
    const nib_stored *from;
    void *const *to;
    const nib_kernels *k;
    int bits, bias, mid, bands, planes;
    bool integer, halves; /* codes; words of eight of 4 bits */
    plane plane[MOST_PLANES];
    nib_offset offset;
    int64_t columns, G, groups, there; /* padded columns; rows that there are of 16 */
    int32_t less;                      /* mid of all columns of a group */
    int64_t first, ready;              /* group of sums[0]; groups that are whole from there on */
    panel panel[MOST_BANDS];
} laying;

/* ---- codes: words of a block ---- */

/* Four words of eight half bytes to words of channels 0 4 1 5: byte j of each of the four. */
static inline void lay_four(const uint32_t column[4], int shift, uint32_t out[4]) {
    const uint32_t low = 0x00ff00ffu;
    uint32_t a[4], even[2], odd[2];
    for (int k = 0; k < 4; k++) a[k] = column[k] >> shift & 0x0f0f0f0fu;
    for (int k = 0; k < 2; k++) {
        even[k] = (a[2 * k] & low) | (a[2 * k + 1] & low) << 8;
        odd[k] = (a[2 * k] >> 8 & low) | (a[2 * k + 1] >> 8 & low) << 8;
    }
    out[0] = (even[0] & 0xffffu) | even[1] << 16;
    out[1] = (odd[0] & 0xffffu) | odd[1] << 16;
    out[2] = even[0] >> 16 | (even[1] & 0xffff0000u);
    out[3] = odd[0] >> 16 | (odd[1] & 0xffff0000u);
}

/* Half bytes 0 to 7 of a word are rows 0 2 4 6 1 3 5 7: bytes of the lower halves rows 0 4 1 5, of
 * the upper ones 2 6 3 7. */
static const int down_rows[2][4] = {{0, 4, 1, 5}, {2, 6, 3, 7}};

static void lay_down(const nib_stored *from, int64_t row, int64_t k, int64_t n, uint32_t *words) {
    const uint8_t *bytes = from->codes + k * from->ld + row / 2;
    for (int64_t i = 0; i < n; i += 4, words += NIB_PANEL, bytes += 4 * from->ld)
        for (int eight = 0; eight < 2; eight++) {
            uint32_t column[4], out[4];
            for (int c = 0; c < 4; c++) memcpy(&column[c], bytes + c * from->ld + 4 * eight, 4);
            for (int half = 0; half < 2; half++) {
                lay_four(column, 4 * half, out);
                for (int r = 0; r < 4; r++) words[8 * eight + down_rows[half][r]] = out[r];
            }
        }
}

static void lay_words(const laying *l, int64_t row, int64_t k, int64_t n, uint32_t *words) {
    const nib_qdesc *d = l->desc;
    const nib_stored *from = l->from;
    const bool bits = from->how == NIB_STORED_BITS;
    if (from->how == NIB_STORED_DOWN) {
        lay_down(from, row, k, n, words);
        return;
    }
    const int64_t there = d->cols - k < n ? d->cols - k : n;
    const uint8_t *bytes = from->codes + row * from->ld + (bits ? k * l->bits / 8 : k);
    const int64_t lines = l->halves ? n / 8 : n / 4;
    if (l->halves || (!bits && l->there == NIB_PANEL && there == n && from->ld % 4 == 0 &&
                      (uintptr_t)bytes % 4 == 0)) {
        l->k->pack_f32((float *)(void *)words, (const float *)(const void *)bytes, from->ld / 4,
                       NIB_PANEL, lines);
        return;
    }
    float held[NIB_PANEL * WORDS]; /* bits that are moved, no floats */
    for (int64_t r = 0; r < NIB_PANEL; r++) {
        uint8_t *q = (uint8_t *)(held + r * WORDS);
        if (r >= l->there || there < n) memset(q, l->mid ^ l->bias, (size_t)n);
        if (r >= l->there) continue;
        if (bits)
            l->k->unpack_bits(q, bytes + r * from->ld, (size_t)there, l->bits);
        else
            memcpy(q, bytes + r * from->ld, (size_t)there);
    }
    l->k->pack_f32((float *)(void *)words, held, WORDS, NIB_PANEL, lines);
}

/* Columns of whole groups, `every` of each, or of a part of one. Sums go on. */
static void lay_columns(const laying *l, panel *p, const uint32_t *words, int64_t columns,
                        int64_t every, int32_t *sums) {
    const uint32_t flip = l->from->how == NIB_STORED_DOWN ? 0 : 0x01010101u * (uint32_t)l->bias;
    if (l->halves) {
        l->k->lay_halves(p->lanes[0], words, columns / 8, flip | flip << 4, every / 8, sums);
        p->lanes[0] += columns / 8 * CELL;
        return;
    }
    for (int i = 0; i < l->planes; i++) {
        const plane *a = &l->plane[i];
        const int64_t step = 32 / a->bits, lines = columns / step;
        const int64_t groups = (columns + every - 1) / every;
        uint8_t *to = p->lanes[i];
        p->lanes[i] += lines * CELL;
        if (l->planes == 1) {
            l->k->lay_lines(to, words, lines, a->lane, flip, p->shift, every / step, sums);
            continue;
        }
        int32_t some[GROUPS * NIB_PANEL];
        memset(some, 0, (size_t)(groups * NIB_PANEL) * sizeof *some);
        l->k->lay_lines(to, words, lines, a->lane, flip, a->shift, every / step, some);
        for (int64_t s = 0; s < groups * NIB_PANEL; s++) sums[s] += some[s] * (1 << a->shift);
    }
}

/* ---- values: scales and zeros of a few groups ---- */

/* Sixteen rows of words side by side: [n][16]. */
static void lay_rows(const nib_kernels *k, const char *at, int64_t row_bytes, int64_t n,
                     uint32_t *words) {
    k->pack_f32((float *)(void *)words, (const float *)(const void *)at, row_bytes / 4, NIB_PANEL,
                n);
}

static int64_t width_of(nib_dtype dtype) {
    return dtype == NIB_F32 ? 4 : dtype == NIB_I8 || dtype == NIB_U8 ? 1 : 2;
}

/* Elements of groups [g, g + n) of all rows to [n][16], zeros for rows that are not there. */
static void gather(const laying *l, const nib_stored_values *v, int64_t row, int64_t g, int64_t n,
                   void *to) {
    const int64_t width = width_of(v->dtype);
    const char *at = (const char *)v->at + (size_t)((row * v->row + g * v->group) * width);
    const bool all = l->there == NIB_PANEL;
    if (all && v->row == 1) {
        for (int64_t i = 0; i < n; i++)
            memcpy((char *)to + (size_t)(i * NIB_PANEL * width),
                   at + (size_t)(i * v->group * width), (size_t)(NIB_PANEL * width));
        return;
    }
    const bool words = all && v->group == 1 && (uintptr_t)at % 4 == 0 && v->row * width % 4 == 0;
    if (words && width == 4) {
        lay_rows(l->k, at, v->row * 4, n, to);
        return;
    }
    if (words && width == 2 && n % 2 == 0) {
        uint32_t pairs[GROUPS / 2 * NIB_PANEL];
        uint16_t *out = to;
        lay_rows(l->k, at, v->row * 2, n / 2, pairs);
        for (int64_t i = 0; i < n / 2; i++)
            for (int c = 0; c < NIB_PANEL; c++) {
                out[2 * i * NIB_PANEL + c] = (uint16_t)pairs[i * NIB_PANEL + c];
                out[(2 * i + 1) * NIB_PANEL + c] = (uint16_t)(pairs[i * NIB_PANEL + c] >> 16);
            }
        return;
    }
    if (words && width == 1 && n % 4 == 0) {
        uint32_t fours[GROUPS / 4 * NIB_PANEL];
        uint8_t *out = to;
        lay_rows(l->k, at, v->row, n / 4, fours);
        for (int64_t i = 0; i < n / 4; i++)
            for (int b = 0; b < 4; b++)
                for (int c = 0; c < NIB_PANEL; c++)
                    out[(4 * i + b) * NIB_PANEL + c] = (uint8_t)(fours[i * NIB_PANEL + c] >> 8 * b);
        return;
    }
    memset(to, 0, (size_t)(n * NIB_PANEL * width));
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < l->there; c++)
            memcpy((char *)to + (size_t)((i * NIB_PANEL + c) * width),
                   at + (size_t)((c * v->row + i * v->group) * width), (size_t)width);
}

/* Values of groups [g, g + n) of a panel to where they go, and as f32 [n][16]. */
static void lay_values(const laying *l, const nib_stored_values *v, void *to, int64_t row,
                       int64_t g, int64_t n, float *values) {
    const nib_dtype dtype = l->desc->scale_dtype;
    const int64_t place = (row / NIB_PANEL * l->groups + g) * NIB_PANEL, count = n * NIB_PANEL;
    if (v->dtype == NIB_U4) {
        for (int64_t i = 0; i < count; i++) {
            const int64_t c = i % NIB_PANEL;
            const uint8_t *at =
                (const uint8_t *)v->at + (g + i / NIB_PANEL) * v->group + (row + c) / 8 * 4;
            const int half = (int)(c % 2 * 4 + c % 8 / 2); /* of its word */
            values[i] = (float)((at[half / 2] >> half % 2 * 4 & 15) - l->bias);
        }
        nib_part_store(dtype, to, place, values, count);
        return;
    }
    if (v->dtype == NIB_F32) {
        gather(l, v, row, g, n, values);
        nib_part_store(dtype, to, place, values, count);
        return;
    }
    uint16_t held[GROUPS * NIB_PANEL];
    gather(l, v, row, g, n, held);
    if (v->dtype == NIB_U8)
        for (int64_t i = 0; i < count; i++) values[i] = ((const uint8_t *)held)[i];
    else
        nib_part_load(v->dtype, held, 0, values, count);
    bool numbers = v->dtype == dtype; /* which come back as they were; what a NaN is may change */
    for (int64_t i = 0; i < count; i++) numbers &= values[i] == values[i];
    if (numbers)
        memcpy((char *)to + (size_t)place * 2, held, (size_t)count * 2);
    else
        nib_part_store(dtype, to, place, values, count);
}

/* The groups whose sums are whole get their values, and what is left begins again. */
static void end_groups(laying *l) {
    const bool zeros = l->offset != NIB_OFFSET_NONE;
    float scale[GROUPS * NIB_PANEL], zero[GROUPS * NIB_PANEL];
    const int64_t n = l->ready;
    for (int b = 0; n && b < l->bands; b++) {
        panel *p = &l->panel[b];
        lay_values(l, &l->from->scale, l->to[1], p->row, l->first, n, scale);
        if (zeros) lay_values(l, &l->from->zero, l->to[2], p->row, l->first, n, zero);
        if (l->integer)
            l->k->correct_lines(p->correction, scale, zeros ? zero : NULL, l->offset, p->sums[0], n,
                                l->less, (float)l->G);
        if (l->first + n == l->groups) continue;
        memcpy(p->sums[0], p->sums[n], sizeof p->sums[0]);
        memset(p->sums[1], 0, sizeof p->sums - sizeof p->sums[0]);
    }
    l->first += n;
    l->ready = 0;
}

/* ---- panels ---- */

/* Columns [k, k + n), whose words are at hand: whole groups together, parts of one by themselves.
 */
static void lay_block(laying *l, const uint32_t *words, int64_t k, int64_t n) {
    for (int64_t at = k, here; at < k + n; at += here) {
        const int64_t g = at / l->G < l->groups ? at / l->G : l->groups - 1;
        const int64_t done = at - g * l->G, left = k + n - at, of = g - l->first;
        const bool last = g == l->groups - 1; /* it has what fills a cell */
        const int64_t whole = done ? 0 : left / l->G;
        int64_t every = left;
        here = left;
        if (!last && whole) {
            here = whole * l->G;
            every = l->G;
        } else if (!last && l->G - done < left) {
            every = here = l->G - done;
        }
        const int64_t place = (at - k) / (l->halves ? 8 : 4) * NIB_PANEL;
        for (int b = 0; b < l->bands; b++)
            lay_columns(l, &l->panel[b], words + place, here, every, l->panel[b].sums[of]);
        l->ready = last ? (at + here == l->columns ? of + 1 : of) : (at + here) / l->G - l->first;
    }
}

static void lay_panels(laying *l, int64_t row) {
    const nib_qdesc *d = l->desc;
    const int64_t band = d->rows / l->bands, size = l->columns * NIB_PANEL * l->bits / 8;
    _Alignas(NIB_MEM_ALIGN) uint32_t words[WORDS * NIB_PANEL];
    l->there = d->rows - row < NIB_PANEL ? d->rows - row : NIB_PANEL;
    l->first = l->ready = 0;
    for (int b = 0; b < l->bands; b++) {
        panel *p = &l->panel[b];
        p->row = b * band + row;
        p->shift = l->bands > 1 ? b * l->bits : 0;
        memset(p->correction, 0, sizeof p->correction);
        memset(p->sums, 0, (size_t)(l->groups < GROUPS ? l->groups : GROUPS) * sizeof *p->sums);
        for (int i = 0; i < l->planes; i++)
            p->lanes[i] = (uint8_t *)l->to[0] + p->row / NIB_PANEL * size + l->plane[i].at;
    }
    for (int64_t k = 0; k < l->columns; k += BLOCK) {
        const int64_t n = l->columns - k < BLOCK ? l->columns - k : BLOCK;
        lay_words(l, row, k, n, words);
        lay_block(l, words, k, n);
        if (l->ready + BLOCK / LEAST_GROUP + 1 > GROUPS || k + n == l->columns) end_groups(l);
    }
    float *correction = l->to[l->offset == NIB_OFFSET_NONE ? 2 : 3];
    for (int b = 0; b < l->bands; b++) {
        panel *p = &l->panel[b];
        for (int64_t c = l->integer ? l->there : 0; c < NIB_PANEL; c++) p->correction[c] = 0.0f;
        memcpy(correction + p->row, p->correction, sizeof p->correction);
    }
}

static int planes_of(laying *l, nib_lane lane) {
    int count = 0, shift = 0;
    int64_t at = 0;
    if (lane != NIB_LANE_WX) {
        l->plane[0] = (plane){.lane = lane, .bits = l->bits};
        return 1;
    }
    for (int bits = 4; bits; bits /= 2) {
        if (!(l->bits & bits)) continue;
        const nib_lane as = bits == 4 ? NIB_LANE_W4 : bits == 2 ? NIB_LANE_W2 : NIB_LANE_WX;
        l->plane[count++] = (plane){.lane = as, .bits = bits, .shift = shift, .at = at};
        at += l->columns * NIB_PANEL * bits / 8;
        shift += bits;
    }
    return count;
}

void nib_lanes_lay(const nib_qdesc *d, const nib_stored *from, void *const to[], int64_t row,
                   int64_t rows) {
    const nib_lane_weight w = nib_lanes_view(d, (const void *const *)to);
    laying l;
    l.desc = d;
    l.from = from;
    l.to = to;
    l.k = nib_codes_kernels();
    l.integer = nib_qdesc_integer(d);
    l.bits = w.bits;
    l.bias = l.integer && nib_qdesc_signed(d) ? 1 << (w.bits - 1) : 0;
    l.mid = w.mid;
    l.bands = from->how == NIB_STORED_BANDS ? 8 / w.bits : 1;
    l.columns = w.panel_bytes * 8 / (NIB_PANEL * w.bits);
    l.G = w.G;
    l.groups = w.groups;
    l.less = (int32_t)(l.mid * (w.groups == 1 ? l.columns : w.G));
    l.offset = w.offset_kind;
    l.planes = planes_of(&l, w.lane);
    l.halves = from->how == NIB_STORED_BITS && w.lane == NIB_LANE_W4 && d->cols % 8 == 0 &&
               d->rows % NIB_PANEL == 0 && from->ld % 4 == 0 && (uintptr_t)from->codes % 4 == 0;
    for (int64_t r = row; r < row + rows; r += NIB_PANEL) lay_panels(&l, r);
    l.k->lines_laid();
}

/* ---- where layouts have what ---- */

static nib_stored_values blocks(const nib_qdesc *d, const void *at, nib_dtype dtype) {
    const int64_t groups = nib_qdesc_block_cols(d);
    return (nib_stored_values){at, dtype, d->block_rows == 1 ? groups : 0, 1};
}

bool nib_stored_of(const nib_layout *from, const nib_qdesc *d, const void *const part[],
                   nib_stored *s) {
    static const struct {
        const char *layout;
        nib_stored_how how;
        bool transposed;
    } known[] = {
        {"quanto_bytes", NIB_STORED_BYTES, false}, {"int8_row", NIB_STORED_BYTES, false},
        {"f8_row", NIB_STORED_BYTES, false},       {"intx_unpacked", NIB_STORED_BYTES, false},
        {"quanto_bits", NIB_STORED_BANDS, false},  {"int4_plain", NIB_STORED_BITS, true},
        {"intx", NIB_STORED_BITS, false},          {"awq_gemm", NIB_STORED_DOWN, true},
    };
    const int bits = nib_qdesc_bits(d);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].layout, from->name) != 0) continue;
        *s = (nib_stored){.how = known[i].how, .codes = part[0], .ld = d->cols};
        if (s->how == NIB_STORED_BITS) {
            s->ld = (int64_t)nib_bits_size((size_t)d->cols, bits);
            if (bits == 8) s->how = NIB_STORED_BYTES;
        }
        if (s->how == NIB_STORED_BANDS && (d->rows % (8 / bits * NIB_PANEL) != 0 ||
                                           d->cols % 4 != 0 || (uintptr_t)part[0] % 4 != 0))
            return false;
        if (s->how == NIB_STORED_DOWN) {
            s->ld = d->rows / 2;
            s->scale = (nib_stored_values){part[2], d->scale_dtype, 1, d->rows};
            s->zero = (nib_stored_values){part[1], NIB_U4, 0, s->ld};
            return d->rows % NIB_PANEL == 0 && d->cols % 8 == 0;
        }
        s->scale = blocks(d, part[1], d->scale_dtype);
        if (d->zero_kind != NIB_ZERO_NONE) s->zero = blocks(d, part[2], d->zero_dtype);
        if (known[i].transposed) {
            s->scale.row = s->zero.row = 1;
            s->scale.group = s->zero.group = d->rows;
        }
        return d->shape.ndim == 2;
    }
    return false;
}
