/* kv_v8: values of a cache in 8 bits, columns in lanes.
 *
 *   qdata  u8  [heads][tokens / 64][dp / 16][16][16 columns][4 tokens]   code + 128
 *   scale  f32 [heads][tokens]                                           one a token and head
 *
 * The sum over tokens then runs in every lane by itself, four tokens at a step. */
#include "kernel/kernel.h"
#include "kernel/kv_place.h"
#include "quant/layout_kv.h"

static void put(uint8_t *head, int64_t t, const uint8_t *codes, int64_t d) {
    const int64_t dp = nib_kv_dp(d);
    for (int64_t i = 0; i < d; i++) head[nib_kv_v8(t, i, dp)] = (uint8_t)(codes[i] ^ 128);
}
static void get(uint8_t *codes, const uint8_t *head, int64_t t, int64_t d) {
    const int64_t dp = nib_kv_dp(d);
    for (int64_t i = 0; i < d; i++) codes[i] = (uint8_t)(head[nib_kv_v8(t, i, dp)] ^ 128);
}

extern const nib_kv_form nib_kv_form_v8;
const nib_kv_form nib_kv_form_v8 = {.code = NIB_I8,
                                    .scale_dtype = NIB_F32,
                                    .bits = 8,
                                    .padded = true,
                                    .put = put,
                                    .get = get};

static bool holds(const nib_qdesc *d) { return nib_kv_holds(&nib_kv_form_v8, d); }
static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    return nib_kv_parts(&nib_kv_form_v8, d, parts);
}
static void pack(void *const part[], const nib_codes *c) { nib_kv_pack(&nib_kv_form_v8, part, c); }
static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    nib_kv_unpack(&nib_kv_form_v8, c, part, d, row);
}

const nib_layout nib_layout_kv_v8 = {
    .name = "kv_v8",
    .doc = "values of a cache: int8, a scale a token and head, columns in lanes",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
