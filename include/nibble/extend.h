/* extend.h: write your own scheme, layout, op or mode. Not ABI-stable.
 *
 * Each is one const struct of data and functions in a file of its own, named in a list:
 *   scheme   floats -> codes             src/quant/scheme_list.h
 *   layout   codes <-> bytes             src/quant/layout_list.h
 *   op       tensors -> tensors          src/op/op_list.h, its implementations in impl_list.h
 *   mode     watches or answers ops and modules while it is pushed on a context */
#ifndef NIBBLE_EXTEND_H
#define NIBBLE_EXTEND_H
#include <nibble/nibble.h>
#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* ---- fields: one option, described once; parsed, printed, checked and documented from here ---- */
typedef enum nib_field_type {
    NIB_FIELD_INT,                     /* int */
    NIB_FIELD_FLOAT,                   /* float */
    NIB_FIELD_BOOL,                    /* bool */
    NIB_FIELD_ENUM,                    /* int, an index into names; names[0] is the default */
    NIB_FIELD_NAME,                    /* const char *, one of names or NULL for names[0] */
} nib_field_type;

typedef struct nib_field {
    const char *name;                  /* as written: "group_size" */
    size_t offset;                     /* in the struct that holds it */
    nib_field_type type;
    double fallback, min, max;         /* numbers: what zero stands for, and the range */
    const double *among; int namong;   /* numbers: the only values allowed; NULL: the range */
    const char *const *names;          /* ENUM and NAME: the spellings, ended by NULL */
    const char *doc;                   /* one sentence */
} nib_field;
#define NIB_FIELD(T, member, ...) { .name = #member, .offset = offsetof(T, member), __VA_ARGS__ }

/* ---- codes: what a quantized matrix is, apart from the bytes that hold it ---- */
typedef enum nib_zero {                /* what the zero means; files and conversions depend on it */
    NIB_ZERO_NONE = 0,                 /* w = s q */
    NIB_ZERO_POINT,                    /* w = s (q - z), z an integer in code units */
    NIB_ZERO_SHIFT,                    /* w = s q - z, z in weight units (quanto) */
    NIB_ZERO_MID,                      /* w = s (q - mid) + z, mid = (qmin + qmax + 1) / 2: 8 for u4
                                          (tinygemm), 0 for i4 (torchao's plain int4) */
} nib_zero;

/* All that must be known to read codes back. A tensor of any rank is a matrix here: [rows, cols]
 * with rows the output channels (experts and channels of a stack of linears multiplied) and cols
 * everything that one output sums over. Block [block_rows, block_cols] shares one scale; blocks
 * lie in a grid of ceil(rows / block_rows) x ceil(cols / block_cols), row-major. */
typedef struct nib_qdesc {
    nib_dtype code;                    /* NIB_U4, NIB_I8, NIB_F8_E4M3FN ... */
    nib_dtype scale_dtype, zero_dtype; /* what a file stores; 0 where there is no zero */
    nib_dtype math;                    /* each step of dequantizing rounds to this; also the dtype
                                          that the weight had and has again when dequantized */
    nib_zero  zero_kind;
    nib_shape shape;                   /* of the weight, whatever its rank */
    int64_t   rows, cols, block_rows, block_cols;
    float     outer;                   /* second-level scale (NVFP4); 0: none */
} nib_qdesc;

/* Codes of some rows before packing: the common currency of schemes, layouts and conversions.
 * desc.rows is the number of rows held here; block_rows > rows means that they share a block. */
typedef struct nib_codes {
    nib_qdesc desc;
    void  *q; int code_bytes;          /* [rows, cols]; 1 byte each (signed codes as int8_t, f8 as
                                          bits), or 2 for large codebooks */
    float *scale, *zero;               /* one per block; values exact in the dtypes of desc; zero is
                                          NULL where zero_kind is NIB_ZERO_NONE */
} nib_codes;

/* ---- layouts: bytes of a file, or of a kernel ---- */
enum { NIB_MAX_PARTS = 6 };
enum {                                 /* a part's row_dim when its rows follow no dimension */
    NIB_ROWS_SHARED = -1,              /* all rows share this part */
    NIB_ROWS_FLAT = -2,                /* every row has an equal share of the bytes, in order;
                                          when banded, every row of a band */
};
typedef struct nib_part {
    const char *suffix;                /* "qdata", "scale": names are built by the file format */
    nib_dtype dtype; nib_shape shape;  /* a weight of rank > 2 is a stack of matrices: every part then
                                          begins with the weight's leading dimensions (1s if shared),
                                          but a flat one */
    int  row_dim;                      /* the dimension that follows the rows of one matrix, counted
                                          after the leading ones (0, or 1 for a transposed part);
                                          or NIB_ROWS_SHARED, NIB_ROWS_FLAT */
    int  row_unit;                     /* rows that one index of row_dim stands for; 0 is 1. Runs of
                                          rows begin at multiples of it */
    bool banded;                       /* bytes hold one row of every band (see bands) */
} nib_part;

typedef struct nib_layout {
    const char *name, *doc;            /* name: that of its file, "int4_plain" */
    /* True when this layout can hold such codes exactly. */
    bool (*holds)(const nib_qdesc *desc);
    /* Dtype and shape of each part; returns how many. Sizes are known before work begins. */
    int  (*parts)(const nib_qdesc *desc, nib_part parts[NIB_MAX_PARTS]);
    /* Whole parts of the matrix codes->desc describes. Rows of a larger matrix are packed as a
     * matrix of their own: the bytes then are a run of each part along its row_dim. Where bands(desc)
     * is B > 1, `codes` hold B equal runs of rows, one from each B-th of the matrix, in order; a
     * banded part's bytes are then one run, and any other part's B runs. */
    void (*pack)(void *const part[], const nib_codes *codes);
    /* Rows [row, row + codes->desc.rows) of the whole matrix that desc describes; inverse of pack. */
    void (*unpack)(nib_codes *codes, const void *const part[], const nib_qdesc *desc, int64_t row);
    /* How many distant runs of rows share bytes: 1, quanto int4 2, int2 4; 0: not separable, all
     * rows must be packed at once. NULL: 1. */
    int  (*bands)(const nib_qdesc *desc);
    bool kernel;                       /* what a kernel reads: made when a weight is prepared, never
                                          what a file holds */
    bool views;                        /* an activation: one scale, row-major codes in part 0, so that
                                          another shape, or a run of rows, is a view of them */
    const char *wants;                 /* optional: what holds() asks for, in words, for its errors */
} nib_layout;

/* ---- the steps by themselves, on dense matrices and codes in the caller's memory ----
 * codes->desc says what is wanted: dtypes, blocks, shape (all rows of w: desc.rows = rows of w). The
 * arithmetic is torchao 0.18's: every step of choosing rounds to the dtype of w, quantizing to that
 * of w and scale together (f32 when they differ), dequantizing to desc.math. */
typedef enum nib_mapping {
    NIB_MAP_SYMMETRIC = 0,             /* s = max(-min, max) / ((qmax - qmin) / 2), zero 0 */
    NIB_MAP_ASYMMETRIC,                /* s = (max - min) / (qmax - qmin), zero = qmin - rne(min / s);
                                          min <= 0 <= max is forced, so that 0.0 has a code */
    NIB_MAP_SYMMETRIC_NO_CLIPPING,     /* s = max(min / qmin, max / qmax), zero 0 */
    NIB_MAP_MIN_TO_MAX,                /* s = (max - min) / (qmax - qmin), zero = min + s mid, a float */
    NIB_MAP_ABSMAX,                    /* s = max |w| / largest finite code; float codes, no zero */
} nib_mapping;

/* Fill codes->scale and codes->zero from w, a dense float [rows, cols] matrix.
 *   eps   the smallest scale; ABSMAX has none, and a block of zeros then has scale 0
 * Fails: NIB_E_SHAPE, NIB_E_DTYPE when w and desc disagree, NIB_E_ARGUMENT when the mapping gives
 * another kind of zero than desc says. */
nib_status nib_choose_qparams(const nib_tensor *w, nib_mapping mapping, float eps,
                              nib_codes *codes);

/* Fill codes->q from w and the scale and zero in codes. NIB_ZERO_NONE and POINT multiply by the
 * rounded reciprocal of the scale, MID and float codes divide. Ties go to even, NaN to code 0
 * (integers) or NaN (floats), 0 / 0 to code 0. NIB_ZERO_SHIFT: rne((w + z) / s). */
nib_status nib_quantize_block(const nib_tensor *w, nib_codes *codes);

/* [rows, cols] floats, each exact in desc.math. */
nib_status nib_dequantize_block(const nib_codes *codes, float *out);

/* The parts that such codes have in a layout, by name. Raises NIB_E_UNSUPPORTED for codes that the
 * layout cannot hold, NIB_E_ARGUMENT for an unknown name. */
nib_status nib_layout_parts(const char *layout, const nib_qdesc *desc, nib_part parts[NIB_MAX_PARTS],
                            int *count);

/* All rows into parts of those sizes, and rows [row, row + codes->desc.rows) back. */
nib_status nib_pack(const char *layout, const nib_codes *codes, void *const part[]);
nib_status nib_unpack(const char *layout, const nib_qdesc *desc, const void *const part[],
                      int64_t row, nib_codes *codes);

/* The same codes, scales and zeros in another layout, "awq_v2": nothing is rounded, so that it comes
 * back as it was. Owned by the open scope. Raises NIB_E_ARGUMENT for a dense tensor or an unknown
 * name, NIB_E_UNSUPPORTED for codes that the layout cannot hold, also where it has too few bits for
 * one of the values. */
nib_tensor *nib_repack(const nib_tensor *t, const char *layout);

/* ---- schemes ---- */
typedef enum nib_act_when { NIB_ACT_NONE = 0, NIB_ACT_DYNAMIC, NIB_ACT_STATIC } nib_act_when;
typedef struct nib_act {               /* how a module's input or output is quantized; zeroed: it is not */
    nib_act_when when;
    nib_dtype dtype;                   /* NIB_I8, or NIB_I7 for codes in [-64, 63] (reduce_range) */
    bool symmetric;                    /* no zero point */
    nib_shape block;                   /* what shares a scale: {2, {1, K}} each row, {2, {0, K}} all rows */
    float scale; int32_t zero;         /* STATIC only */
    float eps;                         /* DYNAMIC: the smallest scale */
} nib_act;

typedef struct nib_site {              /* where a weight stands */
    const char *kind;                  /* "linear", "experts" (a stack of linears), "conv2d" */
    const char *name;                  /* dotted, without .weight; for messages */
    nib_shape shape; nib_dtype dtype;  /* of the weight: F32, F16 or BF16 */
} nib_site;

typedef struct nib_stats {             /* what a first pass over the rows left; zeroed before it */
    bool any; float min, max;
} nib_stats;

/* Rows [row, row + n) of a weight as a dense tensor [n, cols] in the weight's dtype, and its codes
 * with q, scale and zero allocated by the caller. `whole` schemes always get all rows. */
struct nib_scheme {
    const char *name, *doc;
    const char *system;                /* "torchao", "quanto", "native": default format */
    const char *const *aliases;        /* pairs {spelling, what it stands for}, ended by NULL:
                                          "qint4", "quanto:weights=qint4" */
    size_t config_size; const nib_field *fields; int nfields;
    /* Optional: contradictions between fields; ranges are checked already. */
    nib_status (*check)(const nib_config *c);
    /* What the codes will be. Fails with NIB_E_SHAPE or NIB_E_DTYPE when the weight does not fit. */
    nib_status (*plan)(const nib_config *c, const nib_site *site, nib_qdesc *weight, nib_act *in,
                       nib_act *out);
    bool       (*whole)(const nib_config *c);      /* needs all rows at once (HQQ); NULL: false */
    /* Optional: what becomes of inputs and outputs of a module of this kind, "linear", "conv2d" or
     * "layer_norm", and whether its weight is quantized. False: the scheme leaves such modules. */
    bool       (*module)(const nib_config *c, const char *kind, bool *weight, nib_act *in, nib_act *out);
    /* Optional first pass, any runs of rows in any order. */
    nib_status (*measure)(const nib_config *c, nib_stats *stats, const nib_tensor *rows);
    nib_status (*quantize)(const nib_config *c, const nib_stats *stats, const nib_tensor *rows,
                           nib_codes *out);
};
const nib_scheme *nib_scheme_find(const char *name);   /* by name or alias; NULL, unraised, if unknown */

/* ---- ops ---- */
enum { NIB_MAX_INPUTS = 8, NIB_MAX_ATTRS = 12, NIB_MAX_OUTPUTS = 4 };
typedef union nib_attr { int64_t i; double d; const char *s; } nib_attr;
typedef struct nib_op nib_op;
typedef struct nib_call_args {
    nib_ctx *ctx; const nib_op *op;
    int nin, nattr, nout;
    const nib_tensor *in[NIB_MAX_INPUTS];  /* the schema's Tensor arguments in order; NIB_NONE: absent */
    nib_attr attr[NIB_MAX_ATTRS];          /* its other arguments in order, all of them */
    nib_tensor *out[NIB_MAX_OUTPUTS];      /* made by the door from `shape`, owned by the open scope */
} nib_call_args;

/* Gradients of one call, for nib_op.backward. All are dense f32, contiguous. */
typedef struct nib_backward_args {
    const nib_call_args *call;             /* as it ran. What nib_op.saves does not name has a shape
                                              and a dtype, and no values */
    const nib_tensor *out[NIB_MAX_OUTPUTS];/* of each result, in its shape; an op without results has
                                              its first input, which it changes, for one */
    bool wants[NIB_MAX_INPUTS];            /* which of these to make: */
    nib_tensor *in[NIB_MAX_INPUTS];        /* of each input, in its shape, owned by the open scope (or
                                              one of `out`); left NULL: zeros */
} nib_backward_args;
#define NIB_SAVES_IN(i)  (1u << (i))
#define NIB_SAVES_OUT(i) (1u << (NIB_MAX_INPUTS + (i)))

struct nib_op {                        /* backward stands beside forward in the op's file */
    const char *name;                  /* "linear" */
    const char *schema;                /* ATen's text: arguments, defaults, views, mutations */
    int nout;                          /* -1: as many as shape gives a dtype for */
    /* Checks the arguments and gives shape and dtype of each output. */
    nib_status (*shape)(const nib_call_args *args, nib_shape *out, nib_dtype *dtype);
    nib_status (*backward)(nib_backward_args *args); /* NULL: a tape refuses the op by name */
    uint32_t saves;                    /* whose values backward reads: NIB_SAVES_IN(0) | ... */
    /* Makes an output that is not dense; caller owns. NULL: a dense tensor of that dtype and shape. */
    nib_tensor *(*output)(const nib_call_args *args, int index, nib_dtype dtype, nib_shape shape);
    /* Are these arguments, quantized activations among them, for shape and implementations as they
     * are? NULL: never, the door has a table for such and else hands over floats. */
    bool (*codes)(const nib_call_args *args);
};
typedef struct nib_impl {              /* one row of impl_list.h; the first that accepts runs */
    const nib_op *op; const char *device; const char *layouts; /* "x:dense w:int4.*", for people */
    bool       (*accepts)(const nib_call_args *args);          /* NULL: always */
    nib_status (*run)(const nib_call_args *args);
    int variants;                      /* ways of running that give the same bits: nib_compile measures
                                          which is fastest. 0: one */
} nib_impl;

/* ---- modes: stacked on a context; a mode is off inside its own functions ---- */
typedef struct nib_mode {              /* any function may be NULL */
    const char *name;
    bool       (*before_op)(void *self, const nib_op *op, nib_call_args *args); /* true: answered in its place */
    nib_status (*after_op)(void *self, const nib_op *op, nib_call_args *args);  /* may replace results */
    nib_status (*enter_module)(void *self, nib_module *module, nib_tensor **input);
    nib_status (*leave_module)(void *self, nib_module *module, nib_tensor **output);
} nib_mode;
nib_status nib_mode_push(nib_ctx *ctx, const nib_mode *mode, void *self);
nib_status nib_mode_pop(nib_ctx *ctx);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
