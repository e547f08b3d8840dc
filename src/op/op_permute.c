/* op_permute.c: dimensions in another order, the elements moved along: what follows reads them one
 * after the other. */
#include "base/error.h"
#include "op/calls.h"
#include "op/gradient.h"
#include "op/rearrange.h"

/* Attributes: where each dimension of the result comes from; as many as there are dimensions. */
static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *x = args->in[0];
    NIB_TRY(nib_op_want_dense(args->op, "self", x));
    const int n = x->shape.ndim;
    bool seen[NIB_MAX_DIMS] = {0};
    bool valid = args->nattr == n;
    for (int i = 0; i < n && valid; i++) {
        const int64_t from = args->attr[i].i;
        valid = from >= 0 && from < n && !seen[from];
        if (valid) seen[from] = true;
        if (valid) out->dim[i] = x->shape.dim[from];
    }
    if (!valid) return NIB_RAISE(NIB_E_ARGUMENT, "permute: want each of %d dimensions once", n);
    out->ndim = n;
    *dtype = x->dtype;
    return NIB_OK;
}

static nib_status backward(nib_backward_args *args) {
    int back[NIB_MAX_DIMS] = {0};
    for (int i = 0; i < args->call->nattr; i++) back[args->call->attr[i].i] = i;
    args->in[0] = nib_permute(args->out[0], back);
    return nib_gradient_made(args->in[0]);
}

const nib_op nib_op_permute = {
    .name = "permute",
    .nout = 1,
    .shape = shape,
    .backward = backward,
    .schema = "aten::permute(Tensor self, int[] dims) -> Tensor",
};

static nib_status run(const nib_call_args *args) {
    int64_t stride[NIB_MAX_DIMS], step[NIB_MAX_DIMS];
    nib_rearrange_steps(&args->in[0]->shape, stride);
    for (int i = 0; i < args->nattr; i++) step[i] = stride[args->attr[i].i];
    nib_rearrange(args->ctx, args->in[0], 0, step, args->out[0]);
    return NIB_OK;
}

const nib_impl nib_impl_permute_any = {
    .op = &nib_op_permute, .device = "cpu", .layouts = "self:dense", .run = run};

nib_tensor *nib_permute(const nib_tensor *x, const int dims[]) {
    if (!x) return NULL;
    nib_attr attr[NIB_MAX_DIMS];
    for (int i = 0; i < x->shape.ndim; i++)
        attr[i].i = dims[i] < 0 ? dims[i] + x->shape.ndim : dims[i];
    return nib_call_one(x->ctx, &nib_op_permute, 1, &x, x->shape.ndim, attr);
}

nib_tensor *nib_transpose(const nib_tensor *x, int a, int b) {
    if (!x) return NULL;
    const int n = x->shape.ndim;
    int dims[NIB_MAX_DIMS];
    if (a < -n || a >= n || b < -n || b >= n)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "transpose of dimensions %d and %d, tensor has %d", a,
                              b, n);
    for (int i = 0; i < n; i++) dims[i] = i;
    dims[a < 0 ? a + n : a] = b < 0 ? b + n : b;
    dims[b < 0 ? b + n : b] = a < 0 ? a + n : a;
    return nib_permute(x, dims);
}
