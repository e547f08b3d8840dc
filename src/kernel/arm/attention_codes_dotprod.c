/* attention_codes_dotprod.c: attention_codes_neon.h by sdot. Codes of 15 bits are taken as 256 *
 * high + low; the halves' sums are put together at the end, modulo 2^32, in which the result fits.
 */
#include "kernel/arm/attention_neon.h"

typedef struct codes {
    int8_t high[R_MOST][NIB_ATTENTION_HEAD], low[R_MOST][NIB_ATTENTION_HEAD];
} codes;

/* n, a multiple of 16, codes */
static inline void split(codes *to, int r, const int16_t *code, int64_t n) {
    for (int64_t i = 0; i < n; i += 8) {
        const int16x8_t c = vld1q_s16(code + i);
        vst1_s8(to->high[r] + i, vshrn_n_s16(vaddq_s16(c, vdupq_n_s16(128)), 8));
        vst1_s8(to->low[r] + i, vmovn_s16(c));
    }
}

INLINE int8x16_t four_at(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

INLINE void product(int32x4_t out[R_MOST], const int R, const bool u4, const uint8_t *x,
                    int64_t cells, const codes *q, int64_t at) {
    int32x4_t high[R_MOST], low[R_MOST];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) high[r] = low[r] = vdupq_n_s32(0);
    for (int64_t c = 0; c < cells; c++) {
        const uint8x16_t bytes = vld1q_u8(x + c * 64);
        const int8x16_t a = vreinterpretq_s8_u8(u4 ? vandq_u8(bytes, vdupq_n_u8(15))
                                                   : veorq_u8(bytes, vdupq_n_u8(128)));
        const int8x16_t b = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const int64_t i = at + c * (u4 ? 8 : 4);
            high[r] = vdotq_s32(high[r], a, four_at(q->high[r] + i));
            low[r] = vdotq_s32(low[r], a, four_at(q->low[r] + i));
            if (!u4) continue;
            high[r] = vdotq_s32(high[r], b, four_at(q->high[r] + i + 4));
            low[r] = vdotq_s32(low[r], b, four_at(q->low[r] + i + 4));
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) out[r] = vaddq_s32(vshlq_n_s32(high[r], 8), low[r]);
}

#include "kernel/arm/attention_codes_neon.h"

static void install(nib_kernels *k) {
    k->attention_i8 = attention_i8;
    k->attention_i4 = attention_i4;
}
const nib_kernel_set nib_kernels_attention_codes_dotprod = {
    .name = "attention_codes_dotprod", .needs = NIB_CPU_DOTPROD, .install = install};
