/* prepare.h: weights in the form that kernels read, for callers that share a tree of modules. */
#ifndef NIB_FLOW_PREPARE_H
#define NIB_FLOW_PREPARE_H
#include <nibble/nn.h>

/* nib_prepare with the threads of another context than the tree's own. */
nib_status nib_prepare_with(nib_ctx *ctx, nib_module *root);
#endif
