/* scorer.h: logits of many positions of a text, a run of rows at a time, for evaluating. */
#ifndef NIB_MODEL_SCORER_H
#define NIB_MODEL_SCORER_H
#include "model/arch.h"

typedef struct nib_scorer {
    nib_ctx *ctx;
    const nib_model *model;
    nib_kvcache cache, heard;
    nib_tensor *logits; /* of the latest step */
} nib_scorer;

/* `kv` as in nib_session_options. */
nib_status nib_scorer_open(nib_ctx *ctx, const nib_model *model, const char *kv, nib_scorer *out);
void nib_scorer_close(nib_scorer *scorer); /* a zeroed struct is fine */

/* Of a model that hears: what comes next goes on from this, [bands, frames]. The scorer stays where
 * it is in memory from then on. */
nib_status nib_scorer_hear(nib_scorer *scorer, nib_tensor *mel);

/* Rows of one step, so that logits stay a few tens of megabytes at any vocabulary. */
int64_t nib_scorer_rows(const nib_scorer *scorer);

/* Run ids[start, start + count), a part of a sequence of `length`, after ids[0, start) ran; what
 * stood at or after `start` before is forgotten, so several continuations can follow one beginning.
 *   -> *logits [count, V] (NIB_WANT_ALL) or [1, V] (NIB_WANT_LAST), borrowed until the next step */
nib_status nib_scorer_step(nib_scorer *scorer, const int32_t *ids, int64_t start, int64_t count,
                           int64_t length, nib_wanted wanted, const float **logits);

/* What one row of logits says of the token that follows. */
typedef struct nib_score {
    double nll;    /* negative log-likelihood of the token, nats */
    double kl;     /* sum of p log(p / q), p of the reference; 0 without one */
    bool best;     /* the token is the most likely one */
    bool same_top; /* both models' most likely token is the same */
} nib_score;

/* Rows [count, V] that a scorer made against targets [count]; reference is NULL or the other
 * model, and `others` its rows.
 * Fails: NIB_E_FORMAT naming the model when a logit is not finite. The serial loop over rows, on
 * all threads. */
nib_status nib_score_rows(const nib_scorer *scorer, const float *logits,
                          const nib_scorer *reference, const float *others, const int32_t *targets,
                          int64_t count, nib_score *out);
#endif
