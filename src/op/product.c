#include "op/product.h"

#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "op/op.h"
#include "op/product_piece.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum {
    MAX_WEIGHTS = 2 * NIB_MAX_PRODUCTS,
    OPENED = 1 << 14,                /* codes that are opened at once */
    LARGE_ROWS = 4 << 20,            /* floats of inputs that do not stay in a cache */
    BESIDE_ROWS = 2 * NIB_ROW_BLOCK, /* of integer products that are made beside: they stay in L1 */
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

typedef struct target {
    const nib_product *p;
    nib_operand w, up;
    int64_t N, pieces;
} target;

typedef struct job {
    nib_inputs in;
    target targets[NIB_MAX_PRODUCTS];
    int count;
    nib_scratch scratch;
    int64_t span;        /* channels, at most, that are finished together */
    size_t at_up;        /* in a block of scratch */
    const int8_t *codes; /* inputs that came as codes, */
    float codes_scale;   /* and the scale of them all */
} job;

static bool is_wide(nib_dtype dtype) {
    return dtype == NIB_F32 || dtype == NIB_F16 || dtype == NIB_BF16;
}

bool nib_product_takes(const nib_tensor *w) {
    if (w->shape.ndim != 2) return false;
    return w->layout || (is_wide(w->dtype) && w->stride[1] == 1);
}

bool nib_product_takes_codes(const nib_tensor *x, const nib_tensor *w) {
    return nib_act8_is(x) && x->desc.math == NIB_F32 && !nib_act8_is(w);
}

static bool meets_codes(const nib_tensor *x, const nib_tensor *w) {
    return nib_act8_integer(x->desc.code) && w->layout && nib_qdesc_integer(&w->desc);
}

bool nib_product_wants(const nib_tensor *w, nib_rows_kind *kind) {
    return nib_operand_kind(w, kind) && !kind->all;
}

/* ---- what follows a product ---- */

static void add_bias(const nib_piece *s, const nib_tensor *bias, float *y, int64_t ldy) {
    if (bias == NIB_NONE) return;
    float values[NIB_PIECE_WIDTH];
    const size_t width = (size_t)nib_dtype_bits(bias->dtype) / 8;
    const char *from = (const char *)nib_tensor_data(bias) + (size_t)s->n * width;
    const int64_t M = s->in->M, channels = s->channels; /* what a store cannot change */
    for (int64_t n = 0; n < channels; n += NIB_PIECE_WIDTH) {
        const int64_t here = channels - n < NIB_PIECE_WIDTH ? channels - n : NIB_PIECE_WIDTH;
        nib_to_f32(bias->dtype, values, from + (size_t)n * width, (size_t)here);
        for (int64_t m = 0; m < M; m++)
            for (int64_t c = 0; c < here; c++) y[m * ldy + n + c] += values[c];
    }
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

static void finish(const job *j, const nib_piece *s, const target *t, float *y, int64_t ldy) {
    const nib_kernels *k = j->in.k;
    const nib_product *p = t->p;
    float *up = NULL;
    add_bias(s, p->bias, y, ldy);
    if (p->up == NIB_NONE && p->activation == NIB_IDENTITY && !p->residual) return;
    if (p->up != NIB_NONE) {
        up = (float *)(void *)(s->scratch + j->at_up);
        nib_piece_multiply(s, &t->up, up - s->n, j->span);
        add_bias(s, p->up_bias, up, j->span);
    }
    for (int64_t m = 0; m < s->in->M; m++) {
        float *y_m = y + m * ldy;
        if (up)
            k->silu_mul_f32(y_m, y_m, up + m * j->span, (size_t)s->channels);
        else
            activate(k, p->activation, y_m, s->channels);
        if (!p->residual) continue;
        const float *r_m = p->residual + m * t->N + s->n;
        for (int64_t c = 0; c < s->channels; c++) y_m[c] = r_m[c] + y_m[c];
    }
}

static bool is_narrow(const nib_product *p) { return p->dtype && p->dtype != NIB_F32; }

/* A residual may be y itself, and a narrow y has no room for f32: such a product is made beside,
 * that of integers some rows after the others. */
static bool goes_beside(const nib_product *p) { return p->residual == p->y || is_narrow(p); }

static bool in_lanes(const nib_operand *o) {
    return !o->t || (o->integer && o->how == NIB_OPERAND_LANES);
}

static int64_t rows_beside(const job *j, const target *t) {
    const bool some = in_lanes(&t->w) && in_lanes(&t->up) && j->in.M > BESIDE_ROWS;
    return some ? BESIDE_ROWS : j->in.M;
}

static void put_row(const nib_kernels *k, const nib_product *p, int64_t at, const float *from,
                    size_t n) {
    if (p->dtype == NIB_BF16)
        k->f32_to_bf16((uint16_t *)p->y + at, from, n);
    else if (p->dtype == NIB_F16)
        k->f32_to_f16((uint16_t *)p->y + at, from, n);
    else if (!is_narrow(p))
        memcpy((float *)p->y + at, from, n * sizeof *from);
    else if (p->floor)
        k->quantize_divided((uint8_t *)p->y + at, from, 1, (int64_t)n, NULL, &p->scale, NULL, 0,
                            (int)nib_act8_largest(p->dtype), NIB_F32);
    else
        nib_act8_quantize(k, p->dtype, NIB_F32, p->scale, from, (int64_t)n, (char *)p->y + at);
}

static nib_piece piece_at(const job *j, const target *t, int64_t index, int64_t count,
                          char *scratch) {
    nib_piece s = {.in = &j->in,
                   .scratch = scratch,
                   .n = index * NIB_PIECE_WIDTH,
                   .channels = count * NIB_PIECE_WIDTH};
    if (s.channels > t->N - s.n) s.channels = t->N - s.n;
    return s;
}

/* Pieces that are taken in one call: of codes, so that a kernel lays the rows out once; of floats,
 * where the rows are more than what caches keep between pieces, so that all pieces of a run meet
 * some columns of them before the next. */
static bool goes_at_once(const job *j, const target *t) {
    if (goes_beside(t->p)) return false;
    if (t->w.integer) return t->w.how == NIB_OPERAND_LANES;
    return j->in.M > NIB_LANE_ROWS &&
           (t->w.how == NIB_OPERAND_LANES || t->w.how == NIB_OPERAND_DENSE) &&
           j->in.M * j->in.K > LARGE_ROWS;
}

/* The inputs from row m on, for an operand of which only they are wanted. */
static nib_operand operand_from(const nib_operand *o, int64_t m) {
    nib_operand from = *o;
    if (m && o->kind.group)
        from.rows = nib_rows_from(&o->rows, nib_rows_count(&o->kind, m), o->kind.K / o->kind.group);
    return from;
}

static void run_beside(const job *j, const target *t, int64_t index, int64_t count, char *scratch) {
    const int64_t most = rows_beside(j, t);
    float *beside = (float *)(void *)(scratch + j->at_up) + most * j->span;
    for (int64_t m = 0; m < j->in.M; m += most) {
        nib_inputs in = j->in;
        if (most < in.M) in.M = in.M - m < most ? in.M - m : most;
        nib_product p = *t->p;
        if (p.residual) p.residual += m * t->N;
        const target here = {
            .p = &p, .w = operand_from(&t->w, m), .up = operand_from(&t->up, m), .N = t->N};
        nib_piece s = piece_at(j, t, index, count, scratch);
        s.in = &in;
        nib_piece_multiply(&s, &here.w, beside - s.n, j->span);
        finish(j, &s, &here, beside, j->span);
        for (int64_t r = 0; r < in.M; r++)
            put_row(in.k, &p, (m + r) * t->N + s.n, beside + r * j->span, (size_t)s.channels);
    }
}

/* Few rows are little beside their weights: what is multiplied in one call is finished in one. */
static bool reads_where_it_lies(const nib_operand *o) {
    return !o->t || o->how == NIB_OPERAND_LANES || o->how == NIB_OPERAND_DENSE;
}
static bool finishes_at_once(const job *j, const target *t) {
    return j->in.M <= NIB_LANE_ROWS && reads_where_it_lies(&t->w) && reads_where_it_lies(&t->up);
}

static void run_some(const job *j, const target *t, int64_t index, int64_t count, bool multiplied,
                     char *scratch) {
    if (goes_beside(t->p)) {
        run_beside(j, t, index, count, scratch);
        return;
    }
    const nib_piece s = piece_at(j, t, index, count, scratch);
    float *y = t->p->y;
    if (!multiplied) nib_piece_multiply(&s, &t->w, y, t->N);
    finish(j, &s, t, y + s.n, t->N);
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
        const int64_t step = finishes_at_once(j, t) ? count : 1;
        const bool multiplied = step < count && goes_at_once(j, t);
        if (multiplied) {
            const nib_piece s = piece_at(j, t, index, count, scratch);
            nib_piece_multiply(&s, &t->w, t->p->y, t->N);
        }
        for (int64_t k = 0; k < count; k += step)
            run_some(j, t, index + k, step, multiplied, scratch);
        i += count;
    }
    nib_scratch_give(&j->scratch, block);
}

/* ---- memory ---- */

static nib_status plan_scratch(job *j, size_t *size) {
    nib_piece_sizes sizes = {0};
    int64_t beside = 0;
    bool bad = false;
    for (int i = 0; i < j->count; i++) {
        const target *t = &j->targets[i];
        const int64_t rows = goes_beside(t->p)      ? rows_beside(j, t)
                             : t->p->up != NIB_NONE ? j->in.M
                                                    : 0;
        if (rows > beside) beside = rows;
        nib_piece_want(&sizes, &j->in, &t->w);
        if (t->up.t) nib_piece_want(&sizes, &j->in, &t->up);
    }
    size_t up = 0;
    *size = 0;
    bad |= nib_mul_size((size_t)beside, 2 * (size_t)j->span * sizeof(float), &up);
    bad |= nib_piece_place(&j->in, &sizes, size) || nib_place(size, up, &j->at_up);
    return bad ? NIB_RAISE(NIB_E_MEMORY, "linear: scratch for %lld rows of %lld columns overflows",
                           (long long)j->in.M, (long long)j->in.K)
               : NIB_OK;
}

/* Every operand that wants codes gets them: made once for each way of making them. */
static void quantize_inputs(nib_ctx *ctx, job *j, char *memory, size_t rows_size) {
    const nib_operand *made[MAX_WEIGHTS];
    int n = 0;
    for (int i = 0; i < 2 * j->count; i++) {
        nib_operand *o = i % 2 ? &j->targets[i / 2].up : &j->targets[i / 2].w;
        if (!o->t || !o->integer) continue;
        int have = 0;
        while (have < n && !nib_rows_same(&made[have]->kind, &o->kind)) have++;
        const int64_t G = o->kind.group, rows = nib_rows_count(&o->kind, j->in.M);
        if (have < n) {
            o->rows = made[have]->rows;
            if (G == made[have]->kind.group) continue;
        }
        int32_t *sums = NULL; /* without them the reference sums for itself */
        char *codes = memory;
        if (have == n) memory += rows_size;
        if (j->in.K % G == 0) sums = (int32_t *)(void *)memory;
        if (have == n && j->codes) {
            nib_lay_rows(ctx, j->codes, j->codes_scale, j->in.M, &o->kind, sums, codes, &o->rows);
            made[n++] = o;
        } else if (have == n) {
            nib_quantize_rows(ctx, j->in.x, j->in.M, &o->kind, sums, codes, &o->rows);
            made[n++] = o;
        } else if (sums) {
            nib_sum_rows(ctx, &o->rows, rows, j->in.K, G, sums);
        }
        o->rows.sums = sums;
        if (!sums) continue;
        memory += ((size_t)(rows * (j->in.K / G)) * sizeof *sums + NIB_MEM_ALIGN - 1) &
                  ~(size_t)(NIB_MEM_ALIGN - 1);
    }
}

/* Inputs that came as codes: all operands read the same. */
static nib_status take_rows(job *j, const nib_tensor *x) {
    for (int i = 0; i < 2 * j->count; i++) {
        nib_operand *o = i % 2 ? &j->targets[i / 2].up : &j->targets[i / 2].w;
        nib_rows_kind kind;
        if (!o->t) continue;
        if (!nib_product_wants(o->t, &kind))
            return NIB_RAISE(NIB_E_UNSUPPORTED, "linear: a weight wants floats, not codes");
        void *memory = (void *)(uintptr_t)nib_tensor_data(x); /* only read */
        const nib_rows_made made = nib_rows_within(&kind, nib_rows_count(&kind, j->in.M), memory);
        o->rows = nib_rows_read(&kind, &made);
    }
    return NIB_OK;
}

/* Bytes for all codes and sums of inputs; an upper bound. rows_size: the most that one kind takes.
 */
static nib_status input_bytes(const job *j, size_t *rows_size, size_t *size) {
    bool bad = false;
    *size = 0;
    *rows_size = 0;
    for (int i = 0; i < 2 * j->count; i++) {
        const nib_operand *o = i % 2 ? &j->targets[i / 2].up : &j->targets[i / 2].w;
        if (!o->t || !o->integer) continue;
        size_t rows = nib_quantize_rows_size(&o->kind, j->in.M), sums;
        bad |= !rows || nib_align_size(rows, NIB_MEM_ALIGN, &rows) ||
               nib_mul_size((size_t)nib_rows_count(&o->kind, j->in.M),
                            (size_t)(j->in.K / o->kind.group + 1) * 4, &sums) ||
               nib_add_size(*size, sums + NIB_MEM_ALIGN, size);
        if (rows > *rows_size) *rows_size = rows;
    }
    for (int i = 0; i < 2 * j->count; i++) bad |= nib_add_size(*size, *rows_size, size);
    return bad ? NIB_RAISE(NIB_E_MEMORY, "linear: codes of %lld rows of %lld columns overflow",
                           (long long)j->in.M, (long long)j->in.K)
               : NIB_OK;
}

/* Are there many rows that meet a weight as floats? */
static bool wants_rows(const job *j) {
    for (int i = 0; i < j->count; i++) {
        const target *t = &j->targets[i];
        if (!t->w.integer || (t->up.t && !t->up.integer)) return j->in.M > NIB_LANE_ROWS;
    }
    return false;
}

/* Codes that some weight meets as floats. */
typedef struct opening {
    const nib_tensor *x;
    float *out;
} opening;

static void open_some(void *user, int64_t begin, int64_t end) {
    const opening *o = user;
    nib_act8_to_f32(o->x, begin, end - begin, o->out + begin);
}

typedef struct packing {
    const job *j;
    float *rows;
} packing;

static void pack_rows(void *user, int64_t begin, int64_t end) {
    const packing *p = user;
    const job *j = p->j;
    j->in.k->pack_rows_f32(p->rows + begin * j->in.K, j->in.x + begin * j->in.K, j->in.K,
                           end - begin, j->in.K);
}

/* Pieces in a row for one thread. */
static int64_t grain_of(const job *j, const cut *c, int64_t pieces, int threads) {
    const int64_t runs = (int64_t)c->runs * threads, share = pieces / threads;
    int64_t grain = runs && pieces > runs ? pieces / runs : 1;
    if (j->in.M > NIB_LANE_ROWS) return grain < c->grain ? grain : c->grain;
    const int64_t least = RUN / (NIB_PIECE_WIDTH * (j->in.K + 1));
    if (runs && grain < least) grain = least < share ? least : share;
    return grain > 0 ? grain : 1;
}

nib_status nib_products(nib_ctx *ctx, const nib_tensor *x, const nib_product *products, int count) {
    assert(count >= 1 && count <= NIB_MAX_PRODUCTS);
    const int64_t M = nib_product_rows(x), K = products[0].weight->shape.dim[1];
    const bool coded = x->dtype == NIB_I8;
    const cut *c = &cuts[ctx->variant];
    job j = {.in = {.k = &ctx->kernels, .M = M, .K = K, .kc = c->kc}, .count = count};
    const bool codes = nib_act8_is(x);
    const int bits = codes && x->desc.code == NIB_I7 ? 7 : 8;
    bool opens = false;
    if (codes && nib_act8_integer(x->desc.code)) {
        j.codes = nib_act8_data(x);
        j.codes_scale = nib_act8_scale(x);
    } else if (!codes && !coded) {
        j.in.x = nib_tensor_data(x);
    }
    int64_t pieces = 0;
    for (int i = 0; i < count; i++) {
        target *t = &j.targets[i];
        t->p = &products[i];
        assert(t->p->up == NIB_NONE || t->p->activation == NIB_SILU);
        t->N = t->p->weight->shape.dim[0];
        t->pieces = (t->N + NIB_PIECE_WIDTH - 1) / NIB_PIECE_WIDTH;
        pieces += t->pieces;
        NIB_TRY(nib_operand_open(&t->w, t->p->weight));
        if (t->p->up != NIB_NONE) NIB_TRY(nib_operand_open(&t->up, t->p->up));
        if (!codes) continue;
        if (meets_codes(x, t->w.t)) nib_operand_take_codes(&t->w, bits);
        if (t->up.t && meets_codes(x, t->up.t)) nib_operand_take_codes(&t->up, bits);
        opens |= !meets_codes(x, t->w.t) || (t->up.t && !meets_codes(x, t->up.t));
    }
    if (!M || !pieces) return NIB_OK;
    size_t block, rows_size = 0, inputs = 0, blocks, whole, packed = 0, opened = 0;
    const int64_t grain = grain_of(&j, c, pieces, nib_pool_threads(ctx->pool));
    j.span = NIB_PIECE_WIDTH * (M <= NIB_LANE_ROWS ? grain : 1);
    NIB_TRY(plan_scratch(&j, &block));
    if (coded)
        NIB_TRY(take_rows(&j, x));
    else
        NIB_TRY(input_bytes(&j, &rows_size, &inputs));
    blocks = nib_scratch_room(ctx->pool, pieces, block);
    if ((block && !blocks) || nib_align_size(inputs, NIB_MEM_ALIGN, &inputs) ||
        (wants_rows(&j) && nib_mul_size((size_t)M, (size_t)K * sizeof *j.in.x, &packed)) ||
        (opens && nib_mul_size((size_t)M, (size_t)K * sizeof *j.in.x, &opened)) ||
        nib_align_size(packed, NIB_MEM_ALIGN, &packed) || nib_add_size(inputs, blocks, &whole) ||
        nib_add_size(whole, packed, &whole) || nib_add_size(whole, opened, &whole))
        return NIB_RAISE(NIB_E_MEMORY, "linear: scratch for %lld rows of %lld columns overflows",
                         (long long)M, (long long)K);
    char *memory = nib_ctx_workspace(ctx, whole);
    if (!memory) return nib_last_error()->status;
    if (opens) {
        opening o = {.x = x, .out = (float *)(void *)(memory + inputs + blocks + packed)};
        nib_parallel_for(ctx->pool, M * K, OPENED, open_some, &o);
        j.in.x = o.out;
    }
    if (!coded) quantize_inputs(ctx, &j, memory, rows_size);
    nib_scratch_over(ctx->pool, pieces, block, memory + inputs, &j.scratch);
    if (wants_rows(&j)) {
        packing p = {.j = &j, .rows = (float *)(void *)(memory + inputs + blocks)};
        if (K) nib_parallel_for(ctx->pool, M, NIB_ROW_BLOCK, pack_rows, &p);
        j.in.rows = p.rows;
    }
    nib_parallel_for(ctx->pool, pieces, grain, run_pieces, &j);
    return NIB_OK;
}

nib_status nib_product_shape(const nib_op *op, const nib_tensor *x, const nib_tensor *w,
                             const nib_tensor *bias, nib_shape *out) {
    nib_rows_kind kind;
    const bool coded =
        x->dtype == NIB_I8 && !x->layout && nib_tensor_contiguous(x) && nib_product_wants(w, &kind);
    if (!coded && !nib_product_takes_codes(x, w)) NIB_TRY(nib_op_want_dense_f32(op, "input", x));
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
