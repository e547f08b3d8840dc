/* conv_filters.h: the filters of a convolution as its loops read them: made at each call, or once
 * and kept beside the weight (nib_prepare).
 *
 * Legend: M filters of a group, K numbers that one of them has. */
#ifndef NIB_OP_CONV_FILTERS_H
#define NIB_OP_CONV_FILTERS_H
#include "base/scratch.h"
#include "kernel/kernel.h"
#include "tensor/tensor.h"

typedef enum nib_filters_form {
    NIB_FILTERS_TILES, /* f32 as pack_rows_f32 packs them, group by group, each NIB_ROW_BLOCK alone
                        */
    NIB_FILTERS_ROWS,  /* one after the other: f32, or codes filled up to a multiple of four */
    NIB_FILTERS_FOURS, /* int8 codes, channels in fours: [M / 8][channel / 4, row, column][8][4] */
    NIB_FILTERS_RUNS,  /* int8 codes, columns in fours: [M / 8][channel, row, column / 4][8][4] */
} nib_filters_form;

typedef struct nib_filters_plan {
    nib_filters_form form;
    bool codes; /* not what the codes stand for: the codes, scales beside them */
    int64_t groups;
    int64_t M, K, size, columns;     /* size: numbers of a channel, columns of each of its rows */
    int64_t words;                   /* of four codes: what a filter of codes has */
    size_t at_scale, at_sums, bytes; /* of what is made */
    size_t piece;                    /* scratch of a thread while it is made */
    int64_t runs, pieces;            /* runs of filters in a group; in all */
} nib_filters_plan;

typedef struct nib_filters {
    const float *floats; /* TILES, ROWS: [groups * M][K] */
    const int8_t *codes; /* group by group */
    const float *scale;  /* with codes: [groups * M] */
    const int32_t *sums; /* of each filter's codes */
} nib_filters;

/* Are these codes that meet codes: integers that fit 8 bits, one scale a filter, no zero point? */
bool nib_filters_have_codes(const nib_tensor *weight);

/* Words of a filter of `channels` by rows by columns, in this form of codes. */
int64_t nib_filters_words(nib_filters_form form, int64_t channels, int64_t rows, int64_t columns);

/* Bytes of the codes of M filters, of `words` each: of a group, or of its first M, eight by eight.
 */
int64_t nib_filters_bytes(int64_t M, int64_t words);

/* weight [Cout, C / groups, ...], any that nib_conv_accepts takes. */
nib_status nib_filters_plan_for(nib_filters_plan *plan, const nib_tensor *weight, int64_t groups,
                                nib_filters_form form, bool codes);

/* Into `memory` of plan->bytes, 64-byte aligned, by all threads; scratch over plan->pieces pieces
 * of plan->piece bytes. Cannot fail. */
void nib_filters_make(nib_ctx *ctx, const nib_filters_plan *plan, const nib_tensor *weight,
                      void *memory, nib_scratch *scratch);
nib_filters nib_filters_in(const nib_filters_plan *plan, const void *memory);

/* Those that were kept, if they are what the plan makes with these kernels; else false. */
bool nib_filters_kept(const nib_filters_plan *plan, const nib_kernels *kernels,
                      const nib_tensor *weight, nib_filters *out);
/* Make and keep them. The weight is not to be written to through a pointer got before. */
nib_status nib_filters_keep(nib_ctx *ctx, nib_tensor *weight, const nib_filters_plan *plan);
#endif
