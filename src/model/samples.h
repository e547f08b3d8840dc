/* samples.h: a file of text or of JSON lines as runs of token ids for a model. */
#ifndef NIB_MODEL_SAMPLES_H
#define NIB_MODEL_SAMPLES_H
#include "model/arch.h"

typedef struct nib_samples {
    nib_mem *mem;
    int32_t *ids; /* of all samples, one after the other */
    size_t count, room;
    size_t *ends; /* where each sample ends */
    size_t samples, samples_room;
} nib_samples;

/* As nib_data says; the tokenizer is that of the model's folder. Fails where there is not a single
 * sample of two tokens. */
nib_status nib_samples_read(nib_ctx *ctx, const nib_model *model, const nib_data *data,
                            nib_samples *out);
void nib_samples_free(nib_samples *samples); /* a zeroed struct is fine */
#endif
