/* train.h: train modules of nn.h: record what a forward calls, run it backwards, move the parameters.
 *
 *   nib_gradients *g = nib_gradients_new(ctx);
 *   nib_gradients_watch_module(g, net);
 *   nib_optimizer *o = nib_optimizer_new(g, NIB_SGD(.rate = 0.1, .momentum = 0.9));
 *   nib_tape_begin(ctx, g);
 *   for (each batch) {
 *       const size_t mark = nib_scope_begin(ctx);
 *       nib_gradients_zero(g);
 *       if (nib_backward(nib_cross_entropy(nib_module_forward(net, x), digits), NIB_NONE) == NIB_OK)
 *           nib_optimizer_step(o);
 *       nib_scope_end(ctx, mark);
 *   }
 *   nib_tape_end(ctx);
 *
 * Modules quantized by NIB_QUANTO and not frozen train too: their weights and activations are rounded
 * on the way forth, gradients go straight through to the floats, as optimum-quanto's do
 * (docs/training.md). Same bits for every number of threads. */
#ifndef NIBBLE_TRAIN_H
#define NIBBLE_TRAIN_H
#include <nibble/nn.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* ---- gradients of what is watched: parameters, or any other floats ---- */
typedef struct nib_gradients nib_gradients;

nib_gradients *nib_gradients_new(nib_ctx *ctx);      /* of nothing yet. Caller owns */
void           nib_gradients_free(nib_gradients *gradients);         /* NULL is fine */

/* Watch a dense, contiguous tensor of f32, F16 or BF16; it is held. A view or another handle of the
 * same bytes is the same tensor. `name` is for messages; NULL: "". Watching twice is once. */
nib_status nib_gradients_watch(nib_gradients *gradients, nib_tensor *tensor, const char *name);

/* Watch every float parameter of a tree, under its dotted name; quantized weights are what they are,
 * and buffers do not train. A parameter that wraps const data or a file becomes a copy of the tree's
 * own. A parameter that is replaced later (by loading, nib_freeze) is watched no more than that: watch
 * again. All or nothing. Fails: NIB_E_ARGUMENT when there is none. */
nib_status nib_gradients_watch_module(nib_gradients *gradients, nib_module *root);

/* The sum of what nib_backward found since the last zeroing, f32 in the tensor's shape; borrowed until
 * the next call that changes it. NULL, unraised: none was found, or the tensor is not watched. */
const nib_tensor *nib_gradient_of(const nib_gradients *gradients, const nib_tensor *tensor);
void nib_gradients_zero(nib_gradients *gradients);

/* Each one in the order of watching; gradient NULL: none. All borrowed. NIB_END: no more. */
nib_status nib_gradients_at(const nib_gradients *gradients, size_t index, const char **name,
                            nib_tensor **tensor, const nib_tensor **gradient);

/* ---- the tape: a mode of a context that writes down every op that a watched tensor reaches ----
 * Such an op must have a gradient, or its call fails and names it. Steps of nib_compile and sessions
 * are not written down. `gradients` must live until the end. */
nib_status nib_tape_begin(nib_ctx *ctx, nib_gradients *gradients);

/* Add the gradients of `result` to those of the tape of its context, and forget what was recorded, as
 * it goes and also on failure. `gradient`, f32 of the shape of `result`, is what comes from further
 * on; NIB_NONE: 1, for a result of one number. Gradients are as before when it fails:
 * NIB_E_ARGUMENT when no watched tensor reaches `result`, or when a value that is needed was changed
 * since. */
nib_status nib_backward(const nib_tensor *result, const nib_tensor *gradient);
nib_status nib_tape_end(nib_ctx *ctx);               /* also forgets what was recorded */

/* ---- what weights count for the next token ----
 * nib_model_feed (nibble.h) with gradients, for error feedback (gptq): inputs are weighed by what the
 * next token's distribution makes of them and outputs are looked at as well, so that codes cost the least
 * divergence, not the least squared error of each output. About three times the time of nib_model_feed.
 * For decoders of text, by the tape: none may have begun. Fails: NIB_E_UNSUPPORTED for a model that
 * hears or sees, or naming an op that has no gradient; feed the model then. */
nib_status nib_model_sense(nib_ctx *ctx, nib_model *model, nib_data *data);

/* nib_freeze of a model whose linears wait for gptq, after nib_calibrate_end: they are frozen as a
 * forward over the data comes to them, and each makes up for what those before it lost. Layer after
 * layer, samples of the data go through it with floats and with codes, a few at a time; what leaves it
 * is kept, of as many samples, spread evenly over all there are, as take 2 GiB (two floats for each
 * token and column of the residual stream). A linear of N outputs and K inputs takes N K + K K doubles
 * meanwhile. Those with fewer than four rows for each input column are frozen as nib_freeze does it, and
 * so is all of a model that hears or sees, and its head. All or nothing; data's counts are of what ran. */
nib_status nib_model_freeze(nib_ctx *ctx, nib_model *model, nib_data *data);

/* ---- losses: a tensor of one number without dimensions ----
 * The mean of -log softmax(logits)[target] over the rows whose target is not -100; NaN if none is.
 *   logits [N, C] f32, target [N] i32, i64 or u8     or     [C] and [] */
nib_tensor *nib_cross_entropy(const nib_tensor *logits, const nib_tensor *target);
/* The mean of (a - b)^2. Both f32 of one shape. */
nib_tensor *nib_mse(const nib_tensor *a, const nib_tensor *b);

/* ---- optimizers: the steps of torch.optim, in f32 ---- */
typedef struct nib_optimizer nib_optimizer;
typedef struct nib_optimizer_kind nib_optimizer_kind;
typedef struct nib_optimizer_config { const nib_optimizer_kind *kind; size_t size; } nib_optimizer_config;

typedef struct nib_sgd {               /* torch.optim.SGD */
    nib_optimizer_config config;
    double rate;                       /* 0: 0.001 */
    double momentum, dampening, weight_decay;
    bool   nesterov;                   /* needs momentum, and no dampening */
} nib_sgd;
extern const nib_optimizer_kind nib_optimizer_sgd;
#define NIB_SGD(...) (&(nib_sgd){ .config = { &nib_optimizer_sgd, sizeof(nib_sgd) }, __VA_ARGS__ }.config)

typedef struct nib_adamw {             /* torch.optim.AdamW */
    nib_optimizer_config config;
    double rate;                       /* 0: 0.001 */
    double beta1, beta2, eps;          /* 0: 0.9, 0.999, 1e-8 */
    double weight_decay;               /* 0: 0.01; below 0: none */
} nib_adamw;
extern const nib_optimizer_kind nib_optimizer_adamw;
#define NIB_ADAMW(...) (&(nib_adamw){ .config = { &nib_optimizer_adamw, sizeof(nib_adamw) }, __VA_ARGS__ }.config)

/* Of what is watched now, which must be f32 and may be written; what is watched later does not move.
 * `gradients` must live as long. The config is copied. Caller owns. Fails: NIB_E_ARGUMENT, NIB_E_DTYPE. */
nib_optimizer *nib_optimizer_new(nib_gradients *gradients, const nib_optimizer_config *config);
void           nib_optimizer_free(nib_optimizer *optimizer);         /* NULL is fine */

/* Move each tensor by its gradient; those without one stay as they are. */
nib_status nib_optimizer_step(nib_optimizer *optimizer);
nib_status nib_optimizer_set_rate(nib_optimizer *optimizer, double rate); /* from the next step on */
double     nib_optimizer_rate(const nib_optimizer *optimizer);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
