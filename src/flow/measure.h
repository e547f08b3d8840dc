/* measure.h: what quantizing cost a weight, summed over runs of rows in their order. */
#ifndef NIB_FLOW_MEASURE_H
#define NIB_FLOW_MEASURE_H
#include <nibble/nibble.h>

typedef struct nib_measure {
    double signal, noise, max_error;
} nib_measure;

/* Add `count` weights and what their codes stand for. */
void nib_measure_add(nib_measure *m, const float *weight, const float *restored, int64_t count);

/* Signal to quantization noise, 10 log10(sum w^2 / sum (w - w')^2) in dB; infinity when exact. */
double nib_measure_sqnr_db(const nib_measure *m);
#endif
