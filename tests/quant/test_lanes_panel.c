/* Codes in lanes lie where kernel.h says, and their corrections are the sums of docs/numerics.md,
 * for every shape that does and does not fill cells, panels and blocks. */
#include "quant/lanes_lay.h"

#include <math.h>
#include <string.h>

#include "quant/codes.h"
#include "quant/layouts.h"
#include "test.h"

typedef struct subject {
    nib_dtype code, zero_dtype;
    nib_zero zero;
} subject;

static const subject subjects[] = {
    {NIB_I8, NIB_F32, NIB_ZERO_NONE},      {NIB_U8, NIB_F32, NIB_ZERO_SHIFT},
    {NIB_I8, NIB_I8, NIB_ZERO_POINT},      {NIB_I4, NIB_F32, NIB_ZERO_MID},
    {NIB_U4, NIB_F32, NIB_ZERO_SHIFT},     {NIB_I2, NIB_F32, NIB_ZERO_NONE},
    {NIB_U2, NIB_F32, NIB_ZERO_SHIFT},     {NIB_F8_E4M3FN, NIB_F32, NIB_ZERO_NONE},
    {NIB_F8_E5M2, NIB_F32, NIB_ZERO_NONE}, {NIB_I1, NIB_F32, NIB_ZERO_NONE},
    {NIB_U3, NIB_F32, NIB_ZERO_MID},       {NIB_I5, NIB_I8, NIB_ZERO_POINT},
    {NIB_I6, NIB_F32, NIB_ZERO_NONE},      {NIB_U7, NIB_F32, NIB_ZERO_SHIFT},
};

/* u of a channel and column as kernel.h lays them; narrow floats: the byte. */
static int lane_at(const uint8_t *lanes, const nib_qdesc *d, int64_t padded, int64_t n, int64_t k) {
    const int bits = nib_qdesc_bits(d);
    const int64_t c = n % NIB_PANEL;
    const uint8_t *panel = lanes + n / NIB_PANEL * padded * NIB_PANEL * bits / 8;
    if (!nib_qdesc_integer(d)) return panel[k * NIB_PANEL + c];
    int code = 0, shift = 0;
    for (int plane = bits == 8 ? 8 : 4; plane; plane /= 2) {
        if (!(bits & plane)) continue;
        const int cell = 32 / plane;
        const uint8_t byte = panel[k / cell * 64 + c * 4 + k % 4];
        code |= (byte >> plane * (k % cell / 4) & ((1 << plane) - 1)) << shift;
        shift += plane;
        panel += padded * NIB_PANEL * plane / 8;
    }
    return code;
}

static void check(void **state_, const nib_qdesc *d, uint64_t *seed) {
    const nib_layout *lanes = nib_layout_of_kernel(d);
    const int bits = nib_qdesc_bits(d), count = d->zero_kind == NIB_ZERO_NONE ? 3 : 4;
    const bool integer = nib_qdesc_integer(d);
    const int bias = integer && nib_qdesc_signed(d) ? 1 << (bits - 1) : 0;
    const int mid = !integer ? 0 : bias + (d->zero_kind == NIB_ZERO_MID ? nib_qdesc_mid(d) : 0);
    const int64_t cell = bits & (bits - 1) ? 32 : 32 / bits,
                  padded = (d->cols + cell - 1) / cell * cell;
    const int64_t rows = (d->rows + NIB_PANEL - 1) / NIB_PANEL * NIB_PANEL;
    const int64_t groups = nib_qdesc_block_cols(d);
    nib_codes codes;
    CHECK(lanes != NULL);
    CHECK_OK(nib_codes_alloc(NULL, d, &codes));
    uint8_t *q = codes.q;
    for (int64_t i = 0; i < d->rows * d->cols; i++) {
        q[i] = (uint8_t)(test_random(seed) & ((1u << bits) - 1));
        if (bias && bits < 8) q[i] = (uint8_t)((q[i] ^ bias) - bias);
    }
    for (int64_t i = 0; i < nib_qdesc_blocks(d); i++) {
        codes.scale[i] = test_uniform(seed);
        if (codes.zero)
            codes.zero[i] =
                d->zero_dtype == NIB_I8 ? (float)(test_random(seed) % 9) - 4 : test_uniform(seed);
    }
    nib_part parts[NIB_MAX_PARTS];
    void *part[NIB_MAX_PARTS] = {0};
    CHECK(lanes->parts(d, parts) == count);
    for (int i = 0; i < count; i++) {
        part[i] = aligned_alloc(64, (nib_part_bytes(&parts[i]) + 63) / 64 * 64);
        memset(part[i], 0xa5, nib_part_bytes(&parts[i]));
    }
    lanes->pack(part, &codes);
    const float *correction = part[count - 1];
    for (int64_t n = 0; n < rows; n++) {
        float sum = 0;
        for (int64_t k = 0; k < padded; k++) {
            const bool there = n < d->rows && k < d->cols;
            const int want = !there    ? mid
                             : integer ? (q[n * d->cols + k] + bias) & ((1 << bits) - 1)
                                       : q[n * d->cols + k];
            const int got = lane_at(part[0], d, padded, n, k);
            if (got != want)
                FAIL_AT("%s [%lld, %lld]: channel %lld, column %lld is %d, not %d",
                        nib_dtype_name(d->code), (long long)d->rows, (long long)d->cols,
                        (long long)n, (long long)k, got, want);
        }
        for (int64_t g = 0; integer && n < d->rows && g < groups; g++) {
            const int64_t G = groups == 1 ? d->cols : d->block_cols;
            int32_t of_c = 0;
            for (int64_t k = g * G; k < (g + 1) * G; k++)
                of_c += (q[n * d->cols + k] + bias) % (1 << bits) - mid;
            sum = fmaf(codes.scale[n * groups + g], (float)of_c, sum);
            if (codes.zero) sum = fmaf(nib_codes_offset(&codes, n * groups + g), (float)G, sum);
        }
        if (correction[n] != sum)
            FAIL_AT("%s [%lld, %lld] by %lld: correction %lld is %g, not %g",
                    nib_dtype_name(d->code), (long long)d->rows, (long long)d->cols,
                    (long long)d->block_cols, (long long)n, (double)correction[n], (double)sum);
    }
    for (int i = 0; i < count; i++) free(part[i]);
    nib_codes_free(NULL, &codes);
}

TEST(codes_lie_in_lanes_where_kernels_look_for_them) {
    const int64_t shapes[][3] = {{16, 32, 32},     {1, 1, 1},      {17, 33, 33},
                                 {31, 1027, 1027}, {32, 2048, 64}, {16, 1024, 512},
                                 {40, 2112, 2112}, {3, 96, 32},    {16, 3072, 1536}};
    uint64_t seed = test_seed();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
            const int64_t *n = shapes[s];
            const nib_qdesc d = {.rows = n[0],
                                 .cols = n[1],
                                 .shape = {2, {n[0], n[1]}},
                                 .block_rows = 1,
                                 .block_cols = n[2],
                                 .code = subjects[i].code,
                                 .scale_dtype = NIB_F32,
                                 .zero_kind = subjects[i].zero,
                                 .zero_dtype = subjects[i].zero ? subjects[i].zero_dtype : 0,
                                 .math = NIB_F32};
            check(state_, &d, &seed);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {RUNS(codes_lie_in_lanes_where_kernels_look_for_them)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
