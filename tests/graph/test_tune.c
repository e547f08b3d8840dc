/* Tuning: measured while the graph does its work, kept in a file that may be anything. */
#include <nibble/nn.h>

#include "base/mem.h"
#include "graph/node.h"
#include "op/product.h"
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
    CHECK(g->tune_wanted > 0 && g->tune_runs == 0);
    run_often(state_, &b, g, g->tune_wanted + 2);
    CHECK_INT(g->tune_runs, g->tune_wanted);
    CHECK_INT(g->nodes[0].way, g->nodes[1].way); /* one key, one choice */
    size_t size = 0;
    char *text = test_read(path, &size);
    int lines = 0;
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    CHECK_INT(lines, 3); /* the heading and two keys */
    free(text);
    nib_graph *again = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
    CHECK_MADE(again);
    CHECK_INT(again->tune_wanted, 0);
    for (int i = 0; i < 3; i++) CHECK_INT(again->nodes[i].way, g->nodes[i].way);
    run_often(state_, &b, again, 2);
    nib_graph_free(again);
    nib_graph_free(g);
    bench_close(&b);
    bench_open(state_, &b, 3); /* another number of threads is another machine; its lines join */
    g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
    CHECK(g->tune_wanted > 0 && g->tune_runs == 0);
    run_often(state_, &b, g, g->tune_wanted);
    nib_graph_free(g);
    text = test_read(path, &size);
    lines = 0;
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    CHECK_INT(lines, 5);
    free(text);
    bench_close(&b);
    test_folder_remove(folder);
}

static void set_choices(char *text, size_t size, char digit) {
    for (size_t i = 0, tabs = 0; i < size; i++) {
        tabs = text[i] == '\n' ? 0 : tabs + (text[i] == '\t');
        if (tabs == 3 && text[i] == '\t') text[i + 1] = digit;
    }
}

TEST(the_file_decides_and_a_damaged_one_is_measured_again) {
    TEST_FOLDER(folder);
    bench b;
    bench_open(state_, &b, 2);
    char path[512];
    snprintf(path, sizeof path, "%s", IN(folder, "tune"));
    nib_graph *g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
    run_often(state_, &b, g, g->tune_wanted);
    const int ways = g->nodes[0].ways;
    CHECK_INT(ways, 1 + NIB_PRODUCT_VARIANTS);
    nib_graph_free(g);
    size_t size = 0;
    char *text = test_read(path, &size);
    for (int choice = 0; choice <= ways; choice++) { /* the digit between the last two tabs */
        set_choices(text, size, (char)('0' + choice));
        test_write(path, text, size);
        g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
        CHECK((g->tune_wanted == 0) == (choice < ways)); /* a way that there is not is measured */
        for (int i = 0; i < 3; i++) CHECK_INT(g->nodes[i].way, choice < ways ? choice : 0);
        run_often(state_, &b, g, 2);
        nib_graph_free(g);
    }
    set_choices(text, size, '1');
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
    run_often(state_, &b, g, g->tune_wanted + 3);
    CHECK(g->tune_wanted > 0 && g->tune_runs == g->tune_wanted);
    nib_graph_free(g);
    bench_close(&b);
}

TEST(every_way_gives_the_same_bits) {
    static const int64_t rows[] = {1, 5, 9, 70};
    static const char *const schemes[] = {
        NULL, "int8_weight_only", "int4_weight_only:group_size=32", "8da4w", "float8_weight_only"};
    uint64_t seed = test_seed();
    for (int threads = 1; threads <= 3; threads++)
        for (size_t s = 0; s < sizeof schemes / sizeof *schemes; s++)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                bench b;
                enum { K = 704, N = 329 }; /* more columns than one way widens at once */
                b.ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
                b.m = nib_linear_new(b.ctx, random_tensor(b.ctx, &seed, SHAPE2(N, K)), NIB_NONE);
                nib_config *config = schemes[s] ? nib_config_parse(schemes[s]) : NULL;
                if (config) CHECK_OK(nib_quantize(b.m, config, NULL));
                b.x = random_tensor(b.ctx, &seed, SHAPE2(rows[r], K));
                nib_graph *g = nib_compile(b.m, b.x, NULL);
                CHECK_MADE(g);
                const size_t mark = nib_scope_begin(b.ctx);
                nib_tensor *want = nib_module_forward(b.m, b.x);
                CHECK_INT(g->nodes[0].ways, NIB_PRODUCT_VARIANTS + (threads > 1));
                g->tune_wanted = 0;
                for (int way = 0; way < g->nodes[0].ways; way++) {
                    g->nodes[0].way = way;
                    const nib_tensor *got = nib_graph_run(g, b.x);
                    CHECK_MADE(got);
                    CHECK_BYTES(nib_tensor_data(got), nib_tensor_data(want),
                                nib_tensor_bytes(want));
                }
                nib_scope_end(b.ctx, mark);
                nib_graph_free(g);
                nib_config_free(config);
                bench_close(&b);
            }
}

typedef struct heard {
    int lines; /* about the file */
    char last[400];
} heard;

static void hear(void *user, int level, const char *message) {
    heard *h = user;
    if (level < 1) return; /* such as how long it took */
    h->lines++;
    snprintf(h->last, sizeof h->last, "%s", message);
}

TEST(a_file_that_is_something_else_is_left_as_it_is_and_the_log_is_told) {
    TEST_FOLDER(folder);
    static const struct {
        const char *text, *said; /* NULL: nothing */
        bool kept;
    } cases[] = {{"# my notes\n", "is not a file of measured choices", false},
                 {"nibble tuna 2\n", "is not a file of measured choices", false},
                 {"nibble tune 1\na\tb\t2\tlinear\t1\t9\t8\n", "of another version", true},
                 {"nibble tune 2\nx\t2\tlinear\t7\t9\n", "is damaged", true},
                 {"nibble tu", "is damaged", true},
                 {"nibble tune 2\nx\t2\tlinear\t1\t9 8 7 6\n", NULL, true},
                 {"", NULL, true}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        heard h = {0};
        bench b;
        bench_open(state_, &b, 2);
        b.ctx->log = hear;
        b.ctx->user = &h;
        char path[512];
        snprintf(path, sizeof path, "%s", IN(folder, "tune"));
        test_write(path, cases[c].text, strlen(cases[c].text));
        nib_graph *g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
        CHECK_MADE(g);
        run_often(state_, &b, g, g->tune_wanted + 1);
        CHECK_INT(h.lines, cases[c].said != NULL);
        if (cases[c].said) CHECK(strstr(h.last, cases[c].said) && strstr(h.last, path));
        nib_graph_free(g);
        size_t size = 0;
        char *text = test_read(path, &size);
        if (!cases[c].kept) CHECK(size == strlen(cases[c].text));
        if (cases[c].kept) CHECK(size > 40 && memcmp(text, "nibble tune 2\n", 14) == 0);
        free(text);
        g = nib_compile(b.m, b.x, &(nib_compile_options){.tune = path});
        CHECK((g->tune_wanted == 0) == cases[c].kept);
        nib_graph_free(g);
        bench_close(&b);
    }
    test_folder_remove(folder);
}

TEST(one_thread_chooses_among_variants) {
    bench b;
    bench_open(state_, &b, 1);
    nib_graph *g = nib_compile(b.m, b.x, NULL);
    CHECK_INT(g->nodes[0].ways, NIB_PRODUCT_VARIANTS);
    run_often(state_, &b, g, g->tune_wanted + 2);
    CHECK_INT(g->tune_runs, g->tune_wanted);
    nib_graph_free(g);
    bench_close(&b);
}

/* A millisecond and more of products on whatever machine: one thread would only be slower. */
TEST(a_node_that_takes_long_is_not_tried_on_one_thread) {
    TEST_FOLDER(folder);
    uint64_t seed = test_seed();
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
    nib_module *m = nib_linear_new(ctx, random_tensor(ctx, &seed, SHAPE2(1024, 1024)), NIB_NONE);
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(512, 1024));
    nib_graph *g = nib_compile(m, x, &(nib_compile_options){.tune = IN(folder, "tune")});
    CHECK_MADE(g);
    CHECK(nib_graph_way(g, 1).alone && g->nodes[0].ways > 2);
    while (g->tune_runs < g->tune_wanted) CHECK_MADE(nib_graph_run(g, x));
    for (int way = 0; way < g->nodes[0].ways; way++)
        CHECK((g->nodes[0].best_ns[way] == INT64_MAX) == (way == 1));
    CHECK(g->nodes[0].way != 1);
    nib_graph_free(g);
    g = nib_compile(m, x, &(nib_compile_options){.tune = IN(folder, "tune")});
    CHECK_INT(g->tune_wanted, 0); /* the file has it */
    nib_graph_free(g);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
    test_folder_remove(folder);
}

TESTS(RUNS(what_is_measured_is_kept_and_taken_over_and_the_bits_stay),
      RUNS(the_file_decides_and_a_damaged_one_is_measured_again),
      RUNS(a_file_that_cannot_be_written_stops_nothing), RUNS(every_way_gives_the_same_bits),
      RUNS(one_thread_chooses_among_variants),
      RUNS(a_node_that_takes_long_is_not_tried_on_one_thread),
      RUNS(a_file_that_is_something_else_is_left_as_it_is_and_the_log_is_told))
