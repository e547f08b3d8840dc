/* drive_blas.c: OpenBLAS, y[M, N] = x[M, K] W[N, K]^T in f32; sgemv for one row. TYPE is f32.
 *     drive_blas N K MOST_M f32 LIBRARY */
#include <dlfcn.h>

#include "drive.h"

enum { ROW_MAJOR = 101, AS_IS = 111, TURNED = 112 }; /* cblas.h */

static void (*gemm)(int, int, int, int, int, int, float, const float *, int, const float *, int,
                    float, float *, int);
static void (*gemv)(int, int, int, int, float, const float *, int, const float *, int, float,
                    float *, int);
static void (*set_threads)(int);
static char *(*config)(void);
static float *x, *y, *w;
static int64_t next;

static void find(void *library, void *function, const char *name) {
    void *address = dlsym(library, name);
    if (!address) drive_fail(name);
    memcpy(function, &address, sizeof address);
}

static void drive_start(drive *d) {
    void *library = d->more[0] ? dlopen(d->more[0], RTLD_NOW) : NULL;
    if (!library) drive_fail("no OpenBLAS");
    find(library, &gemm, "cblas_sgemm");
    find(library, &gemv, "cblas_sgemv");
    find(library, &set_threads, "openblas_set_num_threads");
    find(library, &config, "openblas_get_config");
    d->bytes = 4 * d->N * d->K;
    d->copies = drive_copies(d);
    x = drive_alloc((size_t)(d->most * d->K) * 4, 0);
    y = drive_alloc((size_t)(d->most * d->N) * 4, 0);
    w = drive_alloc((size_t)(d->copies * d->bytes), 0);
    drive_fill(x, (size_t)(d->most * d->K), 1);
    drive_fill(w, (size_t)(d->N * d->K), 0.02f);
    for (int64_t i = 1; i < d->copies; i++) memcpy(w + i * d->N * d->K, w, (size_t)d->bytes);
    snprintf(d->note, sizeof d->note, "%s", config());
}

static void drive_threads(int threads) { set_threads(threads); }

static int64_t drive_batch(drive *d, int64_t M) {
    const int N = (int)d->N, K = (int)d->K;
    const float *one = w + (M <= DRIVE_ROTATED ? next++ % d->copies : 0) * d->N * d->K;
    if (M == 1)
        gemv(ROW_MAJOR, AS_IS, N, K, 1, one, K, x, 1, 0, y, 1);
    else
        gemm(ROW_MAJOR, AS_IS, TURNED, (int)M, N, K, 1, x, K, one, K, 0, y, N);
    return 1;
}
