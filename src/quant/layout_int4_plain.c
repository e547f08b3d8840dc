/* int4_plain: torchao's Int4Tensor. Two signed codes a byte, even column in the low half; scales
 * and zeros transposed, so that a kernel that walks along columns reads those of all rows at once.
 *
 *   qdata       i8 [rows, cols / 2]         | c1 c0 | c3 c2 | ...    two's complement nibbles
 *   scale       f  [cols / G, rows]         f: the weight's dtype
 *   zero_point  f  [cols / G, rows]         w = s c + z */
#include <string.h>

#include "quant/codes.h"
#include "quant/layout_part.h"

static bool holds(const nib_qdesc *d) {
    return d->code == NIB_I4 && d->zero_kind == NIB_ZERO_MID && d->block_rows == 1 &&
           d->cols % d->block_cols == 0 && d->cols % 2 == 0 && d->zero_dtype == d->scale_dtype &&
           (d->scale_dtype == NIB_F32 || d->scale_dtype == NIB_F16 || d->scale_dtype == NIB_BF16);
}

static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    const nib_shape transposed = {2, {nib_qdesc_block_cols(d), nib_qdesc_matrix_rows(d)}};
    parts[0] = nib_part_rows(d, "qdata", NIB_I8, d->cols / 2);
    parts[1] = nib_part_of(d, "scale", d->scale_dtype, 1, 1, transposed);
    parts[2] = nib_part_of(d, "zero_point", d->zero_dtype, 1, 1, transposed);
    return 3;
}

/* Where the value of group 0 of a row lies in a transposed part: those of more groups N apart. */
static int64_t first_of(const nib_qdesc *d, int64_t row) {
    const int64_t N = nib_qdesc_matrix_rows(d);
    return row / N * N * nib_qdesc_block_cols(d) + row % N;
}

enum { RUN = 128 }; /* values converted at once */

/* Values of rows [0, rows) to their places, and of rows from `row` on back. */
static void put_transposed(const nib_qdesc *d, void *part, const float *values) {
    const int64_t groups = nib_qdesc_block_cols(d), N = nib_qdesc_matrix_rows(d);
    float held[RUN]; /* room for RUN of the widest */
    for (int64_t r = 0; r < d->rows; r++)
        for (int64_t g = 0; g < groups; g += RUN) {
            const int64_t n = groups - g < RUN ? groups - g : RUN, at = first_of(d, r) + g * N;
            nib_part_store(d->scale_dtype, held, 0, values + r * groups + g, n);
            if (d->scale_dtype == NIB_F32)
                for (int64_t i = 0; i < n; i++) ((float *)part)[at + i * N] = held[i];
            else
                for (int64_t i = 0; i < n; i++)
                    memcpy((uint16_t *)part + at + i * N, (const uint16_t *)(const void *)held + i,
                           2);
        }
}

static void get_transposed(const nib_qdesc *d, const void *part, int64_t row, int64_t rows,
                           float *values) {
    const int64_t groups = nib_qdesc_block_cols(d), N = nib_qdesc_matrix_rows(d);
    float held[RUN];
    for (int64_t r = 0; r < rows; r++)
        for (int64_t g = 0; g < groups; g += RUN) {
            const int64_t n = groups - g < RUN ? groups - g : RUN,
                          at = first_of(d, row + r) + g * N;
            const size_t width = d->scale_dtype == NIB_F32 ? 4 : 2;
            for (int64_t i = 0; i < n; i++)
                memcpy((char *)held + (size_t)i * width,
                       (const char *)part + (size_t)(at + i * N) * width, width);
            nib_part_load(d->scale_dtype, held, 0, values + r * groups + g, n);
        }
}

static void pack(void *const part[], const nib_codes *c) {
    nib_codes_kernels()->pack_u4(part[0], c->q, (size_t)(c->desc.rows * c->desc.cols));
    put_transposed(&c->desc, part[1], c->scale);
    put_transposed(&c->desc, part[2], c->zero);
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    const size_t count = (size_t)(c->desc.rows * d->cols);
    uint8_t *q = c->q;
    nib_codes_kernels()->unpack_u4(q, (const uint8_t *)part[0] + row * d->cols / 2, count);
    for (size_t i = 0; i < count; i++) q[i] = (uint8_t)((q[i] ^ 8) - 8); /* 8..15 are -8..-1 */
    get_transposed(d, part[1], row, c->desc.rows, c->scale);
    get_transposed(d, part[2], row, c->desc.rows, c->zero);
}

const nib_layout nib_layout_int4_plain = {
    .name = "int4_plain",
    .doc = "torchao's Int4Tensor: two codes a byte, scales and zeros transposed",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
