/* conv.c: see conv.h. Work is cut into blocks of positions, and where those are few into runs of
 * filters too; every output is one chain, or one exact sum, so the cut does not show.
 *
 *   TILES   filters of f32: 16 positions side by side are a panel that rows of filters meet
 *   ROWS    one filter a group (depthwise): each row of the output by itself
 *   FOURS   codes by codes: four channels a word
 *   RUNS    the same, four neighbours of a row a word, where that makes fewer: of few channels
 *
 * Codes may go by ROWS too.
 * Legend: C channels in, M channels out of a group, K words that a filter sees, P positions of one
 * channel out. */
#include "op/conv.h"

#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "op/conv_filters.h"
#include "op/conv_strip.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum {
    BLOCK_K = 1024,         /* columns of a filter multiplied at once: a panel stays in L1 or L2 */
    BLOCK_WORDS = 64 << 10, /* of the input laid out at once: a quarter of a MiB, in L2 */
    TILE = 3 * NIB_PANEL,   /* positions that a kernel takes at once */
    BLOCK_P = 1024,         /* positions laid out at once at most, */
    LEAST_P = 64,           /* and at least, where there are so many */
    ROW_P = 4096,           /* positions of a block of rows */
    PIECES = 4,             /* for each thread, or filters are cut too */
    SOME = 1 << 15,         /* multiplications that are worth a thread's claim */
    FOUR = 4,
};

typedef enum way {
    TILES = NIB_FILTERS_TILES,
    ROWS = NIB_FILTERS_ROWS,
    FOURS = NIB_FILTERS_FOURS,
    RUNS = NIB_FILTERS_RUNS,
} way;

typedef struct job {
    const nib_kernels *k;
    way way;
    nib_window window; /* of the strip: with RUNS over words */
    nib_strip strip;
    const void *x; /* f32, or codes: */
    bool coded;    /* then y = (sum * scale of the filter) * x_scale, + bias */
    bool enters;   /* and codes are made of floats x on the way, */
    nib_strip_entry entry;
    bool floor; /* of codes that come out: none below 0 */
    float x_scale;
    nib_filters filters;
    const float *bias;
    float *y;             /* or, where it is NULL, */
    const nib_tensor *to; /* codes of this scale */
    uint8_t *q;
    int64_t C, M, K, groups; /* C channels of a group */
    int64_t block_k, cut, cuts;
    uint32_t *shared; /* panels of all blocks, where several pieces meet them; NULL: none */
    size_t at_panels, at_rows, whole; /* in the scratch of a piece, in bytes */
    nib_scratch scratch;
} job;

static bool in_words(const job *j) { return j->way == FOURS || j->way == RUNS; }
static bool is_plain(const job *j) { return in_words(j) && nib_strip_is_plain(&j->strip); }

/* Words from panel to panel of whole filters: not a power of two, which few ways of a cache serve.
 */
static int64_t panel_stride(const job *j) {
    return j->K * NIB_PANEL + (in_words(j) ? NIB_PANEL : 0);
}

/* The strip of a block, of the channels of one group of one image. */
static const void *lay_out(const job *j, int64_t image, const nib_place *at, void *room) {
    const int64_t begin = image * j->C * j->strip.H * j->strip.W;
    if (!j->coded) return nib_strip_floats(&j->strip, at, (const float *)j->x + begin, room);
    const int8_t *x = (const int8_t *)j->x + begin;
    if (j->enters)
        return nib_strip_in_order(&j->strip, at, (const float *)j->x + begin, &j->entry, room);
    if (j->way == ROWS && j->strip.stride == 1 && !j->strip.direct)
        return nib_strip_in_order(&j->strip, at, x, NULL, room);
    if (j->way == ROWS) return nib_strip_bytes(&j->strip, at, x, room);
    return nib_strip_codes(j->k, &j->strip, at, x, j->C, room);
}

/* ---- what follows the sums ---- */

/* Rows [M][count] of floats by floats, of filters that begin at `filter`. */
static void finish_rows(const job *j, float *y, int64_t ldy, int64_t filter, int64_t M,
                        int64_t count) {
    for (int64_t m = 0; j->bias && m < M; m++)
        j->k->scale_add_f32(y + m * ldy, (size_t)count, 1, 1, j->bias[filter + m]);
}

/* To codes, from rows that lie in the scratch to where their floats would lie. */
static void quantize_rows(const job *j, const float *rows, int64_t ldy, int64_t at, int64_t M,
                          int64_t count) {
    if (j->y) return;
    for (int64_t m = 0; m < M; m++) {
        int8_t *q = (int8_t *)j->q + at + m * j->strip.P;
        nib_act8_quantize(j->k, j->to->desc.code, j->to->desc.math, nib_act8_scale(j->to),
                          rows + m * ldy, count, q);
        for (int64_t i = 0; j->floor && i < count; i++) q[i] = q[i] < 0 ? 0 : q[i];
    }
}

/* ---- filters on panels ---- */

static void multiply_floats(const job *j, const uint32_t *panels, int64_t stride, int64_t k,
                            int64_t kc, int64_t filter, int64_t M, float *y, int64_t ldy,
                            int64_t count) {
    j->k->gemm_rows_f32(y, ldy, j->filters.floats + filter * j->K, M, j->K, k, kc,
                        (const float *)(const void *)panels, stride, count);
}

/* Are codes what comes out, without floats between? */
static bool ends_in_codes(const job *j) {
    return j->coded && !j->y && nib_act8_integer(j->to->desc.code);
}

/* What M filters from `filter` on do to codes; results go to y, else to q. */
static nib_conv_i8 on_codes(const job *j, int64_t filter, int64_t M, const int8_t *codes, float *y,
                            uint8_t *q, int64_t ldy) {
    nib_conv_i8 c = {.M = M,
                     .K = j->K,
                     .filters = codes,
                     .sums = j->filters.sums + filter,
                     .scale = j->filters.scale + filter,
                     .bias = j->bias ? j->bias + filter : NULL,
                     .x_scale = j->x_scale,
                     .ldy = ldy,
                     .y = y,
                     .q = (int8_t *)q};
    if (!y) {
        const int most = (int)nib_act8_largest(j->to->desc.code);
        c.low = j->floor ? 0 : -most - 1, c.high = most;
        c.y_scale = nib_act8_scale(j->to);
    }
    return c;
}

/* Filters [cut, cut + M) of a group of an image on all positions of a block. `strip` NULL: the
 * panels hold all of K, else they are made, some columns at a time. */
static void multiply(const job *j, int64_t image, const nib_place *at, int64_t cut, int64_t M,
                     const void *strip, uint32_t *panels, char *scratch) {
    const int64_t group = image % j->groups, filter = group * j->M + cut;
    const int64_t to = (image * j->M + cut) * j->strip.P + at->p;
    const int64_t ldy = j->y ? j->strip.P : j->strip.block_p;
    float *y = j->y ? j->y + to : (float *)(void *)(scratch + j->at_rows);
    if (in_words(j)) {
        const int8_t *codes =
            j->filters.codes + group * nib_filters_bytes(j->M, j->K) + nib_filters_bytes(cut, j->K);
        const bool ends = ends_in_codes(j);
        const nib_conv_i8 c = on_codes(j, filter, M, codes, ends ? NULL : y,
                                       ends ? j->q + to : NULL, ends ? j->strip.P : ldy);
        j->k->conv_i8(&c, panels, panel_stride(j), at->count);
        if (!ends) quantize_rows(j, y, ldy, to, M, at->count);
        return;
    }
    int64_t k = 0;
    do { /* once, too, where there is nothing to sum */
        const int64_t kc = j->K - k < j->block_k ? j->K - k : j->block_k;
        const int64_t stride = strip ? kc * NIB_PANEL : panel_stride(j);
        if (strip) nib_strip_panels(j->k, &j->strip, at, strip, k, kc, panels, stride);
        multiply_floats(j, strip ? panels : panels + k * NIB_PANEL, stride, k, kc, filter, M, y,
                        ldy, at->count);
        k += kc;
    } while (k < j->K);
    finish_rows(j, y, ldy, filter, M, at->count);
    quantize_rows(j, y, ldy, to, M, at->count);
}

/* All panels of a block. */
static void make_panels(const job *j, int64_t image, const nib_place *at, void *room,
                        uint32_t *panels) {
    const int64_t stride = panel_stride(j);
    if (is_plain(j)) {
        const int64_t begin = image * j->C * j->strip.H * j->strip.W;
        if (j->enters)
            nib_strip_plain_floats(&j->entry, &j->strip, at, (const float *)j->x + begin, j->C,
                                   room, panels, stride);
        else
            nib_strip_plain(j->k, &j->strip, at, (const int8_t *)j->x + begin, j->C, panels,
                            stride);
        return;
    }
    const void *strip = lay_out(j, image, at, room);
    nib_strip_panels(j->k, &j->strip, at, strip, 0, j->K, panels, stride);
}

/* A piece: all filters of a group on a block. */
static void whole_blocks(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int index;
    char *room = nib_scratch_take(&j->scratch, &index);
    for (int64_t n = begin; n < end; n++) {
        const nib_place at = nib_strip_place(&j->strip, n % j->strip.blocks);
        const int64_t image = n / j->strip.blocks; /* and group */
        uint32_t *panels = (uint32_t *)(void *)(room + j->at_panels);
        const void *strip = NULL;
        if (in_words(j))
            make_panels(j, image, &at, room, panels);
        else
            strip = lay_out(j, image, &at, room);
        multiply(j, image, &at, 0, j->M, strip, panels, room);
    }
    nib_scratch_give(&j->scratch, index);
}

/* Few blocks: their panels first, then pieces of some filters each. */
static int64_t panel_words(const job *j) { /* of a block */
    return (j->strip.block_p + NIB_PANEL - 1) / NIB_PANEL * panel_stride(j);
}

static void share_panels(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int index;
    char *room = nib_scratch_take(&j->scratch, &index);
    for (int64_t n = begin; n < end; n++) {
        const nib_place at = nib_strip_place(&j->strip, n % j->strip.blocks);
        make_panels(j, n / j->strip.blocks, &at, room, j->shared + n * panel_words(j));
    }
    nib_scratch_give(&j->scratch, index);
}

static void some_filters(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int index;
    char *room = nib_scratch_take(&j->scratch, &index);
    for (int64_t n = begin; n < end; n++) {
        const int64_t block = n / j->cuts, cut = n % j->cuts * j->cut;
        const nib_place at = nib_strip_place(&j->strip, block % j->strip.blocks);
        multiply(j, block / j->strip.blocks, &at, cut, j->M - cut < j->cut ? j->M - cut : j->cut,
                 NULL, j->shared + block * panel_words(j), room);
    }
    nib_scratch_give(&j->scratch, index);
}

/* One filter on whole rows. */
static void filter_rows(void *user, int64_t begin, int64_t end) {
    job *j = user;
    const nib_strip *s = &j->strip;
    int index;
    char *room = nib_scratch_take(&j->scratch, &index);
    for (int64_t n = begin; n < end; n++) {
        const nib_place at = nib_strip_place(s, n % s->blocks);
        const int64_t image = n / s->blocks, filter = image % j->groups, to = image * s->P + at.p;
        const void *strip = lay_out(j, image, &at, room);
        float *y = j->y ? j->y + to : (float *)(void *)(room + j->at_rows);
        const int64_t step = s->w->stride[0] * s->line, rows = at.count / s->OW;
        if (j->coded) {
            const bool ends = ends_in_codes(j);
            const int8_t *codes = j->filters.codes + filter * ((j->K + FOUR - 1) / FOUR * FOUR);
            const nib_conv_i8 c =
                on_codes(j, filter, 1, codes, ends ? NULL : y, ends ? j->q + to : NULL, s->OW);
            j->k->taps_i8(&c, strip, s->taps, s->OW, rows, step, s->in_order ? s->w->stride[1] : 1);
            if (!ends) quantize_rows(j, y, s->P, to, 1, at.count);
            continue;
        }
        const float *w = j->filters.floats + filter * j->K;
        for (int64_t r = 0; r < rows; r++)
            j->k->taps_f32(y + r * s->OW, s->OW, (const float *)strip + r * step, s->taps, w, j->K);
        finish_rows(j, y, s->P, filter, 1, at.count);
        quantize_rows(j, y, s->P, to, 1, at.count);
    }
    nib_scratch_give(&j->scratch, index);
}

/* ---- the plan ---- */

/* For filters of so many rows and columns. */
static void choose_way(job *j, int64_t rows, int64_t columns) {
    j->way = j->M == 1 ? ROWS : TILES;
    if (!j->coded || j->M == 1) return;
    j->way = nib_filters_words(NIB_FILTERS_RUNS, j->C, rows, columns) <
                     nib_filters_words(NIB_FILTERS_FOURS, j->C, rows, columns)
                 ? RUNS
                 : FOURS;
}

static bool reads_as_it_is(const job *j, const nib_tensor *weight) {
    return j->way == ROWS && !j->coded && !weight->layout && weight->dtype == NIB_F32;
}

static void cut_work(job *j, int64_t images, int threads) {
    nib_strip *s = &j->strip;
    int64_t most = ROW_P;
    j->block_k = j->K < BLOCK_K || in_words(j) ? j->K : BLOCK_K;
    if (j->way != ROWS) {
        most = j->block_k ? BLOCK_WORDS / j->block_k / NIB_PANEL * NIB_PANEL : BLOCK_P;
        most = most < LEAST_P ? LEAST_P : most > BLOCK_P ? BLOCK_P : most;
    }
    if (is_plain(j)) {
        const int64_t each = images * j->groups * s->P / ((int64_t)PIECES * threads) / TILE * TILE;
        most = BLOCK_WORDS / (j->K ? j->K : 1) / TILE * TILE;
        most = most > BLOCK_P ? BLOCK_P : most;
        most = most > each && threads > 1 ? each : most; /* rather than cutting filters */
        most = most < TILE ? TILE : most;
    }
    const int64_t all = images * j->groups;
    if (in_words(j) && all < threads && j->M <= NIB_ROW_BLOCK && all * s->P * j->M * j->K > SOME) {
        const int64_t part = (s->P + threads - 1) / threads; /* filters cannot be cut */
        const int64_t even = (part + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL;
        most = even < most ? even : most;
    }
    s->in_order = j->way == ROWS && j->coded && s->w->stride[1] == 2;
    nib_strip_cut(s, most, j->way == ROWS, !in_words(j) && !j->enters);
    const int64_t whole = images * j->groups * s->blocks, wanted = (int64_t)PIECES * threads;
    const int64_t runs = (j->M + NIB_ROW_BLOCK - 1) / NIB_ROW_BLOCK;
    int64_t cuts = threads > 1 && whole < wanted ? (wanted + whole - 1) / whole : 1;
    cuts = cuts < runs ? cuts : runs; /* runs of filters are packed each by itself */
    j->cut = (runs + cuts - 1) / cuts * NIB_ROW_BLOCK;
    j->cuts = (j->M + j->cut - 1) / j->cut;
    if (j->cuts == 1 || j->way == ROWS) j->cut = j->M, j->cuts = 1;
}

/* Memory, part by part from multiples of 64 on; true: overflow. */
static bool add_part(size_t *whole, int64_t count, size_t width, size_t *at) {
    size_t size;
    *at = *whole;
    return count < 0 || nib_mul_size((size_t)count, width, &size) ||
           nib_add_size(*whole, size, &size) || nib_align_size(size, NIB_MEM_ALIGN, whole);
}

/* Of a thread; true: overflow. */
static bool plan_scratch(job *j) {
    int64_t strip, panels = 0;
    size_t at;
    const bool floats = !j->y && !ends_in_codes(j);
    if (is_plain(j))
        strip = j->enters ? j->strip.block_p * (NIB_STRIP_CHANNELS / FOUR) : 0;
    else if (!nib_strip_words(&j->strip, &strip))
        return true;
    if (j->way != ROWS && j->cuts == 1)
        panels = in_words(j)
                     ? panel_words(j)
                     : (j->strip.block_p + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL * j->block_k;
    return add_part(&j->whole, strip, sizeof(uint32_t), &at) ||
           add_part(&j->whole, panels, sizeof(uint32_t), &j->at_panels) ||
           add_part(&j->whole, floats ? j->strip.block_p * j->cut : 0, sizeof(float), &j->at_rows);
}

static void run_pieces(nib_ctx *ctx, job *j, int64_t blocks) {
    if (j->way == ROWS) {
        const int64_t work = j->strip.block_p * j->K + 1;
        nib_parallel_for(ctx->pool, blocks, work < SOME ? SOME / work : 1, filter_rows, j);
    } else if (j->cuts == 1) {
        nib_parallel_for(ctx->pool, blocks, 1, whole_blocks, j);
    } else {
        nib_parallel_for(ctx->pool, blocks, 1, share_panels, j);
        nib_parallel_for(ctx->pool, blocks * j->cuts, 1, some_filters, j);
    }
}

nib_status nib_conv_run(nib_ctx *ctx, const nib_conv *conv, const nib_tensor *x,
                        const nib_tensor *weight, const nib_tensor *bias,
                        const nib_conv_entry *entry, bool floor, nib_tensor *y) {
    const int first = x->shape.ndim - conv->dims; /* of the spatial dimensions */
    const int64_t Cout = weight->shape.dim[0], images = first == 2 ? x->shape.dim[0] : 1;
    job j = {.k = &ctx->kernels,
             .x = nib_tensor_data(x),
             .coded = entry || nib_act8_is(x),
             .enters = entry,
             .floor = floor,
             .C = weight->shape.dim[1],
             .M = Cout / conv->groups,
             .groups = conv->groups,
             .to = y};
    if (nib_tensor_count(y) == 0) return NIB_OK;
    if (entry) {
        const int most = (int)nib_act8_largest(entry->code);
        j.entry = (nib_strip_entry){j.k, entry->scale, -most - 1, most};
    }
    if (j.coded) j.x_scale = entry ? entry->scale : nib_act8_scale(x);
    if (nib_act8_is(y))
        j.q = nib_act8_data_mut(y);
    else
        j.y = nib_tensor_data_mut(y);
    choose_way(&j, conv->window.size[0], conv->window.size[1]);
    j.window = conv->window;
    nib_strip *s = &j.strip;
    *s = (nib_strip){.w = &j.window,
                     .C = j.way == FOURS ? (j.C + FOUR - 1) / FOUR : j.C,
                     .H = conv->dims == 2 ? x->shape.dim[first] : 1,
                     .W = x->shape.dim[x->shape.ndim - 1],
                     .OW = y->shape.dim[y->shape.ndim - 1]};
    s->P = s->OW * (conv->dims == 2 ? y->shape.dim[first] : 1);
    if (j.way == RUNS) {
        s->apart = j.window.dilation[1];
        j.window.size[1] = (j.window.size[1] + FOUR - 1) / FOUR;
        j.window.dilation[1] *= FOUR;
    }
    s->K = j.K = s->C * j.window.size[0] * j.window.size[1];
    cut_work(&j, images, nib_pool_threads(ctx->pool));
    const int64_t blocks = images * conv->groups * s->blocks, pieces = blocks * j.cuts;

    nib_filters_plan plan;
    NIB_TRY(nib_filters_plan_for(&plan, weight, conv->groups, (nib_filters_form)j.way, j.coded));
    const bool dense = reads_as_it_is(&j, weight);
    const bool have = dense || nib_filters_kept(&plan, j.k, weight, &j.filters);
    if (dense) j.filters.floats = nib_tensor_data(weight);

    /* One workspace: taps, biases, panels that are shared, filters, scratch of threads. */
    size_t at_bias, at_panels, at_filters, at_make, at_scratch, whole = 0, at;
    bool over = plan_scratch(&j);
    const size_t scratch = over ? 0 : nib_scratch_room(ctx->pool, pieces, j.whole);
    const size_t make = have ? 0 : nib_scratch_room(ctx->pool, plan.pieces, plan.piece);
    over |= (!scratch && j.whole) || (!make && !have) ||
            add_part(&whole, j.K, sizeof *s->taps, &at) ||
            add_part(&whole, bias == NIB_NONE ? 0 : Cout, sizeof(float), &at_bias) ||
            add_part(&whole, j.cuts > 1 ? blocks : 0, (size_t)panel_words(&j) * 4, &at_panels) ||
            add_part(&whole, have ? 0 : 1, plan.bytes, &at_filters) ||
            add_part(&whole, 1, make, &at_make) || add_part(&whole, 1, scratch, &at_scratch);
    if (over)
        return NIB_RAISE(NIB_E_MEMORY, "a convolution by %lld filters of %lld numbers overflows",
                         (long long)Cout, (long long)j.K);
    char *room = nib_ctx_workspace(ctx, whole);
    if (!room) return nib_last_error()->status;
    nib_strip_taps(s, (int64_t *)(void *)room);
    s->taps = (const int64_t *)(const void *)room;
    if (bias != NIB_NONE) {
        float *values = (float *)(void *)(room + at_bias);
        nib_to_f32(bias->dtype, values, nib_tensor_data(bias), (size_t)Cout);
        j.bias = values;
    }
    if (!have) {
        nib_scratch_over(ctx->pool, plan.pieces, plan.piece, room + at_make, &j.scratch);
        nib_filters_make(ctx, &plan, weight, room + at_filters, &j.scratch);
        j.filters = nib_filters_in(&plan, room + at_filters);
    }
    j.shared = (uint32_t *)(void *)(room + at_panels);
    nib_scratch_over(ctx->pool, pieces, j.whole, room + at_scratch, &j.scratch);
    run_pieces(ctx, &j, blocks);
    return NIB_OK;
}

bool nib_conv_takes_codes(const nib_tensor *x, const nib_tensor *weight) {
    return nib_act8_is(x) && nib_act8_integer(x->desc.code) && !nib_act8_is(weight) &&
           nib_filters_have_codes(weight);
}

bool nib_conv_quantizes(const nib_conv *conv, const nib_tensor *x, const nib_tensor *weight,
                        nib_dtype code) {
    const nib_window *w = &conv->window;
    const nib_shape *s = &weight->shape;
    if (x->layout || x->dtype != NIB_F32 || !nib_tensor_contiguous(x) || !nib_act8_integer(code) ||
        s->ndim != conv->dims + 2 || conv->groups < 1 || nib_act8_is(weight) ||
        !nib_filters_have_codes(weight))
        return false;
    job j = {.coded = true, .C = s->dim[1], .M = s->dim[0] / conv->groups};
    choose_way(&j, w->size[0], w->size[1]);
    j.strip = (nib_strip){.w = w};
    return j.way == ROWS ? w->stride[1] <= 2 : j.way == FOURS && is_plain(&j);
}

nib_status nib_conv_keep(nib_ctx *ctx, nib_tensor *weight, int64_t groups, bool codes) {
    const nib_shape *s = &weight->shape;
    job j = {.coded = codes, .C = s->dim[1], .M = s->dim[0] / groups};
    const bool two = s->ndim > 3;
    choose_way(&j, two ? s->dim[2] : 1, s->dim[two ? 3 : 2]);
    if (reads_as_it_is(&j, weight)) return NIB_OK;
    nib_filters_plan plan;
    NIB_TRY(nib_filters_plan_for(&plan, weight, groups, (nib_filters_form)j.way, codes));
    return nib_filters_keep(ctx, weight, &plan);
}
