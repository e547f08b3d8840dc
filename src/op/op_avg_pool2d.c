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

const nib_op nib_op_avg_pool2d = {
    .name = "avg_pool2d",
    .nout = 1,
    .shape = shape,
    .schema =
        "aten::avg_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, "
        "bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> "
        "Tensor",
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static void planes(void *user, int64_t begin, int64_t end) {
    const nib_pool_job *j = user;
    const nib_window *w = &j->w;
    for (int64_t n = begin; n < end; n++) {
        const float *x = j->x + n * j->H * j->W;
        float *y = j->y + n * j->OH * j->OW;
        for (int64_t o = 0; o < j->OH * j->OW; o++) {
            int64_t top = o / j->OW * w->stride[0] - w->padding[0],
                    left = o % j->OW * w->stride[1] - w->padding[1],
                    bottom = least(top + w->size[0], j->H + w->padding[0]),
                    right = least(left + w->size[1], j->W + w->padding[1]);
            const int64_t with_padding = (bottom - top) * (right - left);
            top = most(top, 0), left = most(left, 0);
            bottom = least(bottom, j->H), right = least(right, j->W);
            float sum = 0;
            for (int64_t r = top; r < bottom; r++)
                for (int64_t c = left; c < right; c++) sum += x[r * j->W + c];
            const int64_t inside = most(bottom - top, 0) * most(right - left, 0);
            const int64_t by = j->divisor ? j->divisor : j->padding_counts ? with_padding : inside;
            y[o] = inside ? sum / (float)by : 0.0f;
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
