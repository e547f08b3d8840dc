/* check_lanes.h: products with weights in lanes against their judges; part of checkkernel.c, which
 * includes it behind its own helpers. */
#ifndef NIB_TESTS_KERNEL_CHECK_LANES_H
#define NIB_TESTS_KERNEL_CHECK_LANES_H

/* A random weight whose codes, scales and offsets each end at a guard page. */
typedef struct lane_case {
    nib_lane lane;
    int bits, mid;
    int64_t N, K, G;
    nib_dtype code, scale_dtype;
    nib_offset offset;
    int extreme; /* codes: 0 random, 1 all least, 2 all greatest, 3 alternating, 4 near 128 */
    int power;   /* scales and offsets are of about this power of two */
} lane_case;

/* Eight cells of small codes, then eight with four of a channel that sum to 252 .. 256 above 128 or
 * 256 .. 260 below: where 16 bits just hold their products with 128, or just not. */
static uint8_t near_128(size_t i, uint8_t random) {
    const size_t chunk = i / 512;
    if (chunk % 2) return (uint8_t)(128 - 30 + random % 61);
    return (uint8_t)(chunk % 4 ? 128 + 63 + random % 2 : 128 - 64 - random % 2);
}

static void lane_codes(uint8_t *codes, size_t size, const lane_case *c) {
    for (size_t i = 0; i < size; i++) {
        const uint8_t random = (uint8_t)(test_random(&seed) >> 11);
        codes[i] = c->extreme == 1   ? 0
                   : c->extreme == 2 ? 0xff
                   : c->extreme == 3 ? (i / 4 % 2 ? 0xff : 0)
                   : c->extreme == 4 ? near_128(i, random)
                                     : random;
        /* NaN of a narrow float now and then only: one makes a whole channel NaN. */
        if (c->lane == NIB_LANE_F8 && (codes[i] & 0x7c) == 0x7c && test_random(&seed) % 512)
            codes[i] &= 0xbf;
    }
}

static void lane_values(void *out, nib_dtype dtype, int64_t n, bool point, int power) {
    for (int64_t i = 0; i < n; i++) {
        const float u = test_uniform(&seed);
        const float x =
            point ? (float)(int)(u * 127) : ldexpf(u, (int)(test_random(&seed) % 9) - 8 + power);
        if (dtype == NIB_F32)
            ((float *)out)[i] = x;
        else if (dtype == NIB_F16)
            ref.f32_to_f16((uint16_t *)out + i, &x, 1);
        else
            ref.f32_to_bf16((uint16_t *)out + i, &x, 1);
    }
}

static nib_lane_weight lane_weight(const lane_case *c, float *correction) {
    static const int64_t columns[] = {4, 8, 16, 32, 4};
    const int64_t cell = columns[c->lane], Kp = (c->K + cell - 1) / cell * cell;
    const int64_t panels = (c->N + NIB_PANEL - 1) / NIB_PANEL, groups = c->K ? c->K / c->G : 1;
    nib_lane_weight w = {.lane = c->lane,
                         .bits = c->bits,
                         .mid = c->mid,
                         .code = c->code,
                         .N = c->N,
                         .K = c->K,
                         .G = c->G,
                         .groups = groups,
                         .panel_bytes = Kp * NIB_PANEL * c->bits / 8,
                         .scale_dtype = c->scale_dtype,
                         .offset_kind = c->offset,
                         .correction = correction};
    const size_t width = c->scale_dtype == NIB_F32 ? 4 : 2;
    const size_t bytes = (size_t)(panels * w.panel_bytes), values = (size_t)(panels * groups * 16);
    uint8_t *codes = guarded_at_end(in1, bytes, 0);
    lane_codes(codes, bytes, c);
    w.codes = codes;
    void *scale = guarded_at_end(in2, values * width, 0);
    lane_values(scale, c->scale_dtype, (int64_t)values, false, c->power);
    w.scale = scale;
    if (c->offset != NIB_OFFSET_NONE) {
        void *offset = guarded_at_end(in3, values * width, 0);
        lane_values(offset, c->scale_dtype, (int64_t)values, c->offset == NIB_OFFSET_POINT,
                    c->power);
        w.offset = offset;
    }
    for (int64_t i = 0; i < panels * NIB_PANEL; i++) correction[i] = test_uniform(&seed) * 100;
    return w;
}

static void lane_same(void **state_, const char *slot, const lane_case *c, int64_t M,
                      const float *y, const float *want, int64_t ldy) {
    for (int64_t m = 0; m < M; m++) {
        const int64_t at = floats_differ(y + m * ldy, want + m * ldy, (size_t)c->N);
        if (at >= 0)
            FAIL_AT("%s: %s: lane %d bits %d, M %d N %d K %d G %d, offset %d, scales %d, codes %d: "
                    "row %d channel %d: got %a, want %a",
                    now->name, slot, (int)c->lane, c->bits, (int)M, (int)c->N, (int)c->K, (int)c->G,
                    (int)c->offset, (int)c->scale_dtype, c->extreme, (int)m, (int)at,
                    (double)y[m * ldy + at], (double)want[m * ldy + at]);
    }
}

/* All panels, or those from the second on, into y of guarded rows; want starts as a copy of y so
 * that what is not to be touched stays equal. */
static void one_lane_rows(void **state_, const lane_case *c, int64_t M, int kind) {
    float correction[256];
    static float want[1 << 14];
    const nib_lane_weight w = lane_weight(c, correction);
    const int64_t panels = (c->N + 15) / 16, first = panels > 2 ? 1 : 0, ldy = c->N;
    const float *x = place(in4, ugly(out2, (size_t)(M * c->K), kind), (size_t)(M * c->K) * 4, 0);
    float *y = guarded_at_end(out1, (size_t)(M * ldy) * 4, 0);
    memset(y, 0x3f, (size_t)(M * ldy) * 4);
    memcpy(want, y, (size_t)(M * ldy) * 4);
    ref.lane_rows[c->lane](want, ldy, x, c->K, M, &w, first, panels - first);
    got.lane_rows[c->lane](y, ldy, x, c->K, M, &w, first, panels - first);
    lane_same(state_, "lane_rows", c, M, y, want, ldy);
    CHECK(!guarded_spilled(out1, y, (size_t)(M * ldy) * 4));
}

static void one_lane_widen(void **state_, const lane_case *c) {
    float correction[256];
    static float want[1 << 14];
    const nib_lane_weight w = lane_weight(c, correction);
    for (int64_t p = 0; p * 16 < c->N; p++)
        for (int64_t k = 0; k < c->K || k == 0; k += 96) {
            const int64_t kc = c->K - k < 96 ? c->K - k : 96;
            float *y = guarded_at_end(out1, (size_t)kc * 64, 0);
            ref.lane_widen[c->lane](want, &w, p, k, kc);
            got.lane_widen[c->lane](y, &w, p, k, kc);
            const int64_t at = floats_differ(y, want, (size_t)kc * 16);
            if (at >= 0)
                FAIL_AT("%s: lane_widen: lane %d bits %d, N %d K %d G %d, offset %d: panel %d, "
                        "column %d, channel %d: got %a, want %a",
                        now->name, (int)c->lane, c->bits, (int)c->N, (int)c->K, (int)c->G,
                        (int)c->offset, (int)p, (int)(k + at / 16), (int)(at % 16), (double)y[at],
                        (double)want[at]);
            CHECK(!guarded_spilled(out1, y, (size_t)kc * 64));
        }
}

static void one_lane_i8(void **state_, const lane_case *c, int64_t M, bool zeros, int extreme) {
    float correction[256];
    static float want[1 << 14];
    static float scale[256];
    static int32_t zero[256], sums[64 * 64];
    static uint8_t scratch[NIB_LANE_SCRATCH] __attribute__((aligned(64)));
    const nib_lane_weight w = lane_weight(c, correction);
    const int64_t panels = (c->N + 15) / 16, first = panels > 2 ? 1 : 0, ldy = c->N;
    const int64_t ld = (c->K + 63) / 64 * 64;
    int8_t *q = guarded_at_end(in4, (size_t)(M * ld), 0);
    memset(q, 0, (size_t)(M * ld));
    for (int64_t m = 0; m < M; m++) {
        scale[m] = ldexpf(test_uniform(&seed) + 1.5f, -7);
        zero[m] = (int32_t)(test_random(&seed) % 256) - 128;
        for (int64_t k = 0; k < c->K; k++)
            q[m * ld + k] = (int8_t)(extreme == 1   ? -128
                                     : extreme == 2 ? 127
                                     : extreme == 3 ? (k % 2 ? 127 : -128)
                                     : extreme == 5 ? -64
                                     : extreme == 6 ? 64
                                     : extreme == 7 ? (int)(test_random(&seed) >> 9) % 65
                                                    : (int)(test_random(&seed) >> 9));
        for (int64_t g = 0; g < w.groups; g++) {
            int32_t *sum = &sums[m * w.groups + g];
            *sum = 0;
            for (int64_t k = g * w.G; k < (g + 1) * w.G && k < c->K; k++) *sum += q[m * ld + k];
        }
    }
    const nib_rows_i8 rows = {q, ld, scale, zeros ? zero : NULL, sums, .seven_bits = extreme > 4};
    float *y = guarded_at_end(out1, (size_t)(M * ldy) * 4, 0);
    memset(y, 0x3f, (size_t)(M * ldy) * 4);
    memcpy(want, y, (size_t)(M * ldy) * 4);
    ref.lane_i8[c->lane](want, ldy, &rows, M, &w, first, panels - first, scratch);
    got.lane_i8[c->lane](y, ldy, &rows, M, &w, first, panels - first, scratch);
    lane_same(state_, "lane_i8", c, M, y, want, ldy);
    CHECK(!guarded_spilled(out1, y, (size_t)(M * ldy) * 4));
}

static const lane_case lane_kinds[] = {
    {.lane = NIB_LANE_W8, .bits = 8, .mid = 128},
    {.lane = NIB_LANE_W8, .bits = 8, .mid = 0},
    {.lane = NIB_LANE_W4, .bits = 4, .mid = 8},
    {.lane = NIB_LANE_W4, .bits = 4, .mid = 0},
    {.lane = NIB_LANE_W2, .bits = 2, .mid = 2},
    {.lane = NIB_LANE_W2, .bits = 2, .mid = 0},
    {.lane = NIB_LANE_WX, .bits = 1, .mid = 1},
    {.lane = NIB_LANE_WX, .bits = 3, .mid = 4},
    {.lane = NIB_LANE_WX, .bits = 5, .mid = 16},
    {.lane = NIB_LANE_WX, .bits = 6, .mid = 32},
    {.lane = NIB_LANE_WX, .bits = 7, .mid = 0},
    {.lane = NIB_LANE_F8, .bits = 8, .code = NIB_F8_E4M3FN},
    {.lane = NIB_LANE_F8, .bits = 8, .code = NIB_F8_E5M2},
    {.lane = NIB_LANE_F8, .bits = 8, .code = NIB_F8_E4M3FNUZ},
    {.lane = NIB_LANE_F8, .bits = 8, .code = NIB_F8_E5M2FNUZ},
};

/* One case through every slot of its lane that the set fills. */
static void lane_everywhere(void **state_, lane_case c, int64_t M, int turn) {
    static const nib_dtype dtypes[] = {NIB_F32, NIB_F16, NIB_BF16};
    c.scale_dtype = dtypes[turn % 3];
    c.offset = c.lane == NIB_LANE_F8 ? NIB_OFFSET_NONE : (nib_offset)(turn / 3 % 4);
    c.extreme = turn / 2 % 5;
    /* next to denormal and, with narrow floats, far from it: where scales have no room for a power
     * of two more */
    if (c.scale_dtype != NIB_F16) c.power = turn % 7 == 3 ? -101 : turn % 7 == 5 ? 12 : 0;
    if (CHANGED(lane_rows[c.lane]))
        one_lane_rows(state_, &c, M < NIB_LANE_ROWS ? M : NIB_LANE_ROWS, turn % UGLY_KINDS);
    if (CHANGED(lane_widen[c.lane])) one_lane_widen(state_, &c);
    if (c.lane != NIB_LANE_F8 && CHANGED(lane_i8[c.lane]))
        one_lane_i8(state_, &c, M, turn % 2, turn % 8);
}

static void check_dense_rows(void **state_) {
    static const nib_dtype dtypes[] = {NIB_F32, NIB_F16, NIB_BF16};
    static const int64_t channels[] = {1, 7, 15, 16, 17, 33, 64, 130};
    static float want[1 << 14];
    if (!CHANGED(dense_rows)) return;
    int turn = 0;
    for (int64_t K = 0; K <= 257; K += K < 40 ? 1 : 7)
        for (int d = 0; d < 3; d++, turn++) {
            const int64_t N = channels[turn % 8], M = 1 + turn % NIB_LANE_ROWS, ldw = K + turn % 2;
            const size_t width = d ? 2 : 4, count = (size_t)((N - 1) * ldw + K);
            void *w = guarded_at_end(in1, count * width, 0);
            if (d)
                for (size_t i = 0; i < count; i++)
                    lane_values((char *)w + 2 * i, dtypes[d], 1, false, 0);
            else
                ugly_fill(w, count, turn % UGLY_KINDS, &seed);
            const float *x = ugly(in4, (size_t)(M * K), turn % UGLY_KINDS);
            float *y = guarded_at_end(out1, (size_t)(M * N) * 4, 0);
            ref.dense_rows(want, N, x, K, M, w, dtypes[d], ldw, N, K);
            got.dense_rows(y, N, x, K, M, w, dtypes[d], ldw, N, K);
            same_floats(state_, "dense_rows", y, want, (size_t)(M * N), (int)K);
            CHECK(!guarded_spilled(out1, y, (size_t)(M * N) * 4));
        }
}

static void check_lanes(void **state_) {
    static const int64_t channels[] = {1, 15, 16, 17, 33, 64, 65, 130, 144};
    static const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 17, 31, 33};
    int turn = 0;
    for (size_t i = 0; i < sizeof lane_kinds / sizeof *lane_kinds; i++) {
        lane_case c = lane_kinds[i];
        for (int64_t K = 1; K <= 257; K += K < 66 ? 1 : 13, turn++) {
            c.K = c.G = K; /* one group, any tail */
            c.N = channels[turn % 9];
            lane_everywhere(state_, c, rows[turn % 14], turn);
        }
        for (int64_t G = 32; G <= 256; G *= 2)
            for (int64_t groups = 1; groups <= 5; groups += 1 + (G > 64), turn++) {
                c.G = G;
                c.K = G * groups;
                c.N = channels[turn % 9];
                lane_everywhere(state_, c, rows[turn % 14], turn);
            }
        c.N = 32;
        c.K = c.G = 2500; /* longer than any block of K */
        lane_everywhere(state_, c, 9, turn++);
        c.K = 2048, c.G = 128;
        lane_everywhere(state_, c, 16, turn++);
        c.K = 96, c.G = 32; /* more rows than any block of rows */
        lane_everywhere(state_, c, 250, turn++);
        c.N = 19;
        c.K = c.G = 7001; /* a row too long for any cache, in one group, in large and small ones */
        lane_everywhere(state_, c, 10, turn++);
        c.K = 7168, c.G = 1024;
        lane_everywhere(state_, c, 11, turn++);
        c.G = 3584;
        lane_everywhere(state_, c, 9, turn++);
        c.K = 7008, c.G = 96;
        lane_everywhere(state_, c, 9, turn++);
        c.K = 10048, c.G = 5024; /* groups longer than what a block of inputs holds */
        lane_everywhere(state_, c, 13, turn++);
        c.K = 40960, c.G = 1024; /* few rows, but longer than the scratch */
        c.N = 16, c.scale_dtype = NIB_BF16;
        if (c.bits <= 4 && CHANGED(lane_i8[c.lane])) one_lane_i8(state_, &c, 7, turn % 2, 0);
        c.K = c.G = 140001; /* sums that hardly fit 32 bits where codes are not moved first */
        c.extreme = 2;
        for (int m = 1; c.bits <= 4 && CHANGED(lane_i8[c.lane]) && m <= 2; m++)
            one_lane_i8(state_, &c, m, turn % 2, m % 2 ? 1 : 2);
    }
    check_dense_rows(state_);
}
#endif
