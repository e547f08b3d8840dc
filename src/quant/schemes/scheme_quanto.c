/* quanto: weights as optimum-quanto 0.2.7 quantizes them on a CPU, to the bit of its state_dict().
 * Every step rounds to the dtype of the weight; quotients are divisions, ties go to even.
 *
 *   8 bits       scale = absmax / qmax, one for each row     q = clamp(round(w / scale))
 *                with float8 codes cast instead of rounded
 *   4 and 2      scale = (max - min) / (2^bits - 1), shift = -min, one for each group
 *                q = clamp(round((w + shift) / scale))
 *                "hqq" then moves the shifts
 *
 * A quotient that is not a number (0 / 0: a row of zeros) gives code 0. */
#include <string.h>

#include "base/error.h"
#include "base/parallel.h"
#include "quant/codes.h"
#include "quant/hqq_shift.h"
#include "quant/mse.h"
#include "quant/quanto.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

typedef struct weight_type {
    const char *name;
    nib_dtype code;
    int bits;
    float largest; /* what absmax becomes (8 bits), or the steps of a range */
} weight_type;

static const weight_type types[] = {
    {"qint8", NIB_I8, 8, 127},
    {"qint4", NIB_U4, 4, 15},
    {"qint2", NIB_U2, 2, 3},
    {"qfloat8_e4m3fn", NIB_F8_E4M3FN, 8, 448},
    {"qfloat8_e5m2", NIB_F8_E5M2, 8, 57344},
    {"qfloat8_e4m3fnuz", NIB_F8_E4M3FNUZ, 8, 240},
};
static const char *const type_names[] = {
    "qint8", "qint4", "qint2", "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz", NULL};
/* Spelled as quanto does, at the places of nib_algo. */
static const char *const algo_names[] = {"default", "max", "mse", "hqq", "absmax", "gptq", NULL};
_Static_assert(NIB_ALGO_MINMAX == 1 && NIB_ALGO_MSE == 2 && NIB_ALGO_HQQ == 3 &&
                   NIB_ALGO_ABSMAX == 4 && NIB_ALGO_GPTQ == 5,
               "algo_names");

/* clang-format off */
static const char *const aliases[] = {
    "qint8",            "quanto:weights=qint8",
    "qint4",            "quanto:weights=qint4",
    "qint2",            "quanto:weights=qint2",
    "qfloat8_e4m3fn",   "quanto:weights=qfloat8_e4m3fn",
    "qfloat8",          "quanto:weights=qfloat8_e4m3fn",
    "qfloat8_e5m2",     "quanto:weights=qfloat8_e5m2",
    "qfloat8_e4m3fnuz", "quanto:weights=qfloat8_e4m3fnuz",
    NULL,
};
/* clang-format on */

static const char *const activation_names[] = {
    "none", "qint8", "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz", NULL};
static const char *const on_off[] = {"on", "off", NULL};
static const char *const whose_inputs[] = {"linear", "all", NULL};
static const char *const calibrations[] = {"nibble", "upstream", NULL};

static const nib_field fields[] = {
    NIB_FIELD(nib_quanto, weights, .type = NIB_FIELD_NAME, .names = type_names,
              .doc = "type of the weights, as quanto names it"),
    NIB_FIELD(
        nib_quanto, algo, .type = NIB_FIELD_ENUM, .names = algo_names,
        .doc = "absmax for 8 bits, max or hqq for 4 and 2; mse, or gptq with data, for integers"),
    NIB_FIELD(nib_quanto, activations, .type = NIB_FIELD_NAME, .names = activation_names,
              .doc = "type of inputs and outputs, with scales found by calibrating"),
    NIB_FIELD(nib_quanto, momentum, .type = NIB_FIELD_FLOAT, .fallback = 0.9, .min = 1e-9,
              .max = 0.999999, .doc = "what scales keep of themselves when a batch is calibrated"),
    NIB_FIELD(nib_quanto, streamline, .type = NIB_FIELD_NAME, .names = on_off,
              .doc = "leave outputs float that no operation takes as codes"),
    NIB_FIELD(nib_quanto, calibration, .type = NIB_FIELD_NAME, .names = calibrations,
              .doc = "whose arithmetic of scales: upstream's has its known defects"),
    NIB_FIELD(nib_quanto, unfrozen, .type = NIB_FIELD_BOOL,
              .doc = "keep float weights until nib_freeze"),
    NIB_FIELD(nib_quanto, inputs, .type = NIB_FIELD_NAME, .names = whose_inputs,
              .doc = "modules whose inputs are quantized: linear as upstream, all: conv2d too"),
    NIB_FIELD(nib_quanto, reduce_range, .type = NIB_FIELD_BOOL,
              .doc =
                  "qint8 activations in [-64, 63], for machines without an exact 8-bit multiply"),
};

/* NULL: activations stay float. */
static const weight_type *activation_type(const nib_quanto *c) {
    for (size_t i = 0; c->activations && i < sizeof(types) / sizeof(types[0]); i++)
        if (strcmp(types[i].name, c->activations) == 0) return &types[i];
    return NULL;
}

/* The field table has refused every other name; NULL stands for the first. */
static const weight_type *type_of(const nib_quanto *c) {
    size_t i = sizeof(types) / sizeof(types[0]) - 1;
    while (i > 0 && (!c->weights || strcmp(types[i].name, c->weights) != 0)) i--;
    return &types[i];
}

/* What the codes of activations are; 0: there are none. */
static nib_dtype activation_code(const nib_quanto *c) {
    const weight_type *type = activation_type(c);
    return !type ? (nib_dtype)0 : c->reduce_range ? NIB_I7 : type->code;
}

static nib_status check(const nib_config *config) {
    const nib_quanto *c = (const nib_quanto *)config;
    const weight_type *type = type_of(c), *activations = activation_type(c);
    if (c->reduce_range && (!activations || activations->code != NIB_I8))
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "quanto: reduce_range is for activations=qint8; these are %s",
                         activations ? activations->name : "none");
    const bool any_integer = c->algo == NIB_ALGO_MSE || c->algo == NIB_ALGO_GPTQ;
    const bool integer = type->bits < 8 || type->code == NIB_I8;
    if (c->algo == NIB_ALGO_DEFAULT || (any_integer && integer) ||
        (!any_integer && (type->bits == 8) == (c->algo == NIB_ALGO_ABSMAX)))
        return NIB_OK;
    return NIB_RAISE(NIB_E_ARGUMENT, "quanto: %s takes algo=%s, not %s", type->name,
                     type->bits < 8 ? "max, hqq, mse or gptq"
                     : integer      ? "absmax, mse or gptq"
                                    : "absmax",
                     algo_names[c->algo]);
}

static bool whole(const nib_config *config) {
    const nib_algo algo = ((const nib_quanto *)config)->algo;
    return algo == NIB_ALGO_HQQ || algo == NIB_ALGO_MSE || algo == NIB_ALGO_GPTQ;
}

/* Linears quantize what comes in and what goes out, convolutions and norms what goes out; if asked,
 * convolutions what comes in. */
static bool module(const nib_config *config, const char *kind, bool *weight, nib_act *in,
                   nib_act *out) {
    const nib_dtype code = activation_code((const nib_quanto *)config);
    const nib_act act = {
        .when = code ? NIB_ACT_STATIC : NIB_ACT_NONE, .dtype = code, .symmetric = code != 0};
    *weight = strcmp(kind, "layer_norm") != 0;
    const char *inputs = ((const nib_quanto *)config)->inputs;
    const bool all = inputs && strcmp(inputs, "all") == 0;
    *in = strcmp(kind, "linear") == 0 || (all && *weight) ? act : (nib_act){0};
    *out = act;
    return *weight || code;
}

static nib_status plan(const nib_config *config, const nib_site *site, nib_qdesc *weight,
                       nib_act *in, nib_act *out) {
    const weight_type *type = type_of((const nib_quanto *)config);
    NIB_TRY(nib_qdesc_init(weight, site));
    const bool stack = site->shape.ndim == 3 || strcmp(site->kind, "experts") == 0;
    if (!stack) { /* a convolution's output sums over all dimensions but the first */
        weight->cols *= weight->rows / site->shape.dim[0];
        weight->rows = site->shape.dim[0];
    }
    weight->code = type->code;
    weight->scale_dtype = site->dtype;
    weight->block_rows = 1;
    weight->block_cols = weight->cols;
    if (type->bits < 8) {
        weight->zero_kind = NIB_ZERO_SHIFT;
        weight->zero_dtype = site->dtype;
        weight->block_cols = nib_quanto_group(weight->cols);
    }
    bool weights;
    nib_act input, output;
    (void)module(config, "linear", &weights, &input, &output);
    if (in) *in = input;
    if (out) *out = output;
    return NIB_OK;
}

/* ---- codes of some groups; a row is one group where there is no grouping ---- */

enum {
    RUN = 2048,              /* weights widened at a time: 8 KiB of stack */
    GROUPS = 64,             /* groups at a time, of at most RUN weights in all */
    GRAIN_WEIGHTS = 1 << 14, /* weights that are worth a hand-over to another thread */
};

typedef struct job {
    const nib_kernels *kernels;
    const weight_type *type;
    const unsigned char *w;
    nib_dtype math;
    int64_t G; /* columns of a group */
    nib_codes *out;
} job;

static void widen(const job *j, float *x, int64_t first, int64_t count) {
    const size_t size = j->math == NIB_F32 ? 4 : 2;
    nib_to_f32(j->math, x, j->w + (size_t)first * size, (size_t)count);
}

/* Fold `count` groups of `width` columns in x into the ranges so far; the first run starts them. */
static void fold_ranges(const job *j, const float *x, int64_t count, int64_t width, bool first,
                        float *low, float *high) {
    float part_low[GROUPS], part_high[GROUPS];
    const bool symmetric = j->type->bits == 8;
    if (symmetric)
        j->kernels->absmax_f32(part_high, x, count, width);
    else
        j->kernels->minmax_f32(part_low, part_high, x, count, width);
    for (int64_t g = 0; g < count; g++) { /* a NaN stays */
        if (first || part_high[g] > high[g] || part_high[g] != part_high[g]) high[g] = part_high[g];
        if (symmetric) continue;
        if (first || part_low[g] < low[g] || part_low[g] != part_low[g]) low[g] = part_low[g];
    }
}

static void round_run(const job *j, const float *x, int64_t group, int64_t count, int64_t column,
                      int64_t width, const float *low) {
    uint8_t *q = (uint8_t *)j->out->q + group * j->G + column;
    const float *scale = j->out->scale + group;
    if (j->type->code == NIB_I8)
        j->kernels->quantize_divided(q, x, count, width, NULL, scale, NULL, -128, 127, j->math);
    else if (j->type->bits == 8)
        j->kernels->quantize_f8(q, x, count, width, scale, j->type->largest, j->type->code,
                                j->math);
    else /* w + shift is w - min */
        j->kernels->quantize_divided(q, x, count, width, low, scale, NULL, 0, (int)j->type->largest,
                                     j->math);
}

static void code_groups(void *user, int64_t begin, int64_t end) {
    const job *j = user;
    float x[RUN], low[GROUPS], high[GROUPS];
    const int64_t width = j->G < RUN ? j->G : RUN;
    const int64_t most = RUN / width < GROUPS ? RUN / width : GROUPS;
    for (int64_t g = begin, count; g < end; g += count) {
        count = end - g < most ? end - g : most;
        for (int64_t c = 0, n; c < j->G; c += n) {
            n = j->G - c < width ? j->G - c : width;
            widen(j, x, g * j->G + c, count * n);
            fold_ranges(j, x, count, n, c == 0, low, high);
        }
        for (int64_t i = 0; i < count; i++) {
            const bool symmetric = j->type->bits == 8;
            const float range = symmetric ? high[i] : nib_round_to(high[i] - low[i], j->math);
            j->out->scale[g + i] = nib_round_to(range / j->type->largest, j->math);
            if (!symmetric) j->out->zero[g + i] = -low[i];
        }
        for (int64_t c = 0, n; c < j->G; c += n) {
            n = j->G - c < width ? j->G - c : width;
            if (n < j->G) widen(j, x, g * j->G + c, n); /* else it is still there */
            round_run(j, x, g, count, c, n, low);
        }
    }
}

/* ---- least squared error ---- */

typedef struct mse_job {
    const job *plain;
    const float *x; /* all weights */
} mse_job;

static void fit_groups(void *user, int64_t begin, int64_t end) {
    const mse_job *m = user;
    const job *j = m->plain;
    for (int64_t g = begin; g < end; g++) {
        const float *x = m->x + g * j->G;
        float *scale = j->out->scale + g;
        if (j->type->bits == 8) {
            nib_mse_symmetric(x, NULL, j->G, j->math, scale);
            round_run(j, x, g, 1, 0, j->G, NULL);
        } else {
            nib_mse_affine(x, NULL, j->G, (int)j->type->largest, j->math, scale, j->out->zero + g);
            const float low = -j->out->zero[g];
            round_run(j, x, g, 1, 0, j->G, &low);
        }
    }
}

static nib_status fit(nib_ctx *ctx, const job *j) {
    const size_t count = (size_t)(j->out->desc.rows * j->out->desc.cols);
    float *x = nib_mem_alloc_array(nib_ctx_mem(ctx), count, sizeof *x);
    if (!x) return nib_last_error()->status;
    nib_to_f32(j->math, x, j->w, count);
    mse_job m = {j, x};
    nib_parallel_for(ctx->pool, nib_qdesc_blocks(&j->out->desc), 16, fit_groups, &m);
    nib_mem_free(nib_ctx_mem(ctx), x, count * sizeof *x);
    return NIB_OK;
}

/* quanto keeps bf16 qint4 matrices that it cuts into groups of 128 as "TinyGemm" tensors, with the
 * middle of the range in place of its lower end, and turns them back when it saves; both roundings
 * stay. */
static bool goes_through_middle(const nib_qdesc *desc) {
    return desc->code == NIB_U4 && desc->math == NIB_BF16 && desc->block_cols == 128 &&
           desc->cols > 128 && desc->shape.ndim < 4;
}

static void shift_through_middle(nib_codes *codes) {
    const int64_t groups = nib_qdesc_blocks(&codes->desc);
    for (int64_t g = 0; g < groups; g++) {
        const float half = nib_round_to(8 * codes->scale[g], NIB_BF16);
        const float middle = nib_round_to(half - codes->zero[g], NIB_BF16);
        codes->zero[g] = nib_round_to(half - middle, NIB_BF16);
    }
}

static nib_status quantize(const nib_config *config, const nib_stats *stats, const nib_tensor *rows,
                           nib_codes *out) {
    const nib_quanto *c = (const nib_quanto *)config;
    (void)stats;
    job j = {.kernels = nib_codes_kernels(),
             .type = type_of(c),
             .w = nib_tensor_data(rows),
             .math = out->desc.math,
             .G = out->desc.block_cols,
             .out = out};
    nib_parallel_for(rows->ctx->pool, nib_qdesc_blocks(&out->desc), GRAIN_WEIGHTS / j.G + 1,
                     code_groups, &j);
    /* Error feedback needs data, which a weight alone has not: see nib_freeze. */
    if (c->algo == NIB_ALGO_MSE || c->algo == NIB_ALGO_GPTQ) NIB_TRY(fit(rows->ctx, &j));
    if (c->algo == NIB_ALGO_HQQ) NIB_TRY(nib_hqq_shift(rows->ctx, j.w, out));
    if (goes_through_middle(&out->desc)) shift_through_middle(out);
    return NIB_OK;
}

const nib_scheme nib_scheme_quanto = {
    .name = "quanto",
    .doc = "weights of optimum-quanto: 8-bit integers or floats by row, 4 and 2 bits by group",
    .system = "quanto",
    .aliases = aliases,
    .config_size = sizeof(nib_quanto),
    .fields = fields,
    .nfields = sizeof(fields) / sizeof(fields[0]),
    .check = check,
    .plan = plan,
    .whole = whole,
    .module = module,
    .quantize = quantize,
};
