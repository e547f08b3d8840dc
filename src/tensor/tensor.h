/* tensor.h: a shape over refcounted bytes; with a layout, a quantized matrix over several parts.
 *
 * A tensor is dense (layout NULL, one part, strides in elements) or quantized (layout and desc
 * say what the parts mean; strides are not used). Parts share their storages with views and with
 * whatever maps a file. Counts are atomic, since a loaded model is shared by threads; everything
 * else about a tensor belongs to one thread at a time. */
#ifndef NIB_TENSOR_TENSOR_H
#define NIB_TENSOR_TENSOR_H
#include <nibble/extend.h>
#include <stdatomic.h>

#include "tensor/storage.h"

struct nib_tensor {
    atomic_int refs;
    nib_ctx *ctx;        /* gives memory; outlives the tensor */
    int64_t scope_index; /* slot in the context's open scopes; -1: not owned by one */
    nib_dtype dtype;     /* the element seen from outside */
    nib_shape shape;
    int64_t stride[NIB_MAX_DIMS]; /* dense only, in elements */
    const nib_layout *layout;     /* NULL: dense */
    nib_qdesc desc;               /* quantized only */
    nib_config *config;           /* how the codes were made, owned; NULL: not known */
    nib_act act;                  /* how a linear quantizes its input before it meets this weight */
    int nparts;
    nib_storage *part[NIB_MAX_PARTS];
    unsigned char *data[NIB_MAX_PARTS]; /* where each begins, in the bytes of its storage */
    nib_storage *kept; /* what an op made of it to use again (op/conv_filters.h); NULL: nothing */
};

/* A dense tensor over `storage` from byte `offset` on, which it retains. Caller owns. */
nib_tensor *nib_tensor_over(nib_ctx *ctx, nib_dtype dtype, nib_shape shape, nib_storage *storage,
                            size_t offset);

/* A dense tensor for what an operation gives, contents undefined: like nib_tensor_new, but in
 * memory that is kept for the next result (base/mem.h). Caller owns. */
nib_tensor *nib_tensor_result(nib_ctx *ctx, nib_dtype dtype, nib_shape shape);

/* A shape and a dtype, and no values: nothing may look at them. Caller owns. */
nib_tensor *nib_tensor_hollow(nib_ctx *ctx, nib_dtype dtype, nib_shape shape);

/* A quantized tensor over one storage for each part of its layout, which it retains. */
nib_tensor *nib_tensor_quantized(nib_ctx *ctx, const nib_layout *layout, const nib_qdesc *desc,
                                 nib_storage *const part[], const size_t part_offset[]);

nib_tensor *nib_tensor_retain(const nib_tensor *t); /* counting is bookkeeping, hence const */

/* The first byte of part `i` (0 for a dense tensor). The pointer may be unaligned to the element
 * only for 1-byte elements: loading copies what a file misaligns. */
static inline const void *nib_tensor_part(const nib_tensor *t, int i) { return t->data[i]; }
static inline const void *nib_tensor_data(const nib_tensor *t) { return nib_tensor_part(t, 0); }
/* Where that is in the bytes of its storage. */
static inline size_t nib_tensor_offset(const nib_tensor *t, int i) {
    return (size_t)(t->data[i] - t->part[i]->data);
}
void *nib_tensor_data_mut(nib_tensor *t); /* NULL raised for wrapped const data */

/* Ask for the header of a tensor, and for where its parts begin, ahead of the op that reads them: a
 * weight that was met long ago has left the caches, and one line after the other takes longer to
 * come than an op takes to begin. A hint. */
void nib_tensor_fetch(const nib_tensor *t);

int64_t nib_tensor_count(const nib_tensor *t); /* elements; cannot overflow once made */
size_t nib_tensor_bytes(const nib_tensor *t);  /* of all parts, as stored */
bool nib_tensor_contiguous(const nib_tensor *t);
bool nib_shape_equal(const nib_shape *a, const nib_shape *b);

/* "[4, 96]" for messages; returns `text`. */
const char *nib_shape_text(const nib_shape *shape, char *text, size_t room);

/* Views share storage; caller owns the result. */
nib_tensor *nib_tensor_reshape(const nib_tensor *t, nib_shape shape); /* contiguous only */
nib_tensor *nib_tensor_slice(const nib_tensor *t, int dim, int64_t start, int64_t count);
nib_tensor *nib_tensor_transpose(const nib_tensor *t, int dim_a, int dim_b);

#endif
