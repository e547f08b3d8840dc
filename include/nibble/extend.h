#ifndef NIBBLE_EXTEND_H
#define NIBBLE_EXTEND_H
#include <nibble/nibble.h>
typedef enum nib_field_type { NIB_FIELD_INT, NIB_FIELD_FLOAT, NIB_FIELD_BOOL, NIB_FIELD_ENUM, NIB_FIELD_NAME } nib_field_type;
typedef struct nib_field {             /* one option, described once, used everywhere */
    const char *name; size_t offset; nib_field_type type;
    double fallback, min, max;         /* fallback: what zero stands for */
    const char *const *names, *doc;    /* enum spellings, NULL-ended; one sentence */
} nib_field;
#define NIB_FIELD(T, member, ...) { .name = #member, .offset = offsetof(T, member), __VA_ARGS__ }

typedef enum nib_zero {                /* what the zero means; files and conversions depend on it */
    NIB_ZERO_NONE = 0,                 /* w = s q */
    NIB_ZERO_POINT,                    /* w = s (q - z), z an integer in code units */
    NIB_ZERO_SHIFT,                    /* w = s q - z, z in weight units (quanto) */
    NIB_ZERO_MID,                      /* w = s (q - mid) + z, mid = 2^(bits-1) (tinygemm) */
} nib_zero;

typedef struct nib_qdesc {             /* all that must be known to read codes back */
    nib_dtype code;                    /* NIB_U4, NIB_I8, NIB_F8_E4M3FN ... */
    nib_dtype scale_dtype, zero_dtype; /* what a file stores */
    nib_dtype math;                    /* the dtype in which dequantizing rounds */
    nib_zero  zero_kind;
    nib_shape shape, block;            /* block [1, 32]: 32 columns share one scale */
    float     outer;                   /* second-level scale (NVFP4); 0: none */
} nib_qdesc;

typedef struct nib_codes {             /* codes of some rows, before packing: the common currency */
    nib_qdesc desc;
    void  *q; int code_bytes;          /* 1, or 2 for large codebooks; row-major */
    float *scale, *zero;               /* one per block; values exact in the dtypes above */
} nib_codes;

enum { NIB_MAX_PARTS = 6 };
typedef struct nib_part { const char *suffix; nib_dtype dtype; nib_shape shape; } nib_part;
typedef struct nib_layout {            /* bytes: of a file, or of a kernel */
    const char *name;
    int        (*parts)(const nib_qdesc *desc, nib_part parts[NIB_MAX_PARTS]); /* each mapped where it lies */
    nib_status (*pack)(void *const part[], const nib_codes *rows, int64_t row);  /* any rows, in any order */
    nib_status (*unpack)(nib_codes *rows, void *const part[], const nib_qdesc *desc, int64_t row); /* exact inverse */
    int        (*bands)(const nib_qdesc *desc); /* distant row ranges that share bytes (quanto int4: 2, int2: 4), to be
                                                   streamed together; NULL: 1 */
} nib_layout;

typedef enum nib_act_when { NIB_ACT_NONE = 0, NIB_ACT_DYNAMIC, NIB_ACT_STATIC } nib_act_when;
typedef struct nib_act {               /* how a module's input or output is quantized; lives on the module */
    nib_act_when when; nib_dtype dtype; bool symmetric; nib_shape block; float scale; int32_t zero;
} nib_act;

typedef struct nib_site { const char *kind, *name; nib_shape shape; nib_dtype dtype; } nib_site;
typedef struct nib_stats nib_stats;    /* what a first pass over the rows, or calibration, left */
struct nib_scheme {
    const char *name, *doc, *system;   /* system: whose default file format and numerics */
    size_t config_size; const nib_field *fields; int nfields;
    bool whole;                        /* needs all rows at once (HQQ); false: rows stream */
    nib_status (*plan)(const nib_config *c, const nib_site *site, nib_qdesc *weight, nib_act *in, nib_act *out);
    nib_status (*measure)(const nib_config *c, nib_stats *stats, const nib_tensor *rows);       /* optional first pass */
    nib_status (*quantize)(const nib_config *c, const nib_stats *stats, const nib_tensor *rows, nib_codes *out);
};

typedef struct nib_call_args nib_call_args;
typedef struct nib_op {                /* backward stands beside forward in the op's file */
    const char *schema;                /* ATen's text: arguments, defaults, views, mutations */
    nib_status (*shape)(const nib_call_args *args, nib_shape *out, nib_dtype *dtype);
    nib_status (*backward)(const nib_call_args *args);
} nib_op;
typedef struct nib_impl {              /* one row of impl_list.h; the first that accepts runs */
    const nib_op *op; const char *device; const char *layouts; /* "x:dense w:int4.*" */
    bool       (*accepts)(const nib_call_args *args);
    nib_status (*run)(const nib_call_args *args);
} nib_impl;
typedef struct nib_mode {              /* stacked on a context; off inside its own functions */
    bool       (*before_op)(void *self, const nib_op *op, nib_call_args *args); /* true: answered in its place */
    nib_status (*after_op)(void *self, const nib_op *op, nib_call_args *args);  /* may replace results */
    nib_status (*enter_module)(void *self, nib_module *module, nib_tensor **input);
    nib_status (*leave_module)(void *self, nib_module *module, nib_tensor **output);
} nib_mode;
nib_status nib_mode_push(nib_ctx *ctx, const nib_mode *mode, void *self);
nib_status nib_mode_pop(nib_ctx *ctx);
#endif
