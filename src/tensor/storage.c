#include "tensor/storage.h"

#include "base/file.h"

static uint64_t next_id(void) {
    static atomic_uint_fast64_t given;
    return atomic_fetch_add_explicit(&given, 1, memory_order_relaxed) + 1;
}

static nib_storage *make(nib_mem *mem, size_t size, void *(*alloc)(nib_mem *mem, size_t size)) {
    nib_storage *s = nib_mem_alloc_zero(mem, sizeof *s);
    if (!s) return NULL;
    s->data = alloc(mem, size);
    if (!s->data) {
        nib_mem_free(mem, s, sizeof *s);
        return NULL;
    }
    s->result = alloc == nib_mem_alloc_result;
    s->mem = mem;
    s->size = size;
    s->id = next_id();
    atomic_init(&s->refs, 1);
    return s;
}

nib_storage *nib_storage_new(nib_mem *mem, size_t size) { return make(mem, size, nib_mem_alloc); }
nib_storage *nib_storage_brief(nib_mem *mem, size_t size) {
    return make(mem, size, nib_mem_alloc_brief);
}
nib_storage *nib_storage_result(nib_mem *mem, size_t size) {
    return make(mem, size, nib_mem_alloc_result);
}

nib_storage *nib_storage_lend(nib_mem *mem, const void *data, size_t size,
                              void (*release)(void *user), void *user) {
    nib_storage *s = nib_mem_alloc_zero(mem, sizeof *s);
    if (!s) return NULL;
    s->mem = mem;
    s->data = (unsigned char *)(uintptr_t)data; /* `constant` keeps the promise of const */
    s->size = size;
    s->lent = s->constant = true;
    s->release = release;
    s->user = user;
    s->id = next_id();
    atomic_init(&s->refs, 1);
    return s;
}

nib_storage *nib_storage_retain(nib_storage *s) {
    if (s) atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void nib_storage_release(nib_storage *s) {
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1) return;
    if (!s->lent)
        (s->result ? nib_mem_free_result : nib_mem_free)(s->mem, s->data, s->size);
    else if (s->release)
        s->release(s->user);
    else if (s->mapped)
        nib_map_advise(&(nib_map){s->data, s->size}, 0, s->size, NIB_MAP_DONE);
    nib_mem_free(s->mem, s, sizeof *s);
}
