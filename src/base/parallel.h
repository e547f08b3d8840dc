/* parallel.h: our thread pool.
 *
 * Work is cut into a fixed partition that does not depend on the number of threads; workers and
 * the caller claim its pieces from an atomic counter. The caller takes part and can finish alone,
 * so a worker that is descheduled, asleep or was never started costs speed, not progress.
 *
 *   - A worker that the system will not start means fewer workers, not a failure.
 *   - A call from inside a body runs serially, in place.
 *   - Several threads may call at once: one gets the workers, the others run serially.
 *   - In a child after fork() there are no workers: it runs serially, and may free the pool.
 *   - A worker that other programs keep from its core again and again is sent to rest for a while.
 *   - Workers block all signals; they spin about 30 us for more work, then sleep. A caller spins up to
 *     0.4 ms for the last pieces: a sleeper is often woken on the processor of who wakes it.
 *   - Where there is a processor for each thread, a worker leaves that of the caller. */
#ifndef NIB_BASE_PARALLEL_H
#define NIB_BASE_PARALLEL_H
#include <nibble/nibble.h>

#include "base/mem.h"

typedef struct nib_pool nib_pool;

/* `threads` counts the caller: 1 starts no worker, 0 or less is one for each core. NULL raises
 * NIB_E_MEMORY. Caller owns; no call may be in flight when it is freed. */
nib_pool *nib_pool_new(nib_mem *mem, int threads);
void nib_pool_free(nib_pool *pool);

/* Threads that can work at once, the caller among them; 1 for NULL. */
int nib_pool_threads(const nib_pool *pool);

/* Equals, but for the order and the threads on which the bodies run:
 *     for (int64_t begin = 0; begin < count; begin += grain)
 *         body(user, begin, min(begin + grain, count));
 * and returns when all of them have; what they wrote is visible to the caller. pool NULL runs
 * just that loop. grain >= 1. Bodies must not fail, and must not write what another one touches. */
void nib_parallel_for(nib_pool *pool, int64_t count, int64_t grain,
                      void (*body)(void *user, int64_t begin, int64_t end), void *user);
#endif
