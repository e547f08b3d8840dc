#include "op/broadcast.h"

#include "base/error.h"
#include "base/parallel.h"
#include "tensor/context.h"

nib_status nib_broadcast_shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *self = args->in[0], *other = args->in[1];
    NIB_TRY(nib_op_want_dense_f32(args->op, "self", self));
    NIB_TRY(nib_op_want_dense_f32(args->op, "other", other));
    const nib_shape *a = &self->shape, *b = &other->shape;
    *out = a->ndim >= b->ndim ? *a : *b;
    *dtype = NIB_F32;
    for (int i = 1; i <= a->ndim && i <= b->ndim; i++) {
        const int64_t x = a->dim[a->ndim - i], y = b->dim[b->ndim - i];
        char text[96], second[96];
        if (x != y && x != 1 && y != 1)
            return NIB_RAISE(NIB_E_SHAPE, "%s: self is %s but other is %s", args->op->name,
                             nib_shape_text(a, text, sizeof text),
                             nib_shape_text(b, second, sizeof second));
        out->dim[out->ndim - i] = x == 1 ? y : x;
    }
    return NIB_OK;
}

/* Dimensions of the result from the last on, neighbours that both inputs run through alike as one.
 */
typedef struct job {
    nib_broadcast_run *run;
    const float *a, *b;
    float *y;
    int ndim;
    int64_t length[NIB_MAX_DIMS], step_a[NIB_MAX_DIMS], step_b[NIB_MAX_DIMS];
} job;

static void add_dimension(job *j, int64_t length, int64_t step_a, int64_t step_b) {
    if (length == 1) return;
    const int last = j->ndim - 1;
    if (last >= 0 && step_a == j->step_a[last] * j->length[last] &&
        step_b == j->step_b[last] * j->length[last]) {
        j->length[last] *= length;
        return;
    }
    j->length[j->ndim] = length;
    j->step_a[j->ndim] = step_a;
    j->step_b[j->ndim++] = step_b;
}

/* Elements [begin, end) of the result, a run along the innermost dimension at a time. */
static void elements(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    const int64_t inner = j->length[0];
    while (begin < end) {
        int64_t at = begin / inner, a = 0, b = 0;
        const int64_t first = begin % inner, left = inner - first;
        const int64_t n = left < end - begin ? left : end - begin;
        for (int i = 1; i < j->ndim; i++) {
            const int64_t k = at % j->length[i];
            a += k * j->step_a[i];
            b += k * j->step_b[i];
            at /= j->length[i];
        }
        j->run(j->y + begin, j->a + a + first * j->step_a[0], j->step_a[0],
               j->b + b + first * j->step_b[0], j->step_b[0], n);
        begin += n;
    }
}

void nib_broadcast(const nib_call_args *args, nib_broadcast_run *run) {
    const nib_tensor *self = args->in[0], *other = args->in[1], *out = args->out[0];
    const int64_t count = nib_tensor_count(out);
    job j = {.run = run,
             .a = nib_tensor_data(self),
             .b = nib_tensor_data(other),
             .y = nib_tensor_data_mut(args->out[0])};
    int64_t step_a = 1, step_b = 1;
    for (int i = 1; i <= out->shape.ndim; i++) {
        const int64_t x = i <= self->shape.ndim ? self->shape.dim[self->shape.ndim - i] : 1,
                      y = i <= other->shape.ndim ? other->shape.dim[other->shape.ndim - i] : 1;
        add_dimension(&j, out->shape.dim[out->shape.ndim - i], x == 1 ? 0 : step_a,
                      y == 1 ? 0 : step_b);
        step_a *= x;
        step_b *= y;
    }
    if (!j.ndim) j.length[j.ndim++] = 1; /* one number */
    if (count) nib_parallel_for(args->ctx->pool, count, 8192, elements, &j);
}
