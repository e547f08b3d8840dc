/* checkkernel.c: every kernel set that this machine can run or emulate against the judges in ref/,
 * exactly.
 *
 * Ragged sizes, unaligned pointers, pages without access on both sides of every buffer, ugly
 * numbers. `checkkernel --bench NAME` times the slots that set NAME fills (`all` for every set). */
#include "base/bits.h"
#include "base/halffloat.h"
#include "bench_kernel.h"
#include "guarded.h"
#include "kernel/kernel.h"

static nib_kernels ref, got; /* the judges; the judges with one set installed over them */
static const nib_kernel_set *now;
static guarded in1, in2, in3, in4, in5, in6, in7, out1, out2, out3;
static uint64_t seed;

static const size_t sizes[] = {0,  1,  2,  3,  7,  8,  9,  15, 16,  17,  23,  24,  25,   31,
                               32, 33, 47, 48, 49, 63, 64, 65, 100, 127, 128, 129, 1000, 1027};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]), MOST = 1100 };

#define FOR_SIZES(n)  for (size_t s_ = 0, n; s_ < SIZES && (n = sizes[s_], true); s_++)
#define CHANGED(slot) (got.slot != ref.slot)
#define DIFFERS(slot, ...)                                                                         \
    do {                                                                                           \
        print_error("%s: %s: ", now->name, #slot);                                                 \
        FAIL_AT(__VA_ARGS__);                                                                      \
    } while (0)

/* Copy of x that ends at the guard page (even n) or begins at it (odd n), after `gap` bytes. */
static void *place(guarded g, const void *x, size_t size, size_t gap) {
    void *p = (size / 4) % 2 ? guarded_at_start(g, size, gap) : guarded_at_end(g, size, gap);
    if (size) memcpy(p, x, size);
    return p;
}

static const float *ugly(guarded g, size_t n, int kind) {
    static float x[1 << 17];
    ugly_fill(x, n, kind, &seed);
    return place(g, x, n * 4, 0);
}

static void same_floats(void **state_, const char *slot, const float *a, const float *want,
                        size_t n, int kind) {
    const int64_t at = floats_differ(a, want, n);
    if (at >= 0)
        FAIL_AT("%s: %s: n %zu, kind %d, element %d: got %a, want %a", now->name, slot, n, kind,
                (int)at, (double)a[at], (double)want[at]);
}

/* One output of n elements from one float input, both kinds of numbers, each size. */
#define CHECK_NARROW(slot, type, gap)                                                              \
    if (CHANGED(slot))                                                                             \
        for (int kind = 0; kind < UGLY_KINDS; kind++) FOR_SIZES(n) {                               \
                type want[MOST];                                                                   \
                const float *x = ugly(in1, n, kind);                                               \
                unsigned char *y = guarded_at_end(out1, n * sizeof(type), gap);                    \
                ref.slot(want, x, n);                                                              \
                got.slot((void *)y, x, n);                                                         \
                for (size_t i = 0; i < n * sizeof(type); i++)                                      \
                    if (y[i] != ((unsigned char *)want)[i])                                        \
                        DIFFERS(slot, "n %zu, kind %d, byte %zu of x %a: %02x, want %02x", n,      \
                                kind, i, (double)x[i / sizeof(type)], y[i],                        \
                                ((unsigned char *)want)[i]);                                       \
                CHECK(!guarded_spilled(out1, y, n * sizeof(type)));                                \
            }
#define CHECK_WIDEN(slot)                                                                          \
    if (CHANGED(slot)) {                                                                           \
        static uint16_t codes[1 << 16];                                                            \
        static float want[1 << 16], y[1 << 16];                                                    \
        for (int i = 0; i < 1 << 16; i++) codes[i] = (uint16_t)i;                                  \
        ref.slot(want, codes, 1 << 16);                                                            \
        got.slot(y, codes, 1 << 16);                                                               \
        same_floats(state_, #slot, y, want, 1 << 16, 0);                                           \
        FOR_SIZES(n) {                                                                             \
            const size_t gap = n % 3; /* odd addresses too */                                      \
            const void *x = place(in1, codes + 15000, n * 2, gap);                                 \
            float *z = guarded_either(out1, n * 4);                                                \
            ref.slot(want, x, n);                                                                  \
            got.slot(z, x, n);                                                                     \
            same_floats(state_, #slot, z, want, n, 0);                                             \
            CHECK(!guarded_spilled(out1, z, n * 4));                                               \
        }                                                                                          \
    }

static void check_conversions(void **state_) {
    CHECK_WIDEN(f16_to_f32)
    CHECK_WIDEN(bf16_to_f32)
    CHECK_NARROW(f32_to_f16, uint16_t, 1)
    CHECK_NARROW(f32_to_bf16, uint16_t, 1)
    CHECK_NARROW(f32_to_e4m3fn, uint8_t, 0)
    CHECK_NARROW(f32_to_e5m2, uint8_t, 0)
    CHECK_NARROW(f32_to_e4m3fnuz, uint8_t, 0)
    if (CHANGED(table_to_f32)) {
        float table[256], want[MOST];
        ugly_fill(table, 256, 7, &seed);
        FOR_SIZES(n) {
            const uint8_t *x = (const uint8_t *)ugly(in1, (n + 3) / 4, 7);
            float *y = guarded_either(out1, n * 4);
            ref.table_to_f32(want, x, n, table);
            got.table_to_f32(y, x, n, table);
            same_floats(state_, "table_to_f32", y, want, n, 0);
            CHECK(!guarded_spilled(out1, y, n * 4));
        }
    }
    if (CHANGED(scale_f8)) {
        static const nib_dtype formats[] = {NIB_F8_E4M3FN, NIB_F8_E5M2, NIB_F8_E4M3FNUZ};
        static const float scales[] = {0.0123f, -3,        1,        0,          -0.0f,
                                       1e-45f,  0x1p-126f, 0x1p117f, 0x1.8p120f, INFINITY,
                                       3e38f,   0x1p-140f, NAN};
        enum { SCALES = sizeof scales / sizeof *scales };
        float want[MOST];
        uint8_t codes[MOST];
        int round = 0;
        FOR_SIZES(n) {
            for (int f = 0; f < 3 * SCALES; f++) {
                const nib_dtype format = formats[f % 3];
                const float scale = scales[f / 3];
                for (size_t i = 0; i < n; i++) /* every code, or few that are no numbers */
                    codes[i] = (uint8_t)(round % 2 ? (size_t)round + i : i % 7 * 11 + i / 9 * 128);
                round++;
                const uint8_t *x = place(in1, codes, n, round % 3 == 0);
                float *y = guarded_either(out1, n * 4);
                ref.scale_f8(want, x, n, format, scale);
                got.scale_f8(y, x, n, format, scale);
                same_floats(state_, "scale_f8", y, want, n, f);
                CHECK(!guarded_spilled(out1, y, n * 4));
            }
        }
    }
}

/* Every f32 of a few binades, so that each rounding of each narrow format is met. */
static void check_narrow_densely(void **state_) {
    enum { N = 1 << 16 };
    static float x[N];
    static uint8_t want[2 * N], y[2 * N];
    static const nib_dtype formats[] = {NIB_F8_E4M3FN, NIB_F8_E5M2, NIB_F8_E4M3FNUZ};
    static const float limits[] = {448, 57344, 240}, ones[] = {1, 1};
    if (!CHANGED(f32_to_e4m3fn) && !CHANGED(quantize_f8)) return;
    for (uint32_t sign = 0; sign < 2; sign++) {
        for (uint32_t top = 0x30; top < 0x48; top++) { /* 2^-31 .. 2^17, 16 bits of each */
            for (uint32_t i = 0; i < N; i++) {
                const uint32_t low = i & 0xff;
                const uint32_t bits = sign << 31 | top << 24 | (i >> 8) << 16 |
                                      (low < 128 ? low << 9 | (low & 1) : 0xff00u | low);
                memcpy(&x[i], &bits, 4);
            }
            for (int f = 0; f < 3; f++) {
                ref.quantize_f8(want, x, 2, N / 2, ones, limits[f], formats[f], NIB_F32);
                got.quantize_f8(y, x, 2, N / 2, ones, limits[f], formats[f], NIB_F32);
                CHECK_BYTES(y, want, N);
            }
            ref.f32_to_e4m3fn(want, x, N);
            got.f32_to_e4m3fn(y, x, N);
            CHECK_BYTES(y, want, N);
            ref.f32_to_e5m2(want, x, N);
            got.f32_to_e5m2(y, x, N);
            CHECK_BYTES(y, want, N);
            ref.f32_to_e4m3fnuz(want, x, N);
            got.f32_to_e4m3fnuz(y, x, N);
            CHECK_BYTES(y, want, N);
            ref.f32_to_f16(want, x, N);
            got.f32_to_f16(y, x, N);
            CHECK_BYTES(y, want, 2 * N);
            ref.f32_to_bf16(want, x, N);
            got.f32_to_bf16(y, x, N);
            CHECK_BYTES(y, want, 2 * N);
        }
    }
}

static void one_gemm(void **state_, int64_t M, int64_t N, int64_t K, bool accumulate, int kind) {
    const int64_t ldx = K + 3, ldy = N + 2, panels = (N + 15) / 16, stride = K * 16 + 48;
    const size_t xs = (size_t)((M - 1) * ldx + K), ys = (size_t)((M - 1) * ldy + N);
    const size_t ws = (size_t)((panels - 1) * stride + K * 16);
    const float *x = ugly(in1, xs, kind), *w = ugly(in2, ws, kind), *before = ugly(in3, ys, kind);
    float *y = place(out1, before, ys * 4, 0), *want = place(out2, before, ys * 4, 0);
    ref.gemm_f32(want, ldy, x, ldx, w, stride, M, N, K, accumulate);
    got.gemm_f32(y, ldy, x, ldx, w, stride, M, N, K, accumulate);
    const int64_t at = floats_differ(y, want, ys);
    if (at >= 0)
        DIFFERS(gemm_f32, "M %d N %d K %d, accumulate %d, kind %d: y[%d, %d] is %a, want %a",
                (int)M, (int)N, (int)K, accumulate, kind, (int)(at / ldy), (int)(at % ldy),
                (double)y[at], (double)want[at]);
    CHECK(!guarded_spilled(out1, y, ys * 4));
}

/* K in one piece or in blocks of 64; rows packed a block at a time as the contract allows. */
static void one_gemm_rows(void **state_, int64_t M, int64_t N, int64_t K, int64_t step, int kind) {
    static float rows[1 << 16];
    const int64_t ldx = K + 3, ldy = N + 2, panels = (N + 15) / 16;
    const size_t xs = (size_t)((M - 1) * ldx + K), ys = (size_t)((M - 1) * ldy + N);
    const float *x = ugly(in1, xs, kind), *before = ugly(in3, ys, kind);
    float *y = place(out1, before, ys * 4, 0), *want = place(out2, before, ys * 4, 0);
    const uint64_t start = seed;
    for (int set = 0; set < 2; set++) {
        const nib_kernels *k = set ? &got : &ref;
        seed = start;
        float *packed = set ? guarded_at_end(in4, (size_t)(M * K) * 4, 0) : rows;
        for (int64_t m = 0; m < M; m += NIB_ROW_BLOCK)
            k->pack_rows_f32(packed + m * K, x + m * ldx, ldx,
                             M - m < NIB_ROW_BLOCK ? M - m : NIB_ROW_BLOCK, K);
        for (int64_t at = 0; at < K || at == 0; at += step) {
            const int64_t kc = K - at < step ? K - at : step, stride = kc * 16 + 16;
            const float *w = ugly(in2, (size_t)((panels - 1) * stride + kc * 16), kind);
            k->gemm_rows_f32(set ? y : want, ldy, packed, M, K, at, kc, w, stride, N);
        }
    }
    const int64_t at = floats_differ(y, want, ys);
    if (at >= 0)
        DIFFERS(gemm_rows_f32, "M %d N %d K %d by %d, kind %d: y[%d, %d] is %a, want %a", (int)M,
                (int)N, (int)K, (int)step, kind, (int)(at / ldy), (int)(at % ldy), (double)y[at],
                (double)want[at]);
    CHECK(!guarded_spilled(out1, y, ys * 4));
}

static void check_gemm_rows(void **state_) {
    static const int64_t channels[] = {1, 15, 16, 17, 32, 33, 64, 80, 130};
    if (!CHANGED(gemm_rows_f32)) return;
    for (int64_t M = 1; M <= 26; M++)
        for (int i = 0; i < 9; i++)
            one_gemm_rows(state_, M, channels[i], (M * 9 + i) % 70, 64, (int)(M + i) % UGLY_KINDS);
    for (int64_t K = 0; K <= 257; K++) one_gemm_rows(state_, 1 + K % 60, 33, K, 64, 0);
    one_gemm_rows(state_, 97, 33, 259, 128, 6);
    one_gemm_rows(state_, 100, 64, 300, 300, 6);
}

static void check_gemm(void **state_) {
    static const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 11, 12, 13};
    static const int64_t channels[] = {1, 8, 15, 16, 17, 31, 32, 33, 64, 65, 80};
    static const int64_t depths[] = {0, 1, 2, 9, 64};
    if (CHANGED(gemm_f32)) {
        for (size_t m = 0; m < sizeof(rows) / sizeof(rows[0]); m++)
            for (size_t n = 0; n < sizeof(channels) / sizeof(channels[0]); n++)
                for (size_t k = 0; k < sizeof(depths) / sizeof(depths[0]); k++)
                    for (int accumulate = 0; accumulate < 2; accumulate++)
                        one_gemm(state_, rows[m], channels[n], depths[k], accumulate,
                                 (int)((m + n + k) % UGLY_KINDS));
        for (int64_t k = 1; k <= 257; k++) one_gemm(state_, 1 + k % 7, 33, k, k % 2, 0);
        one_gemm(state_, 97, 33, 259, false, 6);
        one_gemm(state_, 6, 16, 1025, true, 6);
    }
    check_gemm_rows(state_);
    if (CHANGED(pack_f32)) {
        for (int64_t n = 0; n <= 16; n++) {
            for (int64_t K = 0; K < 40; K++) {
                float want[40 * 16];
                const int64_t ldw = K + 1;
                const float *w = ugly(in1, n ? (size_t)((n - 1) * ldw + K) : 0, 6);
                float *y = guarded_either(out1, (size_t)K * 64);
                ref.pack_f32(want, w, ldw, n, K);
                got.pack_f32(y, w, ldw, n, K);
                same_floats(state_, "pack_f32", y, want, (size_t)K * 16, (int)n);
                CHECK(!guarded_spilled(out1, y, (size_t)K * 64));
            }
        }
    }
}

static void check_reductions(void **state_) {
    for (int kind = 0; kind < UGLY_KINDS; kind++) {
        FOR_SIZES(n) {
            const float *x = ugly(in1, n, kind), *z = ugly(in2, n, kind);
            float want[3] = {ref.dot_f32(x, z, n), ref.sum_f32(x, n), ref.sum_squares_f32(x, n)};
            float have[3] = {got.dot_f32(x, z, n), got.sum_f32(x, n), got.sum_squares_f32(x, n)};
            same_floats(state_, "dot, sum, sum_squares", have, want, 3, kind);
        }
    }
    if (!CHANGED(minmax_f32)) return;
    for (int kind = 0; kind < UGLY_KINDS; kind++) {
        for (int64_t G = 1; G < 70; G++) {
            const int64_t groups = 1 + G % 5;
            float want[5], low[5];
            const float *x = ugly(in1, (size_t)(groups * G), kind);
            float *have = guarded_either(out1, (size_t)groups * 4);
            ref.absmax_f32(want, x, groups, G);
            got.absmax_f32(have, x, groups, G);
            same_floats(state_, "absmax_f32", have, want, (size_t)groups, kind);
            float *high = guarded_either(out2, (size_t)groups * 4);
            got.minmax_f32(have, high, x, groups, G);
            ref.minmax_f32(low, want, x, groups, G);
            same_floats(state_, "minmax_f32 max", high, want, (size_t)groups, kind);
            same_floats(state_, "minmax_f32 min", have, low, (size_t)groups, kind);
        }
    }
}

static void check_losses(void **state_) {
    if (!CHANGED(loss_f32)) return;
    for (int kind = 0; kind < UGLY_FINITE; kind++) {
        for (size_t n = 0; n < 70; n++) {
            const float *w = ugly(in1, n, kind), *v = ugly(in2, n, (kind + 1) % UGLY_FINITE);
            double want[3], have[3];
            ref.loss_f32(&want[0], &want[1], &want[2], w, v, n);
            got.loss_f32(&have[0], &have[1], &have[2], w, v, n);
            for (int i = 0; i < 3; i++)
                if (memcmp(&want[i], &have[i], sizeof want[i]) != 0)
                    FAIL_AT("%s: loss_f32: n %zu, kind %d, result %d: %.17g, want %.17g", now->name,
                            n, kind, i, have[i], want[i]);
        }
    }
}

static void check_elementwise(void **state_) {
    static const float scales[] = {1, 10, 120};
    for (int kind = 0; kind < UGLY_KINDS + 3; kind++) {
        FOR_SIZES(n) {
            float want[MOST], x[MOST], up[MOST];
            ugly_fill(x, n, kind < UGLY_KINDS ? kind : 0, &seed);
            ugly_fill(up, n, 0, &seed);
            for (size_t i = 0; i < n && kind >= UGLY_KINDS; i++) x[i] *= scales[kind - UGLY_KINDS];
                /* in place: the output is the input */
#define CHECK_IN_PLACE(slot)                                                                       \
    if (CHANGED(slot)) {                                                                           \
        float *y = place(out1, x, n * 4, 0);                                                       \
        ref.slot(want, x, n);                                                                      \
        got.slot(y, y, n);                                                                         \
        same_floats(state_, #slot, y, want, n, kind);                                              \
        CHECK(!guarded_spilled(out1, y, n * 4));                                                   \
    }
            CHECK_IN_PLACE(exp_f32)
            CHECK_IN_PLACE(tanh_f32)
            CHECK_IN_PLACE(sigmoid_f32)
            CHECK_IN_PLACE(silu_f32)
            CHECK_IN_PLACE(gelu_f32)
            CHECK_IN_PLACE(gelu_tanh_f32)
            if (CHANGED(silu_mul_f32)) {
                const float *u = place(in1, up, n * 4, 0);
                float *y = place(out1, x, n * 4, 0);
                ref.silu_mul_f32(want, x, u, n);
                got.silu_mul_f32(y, y, u, n);
                same_floats(state_, "silu_mul_f32", y, want, n, kind);
                CHECK(!guarded_spilled(out1, y, n * 4));
            }
            if (CHANGED(softmax_f32)) {
                float *y = place(out1, x, n * 4, 0);
                memcpy(want, x, n * 4);
                ref.softmax_f32(want, n);
                got.softmax_f32(y, n);
                same_floats(state_, "softmax_f32", y, want, n, kind);
                CHECK(!guarded_spilled(out1, y, n * 4));
            }
        }
    }
}

static void check_norms(void **state_) {
    if (!CHANGED(rms_norm_f32)) return;
    for (int kind = 0; kind < UGLY_KINDS; kind++) {
        FOR_SIZES(n) {
            float want[MOST];
            const float *x = ugly(in1, n, kind);
            const float *w = n % 3 ? ugly(in2, n, 0) : NULL, *b = n % 2 ? ugly(in3, n, 0) : NULL;
            float *y = guarded_either(out1, n * 4);
            ref.rms_norm_f32(want, x, w, n, 1e-5f);
            got.rms_norm_f32(y, x, w, n, 1e-5f);
            same_floats(state_, "rms_norm_f32", y, want, n, kind);
            ref.layer_norm_f32(want, x, w, b, n, 1e-5f);
            got.layer_norm_f32(y, x, w, b, n, 1e-5f);
            same_floats(state_, "layer_norm_f32", y, want, n, kind);
            CHECK(!guarded_spilled(out1, y, n * 4));

            const size_t half = n / 2;
            const float *c = ugly(in2, half, 0), *s = ugly(in3, half, 0);
            y = place(out1, x, half * 8, 0);
            memcpy(want, x, half * 8);
            ref.rope_f32(want, c, s, half);
            got.rope_f32(y, c, s, half);
            same_floats(state_, "rope_f32", y, want, half * 2, kind);
            CHECK(!guarded_spilled(out1, y, half * 8));
        }
    }
}

#include "kernel/check_attention.h"
#include "kernel/check_codes.h"
#include "kernel/check_conv.h"
#include "kernel/check_extremes.h"
#include "kernel/check_inputs.h"
#include "kernel/check_lanes.h"
#include "kernel/check_limits.h"

/* Slot i: of float inputs by weights below 8 bits, which meet digits instead. */
static bool takes_no_floats(size_t i) {
    enum { SLOT = sizeof(void (*)(void)) };
    const size_t rows = offsetof(nib_kernels, lane_rows) / SLOT,
                 widen = offsetof(nib_kernels, lane_widen) / SLOT;
    const size_t lane = i >= widen ? i - widen : i - rows;
    return i >= rows && lane < NIB_LANES && lane != NIB_LANE_W8 && lane != NIB_LANE_F8;
}

TEST(every_slot_has_a_judge) {
    nib_kernels_fill(&ref, 0);
    void (*slot[sizeof(nib_kernels) / sizeof(void (*)(void))])(void);
    _Static_assert(sizeof(slot) == sizeof(nib_kernels), "slots are function pointers only");
    memcpy(slot, &ref, sizeof(ref));
    for (size_t i = 0; i < sizeof(slot) / sizeof(slot[0]); i++) {
        if (!slot[i] && takes_no_floats(i)) continue;
        if (!slot[i]) FAIL_AT("slot %zu of nib_kernels is filled by no ref set", i);
    }
}

/* Every check, on the slots that set `now` fills. */
static void judge_the_set(void **state_) {
    got = ref;
    now->install(&got);
    if (memcmp(&got, &ref, sizeof(ref)) == 0) FAIL_AT("%s fills no slot", now->name);
    seed = test_seed();
    check_conversions(state_);
    check_narrow_densely(state_);
    check_gemm(state_);
    check_conv(state_);
    check_reductions(state_);
    check_losses(state_);
    check_quantizing(state_);
    check_ties(state_);
    check_nibbles(state_);
    check_bits(state_);
    check_lines(state_);
    check_corrections(state_);
    check_elementwise(state_);
    check_norms(state_);
    check_attention(state_);
    check_inputs(state_);
    check_lanes(state_);
    check_extremes(state_);
    check_limits(state_);
}

TEST(every_set_of_this_machine_equals_the_judges_bit_for_bit) {
    nib_kernels_fill(&ref, 0);
    for (size_t i = 0; (now = nib_kernel_set_at(i)); i++) {
        if (now->needs == 0) continue;
        if (now->needs & ~nib_cpu_features()) {
            print_message("skipped: %s needs what this machine lacks\n", now->name);
            continue;
        }
        judge_the_set(state_);
        print_message("%s equals ref\n", now->name);
    }
}

#ifdef NIB_EMULATED /* kernels beyond AVX2, compiled for AVX2: cmake/emulate.cmake */
#define X(name) extern const nib_kernel_set nib_emulated_##name;
#include "emulated_list.h"
#undef X
static const nib_kernel_set *const emulated[] = {
#define X(name) &nib_emulated_##name,
#include "emulated_list.h"
#undef X
    NULL};
#else
static const nib_kernel_set *const emulated[] = {NULL};
#endif

TEST(every_set_beyond_avx2_equals_the_judges_when_emulated) {
    if (!emulated[0] || (nib_cpu_features() & NIB_CPU_AVX2) == 0) {
        print_message("skipped: this build or machine emulates no set\n");
        return;
    }
    nib_kernels_fill(&ref, 0);
    for (size_t i = 0; (now = emulated[i]); i++) {
        judge_the_set(state_);
        print_message("%s, emulated, equals ref\n", now->name);
    }
}

TEST(a_mask_lowers_the_machine) {
    nib_kernels all, none;
    nib_kernels_fill(&all, nib_cpu_features());
    nib_kernels_fill(&none, 0);
    const uint32_t first_level = NIB_CPU_AVX2 | NIB_CPU_NEON;
    CHECK_INT(all.gemm_f32 != none.gemm_f32, (nib_cpu_features() & first_level) != 0);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--bench") == 0) return bench_sets(argv[2]);
    guarded *all[] = {&in1, &in2, &in3, &in4, &in5, &in6, &in7, &out1, &out2, &out3};
    enum { ALL = sizeof all / sizeof *all };
    for (int i = 0; i < ALL; i++) *all[i] = guarded_new(5 << 18);
    const struct CMUnitTest tests[] = {
        RUNS(every_slot_has_a_judge),
        RUNS(every_set_of_this_machine_equals_the_judges_bit_for_bit),
        RUNS(every_set_beyond_avx2_equals_the_judges_when_emulated),
        RUNS(a_mask_lowers_the_machine),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < ALL; i++) guarded_free(*all[i]);
    return failed;
}
