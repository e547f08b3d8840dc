/* mem.h: every allocation of the library passes here.
 *
 * Frees give the size back, so the account is exact without headers on blocks. A seam belongs
 * to a context; NULL stands for the process's own, used where no context is at hand (errors,
 * parsing a config). Blocks are aligned to 64 bytes: a cache line, and the widest vector. */
#ifndef NIB_BASE_MEM_H
#define NIB_BASE_MEM_H
#include <nibble/nibble.h>
#include <stdatomic.h>

enum { NIB_MEM_ALIGN = 64 };

typedef struct nib_mem_shelf nib_mem_shelf;
typedef struct nib_mem {
    void *user;
    void *(*alloc)(void *user, size_t size, size_t align); /* NULL: the C library */
    void (*dealloc)(void *user, void *ptr, size_t size);
    size_t limit; /* bytes; 0: none */
    atomic_size_t used, peak;
    nib_mem_shelf *shelf; /* what was given back, for the next; NULL: nothing is kept */
} nib_mem;

/* Uninitialised bytes; a size of 0 gives a valid pointer to nothing. NULL raises NIB_E_MEMORY. */
void *nib_mem_alloc(nib_mem *mem, size_t size);
void *nib_mem_alloc_zero(nib_mem *mem, size_t size);

/* The same for what soon goes: not in large pages, which are given back and had anew each time,
 * touched for the first time each time: a third of the time of a product with 512 rows. */
void *nib_mem_alloc_brief(nib_mem *mem, size_t size);

/* The same for results of operations, which are asked for again and again in the same sizes: after
 * nib_mem_keep, pages that results above 128 KiB had are kept for the next ones, so that a second
 * forward of a model touches no page for the first time. A result goes back by its own function,
 * before nib_mem_keep_end.
 *
 * What is kept, together with the large results there are, is at most an eighth more than those had
 * at once in the latest 65,536 to 131,072 allocations; together with all that is in use, at most
 * that eighth more than the peak in use, and never more than the limit. Large blocks that last
 * leave no such eighth: they take from what is kept first. All of it goes back to the system where
 * that has no memory left. The account counts it as given back. Pages of mapped files are in no
 * account: who reads many of them for the first time after large results are gone trims first. */
void *nib_mem_alloc_result(nib_mem *mem, size_t size);
void nib_mem_free_result(nib_mem *mem, void *ptr, size_t size); /* ptr NULL is fine */

/* Room for `count` things of `size` bytes each, zeroed; raises when the product overflows. */
void *nib_mem_alloc_array(nib_mem *mem, size_t count, size_t size);

/* Move to a block of `size` bytes; on failure the old block is left alone and NULL returned. */
void *nib_mem_realloc(nib_mem *mem, void *ptr, size_t old_size, size_t size);

void nib_mem_free(nib_mem *mem, void *ptr, size_t size); /* ptr NULL is fine */

/* From now on a few small blocks of each size that are freed are kept for the next of that size: an
 * op on one row asks for a dozen, and the C library's own way to aligned ones takes as long as a
 * small product. So are the pages of large results. The account counts all of it as given back.
 * Does nothing where somebody else gives memory, or a sanitizer watches it. end: gives all back and
 * keeps no more. */
void nib_mem_keep(nib_mem *mem);
void nib_mem_keep_end(nib_mem *mem);

/* Ask the system to keep what lies in [ptr, ptr + size) in pages of 2 MiB, or of the smallest size,
 * from its first touch on. A hint: where it is refused, nothing happens. */
void nib_mem_hint_pages(void *ptr, size_t size, bool huge);

/* Give what was freed, but is kept here or by the C library for blocks to come, back to the system.
 */
void nib_mem_trim(nib_mem *mem);

/* Bytes of large results that are kept now. */
size_t nib_mem_kept(const nib_mem *mem);

char *nib_mem_strdup(nib_mem *mem, const char *text); /* give back with nib_mem_strfree */
void nib_mem_strfree(nib_mem *mem, char *text);

size_t nib_mem_used(const nib_mem *mem);
size_t nib_mem_peak(const nib_mem *mem);

/* For tests, process-wide: let `n` more allocations succeed, then fail one, or with `forever`
 * every one; a negative n switches it off. Returns how many were asked for since the last call. */
long nib_mem_fail_after(long n, bool forever);
#endif
