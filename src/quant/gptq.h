/* gptq.h: error feedback. Columns are rounded one after the other, and what each row loses is made
 * up for by its later columns, as the inputs seen in calibration say. Frantar, Ashkboos, Hoefler
 * and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
 * Transformers", 2023. */
#ifndef NIB_QUANT_GPTQ_H
#define NIB_QUANT_GPTQ_H
#include <nibble/extend.h>

/* Sums of products of inputs, grown by x [rows, K]: sums[i, j] += x[m, i] x[m, j] where j <= i. */
void nib_gptq_add(nib_ctx *ctx, double *sums, const float *x, int64_t rows, int64_t K);

/* Codes of a weight [N, K] whose desc is set, with q, scale and zero allocated: integers of 8 bits
 * with one scale a row, or fewer with a scale and a shift (ZERO_SHIFT) for each group. w dense,
 * contiguous, of desc.math sums    [K, K] as above; as it was Fails: NIB_E_MEMORY (two doubles for
 * each number of sums, one f32 a weight). */
nib_status nib_gptq(nib_ctx *ctx, const void *w, const double *sums, nib_codes *codes);
#endif
