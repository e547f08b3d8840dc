/* module.h: what the files of this floor know of a module. */
#ifndef NIB_NN_MODULE_H
#define NIB_NN_MODULE_H
#include <nibble/nn.h>

#include "tensor/context.h"
#include "tensor/tensor.h"

enum { NIB_MODULE_MAX_DEPTH = 32, NIB_MODULE_MAX_NAME = 512 };

typedef struct nib_named_child {
    char *name;
    nib_module *module;
} nib_named_child;

typedef struct nib_named_state { /* a parameter, or a buffer */
    char *name;
    nib_tensor *tensor;
    bool buffer;
} nib_named_state;

struct nib_module {
    nib_ctx *ctx;
    const nib_module_kind *kind;
    void *self;
    struct nib_quantized
        *quantized;            /* nn/quantized.h; NULL: float, or its weight is all there is */
    nib_tensor *weight, *bias; /* the parameters of these names, which are in `state` too */
    int refs;                  /* places that hold it: one tree may name a module twice */
    bool head, training;
    nib_named_child *children;
    nib_named_state *state; /* in the order in which they were set */
    size_t nchildren, nstate, children_room, state_room;
};

/* A module of `kind` whose self is `size` zeroed bytes, which the kind's free gives back with
 * nib_layer_free. Takes the tensors, also on failure: names[i] with tensors[i], of which the first
 * `required` must be there and the others may be NIB_NONE. Any NULL: passes the failure on. */
nib_module *nib_layer_new(nib_ctx *ctx, const nib_module_kind *kind, size_t size, int count,
                          int required, const char *const names[], nib_tensor *const tensors[]);
void nib_layer_free(nib_module *m, size_t size);

/* A parameter, by its name or one of the two that most layers have; NIB_NONE: not there. */
nib_tensor *nib_layer_parameter(const nib_module *m, const char *name);
static inline nib_tensor *nib_layer_weight(const nib_module *m) {
    return m->weight ? m->weight : NIB_NONE;
}
static inline nib_tensor *nib_layer_bias(const nib_module *m) {
    return m->bias ? m->bias : NIB_NONE;
}

/* Copy options given by a caller over zeros: as much as both have. `to` begins with its size. */
void nib_layer_options(void *to, size_t room, const void *given);

#endif
