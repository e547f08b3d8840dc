/* int4_tile_packed: torchao's Int4TilePackedTo4dTensor, the bytes of the tinygemm CUDA kernel. Rows
 * are padded to a multiple of 8 and columns to one of 1024. A tile of 8 rows and 128 columns is the
 * B operand of eight m16n8k16 products: 32 lanes with four 32-bit words of eight codes each.
 *
 *   qdata           i32 [rows / 8, cols / 128, 32 lanes, 4]
 *     lane t, word j:  row t / 4,  k = 32 j + 2 (t % 4),
 *                      columns  k + { 0, 1, 8, 9, 16, 17, 24, 25 } = v0 .. v7
 *                      | v7 | v5 | v3 | v1 | v6 | v4 | v2 | v0 |       v0 in the lowest 4 bits
 *   scale_and_zero  bf16 [cols / G, rows, 2]       w = s (c - 8) + z
 *
 * Padding is a weight of zeros that the scheme would have quantized: scale the smallest that the
 * rule allows (2^-126 by default), zero = 8 of those, and codes round((0 - 0) / s) = 0. */
#include <string.h>

#include "quant/codes.h"
#include "quant/layout_part.h"

enum { TILE_ROWS = 8, TILE_COLS = 128, LANES = 32, WORDS = 4, PAD_COLS = 1024 };

static bool holds(const nib_qdesc *d) {
    return d->code == NIB_U4 && d->zero_kind == NIB_ZERO_MID && d->scale_dtype == NIB_BF16 &&
           d->zero_dtype == NIB_BF16 && d->block_rows == 1 && PAD_COLS % d->block_cols == 0 &&
           d->cols % d->block_cols == 0;
}

static int64_t padded(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    const int64_t N = padded(nib_qdesc_matrix_rows(d), TILE_ROWS), K = padded(d->cols, PAD_COLS);
    parts[0] = nib_part_of(d, "qdata", NIB_I32, 0, TILE_ROWS,
                           (nib_shape){4, {N / TILE_ROWS, K / TILE_COLS, LANES, WORDS}});
    parts[1] =
        nib_part_of(d, "scale_and_zero", NIB_BF16, 1, 1, (nib_shape){3, {K / d->block_cols, N, 2}});
    return 2;
}

/* Columns of the eight codes of a word from its lowest 4 bits up, from the word's first column. */
static const int order[8] = {0, 8, 16, 24, 1, 9, 17, 25};

static int64_t first_column(int64_t tile, int lane, int word) {
    return tile * TILE_COLS + 32 * word + 2 * (lane % 4);
}

static void pack_matrix(uint32_t *words, uint16_t *pairs, const nib_codes *c) {
    const nib_qdesc *d = &c->desc;
    const int64_t N = padded(d->rows, TILE_ROWS), K = padded(d->cols, PAD_COLS);
    const int64_t groups = nib_qdesc_block_cols(d);
    const uint8_t *q = c->q;
    for (int64_t n = 0; n < N; n += TILE_ROWS)
        for (int64_t tile = 0; tile < K / TILE_COLS; tile++)
            for (int lane = 0; lane < LANES; lane++)
                for (int word = 0; word < WORDS; word++) {
                    const int64_t row = n + lane / 4, k = first_column(tile, lane, word);
                    uint32_t held = 0;
                    for (int i = 0; i < 8; i++) {
                        const int64_t col = k + order[i];
                        if (row < d->rows && col < d->cols)
                            held |= (uint32_t)q[row * d->cols + col] << (4 * i);
                    }
                    *words++ = held;
                }
    const float pad[2] = {0x1p-126f, 0x1p-123f};
    for (int64_t g = 0; g < K / d->block_cols; g++)
        for (int64_t n = 0; n < N; n++, pairs += 2) {
            const bool real = n < d->rows && g < groups;
            const float pair[2] = {real ? c->scale[n * groups + g] : pad[0],
                                   real ? c->zero[n * groups + g] : pad[1]};
            nib_part_store(NIB_BF16, pairs, 0, pair, 2);
        }
}

static void pack(void *const part[], const nib_codes *c) {
    const int64_t matrix = nib_qdesc_matrix_rows(&c->desc);
    const int64_t N = padded(matrix, TILE_ROWS), K = padded(c->desc.cols, PAD_COLS);
    for (int64_t row = 0, e = 0; row < c->desc.rows; row += matrix, e++) {
        const nib_codes one = nib_codes_rows(c, row, matrix);
        pack_matrix((uint32_t *)part[0] + e * N * K / 8,
                    (uint16_t *)part[1] + e * N * (K / c->desc.block_cols) * 2, &one);
    }
}

static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    const int64_t matrix = nib_qdesc_matrix_rows(d), groups = nib_qdesc_block_cols(d);
    const int64_t N = padded(matrix, TILE_ROWS), K = padded(d->cols, PAD_COLS);
    for (int64_t r = 0; r < c->desc.rows; r++) {
        const int64_t e = (row + r) / matrix, n = (row + r) % matrix;
        const uint32_t *tiles = (const uint32_t *)part[0] + (e * N + n / 8 * 8) * K / 8;
        const uint16_t *pairs = (const uint16_t *)part[1] + e * N * (K / d->block_cols) * 2;
        uint8_t *q_r = (uint8_t *)c->q + r * d->cols;
        for (int64_t tile = 0; tile * TILE_COLS < d->cols; tile++)
            for (int lane = (int)(n % 8) * 4; lane < (int)(n % 8) * 4 + 4; lane++)
                for (int word = 0; word < WORDS; word++) {
                    const uint32_t held = tiles[(tile * LANES + lane) * WORDS + word];
                    for (int i = 0; i < 8; i++) {
                        const int64_t col = first_column(tile, lane, word) + order[i];
                        if (col < d->cols) q_r[col] = held >> (4 * i) & 15;
                    }
                }
        for (int64_t g = 0; g < groups; g++) {
            nib_part_load(NIB_BF16, pairs, (g * N + n) * 2, &c->scale[r * groups + g], 1);
            nib_part_load(NIB_BF16, pairs, (g * N + n) * 2 + 1, &c->zero[r * groups + g], 1);
        }
    }
}

const nib_layout nib_layout_int4_tile_packed = {
    .name = "int4_tile_packed",
    .doc = "torchao's Int4TilePackedTo4dTensor: tiles of the tinygemm CUDA kernel",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
