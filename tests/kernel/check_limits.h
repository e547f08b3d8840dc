/* check_limits.h: the loops that measure a machine must do what they count, so their results are
 * compared like any other's. Part of checkkernel.c. */
static void check_limits(void **state_) {
    if (CHANGED(limit_read)) {
        for (size_t size = 0; size <= 2200; size += size < 1100 ? 8 : 56) {
            const void *a = place(in1, ugly(in2, size / 4, 7), size, size % 3);
            const void *b = ugly(in3, size / 4, 7);
            for (int streams = 1; streams <= 2; streams++) {
                const uint64_t want = ref.limit_read(a, streams == 2 ? b : NULL, size);
                const uint64_t have = got.limit_read(a, streams == 2 ? b : NULL, size);
                if (have != want)
                    DIFFERS(limit_read, "%zu bytes, %d streams: %016llx, want %016llx", size,
                            streams, (unsigned long long)have, (unsigned long long)want);
            }
        }
    }
    for (size_t rounds = 0; rounds < 5; rounds++) {
        double operations = -1;
        for (int i = 0; i < 20 && CHANGED(limit_fma); i++) {
            const float x = test_uniform(&seed), y = test_uniform(&seed);
            const float want = ref.limit_fma(&operations, x, y, rounds);
            const float have = got.limit_fma(&operations, x, y, rounds);
            same_floats(state_, "limit_fma", &have, &want, 1, (int)rounds);
            CHECK_INT(operations >= 16.0 * (double)rounds, true);
        }
        for (int u = 0; u < 256 && CHANGED(limit_u8); u += 5) {
            for (int s = -128; s < 128; s += 51) {
                const int32_t want = ref.limit_u8(&operations, (uint8_t)u, (int8_t)s, rounds);
                int32_t have = got.limit_u8(&operations, (uint8_t)u, (int8_t)s, rounds);
                if (have != want) DIFFERS(limit_u8, "u %d, s %d: %d, want %d", u, s, have, want);
                if (u > 15) continue;
                have = got.limit_u4(&operations, (uint8_t)u, (int8_t)s, rounds);
                if (have != want) DIFFERS(limit_u4, "u %d, s %d: %d, want %d", u, s, have, want);
                CHECK_INT(operations >= 64.0 * (double)rounds, true);
            }
        }
    }
}
