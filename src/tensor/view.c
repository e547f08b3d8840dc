/* view.c: other shapes over the same bytes. */
#include "base/checked.h"
#include "base/error.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

static nib_tensor *view_of(const nib_tensor *t, const char *what) {
    if (!t) return NULL;
    if (t->layout)
        return NIB_RAISE_NULL(NIB_E_UNSUPPORTED,
                              "%s of a quantized tensor (%s); dequantize it first", what,
                              t->layout->name);
    return nib_tensor_over(t->ctx, t->dtype, t->shape, t->part[0], nib_tensor_offset(t, 0));
}

/* Codes of an activation under another shape, from byte `skip` of them on. */
static nib_tensor *view_of_codes(const nib_tensor *t, const nib_shape *shape, size_t skip) {
    nib_qdesc desc = t->desc;
    desc.shape = *shape;
    desc.cols = shape->ndim ? shape->dim[shape->ndim - 1] : 1;
    desc.rows = 1;
    for (int i = 0; i + 1 < shape->ndim; i++) desc.rows *= shape->dim[i];
    desc.block_rows = desc.rows > 0 ? desc.rows : 1;
    desc.block_cols = desc.cols > 0 ? desc.cols : 1;
    size_t offset[NIB_MAX_PARTS];
    for (int i = 0; i < t->nparts; i++) offset[i] = nib_tensor_offset(t, i) + (i == 0 ? skip : 0);
    return nib_tensor_quantized(t->ctx, t->layout, &desc, t->part, offset);
}

nib_tensor *nib_tensor_reshape(const nib_tensor *t, nib_shape shape) {
    if (!t) return NULL;
    char from[96], to[96];
    int64_t count;
    const bool codes = t->layout && t->layout->views;
    if (!codes && (t->layout || !nib_tensor_contiguous(t)))
        return NIB_RAISE_NULL(NIB_E_UNSUPPORTED, "reshape wants contiguous, dense elements");
    if (nib_shape_count(&shape, &count) || count != nib_tensor_count(t))
        return NIB_RAISE_NULL(NIB_E_SHAPE, "reshape of %s to %s changes the number of elements",
                              nib_shape_text(&t->shape, from, sizeof from),
                              nib_shape_text(&shape, to, sizeof to));
    if (codes) return view_of_codes(t, &shape, 0);
    return nib_tensor_over(t->ctx, t->dtype, shape, t->part[0], nib_tensor_offset(t, 0));
}

nib_tensor *nib_tensor_slice(const nib_tensor *t, int dim, int64_t start, int64_t count) {
    if (!t) return NULL;
    if (dim < 0 || dim >= t->shape.ndim || start < 0 || count < 0 || start > t->shape.dim[dim] ||
        count > t->shape.dim[dim] - start)
        return NIB_RAISE_NULL(NIB_E_SHAPE,
                              "slice [%lld, +%lld) of dimension %d is outside the tensor",
                              (long long)start, (long long)count, dim);
    if (t->layout && t->layout->views && dim == 0) {
        nib_shape shape = t->shape;
        size_t skip = (size_t)start;
        for (int i = 1; i < shape.ndim; i++) skip *= (size_t)shape.dim[i];
        shape.dim[0] = count;
        return view_of_codes(t, &shape, skip);
    }
    nib_tensor *v = view_of(t, "slice");
    if (!v) return NULL;
    size_t skip = 0;
    (void)nib_dtype_bytes(t->dtype, start * t->stride[dim], &skip);
    for (int i = 0; i < t->shape.ndim; i++) v->stride[i] = t->stride[i];
    v->shape.dim[dim] = count;
    v->data[0] += skip;
    return v;
}

nib_tensor *nib_tensor_transpose(const nib_tensor *t, int dim_a, int dim_b) {
    if (!t) return NULL;
    if (dim_a < 0 || dim_b < 0 || dim_a >= t->shape.ndim || dim_b >= t->shape.ndim)
        return NIB_RAISE_NULL(NIB_E_SHAPE, "transpose of dimensions %d and %d, tensor has %d",
                              dim_a, dim_b, t->shape.ndim);
    nib_tensor *v = view_of(t, "transpose");
    if (!v) return NULL;
    for (int i = 0; i < t->shape.ndim; i++) v->stride[i] = t->stride[i];
    v->shape.dim[dim_a] = t->shape.dim[dim_b];
    v->shape.dim[dim_b] = t->shape.dim[dim_a];
    v->stride[dim_a] = t->stride[dim_b];
    v->stride[dim_b] = t->stride[dim_a];
    return v;
}
