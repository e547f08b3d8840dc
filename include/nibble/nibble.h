/* nibble.h: quantize neural networks, run them, and know what it cost.
 *
 * Reading order: errors, context, tensors, quantizing, models, sessions, cost.
 * Modules by hand: nn.h. Files and tokenizers: io.h.
 * Writing your own scheme, layout, kernel, op or architecture: extend.h.
 *
 * Ownership in one line each
 *   nib_X_new / _open / _load   caller owns; give back with nib_X_free (NULL is fine)
 *   results of operations       the innermost open scope owns; nib_keep() hands to you
 *   const pointers returned     borrowed; valid while the object they came from lives
 * A context and everything made from it belong to one thread at a time, except a loaded
 * model: it never changes while sessions run, and many contexts may share it. */
#ifndef NIBBLE_H
#define NIBBLE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* ---- errors: a call that makes returns NULL, a call that does returns a status ---- */
typedef enum nib_status {              /* values are pinned: they cross the ABI */
    NIB_OK = 0, NIB_END = 1,           /* END: a stream has nothing more; not an error */
    NIB_E_ARGUMENT = -1, NIB_E_SHAPE = -2, NIB_E_DTYPE = -3, NIB_E_MEMORY = -4, NIB_E_IO = -5,
    NIB_E_FORMAT = -6, NIB_E_UNSUPPORTED = -7, NIB_E_DEVICE = -8, NIB_E_FULL = -9, NIB_E_CANCELLED = -10,
    NIB_E_DIFFERS = -11,
} nib_status;

typedef struct nib_error {
    nib_status  status;
    char        what[240];             /* "linear: x is [4, 96] but weight wants 128 columns" */
    char        path[1024];            /* the file, or "" */
    char        tensor[256];           /* the tensor or module, or "" */
    int64_t     offset;                /* byte in that file, or -1 */
    int         os_errno;              /* 0: not from the system */
    const char *file; int line;        /* where in nibble it was raised */
} nib_error;

/* This thread's latest failure; success leaves it alone, so read it only after a call failed.
 * A call handed the NULL of an earlier failure returns NULL and leaves the record as it is:
 * one check after a chain is enough, and it names the cause. NULL therefore never means
 * "absent": that is NIB_NONE. */
const nib_error *nib_last_error(void);

typedef struct nib_ctx nib_ctx;
typedef struct nib_tensor nib_tensor;
typedef struct nib_module nib_module;
typedef struct nib_model nib_model;
typedef struct nib_session nib_session;
extern nib_tensor *const NIB_NONE;     /* an argument left out, such as a bias */

/* ---- context: every option's zero is its default; size is sizeof the struct, or 0 ---- */
typedef struct nib_ctx_options {
    size_t   size;
    int      threads;                  /* 0: one per physical core */
    uint64_t seed;                     /* 0: 0x6e6962 */
    size_t   memory_limit;             /* bytes; 0: none */
    const char *isa;                   /* highest ISA to use, "avx2"; NULL: NIB_ISA in the
                                          environment, or what the CPU has */
    void  *user;                       /* handed to each function below */
    void *(*alloc)(void *user, size_t size, size_t align); /* NULL: the C library */
    void  (*dealloc)(void *user, void *ptr, size_t size);
    void  (*log)(void *user, int level, const char *message); /* NULL: silence. Level 0: what goes on,
                                          1: something that was asked for cannot be had */
    bool  (*progress)(void *user, const char *what, double done, double total); /* false: cancel */
} nib_ctx_options;

nib_ctx   *nib_ctx_new(const nib_ctx_options *options);     /* NULL: all defaults */
void       nib_ctx_free(nib_ctx *ctx);
int        nib_ctx_threads(const nib_ctx *ctx);             /* that work at once; 0 for NULL */

/* A context keeps the memory of large results that were freed for the next ones, so that a second forward
 * waits for none: results and what is kept are at most an eighth more than results were at once lately, and
 * beside the rest at most that eighth above the most that ever was in use, below memory_limit. Nothing is
 * kept where `alloc` gives memory. This gives all of it back to the system, as nib_ctx_free does. */
void       nib_ctx_trim(nib_ctx *ctx);

/* ---- tensors: dense, or quantized when they have a layout; one handle for both ---- */
typedef enum nib_dtype {               /* an element, nothing else; values are stored in files */
    NIB_F32 = 1, NIB_F16 = 2, NIB_BF16 = 3, NIB_F64 = 4, NIB_C64 = 5,
    NIB_F8_E4M3FN = 8, NIB_F8_E5M2 = 9, NIB_F8_E4M3FNUZ = 10, NIB_F8_E5M2FNUZ = 11, NIB_F8_E8M0 = 12,
    NIB_F6_E2M3 = 13, NIB_F6_E3M2 = 14, NIB_F4_E2M1 = 15,
    NIB_I8 = 16, NIB_I16 = 17, NIB_I32 = 18, NIB_I64 = 19,
    NIB_U8 = 24, NIB_U16 = 25, NIB_U32 = 26, NIB_U64 = 27, NIB_BOOL = 28,
    NIB_I1 = 33, NIB_I2 = 34, NIB_I3 = 35, NIB_I4 = 36, NIB_I5 = 37, NIB_I6 = 38, NIB_I7 = 39,
    NIB_U1 = 49, NIB_U2 = 50, NIB_U3 = 51, NIB_U4 = 52, NIB_U5 = 53, NIB_U6 = 54, NIB_U7 = 55,
} nib_dtype;

const char *nib_dtype_name(nib_dtype dtype); /* "bf16", "f8_e4m3fn"; "?" for no dtype */

enum { NIB_MAX_DIMS = 8 };
typedef struct nib_shape { int ndim; int64_t dim[NIB_MAX_DIMS]; } nib_shape;

nib_tensor *nib_tensor_new(nib_ctx *ctx, nib_dtype dtype, nib_shape shape);
nib_tensor *nib_tensor_wrap(nib_ctx *ctx, nib_dtype dtype, nib_shape shape, const void *data,
                            void (*release)(void *user), void *user); /* e.g. an mmap */
void        nib_tensor_free(nib_tensor *t);
nib_dtype   nib_tensor_dtype(const nib_tensor *t);   /* the element seen from outside: F32, BF16 */
nib_shape   nib_tensor_shape(const nib_tensor *t);   /* logical shape, whatever the packing */
const char *nib_tensor_layout(const nib_tensor *t);  /* "dense", "int4.plain", "gguf.q4_0" */

/* Copy the elements of a dense tensor, row-major whatever its strides, to `size` bytes of yours.
 * Fails: NIB_E_SHAPE unless it has just as many, NIB_E_UNSUPPORTED for a quantized tensor. */
nib_status  nib_tensor_read(const nib_tensor *t, void *to, size_t size);

nib_tensor *nib_linear(const nib_tensor *x,          /* [..., in] */
                       const nib_tensor *weight,     /* [out, in], dense or quantized */
                       const nib_tensor *bias);      /* [out] or NIB_NONE  ->  [..., out] */
nib_tensor *nib_dequantize(const nib_tensor *t);
nib_tensor *nib_keep(nib_tensor *t);                 /* out of the scope, into your hands */
size_t      nib_scope_begin(nib_ctx *ctx);
void        nib_scope_end(nib_ctx *ctx, size_t mark);

/* ---- quantizing: nib_quantize(root, NIB_INT4_WEIGHT_ONLY(.group_size = 32), NULL) ---- */
typedef struct nib_scheme nib_scheme;                /* extend.h */
typedef struct nib_config { const nib_scheme *scheme; size_t size; } nib_config; /* heads every config */
extern const nib_config *const NIB_LEAVE;            /* in a rule: leave these modules float */

typedef enum nib_algo { NIB_ALGO_DEFAULT = 0, NIB_ALGO_MINMAX, NIB_ALGO_MSE, NIB_ALGO_HQQ, NIB_ALGO_ABSMAX, NIB_ALGO_GPTQ } nib_algo;

/* One such struct a scheme; options left zero are torchao's defaults. docs/schemes.md has all. */
typedef struct nib_int8_weight_only {
    nib_config  config;
    const char *granularity;           /* "row", "group" or "tensor" share a scale; NULL: "row" */
    int         group_size;            /* columns of a group, dividing them all; 0: 128 */
} nib_int8_weight_only;
extern const nib_scheme nib_scheme_int8_weight_only;
#define NIB_INT8_WEIGHT_ONLY(...) \
    (&(nib_int8_weight_only){ .config = { &nib_scheme_int8_weight_only, sizeof(nib_int8_weight_only) }, __VA_ARGS__ }.config)

typedef struct nib_int4_weight_only {
    nib_config  config;
    int         group_size;            /* 32, 64, 128 or 256 columns share a scale; 0: 128 */
    nib_algo    algo;                  /* how scale and zero point are chosen: MINMAX or HQQ */
    const char *numerics;              /* "tinygemm" or "plain"; NULL: "plain". HQQ needs tinygemm */
    const char *eps;                   /* smallest scale: "v0.17" for the older; NULL: current torchao's */
} nib_int4_weight_only;
extern const nib_scheme nib_scheme_int4_weight_only;
#define NIB_INT4_WEIGHT_ONLY(...) \
    (&(nib_int4_weight_only){ .config = { &nib_scheme_int4_weight_only, sizeof(nib_int4_weight_only) }, __VA_ARGS__ }.config)

typedef struct nib_intx_weight_only {
    nib_config  config;
    int         bits;                  /* 1 to 8; 0: 8 */
    const char *granularity;           /* "row" or "group"; NULL: "row" */
    int         group_size;            /* 0: 128 */
    const char *mapping;               /* "symmetric", "asymmetric", "symmetric_no_clipping_err" */
    nib_algo    algo;                  /* MINMAX, or HQQ: symmetric, only the scale is chosen */
    const char *scale_dtype;           /* "f32", "f16", "bf16"; NULL: the weight's */
    const char *eps;                   /* as above */
} nib_intx_weight_only;
extern const nib_scheme nib_scheme_intx_weight_only;
#define NIB_INTX_WEIGHT_ONLY(...) \
    (&(nib_intx_weight_only){ .config = { &nib_scheme_intx_weight_only, sizeof(nib_intx_weight_only) }, __VA_ARGS__ }.config)

typedef struct nib_float8_weight_only {
    nib_config  config;
    const char *dtype;                 /* "e4m3fn" or "e5m2"; NULL: "e4m3fn" */
    const char *granularity;           /* "row", "tensor" or "group"; NULL: "row" */
    int         group_size;            /* 0: 128 */
} nib_float8_weight_only;
extern const nib_scheme nib_scheme_float8_weight_only;
#define NIB_FLOAT8_WEIGHT_ONLY(...) \
    (&(nib_float8_weight_only){ .config = { &nib_scheme_float8_weight_only, sizeof(nib_float8_weight_only) }, __VA_ARGS__ }.config)

/* Inputs of these linears are quantized as they come, and integers are multiplied. */
typedef struct nib_int8_dynamic_activation_int8_weight {
    nib_config  config;
    const char *granularity;           /* of weights: "row" or "tensor" share a scale; NULL: "row" */
    const char *act_granularity;       /* of inputs: "row" (each token), "tensor", "same" as weights */
    const char *act_mapping_type;      /* "symmetric" or "asymmetric"; NULL: "symmetric" */
    bool        reduce_range;          /* codes of weights and inputs in [-64, 63] */
    bool        weight_only_decode;    /* in torchao's files; without effect, as there */
} nib_int8_dynamic_activation_int8_weight;
extern const nib_scheme nib_scheme_int8_dynamic_activation_int8_weight;
#define NIB_INT8_DYNAMIC_ACTIVATION_INT8_WEIGHT(...) \
    (&(nib_int8_dynamic_activation_int8_weight){ .config = { &nib_scheme_int8_dynamic_activation_int8_weight, sizeof(nib_int8_dynamic_activation_int8_weight) }, __VA_ARGS__ }.config)

typedef struct nib_int8_dynamic_activation_int4_weight { /* "8da4w": inputs asymmetric, each token */
    nib_config  config;
    const char *granularity;           /* "group" or "row"; NULL: "group" */
    int         group_size;            /* 0: 32 */
    const char *mapping;               /* of weights, as in nib_intx_weight_only */
    nib_algo    algo;                  /* as there */
    const char *scale_dtype, *eps;     /* as there */
} nib_int8_dynamic_activation_int4_weight;
extern const nib_scheme nib_scheme_int8_dynamic_activation_int4_weight;
#define NIB_INT8_DYNAMIC_ACTIVATION_INT4_WEIGHT(...) \
    (&(nib_int8_dynamic_activation_int4_weight){ .config = { &nib_scheme_int8_dynamic_activation_int4_weight, sizeof(nib_int8_dynamic_activation_int4_weight) }, __VA_ARGS__ }.config)

/* optimum-quanto's weights to the bit, and its static activations. With activations, or `unfrozen`,
 * nib_quantize leaves the weights float, and each forward quantizes them anew, until nib_freeze. */
typedef struct nib_quanto {
    nib_config  config;
    const char *weights;               /* "qint8", "qint4", "qint2", "qfloat8_e4m3fn", "qfloat8_e5m2",
                                          "qfloat8_e4m3fnuz"; NULL: "qint8" */
    nib_algo    algo;                  /* ABSMAX for 8 bits, MINMAX or HQQ for 4 and 2; 0: the first.
                                          Integers also MSE, and GPTQ: error feedback from what
                                          calibrating feeds: float until nib_freeze */
    const char *activations;           /* "none" (also NULL), "qint8", or one of the qfloat8: inputs and
                                          outputs of modules, with scales that calibrating finds */
    float       momentum;              /* of scales while calibrating; 0: 0.9 */
    const char *streamline;            /* "on" (also NULL): outputs that no op takes as codes stay float */
    const char *calibration;           /* "nibble" (also NULL), or "upstream": its momentum of inputs
                                          (0.9), first scale of 1 and streamlining, as they are */
    bool        unfrozen;              /* keep float weights until nib_freeze */
    const char *inputs;                /* "linear" (also NULL): what comes into linears is quantized, as
                                          upstream has it; "all": into convolutions too, so that they
                                          multiply codes by codes wherever their inputs come from */
    bool        reduce_range;          /* codes of "qint8" activations in [-64, 63], scales of absmax / 63:
                                          sums fit 16 bits, which machines without VNNI are faster with */
} nib_quanto;
extern const nib_scheme nib_scheme_quanto;
#define NIB_QUANTO(...) \
    (&(nib_quanto){ .config = { &nib_scheme_quanto, sizeof(nib_quanto) }, __VA_ARGS__ }.config)

/* Which modules. NULL or a zeroed select means every Linear but the output head. A weight that
 * the scheme cannot take fails the call and names the layer, unless leave_unfit is set. */
typedef bool nib_filter(const nib_module *module, const char *name, void *user);
typedef struct nib_report_row {        /* one weight; strings borrowed */
    const char *name, *scheme, *why_left; size_t bytes_before, bytes_after; double sqnr_db, max_error;
    int64_t weights;                   /* how many numbers it has */
} nib_report_row;
typedef struct nib_report {
    size_t size; int matched, quantized, left; size_t bytes_before, bytes_after;
    void (*row)(void *user, const nib_report_row *row); void *user;   /* NULL: totals only */
    size_t bytes_weights, bytes_index, bytes_config; /* of the files written, or of a dry run to be */
    const char *format;                /* that they are written in; NULL: nothing was to be */
} nib_report;
typedef struct nib_select {
    size_t      size;
    const char *include, *exclude;     /* globs over dotted names, '*' crosses dots: "model.layers.*.mlp.*" */
    nib_filter *filter; void *user;    /* asked about what the globs let through */
    bool        head, leave_unfit;
    nib_report *report;                /* filled when not NULL */
} nib_select;

/* All or nothing: on failure the model is as it was. Matching no module at all is a failure. */
nib_status nib_quantize(nib_module *root, const nib_config *config, const nib_select *select);

/* Let the integer weights of a tree that meet float inputs meet inputs quantized as they come: `how` is
 * "int8", each token with a scale of its own. Weights stay as they are; what is computed changes, so
 * nothing does this unasked. Fails where a Linear has float codes (fp8), or none has integer ones. */
nib_status nib_quantize_inputs(nib_module *root, const char *how);
/* What the Linears of a tree multiply with: "float", "int8" where every quantized one has its inputs
 * quantized, "int8 and float" where some have; "static 8 bits" with calibrated scales. */
const char *nib_inputs_name(nib_module *root);

typedef struct nib_rule { const char *glob; const nib_config *config; } nib_rule; /* first match wins */
nib_status nib_quantize_rules(nib_module *root, const nib_rule *rules, size_t n, const nib_select *select);
nib_tensor *nib_quantize_tensor(const nib_tensor *weight, const nib_config *config);

/* ---- static activations: quantize, run data through, freeze ----
 *   nib_quantize(root, NIB_QUANTO(.weights = "qint4", .activations = "qint8"), NULL);
 *   nib_calibrate_begin(root, NULL, NULL);  ... forwards ...  nib_calibrate_end(root, NULL);
 *   nib_freeze(root);
 * Every forward of the context of `root` between the two calls moves the scales of the modules it
 * passes: "input_scale" and "output_scale", 1 before. With a config, begin first quantizes what
 * `select` picks; NULL: the modules carry one already, or that is a failure. */
typedef struct nib_calibrated {        /* one module; strings borrowed */
    const char *name; float input_scale, output_scale;
    bool inputs, outputs;              /* are quantized; outputs: unless streamlined away */
    int64_t batches;                   /* that passed; 0: never reached */
} nib_calibrated;
typedef struct nib_calibration {
    size_t size; int modules, streamlined, missed;  /* missed: no forward passed them */
    void (*row)(void *user, const nib_calibrated *row); void *user;
} nib_calibration;
nib_status nib_calibrate_begin(nib_module *root, const nib_config *config, const nib_select *select);
nib_status nib_calibrate_end(nib_module *root, nib_calibration *report); /* NULL: no report */

/* Quantize the float weights of every module that carries a config, once; all or none. Results stay
 * the same to the bit. Fails, naming the module, where activations were never calibrated. */
nib_status nib_freeze(nib_module *root);

/* The same from file to file, as a stream, in bounded memory; and the proof that a file is what it says. */
typedef struct nib_file_options {
    size_t size;
    const char *format;                /* "torchao", "quanto", "awq", "native"; NULL: that of the schemes' system,
                                          or native where systems mix or it has no word for a stack */
    const char *nonfinite;             /* "error", "keep", "zero"; NULL: "error" */
    bool dry_run, resume, overwrite;
} nib_file_options;
nib_status nib_quantize_file(nib_ctx *ctx, const char *from, const char *to, const nib_rule *rules, size_t n,
                             const nib_select *select, const nib_file_options *options);
nib_status nib_verify_file(nib_ctx *ctx, const char *path, const char *source, nib_report *report); /* NIB_E_DIFFERS */

nib_config *nib_config_parse(const char *text);      /* "int4_weight_only:group_size=32" */
void        nib_config_free(nib_config *config);     /* only for parsed ones */

/* ---- models: loaded once, shared read-only ---- */
typedef struct nib_load_options {
    size_t size;
    nib_dtype dtype;                   /* of float weights; 0: as in the file */
    const nib_config *quantize;        /* quantize a float model while loading */
    bool no_mmap;
    const char *activations;           /* "int8": nib_quantize_inputs, after quantizing; NULL: as the schemes say */
} nib_load_options;
nib_model  *nib_model_load(nib_ctx *ctx, const char *path, const nib_load_options *options); /* folder */
/* Write a model, quantized or not, as a folder like the one it was loaded from; `path` must not exist.
 * `format` as in nib_file_options. Weights are the source's in name and file. */
nib_status  nib_model_save(const nib_model *model, const char *path, const char *format);
void        nib_model_free(nib_model *model);
nib_module *nib_model_root(nib_model *model);        /* borrowed; change it before the first session */

/* Run data through a model, to calibrate it or to watch it: each sample by itself from its first
 * token on. A file of text is cut into samples of `context` tokens; of one that ends in .jsonl each line
 * is an object whose "text" is a sample, cut off at `context` tokens. Arrays of .npy, of .npz ("input_ids",
 * or the only one) are token ids as they run, [N, T] samples, or [T] to be cut. Of a file that has more
 * than `samples`, those taken are spread evenly over it. With no file a decoder of text makes its data
 * up: it begins as texts do and goes on with tokens drawn from its own distribution, the same on every
 * machine; not while activations are being calibrated, which need real data. A model that hears
 * (Whisper) takes a sound, or a folder of them, and says what it hears, at most `context` tokens a
 * window. A model that sees takes pictures: idx files as MNIST has them, plain or packed by gzip, .npy
 * or .npz ("pixel_values"), u8 or f32 [N, C, H, W], [N, H, W] of one channel. */
typedef struct nib_data {
    size_t size;
    const char *file;                  /* NULL: made up */
    int64_t samples;                   /* at most, of sounds: files; 0: 128 */
    int context;                       /* tokens; 0: 512, or as many as the model takes */
    int64_t tokens;                    /* out: that ran */
    int64_t pictures;                  /* out: that ran, of a model that sees */
} nib_data;
nib_status  nib_model_feed(nib_ctx *ctx, nib_model *model, nib_data *data);

/* Make a float model easier to quantize without changing what it computes: channels of a norm (and of
 * linears that feed another one by one) are divided by what the columns of the linears after them are
 * multiplied with, rounded to the dtype of the weights. With `smooth` > 0 SmoothQuant's choice,
 * largest |x|^smooth / largest |w|^(1 - smooth); with a config, the powers of the mean |x| are
 * tried for which its codes of the weights miss the outputs least (AWQ). Llama, OPT and BLOOM.
 * Fails: NIB_E_UNSUPPORTED where no such places are known, NIB_E_DIFFERS where logits changed. */
nib_status  nib_model_smooth(nib_ctx *ctx, nib_model *model, nib_data *data, double smooth,
                             const nib_config *awq);

/* What quantizing cost, layer by layer and in all: each quantized module of `model` runs on what its
 * twin in `reference`, the float model, is given, so that no layer pays for another. Then the worst ones
 * by that measure are made float in turn, to see which exclusion would help the whole most. Models keep
 * what they were. */
typedef struct nib_compared {          /* one module, of the outputs; strings borrowed */
    const char *name; double sqnr_db, cosine, max_error;
    double kl_without;                 /* of the model where this one is float; NaN: not tried */
} nib_compared;
typedef struct nib_comparison {
    size_t size;
    void (*row)(void *user, const nib_compared *row); void *user; /* worst first */
    int try_worst;                     /* in: how many are tried as exclusions; 0: 5 */
    double kl, same_top;               /* out: mean divergence of the next token, share of equal tops */
    char exclusion[512]; double kl_without;  /* out: that would help most; "" where none would */
    int modules;                       /* out: compared */
} nib_comparison;
nib_status  nib_model_compare(nib_ctx *ctx, nib_model *model, nib_model *reference, nib_data *data,
                              nib_comparison *comparison);

/* ---- sessions: one conversation each; n of them advance together and read the weights once ---- */
typedef enum nib_compile_when {        /* the same bits either way */
    NIB_COMPILE_AUTO = 0,              /* where it can be: up to 8 sessions together, not while modes watch
                                          modules or RoPE's frequencies grow with the length */
    NIB_COMPILE_ALWAYS,                /* a model whose step cannot be compiled is a failure */
    NIB_COMPILE_NEVER,
} nib_compile_when;
typedef struct nib_session_options {
    size_t      size;
    int         max_tokens;            /* 0: what the model allows */
    float       temperature;           /* 0: greedy */
    float       top_p, min_p, repetition_penalty;
    int         top_k;
    uint64_t    seed;
    bool        ignore_eos;
    nib_compile_when compile;          /* the step from token to token: see graph.h */
    const char *kv;                    /* how the cache keeps keys and values: "float" (also NULL),
                                          "int8", "int4", "fp8", or "int8_torchao" */
    const char *tune;                  /* a file that keeps what a compiled step measures, as in
                                          graph.h; NULL: it measures in each session */
} nib_session_options;
nib_session *nib_session_new(nib_ctx *ctx, const nib_model *model, const nib_session_options *options);
nib_status   nib_session_feed(nib_session *s, const int32_t *tokens, size_t n);

/* One more token; NIB_END with -1 when an end was sampled (it is not given out) or max_tokens, which
 * counts prompt and answer, are reached. Feeding more goes on after an end. */
nib_status   nib_session_next(nib_session *s, int32_t *token);

/* The same for n sessions of one model and context; NIB_END when none of them has more to say. */
nib_status   nib_sessions_step(nib_session *const *s, size_t n, int32_t *tokens);
const float *nib_session_logits(const nib_session *s, size_t *count); /* borrowed until the next step */
void         nib_session_free(nib_session *s);       /* a failed session refuses calls with the same cause */

/* ---- knowing what it cost ---- */
/* How good a model is on a file, with the tokenizer of the model's folder. Tasks:
 *   "perplexity"  a text; protocol "half" (tokens of the second half of each window of `context`
 *                 ids) or "full" (all); with a reference also how far the two models differ
 *   "hellaswag"   JSON lines; acc, and acc_norm by log-likelihood per character
 *   "lambada"     JSON lines; acc and perplexity of the last word
 * Protocol "quanto" is what optimum-quanto's charts show: of a text running_perplexity, the mean of the
 * perplexities after each window, which is no perplexity (that stands beside it); of lambada acc of
 * the last token instead of the last word.
 *   "pictures"    pictures as nib_data has them and `labels`, integers [N] in a file of the same kinds;
 *                 acc, and with a reference kl_mean and same_top */
typedef struct nib_eval {
    size_t size;
    const char *protocol; int context; const nib_model *reference;          /* in; zero: the task's default */
    double perplexity, perplexity_error, bits_per_byte, kl_mean, kl_p99, same_top, acc, acc_norm, acc_error;
    int64_t tokens;
    double acc_norm_error;
    int64_t items;
    int64_t limit;                     /* in: this many items at most; 0: all */
    const char *kv;                    /* in: the model's cache, as in nib_session_options; the
                                          reference's is float */
    double running_perplexity;         /* of protocol "quanto" */
    const char *labels;                /* in: of "pictures" */
} nib_eval;
nib_status  nib_eval_file(nib_ctx *ctx, const nib_model *model, const char *task, const char *file, nib_eval *eval);
nib_status  nib_profile_begin(nib_ctx *ctx);
nib_status  nib_profile_end(nib_ctx *ctx, void (*row)(void *user, const char *op, int64_t calls, double ms, double bytes), void *user);
/* What this machine can do at most, measured now: a figure means something beside the limit of the same
 * minute. A round takes some 10 ms; interleave rounds with those of what is judged, and take medians. */
typedef enum nib_limit {               /* per second, on all threads of a context together */
    NIB_LIMIT_READ_1, NIB_LIMIT_READ_2,           /* bytes from memory, 1 or 2 streams a thread, 4 KiB pages */
    NIB_LIMIT_READ_1_HUGE, NIB_LIMIT_READ_2_HUGE, /* the same where pages have 2 MiB */
    NIB_LIMIT_F32,                     /* multiplications and additions of f32 */
    NIB_LIMIT_U8, NIB_LIMIT_U4,        /* of 8-bit, of 4-bit codes with 8-bit ones, exact, into int32 */
    NIB_LIMITS,
} nib_limit;
typedef struct nib_limits nib_limits;
nib_limits *nib_limits_new(nib_ctx *ctx);             /* takes 640 MiB to read from */
void        nib_limits_free(nib_limits *limits);
/* One round with the threads and the instruction set of `ctx`, any context. NaN for NULL. */
double      nib_limits_measure(const nib_limits *limits, nib_ctx *ctx, nib_limit which);
/* Entry i of what this build can do, with one line about it: "scheme", "format", "arch", "kernel" for
 * the kernels that this machine can run, "reference" for what runs through plain C only. NULL: no more. */
const char *nib_list(const char *kind, size_t i, const char **doc);
const char *nib_version(void);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
