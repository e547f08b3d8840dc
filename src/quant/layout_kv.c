#include "quant/layout_kv.h"

#include <string.h>

#include "kernel/kv_place.h"
#include "quant/codes.h"
#include "quant/layout_part.h"
#include "quant/layouts.h"

enum { BLOCK = NIB_ATTENTION_BLOCK };

#define X(name) extern const nib_kv_form nib_kv_form_##name;
X(k8)
X(v8) X(k4) X(v4) X(k8f) X(v8f)
#undef X

    const nib_kv_form *nib_kv_form_of(const nib_layout *layout) {
    static const struct {
        const char *layout;
        const nib_kv_form *form;
    } forms[] = {{"kv_k8", &nib_kv_form_k8},   {"kv_v8", &nib_kv_form_v8},
                 {"kv_k4", &nib_kv_form_k4},   {"kv_v4", &nib_kv_form_v4},
                 {"kv_k8f", &nib_kv_form_k8f}, {"kv_v8f", &nib_kv_form_v8f}};
    for (size_t i = 0; layout && i < sizeof forms / sizeof *forms; i++)
        if (strcmp(layout->name, forms[i].layout) == 0) return forms[i].form;
    return NULL;
}

int64_t nib_kv_groups(const nib_kv_form *form, int64_t d) {
    return form->group ? (d + form->group - 1) / form->group : 1;
}

int64_t nib_kv_block_bytes(const nib_kv_form *form, int64_t d) {
    return BLOCK * (form->padded ? nib_kv_dp(d) : d) * form->bits / 8;
}

int64_t nib_kv_scale_at(const nib_kv_form *form, int64_t t, int64_t g, int64_t groups) {
    return form->groups_first ? nib_kv_v4_scale(t, g, groups) : nib_kv_k4_scale(t, g, groups);
}

bool nib_kv_holds(const nib_kv_form *form, const nib_qdesc *d) {
    const nib_zero zero = form->shifted ? NIB_ZERO_SHIFT : NIB_ZERO_NONE;
    const int64_t group = form->group && form->group < d->cols ? form->group : d->cols;
    return d->code == form->code && d->scale_dtype == form->scale_dtype && d->zero_kind == zero &&
           (!form->shifted || d->zero_dtype == form->scale_dtype) && nib_qdesc_stack(d) &&
           d->block_rows == 1 && d->block_cols == group;
}

static int64_t blocks_of(const nib_qdesc *d) {
    return (nib_qdesc_matrix_rows(d) + BLOCK - 1) / BLOCK;
}

int nib_kv_parts(const nib_kv_form *form, const nib_qdesc *d, nib_part parts[NIB_MAX_PARTS]) {
    const int64_t blocks = blocks_of(d);
    const nib_shape codes = {2, {blocks, nib_kv_block_bytes(form, d->cols)}};
    const nib_shape scales = {2, {blocks, BLOCK * nib_kv_groups(form, d->cols)}};
    parts[0] = nib_part_of(d, "qdata", NIB_U8, 0, BLOCK, codes);
    parts[1] = nib_part_of(d, "scale", form->scale_dtype, 0, BLOCK, scales);
    if (form->shifted) parts[2] = nib_part_of(d, "shift", form->scale_dtype, 0, BLOCK, scales);
    return form->shifted ? 3 : 2;
}

/* What a row of the whole matrix is in the parts: its head's bytes and scales, and its token. */
typedef struct place {
    int64_t t, code, scale; /* offsets of the head: bytes, values */
} place;

static place place_of(const nib_kv_form *form, const nib_qdesc *d, int64_t row) {
    const int64_t matrix = nib_qdesc_matrix_rows(d), head = row / matrix * blocks_of(d);
    return (place){row % matrix, head * nib_kv_block_bytes(form, d->cols),
                   head * BLOCK * nib_kv_groups(form, d->cols)};
}

void nib_kv_pack(const nib_kv_form *form, void *const part[], const nib_codes *c) {
    const nib_qdesc *d = &c->desc;
    const int64_t groups = nib_kv_groups(form, d->cols);
    nib_part parts[NIB_MAX_PARTS];
    const int n = nib_kv_parts(form, d, parts);
    for (int i = 0; i < n; i++) memset(part[i], 0, nib_part_bytes(&parts[i]));
    for (int64_t row = 0; row < d->rows; row++) {
        const place p = place_of(form, d, row);
        form->put((uint8_t *)part[0] + p.code, p.t, (const uint8_t *)c->q + row * d->cols, d->cols);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t at = p.scale + nib_kv_scale_at(form, p.t, g, groups);
            nib_part_store(form->scale_dtype, part[1], at, c->scale + row * groups + g, 1);
            if (form->shifted)
                nib_part_store(form->scale_dtype, part[2], at, c->zero + row * groups + g, 1);
        }
    }
}

void nib_kv_unpack(const nib_kv_form *form, nib_codes *c, const void *const part[],
                   const nib_qdesc *d, int64_t row) {
    const int64_t groups = nib_kv_groups(form, d->cols);
    for (int64_t i = 0; i < c->desc.rows; i++) {
        const place p = place_of(form, d, row + i);
        form->get((uint8_t *)c->q + i * d->cols, (const uint8_t *)part[0] + p.code, p.t, d->cols);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t at = p.scale + nib_kv_scale_at(form, p.t, g, groups);
            nib_part_load(form->scale_dtype, part[1], at, c->scale + i * groups + g, 1);
            if (form->shifted)
                nib_part_load(form->scale_dtype, part[2], at, c->zero + i * groups + g, 1);
        }
    }
}
