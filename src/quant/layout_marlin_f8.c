/* marlin_f8: float8 weights as optimum-quanto hands them to its Marlin kernel for GPUs (vLLM's
 * fp8_marlin: GPTQ's words of four columns, repacked).
 *
 *   _data._data  i32 [cols / 16, 4 rows]   a piece of marlin.h is two words, values 0 to 3 and 4
 *                                          to 7, from the lowest byte up: | 3 | 1 | 2 | 0 |
 *   _scale       f   [1, rows]             f16 or bf16, rows in the order of marlin.h
 *
 * w = s q. Rows of 64 share a tile and columns come first, so that all rows are packed at once. */
#include "quant/codes.h"
#include "quant/layout_part.h"
#include "quant/marlin.h"

static bool holds(const nib_qdesc *d) {
    return d->code == NIB_F8_E4M3FN && d->zero_kind == NIB_ZERO_NONE && d->outer == 0.0f &&
           (d->math == NIB_F16 || d->math == NIB_BF16) && d->scale_dtype == d->math &&
           d->shape.ndim == 2 && d->rows % NIB_MARLIN_ROWS == 0 && d->cols % NIB_MARLIN_COLS == 0 &&
           d->block_rows == 1 && d->block_cols == d->cols;
}

static int parts(const nib_qdesc *d, nib_part part[NIB_MAX_PARTS]) {
    part[0] = (nib_part){.suffix = "_data._data",
                         .dtype = NIB_I32,
                         .shape = {2, {d->cols / NIB_MARLIN_COLS, 4 * d->rows}},
                         .row_dim = NIB_ROWS_FLAT};
    part[1] = nib_part_across(d, "_scale", d->scale_dtype);
    return 2;
}

static int64_t place(const nib_qdesc *d, int64_t n, int64_t k) {
    static const int8_t byte[] = {0, 2, 1, 3, 4, 6, 5, 7};
    return nib_marlin_piece(d->rows, n, k) * 8 + byte[nib_marlin_value(n, k)];
}

static void pack(void *const part[], const nib_codes *c) {
    const nib_qdesc *d = &c->desc;
    const uint8_t *q = c->q;
    uint8_t *bytes = part[0];
    for (int64_t n = 0; n < d->rows; n++) {
        for (int64_t k = 0; k < d->cols; k++) bytes[place(d, n, k)] = *q++;
        nib_part_store(d->scale_dtype, part[1], nib_marlin_scale(n, false), &c->scale[n], 1);
    }
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    const uint8_t *bytes = part[0];
    uint8_t *q = c->q;
    for (int64_t r = 0; r < c->desc.rows; r++) {
        const int64_t n = row + r;
        for (int64_t k = 0; k < d->cols; k++) *q++ = bytes[place(d, n, k)];
        nib_part_load(d->scale_dtype, part[1], nib_marlin_scale(n, false), &c->scale[r], 1);
    }
}

static int bands(const nib_qdesc *d) {
    (void)d;
    return 0;
}

const nib_layout nib_layout_marlin_f8 = {
    .name = "marlin_f8",
    .doc = "optimum-quanto's float8 weights for its Marlin kernel of GPUs: tiles of tensor cores",
    .wants = "float8_e4m3fn codes with a float16 or bfloat16 scale a row, of a matrix, rows a "
             "multiple of 64, columns of 16",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
    .bands = bands,
};
