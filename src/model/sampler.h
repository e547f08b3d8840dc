/* sampler.h: one token from logits, again and again: the op traced once, so that drawing allocates
 * nothing. */
#ifndef NIB_MODEL_SAMPLER_H
#define NIB_MODEL_SAMPLER_H
#include <nibble/graph.h>

#include "op/calls.h"

typedef struct nib_sampler {
    nib_ctx *ctx;
    nib_sampling how;
    uint64_t seed;
    nib_tensor *logits, *seen; /* [V]; what was said, or NIB_NONE where it does not count */
    const int32_t *history;    /* what `seen` is a header over, with room for so many */
    int64_t seen_room;
    nib_graph *graph;
} nib_sampler;

/* For rows of V logits; s->logits is where they go. Fails when options make no sense. */
nib_status nib_sampler_init(nib_ctx *ctx, const nib_sampling *how, uint64_t seed, int64_t V,
                            nib_sampler *s);
void nib_sampler_free(nib_sampler *s); /* a zeroed struct is fine */

/* The token after `count` others, draw number `step`. history has `room` >= count entries. */
nib_status nib_sampler_draw(nib_sampler *s, const int32_t *history, int64_t count, int64_t room,
                            int64_t step, int32_t *token);
#endif
