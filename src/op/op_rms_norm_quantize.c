/* op_rms_norm_quantize.c: a norm whose result only meets products that want it as 8-bit codes: the
 * codes are made while a normed row is at hand, and no other node ever sees its floats. */
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "quant/layouts.h"
#include "tensor/context.h"

enum { EPSILON, BITS, LEAST, SYMMETRIC, GROUP, DIGITS, ATTRS };

static nib_rows_kind kind_of(const nib_call_args *args) {
    return (nib_rows_kind){.K = args->in[1]->shape.dim[0],
                           .group = args->attr[GROUP].i,
                           .bits = (int)args->attr[BITS].i,
                           .symmetric = args->attr[SYMMETRIC].i != 0,
                           .eps = (float)args->attr[LEAST].d,
                           .digits = args->attr[DIGITS].i != 0};
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    NIB_TRY(nib_rms_norm_shape(args, out, dtype));
    const nib_rows_kind kind = kind_of(args);
    out->dim[out->ndim - 1] = nib_rows_width(&kind);
    *dtype = NIB_I8;
    return NIB_OK;
}

const nib_op nib_op_rms_norm_quantize = {
    .name = "rms_norm_quantize",
    .nout = 1,
    .shape = shape,
    .schema = "nib::rms_norm_quantize(Tensor input, Tensor weight, float eps, int bits, "
              "float least_scale, bool symmetric, int group, bool digits) -> Tensor",
};

typedef struct norm {
    const nib_kernels *k;
    const float *x, *weight;
    float epsilon;
    nib_rows_kind kind;
    nib_rows_made to;
    nib_scratch scratch;
} norm;

static void rows(void *user, int64_t begin, int64_t end) {
    norm *n = user;
    const int64_t K = n->kind.K, G = n->kind.group;
    int block;
    float *normed = nib_scratch_take(&n->scratch, &block);
    for (int64_t i = begin; i < end; i++) {
        const int64_t each = nib_rows_count(&n->kind, 1), m = i * each;
        int8_t *q = n->to.q + m * n->to.ld;
        if (n->kind.digits) {
            n->k->rms_norm_f32(normed, n->x + i * K, n->weight, (size_t)K, n->epsilon);
            n->k->digits_row_i8(q, n->to.ld, &n->to.scale[m], normed, K);
        } else {
            n->k->rms_norm_quantize_i8(q, &n->to.scale[m], n->to.zero ? &n->to.zero[m] : NULL,
                                       normed, n->x + i * K, n->weight, K, n->epsilon, n->kind.bits,
                                       n->kind.eps);
        }
        for (int64_t d = 0; d < each; d++, q += n->to.ld) {
            memset(q + K, 0, (size_t)(n->to.ld - K));
            if (n->to.sums) n->k->sums_i8(n->to.sums + (m + d) * (K / G), q, K / G, G);
        }
    }
    nib_scratch_give(&n->scratch, block);
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[0], *w = args->in[1];
    norm n = {.k = &args->ctx->kernels,
              .x = nib_tensor_data(x),
              .epsilon = (float)args->attr[EPSILON].d,
              .kind = kind_of(args)};
    const int64_t M = n.kind.K ? nib_tensor_count(x) / n.kind.K : 0;
    size_t row, blocks, whole;
    if (nib_mul_size((size_t)n.kind.K, sizeof(float), &row) ||
        nib_align_size(row, NIB_MEM_ALIGN, &row))
        return NIB_RAISE(NIB_E_MEMORY, "rms_norm_quantize: %lld columns overflow",
                         (long long)n.kind.K);
    if (!M) return NIB_OK;
    blocks = nib_scratch_room(args->ctx->pool, M, row);
    if (!blocks || nib_add_size(row, blocks, &whole))
        return NIB_RAISE(NIB_E_MEMORY, "rms_norm_quantize: %lld columns overflow",
                         (long long)n.kind.K);
    char *memory = nib_ctx_workspace(args->ctx, whole);
    if (!memory) return nib_last_error()->status;
    n.weight = w->dtype == NIB_F32 ? nib_tensor_data(w) : (float *)(void *)memory;
    if (w->dtype != NIB_F32) nib_rows_to_f32(w, 0, 1, (float *)(void *)memory, NULL);
    n.to = nib_rows_within(&n.kind, nib_rows_count(&n.kind, M), nib_tensor_data_mut(args->out[0]));
    nib_scratch_over(args->ctx->pool, M, row, memory + row, &n.scratch);
    nib_parallel_for(M > 1 ? args->ctx->pool : NULL, M, 4, rows, &n);
    return NIB_OK;
}

const nib_impl nib_impl_rms_norm_quantize_i8 = {.op = &nib_op_rms_norm_quantize,
                                                .device = "cpu",
                                                .layouts = "input:dense f32, weight:dense",
                                                .accepts = nib_rms_norm_accepts,
                                                .run = run};

int nib_rms_norm_quantize_attrs(double eps, const nib_rows_kind *kind, nib_attr attr[]) {
    attr[EPSILON].d = eps;
    attr[BITS].i = kind->bits;
    attr[LEAST].d = kind->eps;
    attr[SYMMETRIC].i = kind->symmetric;
    attr[GROUP].i = kind->group;
    attr[DIGITS].i = kind->digits;
    return ATTRS;
}
