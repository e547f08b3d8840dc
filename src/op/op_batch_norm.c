/* op_batch_norm.c: each channel by its own mean and variance: those of the batch, which also move
 * the running ones, or the running ones.
 * Ioffe and Szegedy, "Batch Normalization", 2015. */
#include <math.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/norm_backward.h"
#include "op/op_parameter.h"

enum { INPUT, WEIGHT, BIAS, MEAN, VARIANCE }; /* attributes: training, momentum, eps, cudnn */

static nib_status check_parameter(const nib_call_args *args, int index, const char *what) {
    const nib_tensor *t = args->in[index];
    const int64_t C = args->in[INPUT]->shape.dim[1];
    char text[96];
    if (t == NIB_NONE || (t->shape.ndim == 1 && t->shape.dim[0] == C)) return NIB_OK;
    return NIB_RAISE(NIB_E_SHAPE, "batch_norm: %s is %s, want one for each of %lld channels", what,
                     nib_shape_text(&t->shape, text, sizeof text), (long long)C);
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[INPUT];
    char text[96];
    NIB_TRY(nib_op_want_dense_f32(args->op, "input", x));
    if (x->shape.ndim < 2)
        return NIB_RAISE(NIB_E_SHAPE, "batch_norm: input is %s, want [N, C, ...]",
                         nib_shape_text(&x->shape, text, sizeof text));
    NIB_TRY(check_parameter(args, WEIGHT, "weight"));
    NIB_TRY(check_parameter(args, BIAS, "bias"));
    NIB_TRY(check_parameter(args, MEAN, "running_mean"));
    NIB_TRY(check_parameter(args, VARIANCE, "running_var"));
    const bool running = args->in[MEAN] != NIB_NONE;
    if (running != (args->in[VARIANCE] != NIB_NONE) || (!running && !args->attr[0].i))
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "batch_norm: running_mean and running_var come together, and are what "
                         "evaluation goes by");
    const int64_t C = x->shape.dim[1];
    if (args->attr[0].i && C && nib_tensor_count(x) / C == 1)
        return NIB_RAISE(NIB_E_SHAPE,
                         "batch_norm: input %s has one value a channel, which has no variance to "
                         "train with",
                         nib_shape_text(&x->shape, text, sizeof text));
    *out = x->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

/* Channels as rows [C, N, ...], and back: the other way round is the same. */
static nib_tensor *swapped(const nib_tensor *t) { return nib_transpose(t, 0, 1); }

/* By the running statistics, which do not move: dx = g weight f. */
static nib_tensor *by_running(const nib_backward_args *args, const nib_tensor *t,
                              const nib_shape *each, nib_tensor **hat) {
    const nib_call_args *call = args->call;
    const nib_tensor *mean = nib_gradient_floats(call->in[MEAN]),
                     *variance = nib_gradient_floats(call->in[VARIANCE]),
                     *x = nib_gradient_floats(call->in[INPUT]);
    nib_tensor *f = nib_gradient_like(variance);
    if (!mean || !x || !f || !t) return NULL;
    const float *v = nib_tensor_data(variance);
    float *to = nib_tensor_data_mut(f);
    for (int64_t c = 0; c < nib_tensor_count(f); c++)
        to[c] = 1.0f / sqrtf(v[c] + (float)call->attr[2].d);
    f = nib_gradient_view(f, *each);
    *hat = nib_mul(nib_sub(x, nib_gradient_view(mean, *each)), f);
    return nib_mul(t, f);
}

static nib_status backward(nib_backward_args *args) {
    const nib_tensor *x = args->call->in[INPUT];
    nib_shape each = {.ndim = x->shape.ndim - 1, .dim = {x->shape.dim[1]}};
    for (int i = 1; i < each.ndim; i++) each.dim[i] = 1;
    const nib_tensor *t = nib_norm_weighed(args, &each);
    nib_tensor *hat = NULL, *dx;
    if (args->call->attr[0].i) {
        const int64_t C = x->shape.dim[1], D = C ? nib_tensor_count(x) / C : 0;
        dx = swapped(nib_norm_backward(swapped(nib_gradient_floats(x)), swapped(t), D,
                                       (float)args->call->attr[2].d, true, &hat));
        hat = swapped(hat);
    } else {
        dx = by_running(args, t, &each, &hat);
    }
    args->in[INPUT] = dx;
    if (!dx || !hat) return nib_last_error()->status;
    return nib_norm_parameters(args, hat, &each);
}

const nib_op nib_op_batch_norm = {
    .name = "batch_norm",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves =
        NIB_SAVES_IN(INPUT) | NIB_SAVES_IN(WEIGHT) | NIB_SAVES_IN(MEAN) | NIB_SAVES_IN(VARIANCE),
    .schema = "aten::batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!)? "
              "running_mean, Tensor(b!)? running_var, bool training, float momentum, float eps, "
              "bool cudnn_enabled) -> Tensor",
};

typedef struct norm {
    const nib_kernels *k;
    const float *x, *weight, *bias, *mean, *variance; /* of the running: NULL takes the batch's */
    float *y, *new_mean, *new_variance;               /* NULL: not wanted */
    float eps, momentum;
    int64_t N, C, P; /* P numbers of a channel of one of N */
} norm;

/* Mean and variance of a channel; what is left of each number after the mean is put to y. */
static void measure(const norm *n, int64_t c, float *mean, float *variance) {
    const float count = (float)(n->N * n->P);
    const int64_t P = n->P;
    float sum = 0, squares = 0;
    for (int64_t i = 0; i < n->N; i++)
        sum += n->k->sum_f32(n->x + (i * n->C + c) * n->P, (size_t)n->P);
    *mean = sum / count;
    for (int64_t i = 0; i < n->N; i++) {
        const float *x = n->x + (i * n->C + c) * n->P;
        float *d = n->y + (i * n->C + c) * n->P;
        const float middle = *mean;
        for (int64_t p = 0; p < P; p++) d[p] = x[p] - middle;
        squares += n->k->sum_squares_f32(d, (size_t)n->P);
    }
    *variance = squares / count;
}

static void channels(void *user, int64_t begin, int64_t end) {
    const norm *n = user;
    const int64_t P = n->P; /* a local, so that compilers see plain arrays */
    for (int64_t c = begin; c < end; c++) {
        float mean, variance;
        if (n->mean) {
            mean = n->mean[c];
            variance = n->variance[c];
        } else {
            measure(n, c, &mean, &variance);
        }
        if (n->new_mean) { /* of the population that the batch was drawn from */
            const float count = (float)(n->N * n->P), m = n->momentum;
            const float unbiased = variance * (count / (count - 1.0f));
            n->new_mean[c] = m * mean + (1.0f - m) * n->new_mean[c];
            n->new_variance[c] = m * unbiased + (1.0f - m) * n->new_variance[c];
        }
        const float f = 1.0f / sqrtf(variance + n->eps), w = n->weight ? n->weight[c] : 1.0f,
                    b = n->bias ? n->bias[c] : 0.0f;
        for (int64_t i = 0; i < n->N; i++) {
            const float *x = n->x + (i * n->C + c) * n->P;
            float *y = n->y + (i * n->C + c) * n->P;
            for (int64_t p = 0; p < P; p++) y[p] = (x[p] - mean) * f * w + b;
        }
    }
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[INPUT];
    const bool training = args->attr[0].i != 0, running = args->in[MEAN] != NIB_NONE;
    const int64_t C = x->shape.dim[1];
    int64_t room = 0;
    for (int i = WEIGHT; i <= VARIANCE; i++) room += nib_parameter_room(args->in[i], C);
    float *space = room ? nib_ctx_workspace(args->ctx, (size_t)room * sizeof(float)) : NULL;
    if (room && !space) return nib_last_error()->status;
    norm n = {.k = &args->ctx->kernels,
              .x = nib_tensor_data(x),
              .weight = nib_parameter_floats(args->in[WEIGHT], &space, C),
              .bias = nib_parameter_floats(args->in[BIAS], &space, C),
              .y = nib_tensor_data_mut(args->out[0]),
              .momentum = (float)args->attr[1].d,
              .eps = (float)args->attr[2].d,
              .N = x->shape.dim[0],
              .C = C,
              .P = 1};
    for (int i = 2; i < x->shape.ndim; i++) n.P *= x->shape.dim[i];
    if (!training) {
        n.mean = nib_parameter_floats(args->in[MEAN], &space, C);
        n.variance = nib_parameter_floats(args->in[VARIANCE], &space, C);
    } else if (running) { /* the mutation that the schema tells of */
        n.new_mean = nib_tensor_data_mut((nib_tensor *)(uintptr_t)args->in[MEAN]);
        n.new_variance = nib_tensor_data_mut((nib_tensor *)(uintptr_t)args->in[VARIANCE]);
        if (!n.new_mean || !n.new_variance) return nib_last_error()->status;
    }
    if (n.N * n.P > 0) nib_parallel_for(args->ctx->pool, C, 1, channels, &n);
    return NIB_OK;
}

static bool accepts(const nib_call_args *args) {
    for (int i = WEIGHT; i <= VARIANCE; i++)
        if (!nib_parameter_dense(args->in[i])) return false;
    return !args->attr[0].i || args->in[MEAN] == NIB_NONE ||
           (args->in[MEAN]->dtype == NIB_F32 && args->in[VARIANCE]->dtype == NIB_F32);
}

const nib_impl nib_impl_batch_norm_f32 = {
    .op = &nib_op_batch_norm,
    .device = "cpu",
    .layouts = "input:dense f32, parameters:dense, running statistics to train:dense f32",
    .accepts = accepts,
    .run = run};

nib_tensor *nib_batch_norm(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias,
                           nib_tensor *mean, nib_tensor *variance, bool training, double momentum,
                           double eps) {
    if (!x || !weight || !bias || !mean || !variance) return NULL;
    return nib_call_one(x->ctx, &nib_op_batch_norm, 5,
                        (const nib_tensor *[]){x, weight, bias, mean, variance}, 4,
                        (nib_attr[]){{.i = training}, {.d = momentum}, {.d = eps}, {.i = 1}});
}
