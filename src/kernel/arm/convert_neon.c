/* convert_neon.c: rows of narrow floats to and from f32, eight or sixteen at a time. The last few
 * pass through a full vector beside the row. Tables stay with the judge: there is no gather. */
#include <string.h>

#include "kernel/arm/float_neon.h"
#include "kernel/kernel.h"

typedef struct two {
    float32x4_t low, high;
} two;

static two widen_f16(uint16x8_t codes) {
    const float16x8_t h = vreinterpretq_f16_u16(codes);
    return (two){vcvt_f32_f16(vget_low_f16(h)), vcvt_f32_f16(vget_high_f16(h))};
}
static two widen_bf16(uint16x8_t codes) {
    return (two){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(codes), 16)),
                 vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(codes), 16))};
}
static uint16x8_t narrow_f16(two x) {
    return vreinterpretq_u16_f16(vcombine_f16(vcvt_f16_f32(x.low), vcvt_f16_f32(x.high)));
}
static uint16x8_t narrow_bf16(two x) {
    return vcombine_u16(vshrn_n_u32(neon_bf16_bits(x.low), 16),
                        vshrn_n_u32(neon_bf16_bits(x.high), 16));
}

#define WIDEN_ROW(name, widen)                                                                     \
    static void name(float *out, const void *x, size_t n) {                                        \
        const uint8_t *bytes = x;                                                                  \
        for (size_t i = 0; i < n; i += 8) {                                                        \
            const size_t rest = n - i < 8 ? n - i : 8;                                             \
            uint8_t codes[16] = {0};                                                               \
            memcpy(codes, bytes + 2 * i, 2 * rest);                                                \
            const two v = widen(vreinterpretq_u16_u8(vld1q_u8(codes)));                            \
            neon_store_first(out + i, rest, v.low);                                                \
            if (rest > 4) neon_store_first(out + i + 4, rest - 4, v.high);                         \
        }                                                                                          \
    }
WIDEN_ROW(f16_to_f32, widen_f16)
WIDEN_ROW(bf16_to_f32, widen_bf16)

#define NARROW_ROW(name, narrow)                                                                   \
    static void name(void *out, const float *x, size_t n) {                                        \
        uint8_t *bytes = out;                                                                      \
        for (size_t i = 0; i < n; i += 8) {                                                        \
            const size_t rest = n - i < 8 ? n - i : 8;                                             \
            const float32x4_t none = vdupq_n_f32(0);                                               \
            const two v = {neon_load_first(x + i, rest),                                           \
                           rest > 4 ? neon_load_first(x + i + 4, rest - 4) : none};                \
            uint8_t codes[16];                                                                     \
            vst1q_u8(codes, vreinterpretq_u8_u16(narrow(v)));                                      \
            memcpy(bytes + 2 * i, codes, 2 * rest);                                                \
        }                                                                                          \
    }
NARROW_ROW(f32_to_f16, narrow_f16)
NARROW_ROW(f32_to_bf16, narrow_bf16)

#define NARROW_ROW_F8(name, format)                                                                \
    static void name(uint8_t *out, const float *x, size_t n) {                                     \
        size_t i = 0;                                                                              \
        for (; i + 16 <= n; i += 16)                                                               \
            vst1q_u8(out + i, neon_low_bytes(neon_f8_codes(vld1q_f32(x + i), format),              \
                                             neon_f8_codes(vld1q_f32(x + i + 4), format),          \
                                             neon_f8_codes(vld1q_f32(x + i + 8), format),          \
                                             neon_f8_codes(vld1q_f32(x + i + 12), format)));       \
        for (; i < n; i += 4) {                                                                    \
            const uint32x4_t codes = neon_f8_codes(neon_load_first(x + i, n - i), format);         \
            uint8_t rest[16];                                                                      \
            vst1q_u8(rest, neon_low_bytes(codes, codes, codes, codes));                            \
            memcpy(out + i, rest, n - i < 4 ? n - i : 4);                                          \
        }                                                                                          \
    }
NARROW_ROW_F8(f32_to_e4m3fn, NIB_F8_E4M3FN)
NARROW_ROW_F8(f32_to_e5m2, NIB_F8_E5M2)
NARROW_ROW_F8(f32_to_e4m3fnuz, NIB_F8_E4M3FNUZ)

static void install(nib_kernels *k) {
    k->f16_to_f32 = f16_to_f32;
    k->bf16_to_f32 = bf16_to_f32;
    k->f32_to_f16 = f32_to_f16;
    k->f32_to_bf16 = f32_to_bf16;
    k->f32_to_e4m3fn = f32_to_e4m3fn;
    k->f32_to_e5m2 = f32_to_e5m2;
    k->f32_to_e4m3fnuz = f32_to_e4m3fnuz;
}
const nib_kernel_set nib_kernels_convert_neon = {
    .name = "convert_neon", .needs = NIB_CPU_NEON, .install = install};
