/* The smallest model there is: two linears, 1024 -> 1024 -> 1024, by hand; bf16 beside int4 in the
 * size of its file and in time.
 *     toy [ROUNDS [THREADS]]      rounds of timing, 11; as many threads as cores */
#include <nibble/io.h>
#include <nibble/nn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WIDTH = 1024, MOST = 101 };
static const double sample_s = 0.005;
static uint16_t weights[2][WIDTH * WIDTH]; /* bf16 */
static const char *const names[2] = {"linear1.weight", "linear2.weight"};

static nib_tensor *forward(nib_module *module, nib_tensor *x) {
    nib_tensor *hidden = nib_module_forward(nib_module_child(module, "linear1"), x);
    return nib_module_forward(nib_module_child(module, "linear2"), hidden);
}
static const nib_module_kind kind = {.name = "ToyLinearModel", .forward = forward};

/* Any old numbers of about the right size: the upper halves of floats from -0.0625 to 0.0625. */
static void fill(void) {
    uint32_t state = 1, bits;
    for (int i = 0; i < 2 * WIDTH * WIDTH; i++) {
        state = state * 1664525 + 1013904223;
        const float w = (float)(state >> 8) / (1 << 27) - 0.0625f;
        memcpy(&bits, &w, sizeof bits);
        weights[i / (WIDTH * WIDTH)][i % (WIDTH * WIDTH)] = (uint16_t)(bits >> 16);
    }
}

static nib_tensor *weight(nib_ctx *ctx, int i) {
    return nib_tensor_wrap(ctx, NIB_BF16, (nib_shape){2, {WIDTH, WIDTH}}, weights[i], NULL, NULL);
}

static nib_module *toy(nib_ctx *ctx) {
    nib_module *m = nib_module_new(ctx, &kind, NULL);
    nib_status status = NIB_OK;
    for (int i = 0; i < 2 && status == NIB_OK; i++)
        status = nib_module_add(m, i ? "linear2" : "linear1",
                                nib_linear_new(ctx, weight(ctx, i), NIB_NONE));
    if (status == NIB_OK) return m;
    nib_module_free(m);
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Microseconds of one forward with a batch of 1; negative after a failure. */
static double time_calls(nib_ctx *ctx, nib_module *m, nib_tensor *x) {
    const double began = now();
    double passed = 0;
    for (int calls = 1;; calls++) {
        const size_t mark = nib_scope_begin(ctx); /* results of operations live until its end */
        const bool ok = nib_module_forward(m, x) != NULL;
        nib_scope_end(ctx, mark);
        passed = now() - began;
        if (!ok) return -1;
        if (passed >= sample_s) return passed * 1e6 / calls;
    }
}

static int order(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static nib_status save(nib_ctx *ctx, const char *path) {
    nib_tensor_info plan[2];
    for (int i = 0; i < 2; i++)
        plan[i] =
            (nib_tensor_info){.name = names[i], .dtype = NIB_BF16, .shape = {2, {WIDTH, WIDTH}}};
    nib_writer *writer = nib_writer_open(ctx, path, plan, 2, NULL, 0);
    nib_status status = writer ? NIB_OK : nib_last_error()->status;
    for (int i = 0; i < 2 && status == NIB_OK; i++) {
        nib_tensor *w = weight(ctx, i);
        status = nib_writer_put(writer, names[i], 0, w);
        nib_tensor_free(w);
    }
    if (status == NIB_OK) return nib_writer_finish(writer);
    nib_writer_cancel(writer);
    return status;
}

/* Bytes of the bf16 file and of the same quantized from file to file. */
static nib_status sizes(nib_ctx *ctx, const nib_config *config, const char *room, size_t bytes[2]) {
    char from[1100], to[1100];
    snprintf(from, sizeof from, "%s/toy.safetensors", room);
    snprintf(to, sizeof to, "%s/int4", room);
    nib_report report = {.size = sizeof report};
    nib_status status = save(ctx, from);
    struct stat about;
    if (status == NIB_OK && stat(from, &about) == 0) bytes[0] = (size_t)about.st_size;
    if (status == NIB_OK)
        status = nib_quantize_file(ctx, from, to, &(nib_rule){"*", config}, 1,
                                   &(nib_select){.report = &report}, NULL);
    bytes[1] = report.bytes_weights;
    static const char *const made[] = {"int4/model.safetensors", "int4/config.json",
                                       "int4/quant_report.json", "int4", "toy.safetensors"};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        snprintf(to, sizeof to, "%s/%s", room, made[i]);
        if (remove(to) != 0) continue; /* not all of them are always made */
    }
    return status;
}

/* The float model and the quantized one, by float and by 8-bit inputs, in turns, so that what else
 * runs meets all alike. */
static nib_status compare(nib_ctx *ctx, const nib_config *config, int rounds) {
    enum { WAYS = 3 };
    static const char *const way[WAYS] = {"bf16", "int4", "int4, inputs as int8"};
    static float input[WIDTH];
    double us[WAYS][MOST];
    for (int i = 0; i < WIDTH; i++) input[i] = (float)(i % 7) - 3;
    nib_tensor *x = nib_tensor_wrap(ctx, NIB_F32, (nib_shape){2, {1, WIDTH}}, input, NULL, NULL);
    nib_module *model[WAYS] = {toy(ctx), toy(ctx), toy(ctx)};
    nib_status status = NIB_OK;
    for (int i = 0; i < WAYS && status == NIB_OK; i++) {
        if (i > 0) status = nib_quantize(model[i], config, NULL);
        if (i == 2 && status == NIB_OK) status = nib_quantize_inputs(model[i], "int8");
        if (status != NIB_OK) break;
        char *tree = nib_module_print(model[i]); /* as stored; preparing changes the form only */
        if (tree) printf("%s", tree);
        nib_text_release(tree);
        status = nib_prepare(model[i]);
    }
    for (int r = 0; r < rounds && status == NIB_OK; r++)
        for (int i = 0; i < WAYS; i++) {
            us[i][r] = time_calls(ctx, model[i], x);
            if (us[i][r] < 0) status = nib_last_error()->status;
        }
    for (int i = 0; i < WAYS && status == NIB_OK; i++) {
        qsort(us[i], (size_t)rounds, sizeof us[i][0], order);
        printf("%-20s %6.1f us (%.1f to %.1f), %.2f times as fast as bf16\n", way[i],
               us[i][rounds / 2], us[i][0], us[i][rounds - 1],
               us[0][rounds / 2] / us[i][rounds / 2]);
    }
    for (int i = 0; i < WAYS; i++) nib_module_free(model[i]);
    nib_tensor_free(x);
    return status;
}

int main(int argc, char **argv) {
    static const int groups[] = {32, 128};
    int rounds = argc > 1 ? atoi(argv[1]) : 11;
    if (rounds < 1 || rounds > MOST) rounds = MOST;
    const char *parent = getenv("TMPDIR");
    char room[1024];
    snprintf(room, sizeof room, "%s/nibble-toy-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(room)) {
        perror(room);
        return 1;
    }
    fill();
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = argc > 2 ? atoi(argv[2]) : 0});
    nib_status status = ctx ? NIB_OK : nib_last_error()->status;
    for (int g = 0; g < 2 && status == NIB_OK; g++) {
        const nib_config *config = NIB_INT4_WEIGHT_ONLY(.group_size = groups[g]);
        size_t bytes[2] = {0, 0};
        status = sizes(ctx, config, room, bytes);
        if (status == NIB_OK)
            printf("group size %d: file of bf16 %zu bytes, of int4 %zu bytes, %.3f of it\n",
                   groups[g], bytes[0], bytes[1], (double)bytes[1] / (double)bytes[0]);
        if (status == NIB_OK) status = compare(ctx, config, rounds);
    }
    if (status != NIB_OK)
        fprintf(stderr, "%s: %s\n", nib_last_error()->path, nib_last_error()->what);
    nib_ctx_free(ctx);
    rmdir(room);
    return status != NIB_OK;
}
