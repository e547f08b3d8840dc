/* op_linear.c: y = x W^T + b for weights of any layout.
 *
 * A band of 16 channels at a time is widened to f32, laid side by side, and multiplied with all
 * rows of x; so a weight is read once for any number of rows, stands in memory only as it is
 * stored, and y is to the bit the product with the dequantized weight. */
#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0], *w = args->in[1], *bias = args->in[2];
    NIB_TRY(nib_op_want_dense_f32(args->op, "input", x));
    char text[96], other[96];
    const int last = x->shape.ndim - 1;
    if (last < 0 || w->shape.ndim != 2 || x->shape.dim[last] != w->shape.dim[1])
        return NIB_RAISE(NIB_E_SHAPE, "linear: input is %s but weight is %s",
                         nib_shape_text(&x->shape, text, sizeof text),
                         nib_shape_text(&w->shape, other, sizeof other));
    if (bias != NIB_NONE && (bias->shape.ndim != 1 || bias->shape.dim[0] != w->shape.dim[0]))
        return NIB_RAISE(NIB_E_SHAPE, "linear: bias is %s but weight is %s",
                         nib_shape_text(&bias->shape, text, sizeof text),
                         nib_shape_text(&w->shape, other, sizeof other));
    *out = x->shape;
    out->dim[last] = w->shape.dim[0];
    *dtype = NIB_F32;
    return NIB_OK;
}

const nib_op nib_op_linear = {
    .name = "linear",
    .nout = 1,
    .shape = shape,
    .schema = "aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor",
};

static bool accepts(const nib_call_args *args) {
    const nib_tensor *w = args->in[1];
    const bool wide = w->dtype == NIB_F32 || w->dtype == NIB_F16 || w->dtype == NIB_BF16;
    return w->layout || (wide && nib_tensor_contiguous(w));
}

/* A block of scratch holds NIB_PANEL rows as floats, the same as a panel, and what unpacking needs.
 */
typedef struct product {
    const nib_kernels *k;
    const nib_tensor *weight;
    const float *x, *bias;
    float *y;
    int64_t M, N, K;
    nib_scratch *scratch;
} product;

static void panels(void *user, int64_t begin, int64_t end) {
    const product *p = user;
    int block;
    float *rows = nib_scratch_take(p->scratch, &block);
    float *panel = rows + NIB_PANEL * p->K, *unpacking = panel + NIB_PANEL * p->K;
    for (int64_t i = begin; i < end; i++) {
        const int64_t n = i * NIB_PANEL, count = p->N - n < NIB_PANEL ? p->N - n : NIB_PANEL;
        nib_rows_to_f32(p->weight, n, count, rows, unpacking);
        p->k->pack_f32(panel, rows, p->K, count, p->K);
        p->k->gemm_f32(p->y + n, p->N, p->x, p->K, panel, 0, p->M, count, p->K, false);
        for (int64_t m = 0; p->bias && m < p->M; m++)
            for (int64_t c = 0; c < count; c++) p->y[m * p->N + n + c] += p->bias[n + c];
    }
    nib_scratch_give(p->scratch, block);
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[0], *w = args->in[1], *b = args->in[2];
    nib_ctx *ctx = args->ctx;
    product p = {.k = &ctx->kernels,
                 .weight = w,
                 .x = nib_tensor_data(x),
                 .M = 1,
                 .y = nib_tensor_data_mut(args->out[0]),
                 .N = w->shape.dim[0],
                 .K = w->shape.dim[1]};
    for (int i = 0; i + 1 < x->shape.ndim; i++) p.M *= x->shape.dim[i];
    if (!p.M || !p.N) return NIB_OK;
    const int64_t count = (p.N + NIB_PANEL - 1) / NIB_PANEL;
    size_t size;
    if (nib_mul_size((size_t)p.K, 2 * NIB_PANEL * sizeof(float), &size) ||
        nib_add_size(size, nib_rows_scratch_size(w, NIB_PANEL), &size))
        return NIB_RAISE(NIB_E_MEMORY, "linear: scratch for %lld columns overflows",
                         (long long)p.K);
    nib_scratch scratch;
    NIB_TRY(nib_scratch_open(&ctx->mem, ctx->pool, count, size, &scratch));
    p.scratch = &scratch;
    float *bias = NULL;
    if (b != NIB_NONE) {
        bias = nib_mem_alloc_array(&ctx->mem, (size_t)p.N, sizeof *bias);
        if (bias) nib_rows_to_f32(b, 0, 1, bias, NULL);
        p.bias = bias;
    }
    const bool ready = bias || b == NIB_NONE;
    if (ready) nib_parallel_for(ctx->pool, count, 1, panels, &p);
    nib_mem_free(&ctx->mem, bias, (size_t)p.N * sizeof *bias);
    nib_scratch_close(&scratch);
    return ready ? NIB_OK : nib_last_error()->status;
}

const nib_impl nib_impl_linear_any = {.op = &nib_op_linear,
                                      .device = "cpu",
                                      .layouts = "input:dense f32, weight:any, bias:dense",
                                      .accepts = accepts,
                                      .run = run};

nib_tensor *nib_linear(const nib_tensor *x, const nib_tensor *weight, const nib_tensor *bias) {
    if (!x || !weight || !bias) return NULL;
    return nib_call_one(x->ctx, &nib_op_linear, 3, (const nib_tensor *[]){x, weight, bias}, 0,
                        NULL);
}
