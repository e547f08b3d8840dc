/* What does a busy neighbour cost? Products of one row with quantized weights, on 1 thread and on 2
 * alone, then both beside a process that is pinned to one core and spins there without touching
 * memory; products a second, median of ROUNDS rounds of the four in turn, least and most. A pool
 * that waits for a thread which the neighbour keeps from running falls far below one thread.
 *
 *     neighbour [SCHEME [N K]]        int4_weight_only:group_size=64, 4096 x 4096
 *
 * The calling thread is kept on the first core, where it ends up on a machine with nothing else to
 * do; the pool's threads go where the system puts them. Not for real-time priority: equals must
 * share a core. */
#include <nibble/nibble.h>
#include <nibble/nn.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "timing.h"

enum { ROUNDS = 5, CASES = 4, WEIGHTS = 40 }; /* so many that no cache holds them */
static const double slice = 2.0;              /* seconds of each case in a round */

static const char *const names[CASES] = {"1 thread", "2 threads", "1 thread, neighbour",
                                         "2 threads, neighbour"};

static int fail(void) {
    fprintf(stderr, "neighbour: %s\n", nib_last_error()->what);
    return 1;
}

static void stay_on(size_t core) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    if (sched_setaffinity(0, sizeof(one), &one) != 0) perror("neighbour: core"), exit(1);
}

/* A process on the last core that this one may use; it spins while *busy and goes with its parent.
 */
static pid_t start_neighbour(atomic_int *busy, size_t *first, size_t *last) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return -1;
    for (size_t i = CPU_SETSIZE; i-- > 0;)
        if (CPU_ISSET(i, &allowed)) *first = i;
    for (size_t i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &allowed)) *last = i;
    const pid_t parent = getpid(), child = fork();
    if (child != 0) return child;
    stay_on(*last);
    while (getppid() == parent) {
        const struct timespec moment = {0, 200000};
        if (!atomic_load(busy)) nanosleep(&moment, NULL);
        for (volatile int i = 0; atomic_load(busy) && i < 1000000;) i = i + 1;
    }
    _exit(0);
}

static nib_tensor *matrix(nib_ctx *ctx, int64_t rows, int64_t columns, uint64_t seed) {
    const size_t n = (size_t)rows * (size_t)columns;
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; x && i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((int64_t)(seed >> 40) - 8388608) * 0x1p-28f;
    }
    return nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {rows, columns}}, x, free, x);
}

typedef struct side { /* one context with its own weights */
    nib_ctx *ctx;
    nib_module *layer[WEIGHTS];
    nib_tensor *x;
    int weights, next;
} side;

static int make_side(side *s, int threads, const char *scheme, int64_t N, int64_t K) {
    s->ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    s->x = matrix(s->ctx, 1, K, 7);
    nib_config *config = nib_config_parse(scheme);
    if (!s->x || !config) return fail();
    s->weights = (int)(((int64_t)24 << 24) / (N * K)); /* 24 times 16 Mi */
    s->weights = s->weights < 2 ? 2 : s->weights > WEIGHTS ? WEIGHTS : s->weights;
    for (int i = 0; i < s->weights; i++) {
        s->layer[i] = nib_linear_new(s->ctx, matrix(s->ctx, N, K, (uint64_t)i + 1), NIB_NONE);
        if (nib_quantize(s->layer[i], config, NULL) < NIB_OK || nib_prepare(s->layer[i]) < NIB_OK)
            return fail();
    }
    nib_config_free(config);
    return 0;
}

/* Products a second over `seconds`. */
static double rate(side *s, double seconds) {
    const double began = now();
    double at = began;
    for (int n = 1;; n++) {
        const size_t mark = nib_scope_begin(s->ctx);
        if (!nib_module_forward(s->layer[s->next++ % s->weights], s->x)) exit(fail());
        nib_scope_end(s->ctx, mark);
        at = now();
        if (at - began >= seconds) return n / (at - began);
    }
}

int main(int argc, char **argv) {
    const char *scheme = argc > 1 ? argv[1] : "int4_weight_only:group_size=64";
    const int64_t N = argc > 3 ? atoll(argv[2]) : 4096, K = argc > 3 ? atoll(argv[3]) : 4096;
    if (N < 1 || K < 1) return fprintf(stderr, "neighbour [SCHEME [N K]]\n"), 2;
    atomic_int *busy =
        mmap(NULL, sizeof(*busy), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    size_t first = 0, last = 0;
    if (busy == MAP_FAILED) return 1;
    const pid_t neighbour = start_neighbour(busy, &first, &last);
    if (neighbour < 0) return fprintf(stderr, "neighbour: no second process\n"), 1;

    static side one, two;
    static double got[CASES][ROUNDS];
    if (make_side(&one, 1, scheme, N, K) || make_side(&two, 2, scheme, N, K)) return 1;
    stay_on(first);
    for (int round = -1; round < ROUNDS; round++) { /* the first one warms up */
        for (int c = 0; c < CASES; c++) {
            atomic_store(busy, c >= 2);
            rate(c % 2 ? &two : &one, 0.5); /* until the scheduler has settled */
            const double r = rate(c % 2 ? &two : &one, slice);
            if (round >= 0) got[c][round] = r;
        }
    }
    atomic_store(busy, 0);
    printf("%s, %lld x %lld, %d rounds, neighbour on core %zu\n", scheme, (long long)N,
           (long long)K, ROUNDS, last);
    for (int c = 0; c < CASES; c++) qsort(got[c], ROUNDS, sizeof(double), ascending);
    for (int c = 0; c < CASES; c++)
        printf("%-22s %8.1f products/s (%.1f to %.1f), %.2f of 1 thread alone\n", names[c],
               got[c][ROUNDS / 2], got[c][0], got[c][ROUNDS - 1],
               got[c][ROUNDS / 2] / got[0][ROUNDS / 2]);
    for (int i = 0; i < one.weights; i++) nib_module_free(one.layer[i]);
    for (int i = 0; i < two.weights; i++) nib_module_free(two.layer[i]);
    nib_tensor_free(one.x), nib_tensor_free(two.x);
    nib_ctx_free(one.ctx), nib_ctx_free(two.ctx);
    return 0;
}
