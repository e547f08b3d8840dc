/* primitives.c: the steps of quantizing by themselves, checked for callers outside. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/qparams.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "tensor/tensor.h"

static nib_status codes_check(const nib_codes *codes) {
    if (!codes) return NIB_E_ARGUMENT;
    NIB_TRY(nib_qdesc_check(&codes->desc));
    if (!codes->q || !codes->scale || (!codes->zero && codes->desc.zero_kind != NIB_ZERO_NONE))
        return NIB_RAISE(NIB_E_ARGUMENT,
                         "codes need memory for q and scale, and for zero if they have one");
    if (codes->code_bytes != 1 || nib_dtype_bits(codes->desc.code) > 8)
        return NIB_RAISE(NIB_E_UNSUPPORTED, "codes of %d bytes have no primitives",
                         codes->code_bytes);
    return NIB_OK;
}

nib_status nib_choose_qparams(const nib_tensor *w, nib_mapping mapping, float eps,
                              nib_codes *codes) {
    static const nib_zero kinds[] = {NIB_ZERO_NONE, NIB_ZERO_POINT, NIB_ZERO_NONE, NIB_ZERO_MID,
                                     NIB_ZERO_NONE};
    NIB_TRY(codes_check(codes));
    NIB_TRY(nib_rows_check(w, codes));
    if ((unsigned)mapping > NIB_MAP_ABSMAX)
        return NIB_RAISE(NIB_E_ARGUMENT, "%d is no mapping", (int)mapping);
    const bool whole = codes->desc.block_rows > 1;
    if (kinds[mapping] != codes->desc.zero_kind &&
        !(kinds[mapping] == NIB_ZERO_NONE && codes->desc.zero_kind == NIB_ZERO_POINT))
        return NIB_RAISE(NIB_E_ARGUMENT, "mapping %d gives another kind of zero than kind %d",
                         (int)mapping, (int)codes->desc.zero_kind);
    if ((mapping == NIB_MAP_ABSMAX) == nib_qdesc_integer(&codes->desc))
        return NIB_RAISE(NIB_E_ARGUMENT, "mapping %d does not go with %s codes", (int)mapping,
                         nib_dtype_name(codes->desc.code));
    if (whole &&
        (codes->desc.block_rows < codes->desc.rows || codes->desc.block_cols < codes->desc.cols))
        return NIB_RAISE(NIB_E_UNSUPPORTED, "blocks of several rows must hold the whole matrix");
    nib_stats stats = {0};
    if (whole) nib_stats_add(&stats, w);
    const nib_qrule rule = {.mapping = mapping, .eps = eps};
    nib_affine_rows(&rule, false, &stats, w, codes); /* makes codes too; they cost little */
    return NIB_OK;
}

/* Zero points are whole numbers near the codes. */
static nib_status points_check(const nib_codes *codes) {
    if (codes->desc.zero_kind != NIB_ZERO_POINT) return NIB_OK;
    for (int64_t i = 0; i < nib_qdesc_blocks(&codes->desc); i++)
        if (!(fabsf(codes->zero[i]) <= 256) || rintf(codes->zero[i]) != codes->zero[i])
            return NIB_RAISE(NIB_E_ARGUMENT,
                             "zero point %.9g of block %lld is no whole number in -256 to 256",
                             (double)codes->zero[i], (long long)i);
    return NIB_OK;
}

nib_status nib_quantize_block(const nib_tensor *w, nib_codes *codes) {
    NIB_TRY(codes_check(codes));
    NIB_TRY(nib_rows_check(w, codes));
    NIB_TRY(points_check(codes));
    nib_affine_rows(&(nib_qrule){0}, true, NULL, w, codes);
    return NIB_OK;
}

nib_status nib_dequantize_block(const nib_codes *codes, float *out) {
    NIB_TRY(codes_check(codes));
    NIB_TRY(points_check(codes));
    if (!out) return NIB_RAISE(NIB_E_ARGUMENT, "no memory was given for the floats");
    nib_codes_dequantize(codes, out);
    return NIB_OK;
}

/* Memory for every part that the layout has. */
static nib_status parts_check(const nib_layout *layout, const nib_qdesc *desc,
                              const void *const part[]) {
    nib_part parts[NIB_MAX_PARTS];
    const int count = layout->parts(desc, parts);
    for (int i = 0; i < count; i++)
        if (!part || !part[i])
            return NIB_RAISE(NIB_E_ARGUMENT, "layout %s needs memory for %s", layout->name,
                             parts[i].suffix);
    return NIB_OK;
}

static nib_status layout_of(const char *name, const nib_qdesc *desc, const nib_layout **layout) {
    if (!desc)
        return NIB_RAISE(NIB_E_ARGUMENT, "layouts are asked about codes; none were described");
    *layout = nib_layout_find(name);
    if (!*layout)
        return NIB_RAISE(NIB_E_ARGUMENT, "there is no layout \"%.60s\"", name ? name : "");
    NIB_TRY(nib_qdesc_check(desc));
    return (*layout)->holds(desc) ? NIB_OK : nib_layout_refuse(*layout, desc);
}

nib_status nib_layout_parts(const char *name, const nib_qdesc *desc, nib_part parts[NIB_MAX_PARTS],
                            int *count) {
    const nib_layout *layout = NULL;
    if (!parts || !count) return NIB_RAISE(NIB_E_ARGUMENT, "no memory was given for the parts");
    NIB_TRY(layout_of(name, desc, &layout));
    *count = layout->parts(desc, parts);
    return NIB_OK;
}

nib_status nib_pack(const char *name, const nib_codes *codes, void *const part[]) {
    const nib_layout *layout = NULL;
    NIB_TRY(codes_check(codes));
    NIB_TRY(layout_of(name, &codes->desc, &layout));
    NIB_TRY(parts_check(layout, &codes->desc, (const void *const *)part));
    layout->pack(part, codes);
    return NIB_OK;
}

nib_status nib_unpack(const char *name, const nib_qdesc *desc, const void *const part[],
                      int64_t row, nib_codes *codes) {
    const nib_layout *layout = NULL;
    NIB_TRY(codes_check(codes));
    NIB_TRY(layout_of(name, desc, &layout));
    if (row < 0 || row > desc->rows - codes->desc.rows || codes->desc.cols != desc->cols)
        return NIB_RAISE(NIB_E_SHAPE, "rows %lld to %lld of a matrix with %lld", (long long)row,
                         (long long)(row + codes->desc.rows), (long long)desc->rows);
    NIB_TRY(parts_check(layout, desc, part));
    layout->unpack(codes, part, desc, row);
    return NIB_OK;
}

static bool same_floats(const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (a[i] != b[i] && !(isnan(a[i]) && isnan(b[i]))) return false;
    return true;
}

/* A layout may have fewer bits for a value than its dtype: awq_gemm has 4 for a zero point. */
static nib_status came_back(const nib_tensor *made, const nib_codes *want) {
    const nib_qdesc *d = &made->desc;
    nib_codes got;
    NIB_TRY(nib_unpack_rows(made, 0, d->rows, &got));
    const int64_t blocks = nib_qdesc_blocks(d);
    const bool codes =
                   !memcmp(got.q, want->q, (size_t)(d->rows * d->cols * (int64_t)got.code_bytes)),
               scales = same_floats(got.scale, want->scale, blocks),
               zeros = !got.zero || same_floats(got.zero, want->zero, blocks);
    nib_codes_free(nib_ctx_mem(made->ctx), &got);
    return codes && scales && zeros
               ? NIB_OK
               : NIB_RAISE(NIB_E_UNSUPPORTED, "layout %s has too few bits for some of these %s",
                           made->layout->name,
                           !codes    ? "codes"
                           : !scales ? "scales"
                                     : "zeros");
}

nib_tensor *nib_repack(const nib_tensor *t, const char *name) {
    const nib_layout *layout = NULL;
    nib_codes codes;
    if (!t) return NULL;
    if (!t->layout)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT,
                              "a dense tensor has no codes to put into layout %.60s",
                              name ? name : "");
    NIB_TRY_NULL(layout_of(name, &t->desc, &layout));
    NIB_TRY_NULL(nib_unpack_rows(t, 0, t->desc.rows, &codes));
    codes.desc.shape = t->desc.shape; /* rows are a matrix of their own, these are the weight */
    nib_tensor *made = nib_pack_tensor(t->ctx, layout, &codes);
    const bool exact = made && came_back(made, &codes) >= NIB_OK;
    nib_codes_free(nib_ctx_mem(t->ctx), &codes);
    if (!exact) {
        nib_tensor_free(made);
        return NULL;
    }
    made->act = t->act;
    if (t->config && !(made->config = nib_config_copy(t->config))) {
        nib_tensor_free(made);
        return NULL;
    }
    return nib_scope_own(t->ctx, made);
}
