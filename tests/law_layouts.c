/* The law of layouts: packing then unpacking is the identity, rows may be packed in runs and put
 * where nib_part_place says, any rows may be unpacked, and every byte of a part is defined. Holds
 * for every entry of layout_list.h and every descriptor that it says it holds. */
#include "quant/codes.h"
#include "quant/layouts.h"
#include "tensor/context.h"
#include "tensor/dtype.h"
#include "test.h"

static void label(char *text, size_t room, const nib_layout *layout, const nib_qdesc *d) {
    snprintf(text, room, "%s of %s [%lld, %lld] rank %d in [%lld, %lld], scale %s, zero %s kind %d",
             layout->name, nib_dtype_name(d->code), (long long)d->rows, (long long)d->cols,
             d->shape.ndim, (long long)d->block_rows, (long long)d->block_cols,
             nib_dtype_name(d->scale_dtype), nib_dtype_name(d->zero_dtype), (int)d->zero_kind);
}

/* Any codes, scales that their dtype holds, zeros that theirs does. */
static void fill(nib_codes *c, uint64_t *seed) {
    const nib_qdesc *d = &c->desc;
    int qmin = 0, qmax = 255;
    if (nib_qdesc_integer(d)) nib_qdesc_range(d, &qmin, &qmax);
    const int bits = nib_qdesc_bits(d);
    if (!nib_qdesc_integer(d)) qmax = (1 << bits) - 1;
    for (int64_t i = 0; i < d->rows * d->cols; i++)
        ((uint8_t *)c->q)[i] =
            (uint8_t)(qmin + (int)(test_random(seed) % (uint64_t)(qmax - qmin + 1)));
    for (int64_t i = 0; i < nib_qdesc_blocks(d); i++) {
        c->scale[i] = nib_round_to(test_uniform(seed), d->scale_dtype);
        if (!c->zero) continue;
        c->zero[i] = nib_dtype_is_float(d->zero_dtype)
                         ? nib_round_to(test_uniform(seed), d->zero_dtype)
                         : (float)(qmin + (int)(test_random(seed) % (uint64_t)(qmax - qmin + 1)));
        if (d->zero_dtype == NIB_I8 && c->zero[i] > 127) c->zero[i] = 127;
    }
}

typedef struct bytes {
    int count;
    nib_part part[NIB_MAX_PARTS];
    void *at[NIB_MAX_PARTS];
} bytes;

static bytes bytes_new(const nib_layout *layout, const nib_qdesc *d, int with) {
    bytes b = {0};
    b.count = layout->parts(d, b.part);
    for (int i = 0; i < b.count; i++) {
        b.at[i] = malloc(nib_part_bytes(&b.part[i]) + 1);
        memset(b.at[i], with, nib_part_bytes(&b.part[i]));
    }
    return b;
}

static void bytes_free(bytes *b) {
    for (int i = 0; i < b->count; i++) free(b->at[i]);
}

static void bytes_same(void **state_, const bytes *a, const bytes *b, const char *what,
                       const char *why) {
    for (int i = 0; i < a->count; i++)
        if (memcmp(a->at[i], b->at[i], nib_part_bytes(&a->part[i])) != 0)
            FAIL_AT("%s: part %s: %s", what, a->part[i].suffix, why);
}

static void codes_same(void **state_, const nib_codes *a, const nib_codes *b, const char *what,
                       const char *why) {
    const size_t blocks = (size_t)nib_qdesc_blocks(&a->desc) * sizeof(float);
    const size_t codes = (size_t)(a->desc.rows * a->desc.cols);
    if (memcmp(a->q, b->q, codes) != 0) FAIL_AT("%s: codes differ, %s", what, why);
    if (memcmp(a->scale, b->scale, blocks) != 0) FAIL_AT("%s: scales differ, %s", what, why);
    if (a->zero && memcmp(a->zero, b->zero, blocks) != 0)
        FAIL_AT("%s: zeros differ, %s", what, why);
}

/* Rows [row, row + rows) of every band, as one matrix. */
static void gather(const nib_codes *all, int bands, int64_t row, int64_t rows, nib_codes *out) {
    const nib_qdesc desc = nib_qdesc_of_rows(&all->desc, bands * rows);
    if (nib_codes_alloc(NULL, &desc, out) != NIB_OK) abort();
    for (int b = 0; b < bands; b++) {
        const nib_codes from = nib_codes_rows(all, b * (all->desc.rows / bands) + row, rows);
        const nib_codes to = nib_codes_rows(out, b * rows, rows);
        const size_t blocks = (size_t)nib_qdesc_blocks(&from.desc) * sizeof(float);
        memcpy(to.q, from.q, (size_t)(rows * desc.cols));
        memcpy(to.scale, from.scale, blocks);
        if (to.zero) memcpy(to.zero, from.zero, blocks);
    }
}

static void check_runs(void **state_, const nib_layout *layout, const nib_codes *codes,
                       const bytes *whole, int64_t most, const char *what) {
    const nib_qdesc *d = &codes->desc;
    const int bands = nib_layout_bands(layout, d);
    if (bands == 0 || (d->block_rows > 1 && bands > 1)) return;
    bytes pieced = bytes_new(layout, d, 0xa5);
    for (int64_t row = 0; row < d->rows / bands;) {
        const int64_t rows = nib_layout_run(layout, d, row, most);
        CHECK(rows > 0);
        nib_codes run;
        gather(codes, bands, row, rows, &run);
        bytes packed = bytes_new(layout, &run.desc, 0x5a);
        layout->pack(packed.at, &run);
        for (int i = 0; i < pieced.count; i++) {
            const nib_part_runs r = nib_part_place(&pieced.part[i], d, bands, row, rows);
            if ((size_t)r.count * r.size != nib_part_bytes(&packed.part[i]))
                FAIL_AT("%s: rows %lld + %lld of part %s are %zu bytes, placed are %lld x %zu",
                        what, (long long)row, (long long)rows, pieced.part[i].suffix,
                        nib_part_bytes(&packed.part[i]), (long long)r.count, r.size);
            for (int64_t k = 0; k < r.count; k++)
                memcpy((char *)pieced.at[i] + r.offset + (size_t)k * r.step,
                       (char *)packed.at[i] + (size_t)k * r.size, r.size);
        }
        bytes_free(&packed);
        nib_codes_free(NULL, &run);
        row += rows;
    }
    bytes_same(state_, whole, &pieced, what, "packing in runs gives other bytes than packing all");
    bytes_free(&pieced);
}

static void check_unpacked_rows(void **state_, const nib_layout *layout, const nib_codes *codes,
                                const bytes *whole, int64_t row, int64_t rows, const char *what) {
    const nib_qdesc desc = nib_qdesc_of_rows(&codes->desc, rows);
    nib_codes some;
    CHECK_OK(nib_codes_alloc(NULL, &desc, &some));
    layout->unpack(&some, (const void *const *)whole->at, &codes->desc, row);
    const nib_codes want = nib_codes_rows(codes, row, rows);
    codes_same(state_, &some, &want, what, "rows unpacked from the middle");
    nib_codes_free(NULL, &some);
}

static void check_law(void **state_, const nib_layout *layout, const nib_qdesc *d, uint64_t *seed) {
    char what[200];
    label(what, sizeof what, layout, d);
    nib_codes codes, back;
    CHECK_OK(nib_codes_alloc(NULL, d, &codes));
    CHECK_OK(nib_codes_alloc(NULL, d, &back));
    fill(&codes, seed);
    bytes one = bytes_new(layout, d, 0x00), other = bytes_new(layout, d, 0xff);
    layout->pack(one.at, &codes);
    layout->pack(other.at, &codes);
    bytes_same(state_, &one, &other, what, "a byte keeps what was there before packing");
    layout->unpack(&back, (const void *const *)one.at, d, 0);
    codes_same(state_, &codes, &back, what, "after packing and unpacking");
    for (int64_t row = 0; row < d->rows; row += 3)
        if (d->block_rows == 1 || d->block_rows >= d->rows)
            check_unpacked_rows(state_, layout, &codes, &one, row, row + 2 <= d->rows ? 2 : 1,
                                what);
    for (int64_t most = 1; most <= d->rows; most = most * 2 + 1)
        check_runs(state_, layout, &codes, &one, most, what);
    bytes_free(&one);
    bytes_free(&other);
    nib_codes_free(NULL, &codes);
    nib_codes_free(NULL, &back);
}

static const nib_dtype codes_tried[] = {
    NIB_I1, NIB_I2, NIB_I3,        NIB_I4,      NIB_I5,          NIB_I6,          NIB_I7,
    NIB_I8, NIB_U1, NIB_U2,        NIB_U3,      NIB_U4,          NIB_U5,          NIB_U6,
    NIB_U7, NIB_U8, NIB_F8_E4M3FN, NIB_F8_E5M2, NIB_F8_E4M3FNUZ, NIB_F8_E5M2FNUZ,
};
static const nib_shape shapes[] = {
    {2, {1, 64}}, {2, {8, 64}},    {2, {13, 32}},   {2, {4, 7}},    {2, {16, 96}},  {2, {5, 128}},
    {2, {20, 1}}, {3, {3, 4, 64}}, {3, {2, 5, 33}}, {2, {6, 1152}}, {2, {12, 128}}, {2, {64, 128}}, {2, {64, 256}},
};
static const nib_dtype floats[] = {NIB_F32, NIB_F16, NIB_BF16};

/* Every kind of zero with every scale dtype, each with a scale a row, a group, and one for all. */
static int descriptors_of(const nib_shape *shape, nib_dtype code, nib_qdesc *out) {
    const nib_site site = {"linear", "w", *shape, NIB_BF16};
    nib_qdesc base;
    int n = 0;
    if (nib_qdesc_init(&base, &site) != NIB_OK) abort();
    base.code = code;
    for (int f = 0; f < 3; f++)
        for (int zero = NIB_ZERO_NONE; zero <= NIB_ZERO_MID; zero++)
            for (int block = 0; block < 5; block++) {
                nib_qdesc d = base;
                d.math = d.scale_dtype = floats[f];
                d.zero_kind = (nib_zero)zero;
                d.zero_dtype = zero == NIB_ZERO_NONE    ? (nib_dtype)0
                               : zero == NIB_ZERO_POINT ? NIB_I8
                                                        : floats[f];
                if (block != 3) d.block_rows = 1;
                if (block == 1) d.block_cols = 32;
                if (block == 2) d.block_cols = 64;
                if (block == 4) d.block_cols = 128;
                const bool several = block != 2 && block != 4;
                if (d.cols % d.block_cols == 0 && (several || d.cols > d.block_cols)) out[n++] = d;
            }
    return n;
}

TEST(what_is_packed_comes_back_from_every_layout) {
    uint64_t seed = test_seed();
    print_message("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; nib_layout_at(i); i++) {
        const nib_layout *layout = nib_layout_at(i);
        int checked = 0;
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t c = 0; c < sizeof codes_tried / sizeof *codes_tried; c++) {
                nib_qdesc tried[64];
                const int n = descriptors_of(&shapes[s], codes_tried[c], tried);
                for (int k = 0; k < n; k++) {
                    if (!layout->holds(&tried[k])) continue;
                    check_law(state_, layout, &tried[k], &seed);
                    checked++;
                }
            }
        print_message("%s: %d descriptors\n", layout->name, checked);
        if (checked == 0) FAIL_AT("no descriptor of this test fits layout %s", layout->name);
    }
}

TEST(names_are_found_and_differ) {
    for (size_t i = 0; nib_layout_at(i); i++) {
        CHECK(nib_layout_find(nib_layout_at(i)->name) == nib_layout_at(i));
        CHECK(nib_layout_at(i)->doc[0]);
    }
    CHECK(!nib_layout_find("no such layout"));
}

TEST(primitives_refuse_what_a_layout_cannot_hold) {
    const nib_site site = {"linear", "w", {2, {4, 7}}, NIB_F32};
    nib_qdesc d;
    CHECK_OK(nib_qdesc_init(&d, &site));
    d.code = NIB_I4;
    d.zero_kind = NIB_ZERO_MID;
    d.scale_dtype = d.zero_dtype = NIB_F32;
    nib_part parts[NIB_MAX_PARTS];
    int count;
    if (nib_layout_find("int4_plain"))
        CHECK_FAILS(nib_layout_parts("int4_plain", &d, parts, &count), NIB_E_UNSUPPORTED,
                    "int4_plain");
    CHECK_FAILS(nib_layout_parts("int4plain", &d, parts, &count), NIB_E_ARGUMENT, "int4plain");
    d.rows = 5;
    CHECK_FAILS(nib_layout_parts("intx", &d, parts, &count), NIB_E_SHAPE, "not a valid matrix");
}

TESTS(RUNS(what_is_packed_comes_back_from_every_layout), RUNS(names_are_found_and_differ),
      RUNS(primitives_refuse_what_a_layout_cannot_hold))
