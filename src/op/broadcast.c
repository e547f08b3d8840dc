#include "op/broadcast.h"

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/context.h"

nib_status nib_broadcast_with(const nib_op *op, nib_shape *out, const nib_shape *next) {
    const nib_shape a = *out, *b = next;
    if (a.ndim < b->ndim) *out = *b;
    for (int i = 1; i <= a.ndim && i <= b->ndim; i++) {
        const int64_t x = a.dim[a.ndim - i], y = b->dim[b->ndim - i];
        char text[96], second[96];
        if (x != y && x != 1 && y != 1)
            return NIB_RAISE(NIB_E_SHAPE, "%s: self is %s but other is %s", op->name,
                             nib_shape_text(&a, text, sizeof text),
                             nib_shape_text(b, second, sizeof second));
        out->dim[out->ndim - i] = x == 1 ? y : x;
    }
    return NIB_OK;
}

nib_status nib_broadcast_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    NIB_TRY(nib_op_want_dense_f32(args->op, "self", args->in[0]));
    NIB_TRY(nib_op_want_dense_f32(args->op, "other", args->in[1]));
    *out = args->in[0]->shape;
    *dtype = NIB_F32;
    return nib_broadcast_with(args->op, out, &args->in[1]->shape);
}

/* Dimensions of the result from the last on, neighbours that all inputs run through alike as one.
 */
typedef struct job {
    const nib_call_args *args;
    nib_broadcast_run *run;
    void *out;
    int ndim;
    int64_t length[NIB_MAX_DIMS], step[NIB_MAX_DIMS][NIB_BROADCAST_INPUTS];
} job;

static void add_dimension(job *j, int64_t length, const int64_t step[]) {
    if (length == 1) return;
    const int last = j->ndim - 1;
    bool alike = last >= 0;
    for (int k = 0; alike && k < j->args->nin; k++)
        alike = step[k] == j->step[last][k] * j->length[last];
    if (alike) {
        j->length[last] *= length;
        return;
    }
    j->length[j->ndim] = length;
    for (int k = 0; k < j->args->nin; k++) j->step[j->ndim][k] = step[k];
    j->ndim++;
}

/* Elements [begin, end) of the result, a run along the innermost dimension at a time. */
static void elements(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const int64_t inner = j->length[0];
    while (begin < end) {
        const int64_t first = begin % inner, left = inner - first;
        nib_run run = {.out = j->out, .y = begin, .n = left < end - begin ? left : end - begin};
        for (int k = 0; k < j->args->nin; k++) {
            run.step[k] = j->step[0][k];
            run.at[k] = first * run.step[k];
        }
        int64_t at = begin / inner;
        for (int i = 1; i < j->ndim; i++) {
            for (int k = 0; k < j->args->nin; k++) run.at[k] += at % j->length[i] * j->step[i][k];
            at /= j->length[i];
        }
        j->run(j->args, &run);
        begin += run.n;
    }
}

void nib_broadcast(const nib_call_args *args, nib_broadcast_run *run) {
    const nib_shape *out = &args->out[0]->shape;
    const int64_t count = nib_tensor_count(args->out[0]);
    job j = {.args = args, .run = run, .out = nib_tensor_data_mut(args->out[0])};
    int64_t stride[NIB_BROADCAST_INPUTS] = {1, 1, 1};
    for (int i = 1; i <= out->ndim; i++) {
        int64_t step[NIB_BROADCAST_INPUTS];
        for (int k = 0; k < args->nin; k++) {
            const nib_shape *s = &args->in[k]->shape;
            const int64_t length = i <= s->ndim ? s->dim[s->ndim - i] : 1;
            step[k] = length == 1 ? 0 : stride[k];
            stride[k] *= length;
        }
        add_dimension(&j, out->dim[out->ndim - i], step);
    }
    if (!j.ndim) j.length[j.ndim++] = 1; /* one number */
    if (count) nib_parallel_for(args->ctx->pool, count, 8192, elements, &j);
}
