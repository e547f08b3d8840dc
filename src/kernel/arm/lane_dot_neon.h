/* lane_dot_neon.h: 8-bit inputs with weights in lanes by NEON's dot products: four products of
 * bytes into each 32-bit lane, exact for all codes, the inputs of a lane taken from any quarter of
 * a vector. Both sides are signed (sdot), which suits codes of up to 7 bits as they are; 8-bit ones
 * have their top bit flipped, so that they stand for u - 128, or meet usdot where there is i8mm. */
#ifndef NIB_KERNEL_ARM_LANE_DOT_NEON_H
#define NIB_KERNEL_ARM_LANE_DOT_NEON_H
#include "kernel/arm/float_neon.h"
#include "kernel/lane_blocks.h"

#define INLINE static inline __attribute__((always_inline))

/* What the codes of a block are. */
typedef enum lane_source {
    LANE_BYTES,    /* cells of one byte a code, below 128 */
    LANE_FLIPPED,  /* the same of any value, to be flipped */
    LANE_UNSIGNED, /* the same for usdot */
    LANE_NIBBLES,  /* cells as they lie in a 4-bit panel, */
    LANE_CRUMBS,   /* in a 2-bit panel */
} lane_source;

/* ---- scales, offsets, the last steps ---- */

INLINE float32x4_t lane_four_values(nib_dtype dtype, const void *x, int64_t i) {
    if (dtype == NIB_F32) return vld1q_f32((const float *)x + i);
    const uint16x4_t half = vld1_u16((const uint16_t *)x + i);
    if (dtype == NIB_F16) return vcvt_f32_f16(vreinterpret_f16_u16(half));
    return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
}

static void lane_groups(lane_values *out, const nib_lane_weight *w, int64_t panel, int64_t group,
                        int64_t count) {
    for (int64_t i = 0; i < count; i++)
        for (int n = 0; n < NIB_PANEL; n += 4) {
            const int64_t at = (panel * w->groups + group + i) * NIB_PANEL + n;
            const float32x4_t scale = lane_four_values(w->scale_dtype, w->scale, at);
            float32x4_t z = vdupq_n_f32(0);
            if (w->offset_kind != NIB_OFFSET_NONE)
                z = lane_four_values(w->scale_dtype, w->offset, at);
            if (w->offset_kind == NIB_OFFSET_POINT) z = vmulq_f32(scale, z);
            if (w->offset_kind > NIB_OFFSET_ADD) z = vnegq_f32(z);
            vst1q_f32(out[i].scale + n, scale);
            vst1q_f32(out[i].offset + n, z);
        }
}

/* A row's sums t of group s of a block into y, or what there is of them into `parts`. */
INLINE void lane_end(const lane_block *b, int64_t s, const int32x4_t t[4], int32_t sum, float *y,
                     int32_t *parts) {
    const lane_values *v = b->values + s;
    for (int i = 0; i < 4; i++) {
        if (!b->ends) {
            vst1q_s32(parts + 4 * i, t[i]);
            continue;
        }
        float32x4_t at = vld1q_f32(y + 4 * i);
        at = vfmaq_f32(at, vld1q_f32(v->scale + 4 * i), vcvtq_f32_s32(t[i]));
        if (b->w->offset_kind != NIB_OFFSET_NONE)
            at = vfmaq_f32(at, vld1q_f32(v->offset + 4 * i), vdupq_n_f32((float)sum));
        vst1q_f32(y + 4 * i, at);
    }
}

/* Where the sums of a row begin: -mid * sum, or what an earlier block left. */
INLINE int32x4_t lane_begin(const lane_block *b, int i, int mid, int32_t sum,
                            const int32_t *parts) {
    if (!b->starts) return vld1q_s32(parts + 4 * i);
    return vdupq_n_s32((int32_t)(0 - (uint32_t)mid * (uint32_t)sum));
}

static void lane_finish(float *y, int64_t ldy, const nib_rows_i8 *rows, int64_t m,
                        const nib_lane_weight *w, int64_t panel, const float *sums) {
    const int64_t left = w->N - panel * NIB_PANEL;
    float *out = y + m * ldy + panel * NIB_PANEL;
    for (int i = 0; i < NIB_PANEL && i < left; i += 4) {
        float32x4_t v = vld1q_f32(sums + i);
        if (rows->zero)
            v = vfmaq_f32(v, vdupq_n_f32(-(float)rows->zero[m]),
                          vld1q_f32(w->correction + panel * NIB_PANEL + i));
        neon_store_first(out + i, (size_t)(left - i), vmulq_f32(v, vdupq_n_f32(rows->scale[m])));
    }
}

/* ---- codes ---- */

/* Codes of `columns` columns from a plane that begins there, to bytes; `shift`: the bits below it
 * are there already. */
INLINE void unpack_plane(const int bits, uint8_t *out, const uint8_t *plane, int64_t columns,
                         const int shift) {
    const uint8x16_t mask = vdupq_n_u8((uint8_t)((1 << bits) - 1));
    for (int64_t k = 0; k < columns; k += 32 / bits, plane += 64)
        for (int i = 0; i < 8 / bits; i++, out += 64)
            for (int n = 0; n < 64; n += 16) {
                const uint8x16_t all = vld1q_u8(plane + n);
                uint8x16_t u = vandq_u8(vshlq_u8(all, vdupq_n_s8((int8_t)(-i * bits))), mask);
                if (shift) u = vorrq_u8(vld1q_u8(out + n), vshlq_u8(u, vdupq_n_s8((int8_t)shift)));
                vst1q_u8(out + n, u);
            }
}

/* Cells of one byte a code; those of 8 bits as they are. */
static const uint8_t *lane_unpack(uint8_t *out, const nib_lane_weight *w, int64_t panel, int64_t k,
                                  int64_t columns) {
    const uint8_t *plane = w->codes + panel * w->panel_bytes;
    int shift = 0;
    if (w->lane == NIB_LANE_W8) return plane + k * NIB_PANEL;
    if (w->lane == NIB_LANE_WX) columns = (columns + 31) / 32 * 32;
    if (w->bits & 4) {
        unpack_plane(4, out, plane + k * 8, columns, 0);
        plane += (w->K + 31) / 32 * 32 * 8, shift = 4;
    }
    if (w->bits & 2) {
        unpack_plane(2, out, plane + k * 4, columns, shift);
        plane += (w->K + 31) / 32 * 32 * 4, shift += 2;
    }
    if (w->bits & 1) unpack_plane(1, out, plane + k * 2, columns, shift);
    return out;
}

static const uint8_t *lane_as_they_are(uint8_t *space, const nib_lane_weight *w, int64_t panel,
                                       int64_t k, int64_t columns) {
    (void)space, (void)columns;
    return w->codes + panel * w->panel_bytes + k * 2 * w->bits;
}

/* ---- tiles of R rows by 16 channels ---- */

#ifdef __ARM_FEATURE_MATMUL_INT8
#define LANE_USDOT(t, u, q, quarter) vusdotq_laneq_s32(t, u, q, quarter)
#else
#define LANE_USDOT(t, u, q, quarter) (t)
#endif

/* Four columns, a quarter of the vectors q, with the codes u of 4 times 4 channels. */
#define LANE_QUARTER(quarter)                                                                      \
    for (int r = 0; r < R; r++)                                                                    \
        for (int i = 0; i < 4; i++)                                                                \
            t[r][i] = from == LANE_UNSIGNED                                                        \
                          ? LANE_USDOT(t[r][i], u[i], q[r], quarter)                               \
                          : vdotq_laneq_s32(t[r][i], vreinterpretq_s8_u8(u[i]), q[r], quarter);

INLINE void lane_codes_of(const lane_source from, uint8x16_t u[4], const uint8_t *w,
                          const int quarter) {
    for (int i = 0; i < 4; i++) {
        const uint8x16_t flip = vdupq_n_u8(0x80), nibble = vdupq_n_u8(15), crumb = vdupq_n_u8(3);
        if (from == LANE_NIBBLES) {
            u[i] = vld1q_u8(w + quarter / 2 * 64 + i * 16);
            u[i] = quarter % 2 ? vshrq_n_u8(u[i], 4) : vandq_u8(u[i], nibble);
        } else if (from == LANE_CRUMBS) {
            u[i] = vld1q_u8(w + i * 16);
            if (quarter) u[i] = vshlq_u8(u[i], vdupq_n_s8((int8_t)(-2 * quarter)));
            u[i] = vandq_u8(u[i], crumb);
        } else {
            u[i] = vld1q_u8(w + quarter * 64 + i * 16);
            if (from == LANE_FLIPPED) u[i] = veorq_u8(u[i], flip);
        }
    }
}

/* Sixteen columns. */
INLINE void lane_sixteen(const lane_source from, const int R, int32x4_t t[4][4], const uint8_t *w,
                         const uint8_t *rows, int64_t ldq) {
    int8x16_t q[4];
    uint8x16_t u[4];
    for (int r = 0; r < R; r++) q[r] = vreinterpretq_s8_u8(vld1q_u8(rows + r * ldq));
    lane_codes_of(from, u, w, 0);
    LANE_QUARTER(0)
    lane_codes_of(from, u, w, 1);
    LANE_QUARTER(1)
    lane_codes_of(from, u, w, 2);
    LANE_QUARTER(2)
    lane_codes_of(from, u, w, 3);
    LANE_QUARTER(3)
}

INLINE void lane_dot_tile(const lane_source from, const int R, const lane_block *b,
                          const uint8_t *q, int64_t ldq, const int32_t *sums, float *y,
                          int32_t *parts) {
    const int bits = from == LANE_NIBBLES ? 4 : from == LANE_CRUMBS ? 2 : 8;
    const int mid = b->w->mid - (from == LANE_FLIPPED ? 128 : 0);
    const int64_t groups = b->w->groups;
    const uint8_t *w = b->codes;
    for (int64_t s = 0; s < b->segments; s++, sums++) {
        int32x4_t t[4][4];
        for (int r = 0; r < R; r++)
            for (int i = 0; i < 4; i++)
                t[r][i] = lane_begin(b, i, mid, sums[r * groups], parts + r * NIB_PANEL);
        int64_t left = b->cells;
        for (; left >= 4; left -= 4, w += 32 * bits, q += 16) lane_sixteen(from, R, t, w, q, ldq);
        if (left) { /* the inputs go on with zeros, the codes do not go on */
            uint8_t rest[256] = {0};
            memcpy(rest, w, (size_t)(8 * bits * left + 63) / 64 * 64);
            lane_sixteen(from, R, t, rest, q, ldq);
        }
        for (int r = 0; r < R; r++)
            lane_end(b, s, t[r], sums[r * groups], y + r * NIB_PANEL, parts + r * NIB_PANEL);
    }
}

/* A function for lane_method.rows out of `tile`(method, R, ...). */
#define LANE_ROWS_BY(name, tile, method)                                                           \
    static void name(const lane_block *b, const uint8_t *q, int64_t ldq, const int32_t *sums,      \
                     int64_t M, float *y, int32_t *parts) {                                        \
        const int64_t groups = b->w->groups;                                                       \
        for (; M >= 4; M -= 4, q += 4 * ldq, sums += 4 * groups, y += 64, parts += 64)             \
            tile(method, 4, b, q, ldq, sums, y, parts);                                            \
        if (M == 3) tile(method, 3, b, q, ldq, sums, y, parts);                                    \
        if (M == 2) tile(method, 2, b, q, ldq, sums, y, parts);                                    \
        if (M == 1) tile(method, 1, b, q, ldq, sums, y, parts);                                    \
    }
LANE_ROWS_BY(rows_of_bytes, lane_dot_tile, LANE_BYTES)
LANE_ROWS_BY(rows_of_nibbles, lane_dot_tile, LANE_NIBBLES)
LANE_ROWS_BY(rows_of_crumbs, lane_dot_tile, LANE_CRUMBS)
static const lane_method lane_by_bytes = {lane_unpack, lane_groups, rows_of_bytes, lane_finish};
static const lane_method lane_by_nibbles = {lane_as_they_are, lane_groups, rows_of_nibbles,
                                            lane_finish};
static const lane_method lane_by_crumbs = {lane_as_they_are, lane_groups, rows_of_crumbs,
                                           lane_finish};
#endif
