/* Quantizing in pieces: any number of threads, and runs of rows from a file, give the bytes that
 * packing all codes at once gives. */
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/packed.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "test.h"

enum { ROWS = 140, COLS = 2048 };

static nib_tensor *weight_new(nib_ctx *ctx, nib_shape shape) {
    uint64_t seed = test_seed();
    nib_tensor *w = nib_tensor_new(ctx, NIB_BF16, shape);
    uint16_t *data = nib_tensor_data_mut(w);
    for (int64_t i = 0; i < nib_tensor_count(w); i++)
        data[i] = nib_f32_to_bf16(test_uniform(&seed));
    return w;
}

/* The packed bytes of all codes: free() each. */
typedef struct whole {
    nib_qdesc desc;
    const nib_layout *layout;
    int count;
    nib_part parts[NIB_MAX_PARTS];
    void *bytes[NIB_MAX_PARTS];
} whole;

static void whole_make(void **state_, nib_ctx *ctx, const nib_config *config, const nib_tensor *w,
                       const nib_layout *layout, whole *all) {
    const nib_site site = {"linear", "w", nib_tensor_shape(w), NIB_BF16};
    nib_codes codes;
    CHECK_OK(nib_scheme_codes(config, &site, w, &codes));
    *all = (whole){.desc = codes.desc, .layout = layout ? layout : nib_layout_for(&codes.desc)};
    all->count = all->layout->parts(&all->desc, all->parts);
    for (int i = 0; i < all->count; i++) all->bytes[i] = malloc(nib_part_bytes(&all->parts[i]));
    all->layout->pack(all->bytes, &codes);
    nib_codes_free(nib_ctx_mem(ctx), &codes);
}

static void whole_free(whole *all) {
    for (int i = 0; i < all->count; i++) free(all->bytes[i]);
}

static void check_threads(void **state_, const char *text, nib_shape shape, const char *layout) {
    nib_config *config = nib_config_parse(text);
    if (!config) return; /* not in this build */
    for (int threads = 1; threads <= 5; threads += 2) {
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
        nib_tensor *w = weight_new(ctx, shape);
        whole all;
        whole_make(state_, ctx, config, w, layout ? nib_layout_find(layout) : NULL, &all);
        nib_tensor *matrix = nib_tensor_reshape(w, (nib_shape){2, {all.desc.rows, all.desc.cols}});
        nib_stats stats = {0};
        CHECK_OK(nib_scheme_measure(config, &stats, matrix));
        void *got[NIB_MAX_PARTS] = {0};
        for (int i = 0; i < all.count; i++) got[i] = malloc(nib_part_bytes(&all.parts[i]));
        CHECK_OK(nib_quantize_packed(ctx, config, &stats, all.layout, &all.desc, matrix, got));
        for (int i = 0; i < all.count; i++) {
            if (memcmp(got[i], all.bytes[i], nib_part_bytes(&all.parts[i])) != 0)
                FAIL_AT("%s in %s: part %s differs with %d threads", text, all.layout->name,
                        all.parts[i].suffix, threads);
            free(got[i]);
        }
        whole_free(&all);
        nib_tensor_free(matrix);
        nib_tensor_free(w);
        nib_ctx_free(ctx);
    }
    nib_config_free(config);
}

static const char *const texts[] = {
    "int8_weight_only:granularity=tensor",   "int4_weight_only:group_size=32",
    "int4_weight_only:numerics=tinygemm",    "intx_weight_only:bits=3",
    "float8_weight_only:granularity=tensor",
};

static void for_texts(void **state_, nib_shape shape) {
    for (size_t i = 0; nib_scheme_at(i); i++)
        check_threads(state_, nib_scheme_at(i)->name, shape, NULL);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        check_threads(state_, texts[i], shape, NULL);
}

TEST(any_number_of_threads_gives_the_same_bytes) {
    for_texts(state_, (nib_shape){2, {ROWS, COLS}});
    for_texts(state_, (nib_shape){2, {1, COLS}});
}

TEST(stacks_are_cut_where_a_matrix_ends) {
    for_texts(state_, (nib_shape){3, {3, ROWS / 3, COLS}});
    if (nib_layout_find("int4_tile_packed"))
        check_threads(state_, "int4_weight_only:numerics=tinygemm", (nib_shape){3, {3, 45, COLS}},
                      "int4_tile_packed");
}

/* As a file is quantized: some rows in memory at a time, their parts written where they belong. */
TEST(rows_that_stream_give_the_same_bytes) {
    for (size_t s = 0; s < sizeof texts / sizeof *texts; s++) {
        nib_config *config = nib_config_parse(texts[s]);
        if (!config) continue;
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 2});
        nib_tensor *w = weight_new(ctx, (nib_shape){2, {ROWS, COLS}});
        whole all;
        whole_make(state_, ctx, config, w, NULL, &all);
        nib_stats stats = {0};
        CHECK_OK(nib_scheme_measure(config, &stats, w));
        for (int64_t row = 0; row < ROWS;) {
            const int64_t n = nib_layout_run(all.layout, &all.desc, row, 37);
            const nib_qdesc desc = nib_qdesc_of_rows(&all.desc, n);
            nib_tensor *rows = nib_tensor_slice(w, 0, row, n);
            nib_part parts[NIB_MAX_PARTS];
            void *some[NIB_MAX_PARTS] = {0};
            const int count = all.layout->parts(&desc, parts);
            for (int i = 0; i < count; i++) some[i] = malloc(nib_part_bytes(&parts[i]));
            CHECK_OK(nib_quantize_packed(ctx, config, &stats, all.layout, &desc, rows, some));
            for (int i = 0; i < count; i++) {
                const nib_part_runs r = nib_part_place(&all.parts[i], &all.desc, 1, row, n);
                for (int64_t k = 0; k < r.count; k++)
                    CHECK_BYTES((char *)some[i] + (size_t)k * r.size,
                                (char *)all.bytes[i] + r.offset + (size_t)k * r.step, r.size);
                free(some[i]);
            }
            nib_tensor_free(rows);
            row += n;
        }
        whole_free(&all);
        nib_tensor_free(w);
        nib_ctx_free(ctx);
        nib_config_free(config);
    }
}

TESTS(RUNS(any_number_of_threads_gives_the_same_bytes), RUNS(stacks_are_cut_where_a_matrix_ends),
      RUNS(rows_that_stream_give_the_same_bytes))
