/* op_bmm.c: products of two matrices that both are results: mm, bmm, and matmul made of them. A
 * weight's is op_linear.c. Each result is one chain over K, docs/numerics.md "Products". */
#include "op/bmm.h"

#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "op/broadcast.h"
#include "op/calls.h"
#include "op/codes_product.h"
#include "op/gradient.h"
#include "tensor/context.h"

bool nib_bmm_fits(const nib_call_args *args, nib_bmm_cut *out) {
    const nib_shape *a = &args->in[0]->shape, *b = &args->in[1]->shape;
    const int n = args->op == &nib_op_mm ? 2 : 3;
    if (a->ndim != n || b->ndim != n || a->dim[n - 1] != b->dim[n - 2]) return false;
    if (n == 3 && a->dim[0] != b->dim[0]) return false;
    *out = (nib_bmm_cut){
        .B = n == 3 ? a->dim[0] : 1, .M = a->dim[n - 2], .N = b->dim[n - 1], .K = a->dim[n - 1]};
    out->across = (out->N + NIB_BMM_WIDTH - 1) / NIB_BMM_WIDTH;
    out->down = (out->M + NIB_BMM_ROWS - 1) / NIB_BMM_ROWS;
    return true;
}

nib_bmm_piece nib_bmm_at(const nib_bmm_cut *bmm, int64_t index) {
    const int64_t layout = index / bmm->down;
    nib_bmm_piece p = {.b = layout / bmm->across,
                       .row = index % bmm->down * NIB_BMM_ROWS,
                       .column = layout % bmm->across * NIB_BMM_WIDTH,
                       .layout = layout};
    p.rows = bmm->M - p.row < NIB_BMM_ROWS ? bmm->M - p.row : NIB_BMM_ROWS;
    p.columns = bmm->N - p.column < NIB_BMM_WIDTH ? bmm->N - p.column : NIB_BMM_WIDTH;
    return p;
}

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    nib_bmm_cut bmm;
    char text[96], other[96];
    if (!nib_codes_bmm_takes(args)) {
        NIB_TRY(nib_op_want_dense_f32(args->op, "self", a));
        NIB_TRY(nib_op_want_dense_f32(args->op, "mat2", b));
    }
    if (!nib_bmm_fits(args, &bmm))
        return NIB_RAISE(NIB_E_SHAPE, "%s: self is %s and mat2 %s, want %s", args->op->name,
                         nib_shape_text(&a->shape, text, sizeof text),
                         nib_shape_text(&b->shape, other, sizeof other),
                         args->op == &nib_op_mm ? "[M, K] and [K, N]" : "[B, M, K] and [B, K, N]");
    *out = a->shape;
    out->dim[out->ndim - 1] = bmm.N;
    *dtype = NIB_F32;
    return NIB_OK;
}

static nib_tensor *call(const nib_op *op, const nib_tensor *a, const nib_tensor *b) {
    if (!a || !b) return NULL;
    return nib_call_one(a->ctx, op, 2, (const nib_tensor *[]){a, b}, 0, NULL);
}

/* da = g b^T, db = a^T g: products of the same kind. */
static nib_status backward(nib_backward_args *args) {
    const nib_tensor *a = nib_gradient_floats(args->call->in[0]),
                     *b = nib_gradient_floats(args->call->in[1]), *g = args->out[0];
    const nib_op *op = args->call->op;
    const int n = g->shape.ndim;
    if (args->wants[0])
        NIB_TRY(nib_gradient_made(args->in[0] = call(op, g, nib_transpose(b, n - 2, n - 1))));
    if (args->wants[1])
        NIB_TRY(nib_gradient_made(args->in[1] = call(op, nib_transpose(a, n - 2, n - 1), g)));
    return NIB_OK;
}

const nib_op nib_op_mm = {
    .name = "mm",
    .nout = 1,
    .shape = shape,
    .codes = nib_codes_bmm_takes,
    .backward = backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::mm(Tensor self, Tensor mat2) -> Tensor",
};

const nib_op nib_op_bmm = {
    .name = "bmm",
    .nout = 1,
    .shape = shape,
    .codes = nib_codes_bmm_takes,
    .backward = backward,
    .saves = NIB_SAVES_IN(0) | NIB_SAVES_IN(1),
    .schema = "aten::bmm(Tensor self, Tensor mat2) -> Tensor",
};

typedef struct job {
    const nib_kernels *k;
    nib_bmm_cut bmm;
    const float *a, *b;
    float *y;
    nib_scratch scratch;
} job;

/* Columns of `other` as panels of 16, what fills the last one up as zeros. */
static void lay_out(const job *j, const nib_bmm_piece *p, float *panels) {
    const float *b = j->b + p->b * j->bmm.K * j->bmm.N + p->column;
    for (int64_t c = 0; c < p->columns; c += NIB_PANEL, panels += j->bmm.K * NIB_PANEL) {
        const int64_t n = p->columns - c < NIB_PANEL ? p->columns - c : NIB_PANEL;
        for (int64_t k = 0; k < j->bmm.K; k++) {
            if (n < NIB_PANEL) memset(panels + k * NIB_PANEL, 0, NIB_PANEL * sizeof *panels);
            memcpy(panels + k * NIB_PANEL, b + k * j->bmm.N + c, (size_t)n * sizeof *panels);
        }
    }
}

static void pieces(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int index;
    float *panels = nib_scratch_take(&j->scratch, &index);
    int64_t laid_out = -1;
    for (int64_t at = begin; at < end; at++) {
        const nib_bmm_piece p = nib_bmm_at(&j->bmm, at);
        const int64_t row = p.b * j->bmm.M + p.row;
        if (p.layout != laid_out) lay_out(j, &p, panels);
        laid_out = p.layout;
        j->k->gemm_f32(j->y + row * j->bmm.N + p.column, j->bmm.N, j->a + row * j->bmm.K, j->bmm.K,
                       panels, j->bmm.K * NIB_PANEL, p.rows, p.columns, j->bmm.K, false);
    }
    nib_scratch_give(&j->scratch, index);
}

static nib_status run(const nib_call_args *args) {
    job j = {.k = &args->ctx->kernels,
             .a = nib_tensor_data(args->in[0]),
             .b = nib_tensor_data(args->in[1]),
             .y = nib_tensor_data_mut(args->out[0])};
    if (!nib_bmm_fits(args, &j.bmm) || !nib_tensor_count(args->out[0])) return NIB_OK;
    const int64_t all = j.bmm.B * j.bmm.across * j.bmm.down;
    size_t size, room;
    if (nib_mul_size((size_t)j.bmm.K, NIB_BMM_WIDTH * sizeof(float), &size) ||
        !(room = nib_scratch_room(args->ctx->pool, all, size ? size : 1)))
        return NIB_RAISE(NIB_E_MEMORY, "%s: scratch for %lld columns overflows", args->op->name,
                         (long long)j.bmm.K);
    void *space = nib_ctx_workspace(args->ctx, room);
    if (!space) return nib_last_error()->status;
    nib_scratch_over(args->ctx->pool, all, size ? size : 1, space, &j.scratch);
    nib_parallel_for(args->ctx->pool, all, 1, pieces, &j);
    return NIB_OK;
}

const nib_impl nib_impl_mm_i8 = {.op = &nib_op_mm,
                                 .device = "cpu",
                                 .layouts = "self, mat2:int8 codes",
                                 .accepts = nib_codes_bmm_takes,
                                 .run = nib_codes_bmm};
const nib_impl nib_impl_bmm_i8 = {.op = &nib_op_bmm,
                                  .device = "cpu",
                                  .layouts = "self, mat2:int8 codes",
                                  .accepts = nib_codes_bmm_takes,
                                  .run = nib_codes_bmm};
const nib_impl nib_impl_mm_f32 = {
    .op = &nib_op_mm, .device = "cpu", .layouts = "self, mat2:dense f32", .run = run};
const nib_impl nib_impl_bmm_f32 = {
    .op = &nib_op_bmm, .device = "cpu", .layouts = "self, mat2:dense f32", .run = run};

nib_tensor *nib_mm(const nib_tensor *a, const nib_tensor *b) { return call(&nib_op_mm, a, b); }
nib_tensor *nib_bmm(const nib_tensor *a, const nib_tensor *b) { return call(&nib_op_bmm, a, b); }

/* x repeated to these leading dimensions and as one batch of matrices. */
static nib_tensor *batch_of(const nib_tensor *x, const nib_shape *leading) {
    const nib_shape *s = &x->shape;
    nib_shape whole = *leading, three = {3, {-1, s->dim[s->ndim - 2], s->dim[s->ndim - 1]}};
    three.dim[0] = 1;
    for (int i = 0; i < leading->ndim; i++) three.dim[0] *= leading->dim[i];
    whole.dim[whole.ndim++] = three.dim[1];
    whole.dim[whole.ndim++] = three.dim[2];
    if (!nib_shape_equal(s, &whole)) x = nib_expand(x, &whole);
    return nib_reshape(x, &three);
}

nib_tensor *nib_matmul(const nib_tensor *a, const nib_tensor *b) {
    if (!a || !b) return NULL;
    const int n = a->shape.ndim, m = b->shape.ndim;
    char text[96], other[96];
    if (n < 2 || m < 2 || a->shape.dim[n - 1] != b->shape.dim[m - 2])
        return NIB_RAISE_NULL(NIB_E_SHAPE, "matmul of %s and %s: want [..., M, K] and [..., K, N]",
                              nib_shape_text(&a->shape, text, sizeof text),
                              nib_shape_text(&b->shape, other, sizeof other));
    nib_shape out = a->shape;
    if (m == 2) {
        out.dim[n - 1] = b->shape.dim[1];
        if (n == 2) return nib_mm(a, b);
        nib_shape rows = {2, {1, a->shape.dim[n - 1]}};
        for (int i = 0; i < n - 1; i++) rows.dim[0] *= a->shape.dim[i];
        return nib_reshape(nib_mm(nib_reshape(a, &rows), b), &out);
    }
    nib_shape leading = a->shape, next = b->shape;
    leading.ndim -= 2;
    next.ndim -= 2;
    NIB_TRY_NULL(nib_broadcast_with(&nib_op_bmm, &leading, &next));
    out = leading;
    out.dim[out.ndim++] = a->shape.dim[n - 2];
    out.dim[out.ndim++] = b->shape.dim[m - 1];
    return nib_reshape(nib_bmm(batch_of(a, &leading), batch_of(b, &leading)), &out);
}
