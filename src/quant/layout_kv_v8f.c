/* kv_v8f: values of a cache in e4m3fn, row by row.
 *
 *   qdata  f8  [heads][tokens][d]
 *   scale  f32 [heads][tokens]      one a token and head
 *
 * f8_row would hold the same bytes; here they come in whole blocks of 64 tokens. */
#include <string.h>

#include "kernel/kernel.h"
#include "kernel/kv_place.h"
#include "quant/layout_kv.h"

static void put(uint8_t *head, int64_t t, const uint8_t *codes, int64_t d) {
    memcpy(head + t * d, codes, (size_t)d);
}
static void get(uint8_t *codes, const uint8_t *head, int64_t t, int64_t d) {
    memcpy(codes, head + t * d, (size_t)d);
}

extern const nib_kv_form nib_kv_form_v8f;
const nib_kv_form nib_kv_form_v8f = {
    .code = NIB_F8_E4M3FN, .scale_dtype = NIB_F32, .bits = 8, .put = put, .get = get};

static bool holds(const nib_qdesc *d) { return nib_kv_holds(&nib_kv_form_v8f, d); }
static int parts(const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    return nib_kv_parts(&nib_kv_form_v8f, d, parts);
}
static void pack(void *const part[], const nib_codes *c) { nib_kv_pack(&nib_kv_form_v8f, part, c); }
static void unpack(nib_codes *c, const void *const part[], const nib_qdesc *d, int64_t row) {
    nib_kv_unpack(&nib_kv_form_v8f, c, part, d, row);
}

const nib_layout nib_layout_kv_v8f = {
    .name = "kv_v8f",
    .doc = "values of a cache: fp8, a scale a token and head, row by row",
    .holds = holds,
    .parts = parts,
    .pack = pack,
    .unpack = unpack,
};
