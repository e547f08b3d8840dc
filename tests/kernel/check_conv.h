/* check_conv.h: words gathered for a convolution, and one filter over neighbours. */
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

        int8_t codes[MOST_N + 90];
        for (int64_t i = 0; i < n + 90; i++) codes[i] = (int8_t)test_random(&seed);
        const int8_t *q = place(in3, codes, (size_t)n + 90, 0);
        ref.taps_i8(want, n, q, taps, w, K);
        got.taps_i8(y, n, q, taps, w, K);
        same_floats(state_, "taps_i8", y, want, (size_t)n, kind);
        CHECK(!guarded_spilled(out1, y, (size_t)n * 4));
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
    check_scale_add(state_);
}
#endif
