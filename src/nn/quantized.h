/* quantized.h: a module that carries a config: its float weight is quantized at each forward until
 * it is frozen, and what comes in and goes out is quantized with static scales. The scales are
 * buffers of the module, "input_scale" and "output_scale", one number each of the weight's dtype.
 */
#ifndef NIB_NN_QUANTIZED_H
#define NIB_NN_QUANTIZED_H
#include <nibble/extend.h>
#include <nibble/nn.h>

#include "base/mem.h"

typedef struct nib_quantized {
    nib_config *config;             /* owned; how weight and activations are quantized */
    bool weight;                    /* the weight is to be quantized, or is; false: a norm */
    nib_dtype input, output;        /* codes of what comes in and goes out; 0: float */
    bool input_known, output_known; /* calibrated, or loaded */
    double *sums; /* [K, K] products of inputs, for error feedback; NULL: none seen */
    int64_t K;
    nib_dtype activations; /* that the config asks for; output is 0 once streamlined */
    double *outs;          /* [N, N] products of gradients of outputs; NULL: none */
    int64_t N;
    bool sensed; /* sums are weighed by gradients and grow where those are */
} nib_quantized;

/* The kind of module as schemes name it, "linear" or "layer_norm"; NULL: none has a word for it. */
const char *nib_module_site(const nib_module *module);

/* Let a module carry a copy of `config`, with scales of 1 that are not known yet. What it carried
 * before is forgotten. Fails with NIB_E_ARGUMENT for a kind that the scheme leaves. */
nib_status nib_module_quantize(nib_module *module, const nib_config *config);
void nib_module_unquantize(nib_module *module); /* and its scales; NULL is fine */

nib_quantized *nib_module_quantized(const nib_module *module); /* NULL: carries none */

/* The weight as a forward meets it: the parameter, or quantized now and owned by the open scope. */
nib_tensor *nib_module_weight(nib_module *module);
nib_tensor *nib_module_frozen_weight(nib_module *module); /* as freezing makes it */

/* The same of a module whose float weight error feedback rounds, with `more` f32 [N, K] added, or
 * NULL. */
nib_tensor *nib_module_fed_weight(nib_module *module, const float *more);

/* Does the config ask for data about inputs? And more of it: x [..., K] of the inputs, floats. */
bool nib_quantized_feeds(const nib_quantized *quantized);
nib_status nib_quantized_feed(nib_ctx *ctx, nib_quantized *quantized, const nib_tensor *x);
/* With what the loss says of outputs: x [M, K], g [M, N] gradients of a sum of losses. */
nib_status nib_quantized_sense(nib_ctx *ctx, nib_quantized *quantized, const float *x,
                               const float *g, int64_t M, int64_t K, int64_t N);

void nib_quantized_forget_inputs(nib_module *module); /* what feeding kept is given back */

/* One float as a 0-dim tensor; caller owns. */
nib_tensor *nib_scale_tensor(nib_ctx *ctx, nib_dtype dtype, float value);

/* A scale's value, and a new one, rounded to its dtype. */
float nib_module_scale(const nib_module *module, const char *name);
nib_status nib_module_set_scale(nib_module *module, const char *name, float scale);

/* module.c's share: the record a module carries, and a parameter or buffer forgotten. */
void nib_module_carry(nib_module *module, nib_quantized *quantized);
void nib_module_drop(nib_module *module, const char *name);
void nib_quantized_free(nib_mem *mem, nib_quantized *quantized); /* NULL is fine */

/* May the module's forward give the codes of its output itself, as nib_quantized_leave would make
 * them of floats? Not while a mode may want to see these. */
bool nib_quantized_makes_codes(const nib_module *module, const nib_tensor *x);

/* Groups of a Conv1d or Conv2d; 0: the module is another. */
int64_t nib_conv_module_groups(const nib_module *module);

/* Does its own forward quantize what comes in, a Conv's that makes codes of floats? */
bool nib_conv_module_quantizes(const nib_module *module, const nib_tensor *x);

/* Can a ReLU that follows be part of it: a Conv that makes integer codes? Then what both give. */
bool nib_conv_module_floors(const nib_module *module, const nib_tensor *x);
nib_tensor *nib_conv_module_floored(nib_module *module, nib_tensor *x);

/* What nib_module_forward does between the modes and the kind's own forward. */
nib_status nib_quantized_enter(nib_module *module, nib_tensor **x);
nib_status nib_quantized_leave(nib_module *module, nib_tensor **y);
#endif
