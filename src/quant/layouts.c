#include "quant/layouts.h"

#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "quant/codes.h"
#include "quant/layout_part.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

#define X(name) extern const nib_layout nib_layout_##name;
#include "quant/layout_list.h"
#undef X

#define X(name) &nib_layout_##name,
static const nib_layout *const layouts[] = {
#include "quant/layout_list.h"
};
#undef X
enum { COUNT = sizeof layouts / sizeof *layouts };

const nib_layout *nib_layout_at(size_t i) { return i < COUNT ? layouts[i] : NULL; }

const nib_layout *nib_layout_find(const char *name) {
    for (size_t i = 0; name && i < COUNT; i++)
        if (strcmp(layouts[i]->name, name) == 0) return layouts[i];
    return NULL;
}

const nib_layout *nib_layout_for(const nib_qdesc *desc) {
    for (size_t i = 0; i < COUNT; i++)
        if (!layouts[i]->kernel && layouts[i]->holds(desc)) return layouts[i];
    return NIB_RAISE_NULL(NIB_E_UNSUPPORTED,
                          "no layout holds %s codes with scales of %s and zero %s",
                          nib_dtype_name(desc->code), nib_dtype_name(desc->scale_dtype),
                          desc->zero_dtype ? nib_dtype_name(desc->zero_dtype) : "none");
}

nib_status nib_layout_refuse(const nib_layout *layout, const nib_qdesc *d) {
    char shape[96];
    if (!layout->wants)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "layout %s cannot hold %s codes with scales of %s",
                         layout->name, nib_dtype_name(d->code), nib_dtype_name(d->scale_dtype));
    return NIB_RAISE(NIB_E_UNSUPPORTED,
                     "layout %s cannot hold %s codes of shape %s with a scale of %s for %lld x "
                     "%lld; it wants %s",
                     layout->name, nib_dtype_name(d->code),
                     nib_shape_text(&d->shape, shape, sizeof shape), nib_dtype_name(d->scale_dtype),
                     (long long)d->block_rows, (long long)d->block_cols, layout->wants);
}

const nib_layout *nib_layout_of_kernel(const nib_qdesc *desc) {
    for (size_t i = 0; i < COUNT; i++)
        if (layouts[i]->kernel && layouts[i]->holds(desc)) return layouts[i];
    return NULL;
}

int nib_layout_bands(const nib_layout *layout, const nib_qdesc *desc) {
    return layout->bands ? layout->bands(desc) : 1;
}

size_t nib_part_bytes(const nib_part *part) {
    int64_t count;
    size_t bytes;
    if (nib_shape_count(&part->shape, &count) || nib_dtype_bytes(part->dtype, count, &bytes))
        return 0;
    return bytes;
}

nib_part_runs nib_part_place(const nib_part *part, const nib_qdesc *desc, int bands, int64_t row,
                             int64_t rows) {
    nib_part_runs runs = {.count = 1, .size = nib_part_bytes(part)};
    if (part->row_dim == NIB_ROWS_SHARED || bands == 0) return runs;
    if (part->row_dim == NIB_ROWS_FLAT) {
        const bool together = bands > 1 && part->banded;
        const size_t share = runs.size / (size_t)(together ? desc->rows / bands : desc->rows);
        runs.count = together ? 1 : bands;
        runs.size = (size_t)rows * share;
        runs.step = (size_t)(desc->rows / bands) * share;
        runs.offset = (size_t)row * share;
        return runs;
    }
    const int lead = desc->shape.ndim > 2 ? desc->shape.ndim - 2 : 0, dim = lead + part->row_dim;
    const int64_t unit = part->row_unit > 1 ? part->row_unit : 1;
    int64_t outer = 1, inner = nib_dtype_bits(part->dtype) / 8; /* bytes of one index of row_dim */
    for (int i = lead; i < dim; i++) outer *= part->shape.dim[i];
    for (int i = dim + 1; i < part->shape.ndim; i++) inner *= part->shape.dim[i];
    const int64_t matrix = nib_qdesc_matrix_rows(desc), start = row % matrix / unit;
    assert(row % matrix % unit == 0); /* each matrix of a stack begins a unit of its own */
    int64_t indices = (rows + unit - 1) / unit;
    if (bands > 1) { /* never transposed, never a stack */
        assert(outer == 1);
        runs.size = (size_t)(indices * inner);
        runs.count = part->banded ? 1 : bands;
        runs.step = (size_t)(desc->rows / bands / unit * inner);
        runs.offset = (size_t)(row / unit * inner);
        return runs;
    }
    /* The last run of a matrix has what it is padded with. Only untransposed parts without units
     * may go on into the next matrix of a stack, which follows at once. */
    const int64_t lines = part->shape.dim[dim];
    if (row % matrix + rows == matrix) indices = lines - start;
    assert(row % matrix + rows <= matrix || (outer == 1 && unit == 1));
    runs.size = (size_t)(indices * inner);
    runs.count = outer;
    runs.step = (size_t)(lines * inner);
    runs.offset = (size_t)((row / matrix * outer * lines + start) * inner);
    return runs;
}

int64_t nib_layout_run(const nib_layout *layout, const nib_qdesc *desc, int64_t row, int64_t most) {
    nib_part parts[NIB_MAX_PARTS];
    const int count = layout->parts(desc, parts), bands = nib_layout_bands(layout, desc);
    const int64_t all = bands > 1 ? desc->rows / bands : desc->rows;
    int64_t unit = 1, left = all - row;
    bool whole_matrix = false;
    if (bands == 0) return left;
    for (int i = 0; i < count; i++) {
        if (parts[i].row_unit > unit) unit = parts[i].row_unit;
        whole_matrix |= parts[i].row_dim > 0 || parts[i].row_unit > 1;
    }
    if (whole_matrix) {
        const int64_t matrix = nib_qdesc_matrix_rows(desc);
        if (left > matrix - row % matrix) left = matrix - row % matrix;
    }
    const int64_t run = most / unit * unit > 0 ? most / unit * unit : unit;
    return run < left ? run : left;
}

nib_tensor *nib_pack_tensor(nib_ctx *ctx, const nib_layout *layout, const nib_codes *codes) {
    if (!ctx || !layout || !codes) return NULL;
    if (!layout->holds(&codes->desc)) return nib_layout_refuse(layout, &codes->desc), NULL;
    nib_part parts[NIB_MAX_PARTS];
    nib_storage *storage[NIB_MAX_PARTS] = {0};
    const size_t offset[NIB_MAX_PARTS] = {0};
    void *bytes[NIB_MAX_PARTS] = {0};
    nib_tensor *t = NULL;
    const int count = layout->parts(&codes->desc, parts);
    for (int i = 0; i < count; i++) {
        const size_t size = nib_part_bytes(&parts[i]);
        storage[i] = nib_storage_new(&ctx->mem, size);
        if (!storage[i]) goto done;
        bytes[i] = storage[i]->data;
    }
    layout->pack(bytes, codes);
    t = nib_tensor_quantized(ctx, layout, &codes->desc, storage, offset);
done:
    for (int i = 0; i < count; i++) nib_storage_release(storage[i]);
    return t;
}

static void unpack(const nib_tensor *t, int64_t row, nib_codes *codes) {
    const void *part[NIB_MAX_PARTS] = {0};
    for (int i = 0; i < t->nparts; i++) part[i] = nib_tensor_part(t, i);
    t->layout->unpack(codes, part, &t->desc, row);
}

nib_status nib_unpack_rows(const nib_tensor *t, int64_t row, int64_t rows, nib_codes *out) {
    *out = (nib_codes){0};
    if (!t->layout) return NIB_RAISE(NIB_E_ARGUMENT, "a dense tensor has no codes to unpack");
    if (row < 0 || rows < 1 || row > t->desc.rows - rows)
        return NIB_RAISE(NIB_E_SHAPE, "rows %lld to %lld of a weight with %lld", (long long)row,
                         (long long)(row + rows), (long long)t->desc.rows);
    const nib_qdesc desc = nib_qdesc_of_rows(&t->desc, rows);
    NIB_TRY(nib_codes_alloc(nib_ctx_mem(t->ctx), &desc, out));
    unpack(t, row, out);
    return NIB_OK;
}

/* Scratch: codes, then scales and zeros, each from a multiple of 64 bytes on. A run that starts in
 * the middle of a block row may touch one block row more than its length says. */
static size_t scratch_parts(const nib_tensor *t, int64_t rows, size_t *scale, size_t *zero) {
    const nib_qdesc d = nib_qdesc_of_rows(&t->desc, rows);
    const size_t bytes = nib_qdesc_bits(&d) > 8 ? 2 : 1;
    const size_t blocks = (size_t)(nib_qdesc_blocks(&d) + nib_qdesc_block_cols(&d));
    const size_t line = 63, values = (blocks * sizeof(float) + line) & ~line;
    *scale = ((size_t)(d.rows * d.cols) * bytes + line) & ~line;
    *zero = *scale + values;
    return *zero + values;
}

size_t nib_rows_scratch_size(const nib_tensor *t, int64_t rows) {
    size_t scale, zero;
    return t->layout ? scratch_parts(t, rows, &scale, &zero) : 0;
}

/* Codes of so many rows with room for what they are in `scratch`. */
static nib_codes codes_over(const nib_tensor *t, int64_t rows, void *scratch) {
    size_t scale, zero;
    scratch_parts(t, rows, &scale, &zero);
    char *base = scratch;
    nib_codes codes = {.desc = nib_qdesc_of_rows(&t->desc, rows),
                       .q = base,
                       .code_bytes = nib_qdesc_bits(&t->desc) > 8 ? 2 : 1,
                       .scale = (float *)(void *)(base + scale)};
    if (t->desc.zero_kind != NIB_ZERO_NONE) codes.zero = (float *)(void *)(base + zero);
    return codes;
}

nib_codes nib_rows_codes(const nib_tensor *t, int64_t row, int64_t rows, void *scratch) {
    nib_codes codes = codes_over(t, rows, scratch);
    unpack(t, row, &codes);
    return codes;
}

void nib_rows_to_f32(const nib_tensor *t, int64_t row, int64_t rows, float *out, void *scratch) {
    if (!t->layout) {
        const int last = t->shape.ndim - 1;
        const int64_t cols = t->shape.dim[last], size = nib_dtype_bits(t->dtype) / 8;
        const int64_t step = last > 0 ? t->stride[last - 1] : cols;
        const char *x = nib_tensor_data(t);
        for (int64_t r = 0; r < rows; r++)
            nib_to_f32(t->dtype, out + r * cols, x + (row + r) * step * size, (size_t)cols);
        return;
    }
    const nib_codes codes = nib_rows_codes(t, row, rows, scratch);
    nib_codes_dequantize(&codes, out);
}

static void narrow(nib_dtype dtype, void *out, const float *x, size_t n) {
    const nib_kernels *k = nib_codes_kernels();
    switch (dtype) {
    case NIB_F16:
        k->f32_to_f16(out, x, n);
        break;
    case NIB_BF16:
        k->f32_to_bf16(out, x, n);
        break;
    default:
        memcpy(out, x, n * sizeof(float));
    }
}

nib_tensor *nib_dequantize_tensor(const nib_tensor *t) {
    if (!t) return NULL;
    if (!t->layout && (!nib_tensor_contiguous(t) || nib_dtype_bits(t->dtype) < 16 ||
                       !nib_dtype_is_float(t->dtype) || t->shape.ndim < 1))
        return NIB_RAISE_NULL(NIB_E_ARGUMENT,
                              "only quantized tensors and contiguous float ones can "
                              "be dequantized, this is %s",
                              nib_dtype_name(t->dtype));
    nib_tensor *out = nib_tensor_new(t->ctx, t->dtype, t->shape);
    if (!out) return NULL;
    char *bytes = nib_tensor_data_mut(out);
    const size_t width = (size_t)nib_dtype_bits(t->dtype) / 8;
    if (!t->layout) {
        memcpy(bytes, nib_tensor_data(t), (size_t)nib_tensor_count(t) * width);
        return out;
    }
    const int64_t cols = t->desc.cols;
    const size_t scratch = nib_rows_scratch_size(t, 1), room = (size_t)cols * sizeof(float);
    float *row = nib_mem_alloc(nib_ctx_mem(t->ctx), room);
    void *work = row ? nib_mem_alloc(nib_ctx_mem(t->ctx), scratch) : NULL;
    for (int64_t r = 0; work && r < t->desc.rows; r++) {
        nib_rows_to_f32(t, r, 1, row, work);
        narrow(t->dtype, bytes + (size_t)(r * cols) * width, row, (size_t)cols);
    }
    const bool made = work != NULL;
    nib_mem_free(nib_ctx_mem(t->ctx), work, scratch);
    nib_mem_free(nib_ctx_mem(t->ctx), row, room);
    if (made) return out;
    nib_tensor_free(out);
    return NULL;
}
