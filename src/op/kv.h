/* kv.h: a cache of keys or values as the ops see it: [Hk, T, d], dense f32 or in a kv_* layout. */
#ifndef NIB_OP_KV_H
#define NIB_OP_KV_H
#include "op/op.h"
#include "quant/layout_kv.h"

/* Raises NIB_E_UNSUPPORTED, NIB_E_DTYPE or NIB_E_SHAPE unless `t` is such a cache; quantized ones
 * have whole blocks of 64 tokens. `what` names the argument. */
nib_status nib_kv_want(const nib_op *op, const char *what, const nib_tensor *t);

/* Bytes of 64 tokens of one head in part i; those of a head follow each other, then the next head.
 * A dense cache may end within a block. */
size_t nib_kv_part_step(const nib_tensor *t, int i);
#endif
