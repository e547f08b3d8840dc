/* Graphs: traces say what was called, plans keep apart what lives at once, runs give the same bits.
 */
#include "graph/node.h"

#include <math.h>
#include <nibble/nn.h>

#include "base/error.h"
#include "base/mem.h"
#include "op/calls.h"
#include "op/mode.h"
#include "op/product.h"
#include "tensor/context.h"
#include "test.h"

#define SHAPE1(a)    ((nib_shape){1, {(a)}})
#define SHAPE2(a, b) ((nib_shape){2, {(a), (b)}})

static nib_tensor *random_tensor(nib_ctx *ctx, uint64_t *seed, nib_shape shape) {
    nib_tensor *t = nib_tensor_new(ctx, NIB_F32, shape);
    float *data = nib_tensor_data_mut(t);
    for (int64_t i = 0; t && i < nib_tensor_count(t); i++) data[i] = test_uniform(seed);
    return t;
}

/* x -> norm -> gate and up -> silu_mul -> down -> + x, with a view of rows on the way. */
static nib_tensor *block_forward(nib_module *m, nib_tensor *x) {
    nib_tensor *n = nib_module_forward(nib_module_child(m, "norm"), x);
    nib_tensor *gate = nib_module_forward(nib_module_child(m, "gate"), n);
    nib_tensor *up = nib_module_forward(nib_module_child(m, "up"), n);
    nib_tensor *y = nib_module_forward(nib_module_child(m, "down"), nib_silu_mul(gate, up));
    y = nib_add(y, x);
    if (!y || y->shape.dim[0] < 2) return y;
    nib_tensor *last = nib_scope_own(y->ctx, nib_tensor_slice(y, 0, 1, y->shape.dim[0] - 1));
    return nib_add(last, last);
}
static const nib_module_kind kind_block = {.name = "Block", .forward = block_forward};

static nib_module *block(nib_ctx *ctx, uint64_t *seed, int64_t D, int64_t F, bool biased) {
    nib_module *m = nib_module_new(ctx, &kind_block, NULL);
    nib_module_add(m, "norm", nib_rms_norm_new(ctx, random_tensor(ctx, seed, SHAPE1(D)), 1e-5));
    for (int i = 0; i < 3; i++) {
        const int64_t N = i < 2 ? F : D, K = i < 2 ? D : F;
        nib_tensor *bias = biased ? random_tensor(ctx, seed, SHAPE1(N)) : NIB_NONE;
        nib_module_add(m, (const char *[]){"gate", "up", "down"}[i],
                       nib_linear_new(ctx, random_tensor(ctx, seed, SHAPE2(N, K)), bias));
    }
    return m;
}

TEST(a_compiled_module_gives_the_bits_of_its_forward) {
    static const int64_t rows[] = {1, 2, 5, 33};
    uint64_t seed = test_seed();
    for (int threads = 1; threads <= 3; threads++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        for (int biased = 0; biased < 2; biased++) {
            nib_module *m = block(ctx, &seed, 48, 80, biased);
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(rows[r], 48));
                nib_graph *g = nib_compile(m, x, NULL);
                CHECK_MADE(g);
                for (int run = 0; run < 3; run++) { /* other inputs, at other addresses */
                    nib_tensor *in = random_tensor(ctx, &seed, SHAPE2(rows[r], 48));
                    const size_t mark = nib_scope_begin(ctx);
                    nib_tensor *want = nib_module_forward(m, in);
                    const nib_tensor *got = nib_graph_run(g, in);
                    CHECK_MADE(got);
                    CHECK(nib_shape_equal(&got->shape, &want->shape));
                    CHECK_BYTES(nib_tensor_data(got), nib_tensor_data(want),
                                nib_tensor_bytes(want));
                    nib_scope_end(ctx, mark);
                    nib_tensor_free(in);
                }
                nib_graph_free(g);
                nib_tensor_free(x);
            }
            nib_module_free(m);
        }
        nib_ctx_free(ctx);
    }
}

TEST(buffers_that_live_at_the_same_time_lie_apart_and_memory_is_reused) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    nib_module *m = block(ctx, &seed, 64, 256, false);
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(7, 64));
    nib_graph *g = nib_compile(m, x, NULL);
    CHECK_MADE(g);
    size_t sum = 0;
    for (int i = 0; i < g->nbuffers; i++) {
        const nib_buffer *a = &g->buffers[i];
        if (a->first == NIB_ABSENT) continue;
        sum += a->size;
        CHECK(a->offset % NIB_MEM_ALIGN == 0 && a->offset + a->size <= g->arena_size);
        for (int k = 0; k < i; k++) {
            const nib_buffer *b = &g->buffers[k];
            if (b->first == NIB_ABSENT || a->last < b->first || b->last < a->first) continue;
            CHECK(a->offset + a->size <= b->offset || b->offset + b->size <= a->offset);
        }
    }
    CHECK(g->arena_size < sum);
    nib_graph_free(g);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

TEST(another_kind_of_input_is_refused_and_the_graph_goes_on) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    nib_module *m = block(ctx, &seed, 32, 32, false);
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(2, 32));
    nib_tensor *longer = random_tensor(ctx, &seed, SHAPE2(3, 32));
    nib_tensor *ids = nib_tensor_new(ctx, NIB_I32, SHAPE2(2, 32));
    nib_graph *g = nib_compile(m, x, NULL);
    CHECK_MADE(g);
    CHECK(!nib_graph_run(g, longer));
    CHECK_INT(nib_last_error()->status, NIB_E_SHAPE);
    CHECK(!nib_graph_run(g, ids));
    CHECK_INT(nib_last_error()->status, NIB_E_DTYPE);
    CHECK_MADE(nib_graph_run(g, x));
    CHECK(!nib_compile(m, ids, NULL));
    nib_graph_free(g);
    nib_tensor_free(ids);
    nib_tensor_free(longer);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

static nib_tensor *same(nib_module *m, nib_tensor *x) {
    (void)m;
    return x;
}

TEST(what_calls_nothing_cannot_be_compiled) {
    static const nib_module_kind kind = {.name = "Same", .forward = same};
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = 1;
    nib_module *m = nib_module_new(ctx, &kind, NULL);
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE1(3));
    CHECK(!nib_compile(m, x, NULL));
    CHECK_INT(nib_last_error()->status, NIB_E_UNSUPPORTED);
    CHECK_INT(ctx->nmodes, 0);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

/* ---- integers that follow a symbol ---- */

typedef struct appending {
    nib_tensor *cache, *row, *query;
    int64_t start, window;
} appending;

static nib_status append_and_attend(void *user, nib_tensor **out) {
    const appending *a = user;
    NIB_TRY(nib_kv_append(a->cache, a->row, a->start));
    *out = nib_attention(a->query, a->cache, a->cache, 2, a->start, a->window, 0.5);
    return *out ? NIB_OK : nib_last_error()->status;
}

TEST(an_integer_follows_the_symbol_it_moves_with_or_the_trace_is_refused) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    appending a = {nib_tensor_new(ctx, NIB_F32, (nib_shape){3, {2, 64, 8}}),
                   random_tensor(ctx, &seed, SHAPE2(1, 16)),
                   random_tensor(ctx, &seed, SHAPE2(1, 16)), 0, 0};
    memset(nib_tensor_data_mut(a.cache), 0, nib_tensor_bytes(a.cache));
    nib_tensor *inputs[] = {a.cache, a.row, a.query};
    nib_graph *trace[4];
    static const int64_t starts[] = {9, 8, 0, 12};
    for (int i = 0; i < 4; i++) {
        a.start = starts[i];
        a.window = i == 3 ? 5 : 0; /* the last trace has another window too */
        trace[i] = nib_trace(ctx, inputs, 3, &a.start, 1, append_and_attend, &a);
        CHECK_MADE(trace[i]);
    }
    CHECK_OK(nib_trace_learn(trace[0], trace[1]));
    CHECK_INT(trace[0]->nfollows, 2);
    CHECK_INT(trace[0]->follows[0].per, 1);
    CHECK_INT(trace[0]->follows[0].base, 0);
    CHECK_OK(nib_trace_learn(trace[0], trace[2]));
    CHECK_FAILS(nib_trace_learn(trace[0], trace[3]), NIB_E_UNSUPPORTED, "no multiple");
    CHECK_OK(nib_graph_plan(trace[0]));
    const nib_tensor *got;
    CHECK_OK(nib_graph_execute(trace[0], inputs, &(int64_t){20}, &got));
    float first[16];
    CHECK_OK(nib_tensor_read(got, first, sizeof first));
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *want = nib_attention(a.query, a.cache, a.cache, 2, 20, 0, 0.5);
    CHECK_BYTES(first, nib_tensor_data(want), sizeof first);
    nib_scope_end(ctx, mark);
    CHECK_FAILS(nib_graph_execute(trace[0], inputs, &(int64_t){64}, &got), NIB_E_FULL, "64 tokens");
    for (int i = 0; i < 4; i++) nib_graph_free(trace[i]);
    for (int i = 0; i < 3; i++) nib_tensor_free(inputs[i]);
    nib_ctx_free(ctx);
}

static int count_op(const nib_graph *g, const nib_op *op) {
    int count = 0;
    for (int i = 0; i < g->nnodes; i++) count += g->nodes[i].args.op == op;
    return count;
}

TEST(neighbours_are_fused_where_nobody_else_reads_what_vanishes) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    nib_module *m = block(ctx, &seed, 16, 32, true);
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(1, 16));
    nib_graph *g = nib_compile(m, x, NULL);
    CHECK_MADE(g);
    CHECK_INT(g->nnodes, 3); /* norm, gate and up, down and what it is added to */
    CHECK_INT(count_op(g, &nib_op_linear_silu_mul), 1);
    CHECK_INT(count_op(g, &nib_op_linear_add), 1);
    nib_graph_free(g);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

/* y = a(x) + b(x) + c(x), and d of a view of a(x), which must therefore stay. */
static nib_tensor *several_forward(nib_module *m, nib_tensor *x) {
    nib_tensor *a = nib_module_forward(nib_module_child(m, "a"), x);
    nib_tensor *b = nib_module_forward(nib_module_child(m, "b"), x);
    nib_tensor *c = nib_module_forward(nib_module_child(m, "c"), x);
    nib_tensor *d = nib_module_forward(nib_module_child(m, "d"), x);
    nib_tensor *row = a ? nib_scope_own(a->ctx, nib_tensor_slice(a, 0, 0, 1)) : NULL;
    nib_tensor *e = nib_module_forward(nib_module_child(m, "e"), row);
    nib_tensor *sum = nib_add(nib_add(a, b), nib_silu_mul(c, d));
    nib_tensor *both = sum ? nib_scope_own(sum->ctx, nib_tensor_slice(sum, 0, 0, 1)) : NULL;
    return nib_add(both, e);
}

TEST(linears_of_one_input_become_one_and_read_results_stay) {
    static const nib_module_kind kind = {.name = "Several", .forward = several_forward};
    uint64_t seed = test_seed();
    for (int threads = 1; threads <= 2; threads++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        nib_module *m = nib_module_new(ctx, &kind, NULL);
        for (int i = 0; i < 5; i++)
            nib_module_add(
                m, (const char *[]){"a", "b", "c", "d", "e"}[i],
                nib_linear_new(ctx, random_tensor(ctx, &seed, SHAPE2(48, 48)),
                               i % 2 ? random_tensor(ctx, &seed, SHAPE1(48)) : NIB_NONE));
        nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(3, 48));
        nib_graph *g = nib_compile(m, x, NULL);
        CHECK_MADE(g);
        CHECK_INT(count_op(g, &nib_op_linear_silu_mul), 1); /* c and d */
        CHECK_INT(count_op(g, &nib_op_linear_add), 2);      /* b to a, e to the sum */
        CHECK_INT(count_op(g, &nib_op_linear), 1);          /* a: it is read twice */
        const size_t mark = nib_scope_begin(ctx);
        nib_tensor *want = nib_module_forward(m, x);
        const nib_tensor *got = nib_graph_run(g, x);
        CHECK_MADE(got);
        CHECK_BYTES(nib_tensor_data(got), nib_tensor_data(want), nib_tensor_bytes(want));
        nib_scope_end(ctx, mark);
        nib_graph_free(g);
        nib_tensor_free(x);
        nib_module_free(m);
        nib_ctx_free(ctx);
    }
}

/* ---- keys turned on their way ---- */

enum { HEADS = 2, HEAD = 16, KEYS = 3 };
typedef struct turning {
    nib_tensor *cache[2], *x, *positions, *frequencies;
    bool read; /* the turned keys have another reader */
} turning;

/* The first key goes to one cache, the others to another. */
static nib_status turn_and_append(void *user, nib_tensor **out) {
    const turning *t = user;
    nib_ctx *ctx = t->x->ctx;
    nib_tensor *angles = nib_rope_angles(t->positions, t->frequencies, 1.0);
    nib_tensor *k = nib_rope(nib_add(t->x, t->x), angles, HEADS);
    if (!k) return nib_last_error()->status;
    nib_tensor *one = nib_scope_own(ctx, nib_tensor_slice(k, 0, 0, 1));
    nib_tensor *rest = nib_scope_own(ctx, nib_tensor_slice(k, 0, 1, KEYS - 1));
    NIB_TRY(nib_kv_append(t->cache[0], one, 3));
    NIB_TRY(nib_kv_append(t->cache[1], rest, 7));
    *out = nib_attention(t->read ? rest : nib_scope_own(ctx, nib_tensor_slice(t->x, 0, 1, 2)),
                         t->cache[1], t->cache[1], HEADS, 7, 2, 0.25);
    return *out ? NIB_OK : nib_last_error()->status;
}

TEST(keys_that_only_go_into_caches_are_turned_on_their_way) {
    uint64_t seed = test_seed();
    for (int read = 0; read < 2; read++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        const nib_shape cache = {3, {HEADS, 64, HEAD}};
        turning t = {.x = random_tensor(ctx, &seed, SHAPE2(KEYS, HEADS * HEAD)),
                     .positions = nib_tensor_new(ctx, NIB_I32, SHAPE1(KEYS)),
                     .frequencies = random_tensor(ctx, &seed, SHAPE1(HEAD / 2)),
                     .read = read};
        for (int i = 0; i < KEYS; i++)
            ((int32_t *)nib_tensor_data_mut(t.positions))[i] = (int32_t[]){3, 7, 8}[i];
        float *want[2];
        for (int i = 0; i < 2; i++) {
            t.cache[i] = nib_tensor_new(ctx, NIB_F32, cache);
            memset(nib_tensor_data_mut(t.cache[i]), 0, nib_tensor_bytes(t.cache[i]));
        }
        const size_t mark = nib_scope_begin(ctx), bytes = nib_tensor_bytes(t.cache[0]);
        nib_tensor *eager;
        CHECK_OK(turn_and_append(&t, &eager));
        for (int i = 0; i < 2; i++) {
            want[i] = malloc(bytes);
            memcpy(want[i], nib_tensor_data(t.cache[i]), bytes);
            memset(nib_tensor_data_mut(t.cache[i]), 0, bytes);
        }
        nib_tensor *inputs[] = {t.cache[0], t.cache[1], t.x, t.positions};
        nib_graph *g = nib_trace(ctx, inputs, 4, NULL, 0, turn_and_append, &t);
        CHECK_MADE(g);
        CHECK_OK(nib_graph_fuse(g));
        CHECK_INT(count_op(g, &nib_op_rope), read);
        CHECK_OK(nib_graph_plan(g));
        const nib_tensor *got;
        CHECK_OK(nib_graph_execute(g, inputs, NULL, &got));
        CHECK_BYTES(nib_tensor_data(got), nib_tensor_data(eager), nib_tensor_bytes(eager));
        for (int i = 0; i < 2; i++) {
            CHECK_BYTES(nib_tensor_data(t.cache[i]), want[i], bytes);
            free(want[i]);
        }
        nib_scope_end(ctx, mark);
        nib_graph_free(g);
        for (int i = 0; i < 4; i++) nib_tensor_free(inputs[i]);
        nib_tensor_free(t.frequencies);
        nib_ctx_free(ctx);
    }
}

/* A block, and what reads a norm besides: nothing, its floats, or weights that want other codes. */
static nib_tensor *normed_forward(nib_module *m, nib_tensor *x) {
    nib_tensor *n = nib_module_forward(nib_module_child(m, "norm"), x);
    nib_tensor *y = nib_silu_mul(nib_module_forward(nib_module_child(m, "gate"), n),
                                 nib_module_forward(nib_module_child(m, "up"), n));
    y = nib_module_forward(nib_module_child(m, "down"), y);
    nib_module *also = nib_module_child(m, "also");
    return nib_add(y, also ? nib_module_forward(also, n) : x);
}
static const nib_module_kind kind_normed = {.name = "Normed", .forward = normed_forward};

static nib_module *normed(void **state_, nib_ctx *ctx, uint64_t *seed, const char *scheme,
                          const char *also) {
    enum { D = 96, F = 128 };
    nib_module *m = nib_module_new(ctx, &kind_normed, NULL);
    nib_module_add(m, "norm", nib_rms_norm_new(ctx, random_tensor(ctx, seed, SHAPE1(D)), 1e-5));
    for (int i = 0; i < 3 + (also != NULL); i++) {
        const int64_t N = i < 2 ? F : D, K = i == 2 ? F : D;
        nib_module_add(m, (const char *[]){"gate", "up", "down", "also"}[i],
                       nib_linear_new(ctx, random_tensor(ctx, seed, SHAPE2(N, K)),
                                      i ? random_tensor(ctx, seed, SHAPE1(N)) : NIB_NONE));
    }
    const char *const schemes[] = {scheme, also};
    for (int i = 0; i < 2; i++) {
        if (!schemes[i] || !schemes[i][0]) continue;
        nib_config *config = nib_config_parse(schemes[i]);
        CHECK_MADE(config);
        const nib_select select[] = {{.exclude = "also"}, {.include = "also"}};
        CHECK_OK(nib_quantize(m, config, &select[i]));
        nib_config_free(config);
    }
    return m;
}

TEST(a_norm_gives_codes_where_all_that_read_it_want_the_same_ones) {
    static const struct {
        const char *scheme, *also; /* "": floats */
        bool fused;
    } cases[] = {
        {"int8_dynamic_activation_int8_weight", NULL, true},
        {"int8_dynamic_activation_int8_weight", "int8_dynamic_activation_int8_weight", true},
        {"int8_dynamic_activation_int8_weight:act_mapping_type=asymmetric", NULL, true},
        {"int8_dynamic_activation_int8_weight:reduce_range=true", NULL, true},
        {"8da4w", NULL, true},
        {"8da4w:group_size=16", NULL, true}, /* which no layout of the kernels holds */
        {"8da4w:mapping=asymmetric", NULL, true},
        {"int8_dynamic_activation_int8_weight:granularity=tensor", NULL, false},
        {"int8_dynamic_activation_int8_weight", "", false},
        {"int8_dynamic_activation_int8_weight", "8da4w", false},
        {"int8_dynamic_activation_int8_weight",
         "int8_dynamic_activation_int8_weight:act_mapping_type=asymmetric", false},
        {"int8_weight_only", NULL, false},
    };
    static const int64_t rows[] = {1, 2, 9, 33};
    uint64_t seed = test_seed();
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int threads = 1; threads <= 3; threads++)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                if (!test_has_scheme(cases[c].scheme) || !test_has_scheme(cases[c].also)) continue;
                nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
                nib_module *m = normed(state_, ctx, &seed, cases[c].scheme, cases[c].also);
                nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(rows[r], 96));
                float *data = nib_tensor_data_mut(x);
                if (r == 2) memset(data + 96, 0, 96 * sizeof *data); /* a row of zeros, */
                if (r == 3) data[5] = NAN;                           /* and one with a NaN */
                nib_graph *g = nib_compile(m, x, NULL);
                CHECK_MADE(g);
                CHECK_INT(count_op(g, &nib_op_rms_norm_quantize), cases[c].fused);
                CHECK_INT(count_op(g, &nib_op_rms_norm), !cases[c].fused);
                const size_t mark = nib_scope_begin(ctx);
                nib_tensor *want = nib_module_forward(m, x);
                const nib_tensor *got = nib_graph_run(g, x);
                CHECK_MADE(got);
                const float *a = nib_tensor_data(got), *b = nib_tensor_data(want);
                for (int64_t i = 0; i < nib_tensor_count(want); i++)
                    if (memcmp(a + i, b + i, sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i])))
                        FAIL_AT("%s, %lld rows: result %lld is %.9g, want %.9g", cases[c].scheme,
                                (long long)rows[r], (long long)i, (double)a[i], (double)b[i]);
                nib_scope_end(ctx, mark);
                nib_graph_free(g);
                nib_tensor_free(x);
                nib_module_free(m);
                nib_ctx_free(ctx);
            }
}

TEST(codes_for_other_columns_are_refused) {
    NEEDS_SCHEME("int8_dynamic_activation_int8_weight");
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    nib_config *config = nib_config_parse("int8_dynamic_activation_int8_weight");
    nib_tensor *dense = random_tensor(ctx, &seed, SHAPE2(16, 64));
    nib_tensor *w = nib_keep(nib_quantize_tensor(dense, config));
    CHECK_MADE(w);
    nib_rows_kind kind;
    CHECK(nib_product_wants(w, &kind) && !nib_product_wants(dense, &kind));
    nib_tensor *codes = nib_tensor_new(ctx, NIB_I8, SHAPE2(3, nib_rows_width(&kind) + 64));
    nib_tensor *y;
    CHECK_FAILS(
        nib_linear_many(codes, (const nib_tensor *[]){w}, (const nib_tensor *[]){NIB_NONE}, 1, &y),
        NIB_E_SHAPE, "linear_many");
    CHECK_FAILS(nib_linear_many(codes, (const nib_tensor *[]){dense},
                                (const nib_tensor *[]){NIB_NONE}, 1, &y),
                NIB_E_DTYPE, "want f32");
    CHECK(!nib_linear(codes, w, NIB_NONE));
    CHECK_INT(nib_last_error()->status, NIB_E_DTYPE);
    nib_tensor_free(codes);
    nib_tensor_free(w);
    nib_tensor_free(dense);
    nib_config_free(config);
    nib_ctx_free(ctx);
}

TEST(every_failed_allocation_of_compiling_and_running_is_reported_and_leaks_nothing) {
    uint64_t seed = test_seed();
    bool done = false;
    for (long n = 0; !done; n++) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 1});
        nib_module *m = block(ctx, &seed, 16, 32, true);
        nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(3, 16));
        const size_t used = nib_mem_used(&ctx->mem), owned = ctx->owned_room;
        nib_mem_fail_after(n, false);
        nib_graph *g = nib_compile(m, x, NULL);
        const nib_tensor *y = nib_graph_run(g, x);
        done = nib_mem_fail_after(-1, false) <= n;
        CHECK(done == (y != NULL));
        if (!y) CHECK_INT(nib_last_error()->status, NIB_E_MEMORY);
        nib_graph_free(g);
        CHECK_INT(nib_mem_used(&ctx->mem),
                  used + (ctx->owned_room - owned) * sizeof(nib_tensor *) + ctx->workspace_size);
        CHECK_INT(ctx->nmodes, 0);
        nib_tensor_free(x);
        nib_module_free(m);
        nib_ctx_free(ctx);
    }
}

TEST(a_graph_is_printed_one_node_a_line) {
    nib_ctx *ctx = nib_ctx_new(NULL);
    uint64_t seed = test_seed();
    nib_module *m = block(ctx, &seed, 16, 32, false);
    nib_tensor *x = random_tensor(ctx, &seed, SHAPE2(1, 16));
    nib_graph *g = nib_compile(m, x, &(nib_compile_options){.no_fusion = true});
    char *text = nib_graph_print(g);
    CHECK_MADE(text);
    CHECK(strstr(text, "rms_norm(input 0 [1, 16], constant [16] f32)"));
    CHECK(strstr(text, "6 nodes, "));
    nib_text_release(text);
    nib_graph_free(g);
    nib_tensor_free(x);
    nib_module_free(m);
    nib_ctx_free(ctx);
}

TESTS(RUNS(a_compiled_module_gives_the_bits_of_its_forward),
      RUNS(buffers_that_live_at_the_same_time_lie_apart_and_memory_is_reused),
      RUNS(another_kind_of_input_is_refused_and_the_graph_goes_on),
      RUNS(what_calls_nothing_cannot_be_compiled),
      RUNS(an_integer_follows_the_symbol_it_moves_with_or_the_trace_is_refused),
      RUNS(neighbours_are_fused_where_nobody_else_reads_what_vanishes),
      RUNS(linears_of_one_input_become_one_and_read_results_stay),
      RUNS(keys_that_only_go_into_caches_are_turned_on_their_way),
      RUNS(a_norm_gives_codes_where_all_that_read_it_want_the_same_ones),
      RUNS(codes_for_other_columns_are_refused),
      RUNS(every_failed_allocation_of_compiling_and_running_is_reported_and_leaks_nothing),
      RUNS(a_graph_is_printed_one_node_a_line))
