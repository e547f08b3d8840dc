/* reshape.c: the same elements in another shape: views, no op moves anything. */
#include "base/checked.h"
#include "base/error.h"
#include "op/calls.h"
#include "tensor/context.h"

nib_tensor *nib_reshape(const nib_tensor *x, const nib_shape *shape) {
    if (!x) return NULL;
    if (x->layout && !x->layout->views) x = nib_dequantize(x);
    if (!x) return NULL;
    nib_shape s = *shape;
    int open = -1;
    int64_t known = 1;
    char from[96], to[96];
    for (int i = 0; i < s.ndim && i < NIB_MAX_DIMS; i++) {
        if (s.dim[i] == -1 && open < 0)
            open = i;
        else if (nib_mul_count(known, s.dim[i], &known))
            return NIB_RAISE_NULL(NIB_E_SHAPE, "reshape: %s is no shape",
                                  nib_shape_text(shape, to, sizeof to));
    }
    const int64_t count = nib_tensor_count(x);
    if (open >= 0 && (!known || count % known))
        return NIB_RAISE_NULL(NIB_E_SHAPE, "reshape of %s to %s: no length fits for -1",
                              nib_shape_text(&x->shape, from, sizeof from),
                              nib_shape_text(shape, to, sizeof to));
    if (open >= 0) s.dim[open] = count / known;
    return nib_scope_own(x->ctx, nib_tensor_reshape(x, s));
}

nib_tensor *nib_flatten(const nib_tensor *x, int start, int end) {
    if (!x) return NULL;
    const int n = x->shape.ndim, first = start < 0 ? start + n : start,
              last = end < 0 ? end + n : end;
    if (n == 0 && first >= -1 && first <= 0) return nib_reshape(x, &(nib_shape){1, {1}});
    if (first < 0 || last >= n || first > last)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "flatten of dimensions %d to %d, tensor has %d",
                              start, end, n);
    nib_shape s = {.ndim = n - (last - first)};
    for (int i = 0; i < first; i++) s.dim[i] = x->shape.dim[i];
    s.dim[first] = 1;
    for (int i = first; i <= last; i++) s.dim[first] *= x->shape.dim[i];
    for (int i = last + 1; i < n; i++) s.dim[i - (last - first)] = x->shape.dim[i];
    return nib_reshape(x, &s);
}
