/* op_layer_norm.c: mean and variance of the last dimensions taken out, then weight and bias.
 * Ba, Kiros and Hinton, "Layer Normalization", 2016. */
#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/norm_backward.h"
#include "op/op_parameter.h"

/* attr[0]: how many of the last dimensions normalized_shape names. */
static bool ends_with(const nib_shape *shape, int dims, const nib_shape *last) {
    if (last->ndim != dims) return false;
    for (int i = 0; i < dims; i++)
        if (shape->dim[shape->ndim - dims + i] != last->dim[i]) return false;
    return true;
}

static nib_status check_parameter(const nib_call_args *args, const char *what, int index) {
    const nib_tensor *x = args->in[0], *t = args->in[index];
    if (t == NIB_NONE) return NIB_OK;
    char text[96], other[96];
    if (!ends_with(&x->shape, (int)args->attr[0].i, &t->shape))
        return NIB_RAISE(NIB_E_SHAPE,
                         "layer_norm: input is %s, normalized over its last %d dimensions, but %s "
                         "is %s",
                         nib_shape_text(&x->shape, text, sizeof text), (int)args->attr[0].i, what,
                         nib_shape_text(&t->shape, other, sizeof other));
    return NIB_OK;
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0];
    NIB_TRY(nib_op_want_dense_f32(args->op, "input", x));
    const int64_t dims = args->attr[0].i;
    if (dims < 1 || dims > x->shape.ndim)
        return NIB_RAISE(NIB_E_SHAPE, "layer_norm: asked for the last %lld dimensions of %d",
                         (long long)dims, x->shape.ndim);
    NIB_TRY(check_parameter(args, "weight", 1));
    NIB_TRY(check_parameter(args, "bias", 2));
    *out = x->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args) {
    const nib_tensor *x = args->call->in[0];
    const int dims = (int)args->call->attr[0].i;
    nib_shape last = {.ndim = dims};
    int64_t D = 1;
    for (int i = 0; i < dims; i++) {
        last.dim[i] = x->shape.dim[x->shape.ndim - dims + i];
        D *= last.dim[i];
    }
    nib_tensor *hat;
    args->in[0] = nib_norm_backward(x, nib_norm_weighed(args, &last), D,
                                    (float)args->call->attr[1].d, true, &hat);
    NIB_TRY(nib_gradient_made(args->in[0]));
    return nib_norm_parameters(args, hat, &last);
}

const nib_op nib_op_layer_norm = {
    .name = "layer_norm",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, "
              "Tensor? bias=None, float eps=1e-05, bool cudnn_enable=True) -> Tensor",
};

typedef struct norm {
    const nib_kernels *k;
    const float *x, *weight, *bias;
    float *y, eps;
    int64_t D;
} norm;

static void rows(void *user, int64_t begin, int64_t end) {
    const norm *n = user;
    for (int64_t m = begin; m < end; m++)
        n->k->layer_norm_f32(n->y + m * n->D, n->x + m * n->D, n->weight, n->bias, (size_t)n->D,
                             n->eps);
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[0], *w = args->in[1], *b = args->in[2];
    int64_t D = 1;
    for (int i = 0; i < args->attr[0].i; i++) D *= x->shape.dim[x->shape.ndim - 1 - i];
    if (D == 0) return NIB_OK;
    const int64_t widened = nib_parameter_room(w, D) + nib_parameter_room(b, D);
    float *room = widened ? nib_ctx_workspace(args->ctx, (size_t)widened * sizeof(float)) : NULL;
    if (widened && !room) return nib_last_error()->status;
    norm n = {.k = &args->ctx->kernels,
              .x = nib_tensor_data(x),
              .y = nib_tensor_data_mut(args->out[0]),
              .eps = (float)args->attr[1].d,
              .D = D};
    n.weight = nib_parameter_floats(w, &room, D);
    n.bias = nib_parameter_floats(b, &room, D);
    nib_parallel_for(args->ctx->pool, nib_tensor_count(x) / D, 16, rows, &n);
    return NIB_OK;
}

static bool accepts(const nib_call_args *args) {
    return nib_parameter_dense(args->in[1]) && nib_parameter_dense(args->in[2]);
}

const nib_impl nib_impl_layer_norm_f32 = {.op = &nib_op_layer_norm,
                                          .device = "cpu",
                                          .layouts = "input:dense f32, weight:dense, bias:dense",
                                          .accepts = accepts,
                                          .run = run};

nib_tensor *nib_layer_norm(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                           int dims, double eps) {
    if (!x || !weight || !bias) return NULL;
    return nib_call_one(x->ctx, &nib_op_layer_norm, 3, (const nib_tensor *[]){x, weight, bias}, 3,
                        (nib_attr[]){{.i = dims}, {.d = eps}, {.i = 1}});
}
