/* op_dequantize.c: a quantized tensor as a dense one of the dtype that its weight had. */
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "quant/act8.h"
#include "quant/layouts.h"
#include "tensor/context.h"

enum { RUN = 1024, GRAIN = 1 << 15 };

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    *out = args->in[0]->shape;
    *dtype = args->in[0]->dtype;
    return NIB_OK;
}

static bool codes(const nib_call_args *args) { return nib_act8_is(args->in[0]); }

const nib_op nib_op_dequantize = {
    .name = "dequantize",
    .codes = codes,
    .nout = 1,
    .shape = shape,
    .backward = nib_gradient_through,
    .schema = "nib::dequantize(Tensor self) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    nib_tensor *dense = nib_dequantize_tensor(args->in[0]);
    if (!dense) return nib_last_error()->status;
    memcpy(nib_tensor_data_mut(args->out[0]), nib_tensor_data(dense), nib_tensor_bytes(dense));
    nib_tensor_free(dense);
    return NIB_OK;
}

/* ---- activations ---- */

typedef struct job {
    const nib_tensor *t;
    char *out;
} job;

static void activation_some(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const nib_kernels *k = &j->t->ctx->kernels;
    if (j->t->dtype == NIB_F32) {
        nib_act8_to_f32(j->t, begin, end - begin, (float *)(void *)j->out + begin);
        return;
    }
    float run[RUN];
    for (int64_t i = begin, n; i < end; i += n) {
        n = end - i < RUN ? end - i : RUN;
        nib_act8_to_f32(j->t, i, n, run);
        if (j->t->dtype == NIB_BF16)
            k->f32_to_bf16(j->out + 2 * i, run, (size_t)n);
        else
            k->f32_to_f16(j->out + 2 * i, run, (size_t)n);
    }
}

static nib_status run_activation(const nib_call_args *args) {
    job j = {.t = args->in[0], .out = nib_tensor_data_mut(args->out[0])};
    nib_parallel_for(args->ctx->pool, nib_tensor_count(j.t), GRAIN, activation_some, &j);
    return NIB_OK;
}

const nib_impl nib_impl_dequantize_act8 = {.op = &nib_op_dequantize,
                                           .device = "cpu",
                                           .layouts = "self:codes of an activation",
                                           .accepts = codes,
                                           .run = run_activation};

const nib_impl nib_impl_dequantize_any = {
    .op = &nib_op_dequantize, .device = "cpu", .layouts = "self:any", .run = run};

nib_tensor *nib_dequantize(const nib_tensor *t) {
    if (!t) return NULL;
    return nib_call_one(t->ctx, &nib_op_dequantize, 1, (const nib_tensor *[]){t}, 0, NULL);
}
