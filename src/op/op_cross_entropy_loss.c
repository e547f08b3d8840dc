/* op_cross_entropy_loss.c: how far a softmax is from the class that is right, in nats: the mean
 * over rows of log(sum of exp(x - max)) - (x[target] - max). */
#include <math.h>
#include <nibble/train.h>
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/gradient.h"
#include "tensor/context.h"

enum { LOGITS, TARGET }; /* inputs; attributes: */
enum { REDUCTION, IGNORE, SMOOTHING };
enum { MEAN = 1 }; /* of ATen's reductions */

static int64_t target_of(const nib_tensor *t, int64_t i) {
    const void *data = nib_tensor_data(t);
    return t->dtype == NIB_I32   ? ((const int32_t *)data)[i]
           : t->dtype == NIB_I64 ? ((const int64_t *)data)[i]
                                 : ((const uint8_t *)data)[i];
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[LOGITS], *t = args->in[TARGET];
    char one[96], other[96];
    NIB_TRY(nib_op_want_dense_f32(args->op, "self", x));
    const int n = x->shape.ndim;
    if (t == NIB_NONE || t->layout || !nib_tensor_contiguous(t) ||
        (t->dtype != NIB_I32 && t->dtype != NIB_I64 && t->dtype != NIB_U8))
        return NIB_RAISE(NIB_E_DTYPE, "cross_entropy_loss: target is %s, want i32, i64 or u8",
                         t == NIB_NONE ? "not there" : nib_dtype_name(t->dtype));
    if (n < 1 || n > 2 || t->shape.ndim != n - 1 || (n == 2 && t->shape.dim[0] != x->shape.dim[0]))
        return NIB_RAISE(NIB_E_SHAPE,
                         "cross_entropy_loss: self is %s and target %s; want [N, C] and [N]",
                         nib_shape_text(&x->shape, one, sizeof one),
                         nib_shape_text(&t->shape, other, sizeof other));
    const int64_t C = x->shape.dim[n - 1];
    for (int64_t i = 0; i < nib_tensor_count(t); i++) {
        const int64_t c = target_of(t, i);
        if (c != args->attr[IGNORE].i && (c < 0 || c >= C))
            return NIB_RAISE(NIB_E_ARGUMENT,
                             "cross_entropy_loss: target %lld is %lld, and there are %lld classes",
                             (long long)i, (long long)c, (long long)C);
    }
    *out = (nib_shape){0};
    *dtype = NIB_F32;
    return NIB_OK;
}

typedef struct rows {
    const nib_kernels *k;
    const nib_tensor *target;
    const float *x;
    float *y; /* forward: exponentials [N, C]; backward: the gradient */
    float *loss, by;
    int64_t C, ignore;
} rows;

static int64_t rows_counted(const nib_tensor *target, int64_t ignore) {
    int64_t counted = 0;
    for (int64_t i = 0; i < nib_tensor_count(target); i++)
        counted += target_of(target, i) != ignore;
    return counted;
}

static void losses(void *user, int64_t begin, int64_t end) {
    const rows *r = user;
    for (int64_t i = begin; i < end; i++) {
        const int64_t t = target_of(r->target, i);
        const float *x = r->x + i * r->C;
        float *e = r->y + i * r->C, most = -INFINITY;
        r->loss[i] = 0;
        if (t == r->ignore) continue;
        for (int64_t c = 0; c < r->C; c++) most = x[c] > most ? x[c] : most;
        for (int64_t c = 0; c < r->C; c++) e[c] = x[c] - most;
        const float right = e[t];
        r->k->exp_f32(e, e, (size_t)r->C);
        r->loss[i] = (float)log((double)r->k->sum_f32(e, (size_t)r->C)) - right;
    }
}

static void gradients(void *user, int64_t begin, int64_t end) {
    const rows *r = user;
    for (int64_t i = begin; i < end; i++) {
        const int64_t t = target_of(r->target, i);
        float *dx = r->y + i * r->C;
        if (t == r->ignore) {
            memset(dx, 0, (size_t)r->C * sizeof *dx);
            continue;
        }
        memcpy(dx, r->x + i * r->C, (size_t)r->C * sizeof *dx);
        r->k->softmax_f32(dx, (size_t)r->C);
        dx[t] -= 1.0f;
        for (int64_t c = 0; c < r->C; c++) dx[c] *= r->by;
    }
}

/* (softmax(x) - [c is the target]) g / rows */
static nib_status backward(nib_backward_args *args) {
    const nib_call_args *call = args->call;
    const nib_tensor *x = call->in[LOGITS], *t = call->in[TARGET];
    const float g = *(const float *)nib_tensor_data(args->out[0]);
    nib_tensor *dx = args->in[LOGITS] = nib_gradient_like(x);
    if (!dx) return nib_last_error()->status;
    rows r = {.k = &call->ctx->kernels,
              .target = t,
              .x = nib_tensor_data(x),
              .y = nib_tensor_data_mut(dx),
              .C = x->shape.dim[x->shape.ndim - 1],
              .ignore = call->attr[IGNORE].i};
    r.by = g / (float)rows_counted(t, r.ignore);
    nib_parallel_for(call->ctx->pool, nib_tensor_count(t), 8, gradients, &r);
    return NIB_OK;
}

const nib_op nib_op_cross_entropy_loss = {
    .name = "cross_entropy_loss",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(LOGITS) | NIB_SAVES_IN(TARGET),
    .schema = "aten::cross_entropy_loss(Tensor self, Tensor target, Tensor? weight=None, int "
              "reduction=Mean, SymInt ignore_index=-100, float label_smoothing=0.0) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[LOGITS], *t = args->in[TARGET];
    const int64_t N = nib_tensor_count(t), C = x->shape.dim[x->shape.ndim - 1];
    float *room = nib_ctx_workspace(args->ctx, (size_t)(N * C + N + 1) * sizeof *room);
    if (!room) return nib_last_error()->status;
    rows r = {.k = &args->ctx->kernels,
              .target = t,
              .x = nib_tensor_data(x),
              .y = room,
              .loss = room + N * C,
              .C = C,
              .ignore = args->attr[IGNORE].i};
    nib_parallel_for(args->ctx->pool, N, 8, losses, &r);
    float *out = nib_tensor_data_mut(args->out[0]);
    *out = r.k->sum_f32(r.loss, (size_t)N) / (float)rows_counted(t, r.ignore);
    return NIB_OK;
}

static bool accepts(const nib_call_args *args) {
    return args->in[2] == NIB_NONE && args->attr[REDUCTION].i == MEAN &&
           args->attr[SMOOTHING].d == 0;
}

const nib_impl nib_impl_cross_entropy_loss_f32 = {
    .op = &nib_op_cross_entropy_loss,
    .device = "cpu",
    .layouts = "self:dense f32, target:dense integer, no weight, mean, no smoothing",
    .accepts = accepts,
    .run = run};

nib_tensor *nib_cross_entropy(const nib_tensor *logits, const nib_tensor *target) {
    if (!logits || !target) return NULL;
    return nib_call_one(logits->ctx, &nib_op_cross_entropy_loss, 3,
                        (const nib_tensor *[]){logits, target, NIB_NONE}, 3,
                        (nib_attr[]){{.i = MEAN}, {.i = -100}, {.d = 0}});
}
