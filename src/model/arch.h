/* arch.h: architectures, and what a loaded model consists of.
 *
 * An architecture is one file <name>.c and one line in arch_list.h. It builds a tree of modules
 * under the checkpoint's own names and runs it on a batch of rows from any number of sequences.
 * Legend: M rows (tokens) of a batch, D width, V vocabulary. */
#ifndef NIB_MODEL_ARCH_H
#define NIB_MODEL_ARCH_H
#include <nibble/nn.h>
#include <pthread.h>

#include "io/weights.h"
#include "model/hparams.h"
#include "model/kvcache.h"

/* Rows of one sequence: `count` tokens that follow those in its cache. */
typedef struct nib_segment {
    nib_kvcache *cache; /* has room for them */
    int64_t start;      /* tokens in the cache before this step */
    int64_t count;
    int64_t length; /* of the sequence when all that is being fed is in; at least
                       start + count, more when a prompt is cut in chunks */
} nib_segment;

typedef enum nib_wanted { NIB_WANT_NOTHING = 0, NIB_WANT_LAST, NIB_WANT_ALL } nib_wanted;

/* A single layer instead of all of them. */
typedef struct nib_one_layer {
    int layer;
    nib_tensor *x; /* [M, D] that come into it, of the open scope; NULL: as forward makes them */
    nib_tensor *y; /* what left it, of the open scope */
} nib_one_layer;

typedef struct nib_batch {
    nib_ctx *ctx;
    const int32_t *tokens;       /* [M], ids below the vocabulary size */
    const nib_segment *segments; /* in the order of the tokens; counts add up to M */
    size_t nsegments;
    int64_t M;
    nib_wanted logits; /* of no row, of the last row of the batch, of all rows */
    /* The tokens and their positions as [M] i32 tensors of the caller, who may run what a forward
     * called again with others in them; NULL: forward makes them. */
    nib_tensor *ids, *positions;
    nib_one_layer *one; /* NULL: all layers; with it no logits are to be wanted */
} nib_batch;

typedef struct nib_arch {
    const char *name, *doc;
    const char *const *model_types; /* of config.json, ended by NULL */
    /* Hyper-parameters from config.json, and generation_config.json or NULL; as nib_hparams_read.
     */
    nib_status (*read)(const json_t *config, const json_t *generation, nib_hparams *out);
    bool across; /* linears named so lie across in its files: model/across.h */
    nib_module *(*build)(nib_ctx *ctx, const nib_hparams *hparams, nib_weights *weights);
    /* Run the batch and write its keys and values into the caches. *logits, if any are wanted:
     * [rows, V] f32 in the open scope of batch->ctx. */
    nib_status (*forward)(const nib_hparams *hparams, nib_module *root, const nib_batch *batch,
                          nib_tensor **logits);
    /* Of models that hear, NULL in others. `encode`: what of a sound, [bands, frames] f32, becomes
     * [frames / 2, D] f32 in the open scope. `hear`: the keys and values of that for every layer's
     * cross attention, into a cache that has room; forward reads them by nib_kvcache.heard. */
    nib_tensor *(*encode)(const nib_hparams *hparams, nib_module *root, nib_tensor *mel);
    nib_status (*hear)(const nib_hparams *hparams, nib_module *root, nib_tensor *encoded,
                       nib_kvcache *heard);
    /* Of models that see, NULL in others: pictures [N, C, H, W] f32 as `picture` of the
     * hyper-parameters says become [N, vocab_size] f32 in the open scope. NULL in, NULL out. Such a
     * model takes no tokens: its forward raises. */
    nib_tensor *(*see)(const nib_hparams *hparams, nib_module *root, nib_tensor *pictures);
} nib_arch;

struct nib_model {
    nib_ctx *ctx; /* that loaded it; others may run it */
    const nib_arch *arch;
    nib_hparams hparams;
    nib_module *root;
    nib_weights *weights; /* keeps the files mapped */
    char *path;
    pthread_mutex_t preparing;
    bool prepared; /* its weights are as kernels want them; read and written under the lock */
    size_t weight_bytes, file_bytes; /* in memory for weights; of all tensors in the files */
};

const nib_arch *nib_arch_at(size_t i);                /* in list order; NULL: no more */
const nib_arch *nib_arch_for(const char *model_type); /* raises, naming those known */

/* Prepare the weights, once, before a model runs. A session's thread may come while others run the
 * model on theirs, so nothing but this changes a model, and the first one does it for all. */
nib_status nib_model_prepare(nib_ctx *ctx, const nib_model *model);

/* Let the modules of a tree that a checkpoint names quantize their activations, with its scales. */
nib_status nib_model_attach_activations(nib_module *root, const nib_weights *weights);

/* Tokens that a session may hold when its caller does not say. */
int64_t nib_model_max_tokens(const nib_model *model);

/* What the weights take in memory (each storage once, mapped or own) and in the files. */
size_t nib_model_resident_bytes(const nib_model *model);
#endif
