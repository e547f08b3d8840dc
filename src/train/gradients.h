/* gradients.h: what is watched, and the gradient of each. */
#ifndef NIB_TRAIN_GRADIENTS_H
#define NIB_TRAIN_GRADIENTS_H
#include <nibble/train.h>

#include "train/place.h"

typedef struct nib_watched {
    char *name;
    nib_tensor *tensor; /* held */
    nib_place place;
    nib_tensor *gradient; /* f32 in its shape; NULL: none */
} nib_watched;

struct nib_gradients {
    nib_ctx *ctx;
    nib_watched *list;
    size_t count, room;
};

/* The one that such a place is, or is a view of; -1: not watched. */
int64_t nib_gradients_find(const nib_gradients *gradients, const nib_place *place);

/* gradient += more, f32 [count], which it may keep. Room was made by nib_gradients_ready before: it
 * cannot fail. */
nib_status nib_gradients_ready(nib_gradients *gradients, size_t index, nib_tensor **more);
void nib_gradients_add(nib_gradients *gradients, size_t index, nib_tensor *more);
#endif
