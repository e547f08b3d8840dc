#include "flow/measure.h"

#include <math.h>

void nib_measure_add(nib_measure *m, const float *weight, const float *restored, int64_t count) {
    enum { LANES = 8 };                /* a fixed split that compilers turn into vectors */
    double signal[LANES] = { 0 }, noise[LANES] = { 0 }, max[LANES] = { 0 };
    for (int64_t i = 0; i < count; i++) {
        const int lane = (int)(i % LANES);
        const double w = (double)weight[i], error = fabs(w - (double)restored[i]);
        signal[lane] += w * w;
        noise[lane] += error * error;
        if (error > max[lane]) max[lane] = error;
    }
    for (int i = 0; i < LANES; i++) {
        m->signal += signal[i];
        m->noise += noise[i];
        if (max[i] > m->max_error) m->max_error = max[i];
    }
}

double nib_measure_sqnr_db(const nib_measure *m) {
    return m->noise > 0 ? 10 * log10(m->signal / m->noise) : INFINITY;
}
