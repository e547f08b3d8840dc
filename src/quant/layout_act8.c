/* act8: codes of an activation, row-major, and one scale for all of them.
 *
 *   _data    the tensor's shape   int8 (of 7 bits too) or float8 codes
 *   _scale   0-dim                f32, rounded to the dtype that the codes stand for
 * No file holds one: it lives between two ops. */
#include <string.h>

#include "quant/act8.h"
#include "quant/codes.h"
#include "quant/layout_part.h"
#include "quant/quanto.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

static bool holds(const nib_qdesc *d) {
    return nib_act8_largest(d->code) > 0 && d->zero_kind == NIB_ZERO_NONE && d->outer == 0.0f &&
           d->scale_dtype == NIB_F32 && nib_quanto_math(d->math) && d->block_rows >= d->rows &&
           d->block_cols >= d->cols;
}

static int parts(const nib_qdesc *d, nib_part part[NIB_MAX_PARTS]) {
    part[0] = (nib_part){.suffix = "_data",
                         .dtype = nib_act8_stored(d->code),
                         .shape = d->shape,
                         .row_dim = NIB_ROWS_FLAT};
    part[1] = (nib_part){.suffix = "_scale", .dtype = NIB_F32, .row_dim = NIB_ROWS_SHARED};
    return 2;
}

static void pack(void *const part[], const nib_codes *codes) {
    memcpy(part[0], codes->q, (size_t)(codes->desc.rows * codes->desc.cols));
    memcpy(part[1], codes->scale, sizeof(float));
}

static void unpack(nib_codes *codes, const void *const part[], const nib_qdesc *d, int64_t row) {
    memcpy(codes->q, (const char *)part[0] + row * d->cols, (size_t)(codes->desc.rows * d->cols));
    memcpy(codes->scale, part[1], sizeof(float));
}

const nib_layout nib_layout_act8 = {
    .name = "act8",
    .doc = "an activation between two ops: 8-bit codes, one scale",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
    .views = true,
};

float nib_act8_largest(nib_dtype code) {
    switch (code) {
    case NIB_I8:
        return 127;
    case NIB_I7:
        return 63;
    case NIB_F8_E4M3FN:
        return 448;
    case NIB_F8_E5M2:
        return 57344;
    case NIB_F8_E4M3FNUZ:
        return 240;
    default:
        return 0;
    }
}

static nib_qdesc desc_of(nib_dtype code, nib_dtype math, const nib_shape *shape) {
    nib_qdesc d = {.code = code, .scale_dtype = NIB_F32, .math = math, .shape = *shape, .rows = 1};
    d.cols = shape->ndim ? shape->dim[shape->ndim - 1] : 1;
    for (int i = 0; i + 1 < shape->ndim; i++) d.rows *= shape->dim[i];
    d.block_rows = d.rows > 0 ? d.rows : 1;
    d.block_cols = d.cols > 0 ? d.cols : 1;
    return d;
}

static nib_tensor *over(nib_ctx *ctx, nib_storage *data, size_t offset, const nib_qdesc *desc,
                        float scale) {
    nib_storage *one = nib_storage_new(&ctx->mem, sizeof scale);
    if (!one) return NULL;
    memcpy(one->data, &scale, sizeof scale);
    nib_tensor *t = nib_tensor_quantized(ctx, &nib_layout_act8, desc, (nib_storage *[]){data, one},
                                         (size_t[]){offset, 0});
    nib_storage_release(one);
    return t;
}

nib_tensor *nib_act8_new(nib_ctx *ctx, nib_dtype code, nib_dtype math, nib_shape shape,
                         float scale) {
    const nib_qdesc desc = desc_of(code, math, &shape);
    size_t bytes;
    if (nib_dtype_bytes(NIB_I8, desc.rows * desc.cols, &bytes)) return NULL;
    nib_storage *data = nib_storage_result(&ctx->mem, bytes);
    if (!data) return NULL;
    nib_tensor *t = over(ctx, data, 0, &desc, scale);
    nib_storage_release(data);
    return t;
}

nib_tensor *nib_act8_over(const nib_tensor *codes, nib_dtype code, nib_dtype math, float scale) {
    const nib_qdesc desc = desc_of(code, math, &codes->shape);
    return over(codes->ctx, codes->part[0], nib_tensor_offset(codes, 0), &desc, scale);
}

nib_tensor *nib_act8_codes(const nib_tensor *t) {
    return nib_tensor_over(t->ctx, nib_act8_stored(t->desc.code), t->shape, t->part[0],
                           nib_tensor_offset(t, 0));
}

float nib_act8_scale(const nib_tensor *t) {
    float scale;
    memcpy(&scale, nib_tensor_part(t, 1), sizeof scale);
    return scale;
}

void *nib_act8_data_mut(nib_tensor *t) { return t->data[0]; }

static float f8_value(nib_dtype code, uint8_t q) {
    return code == NIB_F8_E4M3FN ? nib_f8_e4m3fn_to_f32(q)
           : code == NIB_F8_E5M2 ? nib_f8_e5m2_to_f32(q)
                                 : nib_f8_e4m3fnuz_to_f32(q);
}

void nib_act8_values(const nib_tensor *t, float value[256]) {
    const nib_dtype code = t->desc.code, math = t->desc.math;
    const float scale = nib_act8_scale(t);
    uint8_t q[256];
    for (int i = 0; i < 256; i++) q[i] = (uint8_t)i;
    if (nib_act8_integer(code))
        t->ctx->kernels.dequantize_scaled(value, q, 1, 256, true, &scale, NULL, math);
    for (int i = 0; i < 256 && !nib_act8_integer(code); i++)
        value[i] = nib_round_to(scale * nib_round_to(f8_value(code, (uint8_t)i), math), math);
}

void nib_act8_to_f32(const nib_tensor *t, int64_t first, int64_t count, float *out) {
    const nib_kernels *k = &t->ctx->kernels;
    const float scale = nib_act8_scale(t);
    const nib_dtype code = t->desc.code, math = t->desc.math;
    const uint8_t *q = (const uint8_t *)nib_act8_data(t) + first;
    if (count <= 0) return;
    if (nib_act8_integer(code)) {
        k->dequantize_scaled(out, q, 1, count, true, &scale, NULL, math);
        return;
    }
    if (math == NIB_F32) {
        k->scale_f8(out, q, (size_t)count, code, scale);
        return;
    }
    float value[256];
    nib_act8_values(t, value);
    k->table_to_f32(out, q, (size_t)count, value);
}

void nib_act8_quantize(const nib_kernels *k, nib_dtype code, nib_dtype math, float scale,
                       const float *x, int64_t count, void *q) {
    const int most = (int)nib_act8_largest(code);
    if (!count) return;
    if (nib_act8_integer(code))
        k->quantize_divided(q, x, 1, count, NULL, &scale, NULL, -most - 1, most, math);
    else
        k->quantize_f8(q, x, 1, count, &scale, nib_act8_largest(code), code, math);
}
