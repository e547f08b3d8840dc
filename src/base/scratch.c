#include "base/scratch.h"

#include "base/checked.h"
#include "base/error.h"

nib_status nib_scratch_open(nib_mem *mem, const nib_pool *pool, int64_t pieces, size_t size,
                            nib_scratch *out) {
    out->mem = mem;
    out->blocks = nib_pool_threads(pool);
    if (out->blocks > pieces) out->blocks = pieces > 0 ? (int)pieces : 1;
    if (out->blocks > NIB_MAX_SCRATCH) out->blocks = NIB_MAX_SCRATCH;
    for (int i = 0; i < out->blocks; i++) atomic_flag_clear(&out->taken[i]);
    out->data = NULL;
    if (nib_align_size(size, NIB_MEM_ALIGN, &out->size) ||
        nib_mul_size(out->size, (size_t)out->blocks, &out->whole))
        return NIB_RAISE(NIB_E_MEMORY, "scratch of %zu bytes for %d threads overflows", size,
                         out->blocks);
    out->data = nib_mem_alloc(mem, out->whole);
    return out->data ? NIB_OK : nib_last_error()->status;
}

void nib_scratch_close(nib_scratch *s) {
    nib_mem_free(s->mem, s->data, s->whole);
    s->data = NULL;
}

void *nib_scratch_take(nib_scratch *s, int *index) {
    int i = 0; /* as many blocks as threads, so one is or soon gets free */
    while (atomic_flag_test_and_set_explicit(&s->taken[i], memory_order_acquire))
        i = (i + 1) % s->blocks;
    *index = i;
    return s->data + (size_t)i * s->size;
}

void nib_scratch_give(nib_scratch *s, int index) {
    atomic_flag_clear_explicit(&s->taken[index], memory_order_release);
}
