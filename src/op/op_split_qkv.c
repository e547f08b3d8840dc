/* op_split_qkv.c: queries, keys and values that one fused projection gave, each by itself. */
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0];
    const int64_t heads = args->attr[0].i;
    char text[96];
    NIB_TRY(nib_op_want_dense_f32(args->op, "input", x));
    if (x->shape.ndim != 2 || heads < 1 || x->shape.dim[1] % (3 * heads) != 0)
        return NIB_RAISE(NIB_E_SHAPE,
                         "split_qkv: input is %s, want three times %lld heads side by "
                         "side",
                         nib_shape_text(&x->shape, text, sizeof text), (long long)heads);
    for (int i = 0; i < 3; i++) {
        out[i] = (nib_shape){2, {x->shape.dim[0], x->shape.dim[1] / 3}};
        dtype[i] = NIB_F32;
    }
    return NIB_OK;
}

typedef struct split {
    float *x, *y[3];     /* x [M, 3 D], y [M, D] */
    int64_t runs, width; /* of each y in a row: runs of `width` columns */
    bool join;           /* y goes into x */
} split;

static void rows(void *user, int64_t begin, int64_t end) {
    const split *s = user;
    const int64_t D = s->runs * s->width;
    const size_t bytes = (size_t)s->width * sizeof(float);
    for (int64_t m = begin; m < end; m++) {
        float *x_m = s->x + m * 3 * D;
        for (int64_t h = 0; h < s->runs; h++)
            for (int i = 0; i < 3; i++, x_m += s->width) {
                float *y = s->y[i] + m * D + h * s->width;
                memcpy(s->join ? x_m : y, s->join ? y : x_m, bytes);
            }
    }
}

static nib_status copy(const nib_call_args *args, const nib_tensor *x, const nib_tensor *const y[3],
                       bool join) {
    const int64_t D = x->shape.dim[1] / 3, heads = args->attr[1].i ? args->attr[0].i : 1;
    /* one side of it is only looked at */
    split s = {.x = (float *)(uintptr_t)nib_tensor_data(x),
               .runs = heads,
               .width = D / heads,
               .join = join};
    for (int i = 0; i < 3; i++) s.y[i] = (float *)(uintptr_t)nib_tensor_data(y[i]);
    nib_parallel_for(args->ctx->pool, x->shape.dim[0], 16, rows, &s);
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args) {
    args->in[0] = nib_gradient_like(args->call->in[0]);
    NIB_TRY(nib_gradient_made(args->in[0]));
    return copy(args->call, args->in[0], args->out, true);
}

const nib_op nib_op_split_qkv = {
    .name = "split_qkv",
    .nout = 3,
    .shape = shape,
    .backward = backward,
    .schema = "nib::split_qkv(Tensor input, int heads, bool per_head) -> (Tensor, Tensor, Tensor)",
};

static nib_status run(const nib_call_args *args) {
    return copy(args, args->in[0], (const nib_tensor *const *)args->out, false);
}

const nib_impl nib_impl_split_qkv_f32 = {
    .op = &nib_op_split_qkv, .device = "cpu", .layouts = "input:dense f32", .run = run};

nib_status nib_split_qkv(const nib_tensor *x, int64_t heads, bool per_head, nib_tensor *out[3]) {
    for (int i = 0; i < 3; i++) out[i] = NULL;
    if (!x) return nib_last_error()->status;
    nib_call_args args = {.ctx = x->ctx,
                          .op = &nib_op_split_qkv,
                          .nin = 1,
                          .in = {x},
                          .nattr = 2,
                          .attr = {{.i = heads}, {.i = per_head}}};
    NIB_TRY(nib_call(&args));
    for (int i = 0; i < 3; i++) out[i] = args.out[i];
    return NIB_OK;
}
