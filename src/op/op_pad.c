/* op_pad.c: numbers put around the last two dimensions, or the last one: constant, or what is there
 * mirrored, repeated or wrapped. */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "tensor/context.h"

/* Attributes: [0..3] left, right, top, bottom, [4] mode, [5] value. */
typedef enum pad_mode { CONSTANT, REFLECT, REPLICATE, CIRCULAR, PAD_MODES } pad_mode;
static const char *const mode_names[PAD_MODES] = {"constant", "reflect", "replicate", "circular"};

static pad_mode mode_of(const char *name) {
    int mode = 0;
    while (mode < PAD_MODES && strcmp(mode_names[mode], name) != 0) mode++;
    return (pad_mode)mode;
}

static nib_status check_side(pad_mode mode, int64_t before, int64_t after, int64_t length) {
    const int64_t most = mode == REFLECT ? length - 1 : mode == CIRCULAR ? length : INT32_MAX;
    if (before < 0 || after < 0 || before > most || after > most ||
        (mode == REPLICATE && !length && (before || after)))
        return NIB_RAISE(NIB_E_ARGUMENT, "pad: %lld before and %lld after %lld numbers, mode %s",
                         (long long)before, (long long)after, (long long)length, mode_names[mode]);
    return NIB_OK;
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0];
    const nib_attr *a = args->attr;
    NIB_TRY(nib_op_want_dense_f32(args->op, "self", x));
    const pad_mode mode = mode_of(a[4].s);
    if (mode == PAD_MODES)
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "pad: there is no mode \"%s\"; want constant, reflect, "
                         "replicate or circular",
                         a[4].s);
    *out = x->shape;
    *dtype = NIB_F32;
    const int n = x->shape.ndim;
    if (n < 1 || (n < 2 && (a[2].i || a[3].i)))
        return NIB_RAISE(NIB_E_SHAPE, "pad: a tensor of %d dimensions has too few", n);
    for (int side = 0; side < 2 && side < n; side++) {
        int64_t *length = &out->dim[n - 1 - side], sum;
        NIB_TRY(check_side(mode, a[2 * side].i, a[2 * side + 1].i, *length));
        if (nib_add_i64(a[2 * side].i + a[2 * side + 1].i, *length, &sum))
            return NIB_RAISE(NIB_E_SHAPE, "pad: the padded size overflows");
        *length = sum;
    }
    return NIB_OK;
}

/* Where in [0, n) the number at i comes from; -1: it is the constant. */
static int64_t source(pad_mode mode, int64_t i, int64_t n) {
    if (i >= 0 && i < n) return i;
    switch (mode) {
    case REFLECT:
        return i < 0 ? -i : 2 * (n - 1) - i;
    case REPLICATE:
        return i < 0 ? 0 : n - 1;
    case CIRCULAR:
        return i < 0 ? i + n : i - n;
    default:
        return -1;
    }
}

typedef struct padding {
    const float *x;
    float *y, value;
    int64_t H, W, OH, OW, left, top;
    pad_mode mode;
} padding;

static padding padding_of(const nib_call_args *args, const nib_shape *out) {
    const nib_shape *in = &args->in[0]->shape;
    const int n = in->ndim;
    return (padding){.value = (float)args->attr[5].d,
                     .H = n > 1 ? in->dim[n - 2] : 1,
                     .W = in->dim[n - 1],
                     .OH = n > 1 ? out->dim[n - 2] : 1,
                     .OW = out->dim[n - 1],
                     .left = args->attr[0].i,
                     .top = args->attr[2].i,
                     .mode = mode_of(args->attr[4].s)};
}

/* Each number goes back to where it came from, rows and then columns of a plane ascending. */
static void planes_back(void *user, int64_t begin, int64_t end) {
    const padding *p = user;
    for (int64_t n = begin; n < end; n++) {
        float *dx = p->y + n * p->H * p->W;
        memset(dx, 0, (size_t)(p->H * p->W) * sizeof *dx);
        for (int64_t r = 0; r < p->OH; r++) {
            const int64_t row = source(p->mode, r - p->top, p->H);
            const float *g = p->x + (n * p->OH + r) * p->OW;
            for (int64_t i = 0; i < p->OW && row >= 0; i++) {
                const int64_t at = source(p->mode, i - p->left, p->W);
                if (at >= 0) dx[row * p->W + at] += g[i];
            }
        }
    }
}

static nib_status backward(nib_backward_args *args) {
    nib_tensor *dx = args->in[0] = nib_gradient_like(args->call->in[0]);
    if (!dx) return nib_last_error()->status;
    padding p = padding_of(args->call, &args->out[0]->shape);
    p.x = nib_tensor_data(args->out[0]);
    p.y = nib_tensor_data_mut(dx);
    const int64_t count = nib_tensor_count(dx);
    if (count) nib_parallel_for(dx->ctx->pool, count / (p.H * p.W), 1, planes_back, &p);
    return NIB_OK;
}

const nib_op nib_op_pad = {
    .name = "pad",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .schema = "aten::pad(Tensor self, SymInt[] pad, str mode=\"constant\", float? value=None) -> "
              "Tensor",
};

static void rows(void *user, int64_t begin, int64_t end) {
    const padding *p = user;
    for (int64_t r = begin; r < end; r++) {
        const int64_t from = source(p->mode, r % p->OH - p->top, p->H);
        const float *x = from < 0 ? NULL : p->x + (r / p->OH * p->H + from) * p->W;
        float *y = p->y + r * p->OW;
        for (int64_t i = 0; i < p->OW; i++) {
            const int64_t at = x ? source(p->mode, i - p->left, p->W) : -1;
            y[i] = at < 0 ? p->value : x[at];
        }
    }
}

static nib_status run(const nib_call_args *args) {
    padding p = padding_of(args, &args->out[0]->shape);
    p.x = nib_tensor_data(args->in[0]);
    p.y = nib_tensor_data_mut(args->out[0]);
    const int64_t count = nib_tensor_count(args->out[0]);
    if (count) nib_parallel_for(args->ctx->pool, count / p.OW, 64, rows, &p);
    return NIB_OK;
}

const nib_impl nib_impl_pad_f32 = {
    .op = &nib_op_pad, .device = "cpu", .layouts = "self:dense f32", .run = run};

nib_tensor *nib_pad(const nib_tensor *x, const int64_t pad[4], const char *mode, double value) {
    if (!x) return NULL;
    return nib_call_one(
        x->ctx, &nib_op_pad, 1, &x, 6,
        (nib_attr[]){
            {.i = pad[0]}, {.i = pad[1]}, {.i = pad[2]}, {.i = pad[3]}, {.s = mode}, {.d = value}});
}
