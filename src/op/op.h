/* op.h: one door for every op. Modes see the call, shapes are checked, outputs are made, the
 * first implementation that accepts the arguments runs. */
#ifndef NIB_OP_OP_H
#define NIB_OP_OP_H
#include <nibble/extend.h>

#include "tensor/tensor.h"

/* Run args->op on args->in and args->attr. args->out is filled with tensors of the innermost open
 * scope. Any argument that is NULL means an earlier failure: status of the record, no new raise. */
nib_status nib_call(nib_call_args *args);

/* The same for ops of one output: the result, or NULL. */
nib_tensor *nib_call_one(nib_ctx *ctx, const nib_op *op, int nin, const nib_tensor *const in[],
                         int nattr, const nib_attr attr[]);

/* The steps of the door by themselves, for those who plan calls and run them later. */
nib_status nib_call_outputs(nib_call_args *args);           /* makes args->out */
const nib_impl *nib_call_choose(const nib_call_args *args); /* raises when none accepts */
bool nib_call_takes_codes(const nib_call_args *args);       /* op->codes of them */
int nib_op_variants(
    const nib_op *op); /* the most that one of its implementations has; at least 1 */

const nib_op *nib_op_at(size_t i); /* in list order; NULL: no more */
const nib_op *nib_op_find(const char *name);

/* Checks shared by shape functions; `what` names the argument. */
nib_status nib_op_want_dense(const nib_op *op, const char *what, const nib_tensor *t);
nib_status nib_op_want_dense_f32(const nib_op *op, const char *what, const nib_tensor *t);

#define X(name) extern const nib_op nib_op_##name;
#include "op/op_list.h"
#undef X
#endif
