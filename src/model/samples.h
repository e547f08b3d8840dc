/* samples.h: data as runs of token ids for a model: a file of text or of JSON lines, or sounds with
 * what is said to them. */
#ifndef NIB_MODEL_SAMPLES_H
#define NIB_MODEL_SAMPLES_H
#include "model/scorer.h"

typedef struct nib_samples {
    nib_mem *mem;
    int32_t *ids; /* of all samples, one after the other */
    size_t count, room;
    size_t *ends; /* where each sample ends */
    size_t samples, samples_room;
    nib_tensor **sounds; /* of a model that hears, [sounds_room]: windows for its encoder */
    size_t sounds_room;
} nib_samples;

/* `count` samples of `context` tokens that the model makes up: see samples_draw.c. */
nib_status nib_samples_draw(nib_ctx *ctx, const nib_model *model, int64_t count, int64_t context,
                            nib_samples *out);

/* As nib_data says; the tokenizer is that of the model's folder. A model that hears says itself
 * what is in its sounds, one sample to each window. Fails where there is not a single sample of two
 * tokens. */
nib_status nib_samples_read(nib_ctx *ctx, const nib_model *model, const nib_data *data,
                            nib_samples *out);
/* Before the first step of a sample: the scorer hears its sound, if it has one. */
nib_status nib_samples_begin(const nib_samples *samples, size_t sample, nib_scorer *scorer);
void nib_samples_free(nib_samples *samples); /* a zeroed struct is fine */
#endif
