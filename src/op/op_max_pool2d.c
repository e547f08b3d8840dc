/* op_max_pool2d.c: the largest number of each window; padding holds none. A NaN wins.
 *
 * Of integer codes the largest is that of the largest code, so windows are folded as bytes, rows of
 * the input first, and only results become floats. */
#include <math.h>
#include <string.h>

#include "base/parallel.h"
#include "op/calls.h"
#include "op/pool.h"
#include "quant/act8.h"
#include "tensor/context.h"

enum { RUN = 1024 }; /* columns of the input that are folded at once */

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
    return nib_act8_is(x) && nib_act8_integer(x->desc.code) && nib_act8_scale(x) > 0 &&
           w.size[1] <= RUN / 2 && w.stride[1] <= RUN / 2 && w.dilation[0] == 1 &&
           w.dilation[1] == 1;
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
} codes_job;

static inline int8_t larger_code(int8_t a, int8_t b) { return a > b ? a : b; }

/* Columns [first, first + n) of the rows that a window from `top` on sees; outside -128. */
static void fold_rows(int8_t *out, const codes_job *j, const int8_t *plane, int64_t top,
                      int64_t first, int64_t n) {
    const int64_t W = j->pool.W, rows = j->pool.w.size[0];
    const int64_t begin = first < 0 ? -first : 0, end = W - first < n ? W - first : n;
    memset(out, -128, (size_t)n);
    for (int64_t row = top < 0 ? 0 : top; row < top + rows && row < j->pool.H; row++) {
        const int8_t *from = plane + row * W + first;
        for (int64_t i = begin; i < end; i++) out[i] = larger_code(out[i], from[i]);
    }
}

/* out[o] from x[o * stride ...]: `size` columns each. */
static inline void fold_columns(int8_t *out, const int8_t *x, int64_t n, const int64_t stride,
                                int64_t size) {
    for (int64_t o = 0; o < n; o++) out[o] = x[o * stride];
    for (int64_t t = 1; t < size; t++)
        for (int64_t o = 0; o < n; o++) out[o] = larger_code(out[o], x[o * stride + t]);
}

static void planes_of_codes(void *user, int64_t begin, int64_t end) {
    const codes_job *j = user;
    const nib_pool_job *p = &j->pool;
    const nib_window *w = &p->w;
    const int64_t most = (RUN - w->size[1]) / w->stride[1] + 1, step = w->stride[1];
    const float scale = nib_act8_scale(j->of);
    int8_t columns[RUN], q[RUN];
    for (int64_t row = begin * p->OH; row < end * p->OH; row++) {
        const int64_t n = row / p->OH, top = row % p->OH * w->stride[0] - w->padding[0];
        for (int64_t o = 0, count; o < p->OW; o += count) {
            count = p->OW - o < most ? p->OW - o : most;
            fold_rows(columns, j, j->x + n * p->H * p->W, top, o * step - w->padding[1],
                      (count - 1) * step + w->size[1]);
            if (step == 2)
                fold_columns(q, columns, count, 2, w->size[1]);
            else
                fold_columns(q, columns, count, step, w->size[1]);
            j->k->dequantize_scaled(p->y + row * p->OW + o, (const uint8_t *)q, 1, count, true,
                                    &scale, NULL, j->of->desc.math);
        }
    }
}

static nib_status run(const nib_call_args *args) {
    nib_pool_job j = nib_pool_begin(args);
    const nib_tensor *x = args->in[0];
    j.w = nib_pool_window(args, true);
    if (nib_act8_is(x)) {
        codes_job of = {j, nib_act8_data(x), x, &args->ctx->kernels};
        nib_parallel_for(args->ctx->pool, j.planes, 1 + RUN / (j.H * j.W + 1), planes_of_codes,
                         &of);
        return NIB_OK;
    }
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
