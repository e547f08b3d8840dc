/* op_norm_codes.c: layer_norm or rms_norm whose result is wanted as codes of one scale: each row is
 * quantized while it is at hand. */
#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "op/op_parameter.h"
#include "op/scale_input.h"

enum { INPUT, WEIGHT, BIAS, SCALE, INPUTS };
enum { DIMS, EPSILON, CODE, RMS, ATTRS };

/* What the norm itself checks and gives. */
static nib_call_args norm_args(const nib_call_args *args) {
    nib_call_args norm = *args;
    const bool rms = args->attr[RMS].i != 0;
    norm.op = rms ? &nib_op_rms_norm : &nib_op_layer_norm;
    norm.nin = rms ? 2 : 3;
    return norm;
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_call_args norm = norm_args(args);
    NIB_TRY(norm.op->shape(&norm, out, dtype));
    return nib_scale_check(args->op, args->in[SCALE], (nib_dtype)args->attr[CODE].i);
}

static nib_tensor *output(const nib_call_args *args, int index, nib_dtype dtype, nib_shape shape) {
    (void)index;
    return nib_act8_new(args->ctx, (nib_dtype)args->attr[CODE].i, dtype, shape,
                        nib_scale_value(args->in[SCALE], dtype));
}

const nib_op nib_op_norm_codes = {
    .name = "norm_codes",
    .nout = 1,
    .shape = shape,
    .output = output,
    .schema = "nib::norm_codes(Tensor input, Tensor? weight, Tensor? bias, Tensor scale, int dims, "
              "float eps, ScalarType dtype, bool rms) -> Tensor",
};

typedef struct norm {
    const nib_kernels *k;
    const float *x, *weight, *bias;
    uint8_t *q;
    int64_t D;
    float eps, scale;
    nib_dtype code;
    bool rms;
    nib_scratch scratch;
} norm;

static void rows(void *user, int64_t begin, int64_t end) {
    norm *n = user;
    int block;
    float *normed = nib_scratch_take(&n->scratch, &block);
    for (int64_t m = begin; m < end; m++) {
        const float *x = n->x + m * n->D;
        if (n->rms)
            n->k->rms_norm_f32(normed, x, n->weight, (size_t)n->D, n->eps);
        else
            n->k->layer_norm_f32(normed, x, n->weight, n->bias, (size_t)n->D, n->eps);
        nib_act8_quantize(n->k, n->code, NIB_F32, n->scale, normed, n->D, n->q + m * n->D);
    }
    nib_scratch_give(&n->scratch, block);
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *x = args->in[INPUT], *w = args->in[WEIGHT], *b = args->in[BIAS];
    nib_tensor *out = args->out[0];
    norm n = {.k = &args->ctx->kernels,
              .x = nib_tensor_data(x),
              .q = nib_act8_data_mut(out),
              .D = 1,
              .eps = (float)args->attr[EPSILON].d,
              .scale = nib_act8_scale(out),
              .code = out->desc.code,
              .rms = args->attr[RMS].i != 0};
    const int dims = n.rms ? 1 : (int)args->attr[DIMS].i;
    for (int i = 0; i < dims; i++) n.D *= x->shape.dim[x->shape.ndim - 1 - i];
    const int64_t M = n.D ? nib_tensor_count(x) / n.D : 0;
    if (!M) return NIB_OK;
    const int64_t widened = nib_parameter_room(w, n.D) + nib_parameter_room(b, n.D);
    size_t row, parameters, blocks, whole;
    if (nib_mul_size((size_t)n.D, sizeof(float), &row) ||
        nib_align_size(row, NIB_MEM_ALIGN, &row) ||
        nib_mul_size((size_t)widened, sizeof(float), &parameters) ||
        nib_align_size(parameters, NIB_MEM_ALIGN, &parameters) ||
        !(blocks = nib_scratch_room(args->ctx->pool, M, row)) ||
        nib_add_size(parameters, blocks, &whole))
        return NIB_RAISE(NIB_E_MEMORY, "norm_codes: rows of %lld overflow", (long long)n.D);
    char *memory = nib_ctx_workspace(args->ctx, whole);
    if (!memory) return nib_last_error()->status;
    float *room = (float *)(void *)memory;
    n.weight = nib_parameter_floats(w, &room, n.D);
    n.bias = nib_parameter_floats(b, &room, n.D);
    nib_scratch_over(args->ctx->pool, M, row, memory + parameters, &n.scratch);
    nib_parallel_for(M > 1 ? args->ctx->pool : NULL, M, 16, rows, &n);
    return NIB_OK;
}

static bool accepts(const nib_call_args *args) {
    return nib_parameter_dense(args->in[WEIGHT]) && nib_parameter_dense(args->in[BIAS]);
}

const nib_impl nib_impl_norm_codes_f32 = {.op = &nib_op_norm_codes,
                                          .device = "cpu",
                                          .layouts = "input:dense f32, weight, bias, scale:dense",
                                          .accepts = accepts,
                                          .run = run};

int nib_norm_codes_attrs(int64_t dims, double eps, nib_dtype code, bool rms, nib_attr attr[]) {
    attr[DIMS].i = dims;
    attr[EPSILON].d = eps;
    attr[CODE].i = code;
    attr[RMS].i = rms;
    return ATTRS;
}

nib_tensor *nib_layer_norm_codes(const nib_tensor *x, const nib_tensor *weight,
                                 const nib_tensor *bias, int dims, double eps,
                                 const nib_tensor *scale, nib_dtype code) {
    if (!x || !weight || !bias || !scale) return NULL;
    nib_attr attr[ATTRS];
    nib_norm_codes_attrs(dims, eps, code, false, attr);
    return nib_call_one(x->ctx, &nib_op_norm_codes, INPUTS,
                        (const nib_tensor *[]){x, weight, bias, scale}, ATTRS, attr);
}
