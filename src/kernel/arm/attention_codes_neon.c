/* attention_codes_neon.c: attention_codes_neon.h for a machine without sdot: bytes are widened, a
 * lane's four products stay apart until the end. And queries against a cache of e4m3fn, whose
 * codes become halves by a shift, 256 times smaller, and so floats. */
#include "kernel/arm/attention_neon.h"

typedef struct codes {
    int16_t code[R_MOST][NIB_ATTENTION_HEAD];
} codes;

static inline void split(codes *to, int r, const int16_t *code, int64_t n) {
    memcpy(to->code[r], code, (size_t)n * sizeof *code);
}

/* sums[r][lane] += four neighbours of four lanes times the codes at `q`. */
INLINE void add_cell(int32x4_t sums[R_MOST][4], const int R, int8x16_t bytes, const codes *q,
                     int64_t at) {
    const int16x8_t a = vmovl_s8(vget_low_s8(bytes)), b = vmovl_s8(vget_high_s8(bytes));
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const int16x4_t by = vld1_s16(q->code[r] + at);
        sums[r][0] = vmlal_s16(sums[r][0], vget_low_s16(a), by);
        sums[r][1] = vmlal_s16(sums[r][1], vget_high_s16(a), by);
        sums[r][2] = vmlal_s16(sums[r][2], vget_low_s16(b), by);
        sums[r][3] = vmlal_s16(sums[r][3], vget_high_s16(b), by);
    }
}

INLINE void product(int32x4_t out[R_MOST], const int R, const bool u4, const uint8_t *x,
                    int64_t cells, const codes *q, int64_t at) {
    int32x4_t sums[R_MOST][4];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int lane = 0; lane < 4; lane++) sums[r][lane] = vdupq_n_s32(0);
    for (int64_t c = 0; c < cells; c++) {
        const uint8x16_t bytes = vld1q_u8(x + c * 64);
        if (u4) {
            add_cell(sums, R, vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), q, at + c * 8);
            add_cell(sums, R, vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4)), q, at + c * 8 + 4);
        } else {
            add_cell(sums, R, vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(128))), q, at + c * 4);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
        out[r] = vpaddq_s32(vpaddq_s32(sums[r][0], sums[r][1]), vpaddq_s32(sums[r][2], sums[r][3]));
}

#include "kernel/arm/attention_codes_neon.h"

/* sums[r] = chains over n cells of 16 codes that lie `step` bytes apart, rows' factors `ld`. */
INLINE void product_f8(float32x4_t sums[R_MOST][4], const int R, const uint8_t *x, int64_t step,
                       const float *by, int64_t ld, int64_t n) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) sums[r][j] = vdupq_n_f32(0);
    for (int64_t i = 0; i < n; i++) {
        const int8x16_t bytes = vld1q_s8((const int8_t *)x + i * step);
        const int16x8_t wide[2] = {vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes))};
        float32x4_t v[4];
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            const float16x8_t half = vreinterpretq_f16_s16(
                vandq_s16(vshlq_n_s16(wide[h], 7), vdupq_n_s16((int16_t)0xbfff)));
            v[2 * h] = vcvt_f32_f16(vget_low_f16(half));
            v[2 * h + 1] = vcvt_f32_f16(vget_high_f16(half));
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) sums[r][j] = vfmaq_n_f32(sums[r][j], v[j], by[r * ld + i]);
    }
}

/* Rows that see the same tokens. */
INLINE void rows_f8(float *out, float *max, float *sum, const nib_attention_rows *a, int64_t row,
                    const int R, const nib_kv_part *part) {
    const int64_t d = a->d;
    const int first = a->first[row], end = a->end[row];
    const uint8_t *v = (const uint8_t *)part->v + first * d;
    float p[R_MOST][BLOCK];
    float32x4_t sums[R_MOST][4];
    results found;
    for (int t = 0; t < BLOCK; t += 16) {
        product_f8(sums, R, (const uint8_t *)part->k + t * d, 16, a->q + row * d, d, d);
        for (int r = 0; r < R; r++)
            for (int j = 0; j < 4; j++) {
                const float32x4_t by = vld1q_f32((const float *)part->k_scale + t + 4 * j);
                vst1q_f32(p[r] + t + 4 * j, vmulq_n_f32(vmulq_f32(sums[r][j], by), a->scale * 256));
            }
    }
    for (int r = 0; r < R; r++) {
        weigh(p[r], a, row + r, &found.max[r], &found.sum[r]);
        for (int t = first; t < end; t++)
            p[r][t] = p[r][t] * ((const float *)part->v_scale)[t] * 256;
    }
    for (int64_t i = 0; i < d; i += 16) {
        uint8_t last[BLOCK * 16]; /* the columns of a tail, filled up */
        const int64_t n = d - i < 16 ? d - i : 16;
        memset(last, 0, n < 16 ? sizeof last : 0);
        for (int t = 0; n < 16 && t < end - first; t++)
            memcpy(last + t * 16, v + t * d + i, (size_t)n);
        product_f8(sums, R, n < 16 ? last : v + i, n < 16 ? 16 : d, p[0] + first, BLOCK,
                   end - first);
        for (int r = 0; r < R; r++)
            for (int j = 0; 4 * j < n; j++)
                neon_store_first(found.out + r * d + i + 4 * j, (size_t)(n - 4 * j), sums[r][j]);
    }
    merge_rows(out, max, sum, row, R, &found, d);
}

static void attention_f8(float *out, float *max, float *sum, const nib_attention_rows *a,
                         const nib_kv_part *part) {
    for (int64_t r = 0; r < a->rows;) {
        int64_t n = 1;
        while (n < R_MOST && r + n < a->rows && a->first[r + n] == a->first[r] &&
               a->end[r + n] == a->end[r])
            n++;
        if (n == 4)
            rows_f8(out, max, sum, a, r, 4, part);
        else if (n >= 2)
            rows_f8(out, max, sum, a, r, 2, part), n = 2;
        else
            rows_f8(out, max, sum, a, r, 1, part);
        r += n;
    }
}

static void install(nib_kernels *k) {
    k->attention_i8 = attention_i8;
    k->attention_i4 = attention_i4;
    k->attention_f8 = attention_f8;
}
const nib_kernel_set nib_kernels_attention_codes_neon = {
    .name = "attention_codes_neon", .needs = NIB_CPU_NEON, .install = install};
