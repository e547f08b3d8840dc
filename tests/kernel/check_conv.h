/* check_conv.h: words gathered for a convolution, one filter over neighbours, codes by codes. */
#ifndef NIB_TESTS_KERNEL_CHECK_CONV_H
#define NIB_TESTS_KERNEL_CHECK_CONV_H

/* Positions of a panel: up to 16, in runs of neighbours with gaps between, sometimes backwards. */
static int some_positions(int64_t *from, int64_t reach) {
    const int lanes = 1 + (int)(test_random(&seed) % NIB_PANEL);
    const int run = 1 + (int)(test_random(&seed) % NIB_PANEL);
    int64_t at = 0;
    for (int l = 0; l < lanes; l++, at++) {
        if (l % run == 0) at = (int64_t)(test_random(&seed) % (uint64_t)(reach - NIB_PANEL));
        from[l] = at;
    }
    return lanes;
}

static void check_words(void **state_) {
    enum { REACH = 100, WORDS = 300, TAPS = 70 };
    if (!CHANGED(words_by_taps)) return;
    for (int round = 0; round < 3000; round++) {
        int64_t from[NIB_PANEL], taps[TAPS], most = 0;
        const int lanes = some_positions(from, REACH);
        const int64_t kc = (int64_t)(test_random(&seed) % TAPS);
        int64_t least = from[0];
        for (int l = 0; l < lanes; l++) {
            most = from[l] > most ? from[l] : most;
            least = from[l] < least ? from[l] : least;
        }
        for (int64_t k = 0; k < kc; k++) taps[k] = (int64_t)(test_random(&seed) % (WORDS - REACH));
        taps[0] = WORDS - 1 - most;   /* the last word that there is, */
        if (kc > 1) taps[1] = -least; /* and the first */
        const size_t size = (size_t)(kc * NIB_PANEL);
        static float want[TAPS * NIB_PANEL];
        const float *words = ugly(in1, WORDS, 7);
        float *panel = guarded_either(out1, size * 4);
        ref.words_by_taps(want, words, taps, kc, from, lanes);
        got.words_by_taps(panel, words, taps, kc, from, lanes);
        if (memcmp(panel, want, size * 4) != 0)
            DIFFERS(words_by_taps, "round %d: %d lanes, %d taps", round, lanes, (int)kc);
        CHECK(!guarded_spilled(out1, panel, size * 4));
    }
}

static void check_taps(void **state_) {
    enum { MOST_TAPS = 50, MOST_N = 300 };
    if (!CHANGED(taps_f32)) return;
    for (int round = 0; round < 4000; round++) {
        int64_t taps[MOST_TAPS];
        const int64_t n = round % MOST_N, K = (int64_t)(test_random(&seed) % MOST_TAPS);
        const int kind = round % UGLY_KINDS;
        for (int64_t k = 0; k < K; k++) taps[k] = (int64_t)(test_random(&seed) % 90);
        if (K) taps[K - 1] = 90;
        /* all of x is there that a tap sees, and no more */
        const float *x = ugly(in1, (size_t)n + 90, kind), *w = ugly(in2, (size_t)K, kind);
        float want[MOST_N], *y = guarded_either(out1, (size_t)n * 4);
        ref.taps_f32(want, n, x, taps, w, K);
        got.taps_f32(y, n, x, taps, w, K);
        same_floats(state_, "taps_f32", y, want, (size_t)n, kind);
        CHECK(!guarded_spilled(out1, y, (size_t)n * 4));
    }
}

static void random_codes(int8_t *q, int64_t n, int kind) { /* kind 0: the extremes */
    for (int64_t i = 0; i < n; i++) {
        const uint64_t r = test_random(&seed);
        q[i] = (int8_t)(kind ? (int)(r % 256) - 128 : r % 3 ? -128 : 127);
    }
}

/* Filters [M / 8][K][8][4] of codes, `step` bytes from filter to filter, and what they end in. */
enum { MOST_FILTERS = 21 };
typedef struct some_filters {
    nib_conv_i8 c;
    int32_t sums[MOST_FILTERS];
} some_filters;

/* Results are 2^-14 of a sum or so: a few hundred; kind 1 has a NaN and infinities among them, of
 * kind 3 most lie at ties or a few last bits beside them. */
static void finish_filters(some_filters *f, int kind) {
    float scale[MOST_FILTERS], bias[MOST_FILTERS];
    for (int m = 0; m < MOST_FILTERS; m++) {
        scale[m] = 0x1p-8f * (0.1f + fabsf(test_uniform(&seed)));
        bias[m] = (m % 5 ? 50.0f : 400.0f) * test_uniform(&seed);
        if (m % 7 == 6) scale[m] = 0;
    }
    if (kind == 1) bias[0] = NAN, bias[1] = INFINITY, bias[2] = -INFINITY, scale[3] = NAN;
    const int most = test_random(&seed) % 3 ? 127 : 63;
    f->c.x_scale = 0x1p-6f * (1 + fabsf(test_uniform(&seed)));
    f->c.y_scale = 0.3f + fabsf(test_uniform(&seed));
    const float others[] = {0x1p-120f, 0x1p110f, 0, NAN};
    if (test_random(&seed) % 16 == 0) f->c.y_scale = others[test_random(&seed) % 4];
    if (kind == 3) {
        const float odd = 1 + fabsf(test_uniform(&seed));
        f->c.x_scale = 0x1p-6f * odd, f->c.y_scale = 2 * odd;
        for (int m = 0; m < MOST_FILTERS; m++) {
            scale[m] = ldexpf(1, -(int)(test_random(&seed) % 9));
            bias[m] = (float)(int)(test_random(&seed) % 1024) - 512;
            bias[m] = (bias[m] / 2 + 1.0f / 256 * (float)(m % 2)) * f->c.y_scale;
            for (int step = (int)(test_random(&seed) % 4); step > 0; step--)
                bias[m] = nextafterf(bias[m], m % 3 ? INFINITY : -INFINITY);
        }
    }
    f->c.scale = place(in3, scale, (size_t)f->c.M * 4, 0);
    f->c.bias = kind == 2 ? NULL : place(in4, bias, (size_t)f->c.M * 4, 0);
    f->c.sums = place(in5, f->sums, (size_t)f->c.M * 4, 0);
    f->c.low = -most - 1, f->c.high = most;
}

/* Runs `call` on `c` by the judge and by the set, to floats and to codes; rows ldy apart. */
#define SAME_RESULTS(slot, call, c, rows, n)                                                       \
    do {                                                                                           \
        const size_t count_ = (rows) ? (size_t)(((rows)-1) * (c).ldy + (n)) : 0;                   \
        static float want_[1 << 14];                                                               \
        CHECK(count_ <= 1 << 14);                                                                  \
        for (int codes_ = 0; codes_ < 2; codes_++) {                                               \
            const size_t bytes_ = count_ * (codes_ ? 1 : 4);                                       \
            unsigned char *y_ = guarded_either(out1, bytes_);                                      \
            memset(want_, 0xa5, bytes_); /* what lies between rows is left alone */                \
            memset(y_, 0xa5, bytes_);                                                              \
            (c).y = codes_ ? NULL : want_, (c).q = (int8_t *)want_;                                \
            ref.call;                                                                              \
            (c).y = codes_ ? NULL : (float *)(void *)y_, (c).q = (int8_t *)y_;                     \
            got.call;                                                                              \
            if (!codes_)                                                                           \
                same_floats(state_, #slot, (c).y, want_, count_, (int)(c).K);                      \
            else if (memcmp(y_, want_, count_) != 0)                                               \
                DIFFERS(slot, "codes: M %d, K %d, n %d", (int)(c).M, (int)(c).K, (int)(n));        \
            CHECK(!guarded_spilled(out1, y_, bytes_));                                             \
        }                                                                                          \
    } while (0)

/* Taps of a window: `columns` of each row, `apart`, rows `line` apart; how many. */
static int64_t window_taps(int64_t *taps, int64_t rows, int64_t columns, int64_t apart,
                           int64_t line) {
    int64_t K = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t t = 0; t < columns; t++) taps[K++] = i * line + t * apart;
    return K;
}

static void check_taps_of_codes(void **state_) {
    enum { MOST_TAPS = 50, MOST_N = 200, REACH = 90, MOST_STEP = 77, MOST_ROWS = 8 };
    if (!CHANGED(taps_i8)) return;
    for (int round = 0; round < 6000; round++) {
        int64_t taps[MOST_TAPS], n = round % MOST_N, step = round % MOST_STEP;
        int64_t K = (int64_t)(test_random(&seed) % MOST_TAPS), reach = K ? REACH : 0;
        const int64_t rows = (int64_t)(test_random(&seed) % MOST_ROWS);
        const int64_t stride = 1 + (int64_t)(test_random(&seed) % 2);
        for (int64_t k = 0; k < K; k++) taps[k] = (int64_t)(test_random(&seed) % REACH);
        if (K) taps[K - 1] = REACH - 1;
        if (round % 2) { /* of 1 to 5 rows and 1 to 9 columns, mostly a row from the next */
            const int64_t down = 1 + round / 2 % 5, columns = 1 + round / 10 % 9;
            step = 9 + round / 90 % (MOST_STEP - 9);
            const int64_t line = round % 3 ? step : 9, apart = round % 5 ? 1 : 2;
            K = window_taps(taps, down, columns, apart, line);
            reach = taps[K - 1] + 1;
        }
        int8_t x[2 * MOST_N + 5 * MOST_STEP + MOST_ROWS * MOST_STEP], w[MOST_TAPS + 4] = {0};
        some_filters f = {.c = {.M = 1, .K = K, .ldy = n + round % 3}};
        /* all of x is there that a tap sees, and no more */
        const size_t there =
            rows && n && K ? (size_t)((rows - 1) * step + reach + (n - 1) * stride) : 0;
        random_codes(x, sizeof x, round % 7);
        random_codes(w, K, round % 5);
        for (int64_t k = 0; k < K; k++) f.sums[0] += w[k];
        finish_filters(&f, round / 2 % 4);
        f.c.filters = place(in2, w, (size_t)(K + 3) / 4 * 4, 0);
        const int8_t *q = place(in1, x, there, 0);
        SAME_RESULTS(taps_i8, taps_i8(&f.c, q, taps, n, rows, step, stride), f.c, n ? rows : 0, n);
    }
}

static void check_filters_of_codes(void **state_) {
    enum { MOST_K = 70, MOST_N = 170 };
    if (!CHANGED(conv_i8)) return;
    static int8_t w[(MOST_FILTERS + 7) * MOST_K * 4], u[(MOST_N + 15) * (MOST_K + 2) * 4];
    for (int round = 0; round < 1500; round++) {
        const int64_t M = round % (MOST_FILTERS + 1), K = (int64_t)(test_random(&seed) % MOST_K);
        const int64_t n = (int64_t)(test_random(&seed) % MOST_N), panels = (n + 15) / 16;
        const int64_t stride = (K + (round & 1)) * NIB_PANEL, blocks = (M + 7) / 8;
        some_filters f = {.c = {.M = M, .K = K, .ldy = n + round % 3}};
        random_codes(w, blocks * K * 32, round % 5);
        random_codes(u, panels * stride * 4, round % 7);
        for (int64_t i = 0; i < blocks * K * 32; i++) {
            const int64_t m = i / (K * 32) * 8 + i % 32 / 4;
            if (m >= M)
                w[i] = 0;
            else
                f.sums[m] += w[i];
        }
        finish_filters(&f, round % 4);
        f.c.filters = place(in2, w, (size_t)(blocks * K * 32), 0);
        const size_t there = panels ? (size_t)((panels - 1) * stride + K * NIB_PANEL) * 4 : 0;
        const uint32_t *words = place(in1, u, there, 0);
        SAME_RESULTS(conv_i8, conv_i8(&f.c, words, stride, n), f.c, n ? M : 0, n);
    }
}

static void check_words_of_rows(void **state_) {
    enum { MOST_N = 200, MOST_STRIDE = 5 };
    if (!CHANGED(words_of_rows)) return;
    for (int round = 0; round < 2000; round++) {
        const int64_t n = round % MOST_N, stride = 1 + round % 7 % MOST_STRIDE;
        const int64_t step = NIB_PANEL * (1 + round % 3), length = n ? (n - 1) * stride + 1 : 0;
        const guarded in[4] = {in1, in2, in3, in4};
        const int8_t *rows[4];
        for (int j = 0; j < 4; j++) {
            int8_t x[MOST_N * MOST_STRIDE];
            random_codes(x, length, 1);
            rows[j] = place(in[j], x, (size_t)length, 0);
        }
        static uint32_t want[(MOST_N / NIB_PANEL + 1) * NIB_PANEL * 3];
        const size_t size = n ? (size_t)((n - 1) / NIB_PANEL * step + (n - 1) % NIB_PANEL + 1) : 0;
        uint32_t *out = guarded_either(out1, size * 4);
        memset(want, 0xa5, size * 4);
        memset(out, 0xa5, size * 4);
        ref.words_of_rows(want, step, rows, n, stride);
        got.words_of_rows(out, step, rows, n, stride);
        if (memcmp(out, want, size * 4) != 0)
            DIFFERS(words_of_rows, "n %d, stride %d, step %d", (int)n, (int)stride, (int)step);
        CHECK(!guarded_spilled(out1, out, size * 4));
    }
}

static void check_scale_add(void **state_) {
    if (!CHANGED(scale_add_f32)) return;
    for (int kind = 0; kind < UGLY_KINDS; kind++) FOR_SIZES(n) {
            float want[MOST], factor[3];
            for (int i = 0; i < 3; i++) factor[i] = n % 5 ? test_uniform(&seed) : i < 2 ? 1 : -0.0f;
            const float *x = ugly(in1, n, kind);
            float *y = place(out1, x, n * 4, 0);
            if (n) memcpy(want, x, n * 4);
            ref.scale_add_f32(want, n, factor[0], factor[1], factor[2]);
            got.scale_add_f32(y, n, factor[0], factor[1], factor[2]);
            same_floats(state_, "scale_add_f32", y, want, n, kind);
            if (n && n % 5 == 0) same_floats(state_, "scale_add_f32 of ones", y, x, n, kind);
            CHECK(!guarded_spilled(out1, y, n * 4));
        }
}

static void check_conv(void **state_) {
    check_words(state_);
    check_taps(state_);
    check_taps_of_codes(state_);
    check_words_of_rows(state_);
    check_filters_of_codes(state_);
    check_scale_add(state_);
}
#endif
