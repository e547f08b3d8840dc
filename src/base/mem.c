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

/* ---- small blocks that are kept ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WATCHED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define WATCHED 1
#endif
#endif
#ifndef WATCHED
#define WATCHED 0
#endif

/* Sizes: multiples of 64 bytes up to 1 KiB, then powers of two up to 16 KiB. */
enum { FINE = 16, SIZES = FINE + 4, FINE_KEPT = 24, COARSE_KEPT = 4 };

struct nib_mem_shelf {
    atomic_flag taken; /* by a thread; others do without it meanwhile */
    int count[SIZES];
    void *first[SIZES]; /* each block begins with the address of the next */
};

/* The least size that holds `size` bytes; SIZES: none. */
static int size_class(size_t size) {
    if (size <= FINE * NIB_MEM_ALIGN) return size ? (int)((size - 1) / NIB_MEM_ALIGN) : 0;
    int c = FINE;
    for (size_t most = (size_t)2 * FINE * NIB_MEM_ALIGN; c < SIZES && size > most; most *= 2) c++;
    return c;
}

static size_t class_bytes(int c) {
    return c < FINE ? (size_t)(c + 1) * NIB_MEM_ALIGN
                    : (size_t)FINE * NIB_MEM_ALIGN << (c - FINE + 1);
}

static void *from_shelf(nib_mem_shelf *s, int c) {
    if (atomic_flag_test_and_set_explicit(&s->taken, memory_order_acquire)) return NULL;
    void *ptr = s->first[c];
    if (ptr) {
        memcpy(&s->first[c], ptr, sizeof s->first[c]);
        s->count[c]--;
    }
    atomic_flag_clear_explicit(&s->taken, memory_order_release);
    return ptr;
}

static bool to_shelf(nib_mem_shelf *s, int c, void *ptr) {
    if (atomic_flag_test_and_set_explicit(&s->taken, memory_order_acquire)) return false;
    const bool room = s->count[c] < (c < FINE ? FINE_KEPT : COARSE_KEPT);
    if (room) {
        memcpy(ptr, &s->first[c], sizeof s->first[c]);
        s->first[c] = ptr;
        s->count[c]++;
    }
    atomic_flag_clear_explicit(&s->taken, memory_order_release);
    return room;
}

void nib_mem_keep(nib_mem *mem) {
    if (WATCHED || mem->alloc || mem->shelf) return;
    nib_mem_shelf *s = calloc(1, sizeof *s); /* without one all goes on, slower */
    if (!s) return;
    atomic_flag_clear(&s->taken);
    mem->shelf = s;
}

void nib_mem_keep_end(nib_mem *mem) {
    nib_mem_shelf *s = mem->shelf;
    mem->shelf = NULL;
    for (int c = 0; s && c < SIZES; c++)
        for (void *ptr; (ptr = from_shelf(s, c));) free(ptr);
    free(s);
}

/* ---- blocks ---- */

static void *plain(size_t size, bool lasting) {
    /* Weights and caches are read from end to end: fewer, larger pages spare address lookups.
     * Advice only: a system without them gives plain pages. */
    const bool huge = lasting && size >= 2 * HUGE_PAGE;
    const size_t align = huge ? HUGE_PAGE : NIB_MEM_ALIGN;
    const size_t whole = (size + align) & ~(align - 1);
    void *ptr = whole > size ? aligned_alloc(align, whole) : NULL;
    if (ptr && huge) nib_mem_hint_pages(ptr, size, true);
    return ptr;
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
        const int c = m->shelf ? size_class(size) : SIZES;
        if (c < SIZES) ptr = from_shelf(m->shelf, c);
        if (!ptr) ptr = plain(c < SIZES ? class_bytes(c) : size, lasting);
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
    if (m->dealloc) {
        m->dealloc(m->user, ptr, size ? size : 1);
        return;
    }
    const int c = m->shelf ? size_class(size) : SIZES;
    if (c == SIZES || !to_shelf(m->shelf, c, ptr)) free(ptr);
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
