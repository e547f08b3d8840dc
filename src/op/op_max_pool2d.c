/* op_max_pool2d.c: the largest number of each window; padding holds none. A NaN wins. */
#include <math.h>

#include "base/parallel.h"
#include "op/calls.h"
#include "op/pool.h"
#include "tensor/context.h"

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

const nib_op nib_op_max_pool2d = {
    .name = "max_pool2d",
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

static nib_status run(const nib_call_args *args) {
    nib_pool_job j = nib_pool_begin(args);
    j.w = nib_pool_window(args, true);
    nib_parallel_for(args->ctx->pool, j.planes, 1, planes, &j);
    return NIB_OK;
}

const nib_impl nib_impl_max_pool2d_f32 = {
    .op = &nib_op_max_pool2d, .device = "cpu", .layouts = "self:dense f32", .run = run};

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
