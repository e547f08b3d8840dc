/* kv_k4: keys of a cache in 4 bits, tokens in lanes.
 *
 *   qdata  u8   [heads][tokens / 16][dp / 8][16 tokens][4]   byte j: column j | column j + 4 << 4
 *   scale  bf16 [heads][tokens / 16][groups][16 tokens]      groups of 64 columns, the last one
 *   shift  bf16 like scale                                   may be shorter */
#include "kernel/kernel.h"
#include "kernel/kv_place.h"
#include "quant/layout_kv.h"

static void put(uint8_t *head, int64_t t, const uint8_t *codes, int64_t d) {
    const int64_t dp = nib_kv_dp(d);
    for (int64_t i = 0; i < d; i++) {
        const int64_t at = nib_kv_k4(t, i, dp);
        const int up = nib_kv_k4_shift(i);
        head[at] = (uint8_t)((head[at] & (0xf0 >> up)) | (codes[i] & 15) << up);
    }
}
static void get(uint8_t *codes, const uint8_t *head, int64_t t, int64_t d) {
    const int64_t dp = nib_kv_dp(d);
    for (int64_t i = 0; i < d; i++) codes[i] = head[nib_kv_k4(t, i, dp)] >> nib_kv_k4_shift(i) & 15;
}

extern const nib_kv_form nib_kv_form_k4;
const nib_kv_form nib_kv_form_k4 = {.code = NIB_U4,
                                    .scale_dtype = NIB_BF16,
                                    .shifted = true,
                                    .group = NIB_KV_GROUP,
                                    .bits = 4,
                                    .padded = true,
                                    .put = put,
                                    .get = get};

static bool holds(const nib_qdesc *d) { return nib_kv_holds(&nib_kv_form_k4, d); }
static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    return nib_kv_parts(&nib_kv_form_k4, d, parts);
}
static void pack(void *const part[], const nib_codes *c) { nib_kv_pack(&nib_kv_form_k4, part, c); }
static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    nib_kv_unpack(&nib_kv_form_k4, c, part, d, row);
}

const nib_layout nib_layout_kv_k4 = {
    .name = "kv_k4",
    .doc = "keys of a cache: 4 bits in groups of 64 columns, tokens in lanes",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
