/* op_group_norm.c: groups of neighbouring channels by their own mean and variance, then weight and
 * bias of each channel. Wu and He, "Group Normalization", 2018. */
#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/norm_backward.h"
#include "op/op_parameter.h"

enum { INPUT, WEIGHT, BIAS }; /* attributes: num_groups, eps, cudnn_enabled */

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[INPUT];
    char text[96];
    NIB_TRY(nib_op_want_dense_f32(args->op, "input", x));
    const int64_t groups = args->attr[0].i, C = x->shape.ndim > 1 ? x->shape.dim[1] : 0;
    if (x->shape.ndim < 2 || groups < 1 || C % groups)
        return NIB_RAISE(
            NIB_E_SHAPE,
            "group_norm: input is %s, want [N, C, ...] with C a multiple of %lld groups",
            nib_shape_text(&x->shape, text, sizeof text), (long long)groups);
    for (int i = WEIGHT; i <= BIAS; i++) {
        const nib_tensor *t = args->in[i];
        if (t != NIB_NONE && (t->shape.ndim != 1 || t->shape.dim[0] != C))
            return NIB_RAISE(NIB_E_SHAPE,
                             "group_norm: %s is %s, want one for each of %lld channels",
                             i == WEIGHT ? "weight" : "bias",
                             nib_shape_text(&t->shape, text, sizeof text), (long long)C);
    }
    *out = x->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args) {
    const nib_tensor *x = args->call->in[INPUT];
    nib_shape each = {.ndim = x->shape.ndim - 1, .dim = {x->shape.dim[1]}};
    int64_t D = x->shape.dim[1] / args->call->attr[0].i;
    for (int i = 2; i < x->shape.ndim; i++) {
        each.dim[i - 1] = 1;
        D *= x->shape.dim[i];
    }
    nib_tensor *hat;
    args->in[INPUT] = nib_norm_backward(x, nib_norm_weighed(args, &each), D,
                                        (float)args->call->attr[1].d, true, &hat);
    NIB_TRY(nib_gradient_made(args->in[INPUT]));
    return nib_norm_parameters(args, hat, &each);
}

const nib_op nib_op_group_norm = {
    .name = "group_norm",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(INPUT) | NIB_SAVES_IN(WEIGHT),
    .schema = "aten::group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? "
              "bias=None, float eps=1e-05, bool cudnn_enabled=True) -> Tensor",
};

typedef struct norm {
    const nib_kernels *k;
    const float *x, *weight, *bias;
    float *y, eps;
    int64_t groups, C, P; /* C channels of a group, P numbers of a channel */
} norm;

static void some_groups(void *user, int64_t begin, int64_t end) {
    const norm *n = user;
    const int64_t P = n->P, size = n->C * P;
    const bool scaled = n->weight || n->bias;
    for (int64_t g = begin; g < end; g++) {
        float *y = n->y + g * size;
        n->k->layer_norm_f32(y, n->x + g * size, NULL, NULL, (size_t)size, n->eps);
        for (int64_t c = 0; c < n->C; c++, y += P) {
            const int64_t channel = g % n->groups * n->C + c;
            const float w = n->weight ? n->weight[channel] : 1.0f,
                        b = n->bias ? n->bias[channel] : 0.0f;
            for (int64_t p = 0; p < P && scaled; p++) y[p] = y[p] * w + b;
        }
    }
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[INPUT];
    const int64_t all = x->shape.dim[1], groups = args->attr[0].i;
    const int64_t room =
        nib_parameter_room(args->in[WEIGHT], all) + nib_parameter_room(args->in[BIAS], all);
    float *space = room ? nib_ctx_workspace(args->ctx, (size_t)room * sizeof(float)) : NULL;
    if (room && !space) return nib_last_error()->status;
    norm n = {.k = &args->ctx->kernels,
              .x = nib_tensor_data(x),
              .weight = nib_parameter_floats(args->in[WEIGHT], &space, all),
              .bias = nib_parameter_floats(args->in[BIAS], &space, all),
              .y = nib_tensor_data_mut(args->out[0]),
              .eps = (float)args->attr[1].d,
              .groups = groups,
              .C = all / groups,
              .P = 1};
    for (int i = 2; i < x->shape.ndim; i++) n.P *= x->shape.dim[i];
    if (nib_tensor_count(x))
        nib_parallel_for(args->ctx->pool, x->shape.dim[0] * groups, 1, some_groups, &n);
    return NIB_OK;
}

static bool accepts(const nib_call_args *args) {
    return nib_parameter_dense(args->in[WEIGHT]) && nib_parameter_dense(args->in[BIAS]);
}

const nib_impl nib_impl_group_norm_f32 = {.op = &nib_op_group_norm,
                                          .device = "cpu",
                                          .layouts = "input:dense f32, weight:dense, bias:dense",
                                          .accepts = accepts,
                                          .run = run};

nib_tensor *nib_group_norm(const nib_tensor *x, int64_t groups, const nib_tensor *weight,
                           const nib_tensor *bias, double eps) {
    if (!x || !weight || !bias) return NULL;
    return nib_call_one(x->ctx, &nib_op_group_norm, 3, (const nib_tensor *[]){x, weight, bias}, 3,
                        (nib_attr[]){{.i = groups}, {.d = eps}, {.i = 1}});
}
