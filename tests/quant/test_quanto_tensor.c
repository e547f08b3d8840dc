/* Tensors quantized along either axis, of three dimensions, in groups of any size, with shifts or
 * zero points, against optimum-quanto: tests/golden/quanto/make_tensor.py. Along the last axis
 * means: the rows of the transposed matrix. */
#include "base/halffloat.h"
#include "golden_file.h"
#include "quanto_golden.h"
#include "tensor/dtype.h"
#include "test.h"

GOLDEN_FILE("tests/golden/quanto/tensor.safetensors")

enum { MOST = 16 * 16 };

static const char *const shapes[] = {"2d", "3d"}, *const dtypes[] = {"f32", "f16"},
                         *const axes[] = {"first", "last"};

/* a as a matrix whose rows have scales of their own; caller owns. */
static nib_tensor *matrix_of(const char *shape, const char *dtype, bool last) {
    nib_tensor *a = golden_tensor(ctx, file, "%s.%s.a", shape, dtype);
    const int n = a->shape.ndim;
    const int64_t count = nib_tensor_count(a), rows = a->shape.dim[last ? n - 1 : 0],
                  cols = count / rows, width = nib_dtype_bits(a->dtype) / 8;
    nib_tensor *t = nib_tensor_new(ctx, a->dtype, (nib_shape){2, {rows, cols}});
    char *to = nib_tensor_data_mut(t);
    const char *from = nib_tensor_data(a);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            memcpy(to + (r * cols + c) * width, from + (last ? c * rows + r : r * cols + c) * width,
                   (size_t)width);
    nib_tensor_free(a);
    return t;
}

static void floats_of(const nib_tensor *t, float *out) {
    for (int64_t i = 0; i < nib_tensor_count(t); i++)
        out[i] = t->dtype == NIB_F32 ? ((const float *)nib_tensor_data(t))[i]
                                     : nib_f16_to_f32(((const uint16_t *)nib_tensor_data(t))[i]);
}

static double cosine(const float *x, const float *y, int64_t n) {
    double xy = 0, xx = 0, yy = 0;
    for (int64_t i = 0; i < n; i++) {
        xy += (double)x[i] * (double)y[i];
        xx += (double)x[i] * (double)x[i];
        yy += (double)y[i] * (double)y[i];
    }
    return xy / sqrt(xx * yy);
}

TEST(codes_of_8_bits_and_scales_are_upstreams_along_either_axis) {
    static const char *const qtypes[] = {"qint8", "qfloat8_e4m3fn", "qfloat8_e4m3fnuz",
                                         "qfloat8_e5m2"};
    NEEDS_SCHEME("qint8");
    for (int k = 0; k < 32; k++) {
        const char *shape = shapes[k % 2], *dtype = dtypes[k / 2 % 2], *axis = axes[k / 4 % 2],
                   *q = qtypes[k / 8];
        nib_tensor *w = matrix_of(shape, dtype, k / 4 % 2);
        nib_config *config = nib_config_parse(q);
        nib_tensor *t = nib_quantize_tensor(w, config);
        CHECK_MADE(t);
        nib_tensor *data = golden_tensor(ctx, file, "%s.%s.%s.%s.data", shape, dtype, q, axis),
                   *scale = golden_tensor(ctx, file, "%s.%s.%s.%s.scale", shape, dtype, q, axis);
        CHECK(data && scale);
        CHECK_BYTES(nib_tensor_part(t, 0), nib_tensor_data(data), nib_tensor_bytes(data));
        CHECK_BYTES(nib_tensor_part(t, 1), nib_tensor_data(scale), nib_tensor_bytes(scale));
        nib_tensor_free(data);
        nib_tensor_free(scale);
        nib_tensor_free(w);
        nib_config_free(config);
    }
}

TEST(codes_of_4_and_2_bits_are_upstreams_in_groups_with_shifts_and_zero_points) {
    static const char *const modes[] = {"float", "zeropoint"};
    for (int k = 0; k < 64; k++) {
        const char *shape = shapes[k % 2], *dtype = dtypes[k / 2 % 2], *axis = axes[k / 4 % 2];
        const int bits = k / 8 % 2 ? 2 : 4, group = k / 16 % 2 ? 8 : 0;
        const bool point = k / 32;
        char key[96];
        snprintf(key, sizeof key, "%s.%s.qint%d.%s.%d.%s", shape, dtype, bits, axis, group,
                 modes[point]);
        nib_tensor *w = matrix_of(shape, dtype, k / 4 % 2);
        nib_tensor *data = golden_tensor(ctx, file, "%s.data", key),
                   *scales = golden_tensor(ctx, file, "%s.scale", key),
                   *shifts = golden_tensor(ctx, file, "%s.shift", key);
        CHECK(data && scales && shifts);
        const int64_t rows = w->shape.dim[0], cols = w->shape.dim[1], count = rows * cols;
        float scale[MOST], shift[MOST], a[MOST], back[MOST];
        uint8_t q[MOST];
        floats_of(scales, scale);
        floats_of(shifts, shift);
        floats_of(w, a);
        nib_codes codes = {.desc = {.code = bits == 4 ? NIB_U4 : NIB_U2,
                                    .scale_dtype = w->dtype,
                                    .zero_dtype = point ? NIB_I8 : w->dtype,
                                    .math = w->dtype,
                                    .zero_kind = point ? NIB_ZERO_POINT : NIB_ZERO_SHIFT,
                                    .shape = w->shape,
                                    .rows = rows,
                                    .cols = cols,
                                    .block_rows = 1,
                                    .block_cols = group ? group : cols},
                           .q = q,
                           .code_bytes = 1,
                           .scale = scale,
                           .zero = shift};
        CHECK_OK(nib_quantize_block(w, &codes));
        const uint8_t *want = nib_tensor_data(data);
        int off = 0; /* with zero points ours is w * (1 / s), upstream's w / s: ties may part */
        for (int64_t i = 0; i < count; i++) {
            off += q[i] != want[i];
            if (abs(q[i] - want[i]) > (point ? 1 : 0))
                FAIL_AT("%s: code %lld is %d, upstream's %d", key, (long long)i, q[i], want[i]);
        }
        CHECK(off <= count / 50);
        CHECK_OK(nib_dequantize_block(&codes, back));
        const double most = bits == 4 ? (point ? 4e-3 : 3e-3) : (point ? 6e-2 : 5e-2);
        if (!(1 - cosine(a, back, count) <= most))
            FAIL_AT("%s: 1 - cosine is %.3g", key, 1 - cosine(a, back, count));
        nib_tensor_free(data);
        nib_tensor_free(scales);
        nib_tensor_free(shifts);
        nib_tensor_free(w);
    }
}

TEST(whole_numbers_that_have_a_code_each_come_back_exactly) {
    for (int k = 0; k < 4; k++) {
        const int bits = k % 2 ? 2 : 4, n = 1 << bits, low = -n / 2;
        nib_tensor *w = nib_tensor_new(ctx, k / 2 ? NIB_F16 : NIB_F32, (nib_shape){2, {1, n}});
        float a[16], back[16], scale[1], zero[1];
        uint8_t q[16];
        for (int i = 0; i < n; i++) {
            a[i] = (float)(low + i);
            if (k / 2)
                ((uint16_t *)nib_tensor_data_mut(w))[i] = nib_f32_to_f16(a[i]);
            else
                ((float *)nib_tensor_data_mut(w))[i] = a[i];
        }
        nib_codes codes = {.desc = {.code = bits == 4 ? NIB_U4 : NIB_U2,
                                    .scale_dtype = w->dtype,
                                    .zero_dtype = NIB_I8,
                                    .math = w->dtype,
                                    .zero_kind = NIB_ZERO_POINT,
                                    .shape = w->shape,
                                    .rows = 1,
                                    .cols = n,
                                    .block_rows = 1,
                                    .block_cols = n},
                           .q = q,
                           .code_bytes = 1,
                           .scale = scale,
                           .zero = zero};
        CHECK_OK(nib_choose_qparams(w, NIB_MAP_ASYMMETRIC, 1e-6f, &codes));
        CHECK_OK(nib_quantize_block(w, &codes));
        CHECK_OK(nib_dequantize_block(&codes, back));
        for (int i = 0; i < n; i++) {
            CHECK_INT(q[i], i);
            CHECK_NEAR(back[i], a[i], 0);
        }
        nib_tensor_free(w);
    }
}

GOLDEN_TESTS(RUNS(codes_of_8_bits_and_scales_are_upstreams_along_either_axis),
             RUNS(codes_of_4_and_2_bits_are_upstreams_in_groups_with_shifts_and_zero_points),
             RUNS(whole_numbers_that_have_a_code_each_come_back_exactly))
