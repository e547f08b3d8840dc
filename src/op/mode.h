/* mode.h: the stack of modes that the door of ops and the doors of modules consult, innermost
 * first. A mode is off while one of its own functions runs, so that it may call ops itself. */
#ifndef NIB_OP_MODE_H
#define NIB_OP_MODE_H
#include <nibble/extend.h>

bool nib_modes_before_op(nib_call_args *args); /* true: a mode answered in the op's place */
nib_status nib_modes_after_op(nib_call_args *args);
nib_status nib_modes_enter_module(nib_ctx *ctx, nib_module *module, nib_tensor **input);
nib_status nib_modes_leave_module(nib_ctx *ctx, nib_module *module, nib_tensor **output);
#endif
