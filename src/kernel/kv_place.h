/* kv_place.h: where the elements of a key and value cache lie within one head's bytes; kernel.h
 * draws the parts. Token t, column i, d columns of which dp (a multiple of 16) have room. */
#ifndef NIB_KERNEL_KV_PLACE_H
#define NIB_KERNEL_KV_PLACE_H
#include <stdint.h>

static inline int64_t nib_kv_dp(int64_t d) { return (d + 15) / 16 * 16; }

/* i8: the byte of an element */
static inline int64_t nib_kv_k8(int64_t t, int64_t i, int64_t dp) {
    return (t / 16 * (dp / 4) + i / 4) * 64 + t % 16 * 4 + i % 4;
}
static inline int64_t nib_kv_v8(int64_t t, int64_t i, int64_t dp) {
    return ((t / 64 * (dp / 16) + i / 16) * 16 + t % 64 / 4) * 64 + i % 16 * 4 + t % 4;
}

/* i4: the byte of an element, and how far up its four bits are in it */
static inline int64_t nib_kv_k4(int64_t t, int64_t i, int64_t dp) {
    return (t / 16 * (dp / 8) + i / 8) * 64 + t % 16 * 4 + i % 4;
}
static inline int nib_kv_k4_shift(int64_t i) { return i % 8 < 4 ? 0 : 4; }
static inline int64_t nib_kv_v4(int64_t t, int64_t i, int64_t dp) {
    return ((t / 64 * (dp / 16) + i / 16) * 8 + t % 64 / 8) * 64 + i % 16 * 4 + t % 4;
}
static inline int nib_kv_v4_shift(int64_t t) { return t % 8 < 4 ? 0 : 4; }

/* i4: scale and shift of group g of `groups` */
static inline int64_t nib_kv_k4_scale(int64_t t, int64_t g, int64_t groups) {
    return (t / 16 * groups + g) * 16 + t % 16;
}
static inline int64_t nib_kv_v4_scale(int64_t t, int64_t g, int64_t groups) {
    return (t / 64 * groups + g) * 64 + t % 64;
}

/* f8: the byte of an element of the keys; values lie row by row */
static inline int64_t nib_kv_k8f(int64_t t, int64_t i, int64_t d) {
    return (t / 16 * d + i) * 16 + t % 16;
}
#endif
