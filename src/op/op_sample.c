/* op_sample.c: one token from a row of logits.
 *
 * The steps and their order are those of transformers' generate(): repetition penalty,
 * temperature, top-k, top-p, min-p, then a draw. What survives a step keeps its share, so a later
 * step works on the probabilities renormalized after the earlier ones. Candidates are taken from
 * a heap (largest logit first, lower id first among equals), so a cut to a few of a large
 * vocabulary does not sort all of it. The draw is random(seed, step): no state, any machine.
 *
 * Keskar et al., "CTRL", 2019 (penalty); Fan et al., 2018 (top-k); Holtzman et al., "The Curious
 * Case of Neural Text Degeneration", 2019 (top-p); Nguyen et al., "Turning Up the Heat", 2024
 * (min-p). */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"
#include "kernel/kernel.h"
#include "op/calls.h"
#include "tensor/context.h"

enum { TEMPERATURE, TOP_K, TOP_P, MIN_P, PENALTY, SEED, STEP, ATTRS };

static nib_status shape(const nib_call_args *args, nib_shape *out, nib_dtype *dtype) {
    const nib_tensor *logits = args->in[0], *seen = args->in[1];
    NIB_TRY(nib_op_want_dense_f32(args->op, "logits", logits));
    if (logits->shape.ndim != 1 || logits->shape.dim[0] < 1 || logits->shape.dim[0] > INT32_MAX)
        return NIB_RAISE(NIB_E_SHAPE, "sample: logits want one row of at least one token");
    if (seen != NIB_NONE && (seen->dtype != NIB_I32 || seen->shape.ndim != 1))
        return NIB_RAISE(NIB_E_DTYPE, "sample: seen wants a list of i32 ids");
    const double temperature = args->attr[TEMPERATURE].d, top_p = args->attr[TOP_P].d;
    const double min_p = args->attr[MIN_P].d, penalty = args->attr[PENALTY].d;
    if (!(temperature >= 0 && temperature < INFINITY))
        return NIB_RAISE(NIB_E_ARGUMENT, "sample: temperature is %g, want 0 or more", temperature);
    if (!(top_p >= 0 && top_p <= 1))
        return NIB_RAISE(NIB_E_ARGUMENT, "sample: top_p is %g, want 0 to 1", top_p);
    if (!(min_p >= 0 && min_p <= 1))
        return NIB_RAISE(NIB_E_ARGUMENT, "sample: min_p is %g, want 0 to 1", min_p);
    if (!(penalty >= 0 && penalty < INFINITY))
        return NIB_RAISE(NIB_E_ARGUMENT, "sample: repetition_penalty is %g, want 0 or more",
                         penalty);
    if (args->attr[TOP_K].i < 0)
        return NIB_RAISE(NIB_E_ARGUMENT, "sample: top_k is %lld, want 0 or more",
                         (long long)args->attr[TOP_K].i);
    *out = (nib_shape){1, {1}};
    *dtype = NIB_I32;
    return NIB_OK;
}

const nib_op nib_op_sample = {
    .name = "sample",
    .nout = 1,
    .shape = shape,
    .schema =
        "nib::sample(Tensor logits, Tensor? seen=None, *, float temperature=0, int top_k=0, "
        "float top_p=0, float min_p=0, float repetition_penalty=0, int seed=0, int step=0) -> "
        "Tensor",
};

typedef struct candidate {
    float logit, weight;
    int32_t id;
} candidate; /* weight: exp(logit - max) */

static bool before(const candidate *a, const candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift(candidate *heap, int64_t n, int64_t at) {
    for (;;) {
        int64_t best = at, child = 2 * at + 1;
        if (child < n && before(&heap[child], &heap[best])) best = child;
        if (child + 1 < n && before(&heap[child + 1], &heap[best])) best = child + 1;
        if (best == at) return;
        const candidate moved = heap[at];
        heap[at] = heap[best];
        heap[best] = moved;
        at = best;
    }
}

/* Take the best of n candidates off the heap and put it behind the other n - 1. */
static const candidate *take(candidate *heap, int64_t n) {
    const candidate best = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    sift(heap, n - 1, 0);
    return &heap[n - 1];
}

/* Candidates stand in c; the best `kept` of them move to c[n - kept ..], best last, and their
 * number is returned: top_k of them and what equals the last, then until top_p is reached. */
static int64_t cut(candidate *c, int64_t n, int64_t top_k, double top_p) {
    double total = 0, sum = 0;
    for (int64_t i = n / 2 - 1; i >= 0; i--) sift(c, n, i);
    int64_t kept = 0;
    if (top_k > 0) {
        while (kept < n && (kept < top_k || c[0].logit == c[n - kept].logit)) {
            take(c, n - kept);
            kept++;
        }
        if (top_p <= 0) return kept;
        for (int64_t i = n - kept; i < n; i++) total += (double)c[i].weight;
        int64_t few = 0;
        while (few < kept && (few == 0 || sum < top_p * total)) sum += (double)c[n - ++few].weight;
        return few;
    }
    for (int64_t i = 0; i < n; i++) total += (double)c[i].weight;
    while (kept < n && (kept == 0 || sum < top_p * total)) {
        sum += (double)take(c, n - kept)->weight;
        kept++;
    }
    return kept;
}

static void penalize(float *logits, int64_t V, const nib_tensor *seen, float penalty,
                     unsigned char *done) {
    const int32_t *ids = nib_tensor_data(seen);
    memset(done, 0, (size_t)V);
    for (int64_t i = 0; i < seen->shape.dim[0]; i++) {
        if (ids[i] < 0 || ids[i] >= V || done[ids[i]]) continue;
        done[ids[i]] = 1;
        float *x = &logits[ids[i]];
        *x = *x < 0 ? *x * penalty : *x / penalty;
    }
}

static nib_status best(const float *logits, int64_t V, int32_t *id) {
    *id = -1;
    for (int64_t i = 0; i < V; i++) {
        if (isnan(logits[i]))
            return NIB_RAISE(NIB_E_FORMAT,
                             "sample: the logit of token %lld is NaN; the weights or an "
                             "activation are not finite",
                             (long long)i);
        if (*id < 0 || logits[i] > logits[*id]) *id = (int32_t)i;
    }
    return NIB_OK;
}

/* logits are a copy that may be changed; exps [V] is scratch. */
static int32_t draw(const nib_call_args *args, float *logits, float *exps, candidate *c, int64_t V,
                    float max) {
    for (int64_t i = 0; i < V; i++) exps[i] = logits[i] == max ? 0.0f : logits[i] - max;
    args->ctx->kernels.exp_f32(exps, exps, (size_t)V);
    for (int64_t i = 0; i < V; i++) c[i] = (candidate){logits[i], exps[i], (int32_t)i};
    const double top_p = args->attr[TOP_P].d < 1 ? args->attr[TOP_P].d : 0;
    const double min_p = args->attr[MIN_P].d;
    int64_t n = V;
    if (args->attr[TOP_K].i > 0 || top_p > 0) {
        n = cut(c, V, args->attr[TOP_K].i, top_p);
        c += V - n;
    }
    double total = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if ((double)c[i].weight < min_p) c[i].weight = 0;
        total += (double)c[i].weight;
    }
    float uniform;
    const nib_rng rng = {.seed = (uint64_t)args->attr[SEED].i};
    nib_rng_uniform(&rng, (uint64_t)args->attr[STEP].i, 1, &uniform);
    int32_t last = c[0].id;
    for (int64_t i = 0; i < n; i++) {
        if (c[i].weight <= 0) continue;
        sum += (double)c[i].weight;
        last = c[i].id;
        if (sum > (double)uniform * total) break;
    }
    return last;
}

static nib_status run(const nib_call_args *args) {
    const nib_tensor *seen = args->in[1];
    const int64_t V = args->in[0]->shape.dim[0];
    const float *given = nib_tensor_data(args->in[0]);
    const float temperature = (float)args->attr[TEMPERATURE].d;
    const float penalty = (float)args->attr[PENALTY].d;
    int32_t *id = nib_tensor_data_mut(args->out[0]);
    const bool penalizes = seen != NIB_NONE && penalty > 0 && penalty != 1.0f;
    if (temperature <= 0 && !penalizes) return best(given, V, id);

    const size_t each = 2 * sizeof(float) + sizeof(candidate) + 1, size = (size_t)V * each;
    unsigned char *scratch = nib_ctx_workspace(args->ctx, size);
    if (!scratch) return nib_last_error()->status;
    candidate *c = (candidate *)(void *)scratch;
    float *logits = (float *)(void *)(c + V), *exps = logits + V;
    memcpy(logits, given, (size_t)V * sizeof *logits);
    if (penalizes) penalize(logits, V, seen, penalty, (unsigned char *)(exps + V));
    if (temperature > 0 && temperature != 1.0f)
        for (int64_t i = 0; i < V; i++) logits[i] /= temperature;
    nib_status status = best(logits, V, id);
    if (status >= NIB_OK && temperature > 0) *id = draw(args, logits, exps, c, V, logits[*id]);
    return status;
}

const nib_impl nib_impl_sample_f32 = {
    .op = &nib_op_sample, .device = "cpu", .layouts = "logits:dense f32, seen:i32", .run = run};

nib_tensor *nib_sample(const nib_tensor *logits, const nib_tensor *seen,
                       const nib_sampling *sampling, uint64_t seed, int64_t step) {
    if (!logits || !seen) return NULL;
    const nib_attr attr[ATTRS] = {
        [TEMPERATURE] = {.d = (double)sampling->temperature},
        [TOP_K] = {.i = sampling->top_k},
        [TOP_P] = {.d = (double)sampling->top_p},
        [MIN_P] = {.d = (double)sampling->min_p},
        [PENALTY] = {.d = (double)sampling->repetition_penalty},
        [SEED] = {.i = (int64_t)seed},
        [STEP] = {.i = step},
    };
    return nib_call_one(logits->ctx, &nib_op_sample, 2, (const nib_tensor *[]){logits, seen}, ATTRS,
                        attr);
}
