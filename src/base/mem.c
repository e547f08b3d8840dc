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
#include "base/pages.h"
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

/* ---- what is kept ---- */

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

/* Sizes of small blocks: multiples of 64 bytes up to 1 KiB, then powers of two up to 16 KiB. */
enum { FINE = 16, SIZES = FINE + 4, FINE_KEPT = 24, COARSE_KEPT = 4 };

/* Above, results are cut from pages. Up to here the C library has them among others that it holds
 * on to; beyond it asks the system, as long as nothing tells it better. */
enum { LARGE = 128 << 10 };

/* How long what results once had is remembered, in allocations: a forward of a large model makes
 * some thousand, a token of a small one some hundred. */
enum { SPELL = 1 << 16 };

struct nib_mem_shelf {
    atomic_flag taken; /* by a thread; others do without it meanwhile */
    int count[SIZES];
    void *first[SIZES]; /* each block begins with the address of the next */
    nib_pages pages;    /* of large results */
    /* Bytes that large results have now, and had at once in this spell and the one before. */
    atomic_size_t live, most, before;
    atomic_uint spell; /* allocations in it; some may be missed */
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
    nib_pages_init(&s->pages);
    mem->shelf = s;
}

static void clear_shelf(nib_mem_shelf *s) {
    for (int c = 0; c < SIZES; c++)
        for (void *ptr; (ptr = from_shelf(s, c));) free(ptr);
    nib_pages_cut(&s->pages, SIZE_MAX);
}

void nib_mem_keep_end(nib_mem *mem) {
    nib_mem_shelf *s = mem->shelf;
    mem->shelf = NULL;
    if (s) clear_shelf(s);
    free(s);
}

static void raise_to(atomic_size_t *most, size_t now) {
    size_t before = atomic_load_explicit(most, memory_order_relaxed);
    while (now > before && !atomic_compare_exchange_weak(most, &before, now)) {
    }
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Give back what is kept beyond what may be, `used` bytes being in use. Pieces do not always fit
 * where others were, so results have some more than they need, but not at the cost of what lasts.
 */
static void hold_bound(const nib_mem *m, size_t used, bool lasts) {
    nib_mem_shelf *s = m->shelf;
    const size_t kept = atomic_load_explicit(&s->pages.kept, memory_order_relaxed);
    if (!kept) return;
    const size_t live = atomic_load(&s->live), peak = atomic_load(&m->peak);
    const size_t most = larger(live, larger(atomic_load(&s->most), atomic_load(&s->before)));
    const size_t loose = most / 8;
    size_t whole = larger(peak, used) + (lasts ? 0 : loose), over = 0;
    if (m->limit && whole > m->limit) whole = m->limit;
    if (used + kept > whole) over = used + kept - whole;
    if (live + kept > most + loose + over) over = live + kept - most - loose;
    if (over) nib_pages_cut(&s->pages, over);
}

/* What results had long ago is forgotten, also where there are none any more. */
static void pass_time(const nib_mem *m, size_t used) {
    nib_mem_shelf *s = m->shelf;
    if (!atomic_load_explicit(&s->pages.kept, memory_order_relaxed)) return;
    const unsigned spell = atomic_load_explicit(&s->spell, memory_order_relaxed) + 1;
    atomic_store_explicit(&s->spell, spell < SPELL ? spell : 0, memory_order_relaxed);
    if (spell < SPELL) return;
    atomic_store(&s->before, atomic_load(&s->most));
    atomic_store(&s->most, atomic_load(&s->live));
    hold_bound(m, used, false);
}

/* ---- blocks ---- */

typedef enum block_kind { LASTING, BRIEF, RESULT } block_kind;

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

static bool in_pages(const nib_mem *m, size_t size, block_kind kind) {
    return m->shelf && kind == RESULT && size > LARGE;
}

static void *fresh(const nib_mem *m, size_t size, block_kind kind) {
    if (in_pages(m, size, kind)) return nib_pages_new(&m->shelf->pages, size);
    const int c = m->shelf ? size_class(size) : SIZES;
    return plain(c < SIZES ? class_bytes(c) : size, kind == LASTING);
}

/* From what is kept; else from the C library or the system, and then what is kept makes room. */
static void *kept_or_fresh(const nib_mem *m, size_t size, block_kind kind, size_t used) {
    nib_mem_shelf *s = m->shelf;
    if (!s) return fresh(m, size, kind);
    pass_time(m, used);
    size_t whole = 0;
    void *ptr;
    if (in_pages(m, size, kind)) {
        whole = nib_pages_whole(&s->pages, size);
        atomic_fetch_add(&s->live, whole);
        ptr = nib_pages_take(&s->pages, size);
    } else {
        const int c = size_class(size);
        ptr = c < SIZES ? from_shelf(s, c) : NULL;
    }
    if (!ptr) {
        hold_bound(m, used, kind == LASTING && size > LARGE);
        ptr = fresh(m, size, kind);
    }
    if (!ptr) {
        nib_pages_cut(&s->pages, SIZE_MAX);
        ptr = fresh(m, size, kind);
    }
    if (whole && ptr) raise_to(&s->most, atomic_load(&s->live));
    if (whole && !ptr) atomic_fetch_sub(&s->live, whole);
    return ptr;
}

static void *alloc(nib_mem *mem, size_t size, block_kind kind) {
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
    if (size > SIZE_MAX - NIB_MEM_ALIGN)
        ptr = NULL;
    else if (m->alloc)
        ptr = m->alloc(m->user, size ? size : 1, NIB_MEM_ALIGN);
    else
        ptr = kept_or_fresh(m, size, kind, used);
    if (!ptr) {
        atomic_fetch_sub(&m->used, size);
        return NIB_RAISE_NULL(NIB_E_MEMORY, "no memory for %zu bytes", size);
    }
    raise_to(&m->peak, used);
    return ptr;
}

void *nib_mem_alloc(nib_mem *mem, size_t size) { return alloc(mem, size, LASTING); }
void *nib_mem_alloc_brief(nib_mem *mem, size_t size) { return alloc(mem, size, BRIEF); }
void *nib_mem_alloc_result(nib_mem *mem, size_t size) { return alloc(mem, size, RESULT); }

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

void nib_mem_free_result(nib_mem *mem, void *ptr, size_t size) {
    nib_mem *m = seam(mem);
    if (!ptr || !in_pages(m, size, RESULT)) {
        nib_mem_free(mem, ptr, size);
        return;
    }
    nib_mem_shelf *s = m->shelf;
    const size_t used = atomic_fetch_sub(&m->used, size) - size;
    atomic_fetch_sub(&s->live, nib_pages_whole(&s->pages, size));
    nib_pages_give(&s->pages, ptr, size);
    hold_bound(m, used, false);
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

void nib_mem_trim(nib_mem *mem) {
    const nib_mem *m = seam(mem);
    if (m->shelf) clear_shelf(m->shelf);
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
size_t nib_mem_kept(const nib_mem *mem) {
    return mem && mem->shelf ? atomic_load(&mem->shelf->pages.kept) : 0;
}
size_t nib_mem_peak(const nib_mem *mem) { return atomic_load(&(mem ? mem : &process_mem)->peak); }
