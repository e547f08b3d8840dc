/* sweep_functions.c: exp, tanh and sigmoid of all 2^32 f32, against the C library in double for
 * how far they are off, and the sets of this machine against the judges for the bits.
 * Minutes each. */
#include "guarded.h"
#include "kernel/kernel.h"

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Units of the last place of `want` as an f32. */
static double ulps_off(float got, double want) {
    if (fabs(want) > 3.4028235677973366e38) return isinf(got) && got > 0 ? 0 : 1e9;
    int e;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1.0, e - 24 > -149 ? e - 24 : -149);
}

typedef void kernel(float *out, const float *x, size_t n);

static int sweep(const char *name, kernel *judge, kernel *fast, double (*formula)(double),
                 double limit) {
    enum { N = 1 << 16 };
    static float x[N], y[N], z[N];
    double worst = 0;
    float at = 0;
    for (uint32_t top = 0; top < 1 << 16; top++) {
        for (uint32_t i = 0; i < N; i++) {
            const uint32_t bits = top << 16 | i;
            memcpy(&x[i], &bits, sizeof(bits));
        }
        judge(y, x, N);
        fast(z, x, N);
        const int64_t differs = floats_differ(z, y, N);
        if (differs >= 0) {
            printf("%s(%a): %a, but the judge says %a\n", name, (double)x[differs],
                   (double)z[differs], (double)y[differs]);
            return 1;
        }
        for (int i = 0; i < N; i++) {
            if (isnan(x[i]) && isnan(y[i])) continue;
            const double off = ulps_off(y[i], formula((double)x[i]));
            if (off > worst) worst = off, at = x[i];
        }
    }
    printf("%s: at most %.4f ulp, at %a\n", name, worst, (double)at);
    fflush(stdout);
    return !(worst <= limit);
}

int main(void) {
    nib_kernels ref, k;
    nib_kernels_fill(&ref, 0);
    nib_kernels_fill(&k, nib_cpu_features());
    int failed = sweep("exp", ref.exp_f32, k.exp_f32, exp, 2);
    failed |= sweep("tanh", ref.tanh_f32, k.tanh_f32, tanh, 2);
    failed |= sweep("sigmoid", ref.sigmoid_f32, k.sigmoid_f32, sigmoid, 4);
    return failed;
}
