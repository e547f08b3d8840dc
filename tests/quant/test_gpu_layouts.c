/* awq_v2, awq_gemm, marlin_int4, marlin_f8 and the two parts of tinygemm: the bytes of
 * optimum-quanto's own packing (tests/golden/quanto/make_gpu_layouts.py), the way back, and
 * products. */
#include <nibble/extend.h>
#include <nibble/nn.h>

#include "golden_file.h"
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/tensor.h"
#include "test.h"

GOLDEN_FILE("tests/golden/quanto/gpu_layouts.safetensors")

typedef struct shape {
    int64_t rows, cols;
} shape;

static nib_qdesc bits_desc(shape s, nib_dtype math) {
    return (nib_qdesc){.code = NIB_U4,
                       .scale_dtype = math,
                       .zero_dtype = math,
                       .math = math,
                       .zero_kind = NIB_ZERO_SHIFT,
                       .shape = {2, {s.rows, s.cols}},
                       .rows = s.rows,
                       .cols = s.cols,
                       .block_rows = 1,
                       .block_cols = 128};
}

static nib_qdesc points_desc(shape s, nib_dtype code) {
    nib_qdesc d = bits_desc(s, NIB_F16);
    d.code = code;
    d.zero_kind = NIB_ZERO_POINT;
    d.zero_dtype = NIB_I8;
    return d;
}

static nib_qdesc f8_desc(shape s, nib_dtype math) {
    nib_qdesc d = bits_desc(s, math);
    d.code = NIB_F8_E4M3FN;
    d.zero_kind = NIB_ZERO_NONE;
    d.zero_dtype = (nib_dtype)0;
    d.block_cols = s.cols;
    return d;
}

/* ---- upstream's bytes ---- */

static const nib_safetensors_entry *entry_of(void **state_, shape s, const char *name) {
    char text[96];
    snprintf(text, sizeof text, "%lldx%lld.%s", (long long)s.rows, (long long)s.cols, name);
    const nib_safetensors_entry *entry = nib_safetensors_find(file, text);
    if (!entry) FAIL_AT("no %s in the golden file", text);
    return entry;
}

static const void *bytes_of(void **state_, shape s, const char *name) {
    return nib_safetensors_data(file, entry_of(state_, s, name));
}

/* Codes as upstream's canonical tensor has them, `kind` "u4" or "f8". */
static nib_codes codes_of(void **state_, const nib_qdesc *d, const char *kind) {
    const shape s = {d->rows, d->cols};
    char name[16];
    nib_codes codes;
    CHECK_OK(nib_codes_alloc(NULL, d, &codes));
    snprintf(name, sizeof name, "%s.q", kind);
    memcpy(codes.q, bytes_of(state_, s, name), (size_t)(d->rows * d->cols));
    snprintf(name, sizeof name, "%s.scale", kind);
    const size_t blocks = (size_t)nib_qdesc_blocks(d);
    nib_to_f32(d->scale_dtype, codes.scale, bytes_of(state_, s, name), blocks);
    if (codes.zero) nib_to_f32(d->zero_dtype, codes.zero, bytes_of(state_, s, "u4.shift"), blocks);
    return codes;
}

static void check_same(void **state_, const nib_codes *got, const nib_codes *want) {
    const size_t blocks = (size_t)nib_qdesc_blocks(&want->desc) * sizeof(float);
    CHECK_BYTES(got->q, want->q, want->desc.rows * want->desc.cols);
    CHECK_BYTES(got->scale, want->scale, blocks);
    if (want->zero) CHECK_BYTES(got->zero, want->zero, blocks);
}

/* Every part is upstream's in dtype, shape and bytes, and upstream's bytes give the codes. */
static void check_golden(void **state_, const char *layout, const nib_codes *codes) {
    const shape s = {codes->desc.rows, codes->desc.cols};
    nib_part parts[NIB_MAX_PARTS];
    void *part[NIB_MAX_PARTS] = {0};
    const void *theirs[NIB_MAX_PARTS] = {0};
    int count;
    CHECK_OK(nib_layout_parts(layout, &codes->desc, parts, &count));
    for (int i = 0; i < count; i++) part[i] = malloc(nib_part_bytes(&parts[i]));
    CHECK_OK(nib_pack(layout, codes, part));
    for (int i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", layout, parts[i].suffix);
        const nib_safetensors_entry *entry = entry_of(state_, s, name);
        CHECK_INT(entry->dtype, parts[i].dtype);
        CHECK(nib_shape_equal(&entry->shape, &parts[i].shape));
        theirs[i] = nib_safetensors_data(file, entry);
        CHECK_BYTES(part[i], theirs[i], nib_part_bytes(&parts[i]));
        free(part[i]);
    }
    nib_codes back;
    CHECK_OK(nib_codes_alloc(NULL, &codes->desc, &back));
    CHECK_OK(nib_unpack(layout, &codes->desc, theirs, 0, &back));
    check_same(state_, &back, codes);
    nib_codes_free(NULL, &back);
}

static const shape golden[] = {{64, 128}, {64, 384}, {128, 256}};
enum { GOLDEN = sizeof golden / sizeof *golden };

TEST(awq_and_marlin_int4_are_upstreams_bytes_and_back) {
    for (int i = 0; i < GOLDEN; i++) {
        const nib_qdesc d = bits_desc(golden[i], NIB_F16);
        nib_codes codes = codes_of(state_, &d, "u4");
        check_golden(state_, "awq_v2", &codes);
        check_golden(state_, "marlin_int4", &codes);
        nib_codes_free(NULL, &codes);
    }
}

TEST(marlin_f8_is_what_upstream_unpacks_to_its_codes) {
    const nib_qdesc f16 = f8_desc((shape){128, 64}, NIB_F16),
                    bf16 = f8_desc((shape){192, 128}, NIB_BF16);
    nib_codes a = codes_of(state_, &f16, "f8"), b = codes_of(state_, &bf16, "f8");
    check_golden(state_, "marlin_f8", &a);
    check_golden(state_, "marlin_f8", &b);
    nib_codes_free(NULL, &a);
    nib_codes_free(NULL, &b);
}

/* Version 1 packs eight columns a word: plainly, as intx does; or reordered, as awq_gemm does with
 * the rows of the transposed matrix. */
TEST(the_first_packing_of_awq_is_intx_or_awq_gemm) {
    for (int i = 0; i < GOLDEN; i++) {
        const shape s = golden[i];
        nib_qdesc d = bits_desc(s, NIB_F16);
        nib_codes codes = codes_of(state_, &d, "u4");
        const size_t size = (size_t)(s.rows * s.cols / 2);
        void *part[] = {malloc(size), malloc(size), malloc(size)};
        CHECK_OK(nib_pack("intx", &codes, part));
        CHECK_BYTES(part[0], bytes_of(state_, s, "awq_v1.plain"), size);
        codes.desc = points_desc(s, NIB_U4);
        memset(codes.zero, 0, (size_t)nib_qdesc_blocks(&d) * sizeof(float));
        CHECK_OK(nib_pack("awq_gemm", &codes, part));
        CHECK_BYTES(part[0], bytes_of(state_, s, "awq_gemm.qweight"), size);
        const nib_qdesc across = points_desc((shape){s.cols, s.rows}, NIB_U4);
        nib_codes turned;
        nib_qdesc one = across;
        one.block_cols = s.rows;
        CHECK_OK(nib_codes_alloc(NULL, &one, &turned));
        for (int64_t n = 0; n < s.rows; n++)
            for (int64_t k = 0; k < s.cols; k++)
                ((uint8_t *)turned.q)[k * s.rows + n] = ((uint8_t *)codes.q)[n * s.cols + k];
        CHECK_OK(nib_pack("awq_gemm", &turned, part));
        CHECK_BYTES(part[0], bytes_of(state_, s, "awq_v1.reordered"), size);
        for (int p = 0; p < 3; p++) free(part[p]);
        nib_codes_free(NULL, &turned);
        nib_codes_free(NULL, &codes);
    }
}

/* Scale and middle of the range side by side, all rows of a group; the shift that comes back is
 * upstream's, near the one given. */
TEST(tinygemm_has_upstreams_scales_and_middles) {
    for (int i = 0; i < GOLDEN; i++) {
        const shape s = golden[i];
        nib_qdesc d = bits_desc(s, NIB_BF16);
        d.zero_kind = NIB_ZERO_MID;
        nib_codes codes, back;
        CHECK_OK(nib_codes_alloc(NULL, &d, &codes));
        CHECK_OK(nib_codes_alloc(NULL, &d, &back));
        const size_t blocks = (size_t)nib_qdesc_blocks(&d);
        float *given = malloc(blocks * sizeof(float)), *returned = malloc(blocks * sizeof(float));
        nib_to_f32(NIB_BF16, codes.scale, bytes_of(state_, s, "tinygemm.scale"), blocks);
        nib_to_f32(NIB_BF16, given, bytes_of(state_, s, "tinygemm.given"), blocks);
        nib_to_f32(NIB_BF16, returned, bytes_of(state_, s, "tinygemm.shift"), blocks);
        for (size_t b = 0; b < blocks; b++)
            codes.zero[b] = nib_round_to(8 * codes.scale[b] - given[b], NIB_BF16);
        nib_part parts[NIB_MAX_PARTS];
        void *part[2];
        int count;
        CHECK_OK(nib_layout_parts("int4_tile_packed", &d, parts, &count));
        for (int p = 0; p < 2; p++) part[p] = malloc(nib_part_bytes(&parts[p]));
        CHECK_OK(nib_pack("int4_tile_packed", &codes, part));
        CHECK_BYTES(part[1], bytes_of(state_, s, "tinygemm.scale_shift"), blocks * 4);
        CHECK_OK(nib_unpack("int4_tile_packed", &d, (const void *const *)part, 0, &back));
        for (size_t b = 0; b < blocks; b++) {
            const float shift = nib_round_to(8 * back.scale[b] - back.zero[b], NIB_BF16);
            CHECK_NEAR(shift, returned[b], 0.0);
            CHECK_NEAR(shift, given[b], 8 * back.scale[b] / 128); /* two roundings to 8 bits */
        }
        for (int p = 0; p < 2; p++) free(part[p]);
        free(given);
        free(returned);
        nib_codes_free(NULL, &codes);
        nib_codes_free(NULL, &back);
    }
}

/* ---- any size ---- */

/* A quantized tensor with random codes, in the layout that such codes have by themselves. */
static nib_tensor *random_tensor(void **state_, const nib_qdesc *d, uint64_t *seed) {
    nib_codes codes;
    CHECK_OK(nib_codes_alloc(NULL, d, &codes));
    const bool f8 = !nib_qdesc_integer(d), is_signed = nib_qdesc_signed(d);
    for (int64_t i = 0; i < d->rows * d->cols; i++) {
        const int any = (int)(test_random(seed) & (f8 ? 0xff : 15));
        ((uint8_t *)codes.q)[i] =
            (uint8_t)(f8 ? (any & 0x7f) == 0x7f ? 0x10 : any : any - (is_signed ? 8 : 0));
    }
    for (int64_t i = 0; i < nib_qdesc_blocks(d); i++) {
        codes.scale[i] = nib_round_to(0.002f + 0.001f * test_uniform(seed), d->scale_dtype);
        if (codes.zero)
            codes.zero[i] = d->zero_kind == NIB_ZERO_POINT
                                ? (float)((int)(test_random(seed) & 15) - (is_signed ? 8 : 0))
                                : nib_round_to(0.02f * test_uniform(seed), d->zero_dtype);
    }
    nib_tensor *t = nib_pack_tensor(ctx, nib_layout_for(d), &codes);
    nib_codes_free(NULL, &codes);
    CHECK_MADE(t);
    return t;
}

static void check_there_and_back(void **state_, const nib_qdesc *d, const char *layout,
                                 uint64_t *seed) {
    const size_t mark = nib_scope_begin(ctx);
    nib_tensor *t = random_tensor(state_, d, seed);
    const nib_tensor *there = nib_repack(t, layout);
    CHECK_MADE(there);
    CHECK_TEXT(nib_tensor_layout(there), layout);
    const nib_tensor *back = nib_repack(there, nib_tensor_layout(t));
    CHECK_MADE(back);
    CHECK_INT(back->nparts, t->nparts);
    nib_part parts[NIB_MAX_PARTS];
    t->layout->parts(&t->desc, parts);
    for (int i = 0; i < t->nparts; i++)
        CHECK_BYTES(nib_tensor_part(back, i), nib_tensor_part(t, i), nib_part_bytes(&parts[i]));
    nib_tensor_free(t);
    nib_scope_end(ctx, mark);
}

TEST(every_size_goes_there_and_comes_back) {
    static const int64_t sizes[] = {128, 256, 512, 1024};
    uint64_t seed = test_seed();
    for (int n = 0; n < 4; n++)
        for (int k = 0; k < 4; k++) {
            const shape s = {sizes[n], sizes[k]};
            nib_qdesc bits = bits_desc(s, NIB_F16), tiny = bits_desc(s, NIB_BF16);
            tiny.zero_kind = NIB_ZERO_MID;
            const nib_qdesc points = points_desc(s, NIB_U4), ints = points_desc(s, NIB_I4),
                            f8 = f8_desc(s, k % 2 ? NIB_F16 : NIB_BF16);
            check_there_and_back(state_, &bits, "awq_v2", &seed);
            check_there_and_back(state_, &bits, "marlin_int4", &seed);
            check_there_and_back(state_, &f8, "marlin_f8", &seed);
            check_there_and_back(state_, &points, "awq_gemm", &seed);
            check_there_and_back(state_, &ints, "awq_gemm", &seed);
            check_there_and_back(state_, &tiny, "int4_tile_packed", &seed);
        }
}

/* ---- products ---- */

/* Upstream asks its kernels for a cosine within 5e-3 (AWQ), 1e-3 (Marlin int4) or the resolution of
 * the dtype (float8). Here a product is the same bits from every layout, and differs from that of
 * the floats by no more than their roundings to the dtype: two of at most half a unit each. */
static void check_product(void **state_, const nib_qdesc *d, const char *layout, uint64_t *seed) {
    enum { M = 17 };
    const size_t mark = nib_scope_begin(ctx);
    const int64_t N = d->rows, K = d->cols;
    nib_tensor *t = random_tensor(state_, d, seed);
    nib_tensor *x = nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {M, K}});
    float *data = nib_tensor_data_mut(x);
    for (int64_t i = 0; i < M * K; i++) data[i] = test_uniform(seed);
    const nib_tensor *packed = nib_repack(t, layout);
    const nib_tensor *y = nib_linear(x, packed, NIB_NONE), *same = nib_linear(x, t, NIB_NONE);
    const nib_tensor *plain = nib_dequantize(packed);
    CHECK(y && same && plain);
    CHECK_BYTES(nib_tensor_data(y), nib_tensor_data(same), M * N * 4);
    nib_module *layer = nib_linear_new(ctx, nib_tensor_retain(packed), NIB_NONE);
    CHECK_OK(nib_prepare(layer));
    CHECK(nib_module_parameter(layer, "weight")->layout->kernel);
    const nib_tensor *prepared = nib_module_forward(layer, x);
    CHECK_MADE(prepared);
    CHECK_BYTES(nib_tensor_data(prepared), nib_tensor_data(same), M * N * 4);
    nib_module_free(layer);
    float *w = malloc((size_t)(N * K) * sizeof *w);
    nib_to_f32(d->math, w, nib_tensor_data(plain), (size_t)(N * K));
    const float *got = nib_tensor_data(y);
    const double unit = d->math == NIB_F16 ? 0x1p-10 : 0x1p-7;
    double largest = 0; /* of what is rounded: weights, and scales times codes */
    for (int64_t i = 0; i < N * K; i++) largest = fmax(largest, fabs((double)w[i]));
    if (d->zero_kind != NIB_ZERO_NONE) largest = fmax(largest, 15 * 0.003);
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < N; n++) {
            double sum = 0, inputs = 0;
            for (int64_t k = 0; k < K; k++) {
                const double product = (double)data[m * K + k] * (double)w[n * K + k];
                sum += product;
                inputs += fabs((double)data[m * K + k]);
            }
            CHECK_NEAR(got[m * N + n], sum, unit * largest * inputs);
        }
    free(w);
    nib_tensor_free(x);
    nib_tensor_free(t);
    nib_scope_end(ctx, mark);
}

TEST(products_of_packed_weights_are_those_of_their_floats) {
    uint64_t seed = test_seed();
    const shape shapes[] = {{128, 256}, {192, 1024}};
    for (int i = 0; i < 2; i++) {
        const nib_qdesc bits = bits_desc(shapes[i], NIB_F16),
                        points = points_desc(shapes[i], NIB_U4), f8 = f8_desc(shapes[i], NIB_BF16);
        check_product(state_, &bits, "awq_v2", &seed);
        check_product(state_, &bits, "marlin_int4", &seed);
        check_product(state_, &f8, "marlin_f8", &seed);
        check_product(state_, &points, "awq_gemm", &seed);
    }
}

/* ---- what is refused ---- */

static void check_refused(void **state_, const char *layout, const nib_qdesc *d, const char *text) {
    nib_part parts[NIB_MAX_PARTS];
    int count;
    CHECK_FAILS(nib_layout_parts(layout, d, parts, &count), NIB_E_UNSUPPORTED, text);
}

TEST(what_does_not_fit_is_refused_with_what_would) {
    nib_qdesc d = bits_desc((shape){126, 256}, NIB_F16);
    check_refused(state_, "awq_v2", &d, "of shape [126, 256]");
    check_refused(state_, "awq_v2", &d, "rows a multiple of 4");
    check_refused(state_, "marlin_int4", &d, "rows a multiple of 64");
    d = bits_desc((shape){128, 256}, NIB_BF16);
    check_refused(state_, "awq_v2", &d, "with a scale of bf16");
    check_refused(state_, "marlin_int4", &d, "it wants uint4 codes with float16 scales");
    d = bits_desc((shape){128, 256}, NIB_F16);
    d.block_cols = 64;
    check_refused(state_, "awq_v2", &d, "for 1 x 64");
    check_refused(state_, "marlin_int4", &d, "for 1 x 64");
    d.block_cols = 128;
    d.code = NIB_U2;
    check_refused(state_, "awq_v2", &d, "u2 codes");
    d = f8_desc((shape){96, 128}, NIB_F16);
    check_refused(state_, "marlin_f8", &d, "rows a multiple of 64");
    d = f8_desc((shape){128, 72}, NIB_F16);
    check_refused(state_, "marlin_f8", &d, "columns of 16");
    d = f8_desc((shape){128, 128}, NIB_F32);
    check_refused(state_, "marlin_f8", &d, "with a scale of f32");
    d = f8_desc((shape){128, 128}, NIB_F16);
    d.code = NIB_F8_E5M2;
    check_refused(state_, "marlin_f8", &d, "f8_e5m2");
    d = points_desc((shape){12, 128}, NIB_U4);
    check_refused(state_, "awq_gemm", &d, "rows a multiple of 8");
}

TEST(repacking_refuses_what_has_no_codes_and_what_is_no_layout) {
    const size_t mark = nib_scope_begin(ctx);
    uint64_t seed = test_seed();
    const nib_qdesc d = bits_desc((shape){128, 128}, NIB_F16);
    nib_tensor *t = random_tensor(state_, &d, &seed);
    const nib_tensor *dense = nib_dequantize(t);
    CHECK(!nib_repack(dense, "awq_v2"));
    CHECK(strstr(nib_last_error()->what, "dense tensor"));
    CHECK(!nib_repack(t, "awq"));
    CHECK(strstr(nib_last_error()->what, "no layout \"awq\""));
    CHECK(!nib_repack(t, "marlin_f8"));
    CHECK_INT(nib_last_error()->status, NIB_E_UNSUPPORTED);
    nib_tensor_free(t);
    nib_scope_end(ctx, mark);
}

/* awq_gemm has 4 bits for a zero point, other layouts a byte. */
TEST(repacking_refuses_what_would_not_come_back) {
    const size_t mark = nib_scope_begin(ctx);
    uint64_t seed = test_seed();
    const nib_qdesc d = points_desc((shape){16, 128}, NIB_U4);
    nib_tensor *t = random_tensor(state_, &d, &seed);
    CHECK_MADE(nib_repack(t, "awq_gemm"));
    nib_codes codes;
    CHECK_OK(nib_unpack_rows(t, 0, d.rows, &codes));
    codes.zero[5] = 16;
    nib_tensor *far = nib_pack_tensor(ctx, nib_layout_find("intx"), &codes);
    CHECK_MADE(far);
    CHECK_MADE(nib_repack(far, "intx"));
    CHECK_FAILS(nib_repack(far, "awq_gemm") ? NIB_OK : nib_last_error()->status, NIB_E_UNSUPPORTED,
                "awq_gemm has too few bits for some of these zeros");
    nib_codes_free(nib_ctx_mem(ctx), &codes);
    nib_tensor_free(far);
    nib_tensor_free(t);
    nib_scope_end(ctx, mark);
}

GOLDEN_TESTS(RUNS(awq_and_marlin_int4_are_upstreams_bytes_and_back),
             RUNS(marlin_f8_is_what_upstream_unpacks_to_its_codes),
             RUNS(the_first_packing_of_awq_is_intx_or_awq_gemm),
             RUNS(tinygemm_has_upstreams_scales_and_middles),
             RUNS(every_size_goes_there_and_comes_back),
             RUNS(products_of_packed_weights_are_those_of_their_floats),
             RUNS(what_does_not_fit_is_refused_with_what_would),
             RUNS(repacking_refuses_what_has_no_codes_and_what_is_no_layout),
             RUNS(repacking_refuses_what_would_not_come_back))
