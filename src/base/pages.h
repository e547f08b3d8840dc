/* pages.h: whole pages for large blocks that soon go, kept for the next ones.
 *
 * A page that the system gives costs a fault and a clearing at its first touch, which for results
 * of large layers is a tenth of the time of the whole forward. So pages that were given back are
 * kept as runs of addresses, and blocks are cut from those; runs that touch are one. How many may
 * be kept is for the caller to say: he has any number of them given back to the system.
 *
 * Any thread may call; one that finds another at work asks the system instead of waiting. Sizes
 * are of blocks: they are rounded up to whole pages here, the same way each time. */
#ifndef NIB_BASE_PAGES_H
#define NIB_BASE_PAGES_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum { NIB_MOST_RUNS = 256 }; /* more are not kept */

typedef struct nib_run {
    char *at;
    size_t size;
} nib_run;

typedef struct nib_pages {
    atomic_flag taken; /* by a thread */
    size_t page;
    int count;
    nib_run run[NIB_MOST_RUNS]; /* by address, with a gap between one and the next */
    atomic_size_t kept;         /* bytes of all runs */
} nib_pages;

void nib_pages_init(nib_pages *pages);
size_t nib_pages_whole(const nib_pages *pages, size_t size); /* rounded up; 0: overflow */

/* From what is kept, with the contents that were left there; NULL: no run is as large. */
void *nib_pages_take(nib_pages *pages, size_t size);

/* From the system, zeros; NULL: it has none. */
void *nib_pages_new(const nib_pages *pages, size_t size);

/* Keep a block of either, or give it to the system where that cannot be. */
void nib_pages_give(nib_pages *pages, void *block, size_t size);

/* Give `size` bytes of what is kept back to the system, or all there is, small runs first: large
 * ones serve any block. */
void nib_pages_cut(nib_pages *pages, size_t size);
#endif
