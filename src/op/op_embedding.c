/* op_embedding.c: rows of a weight of any layout. */
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "quant/layouts.h"
#include "tensor/context.h"

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *w = args->in[0], *indices = args->in[1];
    char text[96];
    if (w->shape.ndim != 2 || indices->shape.ndim != 1 || indices->dtype != NIB_I32)
        return NIB_RAISE(NIB_E_SHAPE,
                         "embedding: weight is %s, want two dimensions and a list of i32",
                         nib_shape_text(&w->shape, text, sizeof text));
    *out = (nib_shape){2, {indices->shape.dim[0], w->shape.dim[1]}};
    *dtype = NIB_F32;
    return NIB_OK;
}

typedef struct scattering {
    const int32_t *index;
    const float *g;
    float *dw;
    int64_t M, D, V;
} scattering;

static void columns(void *user, int64_t begin, int64_t end) {
    const scattering *s = user;
    for (int64_t v = 0; v < s->V; v++)
        memset(s->dw + v * s->D + begin, 0, (size_t)(end - begin) * sizeof(float));
    for (int64_t m = 0; m < s->M; m++) {
        float *dw = s->dw + s->index[m] * s->D;
        const float *g = s->g + m * s->D;
        for (int64_t d = begin; d < end; d++) dw[d] += g[d];
    }
}

static nib_status backward(nib_backward_args *args) {
    nib_tensor *dw = args->in[0] = nib_gradient_like(args->call->in[0]);
    if (!dw) return nib_last_error()->status;
    scattering s = {.index = nib_tensor_data(args->call->in[1]),
                    .g = nib_tensor_data(args->out[0]),
                    .dw = nib_tensor_data_mut(dw),
                    .M = args->out[0]->shape.dim[0],
                    .D = dw->shape.dim[1],
                    .V = dw->shape.dim[0]};
    nib_parallel_for(dw->ctx->pool, s.D, 64, columns, &s);
    return NIB_OK;
}

const nib_op nib_op_embedding = {
    .name = "embedding",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .saves = NIB_SAVES_IN(1),
    .schema = "aten::embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, "
              "bool scale_grad_by_freq=False, bool sparse=False) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    const nib_tensor *w = args->in[0], *indices = args->in[1];
    const int64_t M = indices->shape.dim[0], V = w->shape.dim[0], D = w->shape.dim[1];
    const int32_t *index = nib_tensor_data(indices);
    float *y = nib_tensor_data_mut(args->out[0]);
    for (int64_t m = 0; m < M; m++)
        if (index[m] < 0 || index[m] >= V)
            return NIB_RAISE(NIB_E_ARGUMENT, "embedding: index %d at %lld, the table has %lld rows",
                             (int)index[m], (long long)m, (long long)V);
    const size_t size = nib_rows_scratch_size(w, 1);
    void *scratch = nib_ctx_workspace(args->ctx, size);
    if (!scratch) return nib_last_error()->status;
    for (int64_t m = 0; m < M; m++) nib_rows_to_f32(w, index[m], 1, y + m * D, scratch);
    return NIB_OK;
}

const nib_impl nib_impl_embedding_any = {
    .op = &nib_op_embedding, .device = "cpu", .layouts = "weight:any, indices:i32", .run = run};

nib_tensor *nib_embedding(const nib_tensor *weight, const nib_tensor *indices) {
    if (!weight || !indices) return NULL;
    return nib_call_one(indices->ctx, &nib_op_embedding, 2, (const nib_tensor *[]){weight, indices},
                        3, (nib_attr[]){{.i = -1}, {.i = 0}, {.i = 0}});
}
