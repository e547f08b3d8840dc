#include "quant/lanes.h"

#include <math.h>
#include <string.h>

#include "quant/codes.h"
#include "quant/lanes_panel.h"
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

/* The words go to cells of one plane: `bits` of each code from `shift` on. A cell takes
 * 8 / bits words, the last of a ragged row fewer of them. */
static inline void put_plane(uint8_t *plane, int bits, int shift, int64_t channel, const run *r,
                             int64_t k, int64_t words) {
    const int in_cell = 8 / bits;
    const uint32_t mask = everywhere((1 << bits) - 1);
    uint8_t *to = plane + k / 4 / in_cell * CELL + channel * 4;
    for (int i = 0; i < words; i += in_cell, to += CELL) {
        uint32_t cell = 0;
        for (int j = 0; j < in_cell; j++) cell |= (r->four[i + j] >> shift & mask) << (bits * j);
        memcpy(to, &cell, 4);
    }
}

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

static void put_run(const nib_qdesc *d, uint8_t *panel, int64_t channel, const run *r, int64_t k,
                    int64_t words) {
    const int bits = nib_qdesc_bits(d);
    int shift = 0;
    switch (lane_of(d)) {
    case NIB_LANE_W8:
        put_plane(panel, 8, 0, channel, r, k, words);
        break;
    case NIB_LANE_W4:
        put_plane(panel, 4, 0, channel, r, k, words);
        break;
    case NIB_LANE_W2:
        put_plane(panel, 2, 0, channel, r, k, words);
        break;
    case NIB_LANE_WX:
        for (int plane = 4; plane; plane /= 2) {
            if (!(bits & plane)) continue;
            put_plane(panel, plane, shift, channel, r, k, words);
            panel += padded_columns(d) * NIB_PANEL * plane / 8;
            shift += plane;
        }
        break;
    default:
        for (int64_t i = 0; i < words * 4; i++)
            panel[(k + i) * NIB_PANEL + channel] = (uint8_t)(r->four[i / 4] >> (8 * (i % 4)));
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

static void pack_codes(const nib_qdesc *d, uint8_t *panel, int64_t channel, const uint8_t *q) {
    const int64_t padded = padded_columns(d);
    const uint32_t bias = everywhere(bias_of(d)), mid = everywhere(mid_of(d));
    const uint32_t mask = everywhere((1 << nib_qdesc_bits(d)) - 1);
    for (int64_t k = 0; k < padded; k += CHUNK) {
        const int64_t words = padded - k < CHUNK ? (padded - k) / 4 : CHUNK / 4;
        const int64_t there = !q ? 0 : d->cols - k < CHUNK ? d->cols - k : CHUNK;
        run r;
        for (int i = 0; i < CHUNK / 4; i++) r.four[i] = mid ^ bias;
        if (there > 0) memcpy(r.four, q + k, (size_t)there);
        /* Adding half the range to a two's complement code is flipping its top bit. */
        for (int i = 0; i < CHUNK / 4; i++) r.four[i] = (r.four[i] ^ bias) & mask;
        put_run(d, panel, channel, &r, k, words);
    }
}

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

/* The 16 values of each group lie together; one block row is shared by all rows or by none. */
static void put_values(const nib_qdesc *d, void *part, const float *values) {
    const int64_t groups = nib_qdesc_block_cols(d), panels = panels_of(d);
    for (int64_t p = 0; p < panels; p++)
        for (int64_t g = 0; g < groups; g++) {
            float held[NIB_PANEL] = {0};
            for (int64_t c = 0; c < NIB_PANEL && p * NIB_PANEL + c < d->rows; c++)
                held[c] = values[(p * NIB_PANEL + c) / d->block_rows * groups + g];
            nib_part_store(d->scale_dtype, part, (p * groups + g) * NIB_PANEL, held, NIB_PANEL);
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

/* The sum of n codes u = q + bias: two in each 16 bits of a word, for as long as they fit. */
static int64_t sum_codes(const uint8_t *q, int64_t n, int bias, int bits) {
    enum { LONG = 64, FIT = 64 }; /* bytes at once; times 2 * 255 in 16 bits, with room */
    const uint64_t flip = 0x0101010101010101u * (uint64_t)bias,
                   mask = 0x0101010101010101u * (uint64_t)((1 << bits) - 1),
                   low = 0x00ff00ff00ff00ffu;
    int64_t sum = 0, i = 0;
    while (n - i >= LONG) {
        uint64_t acc[LONG / 8] = {0};
        for (int r = 0; r < FIT && n - i >= LONG; r++, i += LONG) {
            uint64_t w[LONG / 8];
            memcpy(w, q + i, LONG);
            for (int j = 0; j < LONG / 8; j++) {
                const uint64_t u = (w[j] ^ flip) & mask;
                acc[j] += (u & low) + (u >> 8 & low);
            }
        }
        for (int j = 0; j < LONG / 8; j++)
            sum += (int64_t)((acc[j] & 0xffff) + (acc[j] >> 16 & 0xffff) + (acc[j] >> 32 & 0xffff) +
                             (acc[j] >> 48));
    }
    for (; i < n; i++) sum += (q[i] ^ bias) & ((1 << bits) - 1);
    return sum;
}

/* correction = sum over groups of scale * (sum of c) + offset * columns, as docs/numerics.md has
 * it. */
static float correction_of(const nib_codes *c, int64_t row) {
    const nib_qdesc *d = &c->desc;
    const int64_t groups = nib_qdesc_block_cols(d), G = groups == 1 ? d->cols : d->block_cols;
    const uint8_t *q = (const uint8_t *)c->q + row * d->cols;
    float sum = 0;
    if (!nib_qdesc_integer(d)) return 0;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t block = row / d->block_rows * groups + g;
        const int64_t codes = sum_codes(q + g * G, G, bias_of(d), nib_qdesc_bits(d));
        sum = fmaf(c->scale[block], (float)(int32_t)(codes - mid_of(d) * G), sum);
        if (d->zero_kind != NIB_ZERO_NONE) sum = fmaf(nib_codes_offset(c, block), (float)G, sum);
    }
    return sum;
}

void nib_lanes_pack(void *const part[], const nib_codes *c) {
    const nib_qdesc *d = &c->desc;
    const bool zeros = d->zero_kind != NIB_ZERO_NONE;
    const nib_panel_kind kind = {.lane = lane_of(d),
                                 .bits = nib_qdesc_bits(d),
                                 .bias = bias_of(d),
                                 .mid = mid_of(d),
                                 .columns = padded_columns(d)};
    const int64_t size = panel_bytes(d);
    float *correction = part[zeros ? 3 : 2];
    for (int64_t r = 0; r < panels_of(d) * NIB_PANEL; r += NIB_PANEL) {
        uint8_t *panel = (uint8_t *)part[0] + r / NIB_PANEL * size;
        if (kind.lane != NIB_LANE_WX) {
            nib_lanes_panel(&kind, c, r, panel, correction + r);
            continue;
        }
        for (int64_t i = r; i < r + NIB_PANEL; i++) {
            const bool there = i < d->rows;
            pack_codes(d, panel, i - r, there ? (const uint8_t *)c->q + i * d->cols : NULL);
            correction[i] = there ? correction_of(c, i) : 0.0f;
        }
    }
    put_values(d, part[1], c->scale);
    if (zeros) put_values(d, part[2], c->zero);
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
