/* conv.c: see conv.h. Work is cut into runs of positions and runs of channels; every output is one
 * chain, so the cut does not show. Legend: C channels in, M channels out of a group, K numbers that
 * a filter sees, P positions of one channel out. */
#include "op/conv.h"

#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum {
    BLOCK_K = 1024,          /* columns of a filter multiplied at once: a panel stays in L1 or L2 */
    BLOCK_FLOATS = 64 << 10, /* of the input laid out at once: a quarter of a MiB, in L2 */
    BLOCK_P = 1024,          /* positions laid out at once at most, */
    LEAST_P = 64,            /* and at least, where there are so many */
    FEW_ITEMS = 16,          /* fewer pieces of work than this are cut by channels too */
    ROWS = 2 * NIB_ROW_BLOCK, /* channels of a piece then */
    MOST = 1 << 20,           /* of a stride, padding, dilation */
};

nib_status nib_window_check(const nib_op *op, const nib_window *w) {
    for (int i = 0; i < 2; i++)
        if (w->stride[i] < 1 || w->dilation[i] < 1 || w->padding[i] < 0 || w->size[i] < 1 ||
            w->stride[i] > MOST || w->dilation[i] > MOST || w->padding[i] > MOST ||
            w->size[i] > INT32_MAX)
            return NIB_RAISE(NIB_E_ARGUMENT,
                             "%s: size %lld, stride %lld, padding %lld, dilation %lld; want at "
                             "least 1, 1, 0, 1 and no more than %d",
                             op->name, (long long)w->size[i], (long long)w->stride[i],
                             (long long)w->padding[i], (long long)w->dilation[i], (int)MOST);
    return NIB_OK;
}

int64_t nib_window_count(const nib_window *w, int i, int64_t length, bool ceil) {
    const int64_t room = length + 2 * w->padding[i] - w->dilation[i] * (w->size[i] - 1) - 1;
    if (room < 0) return -1;
    int64_t count = (room + (ceil ? w->stride[i] - 1 : 0)) / w->stride[i] + 1;
    if (ceil && (count - 1) * w->stride[i] >= length + w->padding[i]) count--;
    return count;
}

nib_status nib_conv_shape(const nib_op *op, const nib_conv *conv, const nib_tensor *x,
                          const nib_tensor *weight, const nib_tensor *bias, nib_shape *out) {
    NIB_TRY(nib_op_want_dense_f32(op, "input", x));
    char a[96], b[96];
    const int dims = conv->dims;
    const nib_shape *s = &x->shape, *w = &weight->shape;
    if ((s->ndim != dims + 2 && s->ndim != dims + 1) || w->ndim != dims + 2)
        return NIB_RAISE(NIB_E_SHAPE,
                         "%s: input is %s and weight %s; want %d or %d dimensions, and %d",
                         op->name, nib_shape_text(s, a, sizeof a), nib_shape_text(w, b, sizeof b),
                         dims + 1, dims + 2, dims + 2);
    const int64_t C = s->dim[s->ndim - dims - 1], groups = conv->groups;
    if (groups < 1 || C % groups || w->dim[0] % groups || w->dim[1] != C / groups)
        return NIB_RAISE(NIB_E_SHAPE,
                         "%s: %lld channels in %lld groups do not meet weight %s, which wants "
                         "[out, channels / groups, ...] with out a multiple of groups",
                         op->name, (long long)C, (long long)groups, nib_shape_text(w, b, sizeof b));
    if (bias != NIB_NONE && (bias->shape.ndim != 1 || bias->shape.dim[0] != w->dim[0]))
        return NIB_RAISE(NIB_E_SHAPE, "%s: bias is %s, want one for each of %lld channels",
                         op->name, nib_shape_text(&bias->shape, a, sizeof a), (long long)w->dim[0]);
    NIB_TRY(nib_window_check(op, &conv->window));
    *out = *s;
    out->dim[s->ndim - dims - 1] = w->dim[0];
    for (int i = 0; i < dims; i++) {
        const int at = s->ndim - dims + i;
        out->dim[at] = nib_window_count(&conv->window, i + 2 - dims, s->dim[at], false);
        if (out->dim[at] < 0)
            return NIB_RAISE(NIB_E_SHAPE, "%s: weight %s is larger than the padded input %s",
                             op->name, nib_shape_text(w, b, sizeof b),
                             nib_shape_text(s, a, sizeof a));
    }
    return NIB_OK;
}

static bool is_float(const nib_tensor *t) {
    return !t->layout && nib_tensor_contiguous(t) &&
           (t->dtype == NIB_F32 || t->dtype == NIB_F16 || t->dtype == NIB_BF16);
}
bool nib_conv_accepts(const nib_call_args *args) {
    const nib_tensor *weight = args->in[1], *bias = args->in[2];
    return (weight->layout || is_float(weight)) && (bias == NIB_NONE || is_float(bias));
}

/* What a run of positions needs of the input, with its padding, in the scratch: so that every
 * filter tap is 16 numbers one after the other, found by one addition.
 *
 *   strip [C][rows][stride][columns]    column x of the padded input: [x % stride][x / stride]
 *
 * Positions (oy, ox) and (oy, ox + 1) are neighbours in it whatever the stride. */
typedef struct job {
    const nib_kernels *k;
    const nib_window *w;
    const float *x, *rows, *bias; /* rows: the filters as gemm_rows_f32 reads them */
    float *y;
    int64_t C, H, W, M, K, OW, P, groups; /* C of a group */
    int64_t block_p, block_k, across, blocks, cuts,
        cut;                           /* pieces: images, groups, blocks, cuts of M */
    int64_t strip_rows, strip_columns; /* columns of one phase */
    size_t at_panels;                  /* in the scratch, in floats */
    nib_scratch scratch;
} job;

typedef struct place { /* positions that a piece makes, and the input that they begin at */
    int64_t p, count, oy, ox;
} place;

/* Blocks are runs of positions, or, where a row is longer than a run, runs of a row. */
static place place_of(const job *j, int64_t block) {
    if (j->across == 1) {
        const int64_t p = block * j->block_p;
        return (place){p, j->P - p < j->block_p ? j->P - p : j->block_p, p / j->OW, 0};
    }
    const int64_t oy = block / j->across, ox = block % j->across * j->block_p;
    return (place){oy * j->OW + ox, j->OW - ox < j->block_p ? j->OW - ox : j->block_p, oy, ox};
}

/* `count` columns of the padded row from column `first` on, `stride` apart; row NULL: padding. */
static void put_columns(float *to, const float *row, int64_t first, int64_t stride, int64_t count,
                        int64_t W) {
    int64_t begin = first < 0 ? (-first + stride - 1) / stride : 0;
    int64_t end = first < W ? (W - first + stride - 1) / stride : 0;
    if (!row) end = 0;
    if (end > count) end = count;
    if (begin > end) begin = end;
    for (int64_t i = 0; i < begin; i++) to[i] = 0;
    if (stride == 1 && end > begin)
        memcpy(to + begin, row + first + begin, (size_t)(end - begin) * sizeof *to);
    else
        for (int64_t i = begin; i < end; i++) to[i] = row[first + i * stride];
    for (int64_t i = end; i < count; i++) to[i] = 0;
}

static void fill_strip(const job *j, const float *x, const place *at, float *strip) {
    const nib_window *w = j->w;
    const int64_t top = at->oy * w->stride[0] - w->padding[0],
                  left = at->ox * w->stride[1] - w->padding[1];
    for (int64_t c = 0; c < j->C; c++)
        for (int64_t r = 0; r < j->strip_rows; r++) {
            const bool inside = top + r >= 0 && top + r < j->H;
            const float *row = inside ? x + (c * j->H + top + r) * j->W : NULL;
            for (int64_t phase = 0; phase < w->stride[1]; phase++, strip += j->strip_columns)
                put_columns(strip, row, left + phase, w->stride[1], j->strip_columns, j->W);
        }
}

typedef struct run {    /* neighbours of one row of the output, within a panel */
    int64_t lane, from; /* from: in the strip, of the first tap */
} run;

static int find_runs(const job *j, const place *at, int64_t q, int64_t count, run runs[NIB_PANEL]) {
    const int64_t line = j->w->stride[1] * j->strip_columns; /* one row of the strip */
    int n = 0;
    for (int64_t lane = 0; lane < count;) {
        const int64_t p = at->p + q + lane, oy = p / j->OW, ox = p % j->OW, left = j->OW - ox;
        runs[n++] = (run){lane, (oy - at->oy) * j->w->stride[0] * line + ox - at->ox};
        lane += left < count - lane ? left : count - lane;
    }
    return n;
}

/* Where the taps of columns [k, k + kc) of a filter lie in the strip, from the first tap. */
static void find_taps(const job *j, int64_t k, int64_t kc, int64_t taps[BLOCK_K]) {
    const nib_window *w = j->w;
    const int64_t line = w->stride[1] * j->strip_columns, size = w->size[0] * w->size[1];
    int64_t c = k / size, i = k % size / w->size[1], t = k % w->size[1];
    for (int64_t n = 0; n < kc; n++) {
        const int64_t column = t * w->dilation[1];
        taps[n] = (c * j->strip_rows + i * w->dilation[0]) * line +
                  column % w->stride[1] * j->strip_columns + column / w->stride[1];
        if (++t < w->size[1]) continue;
        t = 0;
        if (++i < w->size[0]) continue;
        i = 0;
        c++;
    }
}

/* These taps for `count` positions from the q-th of the piece on. Whole vectors are copied: what a
 * run has too much, the next run, the next column or the next panel writes over, and of the last
 * panel nobody reads it. */
static void fill_panel(const job *j, const place *at, int64_t q, int64_t count, const int64_t *taps,
                       int64_t kc, const float *strip, float *panel) {
    run runs[NIB_PANEL];
    const int n = find_runs(j, at, q, count, runs);
    for (int64_t k = 0; k < kc; k++, panel += NIB_PANEL)
        for (int r = 0; r < n; r++)
            memcpy(panel + runs[r].lane, strip + taps[k] + runs[r].from, NIB_PANEL * sizeof *panel);
}

static void add_bias(float *y, int64_t ldy, const float *bias, int64_t M, int64_t count) {
    for (int64_t m = 0; m < M; m++) {
        float *row = y + m * ldy;
        const float b = bias[m];
        for (int64_t i = 0; i < count; i++) row[i] += b;
    }
}

static void piece(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int index;
    float *strip = nib_scratch_take(&j->scratch, &index), *panels = strip + j->at_panels;
    int64_t taps[BLOCK_K];
    for (int64_t n = begin; n < end; n++) {
        const int64_t cut = n % j->cuts * j->cut, image = n / j->cuts / j->blocks; /* and group */
        const place at = place_of(j, n / j->cuts % j->blocks);
        const int64_t M = j->M - cut < j->cut ? j->M - cut : j->cut;
        const int64_t channel = image % j->groups * j->M + cut;
        float *y = j->y + (image * j->M + cut) * j->P + at.p;
        fill_strip(j, j->x + image * j->C * j->H * j->W, &at, strip);
        int64_t k = 0;
        do { /* once, too, where there is nothing to sum */
            const int64_t kc = j->K - k < j->block_k ? j->K - k : j->block_k;
            find_taps(j, k, kc, taps);
            for (int64_t q = 0; q < at.count; q += NIB_PANEL)
                fill_panel(j, &at, q, at.count - q < NIB_PANEL ? at.count - q : NIB_PANEL, taps, kc,
                           strip, panels + q * kc);
            j->k->gemm_rows_f32(y, j->P, j->rows + channel * j->K, M, j->K, k, kc, panels,
                                kc * NIB_PANEL, at.count);
            k += kc;
        } while (k < j->K);
        if (j->bias) add_bias(y, j->P, j->bias + channel, M, at.count);
    }
    nib_scratch_give(&j->scratch, index);
}

/* The filters as floats, packed group by group. */
typedef struct filters {
    const nib_kernels *k;
    const nib_tensor *weight;
    float *rows, *floats; /* floats: NULL where the weight is f32 already */
    int64_t M, K;
} filters;

/* Runs of rows that pack_rows_f32 packs independently, group by group. */
static void pack_filters(void *user, int64_t begin, int64_t end) {
    const filters *f = user;
    const float *w = f->floats ? f->floats : (const float *)nib_tensor_data(f->weight);
    const int64_t runs = (f->M + NIB_ROW_BLOCK - 1) / NIB_ROW_BLOCK;
    for (int64_t i = begin; i < end; i++) {
        const int64_t m = i % runs * NIB_ROW_BLOCK, at = (i / runs * f->M + m) * f->K;
        f->k->pack_rows_f32(f->rows + at, w + at, f->K,
                            f->M - m < NIB_ROW_BLOCK ? f->M - m : NIB_ROW_BLOCK, f->K);
    }
}

/* How the work is cut, and how large a strip is. */
static void cut_work(job *j, int64_t images) {
    const nib_window *w = j->w;
    j->block_k = j->K < BLOCK_K ? j->K : BLOCK_K;
    int64_t most = j->block_k ? BLOCK_FLOATS / j->block_k / NIB_PANEL * NIB_PANEL : BLOCK_P;
    most = most < LEAST_P ? LEAST_P : most > BLOCK_P ? BLOCK_P : most;
    const int64_t length = j->OW > most ? j->OW : j->P; /* that is cut into equal blocks */
    const int64_t parts = (length + most - 1) / most;
    const int64_t even = (length + parts - 1) / parts;
    j->block_p = (even + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL;
    j->across = j->OW > most ? (j->OW + j->block_p - 1) / j->block_p : 1;
    j->blocks = j->OW > most ? j->P / j->OW * j->across : (j->P + j->block_p - 1) / j->block_p;
    /* rows of the output that a block may touch, and its columns */
    const int64_t OH = j->P / j->OW, some = (j->block_p + j->OW - 2) / j->OW + 1;
    const int64_t rows = j->across > 1 ? 1 : some < OH ? some : OH;
    const int64_t columns = j->across > 1 ? j->block_p : j->OW;
    const int64_t wide = (columns - 1) * w->stride[1] + w->dilation[1] * (w->size[1] - 1) + 1;
    j->strip_rows = (rows - 1) * w->stride[0] + w->dilation[0] * (w->size[0] - 1) + 1;
    j->strip_columns = (wide + w->stride[1] - 1) / w->stride[1];
    const int64_t whole = images * j->groups * j->blocks;
    j->cut = whole < FEW_ITEMS && j->M > ROWS ? ROWS : j->M;
    j->cuts = (j->M + j->cut - 1) / j->cut;
}

nib_status nib_conv_run(nib_ctx *ctx, const nib_conv *conv, const nib_tensor *x,
                        const nib_tensor *weight, const nib_tensor *bias, nib_tensor *y) {
    const nib_window *w = &conv->window;
    const int first = x->shape.ndim - conv->dims; /* of the spatial dimensions */
    const int64_t Cout = weight->shape.dim[0], images = first == 2 ? x->shape.dim[0] : 1;
    job j = {.k = &ctx->kernels,
             .w = &conv->window,
             .x = nib_tensor_data(x),
             .y = nib_tensor_data_mut(y),
             .C = weight->shape.dim[1],
             .H = conv->dims == 2 ? x->shape.dim[first] : 1,
             .W = x->shape.dim[x->shape.ndim - 1],
             .M = Cout / conv->groups,
             .OW = y->shape.dim[y->shape.ndim - 1],
             .groups = conv->groups};
    j.K = j.C * conv->window.size[0] * conv->window.size[1];
    j.P = j.OW * (conv->dims == 2 ? y->shape.dim[first] : 1);
    if (nib_tensor_count(y) == 0) return NIB_OK;

    cut_work(&j, images);
    const int64_t pieces = images * conv->groups * j.blocks * j.cuts;

    /* One workspace: packed filters, filters as floats, scratch to unpack codes, biases, panels. */
    const bool widen = weight->layout || weight->dtype != NIB_F32;
    const size_t count = (size_t)(Cout * j.K), step = NIB_MEM_ALIGN;
    const size_t codes = widen ? nib_rows_scratch_size(weight, Cout) : 0;
    int64_t strip;
    size_t piece_bytes = 0, scratch = 0;
    const bool over = nib_mul_count(j.strip_rows * w->stride[1], j.strip_columns, &strip) ||
                      nib_mul_count(strip, j.C, &strip) ||
                      nib_add_i64(strip, NIB_PANEL, &strip); /* a vector that begins at its end */
    if (!over) {
        j.at_panels = (size_t)(strip + 15) / 16 * 16;
        piece_bytes = (j.at_panels + (size_t)(j.block_p * j.block_k) + NIB_PANEL) * sizeof(float);
        scratch = nib_scratch_room(ctx->pool, pieces, piece_bytes);
    }
    size_t at[5] = {0}, size;
    if (over || nib_mul_size(count, sizeof(float), &size) || nib_align_size(size, step, &at[1]) ||
        nib_add_size(at[1], widen ? at[1] : 0, &at[2]) || nib_add_size(at[2], codes, &size) ||
        nib_align_size(size, step, &at[3]) ||
        nib_add_size(at[3], (size_t)Cout * sizeof(float), &size) ||
        nib_align_size(size, step, &at[4]) || nib_add_size(at[4], scratch, &size) || !scratch)
        return NIB_RAISE(NIB_E_MEMORY, "a convolution by %lld filters of %lld numbers overflows",
                         (long long)Cout, (long long)j.K);
    unsigned char *room = nib_ctx_workspace(ctx, size);
    if (!room) return nib_last_error()->status;
    filters f = {.k = j.k, .weight = weight, .rows = (void *)room, .M = j.M, .K = j.K};
    if (widen) {
        f.floats = (void *)(room + at[1]);
        if (weight->layout)
            nib_rows_to_f32(weight, 0, Cout, f.floats, room + at[2]);
        else
            nib_to_f32(weight->dtype, f.floats, nib_tensor_data(weight), count);
    }
    if (bias != NIB_NONE) {
        float *values = (void *)(room + at[3]);
        nib_to_f32(bias->dtype, values, nib_tensor_data(bias), (size_t)Cout);
        j.bias = values;
    }
    nib_parallel_for(ctx->pool, conv->groups * ((j.M + NIB_ROW_BLOCK - 1) / NIB_ROW_BLOCK), 1,
                     pack_filters, &f);
    j.rows = f.rows;
    nib_scratch_over(ctx->pool, pieces, piece_bytes, room + at[4], &j.scratch);
    nib_parallel_for(ctx->pool, pieces, 1, piece, &j);
    return NIB_OK;
}
