#include "op/conv_strip.h"

#include <string.h>

#include "base/checked.h"

void nib_strip_cut(nib_strip *s, int64_t most, bool whole_rows, bool as_it_is) {
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
    s->stride = s->in_order ? 1 : w->stride[1];
    s->direct = as_it_is && !w->padding[0] && !w->padding[1] && s->stride == 1;
    s->phases = w->size[1] == 1 ? 1 : s->stride; /* no tap is in another one */
    const int64_t wide = (columns - 1) * w->stride[1] + w->dilation[1] * (w->size[1] - 1) + 1;
    s->rows = (rows - 1) * w->stride[0] + w->dilation[0] * (w->size[0] - 1) + 1;
    s->columns = s->direct ? s->W : (wide + s->stride - 1) / s->stride;
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

/* The bytes of a row of the padded input that the words of a row of the strip are made of. */
static int64_t padded_bytes(const nib_strip *s) {
    return s->apart ? (s->columns - 1) * s->stride + s->phases + 3 * s->apart : 0;
}

bool nib_strip_words(const nib_strip *s, int64_t *words) {
    const int64_t more = padded_bytes(s) / 4 + 1;
    *words = 0;
    if (s->direct) return true;
    if (nib_mul_count(s->rows * s->phases, s->columns, words) ||
        nib_mul_count(*words, s->C, words) || *words > INT64_MAX - more)
        return false;
    *words += more;
    return true;
}

void nib_strip_taps(const nib_strip *s, int64_t *taps) {
    const nib_window *w = s->w;
    for (int64_t c = 0; c < s->C; c++)
        for (int64_t i = 0; i < w->size[0]; i++)
            for (int64_t t = 0; t < w->size[1]; t++) {
                const int64_t column = t * w->dilation[1];
                *taps++ = c * s->plane + i * w->dilation[0] * s->line +
                          column % s->stride * s->columns + column / s->stride;
            }
}

/* ---- filling ---- */

typedef struct span { /* columns [begin, end) of a row lie in the input; from column `first` on */
    int64_t begin, end, count, first, stride;
} span;

static span span_of(const nib_strip *s, int64_t first) {
    const int64_t stride = s->stride, count = s->columns;
    span r = {.begin = first < 0 ? (-first + stride - 1) / stride : 0,
              .end = first < s->W ? (s->W - first + stride - 1) / stride : 0,
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
    span spans[2]; /* of the first phases: the same for all rows */
} walk;

static walk begin(const nib_strip *s, const nib_place *at) {
    walk w = {.s = s,
              .top = at->oy * s->w->stride[0] - s->w->padding[0],
              .left = at->ox * s->w->stride[1] - s->w->padding[1]};
    for (int i = 0; i < 2; i++) w.spans[i] = span_of(s, w.left + i);
    return w;
}
/* Row of the input, or -1. */
static int64_t row_of(const walk *w) {
    const int64_t row = w->top + w->r;
    const bool met = w->s->w->size[0] > 1 || w->r % w->s->w->stride[0] == 0; /* else by no tap */
    return met && row >= 0 && row < w->s->H ? row : -1;
}
/* And the columns of it: none where there is no row. */
static span columns_of(const walk *w, int64_t row) {
    span r = w->phase < 2 ? w->spans[w->phase] : span_of(w->s, w->left + w->phase);
    if (row < 0) r.begin = r.end = 0;
    return r;
}
static bool next(walk *w) {
    if (++w->phase < w->s->phases) return true;
    w->phase = 0;
    if (++w->r < w->s->rows) return true;
    w->r = 0;
    return ++w->c < w->s->C;
}

enum { EDGE = 16 }; /* bytes: padding is seldom more, and as much at once is one store */

/* Zeros outside [begin, end) of n bytes; within, anything. */
static inline void pad(char *out, size_t n, size_t begin, size_t end) {
    if (n < EDGE || begin > EDGE || n - end > EDGE) {
        memset(out, 0, n);
        return;
    }
    memset(out, 0, EDGE);
    memset(out + n - EDGE, 0, EDGE);
}

/* Rows are short, and a call would take longer than they do. */
static inline void copy(char *to, const char *from, size_t n) {
    if (n < EDGE || n > 16 * EDGE) {
        memcpy(to, from, n);
        return;
    }
    for (size_t i = 0; i + EDGE < n; i += EDGE) memcpy(to + i, from + i, EDGE);
    memcpy(to + n - EDGE, from + n - EDGE, EDGE);
}

/* Numbers of `width` bytes, a constant. */
static inline void copy_every(char *to, const char *from, int64_t n, int64_t stride,
                              const size_t width) {
    if (stride == 2)
        for (int64_t i = 0; i < n; i++)
            memcpy(to + (size_t)i * width, from + (size_t)i * 2 * width, width);
    else
        for (int64_t i = 0; i < n; i++)
            memcpy(to + (size_t)i * width, from + (size_t)(i * stride) * width, width);
}

static inline const void *fill(const nib_strip *s, const nib_place *at, const void *x, void *to,
                               const size_t width) {
    const char *in = x;
    if (s->direct)
        return in + (size_t)(at->oy * s->w->stride[0] * s->W + at->ox * s->w->stride[1]) * width;
    walk w = begin(s, at);
    char *out = to;
    do {
        const int64_t row = row_of(&w);
        const span r = columns_of(&w, row);
        const size_t n = (size_t)r.count * width;
        pad(out, n, (size_t)r.begin * width, (size_t)r.end * width);
        if (r.begin < r.end) {
            const int64_t column = (w.c * s->H + row) * s->W + r.first + r.begin * r.stride;
            const char *from = in + (size_t)column * width;
            char *inside = out + (size_t)r.begin * width;
            if (r.stride == 1)
                copy(inside, from, (size_t)(r.end - r.begin) * width);
            else
                copy_every(inside, from, r.end - r.begin, r.stride, width);
        }
        out += n;
    } while (next(&w));
    return to;
}

const void *nib_strip_floats(const nib_strip *s, const nib_place *at, const float *x, float *to) {
    return fill(s, at, x, to, sizeof *x);
}
const void *nib_strip_bytes(const nib_strip *s, const nib_place *at, const int8_t *x, int8_t *to) {
    return fill(s, at, x, to, sizeof *x);
}

const void *nib_strip_in_order(const nib_strip *s, const nib_place *at, const void *x,
                               const nib_strip_entry *entry, int8_t *to) {
    const int64_t top = at->oy * s->w->stride[0] - s->w->padding[0];
    const int64_t left = at->ox * s->w->stride[1] - s->w->padding[1];
    const int64_t first = top < 0 ? (-top < s->rows ? -top : s->rows) : 0;
    const int64_t below = s->H - top, rows = (below < s->rows ? below : s->rows) - first;
    const int64_t begin = left < 0 ? -left : 0, right = s->W - left;
    const int64_t n = (right < s->columns ? right : s->columns) - begin;
    memset(to, 0, (size_t)(s->C * s->plane));
    for (int64_t c = 0; rows > 0 && n > 0 && c < s->C; c++) {
        const int64_t from = (c * s->H + top + first) * s->W + left + begin;
        int8_t *inside = to + c * s->plane + first * s->line + begin;
        if (entry)
            entry->kernels->quantize_lines((uint8_t *)inside, s->line, (const float *)x + from,
                                           s->W, rows, n, entry->scale, entry->low, entry->high);
        else
            for (int64_t i = 0; i < rows; i++)
                copy((char *)inside + i * s->line, (const char *)x + from + i * s->W, (size_t)n);
    }
    return to;
}

static void fill_words(uint32_t *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = 0x80808080u; /* codes of 0 */
}

/* Channels [4 c, 4 c + 4) from `at` on in the first; one that is not there meets a filter's zeros.
 */
static void four_channels(const int8_t *rows[4], const nib_strip *s, const int8_t *x, int64_t at,
                          int64_t c, int64_t channels) {
    for (int64_t i = 0; i < 4; i++)
        rows[i] = x + (c * 4 + i < channels ? c * 4 + i : c * 4) * s->H * s->W + at;
}

static void pad_row(int8_t *to, const nib_strip *s, const int8_t *row, int64_t left) {
    const int64_t n = padded_bytes(s);
    const int64_t begin = left < 0 ? (-left < n ? -left : n) : 0;
    const int64_t end = s->W - left < n ? s->W - left : n;
    memset(to, 0, (size_t)n);
    if (begin < end) memcpy(to + begin, row + left + begin, (size_t)(end - begin));
}

const void *nib_strip_codes(const nib_kernels *k, const nib_strip *s, const nib_place *at,
                            const int8_t *x, int64_t channels, uint32_t *to) {
    const int64_t stride = s->stride;
    int8_t *padded = (int8_t *)(to + s->plane * s->C);
    walk w = begin(s, at);
    uint32_t *out = to;
    do {
        const int8_t *rows[4];
        const int64_t row = row_of(&w);
        span r = columns_of(&w, row);
        if (s->apart && row >= 0) {
            if (!w.phase) pad_row(padded, s, x + (w.c * s->H + row) * s->W, w.left);
            for (int64_t i = 0; i < 4; i++) rows[i] = padded + w.phase + i * s->apart;
            r.begin = 0, r.end = r.count;
        } else if (row >= 0) {
            four_channels(rows, s, x, row * s->W + r.first + r.begin * stride, w.c, channels);
        }
        fill_words(out, r.begin);
        if (r.begin < r.end)
            k->words_of_rows(out + r.begin, NIB_PANEL, rows, r.end - r.begin, stride);
        fill_words(out + r.end, r.count - r.end);
        out += r.count;
    } while (next(&w));
    return to;
}

bool nib_strip_is_plain(const nib_strip *s) {
    const nib_window *w = s->w;
    return w->size[0] == 1 && w->size[1] == 1 && w->stride[0] == 1 && w->stride[1] == 1 &&
           !w->padding[0] && !w->padding[1] && !s->apart;
}

void nib_strip_plain(const nib_kernels *k, const nib_strip *s, const nib_place *at, const int8_t *x,
                     int64_t channels, uint32_t *panels, int64_t stride) {
    for (int64_t c = 0; c < s->C; c++) {
        const int8_t *rows[4];
        four_channels(rows, s, x, at->p, c, channels);
        k->words_of_rows(panels + c * NIB_PANEL, stride, rows, at->count, 1);
    }
}

void nib_strip_plain_floats(const nib_strip_entry *e, const nib_strip *s, const nib_place *at,
                            const float *x, int64_t channels, int8_t *codes, uint32_t *panels,
                            int64_t stride) {
    const int64_t P = s->H * s->W, count = at->count;
    for (int64_t c = 0; c < channels; c++) {
        const int64_t in = c % NIB_STRIP_CHANNELS;
        if (!in) {
            const int64_t left = channels - c;
            e->kernels->quantize_lines((uint8_t *)codes, count, x + c * P + at->p, P,
                                       left < NIB_STRIP_CHANNELS ? left : NIB_STRIP_CHANNELS, count,
                                       e->scale, e->low, e->high);
        }
        if (c % 4) continue;
        const int8_t *rows[4];
        for (int64_t i = 0; i < 4; i++) rows[i] = codes + (in + (c + i < channels ? i : 0)) * count;
        e->kernels->words_of_rows(panels + c / 4 * NIB_PANEL, stride, rows, count, 1);
    }
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
