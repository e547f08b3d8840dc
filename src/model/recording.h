/* recording.h: a forward of a decoder kept op by op, and the gradients of what it computed: what
 * sensing (sense.c) needs. Gradients are f32, kept by the first byte of the tensor that they belong
 * to, so that views of it share them. Sums have one order, whatever the number of threads. */
#ifndef NIB_MODEL_RECORDING_H
#define NIB_MODEL_RECORDING_H
#include <nibble/extend.h>

#include "base/mem.h"

typedef struct nib_recorded {
    const nib_op *op;
    int nin, nout;
    nib_tensor *in[NIB_MAX_INPUTS], *out[NIB_MAX_OUTPUTS]; /* held; NULL: absent */
    nib_attr attr[NIB_MAX_ATTRS];
} nib_recorded;

typedef struct nib_gradient {
    const void *of; /* first byte of the tensor */
    float *data;
    int64_t count;
} nib_gradient;

/* A weight of linears seen so far, turned about for gradients of inputs. */
typedef struct nib_turned {
    const nib_tensor *weight;
    nib_tensor *turned;
} nib_turned;

typedef struct nib_recording {
    /* Called for each linear on the way back with x [M, K] and the gradient of its result [M, N];
     * set after opening. */
    nib_status (*linear)(void *user, const nib_tensor *weight, const float *x, const float *g,
                         int64_t M);
    void *user;
    nib_ctx *ctx;
    nib_mem *mem;
    nib_recorded *ops;
    size_t count, room;
    nib_gradient *gradients;
    size_t ngradients, gradients_room;
    nib_turned *turned;
    size_t nturned, turned_room;
} nib_recording;

void nib_recording_open(nib_ctx *ctx, nib_recording *out);
void nib_recording_close(nib_recording *recording); /* a zeroed struct is fine */

/* Everything that runs on the context from now on is recorded, until _end. */
nib_status nib_recording_begin(nib_recording *recording);
void nib_recording_end(nib_recording *recording);

/* `gradient` [M, V] of the result of the latest op goes back through all that was recorded, which
 * is let go. Fails: NIB_E_UNSUPPORTED naming an op that has no gradient here. */
nib_status nib_recording_backward(nib_recording *recording, const float *gradient);
#endif
