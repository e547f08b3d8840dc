/* kv_k8f: keys of a cache in e4m3fn, tokens in lanes.
 *
 *   qdata  f8  [heads][tokens / 16][d][16 tokens]
 *   scale  f32 [heads][tokens]                      one a token and head */
#include "kernel/kernel.h"
#include "kernel/kv_place.h"
#include "quant/layout_kv.h"

static void put(uint8_t *head, int64_t t, const uint8_t *codes, int64_t d) {
    for (int64_t i = 0; i < d; i++) head[nib_kv_k8f(t, i, d)] = codes[i];
}
static void get(uint8_t *codes, const uint8_t *head, int64_t t, int64_t d) {
    for (int64_t i = 0; i < d; i++) codes[i] = head[nib_kv_k8f(t, i, d)];
}

extern const nib_kv_form nib_kv_form_k8f;
const nib_kv_form nib_kv_form_k8f = {
    .code = NIB_F8_E4M3FN, .scale_dtype = NIB_F32, .bits = 8, .put = put, .get = get};

static bool holds(const nib_qdesc *d) { return nib_kv_holds(&nib_kv_form_k8f, d); }
static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    return nib_kv_parts(&nib_kv_form_k8f, d, parts);
}
static void pack(void *const part[], const nib_codes *c) { nib_kv_pack(&nib_kv_form_k8f, part, c); }
static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    nib_kv_unpack(&nib_kv_form_k8f, c, part, d, row);
}

const nib_layout nib_layout_kv_k8f = {
    .name = "kv_k8f",
    .doc = "keys of a cache: fp8, a scale a token and head, tokens in lanes",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
