/* How fast is a convolution with static int8 activations, or with quantized filters alone, beside
 * our own floats? bench_conv [THREADS [ROUNDS [SUBSTRING]]]: layers of ResNet-50 and MobileNet and
 * the CNN of examples/mnist.c, each in every kind, in one process and in turns, so that whatever
 * else the machine does meets all alike. Medians over the rounds; a ratio is that of the median
 * round, how many times longer the floats take. All are prepared (nib_prepare).
 *
 *   w8a8      floats in, which the module quantizes first; codes out
 *   codes     the same module, codes in: as between two layers of a network
 *
 * bench_conv --serve THREADS answers "make NAME BATCH KIND" and "run KIND TIMES" by line, with
 * seconds: for bench/peers/quanto_conv.py. */
#include <math.h>
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "op/calls.h"
#include "random_tensor.h"
#include "timing.h"

enum { MOST_ROUNDS = 101 };
static const double LEAST = 4e-3; /* seconds of one turn */

static const struct kind {
    const char *name, *weights, *activations;
    bool codes; /* in */
} kinds[] = {
    {"f32", NULL, NULL, false},        {"w8", "qint8", NULL, false},
    {"w4", "qint4", NULL, false},      {"w8a8", "qint8", "qint8", false},
    {"codes", "qint8", "qint8", true},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static const struct subject {
    const char *name;
    int64_t C, side, out, size, stride, padding, groups; /* out 0: the network */
} subjects[] = {
    {"3x3-64@56", 64, 56, 64, 3, 1, 1, 1},
    {"3x3-128@28", 128, 28, 128, 3, 1, 1, 1},
    {"3x3-256@14", 256, 14, 256, 3, 1, 1, 1},
    {"3x3-512@7", 512, 7, 512, 3, 1, 1, 1},
    {"1x1-64-256@56", 64, 56, 256, 1, 1, 0, 1},
    {"1x1-256-64@56", 256, 56, 64, 1, 1, 0, 1},
    {"1x1-1024-256@14", 1024, 14, 256, 1, 1, 0, 1},
    {"stem-7x7", 3, 224, 64, 7, 2, 3, 1},
    {"depthwise-64@56", 64, 56, 64, 3, 1, 1, 64},
    {"depthwise-128@56/2", 128, 56, 128, 3, 2, 1, 128},
    {"mnist", 1, 28, 0, 0, 0, 0, 0},
};
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

static nib_module *conv(nib_ctx *ctx, const struct subject *s) {
    const nib_conv_options options = {
        .stride = {s->stride}, .padding = {s->padding, s->padding}, .groups = s->groups};
    const int64_t C = s->C / s->groups;
    const nib_shape shape = {4, {s->out, C, s->size, s->size}};
    return nib_conv2d_new(ctx, random_tensor(ctx, shape, 1 / sqrtf((float)(C * s->size * s->size))),
                          random_tensor(ctx, (nib_shape){1, {s->out}}, 0.1f), &options);
}

static nib_module *linear(nib_ctx *ctx, int64_t in, int64_t out) {
    return nib_linear_new(ctx, random_tensor(ctx, (nib_shape){2, {out, in}}, 1 / sqrtf((float)in)),
                          random_tensor(ctx, (nib_shape){1, {out}}, 0.1f));
}

static nib_module *make(nib_ctx *ctx, const struct subject *s) {
    if (s->out) return conv(ctx, s);
    static const struct subject first = {"", 1, 28, 16, 3, 1, 1, 1},
                                second = {"", 16, 14, 32, 3, 1, 1, 1};
    const nib_pool_options halves = {.kernel_size = {2, 2}};
    nib_module *m = nib_sequential_new(ctx);
    nib_module_append(m, conv(ctx, &first));
    nib_module_append(m, nib_relu_new(ctx));
    nib_module_append(m, nib_max_pool2d_new(ctx, &halves));
    nib_module_append(m, conv(ctx, &second));
    nib_module_append(m, nib_relu_new(ctx));
    nib_module_append(m, nib_max_pool2d_new(ctx, &halves));
    nib_module_append(m, nib_flatten_new(ctx, 1, -1));
    nib_module_append(m, linear(ctx, 32 * 7 * 7, 64));
    nib_module_append(m, nib_relu_new(ctx));
    nib_module_append(m, linear(ctx, 64, 10));
    return m;
}

/* ---- turns ---- */

typedef struct racer {
    nib_module *m;
    nib_tensor *x;
    double seconds[MOST_ROUNDS];
    int64_t times; /* of a turn */
} racer;

static nib_tensor *input(nib_ctx *ctx, const struct subject *s, int64_t batch) {
    return random_tensor(ctx, (nib_shape){4, {batch, s->C, s->side, s->side}}, 1);
}

/* Takes x over. */
static void ready(racer *r, nib_ctx *ctx, const struct subject *s, const struct kind *k,
                  nib_tensor *x) {
    state = 7;
    r->m = make(ctx, s);
    r->x = x;
    if (!r->m || !x) fail();
    const size_t mark = nib_scope_begin(ctx);
    if (k->weights) {
        const nib_config *config =
            NIB_QUANTO(.weights = k->weights, .activations = k->activations, .unfrozen = true,
                       .streamline = "off", .inputs = "all");
        if (nib_quantize(r->m, config, NULL) < NIB_OK) fail();
        if (k->activations) {
            if (nib_calibrate_begin(r->m, NULL, NULL) < NIB_OK) fail();
            if (!nib_module_forward(r->m, x)) fail();
            if (nib_calibrate_end(r->m, NULL) < NIB_OK) fail();
        }
        if (nib_freeze(r->m) < NIB_OK) fail();
    }
    if (nib_prepare(r->m) < NIB_OK) fail();
    if (k->codes) {
        const nib_module *first = s->out ? r->m : nib_module_child(r->m, "0");
        r->x =
            nib_keep(nib_quantize_activation(x, nib_module_buffer(first, "input_scale"), NIB_I8));
        if (!r->x) fail();
        nib_tensor_free(x);
    }
    nib_scope_end(ctx, mark);
}

static void done(racer *r) {
    nib_module_free(r->m);
    nib_tensor_free(r->x);
    *r = (racer){0};
}

static double turn(racer *r, nib_ctx *ctx, int64_t times) {
    const double began = now();
    for (int64_t i = 0; i < times; i++) {
        const size_t mark = nib_scope_begin(ctx);
        if (!nib_module_forward(r->m, r->x)) fail();
        nib_scope_end(ctx, mark);
    }
    return (now() - began) / (double)times;
}

static double median(const double *values, int n) {
    double sorted[MOST_ROUNDS];
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    return sorted[n / 2];
}

static void race(nib_ctx *ctx, const struct subject *s, int64_t batch, int rounds) {
    static racer racers[KINDS];
    for (int k = 0; k < KINDS; k++) {
        racer *r = &racers[k];
        ready(r, ctx, s, &kinds[k], input(ctx, s, batch));
        turn(r, ctx, 1);
        r->times = 1 + (int64_t)(LEAST / turn(r, ctx, 2));
    }
    for (int round = 0; round < rounds; round++)
        for (int k = 0; k < KINDS; k++)
            racers[k].seconds[round] = turn(&racers[k], ctx, racers[k].times);
    printf("| %s | %lld |", s->name, (long long)batch);
    for (int k = 0; k < KINDS; k++) {
        double ratio[MOST_ROUNDS];
        for (int i = 0; i < rounds; i++) ratio[i] = racers[0].seconds[i] / racers[k].seconds[i];
        if (k)
            printf(" %.2f |", median(ratio, rounds));
        else
            printf(" %.1f |", 1e6 * median(racers[k].seconds, rounds));
    }
    printf("\n");
    fflush(stdout);
    for (int k = 0; k < KINDS; k++) done(&racers[k]);
}

static int serve(int threads) {
    nib_ctx *ctx =
        nib_ctx_new(&(nib_ctx_options){.size = sizeof(nib_ctx_options), .threads = threads});
    static racer racers[KINDS];
    char line[128], name[32], kind[32];
    long long number;
    if (!ctx) fail();
    while (fgets(line, sizeof line, stdin)) {
        double took = 0;
        const bool makes = sscanf(line, "make %31s %lld %31s", name, &number, kind) == 3;
        if (!makes && sscanf(line, "run %31s %lld", kind, &number) != 2) break;
        for (int k = 0; k < KINDS; k++) {
            racer *r = &racers[k];
            if (strcmp(kinds[k].name, kind) != 0) continue;
            for (int i = 0; makes && !r->m && i < SUBJECTS; i++)
                if (strcmp(subjects[i].name, name) == 0)
                    ready(r, ctx, &subjects[i], &kinds[k], input(ctx, &subjects[i], number));
            if (!makes && r->m) took = turn(r, ctx, number);
        }
        printf("%.9f\n", took);
        fflush(stdout);
    }
    for (int k = 0; k < KINDS; k++) done(&racers[k]);
    nib_ctx_free(ctx);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--serve") == 0) return serve(atoi(argv[2]));
    const int threads = argc > 1 ? atoi(argv[1]) : 0, given = argc > 2 ? atoi(argv[2]) : 11;
    const int rounds = given < 1 ? 1 : given > MOST_ROUNDS ? MOST_ROUNDS : given;
    static const int64_t batches[] = {1, 32};
    nib_ctx *ctx =
        nib_ctx_new(&(nib_ctx_options){.size = sizeof(nib_ctx_options), .threads = threads});
    if (!ctx) fail();
    printf("%d threads, %d rounds; f32 in us, the others how many times faster\n\n"
           "| layer | batch |",
           nib_ctx_threads(ctx), rounds);
    for (int k = 0; k < KINDS; k++) printf(" %s |", kinds[k].name);
    printf("\n|---|--:|");
    for (int k = 0; k < KINDS; k++) printf("--:|");
    printf("\n");
    for (int i = 0; i < SUBJECTS; i++)
        for (int b = 0; b < 2; b++) {
            char line[64];
            snprintf(line, sizeof line, "%s %lld", subjects[i].name, (long long)batches[b]);
            if (argc <= 3 || strstr(line, argv[3])) race(ctx, &subjects[i], batches[b], rounds);
        }
    nib_ctx_free(ctx);
    return 0;
}
