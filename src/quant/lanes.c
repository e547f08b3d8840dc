#include "quant/lanes.h"

#include <math.h>
#include <string.h>

#include "quant/codes.h"
#include "quant/lanes_lay.h"
#include "quant/layout_part.h"

enum { CHUNK = 32, CELL = 64 }; /* columns handled together; bytes of a cell */

static nib_lane lane_of(const nib_qdesc *d) {
    if (!nib_qdesc_integer(d)) return NIB_LANE_F8;
    switch (nib_qdesc_bits(d)) {
    case 8:
        return NIB_LANE_W8;
    case 4:
        return NIB_LANE_W4;
    case 2:
        return NIB_LANE_W2;
    default:
        return NIB_LANE_WX;
    }
}

/* A zero is stored like the scale, so it must be exact there: it has the same dtype, or is a
 * small integer. */
static bool zero_fits(const nib_qdesc *d) {
    return d->zero_kind == NIB_ZERO_NONE || d->zero_dtype == d->scale_dtype ||
           (d->zero_kind == NIB_ZERO_POINT && (d->zero_dtype == NIB_I8 || d->zero_dtype == NIB_U8));
}

bool nib_lanes_hold(const nib_qdesc *d, nib_lane lane) {
    if (nib_qdesc_bits(d) > 8 || lane_of(d) != lane) return false;
    if (lane == NIB_LANE_F8 && (nib_qdesc_bits(d) != 8 || d->zero_kind != NIB_ZERO_NONE))
        return false;
    const bool groups = d->block_cols % CHUNK == 0 && d->cols % d->block_cols == 0;
    return d->shape.ndim == 2 && (d->block_cols >= d->cols || groups) &&
           (d->block_cols < d->cols ? d->block_cols : d->cols) <= NIB_LANE_MAX_GROUP &&
           (d->block_rows == 1 || d->block_rows >= d->rows) && zero_fits(d) && d->outer == 0 &&
           (d->scale_dtype == NIB_F32 || d->scale_dtype == NIB_F16 || d->scale_dtype == NIB_BF16);
}

/* Columns that fill whole cells of every plane. */
static int64_t padded_columns(const nib_qdesc *d) {
    static const int64_t columns[NIB_LANES] = {4, 8, 16, 32, 4};
    const int64_t cell = columns[lane_of(d)];
    return (d->cols + cell - 1) / cell * cell;
}

static int64_t panels_of(const nib_qdesc *d) { return (d->rows + NIB_PANEL - 1) / NIB_PANEL; }
static int64_t panel_bytes(const nib_qdesc *d) {
    return padded_columns(d) * NIB_PANEL * nib_qdesc_bits(d) / 8;
}

/* u = q + bias, c = u - mid. */
static int bias_of(const nib_qdesc *d) {
    return nib_qdesc_integer(d) && nib_qdesc_signed(d) ? 1 << (nib_qdesc_bits(d) - 1) : 0;
}
static int mid_of(const nib_qdesc *d) {
    if (!nib_qdesc_integer(d)) return 0;
    return bias_of(d) + (d->zero_kind == NIB_ZERO_MID ? nib_qdesc_mid(d) : 0);
}

int nib_lanes_parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    const int64_t panels = panels_of(d), groups = nib_qdesc_block_cols(d);
    const nib_shape codes = {3, {panels, panel_bytes(d) / CELL, CELL}};
    const nib_shape values = {3, {panels, groups, NIB_PANEL}};
    const nib_shape channels = {2, {panels, NIB_PANEL}};
    int n = 0;
    parts[n++] = nib_part_of(d, "lanes", NIB_U8, 0, NIB_PANEL, codes);
    parts[n++] = nib_part_of(d, "scale", d->scale_dtype, 0, NIB_PANEL, values);
    if (d->zero_kind != NIB_ZERO_NONE)
        parts[n++] = nib_part_of(d, "offset", d->scale_dtype, 0, NIB_PANEL, values);
    parts[n++] = nib_part_of(d, "correction", NIB_F32, 0, NIB_PANEL, channels);
    return n;
}

nib_lane_weight nib_lanes_view(const nib_qdesc *d, const void *const part[]) {
    static const nib_offset kinds[] = {
        [NIB_ZERO_NONE] = NIB_OFFSET_NONE,
        [NIB_ZERO_POINT] = NIB_OFFSET_POINT,
        [NIB_ZERO_SHIFT] = NIB_OFFSET_SUB,
        [NIB_ZERO_MID] = NIB_OFFSET_ADD,
    };
    const bool zeros = d->zero_kind != NIB_ZERO_NONE;
    const int64_t groups = nib_qdesc_block_cols(d);
    return (nib_lane_weight){.lane = lane_of(d),
                             .bits = nib_qdesc_bits(d),
                             .mid = mid_of(d),
                             .code = d->code,
                             .N = d->rows,
                             .K = d->cols,
                             .G = groups == 1 ? d->cols : d->block_cols,
                             .groups = groups,
                             .codes = part[0],
                             .panel_bytes = panel_bytes(d),
                             .scale = part[1],
                             .offset = zeros ? part[2] : NULL,
                             .scale_dtype = d->scale_dtype,
                             .offset_kind = kinds[d->zero_kind],
                             .correction = part[zeros ? 3 : 2]};
}

/* ---- codes of 32 columns of one row: eight words of four, one a byte ---- */

typedef struct run {
    uint32_t four[CHUNK / 4];
} run;

static inline uint32_t everywhere(int byte) { return 0x01010101u * (uint32_t)byte; }

static inline void get_plane(const uint8_t *plane, int bits, int shift, int64_t channel, run *r,
                             int64_t k, int64_t words) {
    const int in_cell = 8 / bits;
    const uint32_t mask = everywhere((1 << bits) - 1);
    const uint8_t *from = plane + k / 4 / in_cell * CELL + channel * 4;
    for (int i = 0; i < words; i += in_cell, from += CELL) {
        uint32_t cell;
        memcpy(&cell, from, 4);
        for (int j = 0; j < in_cell; j++) r->four[i + j] |= (cell >> (bits * j) & mask) << shift;
    }
}

static run get_run(const nib_qdesc *d, const uint8_t *panel, int64_t channel, int64_t k,
                   int64_t words) {
    const int bits = nib_qdesc_bits(d);
    run r = {{0}};
    int shift = 0;
    switch (lane_of(d)) {
    case NIB_LANE_W8:
        get_plane(panel, 8, 0, channel, &r, k, words);
        break;
    case NIB_LANE_W4:
        get_plane(panel, 4, 0, channel, &r, k, words);
        break;
    case NIB_LANE_W2:
        get_plane(panel, 2, 0, channel, &r, k, words);
        break;
    case NIB_LANE_WX:
        for (int plane = 4; plane; plane /= 2) {
            if (!(bits & plane)) continue;
            get_plane(panel, plane, shift, channel, &r, k, words);
            panel += padded_columns(d) * NIB_PANEL * plane / 8;
            shift += plane;
        }
        break;
    default:
        for (int64_t i = 0; i < words * 4; i++)
            r.four[i / 4] |= (uint32_t)panel[(k + i) * NIB_PANEL + channel] << (8 * (i % 4));
    }
    return r;
}

/* ---- whole rows ---- */

static void unpack_codes(const nib_qdesc *d, const uint8_t *panel, int64_t channel, uint8_t *q) {
    const int64_t padded = padded_columns(d);
    const uint8_t bias = (uint8_t)bias_of(d);
    for (int64_t k = 0; k < d->cols; k += CHUNK) {
        const int64_t words = padded - k < CHUNK ? (padded - k) / 4 : CHUNK / 4;
        const int64_t there = d->cols - k < CHUNK ? d->cols - k : CHUNK;
        const run r = get_run(d, panel, channel, k, words);
        memcpy(q + k, r.four, (size_t)there);
        for (int64_t i = 0; bias && i < there; i++) q[k + i] = (uint8_t)(q[k + i] - bias);
    }
}

static void get_values(const nib_qdesc *d, const void *part, int64_t row, int64_t rows,
                       float *values) {
    const int64_t groups = nib_qdesc_block_cols(d), first = row / d->block_rows;
    for (int64_t r = row; r < row + rows; r++)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t at = (r / NIB_PANEL * groups + g) * NIB_PANEL + r % NIB_PANEL;
            nib_part_load(d->scale_dtype, part, at,
                          values + (r / d->block_rows - first) * groups + g, 1);
        }
}

void nib_lanes_pack(void *const part[], const nib_codes *c) {
    const nib_qdesc *d = &c->desc;
    const int64_t row = d->block_rows == 1 ? nib_qdesc_block_cols(d) : 0;
    const nib_stored codes = {.how = NIB_STORED_BYTES,
                              .codes = c->q,
                              .ld = d->cols,
                              .scale = {c->scale, NIB_F32, row, 1},
                              .zero = {c->zero, NIB_F32, row, 1}};
    nib_lanes_lay(d, &codes, part, 0, d->rows);
}

void nib_lanes_unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    const int64_t size = panel_bytes(d);
    for (int64_t i = 0; i < c->desc.rows; i++) {
        const int64_t r = row + i;
        unpack_codes(d, (const uint8_t *)part[0] + r / NIB_PANEL * size, r % NIB_PANEL,
                     (uint8_t *)c->q + i * d->cols);
    }
    get_values(d, part[1], row, c->desc.rows, c->scale);
    if (d->zero_kind != NIB_ZERO_NONE) get_values(d, part[2], row, c->desc.rows, c->zero);
}
