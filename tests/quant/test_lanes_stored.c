/* Weights put in lanes from where a file has them are the bytes that unpacking and packing give. */
#include <math.h>
#include <string.h>

#include "quant/codes.h"
#include "quant/lanes_lay.h"
#include "quant/layouts.h"
#include "test.h"

/* Any codes; scales and zeros of so many binary orders that sums of their products round. */
static void fill(nib_codes *c, bool wild, uint64_t *seed) {
    const nib_qdesc *d = &c->desc;
    const int bits = nib_qdesc_bits(d);
    const uint8_t sign =
        (uint8_t)(nib_qdesc_integer(d) && nib_qdesc_signed(d) ? 1u << (bits - 1) : 0);
    for (int64_t i = 0; i < d->rows * d->cols; i++) {
        const uint8_t q = (uint8_t)(test_random(seed) & ((1u << bits) - 1));
        ((uint8_t *)c->q)[i] = (uint8_t)((q ^ sign) - sign);
    }
    for (int64_t i = 0; i < nib_qdesc_blocks(d); i++) {
        const int most = !wild ? 1 : d->scale_dtype == NIB_F16 ? 12 : 80;
        const int one = (int)(test_random(seed) % (uint64_t)most) - most / 2;
        const int two = (int)(test_random(seed) % (uint64_t)most) - most / 2;
        c->scale[i] = nib_round_to(ldexpf(test_uniform(seed), one), d->scale_dtype);
        if (wild && i % 97 == 5) c->scale[i] = INFINITY;
        if (!c->zero) continue;
        c->zero[i] =
            d->zero_dtype == NIB_I8
                ? (float)(test_random(seed) % (bits == 4 ? 16 : 255)) - (bits == 4 ? sign : 127)
                : nib_round_to(ldexpf(test_uniform(seed), two), d->scale_dtype);
        if (wild && i % 89 == 7 && d->zero_dtype != NIB_I8) c->zero[i] = -0.0f;
    }
}

static void compare(void **state_, const nib_layout *stored, const nib_qdesc *d, bool wild,
                    uint64_t *seed) {
    const nib_layout *lanes = nib_layout_of_kernel(d);
    nib_codes codes, back;
    CHECK(stored->holds(d) && lanes);
    CHECK_OK(nib_codes_alloc(NULL, d, &codes));
    CHECK_OK(nib_codes_alloc(NULL, d, &back));
    fill(&codes, wild, seed);
    nib_part from_part[NIB_MAX_PARTS], part[NIB_MAX_PARTS];
    void *from[NIB_MAX_PARTS] = {0}, *want[NIB_MAX_PARTS] = {0}, *got[NIB_MAX_PARTS] = {0};
    const int parts = stored->parts(d, from_part), count = lanes->parts(d, part);
    for (int i = 0; i < parts; i++) from[i] = malloc(nib_part_bytes(&from_part[i]));
    for (int i = 0; i < count; i++) {
        want[i] = malloc(nib_part_bytes(&part[i]));
        got[i] = malloc(nib_part_bytes(&part[i]));
        memset(got[i], 0xa5, nib_part_bytes(&part[i]));
    }
    stored->pack(from, &codes);
    const void *const *at = (const void *const *)from;
    stored->unpack(&back, at, d, 0);
    lanes->pack(want, &back);
    nib_stored there;
    CHECK(nib_stored_of(stored, d, at, &there));
    const int64_t band = d->rows / nib_layout_bands(stored, d);
    for (int64_t row = 0; row < band; row += 2 * NIB_PANEL)
        nib_lanes_lay(d, &there, got, row, band - row < 2 * NIB_PANEL ? band - row : 2 * NIB_PANEL);
    for (int i = 0; i < count; i++)
        if (memcmp(want[i], got[i], nib_part_bytes(&part[i])) != 0)
            FAIL_AT("%s: %s [%lld, %lld] by %lld, scales %s: part %s differs", stored->name,
                    nib_dtype_name(d->code), (long long)d->rows, (long long)d->cols,
                    (long long)d->block_cols, nib_dtype_name(d->scale_dtype), part[i].suffix);
    for (int i = 0; i < NIB_MAX_PARTS; i++) free(from[i]), free(want[i]), free(got[i]);
    nib_codes_free(NULL, &codes);
    nib_codes_free(NULL, &back);
}

static nib_qdesc desc_of(nib_dtype code, nib_dtype scale, nib_zero zero, int64_t rows, int64_t cols,
                         int64_t G) {
    const bool point = zero == NIB_ZERO_POINT;
    return (nib_qdesc){.rows = rows,
                       .cols = cols,
                       .shape = {2, {rows, cols}},
                       .block_rows = 1,
                       .block_cols = G,
                       .code = code,
                       .scale_dtype = scale,
                       .zero_kind = zero,
                       .zero_dtype = zero == NIB_ZERO_NONE ? 0
                                     : point               ? NIB_I8
                                                           : scale,
                       .math = scale};
}

TEST(codes_of_quanto_go_from_bits_to_lanes_as_through_bytes) {
    const int64_t shapes[][3] = {{64, 32, 32},     {128, 64, 32},  {192, 96, 96},    {64, 640, 160},
                                 {64, 1024, 128},  {64, 544, 544}, {64, 1104, 1104}, {64, 16, 16},
                                 {320, 1536, 768}, {64, 544, 32},  {64, 4096, 32}};
    const nib_dtype scales[] = {NIB_F32, NIB_F16, NIB_BF16};
    uint64_t seed = test_seed();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int k = 0; k < 12; k++) {
            const int64_t *n = shapes[s];
            const nib_qdesc d =
                desc_of(k / 6 ? NIB_U4 : NIB_U2, scales[k % 3], NIB_ZERO_SHIFT, n[0], n[1], n[2]);
            compare(state_, nib_layout_find("quanto_bits"), &d, k / 3 % 2, &seed);
        }
}

TEST(codes_of_other_layouts_do_too) {
    static const struct {
        const char *layout;
        nib_dtype code;
        nib_zero zero;
    } ways[] = {
        {"int4_plain", NIB_I4, NIB_ZERO_MID},
        {"intx", NIB_I4, NIB_ZERO_NONE},
        {"intx", NIB_U4, NIB_ZERO_SHIFT},
        {"intx", NIB_I3, NIB_ZERO_POINT},
        {"intx", NIB_U2, NIB_ZERO_MID},
        {"intx", NIB_I1, NIB_ZERO_NONE},
        {"intx", NIB_U5, NIB_ZERO_SHIFT},
        {"intx", NIB_I6, NIB_ZERO_POINT},
        {"intx", NIB_I7, NIB_ZERO_NONE},
        {"intx", NIB_I8, NIB_ZERO_POINT},
        {"intx_unpacked", NIB_I4, NIB_ZERO_POINT},
        {"intx_unpacked", NIB_I3, NIB_ZERO_POINT},
        {"intx_unpacked", NIB_I8, NIB_ZERO_NONE},
        {"f8_row", NIB_F8_E4M3FN, NIB_ZERO_NONE},
        {"int8_row", NIB_I8, NIB_ZERO_POINT},
        {"quanto_bytes", NIB_I8, NIB_ZERO_NONE},
        {"quanto_bytes", NIB_F8_E5M2, NIB_ZERO_NONE},
    };
    const int64_t shapes[][3] = {{64, 32, 32},    {48, 64, 32},   {17, 96, 96},     {64, 640, 160},
                                 {32, 1024, 128}, {31, 546, 546}, {16, 1104, 1104}, {1, 16, 16},
                                 {40, 1536, 768}, {20, 544, 32},  {32, 4096, 32},   {5, 30, 30}};
    const nib_dtype scales[] = {NIB_F32, NIB_F16, NIB_BF16};
    uint64_t seed = test_seed();
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int k = 0; k < 6; k++) {
                const int64_t *n = shapes[s];
                const nib_layout *layout = nib_layout_find(ways[w].layout);
                const nib_qdesc d =
                    desc_of(ways[w].code, scales[k % 3], ways[w].zero, n[0], n[1], n[2]);
                if (layout->holds(&d) && nib_layout_of_kernel(&d))
                    compare(state_, layout, &d, k / 3, &seed);
                else /* these alone lack some */
                    CHECK(n[1] % n[2] || strcmp(layout->name, "quanto_bytes") == 0 ||
                          scales[k % 3] != NIB_F32);
            }
}

TEST(codes_of_awq_do_too) {
    const int64_t shapes[][3] = {{64, 32, 32},    {48, 64, 32},     {16, 640, 160},
                                 {32, 1024, 128}, {16, 1104, 1104}, {80, 4096, 32}};
    const nib_layout *awq = nib_layout_find("awq_gemm");
    uint64_t seed = test_seed();
    nib_stored there;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int k = 0; k < 4; k++) {
            const int64_t *n = shapes[s];
            const nib_qdesc d =
                desc_of(k % 2 ? NIB_I4 : NIB_U4, NIB_F16, NIB_ZERO_POINT, n[0], n[1], n[2]);
            compare(state_, awq, &d, k / 2, &seed);
        }
    const uint32_t word = 0;
    const void *const at[] = {&word, &word, &word};
    nib_qdesc d = desc_of(NIB_U4, NIB_F16, NIB_ZERO_POINT, 24, 64, 32);
    CHECK(!nib_stored_of(awq, &d, at, &there));
    d = desc_of(NIB_U4, NIB_F16, NIB_ZERO_POINT, 32, 36, 36);
    CHECK(!nib_stored_of(awq, &d, at, &there));
}

TEST(what_is_not_whole_panels_in_each_band_is_not_taken) {
    const nib_layout *bits = nib_layout_find("quanto_bits");
    const uint32_t byte = 0;
    const void *const at[] = {&byte, &byte, &byte};
    const void *const odd[] = {(const char *)&byte + 1, &byte, &byte};
    nib_stored s;
    nib_qdesc d = desc_of(NIB_U4, NIB_F32, NIB_ZERO_SHIFT, 64, 64, 32);
    CHECK(nib_stored_of(bits, &d, at, &s));
    CHECK(!nib_stored_of(bits, &d, odd, &s));
    CHECK(!nib_stored_of(nib_layout_find("int4_tile_packed"), &d, at, &s));
    d = desc_of(NIB_U4, NIB_F32, NIB_ZERO_SHIFT, 48, 64, 32);
    CHECK(!nib_stored_of(bits, &d, at, &s));
    d = desc_of(NIB_U2, NIB_F32, NIB_ZERO_SHIFT, 32, 64, 32);
    CHECK(!nib_stored_of(bits, &d, at, &s));
    d = desc_of(NIB_U4, NIB_F32, NIB_ZERO_SHIFT, 64, 62, 62);
    CHECK(!nib_stored_of(bits, &d, at, &s));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        RUNS(codes_of_quanto_go_from_bits_to_lanes_as_through_bytes),
        RUNS(codes_of_other_layouts_do_too),
        RUNS(codes_of_awq_do_too),
        RUNS(what_is_not_whole_panels_in_each_band_is_not_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
