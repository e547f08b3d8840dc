/* check_attention.h: a part of checkkernel.c: attention over every kind of cache. */

typedef struct attention_slots {
    const char *name;
    void (*attend)(float *out, float *max, float *sum, const nib_attention_rows *rows,
                   const nib_kv_part *part);
    void (*judge)(float *out, float *max, float *sum, const nib_attention_rows *rows,
                  const nib_kv_part *part);
    size_t bits, scale_bytes; /* of a code; of a scale, 0: none */
    int64_t group;            /* columns of a scale and of a code sum; 0: all */
    bool codes, shifted, padded;
} attention_slots;

enum { HEAD_MOST = 272, ROWS_MOST = NIB_ATTENTION_ROWS };

/* Any codes; scales that are not negative, now and then 0, huge, infinite or a NaN. */
static const void *some_scales(guarded g, size_t n, size_t bytes, bool any_sign, int kind) {
    static float x[64 * HEAD_MOST];
    static uint16_t narrow[64 * HEAD_MOST];
    ugly_fill(x, n, kind, &seed);
    for (size_t i = 0; i < n && !any_sign; i++) x[i] = fabsf(x[i]);
    if (bytes == 4) return place(g, x, n * 4, 0);
    for (size_t i = 0; i < n; i++) narrow[i] = nib_f32_to_bf16(x[i]);
    return place(g, narrow, n * 2, 0);
}

static const void *some_codes(guarded g, size_t n, int kind, bool f8) {
    static uint8_t codes[64 * HEAD_MOST];
    for (size_t i = 0; i < n; i++)
        codes[i] = kind == 1   ? 0
                   : kind == 2 ? 255
                   : kind == 3 ? (uint8_t)(i % 2 ? 255 : 0)
                               : (uint8_t)test_random(&seed);
    for (size_t i = 0; i < n && f8; i++)
        if ((codes[i] & 0x7f) == 0x7f) codes[i] ^= 1; /* a NaN */
    return place(g, codes, n, n % 3);
}

static void one_attention(void **state_, const attention_slots *s, int64_t rows, int64_t d,
                          int kind) {
    static float want[ROWS_MOST * HEAD_MOST];
    static int16_t code[ROWS_MOST * HEAD_MOST], judged_code[ROWS_MOST * HEAD_MOST];
    int32_t first[ROWS_MOST], end[ROWS_MOST], sums[ROWS_MOST * 8], judged_sums[ROWS_MOST * 8];
    int32_t own[ROWS_MOST];
    float slope[ROWS_MOST], factor[ROWS_MOST], judged_factor[ROWS_MOST], want_max[ROWS_MOST],
        want_sum[ROWS_MOST];
    const int64_t dp = (d + 15) / 16 * 16, wide = s->padded ? dp : d;
    const int64_t groups = s->group ? (d + s->group - 1) / s->group : 1;
    const size_t n = (size_t)(rows * d);
    for (int64_t r = 0; r < rows; r++) {
        first[r] = kind % 2 ? 0 : (int32_t)(test_random(&seed) % 64);
        end[r] = kind % 3
                     ? 64
                     : first[r] + 1 + (int32_t)(test_random(&seed) % (uint64_t)(64 - first[r]));
    }
    /* kinds of numbers for queries and scales that do not overflow the judge's own sums */
    for (int64_t r = 0; r < rows; r++) { /* ALiBi, now and then, from near and from far */
        slope[r] = ldexpf(1 + test_uniform(&seed) / 2, -(int)(test_random(&seed) % 9));
        own[r] = end[r] - 1 + (int32_t)(r % 2 ? test_random(&seed) % 100000 : 0);
    }
    nib_attention_rows a = {.rows = rows,
                            .d = d,
                            .first = first,
                            .end = end,
                            .q = ugly(in1, n, kind == 3 ? 0 : kind),
                            .scale = 0.088f,
                            .slope = (rows + d + kind) % 3 ? NULL : slope,
                            .own = own};
    if (s->codes) {
        const int64_t group = s->group ? s->group : d;
        ref.attention_codes(judged_code, judged_sums, judged_factor, a.q, rows, d, group, a.scale);
        if (CHANGED(attention_codes)) {
            int16_t *c = guarded_at_end(out1, (size_t)(rows * dp) * 2, 0);
            got.attention_codes(c, sums, factor, a.q, rows, d, group, a.scale);
            for (int64_t i = 0; i < rows * dp; i++)
                if (c[i] != judged_code[i])
                    DIFFERS(attention_codes, "rows %d, d %d, kind %d, code %d: %d, want %d",
                            (int)rows, (int)d, kind, (int)i, c[i], judged_code[i]);
            for (int64_t i = 0; i < rows * groups; i++) CHECK_INT(sums[i], judged_sums[i]);
            same_floats(state_, "attention_codes", factor, judged_factor, (size_t)rows, kind);
            CHECK(!guarded_spilled(out1, c, (size_t)(rows * dp) * 2));
        }
        memcpy(code, judged_code, (size_t)(rows * dp) * 2);
        for (int64_t r = 0; r < rows && kind == 6; r++) /* the largest codes, also all of a sign */
            for (int64_t i = 0; i < d; i++) {
                const int64_t g = s->group ? i / s->group : 0;
                if (!s->group ? i == 0 : i % s->group == 0) judged_sums[r * groups + g] = 0;
                code[r * dp + i] = r % 2 && i % 2 ? -16383 : 16383;
                judged_sums[r * groups + g] += code[r * dp + i];
            }
        a.code = place(in1, code, (size_t)(rows * dp) * 2, 0);
        a.code_sum = judged_sums, a.factor = judged_factor;
    }
    const size_t bytes = (size_t)(64 * wide) * s->bits / 8;
    const size_t scales = s->scale_bytes ? (size_t)(64 * groups) : 0;
    const int k_kind = kind < UGLY_FINITE ? kind : 0;
    nib_kv_part part = {0};
    if (s->bits == 32) {
        part.k = ugly(in2, bytes / 4, k_kind);
        part.v = ugly(in3, bytes / 4, kind);
    } else {
        part.k = some_codes(in2, bytes, kind, s->bits == 8 && !s->codes);
        part.v = some_codes(in3, bytes, (kind + 1) % UGLY_KINDS, s->bits == 8 && !s->codes);
    }
    if (scales) {
        part.k_scale = some_scales(in4, scales, s->scale_bytes, false, k_kind);
        part.v_scale = some_scales(in5, scales, s->scale_bytes, false, kind);
    }
    if (s->shifted) {
        part.k_shift = some_scales(in6, scales, s->scale_bytes, true, k_kind);
        part.v_shift = some_scales(in7, scales, s->scale_bytes, true, kind);
    }
    /* what there is before: nothing, or results of other parts */
    for (int64_t r = 0; r < rows; r++) {
        const bool none = (kind + r) % 3 == 0;
        want_max[r] = none ? -INFINITY : 4 * test_uniform(&seed);
        want_sum[r] = none ? 0 : 3;
        for (int64_t i = 0; i < d; i++) want[r * d + i] = none ? 0 : test_uniform(&seed);
    }
    float *y = place(out1, want, n * 4, 0), *max = place(out2, want_max, (size_t)rows * 4, 0);
    float *sum = place(out3, want_sum, (size_t)rows * 4, 0);
    s->judge(want, want_max, want_sum, &a, &part);
    s->attend(y, max, sum, &a, &part);
    char what[120];
    snprintf(what, sizeof what, "%s: rows %d, d %d, first %d, end %d", s->name, (int)rows, (int)d,
             (int)first[0], (int)end[0]);
    same_floats(state_, what, max, want_max, (size_t)rows, kind);
    same_floats(state_, what, sum, want_sum, (size_t)rows, kind);
    same_floats(state_, what, y, want, n, kind);
    CHECK(!guarded_spilled(out1, y, n * 4));
    CHECK(!guarded_spilled(out2, max, (size_t)rows * 4));
    CHECK(!guarded_spilled(out3, sum, (size_t)rows * 4));
}

static void check_merging(void **state_) {
    if (!CHANGED(attention_merge_f32)) return;
    for (int round = 0; round < 300; round++) {
        const int64_t d = 1 + round % 130;
        float want[140], want_max = test_uniform(&seed), want_sum = 2, max = want_max, sum = 2;
        ugly_fill(want, 140, round % UGLY_KINDS, &seed);
        if (round % 9 == 0) want_max = max = -INFINITY, want_sum = sum = 0;
        float *y = place(out1, want, (size_t)d * 4, 0);
        const float part_max = test_uniform(&seed), part_sum = 3.0f;
        const float *part = ugly(in1, (size_t)d, 0);
        ref.attention_merge_f32(want, &want_max, &want_sum, part, part_max, part_sum, d);
        got.attention_merge_f32(y, &max, &sum, part, part_max, part_sum, d);
        same_floats(state_, "attention_merge_f32", y, want, (size_t)d, round);
        same_floats(state_, "attention_merge_f32 max", &max, &want_max, 1, round);
        same_floats(state_, "attention_merge_f32 sum", &sum, &want_sum, 1, round);
        CHECK(!guarded_spilled(out1, y, (size_t)d * 4));
    }
}

static void check_attention(void **state_) {
    static const int64_t heads[] = {1,  2,  4,  7,  8,  15,  16,  17,  31,  32,  33,  48,
                                    63, 64, 65, 80, 96, 112, 127, 128, 129, 192, 256, 257};
    const attention_slots slots[] = {
        {"attention_f32", got.attention_f32, ref.attention_f32, 32, 0, 0, false, false, false},
        {"attention_f8", got.attention_f8, ref.attention_f8, 8, 4, 0, false, false, false},
        {"attention_i8", got.attention_i8, ref.attention_i8, 8, 4, 0, true, false, true},
        {"attention_i4", got.attention_i4, ref.attention_i4, 4, 2, NIB_KV_GROUP, true, true, true}};
    check_merging(state_);
    for (size_t s = 0; s < sizeof slots / sizeof *slots; s++) {
        if (slots[s].attend == slots[s].judge) continue;
        for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
            for (int kind = 0; kind < UGLY_KINDS; kind++)
                for (int64_t rows = 1; rows <= 10; rows++)
                    one_attention(state_, &slots[s], rows == 10 ? ROWS_MOST : rows, heads[i], kind);
    }
}
