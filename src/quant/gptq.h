/* gptq.h: error feedback. Columns are rounded one after the other, and what each row loses is made
 * up for by its later columns, as the inputs seen in calibration say. Frantar, Ashkboos, Hoefler
 * and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
 * Transformers", 2023. */
#ifndef NIB_QUANT_GPTQ_H
#define NIB_QUANT_GPTQ_H
#include <nibble/extend.h>

/* Codes of a weight [N, K] whose desc is set, with q, scale and zero allocated: integers of 8 bits
 * with one scale a row, or fewer with a scale and a shift (ZERO_SHIFT) for each group.
 *   w     dense, contiguous, of desc.math
 *   more  f32 [N, K] to be added to it, or NULL
 *   sums  [K, K] of inputs, as nib_sums_add makes them; as it was
 *   outs  [N, N], the same of gradients of outputs, or NULL: then rows make up for earlier ones as
 *         well, which assumes that the two do not depend on each other. Tseng, Sun, Hou and De Sa,
 *         "Model-Preserving Adaptive Rounding", 2025.
 * Fails: NIB_E_MEMORY (two doubles for each number of sums, one f32 a weight); NIB_E_ARGUMENT where
 * sums are not finite. */
nib_status nib_gptq(nib_ctx *ctx, const void *w, const float *more, const double *sums,
                    const double *outs, nib_codes *codes);
#endif
