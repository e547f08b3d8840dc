#include "flow/measure.h"

#include <math.h>

#include "quant/codes.h"

void nib_measure_add(nib_measure *m, const float *weight, const float *restored, int64_t count) {
    double signal, noise, most;
    nib_codes_kernels()->loss_f32(&signal, &noise, &most, weight, restored, (size_t)count);
    m->signal += signal;
    m->noise += noise;
    if (most > m->max_error) m->max_error = most;
}

double nib_measure_sqnr_db(const nib_measure *m) {
    return m->noise > 0 ? 10 * log10(m->signal / m->noise) : INFINITY;
}
