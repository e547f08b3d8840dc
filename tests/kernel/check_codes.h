/* check_codes.h: floats to codes, and codes to the lines, corrections and bytes that are made of
 * them, against their judges; part of checkkernel.c, which includes it behind its own helpers. */
#ifndef NIB_TESTS_KERNEL_CHECK_CODES_H
#define NIB_TESTS_KERNEL_CHECK_CODES_H

static const nib_dtype maths[] = {NIB_F32, NIB_BF16, NIB_F16};

static void same_codes(void **state_, const char *slot, const uint8_t *y, const uint8_t *want,
                       size_t n, int kind, int math) {
    for (size_t i = 0; i < n; i++)
        if (y[i] != want[i])
            FAIL_AT("%s: %s: n %zu, kind %d, math %d, element %zu: %d, want %d", now->name, slot, n,
                    kind, math, i, y[i], want[i]);
    CHECK(!guarded_spilled(out1, y, n));
}

/* Quotients at ties and a few last bits beside them, beyond the range, by scales of all kinds. */
static void check_ties(void **state_) {
    enum { MOST_G = 330 };
    static const int ranges[][2] = {{-128, 127}, {-64, 63}, {0, 255}, {0, 15}};
    static const float scales[] = {1,        0.1f, 3e-5f,  -0.3f,    0x1p-120f,
                                   0x1p120f, 0,    1e-40f, INFINITY, NAN};
    if (!CHANGED(quantize_divided)) return;
    for (int round = 0; round < 3000; round++) {
        const int64_t G = (int64_t)(test_random(&seed) % MOST_G);
        const int *range = ranges[test_random(&seed) % 4];
        float x[MOST_G], scale = scales[test_random(&seed) % 10];
        int32_t zero = range[0] + (int)(test_random(&seed) % (uint64_t)(range[1] - range[0] + 1));
        if (round % 2) scale *= 1 + fabsf(test_uniform(&seed));
        for (int64_t i = 0; i < G; i++) {
            const uint64_t r = test_random(&seed);
            x[i] = ((float)(int)(r % 600) - 300.5f) * scale;
            if (round % 3 == 0) x[i] = 100 * test_uniform(&seed) * scale; /* few ties */
            for (int step = (int)(r >> 32) % 5; step > 0; step--)
                x[i] = nextafterf(x[i], r >> 40 & 1 ? INFINITY : -INFINITY);
            if (r >> 50 == 0) x[i] = r & 1 ? NAN : INFINITY;
        }
        uint8_t want[MOST_G], *q = guarded_either(out1, (size_t)G);
        const float *from = place(in1, x, (size_t)G * 4, 0);
        const int32_t *z = round % 4 ? NULL : &zero;
        ref.quantize_divided(want, from, 1, G, NULL, &scale, z, range[0], range[1], NIB_F32);
        got.quantize_divided(q, from, 1, G, NULL, &scale, z, range[0], range[1], NIB_F32);
        same_codes(state_, "quantize_divided near ties", q, want, (size_t)G, round, 0);
    }
}

/* Rows of floats with gaps between and behind, ties and what is no number among them. */
static void check_rows_to_codes(void **state_) {
    enum { MOST_N = 150, MOST_ROWS = 5, GAP = 9 };
    static const float scales[] = {1, 0.1f, -0.3f, 0x1p-120f, 0, NAN};
    if (!CHANGED(quantize_lines)) return;
    for (int round = 0; round < 3000; round++) {
        const int64_t n = round % MOST_N, rows = round / 2 % MOST_ROWS;
        const int64_t ldx = n + round % GAP, ldq = n + round / 3 % GAP;
        const float scale = scales[test_random(&seed) % 6] * (1 + fabsf(test_uniform(&seed)));
        const int most = round % 4 ? 127 : 63;
        float x[MOST_ROWS * (MOST_N + GAP)];
        for (int64_t i = 0; i < rows * ldx; i++) {
            const uint64_t r = test_random(&seed);
            x[i] = ((float)(int)(r % 300) - 150.5f) * scale;
            if (r % 2) x[i] = 130 * test_uniform(&seed) * scale;
            if (r >> 52 == 0) x[i] = r & 1 ? NAN : -INFINITY;
        }
        const bool none = !rows || !n;
        const size_t in = none ? 0 : (size_t)((rows - 1) * ldx + n);
        const size_t out = none ? 0 : (size_t)((rows - 1) * ldq + n);
        uint8_t want[MOST_ROWS * (MOST_N + GAP)], *q = guarded_either(out1, out);
        memset(want, 0xa5, out);
        memset(q, 0xa5, out);
        const float *from = place(in1, x, in * 4, 0);
        ref.quantize_lines(want, ldq, from, ldx, rows, n, scale, -most - 1, most);
        got.quantize_lines(q, ldq, from, ldx, rows, n, scale, -most - 1, most);
        same_codes(state_, "quantize_lines", q, want, out, round, 0);
    }
}

static void check_quantizing(void **state_) {
    check_rows_to_codes(state_);
    static const int ranges[][2] = {{-128, 127}, {0, 255}, {0, 15}, {-8, 7}, {0, 3}};
    static const nib_dtype formats[] = {NIB_F8_E4M3FN, NIB_F8_E5M2, NIB_F8_E4M3FNUZ};
    static const float limits[] = {448, 57344, 240};
    if (!CHANGED(quantize_scaled)) return;
    for (int round = 0; round < 4000; round++) {
        const int64_t groups = (int64_t)(test_random(&seed) % 4);
        const int64_t G = 1 + (int64_t)(test_random(&seed) % 70);
        const int kind = (int)(test_random(&seed) % UGLY_KINDS);
        const nib_dtype math = maths[round % 3];
        const int *range = ranges[test_random(&seed) % 5], which = (int)(test_random(&seed) % 3);
        const size_t n = (size_t)(groups * G);
        uint8_t want[300];
        float factor[4], shift[4];
        int32_t zero[4];
        for (int g = 0; g < 4; g++) {
            factor[g] = ldexpf(test_uniform(&seed), (int)(test_random(&seed) % 12) - 6);
            if (test_random(&seed) % 16 == 0) factor[g] = 0;
            if (test_random(&seed) % 8 == 0) factor[g] = 1; /* meets the ties of kind 5 */
            shift[g] = test_random(&seed) % 4 ? test_uniform(&seed) : 0.5f;
            zero[g] = range[0] + (int)(test_random(&seed) % (uint64_t)(range[1] - range[0] + 1));
        }
        const float *x = ugly(in1, n, kind), *f = place(in2, factor, (size_t)groups * 4, 0);
        const float *s = round % 5 ? place(in3, shift, (size_t)groups * 4, 0) : NULL;
        const int32_t *z = round % 7 ? place(in4, zero, (size_t)groups * 4, 0) : NULL;
        uint8_t *q = guarded_either(out1, n);
        ref.quantize_scaled(want, x, groups, G, f, z, range[0], range[1], math);
        got.quantize_scaled(q, x, groups, G, f, z, range[0], range[1], math);
        same_codes(state_, "quantize_scaled", q, want, n, kind, (int)math);
        ref.quantize_divided(want, x, groups, G, s, f, z, range[0], range[1], math);
        got.quantize_divided(q, x, groups, G, s, f, z, range[0], range[1], math);
        same_codes(state_, "quantize_divided", q, want, n, kind, (int)math);
        ref.quantize_f8(want, x, groups, G, f, limits[which], formats[which], math);
        got.quantize_f8(q, x, groups, G, f, limits[which], formats[which], math);
        same_codes(state_, "quantize_f8", q, want, n, kind, (int)math);

        float back[300];
        float *y = guarded_either(out2, n * 4);
        ref.dequantize_scaled(back, q, groups, G, round % 2, f, z, math);
        got.dequantize_scaled(y, q, groups, G, round % 2, f, z, math);
        same_floats(state_, "dequantize_scaled", y, back, n, (int)math);
        ref.dequantize_shifted(back, q, groups, G, round % 2, f, s ? s : f, math);
        got.dequantize_shifted(y, q, groups, G, round % 2, f, s ? s : f, math);
        same_floats(state_, "dequantize_shifted", y, back, n, (int)math);
        CHECK(!guarded_spilled(out2, y, n * 4));
    }
}

static void check_lines(void **state_) {
    static const nib_lane lanes[] = {NIB_LANE_W8, NIB_LANE_W4, NIB_LANE_W2, NIB_LANE_WX,
                                     NIB_LANE_F8};
    static const int bits_of[] = {8, 4, 2, 1, 8};
    enum { LINES = 150, WORDS = LINES * 8 * NIB_PANEL };
    static uint32_t from[WORDS];
    static uint8_t want[LINES * 64];
    static int32_t sums[LINES * NIB_PANEL], want_sums[LINES * NIB_PANEL];
    if (!CHANGED(lay_lines)) return;
    for (int round = 0; round < 900; round++) {
        const nib_lane lane = lanes[round % 5];
        const int bits = bits_of[round % 5];
        const int64_t lines = round < 10 ? round / 5 : (int64_t)(test_random(&seed) % LINES);
        const int64_t every = round % 7 ? 1 + (int64_t)(test_random(&seed) % LINES) : 1;
        const int shift = lane == NIB_LANE_F8 ? 0 : bits * (round / 5 % (8 / bits));
        const uint32_t flip = round % 3 ? 0x01010101u << (bits - 1) : 0;
        const size_t words = (size_t)(lines * 8 / bits * NIB_PANEL), size = (size_t)lines * 64;
        for (size_t i = 0; i < words; i++)
            from[i] = round % 11 ? (uint32_t)test_random(&seed) : round % 2 ? 0xffffffffu : 0;
        for (int i = 0; i < LINES * NIB_PANEL; i++) sums[i] = want_sums[i] = 1000 * i - 7;
        const uint32_t *x = place(in1, from, words * 4, 0);
        uint8_t *y = guarded_either(out1, size);
        ref.lay_lines(want, x, lines, lane, flip, shift, every, want_sums);
        got.lay_lines(y, x, lines, lane, flip, shift, every, sums);
        got.lines_laid();
        same_codes(state_, "lay_lines", y, want, size, (int)lane, round);
        CHECK_BYTES(sums, want_sums, sizeof sums);
        CHECK(!guarded_spilled(out1, y, size));
        if (lane != NIB_LANE_W4) continue;
        x = place(in1, from, size, 0);
        y = guarded_either(out1, size);
        ref.lay_halves(want, x, lines, flip | flip << 4, every, want_sums);
        got.lay_halves(y, x, lines, flip | flip << 4, every, sums);
        same_codes(state_, "lay_halves", y, want, size, (int)lane, round);
        CHECK_BYTES(sums, want_sums, sizeof sums);
        CHECK(!guarded_spilled(out1, y, size));
    }
}

static void check_corrections(void **state_) {
    enum { MOST_GROUPS = 9, N = MOST_GROUPS * NIB_PANEL };
    static const nib_offset kinds[] = {NIB_OFFSET_NONE, NIB_OFFSET_ADD, NIB_OFFSET_SUB,
                                       NIB_OFFSET_POINT};
    if (!CHANGED(correct_lines)) return;
    for (int round = 0; round < 400; round++) {
        const int64_t groups = (int64_t)(test_random(&seed) % (MOST_GROUPS + 1));
        const size_t n = (size_t)(groups * NIB_PANEL);
        const nib_offset kind = kinds[round % 4];
        const float *scale = ugly(in1, n, round % UGLY_KINDS),
                    *zero = ugly(in2, n, (round / 4) % UGLY_KINDS);
        float acc[NIB_PANEL], want[NIB_PANEL];
        int32_t sums[N];
        for (int i = 0; i < N; i++) sums[i] = (int32_t)(test_random(&seed) % 2000000) - 1000000;
        for (int c = 0; c < NIB_PANEL; c++) acc[c] = want[c] = test_uniform(&seed);
        const float *z = kind == NIB_OFFSET_NONE ? NULL : zero;
        ref.correct_lines(want, scale, z, kind, sums, groups, 77 * round, (float)(32 * round));
        got.correct_lines(acc, scale, z, kind, sums, groups, 77 * round, (float)(32 * round));
        same_floats(state_, "correct_lines", acc, want, NIB_PANEL, (int)kind);
    }
}

static void check_nibbles(void **state_) {
    if (!CHANGED(pack_u4)) return;
    FOR_SIZES(n) {
        uint8_t want[MOST];
        const uint8_t *codes = (const uint8_t *)ugly(in1, (n + 3) / 4, 7);
        uint8_t *y = guarded_either(out1, (n + 1) / 2);
        ref.pack_u4(want, codes, n);
        got.pack_u4(y, codes, n);
        same_codes(state_, "pack_u4", y, want, (n + 1) / 2, 0, 0);
        const uint8_t *bytes = place(in2, want, (n + 1) / 2, 0);
        y = guarded_either(out1, n);
        ref.unpack_u4(want, bytes, n);
        got.unpack_u4(y, bytes, n);
        same_codes(state_, "unpack_u4", y, want, n, 0, 0);
    }
}

static void check_bits(void **state_) {
    if (!CHANGED(unpack_bits)) return;
    for (int bits = 1; bits <= 8; bits++) FOR_SIZES(n) {
            uint8_t want[MOST];
            const size_t size = nib_bits_size(n, bits);
            const uint8_t *bytes =
                (const uint8_t *)ugly(in1, (size + 3) / 4, 7) + (4 - size % 4) % 4;
            uint8_t *y = guarded_either(out1, n);
            ref.unpack_bits(want, bytes, n, bits);
            got.unpack_bits(y, bytes, n, bits);
            same_codes(state_, "unpack_bits", y, want, n, bits, 0);
            CHECK(!guarded_spilled(out1, y, n));
        }
}
#endif
