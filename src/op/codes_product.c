#include "op/codes_product.h"

#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "op/bmm.h"
#include "op/product.h"
#include "quant/act8.h"
#include "quant/codes.h"
#include "quant/lanes.h"
#include "quant/layouts.h"
#include "tensor/context.h"

/* ---- codes as the rows of inputs that kernels read, all with one scale ---- */

typedef struct laying {
    const nib_kernels *k;
    const int8_t *from;
    float scale;
    nib_rows_kind kind;
    nib_rows_made to;
} laying;

static void lay_rows(void *user, int64_t begin, int64_t end) {
    const laying *l = user;
    const int64_t K = l->kind.K, groups = l->to.sums ? K / l->kind.group : 0;
    for (int64_t m = begin; m < end; m++) {
        int8_t *q = l->to.q + m * l->to.ld;
        memcpy(q, l->from + m * K, (size_t)K);
        memset(q + K, 0, (size_t)(l->to.ld - K));
        l->to.scale[m] = l->scale;
        if (groups) l->k->sums_i8(l->to.sums + m * groups, q, groups, l->kind.group);
    }
}

static nib_rows_made lay(const nib_tensor *x, float scale, int64_t M, const nib_rows_kind *kind,
                         void *memory) {
    laying l = {.k = &x->ctx->kernels,
                .from = nib_act8_data(x),
                .scale = scale,
                .kind = *kind,
                .to = nib_rows_within(kind, M, memory)};
    nib_parallel_for(M > 1 ? x->ctx->pool : NULL, M, 8, lay_rows, &l);
    return l.to;
}

/* ---- codes by codes: columns of the second are laid in lanes as a weight is ---- */

typedef struct job {
    const nib_kernels *k;
    nib_bmm_cut cut;
    nib_rows_i8 rows; /* [B * M] */
    const int8_t *b;
    float *y;
    nib_scratch scratch;
    size_t at_part[NIB_MAX_PARTS], at_turned, at_lane; /* in a block of the scratch */
} job;

/* A matrix of K columns that has the scale 1: what sums of products of codes are multiplied by, the
 * scales of both, the rows have. */
static nib_qdesc desc_of(int64_t rows, int64_t K) {
    return (nib_qdesc){.code = NIB_I8,
                       .scale_dtype = NIB_F32,
                       .math = NIB_F32,
                       .shape = {2, {rows, K}},
                       .rows = rows,
                       .cols = K,
                       .block_rows = rows,
                       .block_cols = K};
}

static nib_lane_weight lay_out(const job *j, const nib_bmm_piece *p, char *scratch) {
    static const float one = 1;
    const int64_t K = j->cut.K, N = j->cut.N;
    const int8_t *b = j->b + p->b * K * N + p->column;
    int8_t *turned = (int8_t *)(scratch + j->at_turned);
    for (int64_t k = 0; k < K; k++)
        for (int64_t c = 0; c < p->columns; c++) turned[c * K + k] = b[k * N + c];
    void *part[NIB_MAX_PARTS];
    for (int i = 0; i < NIB_MAX_PARTS; i++) part[i] = scratch + j->at_part[i];
    const nib_codes codes = {.desc = desc_of(p->columns, K),
                             .q = turned,
                             .code_bytes = 1,
                             .scale = (float *)(uintptr_t)&one};
    nib_lanes_pack(part, &codes);
    return nib_lanes_view(&codes.desc, (const void *const *)part);
}

static void pieces(void *user, int64_t begin, int64_t end) {
    job *j = user;
    int index;
    char *scratch = nib_scratch_take(&j->scratch, &index);
    nib_lane_weight w = {0};
    int64_t laid_out = -1;
    for (int64_t at = begin; at < end; at++) {
        const nib_bmm_piece p = nib_bmm_at(&j->cut, at);
        const int64_t row = p.b * j->cut.M + p.row;
        if (p.layout != laid_out) w = lay_out(j, &p, scratch);
        laid_out = p.layout;
        nib_rows_i8 rows = j->rows;
        rows.q += row * rows.ld;
        rows.scale += row;
        rows.sums += row;
        j->k->lane_i8[w.lane](j->y + row * j->cut.N + p.column, j->cut.N, &rows, p.rows, &w, 0,
                              (p.columns + NIB_PANEL - 1) / NIB_PANEL, scratch + j->at_lane);
    }
    nib_scratch_give(&j->scratch, index);
}

/* Where things lie in a block of scratch, and its size; true: overflow. */
static bool plan(job *j, size_t *size) {
    const nib_qdesc desc = desc_of(NIB_BMM_WIDTH, j->cut.K);
    nib_part parts[NIB_MAX_PARTS];
    const int count = nib_lanes_parts(&desc, parts);
    size_t need;
    *size = 0;
    for (int i = 0; i < count + 2; i++) {
        size_t *at = i < count ? &j->at_part[i] : i == count ? &j->at_turned : &j->at_lane;
        need = i < count    ? nib_part_bytes(&parts[i])
               : i == count ? (size_t)j->cut.K * NIB_BMM_WIDTH
                            : NIB_LANE_SCRATCH;
        *at = *size;
        if (nib_align_size(need, NIB_MEM_ALIGN, &need) || nib_add_size(*size, need, size))
            return true;
    }
    return false;
}

bool nib_codes_bmm_takes(const nib_call_args *args) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    nib_bmm_cut cut;
    if (!nib_act8_is(a) || !nib_act8_is(b) || !nib_act8_integer(a->desc.code) ||
        !nib_act8_integer(b->desc.code) || !nib_bmm_fits(args, &cut) || !cut.K)
        return false;
    const nib_qdesc desc = desc_of(NIB_BMM_WIDTH, cut.K);
    return nib_lanes_hold(&desc, NIB_LANE_W8);
}

nib_status nib_codes_bmm(const nib_call_args *args) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    job j = {
        .k = &args->ctx->kernels, .b = nib_act8_data(b), .y = nib_tensor_data_mut(args->out[0])};
    if (!nib_bmm_fits(args, &j.cut) || !nib_tensor_count(args->out[0])) return NIB_OK;
    const int64_t rows = j.cut.B * j.cut.M, all = j.cut.B * j.cut.across * j.cut.down;
    const nib_rows_kind kind = {
        .K = j.cut.K, .group = j.cut.K, .bits = a->desc.code == NIB_I7 ? 7 : 8, .symmetric = true};
    size_t block, laid, room, whole;
    if (plan(&j, &block) || nib_mul_size((size_t)rows, (size_t)nib_rows_width(&kind), &laid) ||
        nib_align_size(laid, NIB_MEM_ALIGN, &laid) ||
        !(room = nib_scratch_room(args->ctx->pool, all, block)) || nib_add_size(laid, room, &whole))
        return NIB_RAISE(NIB_E_MEMORY, "%s: codes of %lld rows of %lld columns overflow",
                         args->op->name, (long long)rows, (long long)j.cut.K);
    char *space = nib_ctx_workspace(args->ctx, whole);
    if (!space) return nib_last_error()->status;
    const float scale = nib_round_to(nib_act8_scale(a) * nib_act8_scale(b), a->desc.math);
    const nib_rows_made made = lay(a, scale, rows, &kind, space);
    j.rows = nib_rows_read(&kind, &made);
    nib_scratch_over(args->ctx->pool, all, block, space + laid, &j.scratch);
    nib_parallel_for(args->ctx->pool, all, 1, pieces, &j);
    return NIB_OK;
}
