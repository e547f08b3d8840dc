#include "op/product_piece.h"

#include <math.h>

#include "quant/codes.h"
#include "tensor/dtype.h"

/* Weights of 8 bits are read from memory more slowly than floats multiply them. */
bool nib_operand_kind(const nib_tensor *w, nib_rows_kind *kind) {
    if (!w->layout || !nib_qdesc_integer(&w->desc)) return false;
    if (w->act.when == NIB_ACT_NONE &&
        (nib_qdesc_bits(&w->desc) >= 8 || !(w->layout->kernel || nib_layout_of_kernel(&w->desc))))
        return false;
    *kind = nib_rows_kind_of(w);
    return true;
}

nib_status nib_operand_open(nib_operand *o, const nib_tensor *t) {
    *o = (nib_operand){.t = t};
    if (!t->layout) {
        o->how = NIB_OPERAND_DENSE;
        return NIB_OK;
    }
    const bool integer = nib_qdesc_integer(&t->desc);
    if (t->act.when == NIB_ACT_STATIC || (t->act.when != NIB_ACT_NONE && !integer))
        return NIB_RAISE(NIB_E_UNSUPPORTED, "linear: %s weights do not meet %s inputs",
                         nib_dtype_name(t->desc.code),
                         t->act.when == NIB_ACT_STATIC ? "statically quantized" : "8-bit");
    o->layout = t->layout->kernel ? t->layout : nib_layout_of_kernel(&t->desc);
    o->how = t->layout->kernel ? NIB_OPERAND_LANES
             : o->layout       ? NIB_OPERAND_LIFTED
                               : NIB_OPERAND_CODES;
    o->integer = nib_operand_kind(t, &o->kind);
    if (o->how != NIB_OPERAND_LANES) return NIB_OK;
    const void *part[NIB_MAX_PARTS] = {0};
    for (int i = 0; i < t->nparts; i++) part[i] = nib_tensor_part(t, i);
    o->lane = nib_lanes_view(&t->desc, part);
    return NIB_OK;
}

void nib_operand_take_codes(nib_operand *o, int bits) {
    o->integer = true;
    o->kind = nib_rows_kind_of(o->t);
    o->kind.digits = o->kind.all = false;
    o->kind.symmetric = true;
    o->kind.bits = bits;
}

/* The codes of a piece in lanes, so that a kernel sees a weight of just these channels. */
static nib_lane_weight lift(const nib_piece *s, const nib_operand *o) {
    const nib_qdesc desc = nib_qdesc_of_rows(&o->t->desc, s->channels);
    void *part[NIB_MAX_PARTS] = {0};
    for (int i = 0; i < NIB_MAX_PARTS; i++) part[i] = s->scratch + s->in->at_lift[i];
    nib_codes codes = nib_rows_codes(o->t, s->n, s->channels, s->scratch + s->in->at_codes);
    o->layout->pack(part, &codes);
    return nib_lanes_view(&desc, (const void *const *)part);
}

/* Weights [16, K] of a panel for what has no lanes, f32, as products define them. */
static void code_rows(const nib_piece *s, const nib_operand *o, int64_t n, int64_t channels,
                      float *out) {
    const nib_codes c = nib_rows_codes(o->t, n, channels, s->scratch + s->in->at_codes);
    const nib_qdesc *d = &c.desc;
    const int64_t blocks = nib_qdesc_block_cols(d), first = n / d->block_rows;
    const int mid = d->zero_kind == NIB_ZERO_MID ? nib_qdesc_mid(d) : 0;
    for (int64_t r = 0; r < channels; r++)
        for (int64_t k = 0; k < d->cols; k++) {
            const int64_t i = r * d->cols + k;
            const int64_t b = ((n + r) / d->block_rows - first) * blocks + k / d->block_cols;
            const float value = nib_code_value(&c, i) - (float)mid;
            out[i] = fmaf(c.scale[b], value, nib_codes_offset(&c, b));
        }
}

/* y += x W^T over columns [k, k + kc) of so many channels, for f32 panels [panels][kc][16]. */
static void multiply_panels(const nib_inputs *in, const float *panels, int64_t k, int64_t kc,
                            float *y, int64_t ldy, int64_t channels) {
    in->k->gemm_rows_f32(y, ldy, in->rows, in->M, in->K, k, kc, panels, kc * NIB_PANEL, channels);
}

/* Results of so many rows of digits and panels lie beside before they are added: what L2 keeps, and
 * no more panels than make the start of a call small. */
enum { DIGIT_ROWS = 160, DIGIT_PANELS = 64, DIGIT_FLOATS = 128 << 10 };

static int64_t digit_rows(int64_t M) { return M < DIGIT_ROWS ? M : DIGIT_ROWS; }
static int64_t digit_panels(int64_t M) {
    const int64_t most = DIGIT_FLOATS / (NIB_DIGITS * NIB_PANEL * digit_rows(M));
    return most < DIGIT_PANELS ? most : DIGIT_PANELS;
}

static void digits_of_lanes(const nib_piece *s, const nib_operand *o, const nib_lane_weight *w,
                            int64_t panel, float *y, int64_t ldy) {
    const nib_inputs *in = s->in;
    float *beside = (float *)(void *)(s->scratch + in->at_digits);
    const int64_t rows = digit_rows(in->M), width = digit_panels(in->M) * NIB_PANEL;
    y += panel * NIB_PANEL;
    for (int64_t m = 0; m < in->M; m += rows)
        for (int64_t c = 0; c < s->channels; c += width) {
            const int64_t here = s->channels - c < width ? s->channels - c : width;
            const int64_t ld = (here + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL;
            const int64_t first = panel + c / NIB_PANEL,
                          count = in->M - m < rows ? in->M - m : rows;
            const nib_rows_i8 digits = nib_rows_from(&o->rows, NIB_DIGITS * m, w->groups);
            in->k->lane_i8[w->lane](beside - first * NIB_PANEL, ld, &digits, NIB_DIGITS * count, w,
                                    first, ld / NIB_PANEL, s->scratch + in->at_lane);
            for (int64_t i = 0; i < count; i++)
                in->k->add_digits(y + (m + i) * ldy + c, beside + NIB_DIGITS * i * ld, ld,
                                  (size_t)here);
        }
}

static void piece_of_lanes(const nib_piece *s, const nib_operand *o, const nib_lane_weight *w,
                           int64_t panel, float *y, int64_t ldy) {
    const nib_inputs *in = s->in;
    const int64_t panels = (s->channels + NIB_PANEL - 1) / NIB_PANEL;
    if (o->integer && o->kind.digits) {
        digits_of_lanes(s, o, w, panel, y, ldy);
        return;
    }
    if (o->integer) {
        in->k->lane_i8[w->lane](y, ldy, &o->rows, in->M, w, panel, panels,
                                s->scratch + in->at_lane);
        return;
    }
    if (in->M <= NIB_LANE_ROWS) {
        in->k->lane_rows[w->lane](y, ldy, in->x, in->K, in->M, w, panel, panels);
        return;
    }
    float *widened = (float *)(void *)(s->scratch + in->at_panels);
    y += panel * NIB_PANEL;
    for (int64_t k = 0; k < in->K || k == 0; k += in->kc) {
        const int64_t kc = in->K - k < in->kc ? in->K - k : in->kc;
        for (int64_t c = 0; c < s->channels; c += NIB_PIECE_WIDTH) {
            const int64_t here =
                s->channels - c < NIB_PIECE_WIDTH ? s->channels - c : NIB_PIECE_WIDTH;
            for (int64_t p = 0; p * NIB_PANEL < here; p++)
                in->k->lane_widen[w->lane](widened + p * kc * NIB_PANEL, w,
                                           panel + c / NIB_PANEL + p, k, kc);
            multiply_panels(in, widened, k, kc, y + c, ldy, here);
        }
    }
}

static void piece_of_dense(const nib_piece *s, const nib_operand *o, float *y, int64_t ldy) {
    const nib_inputs *in = s->in;
    const size_t width = (size_t)nib_dtype_bits(o->t->dtype) / 8;
    const int64_t ldw = o->t->stride[0];
    const char *w = (const char *)nib_tensor_data(o->t) + (size_t)(s->n * ldw) * width;
    if (in->M <= NIB_LANE_ROWS) {
        in->k->dense_rows(y, ldy, in->x, in->K, in->M, w, o->t->dtype, ldw, s->channels, in->K);
        return;
    }
    float *rows = (float *)(void *)(s->scratch + in->at_rows);
    float *widened = (float *)(void *)(s->scratch + in->at_panels);
    for (int64_t k = 0; k < in->K || k == 0; k += in->kc) {
        const int64_t kc = in->K - k < in->kc ? in->K - k : in->kc;
        for (int64_t c = 0; c < s->channels; c += NIB_PIECE_WIDTH) {
            const int64_t here =
                s->channels - c < NIB_PIECE_WIDTH ? s->channels - c : NIB_PIECE_WIDTH;
            for (int64_t p = 0; p < here; p += NIB_PANEL) {
                const int64_t n = here - p < NIB_PANEL ? here - p : NIB_PANEL;
                const char *w_p = w + (size_t)((c + p) * ldw + k) * width;
                if (o->t->dtype == NIB_F32) {
                    in->k->pack_f32(widened + p * kc, (const void *)w_p, ldw, n, kc);
                    continue;
                }
                for (int64_t r = 0; r < n; r++)
                    nib_to_f32(o->t->dtype, rows + r * kc, w_p + (size_t)(r * ldw) * width,
                               (size_t)kc);
                in->k->pack_f32(widened + p * kc, rows, kc, n, kc);
            }
            multiply_panels(in, widened, k, kc, y + c, ldy, here);
        }
    }
}

/* The integer product by its definition, for groups that no kernel takes. */
static void codes_by_codes(const nib_piece *s, const nib_operand *o, int64_t n, int64_t channels,
                           float *y, int64_t ldy) {
    const nib_codes c = nib_rows_codes(o->t, n, channels, s->scratch + s->in->at_codes);
    const nib_qdesc *d = &c.desc;
    const int64_t G = o->kind.group, blocks = nib_qdesc_block_cols(d);
    const int64_t first = n / d->block_rows;
    const int mid = d->zero_kind == NIB_ZERO_MID ? nib_qdesc_mid(d) : 0;
    for (int64_t m = 0; m < s->in->M; m++)
        for (int64_t r = 0; r < channels; r++) {
            const int8_t *q = o->rows.q + m * o->rows.ld;
            float sum = 0, correction = 0;
            for (int64_t g = 0; g < blocks; g++) {
                const int64_t b = ((n + r) / d->block_rows - first) * blocks + g;
                const int64_t end = (g + 1) * G < d->cols ? (g + 1) * G : d->cols;
                int32_t t = 0, of_q = 0, of_c = 0;
                for (int64_t k = g * G; k < end; k++) {
                    const int32_t v = (int32_t)nib_code_value(&c, r * d->cols + k) - mid;
                    t += v * q[k], of_q += q[k], of_c += v;
                }
                sum = fmaf(c.scale[b], (float)t, sum);
                correction = fmaf(c.scale[b], (float)of_c, correction);
                if (d->zero_kind == NIB_ZERO_NONE) continue;
                const float offset = nib_codes_offset(&c, b);
                sum = fmaf(offset, (float)of_q, sum);
                correction = fmaf(offset, (float)(end - g * G), correction);
            }
            if (o->rows.zero) sum = fmaf(-(float)o->rows.zero[m], correction, sum);
            y[m * ldy + r] = sum * o->rows.scale[m];
        }
}

static void piece_of_codes(const nib_piece *s, const nib_operand *o, float *y, int64_t ldy) {
    const nib_inputs *in = s->in;
    float *rows = (float *)(void *)(s->scratch + in->at_rows);
    float *widened = (float *)(void *)(s->scratch + in->at_panels);
    for (int64_t p = 0; p < s->channels; p += NIB_PANEL) {
        const int64_t n = s->channels - p < NIB_PANEL ? s->channels - p : NIB_PANEL;
        if (o->integer) {
            codes_by_codes(s, o, s->n + p, n, y + p, ldy);
            continue;
        }
        code_rows(s, o, s->n + p, n, rows);
        in->k->pack_f32(widened, rows, in->K, n, in->K);
        if (in->rows)
            in->k->gemm_rows_f32(y + p, ldy, in->rows, in->M, in->K, 0, in->K, widened, 0, n);
        else
            in->k->gemm_f32(y + p, ldy, in->x, in->K, widened, 0, in->M, n, in->K, false);
    }
}

void nib_piece_multiply(const nib_piece *s, const nib_operand *o, float *y, int64_t ldy) {
    switch (o->how) {
    case NIB_OPERAND_DENSE:
        piece_of_dense(s, o, y + s->n, ldy);
        break;
    case NIB_OPERAND_LANES:
        piece_of_lanes(s, o, &o->lane, s->n / NIB_PANEL, y, ldy);
        break;
    case NIB_OPERAND_LIFTED: {
        const nib_lane_weight w = lift(s, o);
        piece_of_lanes(s, o, &w, 0, y + s->n, ldy);
        break;
    }
    case NIB_OPERAND_CODES:
        piece_of_codes(s, o, y + s->n, ldy);
        break;
    }
}

/* ---- scratch ---- */

static void larger(size_t *most, size_t size) {
    if (size > *most) *most = size;
}

void nib_piece_want(nib_piece_sizes *z, const nib_inputs *in, const nib_operand *o) {
    if (o->integer) z->lane = NIB_LANE_SCRATCH;
    if (o->integer && o->kind.digits) /* a piece may be of fewer rows: room for any */
        larger(&z->digits,
               sizeof(float) * (in->M > NIB_LANE_ROWS
                                    ? (size_t)DIGIT_FLOATS
                                    : (size_t)(NIB_DIGITS * in->M * DIGIT_PANELS) * NIB_PANEL));
    if (o->how == NIB_OPERAND_CODES) {
        const size_t panel = (size_t)in->K * NIB_PANEL * sizeof(float);
        larger(&z->codes, nib_rows_scratch_size(o->t, NIB_PANEL));
        larger(&z->rows, panel);
        larger(&z->panels, panel);
    }
    if (o->how == NIB_OPERAND_LIFTED) {
        nib_part parts[NIB_MAX_PARTS];
        const nib_qdesc desc = nib_qdesc_of_rows(&o->t->desc, NIB_PIECE_WIDTH);
        const int count = o->layout->parts(&desc, parts);
        larger(&z->codes, nib_rows_scratch_size(o->t, NIB_PIECE_WIDTH));
        for (int p = 0; p < count; p++) larger(&z->lift[p], nib_part_bytes(&parts[p]));
    }
    if (in->M <= NIB_LANE_ROWS || o->integer) return;
    larger(&z->panels, sizeof(float) * NIB_PIECE_WIDTH * (size_t)in->kc);
    if (o->how == NIB_OPERAND_DENSE) larger(&z->rows, sizeof(float) * NIB_PANEL * (size_t)in->kc);
}

bool nib_piece_place(nib_inputs *in, const nib_piece_sizes *z, size_t *whole) {
    bool bad = nib_place(whole, z->lane, &in->at_lane);
    bad |= nib_place(whole, z->panels, &in->at_panels);
    bad |= nib_place(whole, z->rows, &in->at_rows);
    bad |= nib_place(whole, z->codes, &in->at_codes);
    bad |= nib_place(whole, z->digits, &in->at_digits);
    for (int i = 0; i < NIB_MAX_PARTS; i++) bad |= nib_place(whole, z->lift[i], &in->at_lift[i]);
    return bad;
}
