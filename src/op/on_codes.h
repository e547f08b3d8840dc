/* on_codes.h: what ops do with quantized activations (layout act8): keep the codes, act on the
 * scale, or none of it, and then the door hands them the floats. */
#ifndef NIB_OP_ON_CODES_H
#define NIB_OP_ON_CODES_H
#include <nibble/extend.h>

bool nib_codes_among(const nib_call_args *args); /* is one of the inputs quantized so? */
bool nib_codes_keeps(const nib_op *op);          /* does the op, with some of them? */

/* The op by its row: args->out is made, owned by the open scope. NIB_END: not with these arguments;
 * drop the codes and go on. */
nib_status nib_codes_run(nib_call_args *args);

/* Put the floats in place of every quantized activation among the inputs. */
nib_status nib_codes_drop(nib_call_args *args);
#endif
