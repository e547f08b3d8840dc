/* pool.h: what pooling ops share: windows over the last two dimensions, plane by plane. */
#ifndef NIB_OP_POOL_H
#define NIB_OP_POOL_H
#include "op/conv.h"

typedef struct nib_pool_job {
    const float *x;
    float *y;
    nib_window w;
    int64_t planes, H, W, OH, OW;
    int64_t divisor; /* averages: 0 is what they count */
    bool padding_counts;
} nib_pool_job;

/* Fold each tap of the windows of a plane into the outputs, row by row of the window and column by
 * column, a run of outputs at a time: y[o] from x[o * stride], o < count. */
typedef void nib_pool_fold(float *y, const float *x, int64_t stride, int64_t count);
void nib_pool_plane(const nib_pool_job *j, const float *x, float *y, nib_pool_fold *fold);

/* The window of attributes kernel_size, stride, padding and, with `dilated`, dilation. */
nib_window nib_pool_window(const nib_call_args *args, bool dilated);
nib_status nib_pool_shape(const nib_call_args *args, const nib_window *w, bool ceil,
                          nib_shape *out);
/* The gradient of x, by what one output (oy, ox) of a plane hands on of its own: x is that plane
 * where `reads`, else NULL. Of `pool`, only what nib_pool_begin does not know. */
typedef void nib_pool_share(const nib_pool_job *j, const float *x, float *dx, int64_t oy,
                            int64_t ox, float g);
nib_status nib_pool_backward(nib_backward_args *args, nib_pool_job pool, bool reads,
                             nib_pool_share *share);

nib_pool_job nib_pool_begin(const nib_call_args *args); /* all but what a kind of pooling adds */
#endif
