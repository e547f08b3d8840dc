/* quanto_bits and quanto_bytes: where each code lies. That upstream puts it there too is the
 * business of test_scheme_quanto. */
#include "test.h"

#include <nibble/extend.h>

#include "base/mem.h"
#include "quant/codes.h"
#include "quant/layouts.h"

typedef struct shape_case {
    int64_t rows, cols, group;
} shape_case;

static const shape_case cases[] = {
    {1, 1, 1},   {1, 7, 7},   {2, 5, 5},   {3, 2, 2},      {4, 6, 3},     {5, 6, 2},
    {6, 64, 32}, {7, 96, 32}, {8, 33, 33}, {12, 256, 128}, {16, 160, 32}, {33, 64, 32},
};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

static nib_qdesc bits_desc(nib_dtype code, const shape_case *c, nib_dtype math) {
    return (nib_qdesc){.code = code,
                       .scale_dtype = math,
                       .zero_dtype = math,
                       .math = math,
                       .zero_kind = NIB_ZERO_SHIFT,
                       .shape = {2, {c->rows, c->cols}},
                       .rows = c->rows,
                       .cols = c->cols,
                       .block_rows = 1,
                       .block_cols = c->group};
}

static nib_qdesc bytes_desc(nib_dtype code, int64_t rows, int64_t cols) {
    return (nib_qdesc){.code = code,
                       .scale_dtype = NIB_BF16,
                       .math = NIB_BF16,
                       .shape = {2, {rows, cols}},
                       .rows = rows,
                       .cols = cols,
                       .block_rows = 1,
                       .block_cols = cols};
}

/* Codes with random content; scales are small integers, exact in every float. */
static nib_codes random_codes(void **state_, const nib_qdesc *desc, uint64_t *seed) {
    nib_codes codes;
    CHECK_OK(nib_codes_alloc(NULL, desc, &codes));
    const int mask = (1 << nib_qdesc_bits(desc)) - 1;
    for (int64_t i = 0; i < desc->rows * desc->cols; i++)
        ((uint8_t *)codes.q)[i] = (uint8_t)(test_random(seed) & (uint64_t)mask);
    for (int64_t i = 0; i < nib_qdesc_blocks(desc); i++) {
        codes.scale[i] = (float)(test_random(seed) % 100);
        if (codes.zero) codes.zero[i] = -(float)(test_random(seed) % 100);
    }
    return codes;
}

typedef struct packed {
    nib_part part[NIB_MAX_PARTS];
    void *bytes[NIB_MAX_PARTS];
    int count;
} packed;

static packed room_for(void **state_, const nib_layout *layout, const nib_qdesc *desc) {
    packed p = {.count = layout->parts(desc, p.part)};
    for (int i = 0; i < p.count; i++) {
        p.bytes[i] = nib_mem_alloc(NULL, nib_part_bytes(&p.part[i]));
        CHECK_MADE(p.bytes[i]);
        memset(p.bytes[i], 0xa5, nib_part_bytes(&p.part[i])); /* pack must write every byte */
    }
    return p;
}

static void packed_free(packed *p) {
    for (int i = 0; i < p->count; i++) nib_mem_free(NULL, p->bytes[i], nib_part_bytes(&p->part[i]));
}

static void check_same(void **state_, const nib_codes *all, const nib_codes *run, int64_t row) {
    const int64_t cols = all->desc.cols, blocks = nib_qdesc_block_cols(&all->desc);
    const int64_t rows = run->desc.rows;
    CHECK_BYTES(run->q, (const uint8_t *)all->q + row * cols, rows * cols);
    CHECK_BYTES(run->scale, all->scale + row * blocks, rows * blocks * 4);
    if (all->zero) CHECK_BYTES(run->zero, all->zero + row * blocks, rows * blocks * 4);
}

static void check_round_trip(void **state_, const char *name, const nib_qdesc *desc,
                             uint64_t *seed) {
    const nib_layout *layout = nib_layout_find(name);
    CHECK(layout && layout->holds(desc));
    nib_codes all = random_codes(state_, desc, seed);
    packed p = room_for(state_, layout, desc);
    layout->pack(p.bytes, &all);
    for (int64_t row = 0; row < desc->rows; row++) {
        for (int64_t rows = 1; row + rows <= desc->rows; rows += rows > 3 ? 5 : 1) {
            const nib_qdesc some = nib_qdesc_of_rows(desc, rows);
            nib_codes run;
            CHECK_OK(nib_codes_alloc(NULL, &some, &run));
            layout->unpack(&run, (const void *const *)p.bytes, desc, row);
            check_same(state_, &all, &run, row);
            nib_codes_free(NULL, &run);
        }
    }
    packed_free(&p);
    nib_codes_free(NULL, &all);
}

TEST(unpacking_any_rows_gives_back_what_was_packed) {
    uint64_t seed = test_seed();
    static const nib_dtype maths[] = {NIB_F32, NIB_F16, NIB_BF16};
    for (int i = 0; i < CASES; i++) {
        const nib_qdesc four = bits_desc(NIB_U4, &cases[i], maths[i % 3]);
        const nib_qdesc two = bits_desc(NIB_U2, &cases[i], maths[i % 3]);
        const nib_qdesc byte =
            bytes_desc(i % 2 ? NIB_I8 : NIB_F8_E5M2, cases[i].rows, cases[i].cols);
        check_round_trip(state_, "quanto_bits", &four, &seed);
        check_round_trip(state_, "quanto_bits", &two, &seed);
        check_round_trip(state_, "quanto_bytes", &byte, &seed);
    }
}

static void check_bytes(void **state_, nib_dtype code, const shape_case *c, const uint8_t *q,
                        const uint8_t *want, size_t size) {
    const nib_layout *layout = nib_layout_find("quanto_bits");
    const nib_qdesc desc = bits_desc(code, c, NIB_F32);
    nib_codes codes;
    CHECK_OK(nib_codes_alloc(NULL, &desc, &codes));
    memcpy(codes.q, q, (size_t)(c->rows * c->cols));
    packed p = room_for(state_, layout, &desc);
    CHECK_INT(nib_part_bytes(&p.part[0]), size);
    layout->pack(p.bytes, &codes);
    CHECK_BYTES(p.bytes[0], want, size);
    packed_free(&p);
    nib_codes_free(NULL, &codes);
}

TEST(four_bits_put_the_second_half_of_the_rows_in_the_high_half_of_the_bytes) {
    const uint8_t q[] = {1, 2, 3, 4, 5, 6}; /* rows 0, 1 and 2; the fourth is missing */
    const uint8_t want[] = {0x51, 0x62, 0x03, 0x04};
    check_bytes(state_, NIB_U4, &(shape_case){3, 2, 2}, q, want, 4);
}

TEST(two_bits_put_the_quarters_of_the_rows_in_the_bit_pairs_from_below) {
    const uint8_t q[] = {1, 2, 3, 1, 2}; /* P = 2: pairs {0, 2, 4}, {1, 3} */
    const uint8_t want[] = {2 << 4 | 3 << 2 | 1, 1 << 2 | 2};
    check_bytes(state_, NIB_U2, &(shape_case){5, 1, 1}, q, want, 2);
}

TEST(groups_are_the_rows_that_are_packed) {
    const uint8_t q[] = {1, 2, 3, 4, 5, 6, 7, 8}; /* one row of four groups of two */
    const uint8_t want[] = {0x51, 0x62, 0x73, 0x84};
    check_bytes(state_, NIB_U4, &(shape_case){1, 8, 2}, q, want, 4);
}

/* Rows n .. n + k of every band at a time, put where nib_part_place says, give the whole. */
static void check_bands(void **state_, const char *name, const nib_qdesc *desc, uint64_t *seed) {
    const nib_layout *layout = nib_layout_find(name);
    const int bands = nib_layout_bands(layout, desc);
    nib_codes all = random_codes(state_, desc, seed);
    packed want = room_for(state_, layout, desc), got = room_for(state_, layout, desc);
    layout->pack(want.bytes, &all);
    const int64_t per_band = desc->rows / bands, cols = desc->cols;
    const int64_t blocks = nib_qdesc_block_cols(desc);
    for (int64_t row = 0, rows; row < per_band; row += rows) {
        rows = row % 2 + 1 < per_band - row ? row % 2 + 1 : per_band - row;
        const nib_qdesc some = nib_qdesc_of_rows(desc, rows * bands);
        nib_codes run;
        CHECK_OK(nib_codes_alloc(NULL, &some, &run));
        for (int b = 0; b < bands; b++) {
            const int64_t from = b * per_band + row, to = b * rows;
            memcpy((uint8_t *)run.q + to * cols, (uint8_t *)all.q + from * cols,
                   (size_t)(rows * cols));
            memcpy(run.scale + to * blocks, all.scale + from * blocks, (size_t)(rows * blocks) * 4);
            if (all.zero)
                memcpy(run.zero + to * blocks, all.zero + from * blocks,
                       (size_t)(rows * blocks) * 4);
        }
        packed p = room_for(state_, layout, &some);
        layout->pack(p.bytes, &run);
        for (int i = 0; i < p.count; i++) {
            const nib_part_runs runs = nib_part_place(&want.part[i], desc, bands, row, rows);
            CHECK_INT((size_t)runs.count * runs.size, nib_part_bytes(&p.part[i]));
            for (int64_t r = 0; r < runs.count; r++)
                memcpy((char *)got.bytes[i] + runs.offset + (size_t)r * runs.step,
                       (char *)p.bytes[i] + (size_t)r * runs.size, runs.size);
        }
        packed_free(&p);
        nib_codes_free(NULL, &run);
    }
    for (int i = 0; i < want.count; i++)
        CHECK_BYTES(got.bytes[i], want.bytes[i], nib_part_bytes(&want.part[i]));
    packed_free(&want);
    packed_free(&got);
    nib_codes_free(NULL, &all);
}

TEST(packing_band_by_band_equals_packing_at_once) {
    uint64_t seed = test_seed();
    const nib_layout *layout = nib_layout_find("quanto_bits");
    int banded = 0;
    for (int i = 0; i < CASES; i++) {
        for (int two = 0; two < 2; two++) {
            const nib_qdesc desc = bits_desc(two ? NIB_U2 : NIB_U4, &cases[i], NIB_F16);
            const int planes = two ? 4 : 2;
            CHECK_INT(nib_layout_bands(layout, &desc), cases[i].rows % planes ? 0 : planes);
            if (cases[i].rows % planes) continue;
            check_bands(state_, "quanto_bits", &desc, &seed);
            banded++;
        }
    }
    CHECK(banded >= 8);
    const nib_qdesc byte = bytes_desc(NIB_I8, 5, 9);
    check_bands(state_, "quanto_bytes", &byte, &seed);
    nib_qdesc conv = bytes_desc(NIB_I8, 5, 18);
    conv.shape = (nib_shape){4, {5, 2, 3, 3}};
    check_bands(state_, "quanto_bytes", &conv, &seed);
    nib_qdesc stack = bytes_desc(NIB_I8, 6, 5);
    stack.shape = (nib_shape){3, {2, 3, 5}};
    check_bands(state_, "quanto_bytes", &stack, &seed);
}

static void check_shape(void **state_, const nib_part *part, int ndim, const int64_t *dim) {
    CHECK_INT(part->shape.ndim, ndim);
    for (int i = 0; i < ndim; i++) CHECK_INT(part->shape.dim[i], dim[i]);
}

TEST(shapes_of_a_stack_and_of_a_single_row) {
    nib_part part[NIB_MAX_PARTS];
    nib_qdesc stack = bytes_desc(NIB_I8, 6, 5);
    stack.shape = (nib_shape){3, {2, 3, 5}};
    nib_layout_find("quanto_bytes")->parts(&stack, part);
    check_shape(state_, &part[0], 3, (int64_t[]){2, 3, 5});
    check_shape(state_, &part[1], 3, (int64_t[]){2, 3, 1});
    const nib_qdesc one = bytes_desc(NIB_I8, 1, 5);
    nib_layout_find("quanto_bytes")->parts(&one, part);
    check_shape(state_, &part[1], 0, NULL);
    CHECK_INT(nib_part_bytes(&part[1]), 2);
}

TEST(codes_that_do_not_fit_are_not_held) {
    const nib_layout *bits = nib_layout_find("quanto_bits"),
                     *bytes = nib_layout_find("quanto_bytes");
    const nib_qdesc good = bits_desc(NIB_U4, &(shape_case){4, 8, 4}, NIB_F16);
    nib_qdesc d = good;
    CHECK(bits->holds(&d) && !bytes->holds(&d));
    d.block_cols = 3;
    CHECK(!bits->holds(&d));
    d = good;
    d.zero_kind = NIB_ZERO_POINT;
    CHECK(!bits->holds(&d));
    d = good;
    d.scale_dtype = NIB_F32;
    CHECK(!bits->holds(&d));
    d = good;
    d.code = NIB_U3;
    CHECK(!bits->holds(&d));
    d = bytes_desc(NIB_I8, 4, 8);
    CHECK(bytes->holds(&d) && !bits->holds(&d));
    d.block_cols = 4;
    CHECK(!bytes->holds(&d));
}

TESTS(RUNS(unpacking_any_rows_gives_back_what_was_packed),
      RUNS(four_bits_put_the_second_half_of_the_rows_in_the_high_half_of_the_bytes),
      RUNS(two_bits_put_the_quarters_of_the_rows_in_the_bit_pairs_from_below),
      RUNS(groups_are_the_rows_that_are_packed), RUNS(packing_band_by_band_equals_packing_at_once),
      RUNS(shapes_of_a_stack_and_of_a_single_row), RUNS(codes_that_do_not_fit_are_not_held))
