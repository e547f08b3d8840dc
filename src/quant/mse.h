/* mse.h: scale and shift that make the squared error of a group least. */
#ifndef NIB_QUANT_MSE_H
#define NIB_QUANT_MSE_H
#include <nibble/extend.h>

/* Codes 0 .. steps stand for scale * q - shift, both rounded to `math`: ranges between the whole
 * one and half of it are tried, and each is improved by turns: codes for scale and shift, then
 * scale and shift by least squares for the codes. w       [G] f32; importance [G] how much an error
 * counts, NULL: all the same scale, shift   in: what min and max give; out: none worse */
void nib_mse_affine(const float *w, const float *importance, int64_t G, int steps, nib_dtype math,
                    float *scale, float *shift);

/* The same for codes -128 .. 127 that stand for scale * q. */
void nib_mse_symmetric(const float *w, const float *importance, int64_t G, nib_dtype math,
                       float *scale);
#endif
