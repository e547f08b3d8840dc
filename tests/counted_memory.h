/* counted_memory.h: an allocator for contexts that knows how many blocks live, and fails when none
 * is left to be had. */
#ifndef NIB_TESTS_COUNTED_MEMORY_H
#define NIB_TESTS_COUNTED_MEMORY_H
#include <stdlib.h>

/* Blocks that were not given back, and allocations that still succeed. */
static long live, left;
static void *counted(void *user, size_t size, size_t align) {
    (void)user;
    if (left-- <= 0) return NULL;
    void *p = aligned_alloc(align, (size + align - 1) / align * align);
    live += p != NULL;
    return p;
}
static void given_back(void *user, void *p, size_t size) {
    (void)user, (void)size;
    live -= p != NULL;
    free(p);
}
#endif
