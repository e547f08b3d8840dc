/* op_rope.c: rotary position embedding. */
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0], *angles = args->in[1];
    const int64_t heads = args->attr[0].i;
    NIB_TRY(nib_op_want_dense_f32(args->op, "x", x));
    NIB_TRY(nib_op_want_dense_f32(args->op, "angles", angles));
    char a[96], b[96];
    if (x->shape.ndim != 2 || heads <= 0 || angles->shape.ndim != 3 || angles->shape.dim[1] != 2 ||
        angles->shape.dim[0] != x->shape.dim[0] ||
        x->shape.dim[1] != heads * angles->shape.dim[2] * 2)
        return NIB_RAISE(NIB_E_SHAPE, "rope: x is %s for %lld heads but the angles are %s",
                         nib_shape_text(&x->shape, a, sizeof a), (long long)heads,
                         nib_shape_text(&angles->shape, b, sizeof b));
    *out = x->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

/* The same turn the other way. */
static nib_status backward(nib_backward_args *args) {
    const nib_tensor *angles = args->call->in[1];
    nib_tensor *other = nib_gradient_like(angles);
    if (!other) return nib_last_error()->status;
    if (args->wants[1]) return NIB_RAISE(NIB_E_UNSUPPORTED, "rope: angles have no gradient");
    const int64_t half = angles->shape.dim[2];
    const float *from = nib_tensor_data(angles);
    float *to = nib_tensor_data_mut(other);
    for (int64_t i = 0; i < nib_tensor_count(angles); i++)
        to[i] = i / half % 2 ? -from[i] : from[i];
    args->in[0] = nib_rope(args->out[0], other, args->call->attr[0].i);
    return nib_gradient_made(args->in[0]);
}

const nib_op nib_op_rope = {
    .name = "rope",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(1),
    .schema = "nib::rope(Tensor x, Tensor angles, int heads) -> Tensor",
};

typedef struct turning {
    const nib_kernels *k;
    const float *x, *angles;
    float *y;
    int64_t heads, half;
} turning;

static void rows(void *user, int64_t begin, int64_t end) {
    const turning *t = user;
    const int64_t width = t->heads * 2 * t->half;
    memcpy(t->y + begin * width, t->x + begin * width,
           (size_t)((end - begin) * width) * sizeof *t->y);
    for (int64_t m = begin; m < end; m++) {
        const float *cosine = t->angles + m * 2 * t->half, *sine = cosine + t->half;
        for (int64_t h = 0; h < t->heads; h++)
            t->k->rope_f32(t->y + m * width + h * 2 * t->half, cosine, sine, (size_t)t->half);
    }
}

static nib_status run(const nib_call_args *args) {
    turning t = {.k = &args->ctx->kernels,
                 .x = nib_tensor_data(args->in[0]),
                 .angles = nib_tensor_data(args->in[1]),
                 .y = nib_tensor_data_mut(args->out[0]),
                 .heads = args->attr[0].i,
                 .half = args->in[1]->shape.dim[2]};
    nib_parallel_for(args->ctx->pool, args->in[0]->shape.dim[0], 8, rows, &t);
    return NIB_OK;
}

const nib_impl nib_impl_rope_f32 = {
    .op = &nib_op_rope, .device = "cpu", .layouts = "x:dense f32, angles:dense f32", .run = run};

nib_tensor *nib_rope(const nib_tensor *x, const nib_tensor *angles, int64_t heads) {
    if (!x || !angles) return NULL;
    return nib_call_one(x->ctx, &nib_op_rope, 2, (const nib_tensor *[]){x, angles}, 1,
                        (nib_attr[]){{.i = heads}});
}
