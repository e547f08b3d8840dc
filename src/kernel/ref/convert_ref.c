/* convert_ref.c: rows of narrow floats to and from f32, value by value. */
#include <string.h>

#include "base/halffloat.h"
#include "kernel/kernel.h"

static uint16_t load_u16(const void *x, size_t i) {
    uint16_t code;
    memcpy(&code, (const char *)x + 2 * i, sizeof(code));
    return code;
}
static void store_u16(void *out, size_t i, uint16_t code) {
    memcpy((char *)out + 2 * i, &code, sizeof(code));
}

static void f16_to_f32(float *out, const void *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = nib_f16_to_f32(load_u16(x, i));
}
static void bf16_to_f32(float *out, const void *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = nib_bf16_to_f32(load_u16(x, i));
}
static void f32_to_f16(void *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) store_u16(out, i, nib_f32_to_f16(x[i]));
}
static void f32_to_bf16(void *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) store_u16(out, i, nib_f32_to_bf16(x[i]));
}
static void f32_to_e4m3fn(uint8_t *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = nib_f32_to_f8_e4m3fn(x[i]);
}
static void f32_to_e5m2(uint8_t *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = nib_f32_to_f8_e5m2(x[i]);
}
static void f32_to_e4m3fnuz(uint8_t *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = nib_f32_to_f8_e4m3fnuz(x[i]);
}
static void table_to_f32(float *out, const uint8_t *x, size_t n, const float table[256]) {
    for (size_t i = 0; i < n; i++) out[i] = table[x[i]];
}
static float f8_value(uint8_t x, nib_dtype format) {
    return format == NIB_F8_E4M3FN ? nib_f8_e4m3fn_to_f32(x)
           : format == NIB_F8_E5M2 ? nib_f8_e5m2_to_f32(x)
                                   : nib_f8_e4m3fnuz_to_f32(x);
}
static void scale_f8(float *out, const uint8_t *x, size_t n, nib_dtype format, float scale) {
    float table[256];
    for (int i = 0; i < 256; i++) table[i] = scale * f8_value((uint8_t)i, format);
    table_to_f32(out, x, n, table);
}

static void install(nib_kernels *k) {
    k->f16_to_f32 = f16_to_f32;
    k->bf16_to_f32 = bf16_to_f32;
    k->f32_to_f16 = f32_to_f16;
    k->f32_to_bf16 = f32_to_bf16;
    k->f32_to_e4m3fn = f32_to_e4m3fn;
    k->f32_to_e5m2 = f32_to_e5m2;
    k->f32_to_e4m3fnuz = f32_to_e4m3fnuz;
    k->table_to_f32 = table_to_f32;
    k->scale_f8 = scale_f8;
}
const nib_kernel_set nib_kernels_convert_ref = {.name = "convert_ref", .install = install};
