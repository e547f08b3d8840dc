/* check_inputs.h: rows of inputs to 8-bit codes against their judges; part of checkkernel.c, which
 * includes it behind its own helpers. */
#ifndef NIB_TESTS_KERNEL_CHECK_INPUTS_H
#define NIB_TESTS_KERNEL_CHECK_INPUTS_H

enum { INPUT_ROWS = 4, INPUT_GAP = 5 };

typedef struct input_case {
    const float *x, *weight; /* [rows][n]; weight: of a norm, or NULL */
    size_t rows, n;
    int kind, bits;
    bool zero, norm, sums;
    float eps;
} input_case;

static void one_input(void **state_, const input_case *c) {
    static int8_t want[INPUT_ROWS * (MOST + INPUT_GAP)];
    static float want_normed[MOST];
    float want_scale[INPUT_ROWS] = {0}, *normed = guarded_at_end(out2, c->n * 4, 0);
    int32_t want_zero[INPUT_ROWS] = {0};
    const int64_t n = (int64_t)c->n, rows = (int64_t)c->rows, ld = n + INPUT_GAP;
    const size_t size = (size_t)((rows - 1) * ld + n);
    int8_t *q = size % 2 ? guarded_at_start(out1, size, 0) : guarded_at_end(out1, size, 0);
    float *scale = guarded_at_end(in3, c->rows * 4, 0);
    int32_t *zero = guarded_at_end(in4, c->rows * 4, 0);
    memset(want, 99, size); /* between the rows nothing changes */
    memset(q, 99, size);
    if (c->norm) {
        ref.rms_norm_quantize_i8(want, want_scale, c->zero ? want_zero : NULL, want_normed, c->x,
                                 c->weight, n, 1e-5f, c->bits, c->eps);
        got.rms_norm_quantize_i8(q, scale, c->zero ? zero : NULL, normed, c->x, c->weight, n, 1e-5f,
                                 c->bits, c->eps);
        same_floats(state_, "rms_norm_quantize_i8, the norm", normed, want_normed, c->n, c->kind);
        CHECK(!guarded_spilled(out2, normed, c->n * 4));
    } else {
        int32_t *sums = guarded_at_end(out3, c->rows * 4, 0);
        ref.quantize_rows_i8(want, ld, want_scale, c->zero ? want_zero : NULL, NULL, c->x, rows, n,
                             c->bits, c->eps);
        got.quantize_rows_i8(q, ld, scale, c->zero ? zero : NULL, c->sums ? sums : NULL, c->x, rows,
                             n, c->bits, c->eps);
        for (int64_t r = 0; c->sums && r < rows; r++) {
            int32_t sum = 0;
            for (int64_t i = 0; i < n; i++) sum += want[r * ld + i];
            if (sums[r] != sum)
                FAIL_AT("%s: row %d of %zu x %zu, kind %d: sum %d, want %d", now->name, (int)r,
                        c->rows, c->n, c->kind, sums[r], sum);
        }
        CHECK(!c->sums || !guarded_spilled(out3, sums, c->rows * 4));
    }
    same_floats(state_, "an input's scale", scale, want_scale, c->rows, c->kind);
    for (int64_t r = 0; c->zero && r < rows; r++)
        if (zero[r] != want_zero[r])
            FAIL_AT("%s: row %d of %zu x %zu, kind %d, bits %d: zero %d, want %d", now->name,
                    (int)r, c->rows, c->n, c->kind, c->bits, zero[r], want_zero[r]);
    same_codes(state_, c->norm ? "rms_norm_quantize_i8" : "quantize_rows_i8", (uint8_t *)q,
               (uint8_t *)want, size, c->kind, c->bits);
    CHECK(!guarded_spilled(out1, q, size));
    CHECK(!guarded_spilled(in3, scale, c->rows * 4));
    CHECK(!c->zero || !guarded_spilled(in4, zero, c->rows * 4));
}

/* Rows side by side are of several kinds, so that what is wrong with one shows in no other. */
static void check_input_rows(void **state_) {
    static const float eps[] = {0x1p-23f, 0x1p-126f};
    for (int kind = 0; kind < UGLY_KINDS; kind++) FOR_SIZES(n) for (int how = 0; how < 16; how++) {
            static float x[INPUT_ROWS * MOST], w[MOST];
            const bool norm = how / 4 % 2;
            const size_t rows = norm ? 1 : 1 + (n + (size_t)how) % INPUT_ROWS, all = rows * n;
            for (size_t r = 0; r < rows; r++)
                ugly_fill(x + r * n, n, r % 2 ? (kind + how) % UGLY_KINDS : kind, &seed);
            ugly_fill(w, n, how % 3 ? 0 : 6, &seed);
            if (how % 5 == 1) /* one sign only: the range is widened to 0 */
                for (size_t i = 0; i < all; i++) x[i] = x[i] < 0 ? -x[i] : x[i];
            if (how % 5 == 2)
                for (size_t i = 0; i < all; i++) x[i] = x[i] > 0 ? -x[i] : x[i];
            const input_case c = {.x = place(in1, x, all * 4, 0),
                                  .weight = how % 8 ? place(in2, w, n * 4, 0) : NULL,
                                  .rows = rows,
                                  .n = n,
                                  .kind = kind,
                                  .bits = how / 2 % 2 ? 7 : 8,
                                  .zero = how % 2,
                                  .norm = norm,
                                  .sums = (n + (size_t)how / 4) % 2,
                                  .eps = eps[how / 8]};
            one_input(state_, &c);
        }
}

static void one_digits_row(void **state_, const float *x, size_t n, int kind) {
    enum { GAP = 5 };
    static int8_t want[NIB_DIGITS * (MOST + GAP)];
    const int64_t ld = (int64_t)n + GAP;
    const size_t size = (size_t)(2 * ld) + n;
    float want_scale[NIB_DIGITS], *scale = guarded_at_end(in3, sizeof want_scale, 0);
    int8_t *q = n % 2 ? guarded_at_start(out1, size, 0) : guarded_at_end(out1, size, 0);
    memset(want, 99, size); /* between the rows nothing changes */
    memset(q, 99, size);
    ref.digits_row_i8(want, ld, want_scale, x, (int64_t)n);
    got.digits_row_i8(q, ld, scale, x, (int64_t)n);
    same_floats(state_, "a digit's scale", scale, want_scale, NIB_DIGITS, kind);
    for (size_t i = 0; i < size; i++)
        if (q[i] != want[i])
            DIFFERS(digits_row_i8, "n %zu, kind %d: byte %zu is %d, want %d", n, kind, i, q[i],
                    want[i]);
    CHECK(!guarded_spilled(in3, scale, sizeof want_scale));
    CHECK(!guarded_spilled(out1, q, size));
}

/* What digits say of a row, against the row itself. */
static void digits_hold_the_row(void **state_, const float *x, size_t n, int kind) {
    int8_t q[NIB_DIGITS * MOST];
    float scale[NIB_DIGITS];
    float most = 0;
    ref.digits_row_i8(q, (int64_t)n, scale, x, (int64_t)n);
    for (size_t i = 0; i < n; i++)
        if (fabsf(x[i]) > most) most = fabsf(x[i]);
    for (size_t i = 0; i < n && isfinite(scale[0]); i++) {
        const double value =
            (double)scale[0] * q[i] + (double)scale[1] * q[n + i] + (double)scale[2] * q[2 * n + i];
        if (!(fabs(value - (double)x[i]) <= fmax((double)most * 0x1p-22, 0x1p-127)))
            FAIL_AT("digits_row_i8: n %zu, kind %d: digits of %.9g are %.17g", n, kind,
                    (double)x[i], value);
    }
}

static void check_digits(void **state_) {
    for (int kind = 0; kind < UGLY_KINDS; kind++) FOR_SIZES(n) for (int how = 0; how < 6; how++) {
            float x[MOST];
            static const float factors[] = {1, 0x1p-100f, 0x1p-20f, 0x1.fffffep20f, 0x1p-126f, 3};
            ugly_fill(x, n, kind, &seed);
            for (size_t i = 0; i < n; i++) x[i] *= factors[how];
            one_digits_row(state_, place(in1, x, n * 4, 0), n, kind);
            digits_hold_the_row(state_, x, n, kind);
        }
}

static void check_add_digits(void **state_) {
    FOR_SIZES(n) for (int kind = 0; kind < UGLY_KINDS; kind++) {
        const int64_t ld = (int64_t)n + kind;
        const size_t size = (size_t)(2 * ld) + n;
        static float t[NIB_DIGITS * (MOST + UGLY_KINDS)], want[MOST];
        ugly_fill(t, n, kind, &seed);
        ugly_fill(t + ld, n, kind, &seed);
        ugly_fill(t + 2 * ld, n, kind, &seed);
        const float *from = place(in1, t, size * 4, 0);
        float *y = guarded_at_end(out1, n * 4, 0);
        ref.add_digits(want, from, ld, n);
        got.add_digits(y, from, ld, n);
        same_floats(state_, "add_digits", y, want, n, kind);
        CHECK(!guarded_spilled(out1, y, n * 4));
    }
}

static void check_input_sums(void **state_) {
    for (int round = 0; round < 1200; round++) {
        const int64_t groups = (int64_t)(test_random(&seed) % 5);
        int64_t G = 1 + (int64_t)(test_random(&seed) % 257);
        if (round % 3 == 0) G = 32 * (1 + G % 4);
        const size_t n = (size_t)(groups * G);
        const int extreme = (int)(test_random(&seed) % 4);
        int8_t q[5 * 300];
        for (size_t i = 0; i < n; i++)
            q[i] = extreme == 0   ? (int8_t)-128
                   : extreme == 1 ? (int8_t)127
                   : extreme == 2 ? (int8_t)(i % 2 ? -128 : 127)
                                  : (int8_t)test_random(&seed);
        int32_t want[5];
        const int8_t *codes = round % 2 ? memcpy(guarded_at_end(in1, n, 0), q, n)
                                        : memcpy(guarded_at_start(in1, n, 1), q, n);
        int32_t *sums = guarded_at_end(out1, (size_t)groups * 4, 0);
        ref.sums_i8(want, codes, groups, G);
        got.sums_i8(sums, codes, groups, G);
        for (int64_t g = 0; g < groups; g++)
            if (sums[g] != want[g])
                DIFFERS(sums_i8, "group %lld of %lld x %lld: %d, want %d", (long long)g,
                        (long long)groups, (long long)G, sums[g], want[g]);
        CHECK(!guarded_spilled(out1, sums, (size_t)groups * 4));
    }
}

static void check_inputs(void **state_) {
    if (CHANGED(quantize_rows_i8)) check_input_rows(state_);
    if (CHANGED(digits_row_i8)) check_digits(state_);
    if (CHANGED(add_digits)) check_add_digits(state_);
    if (CHANGED(sums_i8)) check_input_sums(state_);
}
#endif
