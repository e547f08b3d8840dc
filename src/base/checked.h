/* checked.h: size arithmetic that says when it does not fit. True means overflow, and *out is
 * then not to be used. Sizes and counts that come from a file or a caller go through these. */
#ifndef NIB_BASE_CHECKED_H
#define NIB_BASE_CHECKED_H
#include <nibble/nibble.h>

static inline bool nib_add_size(size_t a, size_t b, size_t *out) {
    *out = a + b;
    return *out < a;
}

static inline bool nib_mul_size(size_t a, size_t b, size_t *out) {
    *out = a * b;
    return a != 0 && *out / a != b;
}

/* Round up to a multiple of `step`, a power of two. */
static inline bool nib_align_size(size_t a, size_t step, size_t *out) {
    const bool wraps = nib_add_size(a, step - 1, out);
    *out &= ~(step - 1);
    return wraps;
}

static inline bool nib_add_i64(int64_t a, int64_t b, int64_t *out) {
    *out = (int64_t)((uint64_t)a + (uint64_t)b);
    return (b >= 0) != (*out >= a);
}

/* Both must be >= 0; a negative operand counts as overflow. */
static inline bool nib_mul_count(int64_t a, int64_t b, int64_t *out) {
    *out = (int64_t)((uint64_t)a * (uint64_t)b);
    return a < 0 || b < 0 || (a != 0 && (*out < 0 || *out / a != b));
}

/* Product of the dimensions, 1 for a scalar; overflow or a negative dimension returns true. */
static inline bool nib_shape_count(const nib_shape *shape, int64_t *out) {
    *out = 1;
    bool overflow = false;
    for (int i = 0; i < shape->ndim; i++) overflow |= nib_mul_count(*out, shape->dim[i], out);
    return overflow;
}
#endif
