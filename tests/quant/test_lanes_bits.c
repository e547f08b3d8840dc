/* Bytes of quanto put in lanes directly are the bytes that unpacking and packing give. */
#include "quant/lanes_bits.h"

#include <math.h>
#include <string.h>

#include "quant/codes.h"
#include "quant/layouts.h"
#include "test.h"

/* Any codes; scales and shifts of so many binary orders that sums of their products round. */
static void fill(nib_codes *c, bool wild, uint64_t *seed) {
    for (int64_t i = 0; i < c->desc.rows * c->desc.cols; i++)
        ((uint8_t *)c->q)[i] = (uint8_t)(test_random(seed) & (c->desc.code == NIB_U4 ? 15 : 3));
    for (int64_t i = 0; i < nib_qdesc_blocks(&c->desc); i++) {
        const int most = !wild ? 1 : c->desc.scale_dtype == NIB_F16 ? 12 : 80;
        const int one = (int)(test_random(seed) % (uint64_t)most) - most / 2;
        const int two = (int)(test_random(seed) % (uint64_t)most) - most / 2;
        c->scale[i] = nib_round_to(ldexpf(test_uniform(seed), one), c->desc.scale_dtype);
        c->zero[i] = nib_round_to(ldexpf(test_uniform(seed), two), c->desc.scale_dtype);
        if (wild && i % 97 == 5) c->scale[i] = INFINITY;
        if (wild && i % 89 == 7) c->zero[i] = -0.0f;
    }
}

static void compare(void **state_, const nib_qdesc *d, bool wild, uint64_t *seed) {
    const nib_layout *bits = nib_layout_find("quanto_bits"), *lanes = nib_layout_of_kernel(d);
    nib_codes codes, back;
    CHECK(bits->holds(d) && lanes);
    CHECK_OK(nib_codes_alloc(NULL, d, &codes));
    CHECK_OK(nib_codes_alloc(NULL, d, &back));
    fill(&codes, wild, seed);
    nib_part from_part[NIB_MAX_PARTS], part[NIB_MAX_PARTS];
    void *from[NIB_MAX_PARTS] = {0}, *want[NIB_MAX_PARTS] = {0}, *got[NIB_MAX_PARTS] = {0};
    const int stored = bits->parts(d, from_part), count = lanes->parts(d, part);
    for (int i = 0; i < stored; i++) from[i] = malloc(nib_part_bytes(&from_part[i]));
    for (int i = 0; i < count; i++) {
        want[i] = malloc(nib_part_bytes(&part[i]));
        got[i] = malloc(nib_part_bytes(&part[i]));
        memset(got[i], 0xa5, nib_part_bytes(&part[i]));
    }
    bits->pack(from, &codes);
    const void *const *stored_at = (const void *const *)from;
    bits->unpack(&back, stored_at, d, 0);
    lanes->pack(want, &back);
    CHECK(nib_lanes_bits_fit(d, stored_at));
    const int64_t band = d->rows / nib_layout_bands(bits, d);
    for (int64_t row = 0; row < band; row += 2 * NIB_PANEL)
        nib_lanes_bits(d, stored_at, got, row,
                       band - row < 2 * NIB_PANEL ? band - row : 2 * NIB_PANEL);
    for (int i = 0; i < count; i++)
        if (memcmp(want[i], got[i], nib_part_bytes(&part[i])) != 0)
            FAIL_AT("%s [%lld, %lld] by %lld, scales %s: part %s differs", nib_dtype_name(d->code),
                    (long long)d->rows, (long long)d->cols, (long long)d->block_cols,
                    nib_dtype_name(d->scale_dtype), part[i].suffix);
    for (int i = 0; i < NIB_MAX_PARTS; i++) free(from[i]), free(want[i]), free(got[i]);
    nib_codes_free(NULL, &codes);
    nib_codes_free(NULL, &back);
}

static nib_qdesc desc_of(nib_dtype code, nib_dtype scale, int64_t rows, int64_t cols, int64_t G) {
    return (nib_qdesc){.rows = rows,
                       .cols = cols,
                       .shape = {2, {rows, cols}},
                       .block_rows = 1,
                       .block_cols = G,
                       .code = code,
                       .scale_dtype = scale,
                       .zero_kind = NIB_ZERO_SHIFT,
                       .zero_dtype = scale,
                       .math = scale};
}

TEST(codes_go_from_bits_to_lanes_as_through_bytes) {
    const int64_t shapes[][3] = {{64, 32, 32},     {128, 64, 32},  {192, 96, 96},    {64, 640, 160},
                                 {64, 1024, 128},  {64, 544, 544}, {64, 1104, 1104}, {64, 16, 16},
                                 {320, 1536, 768}, {64, 544, 32}};
    const nib_dtype scales[] = {NIB_F32, NIB_F16, NIB_BF16};
    uint64_t seed = test_seed();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int k = 0; k < 12; k++) {
            const int64_t *n = shapes[s];
            const nib_qdesc d = desc_of(k / 6 ? NIB_U4 : NIB_U2, scales[k % 3], n[0], n[1], n[2]);
            compare(state_, &d, k / 3 % 2, &seed);
        }
}

TEST(what_is_not_whole_panels_in_each_band_is_not_taken) {
    const uint32_t byte = 0;
    const void *const at[] = {&byte, &byte, &byte};
    const void *const odd[] = {(const char *)&byte + 1, &byte, &byte};
    nib_qdesc d = desc_of(NIB_U4, NIB_F32, 64, 64, 32);
    CHECK(nib_lanes_bits_fit(&d, at));
    CHECK(!nib_lanes_bits_fit(&d, odd));
    d = desc_of(NIB_U4, NIB_F32, 48, 64, 32);
    CHECK(!nib_lanes_bits_fit(&d, at));
    d = desc_of(NIB_U2, NIB_F32, 32, 64, 32);
    CHECK(!nib_lanes_bits_fit(&d, at));
    d = desc_of(NIB_U4, NIB_F32, 64, 60, 60);
    CHECK(!nib_lanes_bits_fit(&d, at));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        RUNS(codes_go_from_bits_to_lanes_as_through_bytes),
        RUNS(what_is_not_whole_panels_in_each_band_is_not_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
