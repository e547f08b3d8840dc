/* Tuning: measured while the graph does its work, kept in a file that may be anything. */
#include <nibble/nn.h>

#include "base/mem.h"
#include "graph/node.h"
#include "tensor/context.h"
#include "test.h"
#include "test_files.h"

#define SHAPE2(a, b) ((nib_shape){2, {(a), (b)}})

static nib_tensor *random_tensor(nib_ctx *ctx, uint64_t *seed, nib_shape shape) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; t && i < nib_tensor_count(t); i++) data[i] = test_uniform(seed);
    return t;
}

static nib_tensor *chain_forward(nib_module *m, nib_tensor *x) {
    x = nib_module_forward(nib_module_child(m, "a"), x);
    x = nib_module_forward(nib_module_child(m, "b"), x);
    return nib_module_forward(nib_module_child(m, "c"), x);
}
static const nib_module_kind kind_chain = {.name = "Chain", .forward = chain_forward};

/* Three linears, two of one key. */
typedef struct bench {
    nib_ctx *ctx;
    nib_module *m;
    nib_tensor *x;
    float want[160];
} bench;

static void bench_open(void **state_, bench *b, int threads) {
    uint64_t seed = test_seed();
    b->ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    b->m = nib_module_new(b->ctx, &kind_chain, NULL);
    const int64_t N[] = {80, 80, 160};
    for (int i = 0; i < 3; i++)
        nib_module_add(
            b->m, (const char *[]){"a", "b", "c"}[i],
            nib_linear_new(b->ctx, random_tensor(b->ctx, &seed, SHAPE2(N[i], 80)), NIB_NONE));
    b->x = random_tensor(b->ctx, &seed, SHAPE2(1, 80));
    const size_t mark = nib_scope_begin(b->ctx);
    CHECK_OK(nib_tensor_read(nib_module_forward(b->m, b->x), b->want, sizeof b->want));
    nib_scope_end(b->ctx, mark);
}

static void bench_close(bench *b) {
    nib_tensor_free(b->x);
    nib_module_free(b->m);
    nib_ctx_free(b->ctx);
}

static void run_often(void **state_, const bench *b, nib_graph *g, int runs) {
    for (int i = 0; i < runs; i++) {
        float got[160];
        CHECK_OK(nib_tensor_read(nib_graph_run(g, b->x), got, sizeof got));
        CHECK_BYTES(got, b->want, sizeof got);
    }
}

TEST(what_is_measured_is_kept_and_taken_over_and_the_bits_stay) {
    TEST_FOLDER(folder);
    bench b;
    bench_open(state_, &b, 2);
    char path[512];
    snprintf(path, sizeof path, "%s", IN(folder, "tune"));
    nib_graph *g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
    CHECK_MADE(g);
    CHECK_INT(g->tune_runs, 0);
    run_often(state_, &b, g, NIB_TUNE_RUNS + 2);
    CHECK_INT(g->tune_runs, NIB_TUNE_RUNS);
    CHECK_INT(g->nodes[0].alone, g->nodes[1].alone); /* one key, one choice */
    size_t size = 0;
    char *text = test_read(path, &size);
    int lines = 0;
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    CHECK_INT(lines, 3); /* the heading and two keys */
    free(text);
    nib_graph *again = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
    CHECK_MADE(again);
    CHECK_INT(again->tune_runs, NIB_TUNE_RUNS);
    for (int i = 0; i < 3; i++) CHECK_INT(again->nodes[i].alone, g->nodes[i].alone);
    run_often(state_, &b, again, 2);
    nib_graph_free(again);
    nib_graph_free(g);
    bench_close(&b);
    bench_open(state_, &b, 3); /* another number of threads is another machine; its lines join */
    g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
    CHECK_INT(g->tune_runs, 0);
    run_often(state_, &b, g, NIB_TUNE_RUNS);
    nib_graph_free(g);
    text = test_read(path, &size);
    lines = 0;
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    CHECK_INT(lines, 5);
    free(text);
    bench_close(&b);
    test_folder_remove(folder);
}

TEST(the_file_decides_and_a_damaged_one_is_measured_again) {
    TEST_FOLDER(folder);
    bench b;
    bench_open(state_, &b, 2);
    char path[512];
    snprintf(path, sizeof path, "%s", IN(folder, "tune"));
    nib_graph *g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
    run_often(state_, &b, g, NIB_TUNE_RUNS);
    nib_graph_free(g);
    size_t size = 0;
    char *text = test_read(path, &size);
    for (int choice = 0; choice < 2; choice++) { /* the digit before the last two tabs */
        for (size_t i = 0, tabs = 0; i < size; i++) {
            tabs = text[i] == '\n' ? 0 : tabs + (text[i] == '\t');
            if (tabs == 4 && text[i] == '\t') text[i + 1] = (char)('0' + choice);
        }
        test_write(path, text, size);
        g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
        CHECK_INT(g->tune_runs, NIB_TUNE_RUNS);
        for (int i = 0; i < 3; i++) CHECK_INT(g->nodes[i].alone, choice);
        run_often(state_, &b, g, 2);
        nib_graph_free(g);
    }
    uint64_t seed = test_seed();
    for (size_t cut = 0; cut < size; cut++) { /* cut short, and with bytes that are others */
        char *bad = malloc(size);
        memcpy(bad, text, size);
        for (int i = 0; i < 3; i++) bad[test_random(&seed) % size] ^= (char)(1 + cut % 255);
        test_write(path, cut % 2 ? bad : text, cut % 2 ? size : cut);
        g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
        CHECK_MADE(g);
        run_often(state_, &b, g, 1);
        nib_graph_free(g);
        free(bad);
    }
    free(text);
    bench_close(&b);
    test_folder_remove(folder);
}

TEST(a_file_that_cannot_be_written_stops_nothing) {
    bench b;
    bench_open(state_, &b, 2);
    nib_graph *g =
        nib_compile(b.m, b.x, &(nib_compile_options){.tune = "no/such/folder/at/all/tune"});
    CHECK_MADE(g);
    run_often(state_, &b, g, NIB_TUNE_RUNS + 3);
    CHECK_INT(g->tune_runs, NIB_TUNE_RUNS);
    nib_graph_free(g);
    bench_close(&b);
}

TEST(one_thread_has_nothing_to_choose) {
    bench b;
    bench_open(state_, &b, 1);
    nib_graph *g = nib_compile(b.m, b.x, NULL);
    CHECK_INT(g->tune_runs, NIB_TUNE_RUNS);
    run_often(state_, &b, g, 2);
    nib_graph_free(g);
    bench_close(&b);
}

TESTS(RUNS(what_is_measured_is_kept_and_taken_over_and_the_bits_stay),
      RUNS(the_file_decides_and_a_damaged_one_is_measured_again),
      RUNS(a_file_that_cannot_be_written_stops_nothing), RUNS(one_thread_has_nothing_to_choose))
