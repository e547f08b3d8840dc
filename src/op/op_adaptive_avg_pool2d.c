/* op_adaptive_avg_pool2d.c: the means of as many windows as are asked for, which may overlap.
 * Window i of n over a length L begins at floor(i L / n) and ends before ceil((i + 1) L / n). */
#include "base/error.h"
#include "base/parallel.h"
#include "op/calls.h"
#include "op/pool.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0];
    char text[96];
    NIB_TRY(nib_op_want_dense_f32(args->op, "self", x));
    const int n = x->shape.ndim;
    if ((n != 3 && n != 4) || args->attr[0].i < 0 || args->attr[1].i < 0 ||
        args->attr[0].i > 65536 || args->attr[1].i > 65536 || x->shape.dim[n - 1] < 1 ||
        x->shape.dim[n - 2] < 1)
        return NIB_RAISE(
            NIB_E_SHAPE,
            "adaptive_avg_pool2d: input is %s, to %lld x %lld; want [N, C, H, W] or [C, "
            "H, W]",
            nib_shape_text(&x->shape, text, sizeof text), (long long)args->attr[0].i,
            (long long)args->attr[1].i);
    *out = x->shape;
    out->dim[n - 2] = args->attr[0].i;
    out->dim[n - 1] = args->attr[1].i;
    *dtype = NIB_F32;
    return NIB_OK;
}

static void share(const nib_pool_job *j, const float *x, float *dx, int64_t oy, int64_t ox,
                  float g) {
    const int64_t top = oy * j->H / j->OH, bottom = ((oy + 1) * j->H + j->OH - 1) / j->OH,
                  left = ox * j->W / j->OW, right = ((ox + 1) * j->W + j->OW - 1) / j->OW;
    (void)x;
    for (int64_t r = top; r < bottom; r++)
        for (int64_t c = left; c < right; c++)
            dx[r * j->W + c] += g / (float)((bottom - top) * (right - left));
}

static nib_status backward(nib_backward_args *args) {
    return nib_pool_backward(args, (nib_pool_job){0}, false, share);
}

const nib_op nib_op_adaptive_avg_pool2d = {
    .name = "adaptive_avg_pool2d",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .schema = "aten::adaptive_avg_pool2d(Tensor self, SymInt[2] output_size) -> Tensor",
};

static void planes(void *user, int64_t begin, int64_t end) {
    const nib_pool_job *j = user;
    for (int64_t n = begin; n < end; n++) {
        const float *x = j->x + n * j->H * j->W;
        float *y = j->y + n * j->OH * j->OW;
        for (int64_t o = 0; o < j->OH * j->OW; o++) {
            const int64_t i = o / j->OW, k = o % j->OW;
            const int64_t top = i * j->H / j->OH, bottom = ((i + 1) * j->H + j->OH - 1) / j->OH,
                          left = k * j->W / j->OW, right = ((k + 1) * j->W + j->OW - 1) / j->OW;
            float sum = 0;
            for (int64_t r = top; r < bottom; r++)
                for (int64_t c = left; c < right; c++) sum += x[r * j->W + c];
            y[o] = sum / (float)((bottom - top) * (right - left));
        }
    }
}

static nib_status run(const nib_call_args *args) {
    nib_pool_job j = nib_pool_begin(args);
    nib_parallel_for(args->ctx->pool, j.planes, 1, planes, &j);
    return NIB_OK;
}

const nib_impl nib_impl_adaptive_avg_pool2d_f32 = {
    .op = &nib_op_adaptive_avg_pool2d, .device = "cpu", .layouts = "self:dense f32", .run = run};

nib_tensor *nib_adaptive_avg_pool2d(const nib_tensor *x, int64_t rows, int64_t columns) {
    if (!x) return NULL;
    return nib_call_one(x->ctx, &nib_op_adaptive_avg_pool2d, 1, &x, 2,
                        (nib_attr[]){{.i = rows}, {.i = columns}});
}
