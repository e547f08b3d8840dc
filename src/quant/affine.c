/* affine.c: rows of floats to codes, block by block. Weights are widened to f32 in pieces that stay
 * in the first-level cache; short blocks go through a kernel many at a time. */
#include <assert.h>
#include <math.h>

#include "base/error.h"
#include "quant/codes.h"
#include "quant/qparams.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

enum { PIECE = 4096 }; /* floats widened at once: 16 KiB */

nib_status nib_rows_check(const nib_tensor *rows, const nib_codes *out) {
    const nib_qdesc *d = &out->desc;
    if (!rows) return NIB_E_ARGUMENT;
    if (rows->layout || rows->dtype != d->math)
        return NIB_RAISE(NIB_E_DTYPE, "rows are %s, codes for a dense %s weight were asked for",
                         rows->layout ? rows->layout->name : nib_dtype_name(rows->dtype),
                         nib_dtype_name(d->math));
    if (rows->shape.ndim != 2 || rows->shape.dim[0] != d->rows || rows->shape.dim[1] != d->cols ||
        (rows->stride[1] != 1 && d->cols > 1)) {
        char text[96];
        return NIB_RAISE(NIB_E_SHAPE, "rows are %s, codes for [%lld, %lld] were asked for",
                         nib_shape_text(&rows->shape, text, sizeof text), (long long)d->rows,
                         (long long)d->cols);
    }
    return NIB_OK;
}

static const void *row_of(const nib_tensor *rows, int64_t r) {
    return (const char *)nib_tensor_data(rows) +
           r * rows->stride[0] * (nib_dtype_bits(rows->dtype) / 8);
}

static const void *element(nib_dtype dtype, const void *row, int64_t i) {
    return (const char *)row + i * (nib_dtype_bits(dtype) / 8);
}

/* torch's amin and amax: NaN if there is one. */
static float lesser(float a, float b) { return a != a || a < b ? a : b; }
static float greater(float a, float b) { return a != a || a > b ? a : b; }

static void range_of(nib_dtype dtype, const void *x, int64_t n, float *min, float *max) {
    const nib_kernels *k = nib_codes_kernels();
    float piece[PIECE], low, high;
    *min = INFINITY;
    *max = -INFINITY;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t m = n - at < PIECE ? n - at : PIECE;
        nib_to_f32(dtype, piece, element(dtype, x, at), (size_t)m);
        k->minmax_f32(&low, &high, piece, 1, m);
        *min = lesser(low, *min);
        *max = greater(high, *max);
    }
}

void nib_stats_add(nib_stats *stats, const nib_tensor *rows) {
    for (int64_t r = 0; r < rows->shape.dim[0]; r++) {
        float min, max;
        range_of(rows->dtype, row_of(rows, r), rows->shape.dim[1], &min, &max);
        stats->min = stats->any ? lesser(min, stats->min) : min;
        stats->max = stats->any ? greater(max, stats->max) : max;
        stats->any = true;
    }
}

static void quantize(const nib_qrule *rule, const nib_qdesc *d, const nib_operands *o,
                     const float *scale, const float *x, int64_t groups, int64_t G, uint8_t *q) {
    const nib_kernels *k = nib_codes_kernels();
    if (!nib_qdesc_integer(d)) {
        const float limit = d->code == NIB_F8_E4M3FN ? 448.0f
                            : d->code == NIB_F8_E5M2 ? 57344.0f
                                                     : 240.0f;
        k->quantize_f8(q, x, groups, G, scale, limit, d->code, NIB_F32);
        return;
    }
    int qmin, qmax;
    nib_qdesc_range(d, &qmin, &qmax);
    const nib_dtype math = rule->plain ? NIB_F32 : nib_qdesc_product(d);
    if (d->zero_kind == NIB_ZERO_NONE || d->zero_kind == NIB_ZERO_POINT)
        k->quantize_scaled(q, x, groups, G, o->inverse, d->zero_kind ? o->zero : NULL, qmin, qmax,
                           math);
    else
        k->quantize_divided(q, x, groups, G, o->shift, o->divisor, o->zero, qmin, qmax, math);
}

typedef struct job {
    const nib_qrule *rule;
    bool given;
    const nib_stats *stats;
    nib_codes *out;
} job;

/* Scale, zero and operands of `count` blocks from `block` on. */
static void params_of(const job *j, int64_t block, int64_t count, const float *min,
                      const float *max, nib_operands *o) {
    float *scale = j->out->scale + block, *zero = j->out->zero ? j->out->zero + block : NULL;
    if (j->given)
        nib_qparams_operands(&j->out->desc, count, scale, zero, o);
    else
        nib_qparams_choose(j->rule, &j->out->desc, count, min, max, scale, zero, o);
}

/* One block of one row, longer than a piece or the rest of a row. */
static void long_block(const job *j, nib_dtype dtype, const void *x, int64_t n, int64_t block,
                       uint8_t *q) {
    float piece[PIECE], min = 0, max = 0;
    if (j->out->desc.block_rows > 1 && !j->given) {
        min = j->stats->min;
        max = j->stats->max;
    } else if (!j->given) {
        range_of(dtype, x, n, &min, &max);
    }
    nib_operands o;
    params_of(j, block, 1, &min, &max, &o);
    for (int64_t at = 0; at < n; at += PIECE) {
        const int64_t m = n - at < PIECE ? n - at : PIECE;
        nib_to_f32(dtype, piece, element(dtype, x, at), (size_t)m);
        quantize(j->rule, &j->out->desc, &o, j->out->scale + block, piece, 1, m, q + at);
    }
}

/* `groups` whole blocks of G columns, side by side. */
static void short_blocks(const job *j, nib_dtype dtype, const void *x, int64_t groups, int64_t G,
                         int64_t block, uint8_t *q) {
    float piece[PIECE], min[NIB_QPARAMS_MOST], max[NIB_QPARAMS_MOST];
    nib_operands o;
    nib_to_f32(dtype, piece, x, (size_t)(groups * G));
    if (!j->given) nib_codes_kernels()->minmax_f32(min, max, piece, groups, G);
    params_of(j, block, groups, min, max, &o);
    quantize(j->rule, &j->out->desc, &o, j->out->scale + block, piece, groups, G, q);
}

void nib_affine_rows(const nib_qrule *rule, bool given, const nib_stats *stats,
                     const nib_tensor *rows, nib_codes *out) {
    const nib_qdesc *d = &out->desc;
    const job j = {rule, given, stats, out};
    const int64_t G = d->block_cols, blocks = nib_qdesc_block_cols(d);
    const int64_t whole = d->cols / G; /* blocks that are not cut by the end of a row */
    const int64_t at_once = PIECE / G < NIB_QPARAMS_MOST ? PIECE / G : NIB_QPARAMS_MOST;
    assert(d->block_rows == 1 || given || (stats && stats->any));
    for (int64_t r = 0; r < d->rows; r++) {
        const void *x_r = row_of(rows, r);
        uint8_t *q_r = (uint8_t *)out->q + r * d->cols;
        const int64_t first = r / d->block_rows * blocks;
        for (int64_t b = 0; b < blocks;) {
            const int64_t left = whole - b, groups = left < at_once ? left : at_once;
            const void *x = element(rows->dtype, x_r, b * G);
            if (groups > 0 && d->block_rows == 1) {
                short_blocks(&j, rows->dtype, x, groups, G, first + b, q_r + b * G);
                b += groups;
            } else {
                const int64_t n = d->cols - b * G < G ? d->cols - b * G : G;
                long_block(&j, rows->dtype, x, n, first + b, q_r + b * G);
                b++;
            }
        }
    }
}
