/* op_quantize_activation.c: floats as 8-bit codes with one given scale: what a module with static
 * activations does to its input and output. The result is a tensor of layout act8.
 *   q = clamp(round(x / scale)), the quotient rounded to the dtype of x */
#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "op/scale_input.h"
#include "tensor/context.h"

enum { CODE, GRAIN = 1 << 15, RUN = 1024 };

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0], *scale = args->in[1];
    if (x->layout || !nib_quanto_math(x->dtype) || !nib_tensor_contiguous(x))
        return NIB_RAISE(NIB_E_DTYPE, "quantize_activation: want contiguous floats, this is %s",
                         x->layout ? x->layout->name : nib_dtype_name(x->dtype));
    NIB_TRY(nib_scale_check(args->op, scale, (nib_dtype)args->attr[CODE].i));
    *out = x->shape;
    *dtype = x->dtype;
    return NIB_OK;
}

static nib_tensor *output(const nib_call_args *args, int index, nib_dtype dtype, nib_shape shape) {
    (void)index;
    return nib_act8_new(args->ctx, (nib_dtype)args->attr[CODE].i, dtype, shape,
                        nib_scale_value(args->in[1], dtype));
}

const nib_op nib_op_quantize_activation = {
    .name = "quantize_activation",
    .nout = 1,
    .shape = shape,
    .backward = nib_gradient_through,
    .output = output,
    .schema = "nib::quantize_activation(Tensor self, Tensor scale, ScalarType dtype) -> Tensor",
};

typedef struct job {
    const nib_kernels *k;
    const nib_tensor *x;
    uint8_t *q;
    nib_dtype code;
    float scale;
} job;

static void quantize_some(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const nib_dtype math = j->x->dtype;
    if (math == NIB_F32) {
        nib_act8_quantize(j->k, j->code, math, j->scale,
                          (const float *)nib_tensor_data(j->x) + begin, end - begin, j->q + begin);
        return;
    }
    float x[RUN];
    for (int64_t i = begin, n; i < end; i += n) {
        n = end - i < RUN ? end - i : RUN;
        nib_to_f32(math, x, (const uint16_t *)nib_tensor_data(j->x) + i, (size_t)n);
        nib_act8_quantize(j->k, j->code, math, j->scale, x, n, j->q + i);
    }
}

static nib_status run(const nib_call_args *args) {
    job j = {.k = &args->ctx->kernels,
             .x = args->in[0],
             .q = nib_act8_data_mut(args->out[0]),
             .code = (nib_dtype)args->attr[CODE].i,
             .scale = nib_act8_scale(args->out[0])};
    const int64_t count = nib_tensor_count(j.x);
    nib_parallel_for(count > GRAIN ? args->ctx->pool : NULL, count, GRAIN, quantize_some, &j);
    return NIB_OK;
}

const nib_impl nib_impl_quantize_activation_any = {.op = &nib_op_quantize_activation,
                                                   .device = "cpu",
                                                   .layouts = "self:dense float, scale:dense",
                                                   .run = run};

nib_tensor *nib_quantize_activation(const nib_tensor *x, const nib_tensor *scale, nib_dtype code) {
    if (!x || !scale) return NULL;
    return nib_call_one(x->ctx, &nib_op_quantize_activation, 2, (const nib_tensor *[]){x, scale}, 1,
                        (nib_attr[]){{.i = code}});
}
