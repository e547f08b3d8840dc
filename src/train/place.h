/* place.h: where the values of a tensor lie: what tells a tape that two handles are one value, or
 * that one is a view of another. Headers come and go; the id of a storage is never given twice. */
#ifndef NIB_TRAIN_PLACE_H
#define NIB_TRAIN_PLACE_H
#include "tensor/tensor.h"

typedef struct nib_place {
    uint64_t storage,
        scale;         /* scale: of the codes of an activation, which others may share; or 0 */
    size_t begin, end; /* bytes of the storage */
    size_t width;      /* bytes of an element; 0: codes that have no views */
} nib_place;

bool nib_place_of(const nib_tensor *t, nib_place *place); /* false: nothing that has a gradient */
bool nib_place_within(const nib_place *place, const nib_place *whole);
bool nib_place_equal(const nib_place *a, const nib_place *b);

/* Add what a tensor of this place gets to the sum of the value that it is, or a view of.
 *   *sum   of all elements of `whole`, [count] f32 and contiguous; NULL: nothing yet, or the first
 *          piece itself, which is held; the caller's in the end
 *   t      shape and strides of the view; g: f32 of its shape, contiguous */
nib_status nib_place_add(nib_tensor **sum, const nib_place *whole, int64_t count,
                         const nib_place *place, const nib_tensor *t, const nib_tensor *g);
#endif
