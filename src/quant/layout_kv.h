/* layout_kv.h: what the layouts of a key and value cache have in common: a row of codes is one
 * token of one head, 64 tokens make a block (kernel.h: nib_kv_part), a head is a run of blocks. */
#ifndef NIB_QUANT_LAYOUT_KV_H
#define NIB_QUANT_LAYOUT_KV_H
#include <nibble/extend.h>

typedef struct nib_kv_form {
    nib_dtype code, scale_dtype;
    bool shifted;      /* value = scale * u - shift, else scale * c */
    int64_t group;     /* columns that share a scale; 0: all of a row */
    int bits;          /* of a code */
    bool padded;       /* columns are filled up to a multiple of 16 */
    bool groups_first; /* scales of a block: [groups][64], else [4][groups][16] */
    /* Codes of token t of a head, one a byte, to and from the bytes of the head. */
    void (*put)(uint8_t *head, int64_t t, const uint8_t *codes, int64_t d);
    void (*get)(uint8_t *codes, const uint8_t *head, int64_t t, int64_t d);
} nib_kv_form;

/* The form of a layout that a cache may have, NULL for any other. */
const nib_kv_form *nib_kv_form_of(const nib_layout *layout);

/* Groups of a row, bytes of a block of codes, and where the scale of token t, group g lies. */
int64_t nib_kv_groups(const nib_kv_form *form, int64_t d);
int64_t nib_kv_block_bytes(const nib_kv_form *form, int64_t d);
int64_t nib_kv_scale_at(const nib_kv_form *form, int64_t t, int64_t g, int64_t groups);

/* The functions of such a layout. */
bool nib_kv_holds(const nib_kv_form *form, const nib_qdesc *desc);
int nib_kv_parts(const nib_kv_form *form, const nib_qdesc *desc, nib_part parts[NIB_MAX_PARTS]);
void nib_kv_pack(const nib_kv_form *form, void *const part[], const nib_codes *codes);
void nib_kv_unpack(const nib_kv_form *form, nib_codes *codes, const void *const part[],
                   const nib_qdesc *desc, int64_t row);
#endif
