/* torchao_config.h: torchao's configs and attributes as JSON, and our configs from them. */
#ifndef NIB_IO_TORCHAO_CONFIG_H
#define NIB_IO_TORCHAO_CONFIG_H
#include <jansson.h>
#include <nibble/extend.h>

#include "base/text_util.h"

/* {"_type": "torch.dtype", "_data": "bfloat16"}, and back: `fallback` where there is none. */
json_t *nib_torchao_dtype(nib_dtype dtype);
nib_status nib_torchao_dtype_of(const json_t *data, const char *key, nib_dtype fallback,
                                nib_dtype *out);

/* What torchao's config_to_dict gives for such a config. New; NULL: no memory. */
json_t *nib_torchao_config(const nib_config *config);

/* "act_quant_kwargs" of an Int8Tensor whose input is quantized as it comes. New. */
json_t *nib_torchao_act(const nib_config *config);

/* Whether a tensor's attributes say that its input is quantized. Fails where they say so in a way
 * that is not known here. */
nib_status nib_torchao_dynamic(const json_t *data, bool *dynamic);

/* What a tensor says of itself, to tell its config from. */
typedef struct nib_torchao_tensor {
    const char *scheme; /* ours */
    bool tiled;         /* int4_weight_only: in tinygemm's tiles */
    const json_t *data; /* its attributes */
    const json_t *from; /* "_data" of its module's config, for how scales were chosen; or NULL */
    int64_t shape[2], block[2];
    nib_dtype code; /* of the codes in the file */
} nib_torchao_tensor;
nib_status nib_torchao_config_text(const nib_torchao_tensor *tensor, nib_text *out);

#endif
