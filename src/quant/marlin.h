/* marlin.h: where the Marlin kernels of GPUs want each weight. A tile of 16 columns and 64 rows is
 * the B operand of four m16n8k16 products twice: row n lies in tile n / 64, columns in steps of 16.
 *
 *   lane  (n % 8) * 4 + k % 8 / 2      of the 32 that load the tile
 *   piece n % 64 / 16                  which product: a lane's pieces lie side by side
 *   value n % 16 / 8 * 4 + k % 16 / 8 * 2 + k % 2      of the eight in a piece */
#ifndef NIB_QUANT_MARLIN_H
#define NIB_QUANT_MARLIN_H
#include <stdbool.h>
#include <stdint.h>

enum { NIB_MARLIN_ROWS = 64, NIB_MARLIN_COLS = 16 };

/* The place of a piece among those of all tiles, first of a run of 16 columns, then of the next. */
static inline int64_t nib_marlin_piece(int64_t rows, int64_t n, int64_t k) {
    const int64_t tile = k / NIB_MARLIN_COLS * (rows / NIB_MARLIN_ROWS) + n / NIB_MARLIN_ROWS;
    const int64_t lane = n % 8 * 4 + k % 8 / 2;
    return (tile * 32 + lane) * 4 + n % NIB_MARLIN_ROWS / 16;
}

/* Which of the eight values of its piece. */
static inline int nib_marlin_value(int64_t n, int64_t k) {
    return (int)(n % 16 / 8 * 4 + k % 16 / 8 * 2 + k % 2);
}

/* Where the scale of row n lies among those of all rows: as a lane finds those of its results side
 * by side. One scale a row: runs of 32 rows, 0 1 8 9 16 17 24 25  2 3 10 11 ...  Groups: runs of
 * 64, 0 8 16 .. 56  1 9 17 ... */
static inline int64_t nib_marlin_scale(int64_t n, bool groups) {
    if (groups) return n / 64 * 64 + n % 8 * 8 + n % 64 / 8;
    return n / 32 * 32 + n % 8 / 2 * 8 + n % 32 / 8 * 2 + n % 2;
}
#endif
