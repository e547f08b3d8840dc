/* How fast is a network with static int8 activations beside its own floats? bench_static [THREADS
 * [ROUNDS [SUBSTRING]]]: each model in every kind of weights and activations, op by op and
 * compiled, all in one process and in turns, so that whatever else the machine does meets all
 * alike. Medians over the rounds; a ratio is that of the median round, how many times longer the
 * floats take in the same way. Compiled and op by op are compared to the bit.
 *
 * Models: mlp 784-512-512-10 and wide 1024-4096-1024 with ReLU; encoder layers of Whisper at the
 * widths of base and large-v3, 1500 rows: norms, q, k, v, out, fc1, gelu, fc2. SUBSTRING picks
 * lines by "model batch". */
#include <math.h>
#include <nibble/graph.h>
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
    bool reduced;
} kinds[] = {
    {"f32", NULL, NULL, false},
    {"w8a8", "qint8", "qint8", false},
    {"w8a7", "qint8", "qint8", true}, /* reduce_range */
    {"w4a8", "qint4", "qint8", false},
    {"w8", "qint8", NULL, false},
    {"w4", "qint4", NULL, false},
    {"wf8", "qfloat8_e4m3fn", NULL, false},
    {"wf8af8", "qfloat8_e4m3fn", "qfloat8_e4m3fn", false},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static nib_module *linear(nib_ctx *ctx, int64_t in, int64_t out) {
    return nib_linear_new(ctx, random_tensor(ctx, (nib_shape){2, {out, in}}, 1 / sqrtf((float)in)),
                          random_tensor(ctx, (nib_shape){1, {out}}, 0.1f));
}

/* ---- models ---- */

static nib_module *mlp(nib_ctx *ctx, int64_t in, int64_t hidden, int64_t out, int layers) {
    nib_module *m = nib_sequential_new(ctx);
    for (int i = 0; i < layers; i++) {
        const bool last = i + 1 == layers;
        nib_module_append(m, linear(ctx, i ? hidden : in, last ? out : hidden));
        if (!last) nib_module_append(m, nib_relu_new(ctx));
    }
    return m;
}

/* An encoder layer of Whisper, whole or with attention left to others: v is what it gives. */
typedef struct layer {
    int64_t heads;
} layer;

static nib_tensor *child(nib_module *m, const char *name, nib_tensor *x) {
    return nib_module_forward(nib_module_child(m, name), x);
}

static nib_tensor *heads_of(const layer *l, nib_tensor *x) {
    if (!x) return NULL;
    const nib_shape s = nib_tensor_shape(x), split = {3, {s.dim[0], l->heads, s.dim[1] / l->heads}};
    return nib_permute(nib_reshape(x, &split), (const int[]){1, 0, 2});
}

static nib_tensor *forward_layer(nib_module *m, nib_tensor *x) {
    const layer *l = nib_module_self(m);
    nib_tensor *n = child(m, "self_attn_layer_norm", x);
    nib_tensor *q = child(m, "q_proj", n), *k = child(m, "k_proj", n), *a = child(m, "v_proj", n);
    if (l->heads) {
        a = nib_scaled_dot_product_attention(heads_of(l, q), heads_of(l, k), heads_of(l, a),
                                             NIB_NONE, false, 0);
        const nib_shape s = nib_tensor_shape(x);
        a = nib_reshape(nib_permute(a, (const int[]){1, 0, 2}), &s);
    }
    x = nib_add(x, child(m, "out_proj", a));
    nib_tensor *f = child(m, "fc1", child(m, "final_layer_norm", x));
    return nib_add(x, child(m, "fc2", child(m, "activation_fn", f)));
}

static const nib_module_kind kind_layer = {.name = "EncoderLayer", .forward = forward_layer};
static layer whole[] = {{0}, {8}, {20}};

static nib_module *encoder(nib_ctx *ctx, int64_t D, int attends) {
    static const char *const projections[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    nib_module *m = nib_module_new(ctx, &kind_layer, &whole[attends]);
    for (int i = 0; i < 2; i++)
        nib_module_add(m, i ? "final_layer_norm" : "self_attn_layer_norm",
                       nib_layer_norm_new(ctx, random_tensor(ctx, (nib_shape){1, {D}}, 1),
                                          random_tensor(ctx, (nib_shape){1, {D}}, 0.1f), 1, 1e-5));
    for (int i = 0; i < 4; i++) nib_module_add(m, projections[i], linear(ctx, D, D));
    nib_module_add(m, "fc1", linear(ctx, D, 4 * D));
    nib_module_add(m, "activation_fn", nib_gelu_new(ctx, false));
    nib_module_add(m, "fc2", linear(ctx, 4 * D, D));
    return m;
}

static nib_module *make_mlp(nib_ctx *ctx) { return mlp(ctx, 784, 512, 10, 3); }
static nib_module *make_wide(nib_ctx *ctx) { return mlp(ctx, 1024, 4096, 1024, 2); }
static nib_module *make_base(nib_ctx *ctx) { return encoder(ctx, 512, 1); }
static nib_module *make_base_linears(nib_ctx *ctx) { return encoder(ctx, 512, 0); }
static nib_module *make_large(nib_ctx *ctx) { return encoder(ctx, 1280, 2); }
static nib_module *make_large_linears(nib_ctx *ctx) { return encoder(ctx, 1280, 0); }

static const struct subject {
    const char *name;
    int64_t columns, rows;
    nib_module *(*make)(nib_ctx *ctx);
} subjects[] = {
    {"mlp", 784, 1, make_mlp},
    {"mlp", 784, 32, make_mlp},
    {"mlp", 784, 256, make_mlp},
    {"wide", 1024, 1, make_wide},
    {"wide", 1024, 32, make_wide},
    {"wide", 1024, 256, make_wide},
    {"base-linears", 512, 1500, make_base_linears},
    {"base", 512, 1500, make_base},
    {"large-linears", 1280, 1500, make_large_linears},
    {"large", 1280, 1500, make_large},
};

/* ---- turns ---- */

/* The first runs of a graph measure how its nodes run fastest, some of them in slow ways; they end
 * with a line to the log. */
enum { MOST_MEASURING = 64 };
static bool measured;
static void hear(void *user, int level, const char *message) {
    (void)user, (void)level;
    measured |= strncmp(message, "measured", strlen("measured")) == 0;
}
static nib_ctx *context(int threads) {
    return nib_ctx_new(
        &(nib_ctx_options){.size = sizeof(nib_ctx_options), .threads = threads, .log = hear});
}

typedef struct racer {
    nib_module *m;
    nib_graph *g;
    double seconds[2][MOST_ROUNDS]; /* of a forward, op by op and compiled */
} racer;

static void ready(racer *r, nib_ctx *ctx, const struct subject *s, const struct kind *k,
                  nib_tensor *x) {
    state = 7;
    r->m = s->make(ctx);
    if (!r->m) fail();
    if (k->weights) {
        const nib_config *config = NIB_QUANTO(.weights = k->weights, .activations = k->activations,
                                              .unfrozen = true, .reduce_range = k->reduced);
        if (nib_quantize(r->m, config, NULL) < NIB_OK) fail();
        if (k->activations) {
            if (nib_calibrate_begin(r->m, NULL, NULL) < NIB_OK) fail();
            const size_t mark = nib_scope_begin(ctx);
            if (!nib_module_forward(r->m, x)) fail();
            nib_scope_end(ctx, mark);
            if (nib_calibrate_end(r->m, NULL) < NIB_OK) fail();
        }
        if (nib_freeze(r->m) < NIB_OK || nib_prepare(r->m) < NIB_OK) fail();
    }
    r->g = nib_compile(r->m, x, NULL);
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *a = nib_module_forward(r->m, x);
    const nib_tensor *b = r->g ? nib_graph_run(r->g, x) : NULL;
    if (!a || (r->g && !b)) fail();
    if (!r->g) {
        fprintf(stderr, "%s %s: not compiled: %s\n", s->name, k->name, nib_last_error()->what);
    } else {
        if (nib_tensor_layout(a)[0] != 'd') a = nib_dequantize(a);
        const nib_shape shape = nib_tensor_shape(b);
        const size_t size = (size_t)(shape.dim[0] * shape.dim[1]) * sizeof(float);
        float *from[2] = {malloc(size), malloc(size)};
        if (nib_tensor_read(a, from[0], size) < NIB_OK ||
            nib_tensor_read(b, from[1], size) < NIB_OK)
            fail();
        if (memcmp(from[0], from[1], size) != 0)
            fprintf(stderr, "%s %s: compiled gives other bits\n", s->name, k->name);
        free(from[0]);
        free(from[1]);
    }
    nib_scope_end(ctx, mark);
    measured = false;
    for (int i = 0; r->g && i < MOST_MEASURING && !measured; i++)
        if (!nib_graph_run(r->g, x)) fail();
}

static double turn(racer *r, nib_ctx *ctx, nib_tensor *x, int way, int64_t times) {
    const double began = now();
    for (int64_t i = 0; i < times; i++) {
        const size_t mark = nib_scope_begin(ctx);
        if (way ? !nib_graph_run(r->g, x) : !nib_module_forward(r->m, x)) fail();
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

static void race(nib_ctx *ctx, const struct subject *s, int rounds) {
    static racer racers[KINDS];
    int64_t times[KINDS][2];
    nib_tensor *x = random_tensor(ctx, (nib_shape){2, {s->rows, s->columns}}, 1);
    for (int k = 0; k < KINDS; k++) {
        ready(&racers[k], ctx, s, &kinds[k], x);
        for (int way = 0; way < (racers[k].g ? 2 : 1); way++) {
            turn(&racers[k], ctx, x, way, 1);
            const double one = turn(&racers[k], ctx, x, way, 3);
            times[k][way] = 1 + (int64_t)(LEAST / one);
        }
    }
    for (int round = 0; round < rounds; round++)
        for (int k = 0; k < KINDS; k++)
            for (int way = 0; way < (racers[k].g ? 2 : 1); way++)
                racers[k].seconds[way][round] = turn(&racers[k], ctx, x, way, times[k][way]);
    printf("| %s | %lld |", s->name, (long long)s->rows);
    for (int k = 0; k < KINDS; k++) {
        double ratio[MOST_ROUNDS];
        for (int way = 0; way < 2; way++) {
            if (way && !racers[k].g) {
                printf(" - |");
                continue;
            }
            const double us = 1e6 * median(racers[k].seconds[way], rounds);
            if (!k) {
                printf(" %.1f |", us);
                continue;
            }
            for (int i = 0; i < rounds; i++)
                ratio[i] = racers[0].seconds[way][i] / racers[k].seconds[way][i];
            printf(" %.2f |", median(ratio, rounds));
        }
    }
    printf("\n");
    fflush(stdout);
    for (int k = 0; k < KINDS; k++) {
        nib_graph_free(racers[k].g);
        nib_module_free(racers[k].m);
    }
    nib_tensor_free(x);
}

/* What a race of several programs asks for by line: "make MODEL ROWS KIND", then "run KIND TIMES"
 * as often as it likes, compiled where that goes; answers are seconds of a forward. */
static int serve(int threads) {
    nib_ctx *ctx = context(threads);
    static racer racers[KINDS];
    nib_tensor *x = NULL;
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
            for (size_t i = 0; makes && !r->m && i < sizeof subjects / sizeof *subjects; i++) {
                const struct subject *s = &subjects[i];
                if (strcmp(s->name, name) != 0 || s->rows != number) continue;
                if (!x) x = random_tensor(ctx, (nib_shape){2, {s->rows, s->columns}}, 1);
                ready(r, ctx, s, &kinds[k], x);
            }
            if (!makes && r->m) took = turn(r, ctx, x, r->g != NULL, number);
        }
        printf("%.9f\n", took);
        fflush(stdout);
    }
    for (int k = 0; k < KINDS; k++) {
        nib_graph_free(racers[k].g);
        nib_module_free(racers[k].m);
    }
    nib_tensor_free(x);
    nib_ctx_free(ctx);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--serve") == 0) return serve(atoi(argv[2]));
    const int threads = argc > 1 ? atoi(argv[1]) : 0, given = argc > 2 ? atoi(argv[2]) : 11;
    const int rounds = given < 1 ? 1 : given > MOST_ROUNDS ? MOST_ROUNDS : given;
    nib_ctx *ctx = context(threads);
    if (!ctx) fail();
    printf("%d threads, %d rounds; f32 in us, the others how many times faster; op by op and "
           "compiled\n\n| model | rows |",
           nib_ctx_threads(ctx), rounds);
    for (int k = 0; k < KINDS; k++) printf(" %s | compiled |", kinds[k].name);
    printf("\n|---|--:|");
    for (int k = 0; k < 2 * KINDS; k++) printf("--:|");
    printf("\n");
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
        char line[64];
        snprintf(line, sizeof line, "%s %lld", subjects[i].name, (long long)subjects[i].rows);
        if (argc > 3 && !strstr(line, argv[3])) continue;
        race(ctx, &subjects[i], rounds);
    }
    nib_ctx_free(ctx);
    return 0;
}
