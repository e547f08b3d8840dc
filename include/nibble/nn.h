/* nn.h: modules by hand: a tree of named children and parameters.
 *
 *   nib_module *layer = nib_linear_new(ctx, weight, bias);
 *   nib_tensor *y = nib_module_forward(layer, x);
 *
 * A module owns its children and parameters. A tree may be walked, its parameters replaced by
 * quantized ones (nib_quantize), and printed. Names join with dots: "model.layers.0.mlp.up_proj". */
#ifndef NIBBLE_NN_H
#define NIBBLE_NN_H
#include <nibble/nibble.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* What a kind of module does. A user's own kind is one such const struct. */
typedef struct nib_module_kind {
    const char *name;                  /* "Linear" */
    /* The result belongs to the open scope. NULL: this module only holds others. */
    nib_tensor *(*forward)(nib_module *module, nib_tensor *x);
    void (*free)(nib_module *module);  /* gives back what `self` holds; NULL: nothing to do */
} nib_module_kind;

/* A module without children. `self` is handed to the kind through nib_module_self. Caller owns. */
nib_module *nib_module_new(nib_ctx *ctx, const nib_module_kind *kind, void *self);
void        nib_module_free(nib_module *module);       /* with its children; NULL is fine */

/* Give a child or a parameter to a module under a name without dots. The module owns it then,
 * also when the call fails. NULL in: passes the failure on. */
nib_status  nib_module_add(nib_module *module, const char *name, nib_module *child);
nib_status  nib_module_set(nib_module *module, const char *name, nib_tensor *parameter); /* replaces */

nib_tensor *nib_module_forward(nib_module *module, nib_tensor *x);

void                  *nib_module_self(const nib_module *module);
const nib_module_kind *nib_module_kind_of(const nib_module *module);
nib_ctx               *nib_module_ctx(const nib_module *module);
nib_tensor *nib_module_parameter(const nib_module *module, const char *name); /* borrowed; NULL: none */
nib_module *nib_module_child(const nib_module *module, const char *dotted);   /* borrowed; NULL: none */

/* Every module of the tree, a parent before its children, in the order they were added. */
typedef nib_status nib_module_visit(void *user, const char *dotted, nib_module *module);
nib_status nib_module_walk(nib_module *root, nib_module_visit *visit, void *user);

/* Every parameter of the tree: "model.norm.weight". */
typedef nib_status nib_parameter_visit(void *user, const char *dotted, nib_module *owner,
                                       const char *name, nib_tensor *parameter);
nib_status nib_module_walk_parameters(nib_module *root, nib_parameter_visit *visit, void *user);

/* Put the quantized weight of every Linear in the form that this machine's kernels read; results stay
 * the same to the bit, and the form it came from is let go. Models do this at their first session; a
 * tree made by hand runs without it, slower. On failure some weights are prepared, all work. */
nib_status nib_prepare(nib_module *root);

/* The tree as text, one module a line with shapes and layouts of its parameters. Caller owns the
 * string and gives it back with nib_text_release. */
char *nib_module_print(nib_module *root);
void  nib_text_release(char *text);

/* ---- layers; each takes ownership of the tensors handed to it, also on failure ---- */
nib_module *nib_linear_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias); /* [N, K]; [N] or NIB_NONE */
nib_module *nib_embedding_new(nib_ctx *ctx, nib_tensor *weight);                /* [V, D] */
nib_module *nib_rms_norm_new(nib_ctx *ctx, nib_tensor *weight, double eps);     /* [D] */
nib_module *nib_layer_norm_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias, int dims, double eps);
                                 /* over the last `dims` dimensions; weight and bias of these, or NIB_NONE */
extern const nib_module_kind nib_kind_linear, nib_kind_embedding, nib_kind_rms_norm,
    nib_kind_layer_norm;

/* Mark the output head of a model, which quantizing leaves float unless asked for. */
void nib_module_set_head(nib_module *module, bool head);
bool nib_module_is_head(const nib_module *module);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
