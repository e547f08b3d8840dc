#include "op/pool.h"

#include "base/error.h"
#include "quant/act8.h"

nib_window nib_pool_window(const nib_call_args *args, bool dilated) {
    const nib_attr *a = args->attr;
    return (nib_window){.size = {a[0].i, a[1].i},
                        .stride = {a[2].i, a[3].i},
                        .padding = {a[4].i, a[5].i},
                        .dilation = {dilated ? a[6].i : 1, dilated ? a[7].i : 1}};
}

nib_status nib_pool_shape(const nib_call_args *args, const nib_window *w, bool ceil,
                          nib_shape *out) {
    const nib_tensor *x = args->in[0];
    char text[96];
    if (!nib_act8_is(x)) NIB_TRY(nib_op_want_dense_f32(args->op, "self", x));
    NIB_TRY(nib_window_check(args->op, w));
    const int n = x->shape.ndim;
    if (n != 3 && n != 4)
        return NIB_RAISE(NIB_E_SHAPE, "%s: input is %s, want [N, C, H, W] or [C, H, W]",
                         args->op->name, nib_shape_text(&x->shape, text, sizeof text));
    *out = x->shape;
    for (int i = 0; i < 2; i++) {
        if (w->padding[i] > w->size[i] / 2)
            return NIB_RAISE(NIB_E_ARGUMENT,
                             "%s: padding %lld is more than half of the window's %lld",
                             args->op->name, (long long)w->padding[i], (long long)w->size[i]);
        out->dim[n - 2 + i] = nib_window_count(w, i, x->shape.dim[n - 2 + i], ceil);
        if (out->dim[n - 2 + i] < 1)
            return NIB_RAISE(NIB_E_SHAPE, "%s: a window of %lld does not fit the padded input %s",
                             args->op->name, (long long)w->size[i],
                             nib_shape_text(&x->shape, text, sizeof text));
    }
    return NIB_OK;
}

nib_pool_job nib_pool_begin(const nib_call_args *args) {
    const nib_shape *in = &args->in[0]->shape, *out = &args->out[0]->shape;
    const int n = in->ndim;
    return (nib_pool_job){.x = nib_tensor_data(args->in[0]),
                          .y = nib_tensor_data_mut(args->out[0]),
                          .planes = in->dim[n - 3] * (n == 4 ? in->dim[0] : 1),
                          .H = in->dim[n - 2],
                          .W = in->dim[n - 1],
                          .OH = out->dim[n - 2],
                          .OW = out->dim[n - 1]};
}

typedef struct span { /* outputs whose tap lies inside the input */
    int64_t begin, end, shift;
} span;

static span span_of(const nib_window *w, int i, int64_t tap, int64_t length, int64_t count) {
    const int64_t shift = tap * w->dilation[i] - w->padding[i], last = length - 1 - shift;
    const int64_t end = last < 0 ? 0 : last / w->stride[i] + 1;
    return (span){shift < 0 ? (-shift + w->stride[i] - 1) / w->stride[i] : 0,
                  end < count ? end : count, shift};
}

void nib_pool_plane(const nib_pool_job *j, const float *x, float *y, nib_pool_fold *fold) {
    const nib_window *w = &j->w;
    for (int64_t i = 0; i < w->size[0]; i++) {
        const span rows = span_of(w, 0, i, j->H, j->OH);
        for (int64_t k = 0; k < w->size[1]; k++) {
            const span columns = span_of(w, 1, k, j->W, j->OW);
            const int64_t count = columns.end - columns.begin;
            for (int64_t oy = rows.begin; oy < rows.end && count > 0; oy++)
                fold(y + oy * j->OW + columns.begin,
                     x + (oy * w->stride[0] + rows.shift) * j->W + columns.begin * w->stride[1] +
                         columns.shift,
                     w->stride[1], count);
        }
    }
}
