/* op_silu_mul.c: the gated half of SwiGLU in one pass.
 * Shazeer, "GLU Variants Improve Transformer", 2020. */
#include "base/error.h"
#include "base/parallel.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    NIB_TRY(nib_op_want_dense_f32(args->op, "gate", args->in[0]));
    NIB_TRY(nib_op_want_dense_f32(args->op, "up", args->in[1]));
    char a[96], b[96];
    if (!nib_shape_equal(&args->in[0]->shape, &args->in[1]->shape))
        return NIB_RAISE(NIB_E_SHAPE, "silu_mul: gate is %s but up is %s",
                         nib_shape_text(&args->in[0]->shape, a, sizeof a),
                         nib_shape_text(&args->in[1]->shape, b, sizeof b));
    *out = args->in[0]->shape;
    *dtype = NIB_F32;
    return NIB_OK;
}

/* Of up: g silu(gate). Of gate: that of silu, of g up. */
static nib_status backward(nib_backward_args *args) {
    const nib_tensor *gate = args->call->in[0], *up = args->call->in[1], *g = args->out[0];
    if (args->wants[1]) NIB_TRY(nib_gradient_made(args->in[1] = nib_mul(g, nib_silu(gate))));
    if (!args->wants[0]) return NIB_OK;
    nib_backward_args silu = {.call = args->call, .out = {nib_mul(g, up)}, .wants = {true}};
    if (!silu.out[0]) return nib_last_error()->status;
    NIB_TRY(nib_op_silu.backward(&silu));
    args->in[0] = silu.in[0];
    return NIB_OK;
}

const nib_op nib_op_silu_mul = {
    .name = "silu_mul",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "nib::silu_mul(Tensor gate, Tensor up) -> Tensor",
};

typedef struct gated {
    const nib_kernels *k;
    const float *gate, *up;
    float *y;
} gated;

static void run_of_elements(void *user, int64_t begin, int64_t end) {
    const gated *g = user;
    g->k->silu_mul_f32(g->y + begin, g->gate + begin, g->up + begin, (size_t)(end - begin));
}

static nib_status run(const nib_call_args *args) {
    gated g = {&args->ctx->kernels, nib_tensor_data(args->in[0]), nib_tensor_data(args->in[1]),
               nib_tensor_data_mut(args->out[0])};
    nib_parallel_for(args->ctx->pool, nib_tensor_count(args->out[0]), 8192, run_of_elements, &g);
    return NIB_OK;
}

const nib_impl nib_impl_silu_mul_f32 = {
    .op = &nib_op_silu_mul, .device = "cpu", .layouts = "gate:dense f32, up:dense f32", .run = run};

nib_tensor *nib_silu_mul(const nib_tensor *gate, const nib_tensor *up) {
    if (!gate || !up) return NULL;
    return nib_call_one(gate->ctx, &nib_op_silu_mul, 2, (const nib_tensor *[]){gate, up}, 0, NULL);
}
