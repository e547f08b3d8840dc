/* repack.c: codes that stand in memory in one layout, to the bytes of another, a run of rows at a
 * time. Nothing is rounded: what comes back from the file is what ran. */
#include "base/error.h"
#include "model/stream.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum { RUN_CODES = 4 << 20 };

static nib_status put_as_it_is(nib_stream *s, const nib_tensor *from) {
    nib_part parts[NIB_MAX_PARTS];
    const int count = s->layout->parts(&s->desc, parts);
    for (int i = 0; i < count; i++)
        NIB_TRY(s->put(s->user, i, nib_tensor_part(from, i), nib_part_bytes(&parts[i]), 0));
    return NIB_OK;
}

/* Rows [row, row + rows) of each band, one band after the other; no bands: all rows at once. */
static nib_status put_run(nib_stream *s, const nib_tensor *from, const nib_place *at) {
    const int bands = at->bands ? at->bands : 1;
    const int64_t band = s->desc.rows / bands;
    const nib_qdesc desc = nib_qdesc_of_rows(&s->desc, at->rows * bands);
    const void *part[NIB_MAX_PARTS] = {0};
    for (int i = 0; i < from->nparts; i++) part[i] = nib_tensor_part(from, i);
    nib_codes codes = {0};
    NIB_TRY(nib_codes_alloc(nib_ctx_mem(s->ctx), &desc, &codes));
    for (int b = 0; b < bands; b++) {
        nib_codes rows = nib_codes_rows(&codes, b * at->rows, at->rows);
        from->layout->unpack(&rows, part, &from->desc, b * band + at->row);
    }
    const nib_status status = nib_stream_put(s, &codes, at);
    nib_codes_free(nib_ctx_mem(s->ctx), &codes);
    return status;
}

nib_status nib_stream_repack(nib_stream *s, const nib_tensor *from) {
    if (s->layout == from->layout) return put_as_it_is(s, from);
    const int bands = nib_layout_bands(s->layout, &s->desc);
    if (!bands) return put_run(s, from, &(nib_place){0, s->desc.rows, 0});
    const int64_t most = s->desc.cols * bands < RUN_CODES ? RUN_CODES / (s->desc.cols * bands) : 1;
    nib_place at = {.bands = bands};
    for (; at.row < s->desc.rows / bands; at.row += at.rows) {
        at.rows = nib_layout_run(s->layout, &s->desc, at.row, most);
        NIB_TRY(put_run(s, from, &at));
    }
    return NIB_OK;
}
