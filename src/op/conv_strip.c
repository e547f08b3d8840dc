#include "op/conv_strip.h"

#include <string.h>

#include "base/checked.h"

void nib_strip_cut(nib_strip *s, int64_t most, bool whole_rows, bool words) {
    const nib_window *w = s->w;
    const int64_t OH = s->P / s->OW;
    if (whole_rows) { /* even runs of rows */
        const int64_t rows = most > s->OW ? most / s->OW : 1, parts = (OH + rows - 1) / rows;
        s->block_p = (OH + parts - 1) / parts * s->OW;
    } else {
        const int64_t length = s->OW > most ? s->OW : s->P; /* that is cut into equal blocks */
        const int64_t parts = (length + most - 1) / most, even = (length + parts - 1) / parts;
        s->block_p = (even + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL;
    }
    const bool cut_rows = !whole_rows && s->OW > most;
    s->across = cut_rows ? (s->OW + s->block_p - 1) / s->block_p : 1;
    s->blocks = cut_rows ? OH * s->across : (s->P + s->block_p - 1) / s->block_p;
    /* rows of the output that a block may touch, and its columns */
    const int64_t some = whole_rows ? s->block_p / s->OW : (s->block_p + s->OW - 2) / s->OW + 1;
    const int64_t rows = cut_rows ? 1 : some < OH ? some : OH;
    const int64_t columns = cut_rows ? s->block_p : s->OW;
    s->direct = words && !w->padding[0] && !w->padding[1] && w->stride[1] == 1;
    s->phases = w->size[1] == 1 ? 1 : w->stride[1]; /* no tap is in another one */
    const int64_t wide = (columns - 1) * w->stride[1] + w->dilation[1] * (w->size[1] - 1) + 1;
    s->rows = (rows - 1) * w->stride[0] + w->dilation[0] * (w->size[0] - 1) + 1;
    s->columns = s->direct ? s->W : (wide + w->stride[1] - 1) / w->stride[1];
    s->line = s->direct ? s->W : s->phases * s->columns;
    s->plane = s->direct ? s->H * s->W : s->rows * s->line;
}

nib_place nib_strip_place(const nib_strip *s, int64_t block) {
    if (s->across == 1) {
        const int64_t p = block * s->block_p;
        return (nib_place){p, s->P - p < s->block_p ? s->P - p : s->block_p, p / s->OW, 0};
    }
    const int64_t oy = block / s->across, ox = block % s->across * s->block_p;
    return (nib_place){oy * s->OW + ox, s->OW - ox < s->block_p ? s->OW - ox : s->block_p, oy, ox};
}

bool nib_strip_words(const nib_strip *s, int64_t *words) {
    *words = 0;
    return s->direct || (!nib_mul_count(s->rows * s->phases, s->columns, words) &&
                         !nib_mul_count(*words, s->C, words));
}

void nib_strip_taps(const nib_strip *s, int64_t *taps) {
    const nib_window *w = s->w;
    for (int64_t c = 0; c < s->C; c++)
        for (int64_t i = 0; i < w->size[0]; i++)
            for (int64_t t = 0; t < w->size[1]; t++) {
                const int64_t column = t * w->dilation[1];
                *taps++ = c * s->plane + i * w->dilation[0] * s->line +
                          column % w->stride[1] * s->columns + column / w->stride[1];
            }
}

/* ---- filling ---- */

typedef struct span { /* columns [begin, end) of a row lie in the input; from column `first` on */
    int64_t begin, end, count, first, stride;
} span;

/* Columns [begin, end) of a span, `at_x` the one of the input: with strides that compilers know how
 * to load. */
#define EVERY(statement, r)                                                                        \
    {                                                                                              \
        if ((r).stride == 1)                                                                       \
            EVERY_OF(1, statement, r)                                                              \
        else if ((r).stride == 2)                                                                  \
            EVERY_OF(2, statement, r)                                                              \
        else                                                                                       \
            EVERY_OF((r).stride, statement, r)                                                     \
    }
#define EVERY_OF(step, statement, r)                                                               \
    for (int64_t i = (r).begin; i < (r).end; i++) {                                                \
        const int64_t at_x = (r).first + i * (step);                                               \
        statement;                                                                                 \
    }

static span span_of(const nib_strip *s, int64_t first, bool inside) {
    const int64_t stride = s->w->stride[1], count = s->columns;
    span r = {.begin = first < 0 ? (-first + stride - 1) / stride : 0,
              .end = inside && first < s->W ? (s->W - first + stride - 1) / stride : 0,
              .count = count,
              .first = first,
              .stride = stride};
    if (r.end > count) r.end = count;
    if (r.begin > r.end) r.begin = r.end;
    return r;
}

/* The rows of a strip one after the other: what each is made of. */
typedef struct walk {
    const nib_strip *s;
    int64_t top, left, c, r, phase;
} walk;

static walk begin(const nib_strip *s, const nib_place *at) {
    return (walk){.s = s,
                  .top = at->oy * s->w->stride[0] - s->w->padding[0],
                  .left = at->ox * s->w->stride[1] - s->w->padding[1]};
}
/* Row of the input, or -1. */
static int64_t row_of(const walk *w) {
    const int64_t row = w->top + w->r;
    const bool met = w->s->w->size[0] > 1 || w->r % w->s->w->stride[0] == 0; /* else by no tap */
    return met && row >= 0 && row < w->s->H ? row : -1;
}
static bool next(walk *w) {
    if (++w->phase < w->s->phases) return true;
    w->phase = 0;
    if (++w->r < w->s->rows) return true;
    w->r = 0;
    return ++w->c < w->s->C;
}

const void *nib_strip_floats(const nib_strip *s, const nib_place *at, const float *x, float *to) {
    if (s->direct) return x + at->oy * s->w->stride[0] * s->W + at->ox;
    walk w = begin(s, at);
    float *out = to;
    do {
        const int64_t row = row_of(&w);
        const span r = span_of(s, w.left + w.phase, row >= 0);
        const float *from = x + (w.c * s->H + (row < 0 ? 0 : row)) * s->W;
        for (int64_t i = 0; i < r.begin; i++) out[i] = 0;
        if (r.stride == 1 && r.end > r.begin)
            memcpy(out + r.begin, from + r.first + r.begin,
                   (size_t)(r.end - r.begin) * sizeof *out);
        else
            EVERY(out[i] = from[at_x], r)
        for (int64_t i = r.end; i < r.count; i++) out[i] = 0;
        out += r.count;
    } while (next(&w));
    return to;
}

const void *nib_strip_codes(const nib_kernels *k, const nib_strip *s, const nib_place *at,
                            const int8_t *x, float *to) {
    const float one = 1;
    walk w = begin(s, at);
    float *out = to;
    do {
        const int64_t row = row_of(&w);
        const span r = span_of(s, w.left + w.phase, row >= 0);
        const int8_t *from = x + (w.c * s->H + (row < 0 ? 0 : row)) * s->W;
        for (int64_t i = 0; i < r.begin; i++) out[i] = 0;
        if (r.stride == 1 && r.end > r.begin)
            k->dequantize_scaled(out + r.begin, (const uint8_t *)from + r.first + r.begin, 1,
                                 r.end - r.begin, true, &one, NULL, NIB_F32);
        else
            EVERY(out[i] = from[at_x], r)
        for (int64_t i = r.end; i < r.count; i++) out[i] = 0;
        out += r.count;
    } while (next(&w));
    return to;
}

const void *nib_strip_bytes(const nib_strip *s, const nib_place *at, const int8_t *x, int8_t *to) {
    walk w = begin(s, at);
    int8_t *out = to;
    do {
        const int64_t row = row_of(&w);
        const span r = span_of(s, w.left + w.phase, row >= 0);
        const int8_t *from = x + (w.c * s->H + (row < 0 ? 0 : row)) * s->W;
        for (int64_t i = 0; i < r.begin; i++) out[i] = 0;
        if (r.stride == 1 && r.end > r.begin)
            memcpy(out + r.begin, from + r.first + r.begin, (size_t)(r.end - r.begin));
        else
            EVERY(out[i] = from[at_x], r)
        for (int64_t i = r.end; i < r.count; i++) out[i] = 0;
        out += r.count;
    } while (next(&w));
    return to;
}

/* Bytes of four rows to words, every code with its top bit flipped: that adds 128. */
static void put_fours(uint32_t *out, const span *r, const uint8_t *const row[4]) {
    const uint32_t middle = 0x80808080u;
    const uint8_t *a = row[0], *b = row[1], *c = row[2], *d = row[3];
    for (int64_t i = 0; i < r->begin; i++) out[i] = middle;
    EVERY(out[i] = ((uint32_t)a[at_x] | (uint32_t)b[at_x] << 8 | (uint32_t)c[at_x] << 16 |
                    (uint32_t)d[at_x] << 24) ^
                   middle,
          *r)
    for (int64_t i = r->end; i < r->count; i++) out[i] = middle;
}

const void *nib_strip_fours(const nib_strip *s, const nib_place *at, const int8_t *x,
                            int64_t channels, uint32_t *to) {
    walk w = begin(s, at);
    uint32_t *out = to;
    do {
        const int64_t row = row_of(&w), there = channels - w.c * 4;
        const span r = span_of(s, w.left + w.phase, row >= 0);
        const uint8_t *four[4];
        for (int i = 0; i < 4; i++) { /* one that is not there meets a filter's zeros */
            const int64_t c = w.c * 4 + (i < there ? i : 0);
            four[i] = (const uint8_t *)x + (c * s->H + (row < 0 ? 0 : row)) * s->W;
        }
        put_fours(out, &r, four);
        out += r.count;
    } while (next(&w));
    return to;
}

void nib_strip_panels(const nib_kernels *kernels, const nib_strip *s, const nib_place *at,
                      const void *strip, int64_t k, int64_t kc, uint32_t *panels, int64_t stride) {
    for (int64_t q = 0; q < at->count; q += NIB_PANEL, panels += stride) {
        int64_t from[NIB_PANEL], p = at->p + q;
        const int lanes = at->count - q < NIB_PANEL ? (int)(at->count - q) : NIB_PANEL;
        int64_t oy = p / s->OW, ox = p % s->OW;
        for (int l = 0; l < lanes; l++) {
            from[l] = (oy - at->oy) * s->w->stride[0] * s->line + ox - at->ox;
            if (++ox < s->OW) continue;
            ox = 0;
            oy++;
        }
        kernels->words_by_taps(panels, strip, s->taps + k, kc, from, lanes);
    }
}
