#include "quant/codes.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cpu.h"
#include "base/error.h"
#include "tensor/dtype.h"

static nib_kernels kernels;
static pthread_once_t kernels_once = PTHREAD_ONCE_INIT;

static void kernels_fill(void) {
    uint32_t mask;
    if (nib_cpu_parse(getenv("NIB_ISA"), &mask) < NIB_OK) mask = 0; /* contexts refuse it by name */
    nib_kernels_fill(&kernels, nib_cpu_features() & mask);
}

const nib_kernels *nib_codes_kernels(void) {
    pthread_once(&kernels_once, kernels_fill);
    return &kernels;
}

static int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

int64_t nib_qdesc_block_cols(const nib_qdesc *d) { return ceil_div(d->cols, d->block_cols); }
int64_t nib_qdesc_blocks(const nib_qdesc *d) {
    return ceil_div(d->rows, d->block_rows) * nib_qdesc_block_cols(d);
}

int64_t nib_qdesc_matrix_rows(const nib_qdesc *d) {
    return d->shape.ndim > 2 ? d->shape.dim[d->shape.ndim - 2] : d->rows;
}

bool nib_qdesc_stack(const nib_qdesc *d) {
    return d->shape.ndim > 0 && d->cols == d->shape.dim[d->shape.ndim - 1];
}

nib_status nib_qdesc_check(const nib_qdesc *d) {
    int64_t count, matrix;
    size_t bytes;
    if (!nib_dtype_bits(d->code) || nib_dtype_bits(d->code) > 16)
        return NIB_RAISE(NIB_E_DTYPE, "codes of type %s cannot be held", nib_dtype_name(d->code));
    if (!nib_dtype_is_float(d->scale_dtype) || !nib_dtype_is_float(d->math))
        return NIB_RAISE(NIB_E_DTYPE, "scales of type %s for a weight of type %s",
                         nib_dtype_name(d->scale_dtype), nib_dtype_name(d->math));
    if ((d->zero_kind == NIB_ZERO_NONE) != (d->zero_dtype == 0) || d->zero_kind > NIB_ZERO_MID)
        return NIB_RAISE(NIB_E_DTYPE, "zero of kind %d has dtype %s", (int)d->zero_kind,
                         nib_dtype_name(d->zero_dtype));
    if (d->rows < 1 || d->cols < 1 || d->block_rows < 1 || d->block_cols < 1 ||
        nib_shape_count(&d->shape, &count) || nib_mul_count(d->rows, d->cols, &matrix) ||
        count != matrix || nib_mul_size((size_t)count, 8, &bytes))
        return NIB_RAISE(NIB_E_SHAPE,
                         "[%lld, %lld] in blocks of [%lld, %lld] is not a valid matrix",
                         (long long)d->rows, (long long)d->cols, (long long)d->block_rows,
                         (long long)d->block_cols);
    return NIB_OK;
}

nib_status nib_qdesc_init(nib_qdesc *desc, const nib_site *site) {
    const nib_shape *s = &site->shape;
    int64_t count;
    if (site->dtype != NIB_F32 && site->dtype != NIB_F16 && site->dtype != NIB_BF16)
        return NIB_RAISE(NIB_E_DTYPE,
                         "a weight of type %s cannot be quantized, only f32, f16, bf16",
                         nib_dtype_name(site->dtype));
    if (s->ndim < 2 || s->ndim > NIB_MAX_DIMS || nib_shape_count(s, &count) || count == 0)
        return NIB_RAISE(NIB_E_SHAPE, "a weight of rank %d with %s elements is no matrix", s->ndim,
                         s->ndim < 2 ? "too few dimensions for its" : "no or too many");
    *desc = (nib_qdesc){.math = site->dtype, .shape = *s};
    desc->cols = s->dim[s->ndim - 1];
    desc->rows = count / desc->cols;
    desc->block_rows = desc->rows;
    desc->block_cols = desc->cols;
    return NIB_OK;
}

nib_qdesc nib_qdesc_of_rows(const nib_qdesc *desc, int64_t rows) {
    nib_qdesc d = *desc;
    d.rows = rows;
    /* Where rows are the first dimension the rank stays: it tells a convolution from a matrix. */
    if (desc->shape.dim[0] != desc->rows) d.shape = (nib_shape){2, {rows, desc->cols}};
    d.shape.dim[0] = rows;
    return d;
}

int nib_qdesc_bits(const nib_qdesc *d) { return nib_dtype_bits(d->code); }
bool nib_qdesc_integer(const nib_qdesc *d) { return !nib_dtype_is_float(d->code); }
bool nib_qdesc_signed(const nib_qdesc *d) { return nib_dtype_is_signed_int(d->code); }

void nib_qdesc_range(const nib_qdesc *d, int *qmin, int *qmax) {
    const int bits = nib_qdesc_bits(d);
    const bool is_signed = nib_qdesc_signed(d);
    *qmin = is_signed ? -(1 << (bits - 1)) : 0;
    *qmax = is_signed ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
}

int nib_qdesc_mid(const nib_qdesc *d) {
    int qmin, qmax;
    nib_qdesc_range(d, &qmin, &qmax);
    return (qmin + qmax + 1) / 2;
}

nib_status nib_codes_alloc(nib_mem *mem, const nib_qdesc *desc, nib_codes *out) {
    *out = (nib_codes){0};
    NIB_TRY(nib_qdesc_check(desc));
    out->desc = *desc;
    out->code_bytes = nib_qdesc_bits(desc) > 8 ? 2 : 1;
    const size_t blocks = (size_t)nib_qdesc_blocks(desc);
    out->q = nib_mem_alloc_array(mem, (size_t)(desc->rows * desc->cols), (size_t)out->code_bytes);
    out->scale = out->q ? nib_mem_alloc_array(mem, blocks, sizeof(float)) : NULL;
    if (out->scale && desc->zero_kind != NIB_ZERO_NONE)
        out->zero = nib_mem_alloc_array(mem, blocks, sizeof(float));
    if (out->scale && (out->zero || desc->zero_kind == NIB_ZERO_NONE)) return NIB_OK;
    nib_codes_free(mem, out);
    return NIB_E_MEMORY;
}

void nib_codes_free(nib_mem *mem, nib_codes *c) {
    if (c->q) {
        const size_t blocks = (size_t)nib_qdesc_blocks(&c->desc);
        nib_mem_free(mem, c->q, (size_t)(c->desc.rows * c->desc.cols) * (size_t)c->code_bytes);
        nib_mem_free(mem, c->scale, blocks * sizeof(float));
        nib_mem_free(mem, c->zero, blocks * sizeof(float));
    }
    *c = (nib_codes){0};
}

nib_codes nib_codes_rows(const nib_codes *c, int64_t row, int64_t rows) {
    nib_codes run = *c;
    const int64_t block = row / c->desc.block_rows * nib_qdesc_block_cols(&c->desc);
    run.desc = nib_qdesc_of_rows(&c->desc, rows);
    run.q = (uint8_t *)c->q + (size_t)(row * c->desc.cols) * (size_t)c->code_bytes;
    run.scale = c->scale + block;
    run.zero = c->zero ? c->zero + block : NULL;
    return run;
}

void nib_to_f32(nib_dtype dtype, float *out, const void *x, size_t n) {
    const nib_kernels *k = nib_codes_kernels();
    switch (dtype) {
    case NIB_F16:
        k->f16_to_f32(out, x, n);
        break;
    case NIB_BF16:
        k->bf16_to_f32(out, x, n);
        break;
    default:
        memcpy(out, x, n * sizeof(float));
    }
}

/* ---- dequantizing, one run of columns of one block at a time ---- */

static float float_code(nib_dtype code, uint8_t q) {
    switch (code) {
    case NIB_F8_E4M3FN:
        return nib_f8_e4m3fn_to_f32(q);
    case NIB_F8_E5M2:
        return nib_f8_e5m2_to_f32(q);
    case NIB_F8_E4M3FNUZ:
        return nib_f8_e4m3fnuz_to_f32(q);
    case NIB_F8_E5M2FNUZ:
        return nib_f8_e5m2fnuz_to_f32(q);
    case NIB_F6_E2M3:
        return nib_f6_e2m3_to_f32(q);
    case NIB_F6_E3M2:
        return nib_f6_e3m2_to_f32(q);
    case NIB_F4_E2M1:
        return nib_f4_e2m1_to_f32(q);
    default:
        return 0;
    }
}

float nib_code_value(const nib_codes *c, int64_t i) {
    const uint8_t q = ((const uint8_t *)c->q)[i];
    if (!nib_qdesc_integer(&c->desc)) return float_code(c->desc.code, q);
    return nib_qdesc_signed(&c->desc) ? (float)(int8_t)q : (float)q;
}

float nib_codes_offset(const nib_codes *c, int64_t block) {
    switch (c->desc.zero_kind) {
    case NIB_ZERO_POINT:
        return -(c->scale[block] * c->zero[block]);
    case NIB_ZERO_SHIFT:
        return -c->zero[block];
    case NIB_ZERO_MID:
        return c->zero[block];
    default:
        return -0.0f;
    }
}

/* w = s (q - z): torchao converts both to the weight's dtype, where they are exact. */
static void run_point(const nib_codes *c, const uint8_t *q, int64_t n, int64_t block, float *out) {
    const int32_t zero = c->zero ? (int32_t)c->zero[block] : 0;
    nib_codes_kernels()->dequantize_scaled(out, q, 1, n, nib_qdesc_signed(&c->desc),
                                           &c->scale[block], &zero, c->desc.math);
}

/* w = s q - z, and w = s (q - mid) + z, whose codes become signed first. */
static void run_float_zero(const nib_codes *c, const uint8_t *q, int64_t n, int64_t block,
                           float *out) {
    enum { RUN = 512 };
    uint8_t centred[RUN];
    const bool middle = c->desc.zero_kind == NIB_ZERO_MID;
    const int mid = middle ? nib_qdesc_mid(&c->desc) : 0;
    const float add = middle ? c->zero[block] : -c->zero[block];
    for (int64_t at = 0; at < n; at += RUN) {
        const int64_t m = n - at < RUN ? n - at : RUN;
        for (int64_t i = 0; i < m; i++) centred[i] = (uint8_t)(q[at + i] - mid);
        nib_codes_kernels()->dequantize_shifted(out + at, mid ? centred : q + at, 1, m,
                                                mid || nib_qdesc_signed(&c->desc), &c->scale[block],
                                                &add, c->desc.math);
    }
}

static void run_float_codes(const nib_codes *c, const float table[256], const uint8_t *q, int64_t n,
                            int64_t block, float *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = nib_round_to(table[q[i]] * c->scale[block], c->desc.math);
}

void nib_codes_dequantize(const nib_codes *c, float *out) {
    const nib_qdesc *d = &c->desc;
    float table[256];
    if (!nib_qdesc_integer(d))
        for (int i = 0; i < 256; i++) table[i] = float_code(d->code, (uint8_t)i);
    const int64_t blocks = nib_qdesc_block_cols(d);
    for (int64_t r = 0; r < d->rows; r++) {
        const uint8_t *q_r = (const uint8_t *)c->q + r * d->cols;
        float *w_r = out + r * d->cols;
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t from = b * d->block_cols, block = r / d->block_rows * blocks + b;
            const int64_t n = d->cols - from < d->block_cols ? d->cols - from : d->block_cols;
            if (!nib_qdesc_integer(d))
                run_float_codes(c, table, q_r + from, n, block, w_r + from);
            else if (d->zero_kind == NIB_ZERO_NONE || d->zero_kind == NIB_ZERO_POINT)
                run_point(c, q_r + from, n, block, w_r + from);
            else
                run_float_zero(c, q_r + from, n, block, w_r + from);
        }
    }
}
