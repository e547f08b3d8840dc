/* Half-quadratic quantization: how many threads work, and how many groups each takes, shows in no
 * byte. How good the codes are is judged by test_torchao.c and test_scheme_quanto.c. */
#include "quant/codes.h"
#include "quant/layouts.h"
#include "quant/packed.h"
#include "quant/scheme.h"
#include "tensor/context.h"
#include "test.h"

enum { ROWS = 41, COLS = 2048 }; /* many pieces of work, the last one ragged */

static const char *const texts[] = {
    "int4_weight_only:numerics=tinygemm,algo=hqq,group_size=32",
    "int4_weight_only:numerics=tinygemm,algo=hqq,group_size=256",
    "intx_weight_only:bits=4,granularity=group,group_size=32,algo=hqq",
    "intx_weight_only:bits=3,algo=hqq",
    "intx_weight_only:bits=2,algo=hqq,scale_dtype=f16",
    "int8_dynamic_activation_int4_weight:algo=hqq,group_size=64",
    "qint4:algo=hqq",
    "qint2:algo=hqq",
};

/* Every part of the weight, one behind the other: free() it. Each row has weights of another size,
 * one is all zeros and one all the same, so groups are done after different numbers of steps. */
static void *bytes_of(void **state_, const nib_config *config, int threads, nib_dtype dtype,
                      size_t *size) {
    nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = threads});
    nib_tensor *w = nib_tensor_new(ctx, dtype, (nib_shape){2, {ROWS, COLS}});
    CHECK_MADE(w);
    void *data = nib_tensor_data_mut(w);
    uint64_t seed = test_seed();
    for (int64_t i = 0; i < ROWS * COLS; i++) {
        const int64_t r = i / COLS;
        const float x = r == 5   ? 0.0f
                        : r == 6 ? 0.25f
                                 : test_uniform(&seed) * test_uniform(&seed) * (float)(r % 7 + 1);
        if (dtype == NIB_F32)
            ((float *)data)[i] = x;
        else
            ((uint16_t *)data)[i] = dtype == NIB_F16 ? nib_f32_to_f16(x) : nib_f32_to_bf16(x);
    }
    const nib_site site = {"linear", "w", nib_tensor_shape(w), dtype};
    nib_qdesc desc;
    nib_act in, out;
    CHECK_OK(nib_scheme_plan(config, &site, &desc, &in, &out));
    const nib_layout *layout = nib_layout_for(&desc);
    CHECK_MADE(layout);
    nib_part parts[NIB_MAX_PARTS];
    void *to[NIB_MAX_PARTS] = {0};
    const int count = layout->parts(&desc, parts);
    *size = 0;
    for (int i = 0; i < count; i++) *size += nib_part_bytes(&parts[i]) + 64;
    char *all = calloc(*size, 1);
    for (size_t i = 0, at = 0; i < (size_t)count; i++) {
        to[i] = all + at;
        at += (nib_part_bytes(&parts[i]) + 63) / 64 * 64;
    }
    nib_stats stats = {0};
    CHECK_OK(nib_scheme_measure(config, &stats, w));
    CHECK_OK(nib_quantize_packed(ctx, config, &stats, layout, &desc, w, to));
    nib_tensor_free(w);
    nib_ctx_free(ctx);
    return all;
}

TEST(any_number_of_threads_gives_the_same_bytes) {
    static const int threads[] = {2, 3, 7};
    static const nib_dtype dtypes[] = {NIB_F32, NIB_F16, NIB_BF16};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        nib_config *config = nib_config_parse(texts[i]);
        if (!config) continue; /* not in this build */
        for (int d = 0; d < 3; d++) {
            size_t size, other;
            void *want = bytes_of(state_, config, 1, dtypes[d], &size);
            for (int t = 0; t < 3; t++) {
                void *got = bytes_of(state_, config, threads[t], dtypes[d], &other);
                if (other != size || memcmp(got, want, size) != 0)
                    FAIL_AT("%s: %d threads give other bytes than one", texts[i], threads[t]);
                free(got);
            }
            free(want);
        }
        nib_config_free(config);
    }
}

/* torchao and quanto stop when the whole matrix stops improving, so a row beside others may get
 * other codes than alone; but rows that are alike stay so. */
TEST(equal_rows_have_equal_codes_wherever_they_stand) {
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        nib_config *config = nib_config_parse(texts[i]);
        if (!config) continue;
        nib_ctx *ctx = nib_ctx_new(&(nib_ctx_options){.threads = 3});
        nib_tensor *w = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {ROWS, COLS}});
        float *data = nib_tensor_data_mut(w);
        uint64_t seed = test_seed();
        for (int64_t c = 0; c < COLS; c++) data[c] = test_uniform(&seed);
        for (int64_t r = 1; r < ROWS; r++) memcpy(data + r * COLS, data, COLS * sizeof *data);
        const nib_site site = {"linear", "w", nib_tensor_shape(w), NIB_F32};
        nib_codes codes;
        CHECK_OK(nib_scheme_codes(config, &site, w, &codes));
        const uint8_t *q = codes.q;
        const int64_t groups = COLS / codes.desc.block_cols;
        for (int64_t r = 1; r < ROWS; r++) {
            CHECK_BYTES(q + r * COLS, q, COLS);
            CHECK_BYTES(codes.scale + r * groups, codes.scale, (size_t)groups * sizeof(float));
        }
        nib_codes_free(nib_ctx_mem(ctx), &codes);
        nib_tensor_free(w);
        nib_ctx_free(ctx);
        nib_config_free(config);
    }
}

TESTS(RUNS(any_number_of_threads_gives_the_same_bytes),
      RUNS(equal_rows_have_equal_codes_wherever_they_stand))
