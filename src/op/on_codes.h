/* on_codes.h: what ops do with quantized activations (layout act8): keep the codes, act on the
 * scale, or none of it, and then the door hands them the floats. */
#ifndef NIB_OP_ON_CODES_H
#define NIB_OP_ON_CODES_H
#include <nibble/extend.h>

bool nib_codes_among(const nib_call_args *args); /* is one of the inputs quantized so? */
bool nib_codes_keeps(const nib_op *op);          /* does the op, with some of them? */

/* What a row calls ops on tensors by, that they take as they are: fills args->out, owned by the
 * open scope. The door runs them at once, a trace writes them down. */
typedef nib_status nib_codes_step(void *user, nib_call_args *args);

/* The op by its row: args->out is made, owned by the open scope. NIB_END: not with these arguments;
 * drop the codes and go on. No row looks at elements of anything but scales and single numbers. */
nib_status nib_codes_run(nib_call_args *args, nib_codes_step *step, void *user);

/* Put the floats in place of every quantized activation among the inputs. */
nib_status nib_codes_drop(nib_call_args *args, nib_codes_step *step, void *user);

nib_status nib_codes_at_once(void *user, nib_call_args *args); /* a step that runs it; user NULL */
#endif
