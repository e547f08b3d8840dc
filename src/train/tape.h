/* tape.h: what code of the library may ask of a tape, besides gradients of what is watched. */
#ifndef NIB_TRAIN_TAPE_H
#define NIB_TRAIN_TAPE_H
#include <nibble/extend.h>
#include <nibble/train.h>

/* A call on the way back: what it saved and the gradients of its results, before those of its
 * inputs are made; args->wants tells which will be. A failure is nib_backward's. */
typedef nib_status nib_tape_look(void *user, const nib_backward_args *args);

/* Look at every call of `op`, which has a gradient, from now until the innermost tape of the
 * context ends. Results of such calls count as reached by what is watched, so that gradients may be
 * empty; nothing goes back past the first of them then. */
nib_status nib_tape_look_at(nib_ctx *ctx, const nib_op *op, nib_tape_look *look, void *user);
#endif
