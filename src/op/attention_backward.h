/* attention_backward.h: gradients of attention over a cache of floats. */
#ifndef NIB_OP_ATTENTION_BACKWARD_H
#define NIB_OP_ATTENTION_BACKWARD_H
#include "op/op.h"

/* With p the softmax of a row's scores and g the gradient of its result, dp = g v^T:
 *   dv = p^T g,  ds = p (dp - sum of p dp) scale,  dq = ds k,  dk = ds^T q
 * Query heads that share a key head add to it in their order, 64 rows at a time. Tokens of the
 * cache that no row sees get zeros. Fails: NIB_E_UNSUPPORTED for a cache of codes. */
nib_status nib_attention_backward(nib_backward_args *args);
#endif
