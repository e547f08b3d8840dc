/* state.h: where the state of a tree comes from: tensors in memory, or a file on a higher floor. */
#ifndef NIB_NN_STATE_H
#define NIB_NN_STATE_H
#include <nibble/nn.h>

typedef struct nib_state_source {
    void *self;
    size_t count;
    const char *(*name)(void *self, size_t i);
    bool (*has)(void *self, const char *name);
    /* Caller owns. `shape`: what the tree has under this name. */
    nib_tensor *(*get)(void *self, const char *name, const nib_shape *shape);
} nib_state_source;

/* What nib_module_load_state does, from any source. */
nib_status nib_state_take(nib_module *root, const nib_state_source *source,
                          const nib_state_options *options);
#endif
