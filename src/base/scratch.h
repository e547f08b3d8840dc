/* scratch.h: memory that the threads of a parallel loop borrow, asked for before it begins, since
 * what runs inside cannot fail. One block for each thread that can work at once. */
#ifndef NIB_BASE_SCRATCH_H
#define NIB_BASE_SCRATCH_H
#include <stdatomic.h>

#include "base/mem.h"
#include "base/parallel.h"

enum { NIB_MAX_SCRATCH = 256 };
typedef struct nib_scratch {
    nib_mem *mem;
    unsigned char *data;
    size_t size, whole; /* of one block, and of all */
    int blocks;
    atomic_flag taken[NIB_MAX_SCRATCH];
} nib_scratch;

/* Blocks of `size` bytes for a loop over at most `pieces` pieces on `pool`. */
nib_status nib_scratch_open(nib_mem *mem, const nib_pool *pool, int64_t pieces, size_t size,
                            nib_scratch *out);
void nib_scratch_close(nib_scratch *scratch);

/* The same over memory that the caller has, of nib_scratch_room bytes; nothing to close. */
size_t nib_scratch_room(const nib_pool *pool, int64_t pieces, size_t size); /* 0: overflow */
void nib_scratch_over(const nib_pool *pool, int64_t pieces, size_t size, void *memory,
                      nib_scratch *out);

/* A block nobody else has, until it is given back by its index. */
void *nib_scratch_take(nib_scratch *scratch, int *index);
void nib_scratch_give(nib_scratch *scratch, int index);
#endif
