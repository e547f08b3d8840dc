#include "base/scratch.h"

#include "base/checked.h"
#include "base/error.h"

static int blocks_for(const nib_pool *pool, int64_t pieces) {
    int blocks = nib_pool_threads(pool);
    if (blocks > pieces) blocks = pieces > 0 ? (int)pieces : 1;
    return blocks < NIB_MAX_SCRATCH ? blocks : NIB_MAX_SCRATCH;
}

size_t nib_scratch_room(const nib_pool *pool, int64_t pieces, size_t size) {
    size_t whole;
    if (nib_align_size(size, NIB_MEM_ALIGN, &whole) ||
        nib_mul_size(whole, (size_t)blocks_for(pool, pieces), &whole))
        return 0;
    return whole;
}

void nib_scratch_over(const nib_pool *pool, int64_t pieces, size_t size, void *memory,
                      nib_scratch *out) {
    out->mem = NULL;
    out->data = memory;
    out->blocks = blocks_for(pool, pieces);
    out->size = (size + NIB_MEM_ALIGN - 1) & ~(size_t)(NIB_MEM_ALIGN - 1);
    out->whole = out->size * (size_t)out->blocks;
    for (int i = 0; i < out->blocks; i++) /* threads see it with the job that they are given */
        atomic_flag_clear_explicit(&out->taken[i], memory_order_relaxed);
}

nib_status nib_scratch_open(nib_mem *mem, const nib_pool *pool, int64_t pieces, size_t size,
                            nib_scratch *out) {
    out->data = NULL;
    const size_t whole = nib_scratch_room(pool, pieces, size);
    if (!whole && size)
        return NIB_RAISE(NIB_E_MEMORY, "scratch of %zu bytes for %d threads overflows", size,
                         blocks_for(pool, pieces));
    void *memory = nib_mem_alloc(mem, whole);
    if (!memory) return nib_last_error()->status;
    nib_scratch_over(pool, pieces, size, memory, out);
    out->mem = mem;
    return NIB_OK;
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
