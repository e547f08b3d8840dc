/* step.h: the step from one token to the next, compiled: what a forward calls for one row is
 * traced once, planned, and run with another token and position each time. */
#ifndef NIB_MODEL_STEP_H
#define NIB_MODEL_STEP_H
#include "model/arch.h"

typedef struct nib_step nib_step;

/* Compile the step of a sequence whose cache has room for `position` >= 1 and holds what comes
 * before it. `tune`: a file of measured choices, or NULL. Caller owns. Fails: NIB_E_UNSUPPORTED for
 * a model whose step cannot be compiled. */
nib_step *nib_step_new(nib_ctx *ctx, const nib_model *model, nib_kvcache *cache, int64_t position,
                       const char *tune);
void nib_step_free(nib_step *step); /* NULL is fine */

/* False where the compiled step does not hold: modes that watch modules are pushed, or the
 * frequencies of RoPE grow with the length. Run the forward instead. */
bool nib_step_fits(const nib_ctx *ctx, const nib_model *model, int64_t position);

/* Run it for `token` at `position`; its key and value go into the cache, which has room. *logits
 * [V] is borrowed until the next run. */
nib_status nib_step_run(nib_step *step, nib_kvcache *cache, int32_t token, int64_t position,
                        const float **logits);
#endif
