/* mem.c: accounting and injected failure around whatever allocator a context was given. */
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "base/checked.h"
#include "base/error.h"
#include "base/sys.h"

#define HUGE_PAGE ((size_t)2 << 20)

static nib_mem process_mem;
static atomic_long asked;
static atomic_long fail_at = -1;
static atomic_bool fail_forever;

static nib_mem *seam(nib_mem *mem) { return mem ? mem : &process_mem; }

long nib_mem_fail_after(long n, bool forever) {
    atomic_store(&fail_at, n);
    atomic_store(&fail_forever, forever);
    return atomic_exchange(&asked, 0);
}

static bool injected_failure(void) {
    const long at = atomic_load_explicit(&fail_at, memory_order_relaxed);
    const long now = atomic_fetch_add_explicit(&asked, 1, memory_order_relaxed);
    return at >= 0 && (now == at || (now > at && atomic_load(&fail_forever)));
}

static void *alloc(nib_mem *mem, size_t size, bool lasting) {
    nib_mem *m = seam(mem);
    if (injected_failure()) return NIB_RAISE_NULL(NIB_E_MEMORY, "no memory for %zu bytes", size);
    const size_t used = atomic_fetch_add(&m->used, size) + size;
    if (used < size || (m->limit && used > m->limit)) {
        atomic_fetch_sub(&m->used, size);
        return NIB_RAISE_NULL(NIB_E_MEMORY,
                              "%zu more bytes would pass the memory limit of %zu (%zu in use)",
                              size, m->limit, used - size);
    }
    void *ptr = NULL;
    if (size > SIZE_MAX - NIB_MEM_ALIGN) {
        ptr = NULL;
    } else if (m->alloc) {
        ptr = m->alloc(m->user, size ? size : 1, NIB_MEM_ALIGN);
    } else {
        /* Weights and caches are read from end to end: fewer, larger pages spare address
         * lookups. Advice only: a system without them gives plain pages. */
        const bool huge = lasting && size >= 2 * HUGE_PAGE;
        const size_t align = huge ? HUGE_PAGE : NIB_MEM_ALIGN;
        const size_t whole = (size + align) & ~(align - 1);
        ptr = whole > size ? aligned_alloc(align, whole) : NULL;
        if (ptr && huge) nib_mem_hint_pages(ptr, size, true);
    }
    if (!ptr) {
        atomic_fetch_sub(&m->used, size);
        return NIB_RAISE_NULL(NIB_E_MEMORY, "no memory for %zu bytes", size);
    }
    size_t peak = atomic_load(&m->peak);
    while (used > peak && !atomic_compare_exchange_weak(&m->peak, &peak, used)) {
    }
    return ptr;
}

void *nib_mem_alloc(nib_mem *mem, size_t size) { return alloc(mem, size, true); }
void *nib_mem_alloc_brief(nib_mem *mem, size_t size) { return alloc(mem, size, false); }

void *nib_mem_alloc_zero(nib_mem *mem, size_t size) {
    void *ptr = nib_mem_alloc(mem, size);
    return ptr ? memset(ptr, 0, size) : NULL;
}

void *nib_mem_alloc_array(nib_mem *mem, size_t count, size_t size) {
    size_t whole;
    if (nib_mul_size(count, size, &whole))
        return NIB_RAISE_NULL(NIB_E_MEMORY, "%zu times %zu bytes overflow", count, size);
    return nib_mem_alloc_zero(mem, whole);
}

void *nib_mem_realloc(nib_mem *mem, void *ptr, size_t old_size, size_t size) {
    void *grown = nib_mem_alloc(mem, size);
    if (!grown) return NULL;
    if (ptr) memcpy(grown, ptr, old_size < size ? old_size : size);
    nib_mem_free(mem, ptr, old_size);
    return grown;
}

void nib_mem_free(nib_mem *mem, void *ptr, size_t size) {
    if (!ptr) return;
    nib_mem *m = seam(mem);
    atomic_fetch_sub(&m->used, size);
    if (m->dealloc)
        m->dealloc(m->user, ptr, size ? size : 1);
    else
        free(ptr);
}

void nib_mem_hint_pages(void *ptr, size_t size, bool huge) {
#if defined(MADV_HUGEPAGE) && defined(MADV_NOHUGEPAGE)
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)ptr;
    const uintptr_t first = (begin + page - 1) & ~(page - 1), end = (begin + size) & ~(page - 1);
    if (end > first)
        (void)nib_sys_advise((char *)ptr + (first - begin), end - first,
                             huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#else
    (void)ptr, (void)size, (void)huge;
#endif
}

void nib_mem_trim(void) {
#if defined(__GLIBC__)
    (void)malloc_trim(0);
#endif
}

char *nib_mem_strdup(nib_mem *mem, const char *text) {
    const size_t size = strlen(text) + 1;
    char *copy = nib_mem_alloc(mem, size);
    return copy ? memcpy(copy, text, size) : NULL;
}

void nib_mem_strfree(nib_mem *mem, char *text) {
    if (text) nib_mem_free(mem, text, strlen(text) + 1);
}

size_t nib_mem_used(const nib_mem *mem) { return atomic_load(&(mem ? mem : &process_mem)->used); }
size_t nib_mem_peak(const nib_mem *mem) { return atomic_load(&(mem ? mem : &process_mem)->peak); }
