/* decoder.h: what decoders of every architecture share: modules over the tensors of a checkpoint,
 * under its own names, and a batch of rows of several sequences on its way through the layers.
 * What belongs to one architecture stands in its own file. */
#ifndef NIB_MODEL_DECODER_H
#define NIB_MODEL_DECODER_H
#include "model/arch.h"

/* ---- building ---- */

typedef struct nib_builder {
    nib_ctx *ctx;
    const nib_hparams *h;
    nib_weights *weights;
} nib_builder;

enum { NIB_NAME_ROOM = 160 };

extern const nib_module_kind nib_kind_causal_lm, nib_kind_decoder, nib_kind_module_list,
    nib_kind_decoder_layer, nib_kind_attention, nib_kind_mlp;

/* "at.name", or "name" where `at` is "". */
const char *nib_build_path(char path[NIB_NAME_ROOM], const char *at, const char *name);

/* The tensor of that name, its shape as config.json says; a vector when cols is 0. Caller owns. */
nib_tensor *nib_build_weight(const nib_builder *b, const char *name, int64_t rows, int64_t cols);

nib_tensor *nib_build_tensor(const nib_builder *b, const char *name, nib_shape want);

/* The same of a linear that lies across in files as long as it is float: always [N, K]. */
nib_tensor *nib_build_across(const nib_builder *b, const char *name, int64_t N, int64_t K);

/* A vector "at.name.what", or NIB_NONE where there is to be none; one that the file holds and the
 * config denies is an error. Caller owns. */
nib_tensor *nib_build_vector(const nib_builder *b, const char *at, const char *name,
                             const char *what, int64_t n, bool wanted);

/* Modules given to `parent`, over "at.name.weight" and ".bias". A bias that the file holds and the
 * config denies, or the other way round, is an error: the two do not belong together. */
nib_status nib_build_linear(const nib_builder *b, nib_module *parent, const char *at,
                            const char *name, int64_t N, int64_t K, bool biased);
nib_status nib_build_embedding(const nib_builder *b, nib_module *parent, const char *at,
                               const char *name, int64_t rows, int64_t D);
nib_status nib_build_rms_norm(const nib_builder *b, nib_module *parent, const char *at,
                              const char *name, int64_t D, double eps);
/* affine: with weight and bias. */
nib_status nib_build_layer_norm(const nib_builder *b, nib_module *parent, const char *at,
                                const char *name, int64_t D, bool affine, double eps);

/* A module that holds others, given to its parent; NULL after a failure. Dots in the name make one
 * in the other, an empty one makes none. */
nib_module *nib_build_holder(nib_ctx *ctx, nib_module *parent, const char *name,
                             const nib_module_kind *kind);

/* A list of layers under "prefix.list", given to the trunk; `add` fills each, whose tensors stand
 * under `at`. */
typedef nib_status nib_layer_build(const nib_builder *b, nib_module *layer, const char *at);
nib_status nib_build_layers(const nib_builder *b, nib_module *trunk, const char *prefix,
                            const char *list, int count, nib_layer_build *add);

/* A whole model: root, trunk, embedding, what `add` gives the trunk, and the head.
 *
 * Tied tables and heads stand in the file under either name, or under both; two that differ are
 * used as they are, which is also what transformers does. Metadata of a file may say of either name
 * that it stands for the other. The trunk has the prefix under which the checkpoint has its first
 * layer; layers beyond those of config.json are an error. */
typedef struct nib_trunk {
    const char *const *prefixes;   /* ended by NULL, the usual one first; "" is the root */
    const char *table;             /* "embed_tokens" */
    int64_t columns;               /* of the table and the head */
    const char *layers, *of_layer; /* "layers", and a tensor that each has: "fc1.weight" */
    const char *head;              /* NULL: "lm_head" */
    nib_status (*add)(const nib_builder *b, nib_module *trunk, const char *prefix);
} nib_trunk;
nib_module *nib_build_causal_lm(const nib_builder *b, const nib_trunk *trunk);

/* ---- running; everything belongs to the open scope ---- */

nib_tensor *nib_run_child(const nib_module *parent, const char *child, nib_tensor *x);

/* The trunk of a model that was built with these prefixes: the module with that child. */
nib_module *nib_run_trunk(const nib_module *root, const char *const *prefixes, const char *child);

/* Rows [start, start + count) as a view; all of them as they are. */
nib_tensor *nib_run_rows(nib_ctx *ctx, nib_tensor *t, int64_t start, int64_t count);

/* One tensor from the rows of n, which is used up. */
nib_tensor *nib_run_joined(nib_tensor **parts, size_t n);

/* The batch's tokens and their positions, [M] i32. */
nib_tensor *nib_run_tokens(const nib_batch *batch);
nib_tensor *nib_run_positions(const nib_batch *batch);

/* What a table of learned positions has for the batch, whose first `offset` rows no token has. */
nib_tensor *nib_run_learned(const nib_batch *batch, nib_module *table, int64_t offset);

/* Put each segment's keys and values into its cache and let its queries meet them.
 *   q [M, heads * d], k, v [M, Hk * d]  ->  [M, heads * d] */
typedef struct nib_attending {
    int layer;
    int64_t heads, window; /* window 0: all */
    double scale;
    const nib_tensor *slopes; /* of ALiBi, [heads], or NIB_NONE */
} nib_attending;
nib_tensor *nib_run_attention(const nib_batch *batch, const nib_attending *how, nib_tensor *q,
                              nib_tensor *k, nib_tensor *v);

/* x through all layers, or through `one`. What a layer made is let go, but its result. */
typedef nib_tensor *nib_layer_forward(const void *step, nib_module *layer, int index,
                                      nib_tensor *x);
nib_tensor *nib_run_layers(nib_ctx *ctx, nib_one_layer *one, const nib_module *layers, int count,
                           nib_layer_forward *each, const void *step, nib_tensor *x);

/* The rows whose logits are wanted. */
nib_tensor *nib_run_wanted(const nib_batch *batch, nib_tensor *x);

nib_tensor *nib_run_activation(nib_activation kind, nib_tensor *x);
#endif
