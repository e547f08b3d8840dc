/* rng.h: counter-based random numbers, the same on every machine.
 *
 * Element i of a stream is a function of (seed, stream, i) alone: any thread may draw any range,
 * in any order. Philox 4x32 with 10 rounds: Salmon, Moraes, Dror and Shaw, "Parallel Random
 * Numbers: As Easy as 1, 2, 3", 2011. Floats use IEEE operations only, never the C library's
 * log or cos, which differ between versions. */
#ifndef NIB_BASE_RNG_H
#define NIB_BASE_RNG_H
#include <stddef.h>
#include <stdint.h>

typedef struct nib_rng {
    uint64_t seed, stream;
} nib_rng;

/* The cipher itself: 128 bits of counter and 64 of key to 128 random bits. */
void nib_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Elements [first, first + n) of the stream. */
void nib_rng_u32(const nib_rng *rng, uint64_t first, size_t n, uint32_t *out);
void nib_rng_uniform(const nib_rng *rng, uint64_t first, size_t n, float *out); /* [0, 1) */
void nib_rng_normal(const nib_rng *rng, uint64_t first, size_t n, float *out);  /* mean 0, sd 1 */
#endif
