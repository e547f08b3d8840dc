/* conv_backward.c: gradients of convolutions: images one after the other, each a product with what
 * the filters saw.
 *
 *   columns [K, P]   number k (channel, row, column of the filter) under each position
 *   dW = sum over images of g columns^T
 *   d columns = W^T g
 *   dx = each column back where it was
 *
 * Legend: C channels in, M channels out of a group, K numbers that a filter sees, P positions. */
#include <string.h>

#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/conv.h"
#include "op/gradient.h"
#include "op/product.h"
#include "tensor/context.h"

typedef struct job {
    const nib_window *w;
    int64_t N, C, H, W, M, K, OH, OW, P, groups;
    const float *x;
    float *columns, *dx;
} job;

static job job_of(const nib_conv *conv, const nib_tensor *x, const nib_tensor *weight,
                  const nib_tensor *g) {
    const int dims = conv->dims, n = x->shape.ndim;
    job j = {.w = &conv->window, .groups = conv->groups, .N = n == dims + 2 ? x->shape.dim[0] : 1};
    j.C = x->shape.dim[n - dims - 1] / conv->groups;
    j.M = weight->shape.dim[0] / conv->groups;
    j.H = dims == 2 ? x->shape.dim[n - 2] : 1;
    j.W = x->shape.dim[n - 1];
    j.OH = dims == 2 ? g->shape.dim[n - 2] : 1;
    j.OW = g->shape.dim[n - 1];
    j.P = j.OH * j.OW;
    j.K = j.C * conv->window.size[0] * conv->window.size[1];
    return j;
}

/* Outputs [from, to) of a line whose tap `at` lies inside an input of `length`. */
static void inside(const nib_window *w, int i, int64_t tap, int64_t length, int64_t outputs,
                   int64_t *from, int64_t *to, int64_t *at) {
    const int64_t first = tap * w->dilation[i] - w->padding[i], stride = w->stride[i];
    *from = first >= 0 ? 0 : (-first + stride - 1) / stride;
    *to = first >= length ? 0 : (length - 1 - first) / stride + 1;
    if (*to > outputs) *to = outputs;
    if (*from > *to) *from = *to;
    *at = first;
}

static void lay_columns(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const nib_window *w = j->w;
    for (int64_t k = begin; k < end; k++) {
        const int64_t c = k / (w->size[0] * w->size[1]), sy = w->stride[0], sx = w->stride[1];
        float *out = j->columns + k * j->P;
        int64_t y0, y1, top, x0, x1, left;
        inside(w, 0, k / w->size[1] % w->size[0], j->H, j->OH, &y0, &y1, &top);
        inside(w, 1, k % w->size[1], j->W, j->OW, &x0, &x1, &left);
        memset(out, 0, (size_t)j->P * sizeof *out);
        for (int64_t y = y0; y < y1; y++) {
            const float *x = j->x + (c * j->H + top + y * sy) * j->W + left;
            for (int64_t o = x0; o < x1; o++) out[y * j->OW + o] = x[o * sx];
        }
    }
}

static void put_back(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const nib_window *w = j->w;
    const int64_t taps = w->size[0] * w->size[1], sy = w->stride[0], sx = w->stride[1];
    for (int64_t c = begin; c < end; c++) {
        memset(j->dx + c * j->H * j->W, 0, (size_t)(j->H * j->W) * sizeof(float));
        for (int64_t k = c * taps; k < (c + 1) * taps; k++) {
            const float *from = j->columns + k * j->P;
            int64_t y0, y1, top, x0, x1, left;
            inside(w, 0, k / w->size[1] % w->size[0], j->H, j->OH, &y0, &y1, &top);
            inside(w, 1, k % w->size[1], j->W, j->OW, &x0, &x1, &left);
            for (int64_t y = y0; y < y1; y++) {
                float *dx = j->dx + (c * j->H + top + y * sy) * j->W + left;
                for (int64_t o = x0; o < x1; o++) dx[o * sx] += from[y * j->OW + o];
            }
        }
    }
}

/* Rows [first, first + rows) of a tensor seen as [.., columns]. */
static nib_tensor *rows_of(const nib_tensor *t, int64_t first, int64_t rows, int64_t columns) {
    return nib_scope_own(
        t->ctx,
        nib_tensor_over(t->ctx, NIB_F32, (nib_shape){2, {rows, columns}}, t->part[0],
                        nib_tensor_offset(t, 0) + (size_t)(first * columns) * sizeof(float)));
}

/* dW of a group, continued from the images before. */
static nib_status add_weight(const nib_tensor *g, const nib_tensor *columns, float *dw,
                             bool first) {
    const nib_product product = {.weight = columns,
                                 .bias = NIB_NONE,
                                 .up = NIB_NONE,
                                 .up_bias = NIB_NONE,
                                 .residual = first ? NULL : dw,
                                 .y = dw};
    return nib_products(g->ctx, g, &product, 1);
}

/* Sums of the planes of each channel, images one after the other. */
static nib_tensor *sum_planes(const job *j, const nib_tensor *g) {
    const int64_t channels = j->groups * j->M;
    nib_tensor *db =
        nib_scope_own(g->ctx, nib_tensor_result(g->ctx, NIB_F32, (nib_shape){1, {channels}}));
    if (!db) return NULL;
    float *sum = nib_tensor_data_mut(db);
    const float *from = nib_tensor_data(g);
    memset(sum, 0, (size_t)channels * sizeof *sum);
    for (int64_t i = 0; i < j->N * channels; i++)
        sum[i % channels] += g->ctx->kernels.sum_f32(from + i * j->P, (size_t)j->P);
    return db;
}

static nib_status image(job *j, nib_backward_args *args, const nib_tensor *x, const nib_tensor *wt,
                        nib_tensor *columns, int64_t n, int64_t group) {
    const int64_t at = n * j->groups + group, in = j->C * j->H * j->W;
    nib_pool *pool = x->ctx->pool;
    const nib_tensor *g = rows_of(args->out[0], at * j->M, j->M, j->P);
    if (!g) return nib_last_error()->status;
    j->columns = nib_tensor_data_mut(columns);
    if (args->wants[1]) {
        j->x = (const float *)nib_tensor_data(x) + at * in;
        nib_parallel_for(pool, j->K, 4, lay_columns, j);
        float *dw = (float *)nib_tensor_data_mut(args->in[1]) + group * j->M * j->K;
        NIB_TRY(add_weight(g, columns, dw, n == 0));
    }
    if (args->wants[0]) {
        const nib_tensor *back =
            nib_gradient_product(rows_of(wt, group * j->K, j->K, j->M), nib_gradient_transposed(g));
        if (!back) return nib_last_error()->status;
        j->columns = (float *)(uintptr_t)nib_tensor_data(back); /* only read */
        j->dx = (float *)nib_tensor_data_mut(args->in[0]) + at * in;
        nib_parallel_for(pool, j->C, 1, put_back, j);
    }
    return NIB_OK;
}

/* [groups M, K] -> [groups K, M], each group by itself. */
static const nib_tensor *transposed_groups(const job *j, const nib_tensor *weight) {
    weight = nib_gradient_floats(weight);
    if (!weight) return NULL;
    const nib_tensor *moved = nib_permute(
        nib_gradient_view(weight, (nib_shape){3, {j->groups, j->M, j->K}}), (const int[]){0, 2, 1});
    return nib_gradient_view(moved, (nib_shape){2, {j->groups * j->K, j->M}});
}

nib_status nib_conv_backward(nib_backward_args *args, const nib_conv *conv) {
    const nib_tensor *weight = args->call->in[1], *x = nib_gradient_floats(args->call->in[0]),
                     *wt = NULL;
    nib_ctx *ctx = args->call->ctx;
    if (!x) return nib_last_error()->status;
    job j = job_of(conv, x, weight, args->out[0]);
    for (int i = 0; i < 2; i++) {
        if (!args->wants[i]) continue;
        args->in[i] = nib_gradient_like(i ? weight : x);
        NIB_TRY(nib_gradient_made(args->in[i]));
        if (j.N == 0 || j.P == 0)
            memset(nib_tensor_data_mut(args->in[i]), 0, nib_tensor_bytes(args->in[i]));
    }
    if (args->wants[2]) NIB_TRY(nib_gradient_made(args->in[2] = sum_planes(&j, args->out[0])));
    if (args->wants[0]) NIB_TRY(nib_gradient_made(wt = transposed_groups(&j, weight)));
    nib_tensor *columns =
        nib_scope_own(ctx, nib_tensor_result(ctx, NIB_F32, (nib_shape){2, {j.K, j.P}}));
    if (!columns) return nib_last_error()->status;
    for (int64_t i = 0; i < j.N * j.groups && j.P > 0; i++) {
        const size_t mark = nib_scope_begin(ctx);
        const nib_status status = image(&j, args, x, wt, columns, i / j.groups, i % j.groups);
        nib_scope_end(ctx, mark);
        NIB_TRY(status);
    }
    return NIB_OK;
}
