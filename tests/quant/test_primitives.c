/* The steps by themselves, as extend.h declares them. Expected values are worked out by hand. */
#include <nibble/extend.h>

#include "test.h"

typedef struct matrix {
    nib_ctx *ctx;
    nib_tensor *w;
    nib_codes codes;
    uint8_t q[64];
    float scale[16], zero[16];
} matrix;

static void open_matrix(void **state_, matrix *m, const float *w, int64_t rows, int64_t cols,
                        nib_dtype code, nib_zero kind, nib_dtype zero, int64_t group) {
    *m = (matrix){.ctx = nib_ctx_new(NULL)};
    m->w = nib_tensor_wrap(m->ctx, NIB_F32, (nib_shape){2, {rows, cols}}, w, NULL, NULL);
    CHECK_MADE(m->w);
    m->codes = (nib_codes){
        .desc = {.code = code,
                 .scale_dtype = NIB_F32,
                 .zero_dtype = zero,
                 .math = NIB_F32,
                 .zero_kind = kind,
                 .shape = {2, {rows, cols}},
                 .rows = rows,
                 .cols = cols,
                 .block_rows = 1,
                 .block_cols = group},
        .q = m->q,
        .code_bytes = 1,
        .scale = m->scale,
        .zero = kind ? m->zero : NULL,
    };
}

static void close_matrix(matrix *m) {
    nib_tensor_free(m->w);
    nib_ctx_free(m->ctx);
}

static const float ramp[8] = {-4, -3, -2, -1, 0, 1, 2, 3};

TEST(symmetric_divides_the_range_by_half_the_codes) {
    matrix m;
    const float w[8] = {-3.75f, -3, -2, -1, 0, 1, 2, 3};
    open_matrix(state_, &m, w, 1, 8, NIB_I4, NIB_ZERO_NONE, 0, 8);
    CHECK_OK(nib_choose_qparams(m.w, NIB_MAP_SYMMETRIC, 1e-7f, &m.codes));
    CHECK_NEAR(m.scale[0], 0.5f, 0.0f);
    CHECK_OK(nib_quantize_block(m.w, &m.codes));
    CHECK_INT((int8_t)m.q[0], -8); /* -7.5 goes to even */
    CHECK_INT((int8_t)m.q[7], 6);
    close_matrix(&m);
}

TEST(asymmetric_gives_zero_a_code_of_its_own) {
    matrix m;
    const float w[8] = {1, 2, 3, 4, 5, 6, 7, 15};
    open_matrix(state_, &m, w, 2, 4, NIB_U4, NIB_ZERO_POINT, NIB_I8, 4);
    CHECK_OK(nib_choose_qparams(m.w, NIB_MAP_ASYMMETRIC, 1e-7f, &m.codes));
    CHECK_NEAR(m.scale[1], 1.0f, 0.0f); /* the range is [0, 15] though the least weight is 5 */
    CHECK_NEAR(m.zero[1], 0.0f, 0.0f);
    CHECK_INT(m.q[7], 15);
    CHECK_INT(m.q[4], 5);
    close_matrix(&m);
}

TEST(min_to_max_puts_the_zero_at_the_middle_code) {
    matrix m;
    const float w[4] = {10, 11, 12, 25};
    open_matrix(state_, &m, w, 1, 4, NIB_U4, NIB_ZERO_MID, NIB_F32, 4);
    CHECK_OK(nib_choose_qparams(m.w, NIB_MAP_MIN_TO_MAX, 1e-7f, &m.codes));
    CHECK_NEAR(m.scale[0], 1.0f, 0.0f);
    CHECK_NEAR(m.zero[0], 18.0f, 0.0f);
    CHECK_INT(m.q[0], 0);
    CHECK_INT(m.q[3], 15);
    float back[4];
    CHECK_OK(nib_dequantize_block(&m.codes, back));
    CHECK_BYTES(back, w, sizeof w);
    close_matrix(&m);
}

TEST(quantizing_uses_the_scale_that_is_given) {
    matrix m;
    open_matrix(state_, &m, ramp, 1, 8, NIB_I4, NIB_ZERO_NONE, 0, 4);
    m.scale[0] = 2;
    m.scale[1] = 0.25f;
    CHECK_OK(nib_quantize_block(m.w, &m.codes));
    static const int want[8] = {-2, -2, -1, 0, 0, 4, 7, 7}; /* -1.5 and -0.5 to even; 8, 12 cut */
    for (int i = 0; i < 8; i++) CHECK_INT((int8_t)m.q[i], want[i]);
    close_matrix(&m);
}

TEST(a_weight_in_units_of_its_own_shift_comes_back) {
    matrix m;
    const float w[4] = {-1, 0, 1, 2};
    open_matrix(state_, &m, w, 1, 4, NIB_U2, NIB_ZERO_SHIFT, NIB_F32, 4);
    m.scale[0] = 1;
    m.zero[0] = 1; /* w = s q - z */
    CHECK_OK(nib_quantize_block(m.w, &m.codes));
    for (int i = 0; i < 4; i++) CHECK_INT(m.q[i], i);
    float back[4];
    CHECK_OK(nib_dequantize_block(&m.codes, back));
    CHECK_BYTES(back, w, sizeof w);
    close_matrix(&m);
}

TEST(float_codes_of_zeros_are_zeros) {
    matrix m;
    const float w[8] = {0, -0.0f, 0, 0, 448, 0, -224, 1};
    open_matrix(state_, &m, w, 2, 4, NIB_F8_E4M3FN, NIB_ZERO_NONE, 0, 4);
    CHECK_OK(nib_choose_qparams(m.w, NIB_MAP_ABSMAX, 0, &m.codes));
    CHECK_NEAR(m.scale[0], 0.0f, 0.0f);
    CHECK_NEAR(m.scale[1], 1.0f, 0.0f);
    for (int i = 0; i < 4; i++) CHECK_INT(m.q[i], 0);
    CHECK_INT(m.q[4], 0x7e);
    CHECK_INT(m.q[7], 0x38);
    close_matrix(&m);
}

TEST(packing_by_name_and_back) {
    matrix m;
    static const float w[64] = {0};
    open_matrix(state_, &m, w, 2, 32, NIB_I4, NIB_ZERO_MID, NIB_F32, 32);
    static const int8_t codes[4] = {0, -5, 1, 7};
    for (int i = 0; i < 64; i++) m.q[i] = (uint8_t)codes[i % 4];
    nib_part parts[NIB_MAX_PARTS];
    int count;
    CHECK_OK(nib_layout_parts("int4_plain", &m.codes.desc, parts, &count));
    CHECK_INT(count, 3);
    CHECK_TEXT(parts[1].suffix, "scale");
    CHECK_INT(parts[1].shape.dim[0], 1); /* [K / G, N] */
    CHECK_INT(parts[1].shape.dim[1], 2);
    uint8_t packed[32];
    float scale[2], zero[2];
    void *const to[] = {packed, scale, zero};
    CHECK_OK(nib_pack("int4_plain", &m.codes, to));
    CHECK_INT(packed[0], 0xb0);
    CHECK_INT(packed[1], 0x71);
    matrix half = m;
    half.codes.q = half.q;
    half.codes.scale = half.scale;
    half.codes.zero = half.zero;
    half.codes.desc.rows = half.codes.desc.shape.dim[0] = 1;
    memset(half.q, 0x55, sizeof half.q);
    CHECK_OK(nib_unpack("int4_plain", &m.codes.desc, (const void *const *)to, 1, &half.codes));
    CHECK_BYTES(half.q, m.q + 32, 32);
    CHECK_FAILS(nib_unpack("int4_plain", &m.codes.desc, (const void *const *)to, 2, &half.codes),
                NIB_E_SHAPE, "rows 2 to 3 of a matrix with 2");
    close_matrix(&m);
}

TEST(what_does_not_agree_is_refused) {
    matrix m;
    open_matrix(state_, &m, ramp, 1, 8, NIB_I4, NIB_ZERO_NONE, 0, 8);
    CHECK_FAILS(nib_choose_qparams(m.w, NIB_MAP_MIN_TO_MAX, 0, &m.codes), NIB_E_ARGUMENT,
                "kind of zero");
    CHECK_FAILS(nib_choose_qparams(m.w, NIB_MAP_ABSMAX, 0, &m.codes), NIB_E_ARGUMENT, "codes");
    CHECK_FAILS(nib_choose_qparams(m.w, (nib_mapping)99, 0, &m.codes), NIB_E_ARGUMENT,
                "no mapping");
    m.codes.desc.math = NIB_BF16;
    CHECK_FAILS(nib_quantize_block(m.w, &m.codes), NIB_E_DTYPE, "f32");
    m.codes.desc.math = NIB_F32;
    m.codes.desc.rows = m.codes.desc.shape.dim[0] = 2;
    CHECK_FAILS(nib_quantize_block(m.w, &m.codes), NIB_E_SHAPE, "[1, 8]");
    m.codes.scale = NULL;
    CHECK_FAILS(nib_quantize_block(m.w, &m.codes), NIB_E_ARGUMENT, "memory");
    close_matrix(&m);
}

TEST(a_zero_point_is_a_whole_number_near_the_codes) {
    matrix m;
    open_matrix(state_, &m, ramp, 1, 8, NIB_U4, NIB_ZERO_POINT, NIB_I8, 8);
    m.scale[0] = 1;
    m.zero[0] = 1e9f;
    CHECK_FAILS(nib_quantize_block(m.w, &m.codes), NIB_E_ARGUMENT, "whole number");
    m.zero[0] = 0.5f;
    CHECK_FAILS(nib_quantize_block(m.w, &m.codes), NIB_E_ARGUMENT, "whole number");
    m.zero[0] = NAN;
    float back[8];
    CHECK_FAILS(nib_dequantize_block(&m.codes, back), NIB_E_ARGUMENT, "whole number");
    close_matrix(&m);
}

TESTS(RUNS(symmetric_divides_the_range_by_half_the_codes),
      RUNS(asymmetric_gives_zero_a_code_of_its_own),
      RUNS(min_to_max_puts_the_zero_at_the_middle_code),
      RUNS(quantizing_uses_the_scale_that_is_given),
      RUNS(a_weight_in_units_of_its_own_shift_comes_back), RUNS(float_codes_of_zeros_are_zeros),
      RUNS(packing_by_name_and_back), RUNS(what_does_not_agree_is_refused),
      RUNS(a_zero_point_is_a_whole_number_near_the_codes))
