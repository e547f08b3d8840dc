#include "op/product.h"

#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "op/op.h"
#include "op/product_finish.h"
#include "op/product_piece.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "tensor/context.h"
#include "tensor/dtype.h"

enum {
    MAX_WEIGHTS = 2 * NIB_MAX_PRODUCTS,
    OPENED = 1 << 14,                /* codes that are opened at once */
    LARGE_ROWS = 4 << 20,            /* floats of inputs that do not stay in a cache */
    BESIDE_ROWS = 2 * NIB_ROW_BLOCK, /* of digits that are made beside: they stay in L1 */
    BLOCK = 120,                     /* rows of codes, at most, that are a block: whole */
    TALL = 12,                       /* tiles of the largest kernels, by weights with one */
    LOW = 6,                         /* group of bytes, and others */
    BLOCK_CODES = 512 << 10,         /* codes of a block: half of an L2 of 1 MiB */
    BESIDE_CODES = 512 << 10,        /* and of the weights that it meets before it is finished */
    SHARES = 8,                      /* of the parts of a product, for each thread, at least */
    LONG = 8192,                     /* columns from which on kernels cut rows in spans */
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
    int64_t pieces, run, runs; /* of all targets; so many pieces are a run */
    int64_t rows, blocks;      /* of a block, and how many there are */
    bool rows_first;           /* a block of rows meets all runs before the next */
    int64_t span;              /* channels, at most, that are finished together */
    size_t at_up;              /* in a block of scratch */
    const int8_t *codes;       /* inputs that came as codes, */
    float codes_scale;         /* and the scale of them all */
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

/* ---- where things lie ---- */

static bool in_lanes(const nib_operand *o) {
    return !o->t || (o->integer && o->how == NIB_OPERAND_LANES);
}

/* Do many rows of codes meet weights in lanes: products that are cut by rows, too? Digits of floats
 * have blocks of their own. */
static bool goes_by_rows(const nib_operand *o) { return !o->t || (in_lanes(o) && !o->kind.digits); }

static int64_t rows_beside(const job *j, const target *t) {
    if (j->blocks > 1) return j->rows;
    const bool some = in_lanes(&t->w) && in_lanes(&t->up) && j->in.M > BESIDE_ROWS;
    return some ? BESIDE_ROWS : j->in.M;
}

/* An operand whose inputs are those from row m on: itself, or `from`. */
static const nib_operand *operand_from(const nib_operand *o, int64_t m, nib_operand *from) {
    if (!m || !o->kind.group) return o;
    *from = *o;
    from->rows = nib_rows_from(&o->rows, nib_rows_count(&o->kind, m), o->kind.K / o->kind.group);
    return from;
}

static nib_piece piece_at(const nib_inputs *in, const target *t, int64_t index, int64_t count,
                          char *scratch) {
    nib_piece s = {.in = in,
                   .scratch = scratch,
                   .n = index * NIB_PIECE_WIDTH,
                   .channels = count * NIB_PIECE_WIDTH};
    if (s.channels > t->N - s.n) s.channels = t->N - s.n;
    return s;
}

/* ---- one part of a product ---- */

/* Pieces that are taken in one call: of codes, so that a kernel lays the rows out once; of floats,
 * where the rows are more than what caches keep between pieces, so that all pieces of a run meet
 * some columns of them before the next. */
static bool goes_at_once(const job *j, const target *t) {
    if (nib_product_beside(t->p)) return false;
    if (t->w.integer) return t->w.how == NIB_OPERAND_LANES;
    return j->in.M > NIB_LANE_ROWS &&
           (t->w.how == NIB_OPERAND_LANES || t->w.how == NIB_OPERAND_DENSE) &&
           j->in.M * j->in.K > LARGE_ROWS;
}

/* Few rows are little beside their weights, and a block of many stays in the cache: what is
 * multiplied in one call is finished in one. */
static bool reads_where_it_lies(const nib_operand *o) {
    return !o->t || o->how == NIB_OPERAND_LANES || o->how == NIB_OPERAND_DENSE;
}
static bool finishes_at_once(const job *j, const target *t) {
    if (j->blocks > 1) return true;
    return j->in.M <= NIB_LANE_ROWS && reads_where_it_lies(&t->w) && reads_where_it_lies(&t->up);
}

/* Rows [m, m + rows) by some pieces, with all that follows. `multiplied`: y has x W^T already. */
static void run_part(const job *j, const target *t, int64_t m, int64_t rows, int64_t index,
                     int64_t count, bool multiplied, char *scratch) {
    nib_inputs in = j->in;
    in.M = rows;
    const nib_piece s = piece_at(&in, t, index, count, scratch);
    nib_operand w_from, up_from;
    const nib_operand *w = operand_from(&t->w, m, &w_from), *up = operand_from(&t->up, m, &up_from);
    const bool beside = nib_product_beside(t->p);
    float *gate = (float *)(void *)(scratch + j->at_up);
    float *y = beside ? gate + rows_beside(j, t) * j->span : (float *)t->p->y + m * t->N + s.n;
    const int64_t ld = beside ? j->span : t->N;
    if (!multiplied) nib_piece_multiply(&s, w, y - s.n, ld);
    if (up->t) nib_piece_multiply(&s, up, gate - s.n, j->span);
    const nib_product_part part = {
        .N = t->N, .m = m, .n = s.n, .rows = rows, .channels = s.channels};
    nib_product_finish(in.k, t->p, &part, y, ld, up->t ? gate : NULL, j->span);
}

static void run_rows(const job *j, const target *t, int64_t m, int64_t rows, int64_t index,
                     int64_t count, char *scratch) {
    const int64_t step = finishes_at_once(j, t) ? count : 1;
    const bool multiplied = step < count && goes_at_once(j, t);
    if (multiplied) {
        const nib_piece s = piece_at(&j->in, t, index, count, scratch);
        nib_piece_multiply(&s, &t->w, t->p->y, t->N);
    }
    const int64_t most = nib_product_beside(t->p) ? rows_beside(j, t) : rows;
    for (int64_t k = 0; k < count; k += step)
        for (int64_t i = 0; i < rows; i += most)
            run_part(j, t, m + i, rows - i < most ? rows - i : most, index + k, step, multiplied,
                     scratch);
}

/* ---- all of them ---- */

/* Rows and pieces of part i. What takes more room, rows or weights, is met once and the other as
 * often as there are blocks. */
static void run_parts(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int block;
    char *scratch = nib_scratch_take(&j->scratch, &block);
    for (int64_t part = begin; part < end; part++) {
        const int64_t b = j->rows_first ? part / j->runs : part % j->blocks;
        const int64_t m = b * j->rows, M = j->in.M - m < j->rows ? j->in.M - m : j->rows;
        int64_t i = (j->rows_first ? part % j->runs : part / j->blocks) * j->run;
        const int64_t last = i + j->run < j->pieces ? i + j->run : j->pieces;
        while (i < last) {
            const target *t = j->targets;
            int64_t index = i;
            while (index >= t->pieces) index -= t++->pieces;
            const int64_t count = t->pieces - index < last - i ? t->pieces - index : last - i;
            run_rows(j, t, m, M, index, count, scratch);
            i += count;
        }
    }
    nib_scratch_give(&j->scratch, block);
}

/* Blocks of rows, of `run` pieces in a row: their codes stay in L2 while they meet the weights, and
 * their results until they are finished. */
static void cut_rows(job *j) {
    const int64_t M = j->in.M, K = j->in.K;
    int64_t channels = 0;
    bool follows = false, tall = true;
    j->rows = M;
    j->blocks = 1;
    for (int i = 0; i < j->count; i++) {
        const target *t = &j->targets[i];
        if (!goes_by_rows(&t->w) || !goes_by_rows(&t->up)) return;
        tall &= t->w.lane.groups == 1 && t->w.lane.bits == 8;
        channels += t->up.t ? 2 * t->N : t->N;
        follows |= nib_product_finishes(t->p);
    }
    j->rows_first = M >= channels;
    if (!j->rows_first && !follows) return;
    const int64_t height = tall ? TALL : LOW;
    int64_t most = K > LONG ? BLOCK : BLOCK_CODES / (K + 1);
    most = most < BLOCK / 2 ? BLOCK / 2 : most < BLOCK ? most : BLOCK;
    most = most / height * height;
    const int64_t blocks = (M + most - 1) / most;
    j->rows = ((M + blocks - 1) / blocks + height - 1) / height * height;
    j->blocks = (M + j->rows - 1) / j->rows;
    const int64_t longest = BESIDE_CODES / (NIB_PIECE_WIDTH * (K ? K : 1));
    if (j->run > longest) j->run = longest > 0 ? longest : 1;
}

/* ---- memory ---- */

static nib_status plan_scratch(job *j, size_t *size) {
    nib_piece_sizes sizes = {0};
    int64_t beside = 0;
    bool bad = false;
    for (int i = 0; i < j->count; i++) {
        const target *t = &j->targets[i];
        const int64_t rows = nib_product_beside(t->p) ? rows_beside(j, t)
                             : t->p->up != NIB_NONE   ? j->rows
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
    const opening *opens; /* NULL: x are floats already */
} packing;

static void pack_rows(void *user, int64_t begin, int64_t end) {
    const packing *p = user;
    const job *j = p->j;
    if (p->opens) open_some((void *)(uintptr_t)p->opens, begin * j->in.K, end * j->in.K);
    j->in.k->pack_rows_f32(p->rows + begin * j->in.K, j->in.x + begin * j->in.K, j->in.K,
                           end - begin, j->in.K);
}

/* Pieces in a row for one thread. Few long runs are as long as each other: what is left over would
 * keep one thread waiting for the other. */
static int64_t grain_of(const job *j, const cut *c, int64_t pieces, int threads) {
    const int64_t runs = (int64_t)c->runs * threads, share = pieces / threads;
    int64_t grain = runs && pieces > runs ? pieces / runs : 1;
    if (j->in.M > NIB_LANE_ROWS) return grain < c->grain ? grain : c->grain;
    const int64_t least = RUN / (NIB_PIECE_WIDTH * (j->in.K + 1));
    if (runs && grain < least && share) {
        const int64_t rounds = least < share ? share / least : 1;
        grain = (pieces + rounds * threads - 1) / (rounds * threads);
    }
    return grain;
}

/* Parts that a thread takes at once: blocks of rows that meet the same weights, where that leaves
 * enough for all. */
static int64_t blocks_in_a_row(const job *j, int threads) {
    const int64_t share = j->runs * j->blocks / (SHARES * (int64_t)threads);
    if (j->rows_first || share < 1) return 1;
    return share < j->blocks ? share : j->blocks;
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
    j.pieces = pieces;
    j.run = grain_of(&j, c, pieces, nib_pool_threads(ctx->pool));
    cut_rows(&j);
    j.runs = (pieces + j.run - 1) / j.run;
    j.span = NIB_PIECE_WIDTH * (M <= NIB_LANE_ROWS || j.blocks > 1 ? j.run : 1);
    const int64_t parts = j.runs * j.blocks;
    NIB_TRY(plan_scratch(&j, &block));
    if (coded)
        NIB_TRY(take_rows(&j, x));
    else
        NIB_TRY(input_bytes(&j, &rows_size, &inputs));
    blocks = nib_scratch_room(ctx->pool, parts, block);
    if ((block && !blocks) || nib_align_size(inputs, NIB_MEM_ALIGN, &inputs) ||
        (wants_rows(&j) && nib_mul_size((size_t)M, (size_t)K * sizeof *j.in.x, &packed)) ||
        (opens && nib_mul_size((size_t)M, (size_t)K * sizeof *j.in.x, &opened)) ||
        nib_align_size(packed, NIB_MEM_ALIGN, &packed) || nib_add_size(inputs, blocks, &whole) ||
        nib_add_size(whole, packed, &whole) || nib_add_size(whole, opened, &whole))
        return NIB_RAISE(NIB_E_MEMORY, "linear: scratch for %lld rows of %lld columns overflows",
                         (long long)M, (long long)K);
    char *memory = nib_ctx_workspace(ctx, whole);
    if (!memory) return nib_last_error()->status;
    opening o = {.x = x, .out = (float *)(void *)(memory + inputs + blocks + packed)};
    const bool at_once = opens && !inputs && wants_rows(&j); /* opened rows are packed while hot */
    if (opens) {
        if (!at_once) nib_parallel_for(ctx->pool, M * K, OPENED, open_some, &o);
        j.in.x = o.out;
    }
    if (!coded) quantize_inputs(ctx, &j, memory, rows_size);
    nib_scratch_over(ctx->pool, parts, block, memory + inputs, &j.scratch);
    if (wants_rows(&j)) {
        packing p = {.j = &j,
                     .rows = (float *)(void *)(memory + inputs + blocks),
                     .opens = at_once ? &o : NULL};
        if (K) nib_parallel_for(ctx->pool, M, NIB_ROW_BLOCK, pack_rows, &p);
        j.in.rows = p.rows;
    }
    nib_parallel_for(ctx->pool, parts, blocks_in_a_row(&j, nib_pool_threads(ctx->pool)), run_parts,
                     &j);
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
