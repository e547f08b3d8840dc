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

bool nib_codes_lanes_hold(int64_t K) {
    const nib_qdesc desc = desc_of(NIB_PANEL, K);
    return K > 0 && nib_lanes_hold(&desc, NIB_LANE_W8);
}

bool nib_codes_lanes_plan(int64_t rows, int64_t K, nib_codes_lanes *out) {
    const nib_qdesc desc = desc_of(rows, K);
    nib_part parts[NIB_MAX_PARTS];
    const int count = nib_lanes_parts(&desc, parts);
    *out = (nib_codes_lanes){.rows = rows, .K = K};
    for (int i = 0; i < count; i++) {
        size_t need = nib_part_bytes(&parts[i]);
        out->at[i] = out->size;
        if (nib_align_size(need, NIB_MEM_ALIGN, &need) || nib_add_size(out->size, need, &out->size))
            return true;
    }
    return false;
}

nib_lane_weight nib_codes_lanes_lay(const nib_codes_lanes *lanes, const int8_t *q, int64_t rows,
                                    void *memory) {
    static const float one = 1;
    void *part[NIB_MAX_PARTS];
    for (int i = 0; i < NIB_MAX_PARTS; i++) part[i] = (char *)memory + lanes->at[i];
    const nib_codes codes = {.desc = desc_of(rows, lanes->K),
                             .q = (int8_t *)(uintptr_t)q, /* is only read */
                             .code_bytes = 1,
                             .scale = (float *)(uintptr_t)&one};
    nib_lanes_pack(part, &codes);
    return nib_lanes_view(&codes.desc, (const void *const *)part);
}

static nib_rows_kind kind_of(nib_dtype code, int64_t K) {
    return (nib_rows_kind){.K = K, .group = K, .bits = code == NIB_I7 ? 7 : 8, .symmetric = true};
}

/* Codes and scales, then sums; 0: overflow. */
static size_t sums_at(const nib_rows_kind *kind, int64_t M) {
    size_t size = nib_quantize_rows_size(kind, M);
    return nib_align_size(size, NIB_MEM_ALIGN, &size) ? 0 : size;
}

size_t nib_codes_rows_size(int64_t M, int64_t K) {
    const nib_rows_kind kind = kind_of(NIB_I8, K);
    size_t size = sums_at(&kind, M), sums;
    return !size || nib_mul_size((size_t)M, sizeof(int32_t), &sums) ||
                   nib_align_size(sums, NIB_MEM_ALIGN, &sums) || nib_add_size(size, sums, &size)
               ? 0
               : size;
}

nib_rows_i8 nib_codes_rows_lay(const nib_tensor *x, float scale, int64_t M, int64_t K,
                               void *memory) {
    const nib_rows_kind kind = kind_of(x->desc.code, K);
    int32_t *sums = (int32_t *)(void *)((char *)memory + sums_at(&kind, M));
    nib_rows_i8 rows;
    nib_lay_rows(x->ctx, nib_act8_data(x), scale, M, &kind, sums, memory, &rows);
    return rows;
}

/* ---- codes by codes: columns of the second are laid in lanes as a weight is ---- */

typedef struct job {
    const nib_kernels *k;
    nib_bmm_cut cut;
    nib_rows_i8 rows; /* [B * M] */
    const int8_t *b;
    float *y;
    nib_scratch scratch;
    nib_codes_lanes lanes;
    size_t at_turned, at_lane; /* in a block of the scratch, which begins with the lanes */
} job;

/* Columns of the second matrix are the rows of a weight: turned, then laid out. */
static nib_lane_weight lay_out(const job *j, const nib_bmm_piece *p, char *scratch) {
    const int64_t K = j->cut.K, N = j->cut.N;
    const int8_t *b = j->b + p->b * K * N + p->column;
    int8_t *turned = (int8_t *)(scratch + j->at_turned);
    for (int64_t k = 0; k < K; k++)
        for (int64_t c = 0; c < p->columns; c++) turned[c * K + k] = b[k * N + c];
    return nib_codes_lanes_lay(&j->lanes, turned, p->columns, scratch);
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
        const nib_rows_i8 rows = nib_rows_from(&j->rows, row, 1);
        j->k->lane_i8[w.lane](j->y + row * j->cut.N + p.column, j->cut.N, &rows, p.rows, &w, 0,
                              (p.columns + NIB_PANEL - 1) / NIB_PANEL, scratch + j->at_lane);
    }
    nib_scratch_give(&j->scratch, index);
}

/* Where things lie in a block of scratch, and its size; true: overflow. */
static bool plan(job *j, size_t *size) {
    size_t turned = (size_t)j->cut.K * NIB_BMM_WIDTH;
    if (nib_codes_lanes_plan(NIB_BMM_WIDTH, j->cut.K, &j->lanes) ||
        nib_align_size(turned, NIB_MEM_ALIGN, &turned))
        return true;
    j->at_turned = j->lanes.size;
    return nib_add_size(j->at_turned, turned, &j->at_lane) ||
           nib_add_size(j->at_lane, NIB_LANE_SCRATCH, size);
}

bool nib_codes_bmm_takes(const nib_call_args *args) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    nib_bmm_cut cut;
    if (!nib_act8_is(a) || !nib_act8_is(b) || !nib_act8_integer(a->desc.code) ||
        !nib_act8_integer(b->desc.code) || !nib_bmm_fits(args, &cut))
        return false;
    return nib_codes_lanes_hold(cut.K);
}

nib_status nib_codes_bmm(const nib_call_args *args) {
    const nib_tensor *a = args->in[0], *b = args->in[1];
    job j = {
        .k = &args->ctx->kernels, .b = nib_act8_data(b), .y = nib_tensor_data_mut(args->out[0])};
    if (!nib_bmm_fits(args, &j.cut) || !nib_tensor_count(args->out[0])) return NIB_OK;
    const int64_t rows = j.cut.B * j.cut.M, all = j.cut.B * j.cut.across * j.cut.down;
    const size_t laid = nib_codes_rows_size(rows, j.cut.K);
    size_t block, room, whole;
    if (plan(&j, &block) || !laid || !(room = nib_scratch_room(args->ctx->pool, all, block)) ||
        nib_add_size(laid, room, &whole))
        return NIB_RAISE(NIB_E_MEMORY, "%s: codes of %lld rows of %lld columns overflow",
                         args->op->name, (long long)rows, (long long)j.cut.K);
    char *space = nib_ctx_workspace(args->ctx, whole);
    if (!space) return nib_last_error()->status;
    const float scale = nib_round_to(nib_act8_scale(a) * nib_act8_scale(b), a->desc.math);
    j.rows = nib_codes_rows_lay(a, scale, rows, j.cut.K, space);
    nib_scratch_over(args->ctx->pool, all, block, space + laid, &j.scratch);
    nib_parallel_for(args->ctx->pool, all, 1, pieces, &j);
    return NIB_OK;
}
