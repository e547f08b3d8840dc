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
    BLOCK_P = 1024,          /* positions laid out at once at most */
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

typedef struct job {
    const nib_kernels *k;
    const nib_window *w;
    const float *x, *rows, *bias; /* rows: the filters as gemm_rows_f32 reads them */
    float *y;
    int64_t C, H, W, M, K, OW, P, groups;        /* C of a group */
    int64_t block_p, block_k, blocks, cuts, cut; /* pieces: images, groups, blocks, cuts of M */
    nib_scratch scratch;
} job;

typedef struct run { /* neighbours of one row of the output, within a panel */
    int lane, count;
    int64_t y, x; /* where the first filter tap of the first of them lies in the input */
} run;

static int find_runs(const job *j, int64_t p, int64_t count, run runs[NIB_PANEL]) {
    int n = 0;
    for (int64_t lane = 0; lane < count;) {
        const int64_t oy = (p + lane) / j->OW, ox = (p + lane) % j->OW;
        const int64_t left = j->OW - ox, here = left < count - lane ? left : count - lane;
        runs[n++] = (run){(int)lane, (int)here, oy * j->w->stride[0] - j->w->padding[0],
                          ox * j->w->stride[1] - j->w->padding[1]};
        lane += here;
    }
    return n;
}

/* What the positions of a run see at one tap, x already moved by the tap. */
static void put_run(float *to, const float *row, int64_t x, int64_t stride, int64_t count,
                    int64_t W) {
    if (stride == 1 && x >= 0 && x + count <= W) {
        if (count == NIB_PANEL)
            memcpy(to, row + x, NIB_PANEL * sizeof(float));
        else
            for (int64_t i = 0; i < count; i++) to[i] = row[x + i];
    } else {
        for (int64_t i = 0; i < count; i++, x += stride) to[i] = x >= 0 && x < W ? row[x] : 0.0f;
    }
}

/* Columns [k, k + kc) for `count` positions from p on, x at the group's first channel. */
static void fill_panel(const job *j, const float *x, int64_t p, int64_t count, int64_t k,
                       int64_t kc, float *panel) {
    run runs[NIB_PANEL];
    const int n = find_runs(j, p, count, runs);
    const nib_window *w = j->w;
    const int64_t taps = w->size[0] * w->size[1];
    int64_t c = k / taps, i = k % taps / w->size[1], t = k % w->size[1];
    if (count < NIB_PANEL) memset(panel, 0, (size_t)(kc * NIB_PANEL) * sizeof(float));
    for (int64_t end = k + kc; k < end; k++, panel += NIB_PANEL) {
        const float *plane = x + c * j->H * j->W;
        for (int r = 0; r < n; r++) {
            const int64_t row = runs[r].y + i * w->dilation[0];
            float *to = panel + runs[r].lane;
            if (row < 0 || row >= j->H)
                for (int l = 0; l < runs[r].count; l++) to[l] = 0.0f;
            else
                put_run(to, plane + row * j->W, runs[r].x + t * w->dilation[1], w->stride[1],
                        runs[r].count, j->W);
        }
        if (++t < w->size[1]) continue;
        t = 0;
        if (++i < w->size[0]) continue;
        i = 0;
        c++;
    }
}

static void piece(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int index;
    float *panels = nib_scratch_take(&j->scratch, &index);
    for (int64_t at = begin; at < end; at++) {
        const int64_t cut = at % j->cuts * j->cut, block = at / j->cuts % j->blocks,
                      image = at / j->cuts / j->blocks; /* and group */
        const int64_t p = block * j->block_p, P = j->P - p < j->block_p ? j->P - p : j->block_p;
        const int64_t M = j->M - cut < j->cut ? j->M - cut : j->cut;
        const int64_t channel = image % j->groups * j->M + cut;
        const float *x = j->x + image * j->C * j->H * j->W;
        float *y = j->y + (image * j->M + cut) * j->P + p;
        int64_t k = 0;
        do { /* once, too, where there is nothing to sum */
            const int64_t kc = j->K - k < j->block_k ? j->K - k : j->block_k;
            for (int64_t q = 0; q < P; q += NIB_PANEL)
                fill_panel(j, x, p + q, P - q < NIB_PANEL ? P - q : NIB_PANEL, k, kc,
                           panels + q * kc);
            j->k->gemm_rows_f32(y, j->P, j->rows + channel * j->K, M, j->K, k, kc, panels,
                                kc * NIB_PANEL, P);
            k += kc;
        } while (k < j->K);
        for (int64_t m = 0; m < M && j->bias; m++)
            for (int64_t q = 0; q < P; q++) y[m * j->P + q] += j->bias[channel + m];
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

static void pack_groups(void *user, int64_t begin, int64_t end) {
    const filters *f = user;
    for (int64_t g = begin; g < end; g++) {
        const float *w = f->floats ? f->floats : (const float *)nib_tensor_data(f->weight);
        f->k->pack_rows_f32(f->rows + g * f->M * f->K, w + g * f->M * f->K, f->K, f->M, f->K);
    }
}

nib_status nib_conv_run(nib_ctx *ctx, const nib_conv *conv, const nib_tensor *x,
                        const nib_tensor *weight, const nib_tensor *bias, nib_tensor *y) {
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

    j.block_k = j.K < BLOCK_K ? j.K : BLOCK_K;
    int64_t most = j.block_k ? BLOCK_FLOATS / j.block_k / NIB_PANEL * NIB_PANEL : BLOCK_P;
    most = most < 4 * NIB_PANEL ? 4 * NIB_PANEL : most > BLOCK_P ? BLOCK_P : most;
    const int64_t filled = (j.P + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL;
    j.block_p = filled < most ? filled : most;
    j.blocks = (j.P + j.block_p - 1) / j.block_p;
    const int64_t whole = images * conv->groups * j.blocks;
    j.cut = whole < FEW_ITEMS && j.M > ROWS ? ROWS : j.M;
    j.cuts = (j.M + j.cut - 1) / j.cut;

    /* One workspace: packed filters, filters as floats, scratch to unpack codes, biases, panels. */
    const bool widen = weight->layout || weight->dtype != NIB_F32;
    const size_t count = (size_t)(Cout * j.K), step = NIB_MEM_ALIGN;
    const size_t codes = widen ? nib_rows_scratch_size(weight, Cout) : 0;
    const size_t panel_bytes = (size_t)(j.block_p * j.block_k) * sizeof(float);
    const size_t panels = nib_scratch_room(ctx->pool, whole * j.cuts, panel_bytes);
    size_t at[5] = {0}, size;
    if (nib_mul_size(count, sizeof(float), &size) || nib_align_size(size, step, &at[1]) ||
        nib_add_size(at[1], widen ? at[1] : 0, &at[2]) || nib_add_size(at[2], codes, &size) ||
        nib_align_size(size, step, &at[3]) ||
        nib_add_size(at[3], (size_t)Cout * sizeof(float), &size) ||
        nib_align_size(size, step, &at[4]) || nib_add_size(at[4], panels, &size) ||
        (!panels && panel_bytes))
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
    nib_parallel_for(ctx->pool, conv->groups, 1, pack_groups, &f);
    j.rows = f.rows;
    nib_scratch_over(ctx->pool, whole * j.cuts, panel_bytes, room + at[4], &j.scratch);
    nib_parallel_for(ctx->pool, whole * j.cuts, 1, piece, &j);
    return NIB_OK;
}
