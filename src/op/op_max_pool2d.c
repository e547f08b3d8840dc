/* op_max_pool2d.c: the largest number of each window; padding holds none. A NaN wins.
 *
 * Of integer codes the largest is that of the largest code, so windows are folded as bytes, a band
 * of rows as one, and only results become floats. */
#include <math.h>
#include <string.h>

#include "base/parallel.h"
#include "op/calls.h"
#include "op/pool.h"
#include "quant/act8.h"
#include "tensor/context.h"

enum { BAND = 4096 }; /* codes of the input that are folded at once: whole rows */

/* Attributes: kernel_size, stride, padding, dilation, two each, ceil_mode. */
static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_window w = nib_pool_window(args, true);
    *dtype = NIB_F32;
    return nib_pool_shape(args, &w, args->attr[8].i != 0, out);
}

/* To the first of the largest, or the last NaN, as in ATen. */
static void share(const nib_pool_job *j, const float *x, float *dx, int64_t oy, int64_t ox,
                  float g) {
    const nib_window *w = &j->w;
    float most = -INFINITY;
    int64_t at = -1;
    for (int64_t i = 0; i < w->size[0]; i++) {
        const int64_t y = oy * w->stride[0] - w->padding[0] + i * w->dilation[0];
        for (int64_t k = 0; k < w->size[1] && y >= 0 && y < j->H; k++) {
            const int64_t c = ox * w->stride[1] - w->padding[1] + k * w->dilation[1];
            if (c < 0 || c >= j->W) continue;
            const float v = x[y * j->W + c];
            if (at >= 0 && !(v > most) && !isnan(v)) continue;
            most = v;
            at = y * j->W + c;
        }
    }
    if (at >= 0) dx[at] += g;
}

static nib_status backward(nib_backward_args *args) {
    const nib_pool_job pool = {.w = nib_pool_window(args->call, true)};
    return nib_pool_backward(args, pool, true, share);
}

/* Without dilation each window has a number of the input. */
static bool codes(const nib_call_args *args) {
    const nib_tensor *x = args->in[0];
    const nib_window w = nib_pool_window(args, true);
    if (!nib_act8_is(x) || !nib_act8_integer(x->desc.code) || !(nib_act8_scale(x) > 0) ||
        w.dilation[0] != 1 || w.dilation[1] != 1 || x->shape.ndim < 3)
        return false;
    const int64_t W = x->shape.dim[x->shape.ndim - 1];
    for (int i = 0; i < 2; i++)
        if (W > BAND || w.size[i] > BAND || w.padding[i] > BAND || w.stride[i] > BAND) return false;
    return w.size[0] * (W + 2 * w.padding[1] + w.size[1] + w.stride[1]) <= BAND;
}

const nib_op nib_op_max_pool2d = {
    .name = "max_pool2d",
    .codes = codes,
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(0),
    .schema =
        "aten::max_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, "
        "int[2] dilation=1, bool ceil_mode=False) -> Tensor",
};

static inline void larger(float *y, const float *x, int64_t stride, int64_t count) {
    for (int64_t o = 0; o < count; o++) {
        const float v = x[o * stride];
        y[o] = v > y[o] || v != v ? v : y[o];
    }
}

/* Strides that compilers can use are constants. */
static void fold(float *y, const float *x, int64_t stride, int64_t count) {
    if (stride == 1)
        larger(y, x, 1, count);
    else if (stride == 2)
        larger(y, x, 2, count);
    else
        larger(y, x, stride, count);
}

static void planes(void *user, int64_t begin, int64_t end) {
    const nib_pool_job *j = user;
    const int64_t count = j->OH * j->OW;
    for (int64_t n = begin; n < end; n++) {
        float *y = j->y + n * count;
        for (int64_t o = 0; o < count; o++) y[o] = -INFINITY;
        nib_pool_plane(j, j->x + n * j->H * j->W, y, fold);
    }
}

/* ---- of codes ---- */

typedef struct codes_job {
    nib_pool_job pool; /* but x */
    const int8_t *x;
    const nib_tensor *of;
    const nib_kernels *k;
    int64_t line; /* columns of a row with its padding, and with what windows hang over */
} codes_job;

static inline int8_t larger_code(int8_t a, int8_t b) { return a > b ? a : b; }

/* Rows [top, top + rows) with their padding, or where they lie. */
static const int8_t *band_of(const codes_job *j, const int8_t *plane, int64_t top, int64_t rows,
                             int8_t *room) {
    const nib_pool_job *p = &j->pool;
    if (j->line == p->W && top >= 0 && top + rows <= p->H) return plane + top * p->W;
    memset(room, -128, (size_t)(rows * j->line));
    for (int64_t r = 0; r < rows; r++)
        if (top + r >= 0 && top + r < p->H)
            memcpy(room + r * j->line + p->w.padding[1], plane + (top + r) * p->W, (size_t)p->W);
    return room;
}

/* Outputs [oy, oy + count) of a plane. All rows of a band are folded as one, which makes long runs
 * of bytes; what reaches from one row into the next is at places that no output has. */
static void fold_band(const codes_job *j, const int8_t *plane, int64_t oy, int64_t count,
                      float *y) {
    const nib_pool_job *p = &j->pool;
    const nib_window *w = &p->w;
    const int64_t rows = (count - 1) * w->stride[0] + w->size[0], n = rows * j->line;
    const float scale = nib_act8_scale(j->of);
    int8_t room[BAND], across[BAND], down[BAND], q[BAND];
    const int8_t *x = band_of(j, plane, oy * w->stride[0] - w->padding[0], rows, room);
    memcpy(across, x, (size_t)n);
    for (int64_t t = 1; t < w->size[1]; t++)
        for (int64_t i = 0; i < n - t; i++) across[i] = larger_code(across[i], x[i + t]);
    memcpy(down, across, (size_t)n);
    for (int64_t t = 1; t < w->size[0]; t++)
        for (int64_t i = 0; i < n - t * j->line; i++)
            down[i] = larger_code(down[i], across[i + t * j->line]);
    for (int64_t o = 0; o < count; o++) {
        const int8_t *from = down + o * w->stride[0] * j->line;
        int8_t *to = q + o * p->OW;
        if (w->stride[1] == 2)
            for (int64_t i = 0; i < p->OW; i++) to[i] = from[2 * i];
        else
            for (int64_t i = 0; i < p->OW; i++) to[i] = from[w->stride[1] * i];
    }
    j->k->dequantize_scaled(y + oy * p->OW, (const uint8_t *)q, 1, count * p->OW, true, &scale,
                            NULL, j->of->desc.math);
}

static void planes_of_codes(void *user, int64_t begin, int64_t end) {
    const codes_job *j = user;
    const nib_pool_job *p = &j->pool;
    const int64_t most = (BAND / j->line - p->w.size[0]) / p->w.stride[0] + 1;
    for (int64_t n = begin; n < end; n++)
        for (int64_t oy = 0; oy < p->OH; oy += most)
            fold_band(j, j->x + n * p->H * p->W, oy, p->OH - oy < most ? p->OH - oy : most,
                      p->y + n * p->OH * p->OW);
}

static nib_status run_codes(const nib_call_args *args, const nib_pool_job *pool) {
    const nib_tensor *x = args->in[0];
    const nib_window *w = &pool->w;
    codes_job j = {*pool, nib_act8_data(x), x, &args->ctx->kernels, 0};
    const int64_t last = (pool->OW - 1) * w->stride[1] + w->size[1];
    j.line = pool->W + 2 * w->padding[1];
    if (j.line < last) j.line = last;
    nib_parallel_for(args->ctx->pool, j.pool.planes, 1 + BAND / (pool->H * pool->W + 1),
                     planes_of_codes, &j);
    return NIB_OK;
}

static nib_status run(const nib_call_args *args) {
    nib_pool_job j = nib_pool_begin(args);
    j.w = nib_pool_window(args, true);
    if (nib_act8_is(args->in[0])) return run_codes(args, &j);
    nib_parallel_for(args->ctx->pool, j.planes, 1, planes, &j);
    return NIB_OK;
}

const nib_impl nib_impl_max_pool2d_f32 = {
    .op = &nib_op_max_pool2d,
    .device = "cpu",
    .layouts = "self:dense f32 or int8 codes",
    .run = run,
};

nib_tensor *nib_max_pool2d(const nib_tensor *x, const nib_window *w, bool ceil) {
    if (!x) return NULL;
    nib_attr attr[9] = {[8] = {.i = ceil}};
    for (int i = 0; i < 2; i++) {
        attr[i].i = w->size[i];
        attr[2 + i].i = w->stride[i];
        attr[4 + i].i = w->padding[i];
        attr[6 + i].i = w->dilation[i];
    }
    return nib_call_one(x->ctx, &nib_op_max_pool2d, 1, &x, 9, attr);
}
