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
    /* Of several inputs, as attention has: at most NIB_MAX_INPUTS (extend.h), NIB_NONE for one that
     * is left out. NULL: one input only. */
    nib_tensor *(*forward_many)(nib_module *module, nib_tensor *const in[], int count);
    /* Its options as one line of text, for nib_module_print. NULL: it has none. */
    void (*describe)(const nib_module *module, char *text, size_t room);
} nib_module_kind;

/* A module without children. `self` is handed to the kind through nib_module_self. Caller owns. */
nib_module *nib_module_new(nib_ctx *ctx, const nib_module_kind *kind, void *self);
void        nib_module_free(nib_module *module);       /* with its children; NULL is fine */

/* The same module once more, for a second place in a tree; it goes when the last place has gone. */
nib_module *nib_module_share(nib_module *module);

/* Give a child, a parameter or a buffer (state that is not trained, such as a running mean) to a
 * module under a name without dots. The module owns it then, also when the call fails. NULL in:
 * passes the failure on. */
nib_status  nib_module_add(nib_module *module, const char *name, nib_module *child);
nib_status  nib_module_append(nib_module *module, nib_module *child);  /* under the next of "0", "1" ... */
nib_status  nib_module_set(nib_module *module, const char *name, nib_tensor *parameter); /* replaces */
nib_status  nib_module_set_buffer(nib_module *module, const char *name, nib_tensor *buffer);

/* Put `with` where the module of this dotted name was, which goes. Owned as above. A root has no
 * place: replace what holds it. */
nib_status  nib_module_replace(nib_module *root, const char *dotted, nib_module *with);

nib_tensor *nib_module_forward(nib_module *module, nib_tensor *x);
nib_tensor *nib_module_forward_many(nib_module *module, nib_tensor *const in[], int count);

void                  *nib_module_self(const nib_module *module);
const nib_module_kind *nib_module_kind_of(const nib_module *module);
nib_ctx               *nib_module_ctx(const nib_module *module);
nib_tensor *nib_module_parameter(const nib_module *module, const char *name); /* borrowed; NULL: none */
nib_tensor *nib_module_buffer(const nib_module *module, const char *name);
nib_module *nib_module_child(const nib_module *module, const char *dotted);   /* borrowed; NULL: none */
size_t      nib_module_children(const nib_module *module);                    /* how many, */
nib_module *nib_module_child_at(const nib_module *module, size_t index, const char **name); /* and each */

/* Whether a tree trains, which Dropout and BatchNorm look at. A new module does not: unlike in torch
 * there is no eval() to forget. */
void nib_module_train(nib_module *root, bool training);
bool nib_module_is_training(const nib_module *module);

/* Every module of the tree, a parent before its children, in the order they were added. */
typedef nib_status nib_module_visit(void *user, const char *dotted, nib_module *module);
nib_status nib_module_walk(nib_module *root, nib_module_visit *visit, void *user);

/* Every parameter of the tree: "model.norm.weight". */
typedef nib_status nib_parameter_visit(void *user, const char *dotted, nib_module *owner,
                                       const char *name, nib_tensor *parameter);
nib_status nib_module_walk_parameters(nib_module *root, nib_parameter_visit *visit, void *user);

/* The same with the buffers of each module after its parameters: what a state dict holds. */
nib_status nib_module_walk_state(nib_module *root, nib_parameter_visit *visit, void *user);

/* ---- state by dotted name ---- */
typedef enum nib_state_problem {
    NIB_STATE_MISSING,                 /* the tree has it, the state has not */
    NIB_STATE_UNEXPECTED,              /* the other way round */
    NIB_STATE_SHAPE,                   /* both have it, in different shapes */
    NIB_STATE_PROBLEMS,
} nib_state_problem;

typedef struct nib_state_report {
    size_t size; int loaded, missing, unexpected, mismatched;
    /* Each problem by name; `detail` " is [3], the module's [4]" or NULL. NULL: totals only */
    void (*row)(void *user, nib_state_problem problem, const char *dotted, const char *detail);
    void *user;
} nib_state_report;

typedef struct nib_state_options {
    size_t size;
    bool lenient;                      /* take what fits by name; torch's strict=False */
    bool assign;                       /* dtypes become the state's; else they stay the module's */
    nib_state_report *report;          /* filled when not NULL, also when the call fails */
} nib_state_options;

/* Replace parameters and buffers by those of the same names, all or nothing: any that is missing,
 * unexpected or of another shape fails the call, and one message names them together. A quantized
 * tensor takes the place of a float one of its shape. NULL options: strict, dtypes stay.
 * Fails: NIB_E_FORMAT, or NIB_E_SHAPE when shapes contradict. */
typedef struct nib_named_tensor { const char *name; nib_tensor *tensor; } nib_named_tensor; /* both stay yours */
nib_status nib_module_load_state(nib_module *root, const nib_named_tensor *tensors, size_t count,
                                 const nib_state_options *options);

/* The same from a checkpoint: a .safetensors or .pt file, or a folder as Hugging Face writes
 * them. */
nib_status nib_module_load(nib_module *root, const char *path, const nib_state_options *options);
/* All parameters and buffers as one .safetensors or .pt file, whichever the name says; an old one of
 * this name is replaced in one step. Weights quantized by NIB_QUANTO are written in parts, with
 * quanto_qmap.json beside the file; others must be dense. */
nib_status nib_module_save(nib_module *root, const char *path);

/* ---- quantized trees as optimum-quanto saves them ----
 * State and map of a tree that nib_quantize and nib_freeze made with NIB_QUANTO: the tensors of
 * state_dict() ("fc.weight._data", "fc.weight._scale", "fc.input_scale" ...), each borrowed during the
 * visit, and quanto_qmap.json as text, given back with nib_text_release. nib_module_save writes both. */
nib_status nib_module_walk_saved(nib_module *root, nib_parameter_visit *visit, void *user);
char *nib_quantization_map(nib_module *root);

/* The way back, onto a float tree of the same modules, whose values do not matter: all or nothing.
 * What the state has besides is passed over. `device`: "cpu" or NULL. From files: a .safetensors or
 * .pt (what torch.save made of state_dict()), or a folder with shards, with quanto_qmap.json beside.
 * Fails: NIB_E_FORMAT naming the module or tensor that contradicts; NIB_E_SHAPE. */
nib_status nib_requantize(nib_module *root, const nib_named_tensor *tensors, size_t count,
                          const char *map, const char *device);
nib_status nib_requantize_file(nib_module *root, const char *path, const char *device);

/* All floats of a tree in another dtype, F32, F16 or BF16, all or nothing; integers stay, and so do the
 * codes of quantized weights, whose scales are rounded. Results of operations are f32 whatever the
 * weights are. */
nib_status nib_module_to_dtype(nib_module *root, nib_dtype dtype);
/* "cpu"; any other is NIB_E_DEVICE, as there is none in this build. */
nib_status nib_module_to_device(nib_module *root, const char *device);

/* Time each module between the two calls, with all that it calls: rows in the order of the tree,
 * names dotted (the root's is ""), for those that were called. */
nib_status nib_time_begin(nib_ctx *ctx);
nib_status nib_time_end(nib_ctx *ctx, nib_module *root,
                        void (*row)(void *user, const char *dotted, const char *kind, int64_t calls, double ms),
                        void *user);

/* Put the quantized weight of every Linear in the form that this machine's kernels read; results stay
 * the same to the bit, and the form it came from is let go. Filters of convolutions stay, and what their
 * loops read stands beside (4 bytes a number; of int8 filters that meet int8 codes, 1): do not write to
 * them afterwards through a pointer that you got before. Models do this at their first session; a
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

/* Convolutions. Weight [out, in / groups, size] or [out, in / groups, rows, columns], dense or
 * quantized; bias [out] or NIB_NONE; x [N, in, ...] or [in, ...]. NULL options: torch's defaults. */
typedef struct nib_conv_options {      /* rows first, columns second; Conv1d has the first only */
    size_t  size;
    int64_t stride[2], dilation[2];    /* 0: 1, and a second one that is 0: as the first */
    int64_t padding[2];                /* on both sides */
    int64_t groups;                    /* 0: 1 */
    const char *pad;                   /* "same": as much as keeps the size; NULL, "valid": `padding`, none */
    const char *padding_mode;          /* "zeros", "reflect", "replicate", "circular"; NULL: "zeros" */
} nib_conv_options;
nib_module *nib_conv1d_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias, const nib_conv_options *options);
nib_module *nib_conv2d_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias, const nib_conv_options *options);
extern const nib_module_kind nib_kind_conv1d, nib_kind_conv2d;

/* Norms over a batch: weight and bias [C], or NIB_NONE; running_mean and running_var [C], which evaluation
 * goes by and training moves, or NIB_NONE both: then every batch is its own measure. The buffer
 * num_batches_tracked is made. NULL options: torch's defaults. x [N, C], [N, C, L]; 2d: [N, C, H, W]. */
typedef struct nib_batch_norm_options {
    size_t size;
    double eps, momentum;              /* 0: 1e-5, 0.1 */
    bool   cumulative;                 /* the mean over all batches: torch's momentum=None */
} nib_batch_norm_options;
nib_module *nib_batch_norm1d_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias, nib_tensor *running_mean,
                                 nib_tensor *running_var, const nib_batch_norm_options *options);
nib_module *nib_batch_norm2d_new(nib_ctx *ctx, nib_tensor *weight, nib_tensor *bias, nib_tensor *running_mean,
                                 nib_tensor *running_var, const nib_batch_norm_options *options);
nib_module *nib_group_norm_new(nib_ctx *ctx, int64_t groups, nib_tensor *weight, nib_tensor *bias, double eps);
extern const nib_module_kind nib_kind_batch_norm1d, nib_kind_batch_norm2d, nib_kind_group_norm;

/* Activations. */
nib_module *nib_relu_new(nib_ctx *ctx);
nib_module *nib_relu6_new(nib_ctx *ctx);
nib_module *nib_hardtanh_new(nib_ctx *ctx, double low, double high);
nib_module *nib_leaky_relu_new(nib_ctx *ctx, double slope);
nib_module *nib_elu_new(nib_ctx *ctx, double alpha);
nib_module *nib_gelu_new(nib_ctx *ctx, bool tanh); /* its approximation by tanh, or by erf */
nib_module *nib_silu_new(nib_ctx *ctx);
nib_module *nib_tanh_new(nib_ctx *ctx);
nib_module *nib_sigmoid_new(nib_ctx *ctx);
nib_module *nib_hardswish_new(nib_ctx *ctx);
nib_module *nib_hardsigmoid_new(nib_ctx *ctx);
nib_module *nib_softmax_new(nib_ctx *ctx, int dim); /* negative: from the end */
extern const nib_module_kind nib_kind_relu, nib_kind_relu6, nib_kind_hardtanh, nib_kind_leaky_relu,
    nib_kind_elu, nib_kind_gelu, nib_kind_silu, nib_kind_tanh, nib_kind_sigmoid, nib_kind_hardswish,
    nib_kind_hardsigmoid, nib_kind_softmax;

/* Pooling of x [N, C, H, W] or [C, H, W]. */
typedef struct nib_pool_options {      /* rows first, columns second */
    size_t  size;
    int64_t kernel_size[2];            /* must be given; a second one that is 0: as the first */
    int64_t stride[2];                 /* 0: kernel_size */
    int64_t padding[2];
    int64_t dilation[2];               /* MaxPool2d; 0: 1 */
    bool    ceil_mode;                 /* a last window may hang over the edge */
    bool    padding_left_out;          /* AvgPool2d: torch's count_include_pad=False */
    int64_t divisor;                   /* AvgPool2d: torch's divisor_override; 0: none */
} nib_pool_options;
nib_module *nib_max_pool2d_new(nib_ctx *ctx, const nib_pool_options *options);
nib_module *nib_avg_pool2d_new(nib_ctx *ctx, const nib_pool_options *options);
nib_module *nib_adaptive_avg_pool2d_new(nib_ctx *ctx, int64_t rows, int64_t columns); /* 0: the input's */
extern const nib_module_kind nib_kind_max_pool2d, nib_kind_avg_pool2d, nib_kind_adaptive_avg_pool2d;

/* Leaves numbers out with probability p while the tree trains; the same ones on every machine, by the
 * context's seed, the module's place among those made, and its calls so far. Else it does nothing. */
nib_module *nib_dropout_new(nib_ctx *ctx, double p);
nib_module *nib_flatten_new(nib_ctx *ctx, int start_dim, int end_dim); /* torch's: 1, -1 */
nib_module *nib_identity_new(nib_ctx *ctx);
extern const nib_module_kind nib_kind_dropout, nib_kind_flatten, nib_kind_identity;

/* MultiheadAttention: in_proj_weight [3 E, E] (or NIB_NONE, and q_proj_weight, k_proj_weight,
 * v_proj_weight set), in_proj_bias [3 E] or NIB_NONE, out_proj a Linear [E, E]; bias_k and bias_v
 * [1, 1, E] may be set. Inputs of nib_module_forward_many, those after the query optional:
 *   query [L, N, E] or [L, E], key and value [S, N, ...],
 *   key_padding_mask [N, S], attn_mask [L, S] or [N heads, L, S]: f32 is added, bool true is left out
 * The result is the attention's output; weights are asked for by themselves. A query that may see nothing
 * gets zeros before out_proj. Dropout inside it is not there. */
typedef struct nib_attention_options {
    size_t  size;
    int64_t num_heads;                 /* must be given */
    bool    batch_first;               /* [N, L, E] */
    bool    add_zero_attn;
    bool    is_causal;                 /* row i sees keys up to i */
} nib_attention_options;
nib_module *nib_multihead_attention_new(nib_ctx *ctx, nib_tensor *in_proj_weight, nib_tensor *in_proj_bias,
                                        nib_module *out_proj, const nib_attention_options *options);
extern const nib_module_kind nib_kind_multihead_attention;

/* The weights with which such a forward attends, torch's second result: the mean over the heads
 * [N, L, S], or of `each_head` [N, heads, L, S], without N where the inputs have none. S counts what
 * bias_k and add_zero_attn put behind the keys. Rows that may see nothing are zeros. */
nib_tensor *nib_multihead_attention_weights(nib_module *module, nib_tensor *const in[], int count,
                                            bool each_head);

/* One child after the other, in their order. Give it children with nib_module_append or _add. */
nib_module *nib_sequential_new(nib_ctx *ctx);
/* The same of modules at hand, which it owns; one of them NULL: passes the failure on. */
nib_module *nib_sequential_of(nib_ctx *ctx, nib_module *const modules[], size_t count);
extern const nib_module_kind nib_kind_sequential;

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
