/* step.h: the step from one token to the next, compiled: what a forward calls for one row of each
 * of a few sequences is traced once, planned, and run with other tokens and positions each time. */
#ifndef NIB_MODEL_STEP_H
#define NIB_MODEL_STEP_H
#include "model/arch.h"

typedef struct nib_step nib_step;

enum { NIB_STEP_ROWS = 8 }; /* at most, one of each sequence */

typedef struct nib_step_row {
    nib_kvcache *cache; /* has room for `position` and holds what comes before it */
    int64_t position;   /* >= 1 */
    int32_t token;
} nib_step_row;

/* Compile the step of n sequences, 1 to NIB_STEP_ROWS, as they are now. `tune`: a file of measured
 * choices, or NULL. Caller owns. Fails: NIB_E_UNSUPPORTED for a model whose step cannot be
 * compiled. */
nib_step *nib_step_new(nib_ctx *ctx, const nib_model *model, const nib_step_row *rows, int n,
                       const char *tune);
void nib_step_free(nib_step *step); /* NULL is fine */

/* False where the compiled step does not hold: modes that watch modules are pushed, or the
 * frequencies of RoPE grow with the length. Run the forward instead. */
bool nib_step_fits(const nib_ctx *ctx, const nib_model *model, int64_t position);

/* Run it for these tokens, as many as it was compiled for, of these sequences or others; their keys
 * and values go into the caches. *logits [n, V] is borrowed until the next run. */
nib_status nib_step_run(nib_step *step, const nib_step_row *rows, const float **logits);
#endif
