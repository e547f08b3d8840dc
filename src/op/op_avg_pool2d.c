/* op_avg_pool2d.c: the sum of each window, row by row, by how many numbers it has. */
#include "base/error.h"
#include "base/parallel.h"
#include "op/calls.h"
#include "op/pool.h"
#include "tensor/context.h"

/* Attributes: kernel_size, stride, padding, two each, ceil_mode, count_include_pad,
 * divisor_override (0: none). */
static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_window w = nib_pool_window(args, false);
    *dtype = NIB_F32;
    if (args->attr[8].i < 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "avg_pool2d: divisor %lld is negative",
                         (long long)args->attr[8].i);
    return nib_pool_shape(args, &w, args->attr[6].i != 0, out);
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static void fold(float *y, const float *x, int64_t stride, int64_t count) {
    for (int64_t o = 0; o < count; o++) y[o] += x[o * stride];
}

/* What the sum of output (oy, ox) is divided by; 0: its window has nothing of the input. */
static int64_t divisor(const nib_pool_job *j, int64_t oy, int64_t ox) {
    const nib_window *w = &j->w;
    const int64_t top = oy * w->stride[0] - w->padding[0], left = ox * w->stride[1] - w->padding[1],
                  bottom = least(top + w->size[0], j->H + w->padding[0]),
                  right = least(left + w->size[1], j->W + w->padding[1]);
    const int64_t inside =
        most(least(bottom, j->H) - most(top, 0), 0) * most(least(right, j->W) - most(left, 0), 0);
    if (!inside) return 0;
    return j->divisor ? j->divisor : j->padding_counts ? (bottom - top) * (right - left) : inside;
}

static void share(const nib_pool_job *j, const float *x, float *dx, int64_t oy, int64_t ox,
                  float g) {
    const nib_window *w = &j->w;
    const int64_t by = divisor(j, oy, ox), top = oy * w->stride[0] - w->padding[0],
                  left = ox * w->stride[1] - w->padding[1];
    (void)x;
    for (int64_t y = most(top, 0); by && y < least(top + w->size[0], j->H); y++)
        for (int64_t c = most(left, 0); c < least(left + w->size[1], j->W); c++)
            dx[y * j->W + c] += g / (float)by;
}

static nib_pool_job job_of(const nib_call_args *args) {
    return (nib_pool_job){.w = nib_pool_window(args, false),
                          .padding_counts = args->attr[7].i != 0,
                          .divisor = args->attr[8].i};
}

static nib_status backward(nib_backward_args *args) {
    return nib_pool_backward(args, job_of(args->call), false, share);
}

const nib_op nib_op_avg_pool2d = {
    .name = "avg_pool2d",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .schema =
        "aten::avg_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, "
        "bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> "
        "Tensor",
};

static void planes(void *user, int64_t begin, int64_t end) {
    const nib_pool_job *j = user;
    const int64_t count = j->OH * j->OW;
    for (int64_t n = begin; n < end; n++) {
        float *y = j->y + n * count;
        for (int64_t o = 0; o < count; o++) y[o] = 0;
        nib_pool_plane(j, j->x + n * j->H * j->W, y, fold);
        for (int64_t oy = 0; oy < j->OH; oy++)
            for (int64_t ox = 0; ox < j->OW; ox++) {
                const int64_t by = divisor(j, oy, ox);
                y[oy * j->OW + ox] = by ? y[oy * j->OW + ox] / (float)by : 0.0f;
            }
    }
}

static nib_status run(const nib_call_args *args) {
    nib_pool_job j = nib_pool_begin(args);
    j.w = nib_pool_window(args, false);
    j.padding_counts = args->attr[7].i != 0;
    j.divisor = args->attr[8].i;
    nib_parallel_for(args->ctx->pool, j.planes, 1, planes, &j);
    return NIB_OK;
}

const nib_impl nib_impl_avg_pool2d_f32 = {
    .op = &nib_op_avg_pool2d, .device = "cpu", .layouts = "self:dense f32", .run = run};

nib_tensor *nib_avg_pool2d(const nib_tensor *x, const nib_window *w, bool ceil, bool padding_counts,
                           int64_t divisor) {
    if (!x) return NULL;
    nib_attr attr[9] = {[6] = {.i = ceil}, [7] = {.i = padding_counts}, [8] = {.i = divisor}};
    for (int i = 0; i < 2; i++) {
        attr[i].i = w->size[i];
        attr[2 + i].i = w->stride[i];
        attr[4 + i].i = w->padding[i];
    }
    return nib_call_one(x->ctx, &nib_op_avg_pool2d, 1, &x, 9, attr);
}
