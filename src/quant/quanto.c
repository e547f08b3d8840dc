#include "quant/quanto.h"

bool nib_quanto_math(nib_dtype dtype) {
    return dtype == NIB_F32 || dtype == NIB_F16 || dtype == NIB_BF16;
}

nib_shape nib_quanto_row_shape(const nib_qdesc *desc) {
    nib_shape shape = desc->shape;
    int64_t rows = 1;
    int dim = 0;
    while (dim < shape.ndim && rows < desc->rows) rows *= shape.dim[dim++];
    if (dim == 0) dim = 1; /* a single row is the first dimension */
    for (; dim < shape.ndim; dim++) shape.dim[dim] = 1;
    return shape;
}

int64_t nib_quanto_group(int64_t cols) {
    if (cols > 128)
        for (int64_t group = 128; group >= 32; group -= 32)
            if (cols % group == 0) return group;
    return cols;
}
