#include "op/product.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "op/op.h"
#include "op/quantize_rows.h"
#include "quant/codes.h"
#include "quant/lanes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum {
    PIECE = 4,                 /* panels that a thread takes at once */
    WIDTH = PIECE * NIB_PANEL, /* their channels */
    MAX_WEIGHTS = 2 * NIB_MAX_PRODUCTS,
    LARGE_ROWS = 4 << 20, /* floats of inputs that do not stay in a cache */
};

/* How a product is cut. It shows in the time alone, so which of these is best may be measured. */
typedef struct cut {
    int runs; /* few rows of inputs: for each thread so many runs of pieces; 0: each by itself */
    int64_t grain; /* many rows: pieces in a row, at most */
    int64_t kc;    /* columns that are widened at once */
} cut;

/* Few rows wait for memory, which is read fastest in long runs: a thread that takes every other
 * piece begins anew each time. Four runs a thread still even out what delays one of them, where
 * they are long enough (RUN weights). With many rows a few pieces in a row are still even work, and
 * KC columns of one fit L2. */
enum { KC = 256, RUN = 1 << 19 };
static const cut cuts[NIB_PRODUCT_VARIANTS] = {{4, 4, KC}, {1, 16, 2 * KC}, {0, 1, KC / 2}};

/* One weight and how it is multiplied. */
typedef enum how {
    DENSE,  /* floats where they lie */
    LANES,  /* prepared */
    LIFTED, /* stored as in a file: each panel is put in lanes when it is met */
    CODES,  /* what no kernel reads: code by code, the reference */
} how;

typedef struct operand {
    const nib_tensor *t;
    how how;
    const nib_layout *layout; /* LIFTED: which lanes */
    nib_lane_weight lane;     /* LANES */
    bool integer;             /* inputs are codes */
    nib_rows_i8 rows;
} operand;

typedef struct target {
    const nib_product *p;
    operand w, up;
    int64_t N, pieces;
} target;

typedef struct job {
    const nib_kernels *k;
    const float *x;
    const float *rows; /* x as gemm_rows_f32 reads it; where M > NIB_LANE_ROWS meets float inputs */
    int64_t M, K, kc;
    target targets[NIB_MAX_PRODUCTS];
    int count;
    nib_scratch scratch;
    /* Where things lie in a block of scratch. */
    size_t at_lane, at_up, at_panels, at_rows, at_codes, at_lift[NIB_MAX_PARTS];
} job;

static bool is_wide(nib_dtype dtype) {
    return dtype == NIB_F32 || dtype == NIB_F16 || dtype == NIB_BF16;
}

bool nib_product_takes(const nib_tensor *w) {
    if (w->shape.ndim != 2) return false;
    return w->layout || (is_wide(w->dtype) && w->stride[1] == 1);
}

static nib_status operand_open(operand *o, const nib_tensor *t) {
    *o = (operand){.t = t};
    if (!t->layout) {
        o->how = DENSE;
        return NIB_OK;
    }
    o->integer = t->act.when != NIB_ACT_NONE;
    if (t->act.when == NIB_ACT_STATIC || (o->integer && !nib_qdesc_integer(&t->desc)))
        return NIB_RAISE(NIB_E_UNSUPPORTED, "linear: %s weights do not meet %s inputs",
                         nib_dtype_name(t->desc.code),
                         t->act.when == NIB_ACT_STATIC ? "statically quantized" : "8-bit");
    o->layout = t->layout->kernel ? t->layout : nib_layout_of_kernel(&t->desc);
    o->how = t->layout->kernel ? LANES : o->layout ? LIFTED : CODES;
    if (o->how != LANES) return NIB_OK;
    const void *part[NIB_MAX_PARTS] = {0};
    for (int i = 0; i < t->nparts; i++) part[i] = nib_tensor_part(t, i);
    o->lane = nib_lanes_view(&t->desc, part);
    return NIB_OK;
}

static int64_t group_columns(const nib_qdesc *d) {
    return d->block_cols < d->cols ? d->block_cols : d->cols;
}

bool nib_product_wants(const nib_tensor *w, nib_rows_kind *kind) {
    if (!w->layout || w->act.when != NIB_ACT_DYNAMIC || !nib_qdesc_integer(&w->desc) ||
        w->act.block.dim[0] == 0)
        return false;
    *kind = (nib_rows_kind){.K = w->desc.cols,
                            .group = group_columns(&w->desc),
                            .bits = w->act.dtype == NIB_I7 ? 7 : 8,
                            .symmetric = w->act.symmetric,
                            .eps = w->act.eps};
    return true;
}

/* ---- a piece: up to WIDTH channels of one weight for all rows ---- */

typedef struct piece {
    const job *j;
    char *scratch;
    int64_t n, channels; /* the first one, and how many */
} piece;

/* The codes of a piece in lanes, so that a kernel sees a weight of just these channels. */
static nib_lane_weight lift(const piece *s, const operand *o) {
    const nib_qdesc desc = nib_qdesc_of_rows(&o->t->desc, s->channels);
    void *part[NIB_MAX_PARTS] = {0};
    for (int i = 0; i < NIB_MAX_PARTS; i++) part[i] = s->scratch + s->j->at_lift[i];
    nib_codes codes = nib_rows_codes(o->t, s->n, s->channels, s->scratch + s->j->at_codes);
    o->layout->pack(part, &codes);
    return nib_lanes_view(&desc, (const void *const *)part);
}

/* Weights [16, K] of a panel for what has no lanes, f32, as products define them. */
static void code_rows(const piece *s, const operand *o, int64_t n, int64_t channels, float *out) {
    const nib_codes c = nib_rows_codes(o->t, n, channels, s->scratch + s->j->at_codes);
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
static void multiply_panels(const job *j, const float *panels, int64_t k, int64_t kc, float *y,
                            int64_t ldy, int64_t channels) {
    j->k->gemm_rows_f32(y, ldy, j->rows, j->M, j->K, k, kc, panels, kc * NIB_PANEL, channels);
}

static void piece_of_lanes(const piece *s, const operand *o, const nib_lane_weight *w,
                           int64_t panel, float *y, int64_t ldy) {
    const job *j = s->j;
    const int64_t panels = (s->channels + NIB_PANEL - 1) / NIB_PANEL;
    if (o->integer) {
        j->k->lane_i8[w->lane](y, ldy, &o->rows, j->M, w, panel, panels, s->scratch + j->at_lane);
        return;
    }
    if (j->M <= NIB_LANE_ROWS) {
        j->k->lane_rows[w->lane](y, ldy, j->x, j->K, j->M, w, panel, panels);
        return;
    }
    float *widened = (float *)(void *)(s->scratch + j->at_panels);
    y += panel * NIB_PANEL;
    for (int64_t k = 0; k < j->K || k == 0; k += j->kc) {
        const int64_t kc = j->K - k < j->kc ? j->K - k : j->kc;
        for (int64_t c = 0; c < s->channels; c += WIDTH) {
            const int64_t here = s->channels - c < WIDTH ? s->channels - c : WIDTH;
            for (int64_t p = 0; p * NIB_PANEL < here; p++)
                j->k->lane_widen[w->lane](widened + p * kc * NIB_PANEL, w,
                                          panel + c / NIB_PANEL + p, k, kc);
            multiply_panels(j, widened, k, kc, y + c, ldy, here);
        }
    }
}

static void piece_of_dense(const piece *s, const operand *o, float *y, int64_t ldy) {
    const job *j = s->j;
    const size_t width = (size_t)nib_dtype_bits(o->t->dtype) / 8;
    const int64_t ldw = o->t->stride[0];
    const char *w = (const char *)nib_tensor_data(o->t) + (size_t)(s->n * ldw) * width;
    if (j->M <= NIB_LANE_ROWS) {
        j->k->dense_rows(y, ldy, j->x, j->K, j->M, w, o->t->dtype, ldw, s->channels, j->K);
        return;
    }
    float *rows = (float *)(void *)(s->scratch + j->at_rows);
    float *widened = (float *)(void *)(s->scratch + j->at_panels);
    for (int64_t k = 0; k < j->K || k == 0; k += j->kc) {
        const int64_t kc = j->K - k < j->kc ? j->K - k : j->kc;
        for (int64_t c = 0; c < s->channels; c += WIDTH) {
            const int64_t here = s->channels - c < WIDTH ? s->channels - c : WIDTH;
            for (int64_t p = 0; p < here; p += NIB_PANEL) {
                const int64_t n = here - p < NIB_PANEL ? here - p : NIB_PANEL;
                const char *w_p = w + (size_t)((c + p) * ldw + k) * width;
                if (o->t->dtype == NIB_F32) {
                    j->k->pack_f32(widened + p * kc, (const void *)w_p, ldw, n, kc);
                    continue;
                }
                for (int64_t r = 0; r < n; r++)
                    nib_to_f32(o->t->dtype, rows + r * kc, w_p + (size_t)(r * ldw) * width,
                               (size_t)kc);
                j->k->pack_f32(widened + p * kc, rows, kc, n, kc);
            }
            multiply_panels(j, widened, k, kc, y + c, ldy, here);
        }
    }
}

/* The integer product by its definition, for groups that no kernel takes. */
static void codes_by_codes(const piece *s, const operand *o, int64_t n, int64_t channels, float *y,
                           int64_t ldy) {
    const nib_codes c = nib_rows_codes(o->t, n, channels, s->scratch + s->j->at_codes);
    const nib_qdesc *d = &c.desc;
    const int64_t G = group_columns(d), blocks = nib_qdesc_block_cols(d);
    const int64_t first = n / d->block_rows;
    const int mid = d->zero_kind == NIB_ZERO_MID ? nib_qdesc_mid(d) : 0;
    for (int64_t m = 0; m < s->j->M; m++)
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

static void piece_of_codes(const piece *s, const operand *o, float *y, int64_t ldy) {
    const job *j = s->j;
    float *rows = (float *)(void *)(s->scratch + j->at_rows);
    float *widened = (float *)(void *)(s->scratch + j->at_panels);
    for (int64_t p = 0; p < s->channels; p += NIB_PANEL) {
        const int64_t n = s->channels - p < NIB_PANEL ? s->channels - p : NIB_PANEL;
        if (o->integer) {
            codes_by_codes(s, o, s->n + p, n, y + p, ldy);
            continue;
        }
        code_rows(s, o, s->n + p, n, rows);
        j->k->pack_f32(widened, rows, j->K, n, j->K);
        if (j->rows)
            j->k->gemm_rows_f32(y + p, ldy, j->rows, j->M, j->K, 0, j->K, widened, 0, n);
        else
            j->k->gemm_f32(y + p, ldy, j->x, j->K, widened, 0, j->M, n, j->K, false);
    }
}

/* y points at channel 0 of the weight for LANES, at the piece's first for all others. */
static void multiply(const piece *s, const operand *o, float *y, int64_t ldy) {
    switch (o->how) {
    case DENSE:
        piece_of_dense(s, o, y + s->n, ldy);
        break;
    case LANES:
        piece_of_lanes(s, o, &o->lane, s->n / NIB_PANEL, y, ldy);
        break;
    case LIFTED: {
        const nib_lane_weight w = lift(s, o);
        piece_of_lanes(s, o, &w, 0, y + s->n, ldy);
        break;
    }
    case CODES:
        piece_of_codes(s, o, y + s->n, ldy);
        break;
    }
}

/* ---- what follows a product ---- */

static void add_bias(const piece *s, const nib_tensor *bias, float *y, int64_t ldy) {
    if (bias == NIB_NONE) return;
    float values[WIDTH];
    const size_t width = (size_t)nib_dtype_bits(bias->dtype) / 8;
    nib_to_f32(bias->dtype, values, (const char *)nib_tensor_data(bias) + (size_t)s->n * width,
               (size_t)s->channels);
    for (int64_t m = 0; m < s->j->M; m++)
        for (int64_t c = 0; c < s->channels; c++) y[m * ldy + c] += values[c];
}

static void activate(const nib_kernels *k, nib_activation activation, float *y, int64_t n) {
    switch (activation) {
    case NIB_RELU:
        for (int64_t i = 0; i < n; i++) y[i] = y[i] < 0 ? 0 : y[i];
        break;
    case NIB_GELU:
        k->gelu_f32(y, y, (size_t)n);
        break;
    case NIB_GELU_TANH:
        k->gelu_tanh_f32(y, y, (size_t)n);
        break;
    case NIB_SILU:
        k->silu_f32(y, y, (size_t)n);
        break;
    case NIB_IDENTITY:
        break;
    }
}

static void finish(const piece *s, const target *t, float *y, int64_t ldy) {
    const job *j = s->j;
    const nib_product *p = t->p;
    float *up = NULL;
    add_bias(s, p->bias, y, ldy);
    if (p->up == NIB_NONE && p->activation == NIB_IDENTITY && !p->residual) return;
    if (p->up != NIB_NONE) {
        up = (float *)(void *)(s->scratch + j->at_up);
        multiply(s, &t->up, up - s->n, WIDTH);
        add_bias(s, p->up_bias, up, WIDTH);
    }
    for (int64_t m = 0; m < j->M; m++) {
        float *y_m = y + m * ldy;
        if (up)
            j->k->silu_mul_f32(y_m, y_m, up + m * WIDTH, (size_t)s->channels);
        else
            activate(j->k, p->activation, y_m, s->channels);
        if (!p->residual) continue;
        const float *r_m = p->residual + m * t->N + s->n;
        for (int64_t c = 0; c < s->channels; c++) y_m[c] = r_m[c] + y_m[c];
    }
}

static bool is_narrow(const nib_product *p) { return p->dtype == NIB_F16 || p->dtype == NIB_BF16; }

/* A residual may be y itself, and a narrow y has no room for f32: such a product is made beside. */
static bool goes_beside(const nib_product *p) { return p->residual == p->y || is_narrow(p); }

static void put_row(const nib_kernels *k, const nib_product *p, int64_t at, const float *from,
                    size_t n) {
    if (p->dtype == NIB_BF16)
        k->f32_to_bf16((uint16_t *)p->y + at, from, n);
    else if (p->dtype == NIB_F16)
        k->f32_to_f16((uint16_t *)p->y + at, from, n);
    else
        memcpy((float *)p->y + at, from, n * sizeof *from);
}

static piece piece_at(const job *j, const target *t, int64_t index, int64_t count, char *scratch) {
    piece s = {.j = j, .scratch = scratch, .n = index * WIDTH, .channels = count * WIDTH};
    if (s.channels > t->N - s.n) s.channels = t->N - s.n;
    return s;
}

/* Pieces that are taken in one call: of codes, so that a kernel lays the rows out once; of floats,
 * where the rows are more than what caches keep between pieces, so that all pieces of a run meet
 * some columns of them before the next. */
static bool goes_at_once(const job *j, const target *t) {
    if (goes_beside(t->p)) return false;
    if (t->w.integer) return t->w.how == LANES;
    return j->M > NIB_LANE_ROWS && (t->w.how == LANES || t->w.how == DENSE) &&
           j->M * j->K > LARGE_ROWS;
}

static void run_piece(const job *j, const target *t, int64_t index, char *scratch) {
    const piece s = piece_at(j, t, index, 1, scratch);
    if (!goes_beside(t->p)) {
        float *y = t->p->y;
        if (!goes_at_once(j, t)) multiply(&s, &t->w, y, t->N);
        finish(&s, t, y + s.n, t->N);
        return;
    }
    float *beside = (float *)(void *)(scratch + j->at_up) + j->M * WIDTH;
    multiply(&s, &t->w, beside - s.n, WIDTH);
    finish(&s, t, beside, WIDTH);
    for (int64_t m = 0; m < j->M; m++)
        put_row(j->k, t->p, m * t->N + s.n, beside + m * WIDTH, (size_t)s.channels);
}

static void run_pieces(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int block;
    char *scratch = nib_scratch_take(&j->scratch, &block);
    for (int64_t i = begin; i < end;) {
        const target *t = j->targets;
        int64_t index = i;
        while (index >= t->pieces) index -= t++->pieces;
        const int64_t count = t->pieces - index < end - i ? t->pieces - index : end - i;
        if (goes_at_once(j, t)) {
            const piece s = piece_at(j, t, index, count, scratch);
            multiply(&s, &t->w, t->p->y, t->N);
        }
        for (int64_t k = 0; k < count; k++) run_piece(j, t, index + k, scratch);
        i += count;
    }
    nib_scratch_give(&j->scratch, block);
}

/* ---- memory ---- */

/* Adds `size` bytes, rounded up to a line, and returns where they begin; true: overflow. */
static bool place(size_t *whole, size_t size, size_t *at) {
    *at = *whole;
    return nib_align_size(size, NIB_MEM_ALIGN, &size) || nib_add_size(*whole, size, whole);
}

static bool larger(size_t *most, size_t size) {
    if (size > *most) *most = size;
    return false;
}

static nib_status plan_scratch(job *j, size_t *size) {
    size_t codes = 0, lift_parts[NIB_MAX_PARTS] = {0}, rows = 0, panels = 0, lane = 0, whole = 0;
    bool beside = false, bad = false;
    for (int i = 0; i < j->count; i++) {
        const target *t = &j->targets[i];
        beside |= t->p->up != NIB_NONE || goes_beside(t->p);
        for (int side = 0; side < 2; side++) {
            const operand *o = side ? &t->up : &t->w;
            if (!o->t) continue;
            if (o->integer) lane = NIB_LANE_SCRATCH;
            if (o->how == CODES) {
                larger(&codes, nib_rows_scratch_size(o->t, NIB_PANEL));
                larger(&rows, (size_t)j->K * NIB_PANEL * sizeof(float));
                larger(&panels, (size_t)j->K * NIB_PANEL * sizeof(float));
            }
            if (o->how == LIFTED) {
                nib_part parts[NIB_MAX_PARTS];
                const nib_qdesc desc = nib_qdesc_of_rows(&o->t->desc, WIDTH);
                const int count = o->layout->parts(&desc, parts);
                larger(&codes, nib_rows_scratch_size(o->t, WIDTH));
                for (int p = 0; p < count; p++) larger(&lift_parts[p], nib_part_bytes(&parts[p]));
            }
            if (j->M > NIB_LANE_ROWS && !o->integer) {
                larger(&panels, sizeof(float) * WIDTH * (size_t)j->kc);
                if (o->how == DENSE) larger(&rows, sizeof(float) * NIB_PANEL * (size_t)j->kc);
            }
        }
    }
    size_t up = 0;
    if (beside) bad |= nib_mul_size((size_t)j->M, 2 * WIDTH * sizeof(float), &up);
    bad |= place(&whole, lane, &j->at_lane) || place(&whole, up, &j->at_up) ||
           place(&whole, panels, &j->at_panels) || place(&whole, rows, &j->at_rows) ||
           place(&whole, codes, &j->at_codes);
    for (int i = 0; i < NIB_MAX_PARTS; i++) bad |= place(&whole, lift_parts[i], &j->at_lift[i]);
    *size = whole;
    return bad ? NIB_RAISE(NIB_E_MEMORY, "linear: scratch for %lld rows of %lld columns overflows",
                           (long long)j->M, (long long)j->K)
               : NIB_OK;
}

static bool same_act(const nib_act *a, const nib_act *b) {
    return a->dtype == b->dtype && a->symmetric == b->symmetric && a->eps == b->eps &&
           a->block.dim[0] == b->block.dim[0];
}

/* Every operand that wants codes gets them: made once for each way of making them. */
static void quantize_inputs(nib_ctx *ctx, job *j, char *memory, size_t rows_size) {
    const operand *made[MAX_WEIGHTS];
    int n = 0;
    for (int i = 0; i < 2 * j->count; i++) {
        operand *o = i % 2 ? &j->targets[i / 2].up : &j->targets[i / 2].w;
        if (!o->t || !o->integer) continue;
        int have = 0;
        while (have < n && !same_act(&made[have]->t->act, &o->t->act)) have++;
        const int64_t G = group_columns(&o->t->desc);
        if (have < n) {
            o->rows = made[have]->rows;
            if (G == group_columns(&made[have]->t->desc)) continue;
        }
        int32_t *sums = NULL; /* without them the reference sums for itself */
        char *codes = memory;
        if (have == n) memory += rows_size;
        if (j->K % G == 0) sums = (int32_t *)(void *)memory;
        if (have == n) {
            nib_quantize_rows(ctx, j->x, j->M, j->K, &o->t->act, G, sums, codes, &o->rows);
            made[n++] = o;
        } else if (sums) {
            nib_sum_rows(ctx, &o->rows, j->M, j->K, G, sums);
        }
        o->rows.sums = sums;
        if (!sums) continue;
        memory += ((size_t)(j->M * (j->K / G)) * sizeof *sums + NIB_MEM_ALIGN - 1) &
                  ~(size_t)(NIB_MEM_ALIGN - 1);
    }
}

/* Inputs that came as codes: all operands read the same. */
static nib_status take_rows(job *j, const nib_tensor *x) {
    for (int i = 0; i < 2 * j->count; i++) {
        operand *o = i % 2 ? &j->targets[i / 2].up : &j->targets[i / 2].w;
        nib_rows_kind kind;
        if (!o->t) continue;
        if (!nib_product_wants(o->t, &kind))
            return NIB_RAISE(NIB_E_UNSUPPORTED, "linear: a weight wants floats, not codes");
        void *memory = (void *)(uintptr_t)nib_tensor_data(x); /* only read */
        const nib_rows_made made = nib_rows_within(&kind, j->M, memory);
        o->rows = nib_rows_read(&kind, &made);
    }
    return NIB_OK;
}

/* Bytes for all codes and sums of inputs; an upper bound. */
static nib_status input_bytes(const job *j, size_t *rows_size, size_t *size) {
    *size = 0;
    *rows_size = 0;
    for (int i = 0; i < 2 * j->count; i++) {
        const operand *o = i % 2 ? &j->targets[i / 2].up : &j->targets[i / 2].w;
        if (!o->t || !o->integer) continue;
        size_t sums;
        *rows_size = nib_quantize_rows_size(j->M, j->K);
        if (!*rows_size || nib_align_size(*rows_size, NIB_MEM_ALIGN, rows_size) ||
            nib_mul_size((size_t)j->M, (size_t)(j->K / group_columns(&o->t->desc) + 1) * 4,
                         &sums) ||
            nib_add_size(*size, *rows_size, size) || nib_add_size(*size, sums + 64, size))
            return NIB_RAISE(NIB_E_MEMORY, "linear: codes of %lld rows of %lld columns overflow",
                             (long long)j->M, (long long)j->K);
    }
    return NIB_OK;
}

/* Are there many rows that meet a weight as floats? */
static bool wants_rows(const job *j) {
    for (int i = 0; i < j->count; i++) {
        const target *t = &j->targets[i];
        if (!t->w.integer || (t->up.t && !t->up.integer)) return j->M > NIB_LANE_ROWS;
    }
    return false;
}

typedef struct packing {
    const job *j;
    float *rows;
} packing;

static void pack_rows(void *user, int64_t begin, int64_t end) {
    const packing *p = user;
    const job *j = p->j;
    j->k->pack_rows_f32(p->rows + begin * j->K, j->x + begin * j->K, j->K, end - begin, j->K);
}

/* Pieces in a row for one thread. */
static int64_t grain_of(const job *j, const cut *c, int64_t pieces, int threads) {
    const int64_t runs = (int64_t)c->runs * threads, share = pieces / threads;
    int64_t grain = runs && pieces > runs ? pieces / runs : 1;
    if (j->M > NIB_LANE_ROWS) return grain < c->grain ? grain : c->grain;
    const int64_t least = RUN / (WIDTH * (j->K + 1));
    if (runs && grain < least) grain = least < share ? least : share;
    return grain > 0 ? grain : 1;
}

nib_status nib_products(nib_ctx *ctx, const nib_tensor *x, const nib_product *products, int count) {
    assert(count >= 1 && count <= NIB_MAX_PRODUCTS);
    const int64_t M = nib_product_rows(x), K = products[0].weight->shape.dim[1];
    const bool coded = x->dtype == NIB_I8;
    const cut *c = &cuts[ctx->variant];
    job j = {.k = &ctx->kernels, .M = M, .K = K, .kc = c->kc, .count = count};
    if (!coded) j.x = nib_tensor_data(x);
    int64_t pieces = 0;
    for (int i = 0; i < count; i++) {
        target *t = &j.targets[i];
        t->p = &products[i];
        assert(t->p->up == NIB_NONE || t->p->activation == NIB_SILU);
        t->N = t->p->weight->shape.dim[0];
        t->pieces = (t->N + WIDTH - 1) / WIDTH;
        pieces += t->pieces;
        NIB_TRY(operand_open(&t->w, t->p->weight));
        if (t->p->up != NIB_NONE) NIB_TRY(operand_open(&t->up, t->p->up));
    }
    if (!M || !pieces) return NIB_OK;
    size_t block, rows_size = 0, inputs = 0, blocks, whole, packed = 0;
    NIB_TRY(plan_scratch(&j, &block));
    if (coded)
        NIB_TRY(take_rows(&j, x));
    else
        NIB_TRY(input_bytes(&j, &rows_size, &inputs));
    blocks = nib_scratch_room(ctx->pool, pieces, block);
    if ((block && !blocks) || nib_align_size(inputs, NIB_MEM_ALIGN, &inputs) ||
        (wants_rows(&j) && nib_mul_size((size_t)M, (size_t)K * sizeof *j.x, &packed)) ||
        nib_align_size(packed, NIB_MEM_ALIGN, &packed) || nib_add_size(inputs, blocks, &whole) ||
        nib_add_size(whole, packed, &whole))
        return NIB_RAISE(NIB_E_MEMORY, "linear: scratch for %lld rows of %lld columns overflows",
                         (long long)M, (long long)K);
    char *memory = nib_ctx_workspace(ctx, whole);
    if (!memory) return nib_last_error()->status;
    if (!coded) quantize_inputs(ctx, &j, memory, rows_size);
    nib_scratch_over(ctx->pool, pieces, block, memory + inputs, &j.scratch);
    if (wants_rows(&j)) {
        packing p = {.j = &j, .rows = (float *)(void *)(memory + inputs + blocks)};
        if (K) nib_parallel_for(ctx->pool, M, NIB_ROW_BLOCK, pack_rows, &p);
        j.rows = p.rows;
    }
    nib_parallel_for(ctx->pool, pieces, grain_of(&j, c, pieces, nib_pool_threads(ctx->pool)),
                     run_pieces, &j);
    return NIB_OK;
}

nib_status nib_product_shape(const nib_op *op, const nib_tensor *x, const nib_tensor *w,
                             const nib_tensor *bias, nib_shape *out) {
    nib_rows_kind kind;
    const bool coded =
        x->dtype == NIB_I8 && !x->layout && nib_tensor_contiguous(x) && nib_product_wants(w, &kind);
    if (!coded) NIB_TRY(nib_op_want_dense_f32(op, "input", x));
    char text[96], other[96];
    const int last = x->shape.ndim - 1;
    if (last < 0 || w->shape.ndim != 2 ||
        x->shape.dim[last] != (coded ? nib_rows_width(&kind) : w->shape.dim[1]))
        return NIB_RAISE(NIB_E_SHAPE, "%s: input is %s but weight is %s", op->name,
                         nib_shape_text(&x->shape, text, sizeof text),
                         nib_shape_text(&w->shape, other, sizeof other));
    if (bias != NIB_NONE && (bias->shape.ndim != 1 || bias->shape.dim[0] != w->shape.dim[0]))
        return NIB_RAISE(NIB_E_SHAPE, "%s: bias is %s but weight is %s", op->name,
                         nib_shape_text(&bias->shape, text, sizeof text),
                         nib_shape_text(&w->shape, other, sizeof other));
    *out = x->shape;
    out->dim[last] = w->shape.dim[0];
    return NIB_OK;
}

int64_t nib_product_rows(const nib_tensor *x) {
    int64_t M = 1;
    for (int i = 0; i + 1 < x->shape.ndim; i++) M *= x->shape.dim[i];
    return M;
}
