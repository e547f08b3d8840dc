/* unpack_avx2.c: 4-bit codes, 32 bytes of one to 16 of the other; denser codes to bytes; codes to
 * lines of lanes. */
#include <immintrin.h>

#include "kernel/kernel.h"

static void pack_u4(uint8_t *out, const uint8_t *codes, size_t n) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i weights = _mm256_set1_epi16(0x1001); /* even + 16 * odd, within 255 */
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i c = _mm256_and_si256(_mm256_loadu_si256((const void *)(codes + i)), low);
        const __m256i pairs = _mm256_maddubs_epi16(c, weights);
        _mm_storeu_si128(
            (void *)(out + i / 2),
            _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1)));
    }
    for (; i + 2 <= n; i += 2) out[i / 2] = (uint8_t)((codes[i] & 15) | (codes[i + 1] & 15) << 4);
    if (i < n) out[i / 2] = codes[i] & 15;
}

static void unpack_u4(uint8_t *codes, const uint8_t *bytes, size_t n) {
    const __m256i low = _mm256_set1_epi8(15);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(bytes + i / 2)));
        const __m256i spread = _mm256_or_si256(b, _mm256_slli_epi16(b, 4));
        _mm256_storeu_si256((void *)(codes + i), _mm256_and_si256(spread, low));
    }
    for (; i < n; i++) codes[i] = i % 2 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15;
}

/* Eight codes of each quarter, each moved to a byte of its own: as base/bits.h does. */
static void unpack_bits(uint8_t *codes, const uint8_t *bytes, size_t n, int bits) {
    const size_t size = (n * (size_t)bits + 7) / 8;
    const int64_t one = (1 << bits) - 1, two = (1 << 2 * bits) - 1;
    const __m256i fours = _mm256_set1_epi64x((int64_t)((UINT64_C(1) << 4 * bits) - 1));
    const __m256i twos = _mm256_set1_epi32((int)two), ones = _mm256_set1_epi16((short)one);
    const __m128i by_four = _mm_cvtsi32_si128(4 * bits), by_two = _mm_cvtsi32_si128(2 * bits);
    const __m128i by_one = _mm_cvtsi32_si128(bits);
    uint8_t order[16]; /* bytes of a quarter, zeros above them */
    for (int i = 0; i < 16; i++) order[i] = (uint8_t)(i % 8 < bits ? i / 8 * bits + i % 8 : 0x80);
    const __m256i apart = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)order));
    size_t i = 0, at = 0;
    for (; i + 32 <= n && at + 2 * (size_t)bits + 16 <= size; i += 32, at += 4 * (size_t)bits) {
        const __m128i low = _mm_loadu_si128((const void *)(bytes + at));
        const __m128i high = _mm_loadu_si128((const void *)(bytes + at + 2 * bits));
        __m256i v = _mm256_shuffle_epi8(_mm256_set_m128i(high, low), apart);
        __m256i up = _mm256_and_si256(_mm256_srl_epi64(v, by_four), fours);
        v = _mm256_or_si256(_mm256_and_si256(v, fours), _mm256_slli_epi64(up, 32));
        up = _mm256_and_si256(_mm256_srl_epi32(v, by_two), twos);
        v = _mm256_or_si256(_mm256_and_si256(v, twos), _mm256_slli_epi32(up, 16));
        up = _mm256_and_si256(_mm256_srl_epi16(v, by_one), ones);
        v = _mm256_or_si256(_mm256_and_si256(v, ones), _mm256_slli_epi16(up, 8));
        _mm256_storeu_si256((void *)(codes + i), v);
    }
    uint32_t held = 0; /* bits of what is left */
    for (int count = 0; i < n; i++, count -= bits, held >>= bits) {
        for (; count < bits; count += 8) held |= (uint32_t)bytes[at++] << count;
        codes[i] = (uint8_t)(held & ((1u << bits) - 1));
    }
}

/* ---- lines of lanes ---- */

#define INLINE static inline __attribute__((always_inline))
#ifdef __SANITIZE_ADDRESS__
#define UNROLL /* gcc warns of loops that were dissolved before it came to them */
#else
#define UNROLL _Pragma("GCC unroll 4")
#endif

/* A line is written past the caches, which it does not fit, where it begins at a multiple of its
 * length. */
INLINE void put(uint8_t *to, __m256i line, const bool past) {
    if (past)
        _mm256_stream_si256((void *)to, line);
    else
        _mm256_storeu_si256((void *)to, line);
}

/* Eight channels of a line, and sums of neighbouring codes. */
INLINE __m256i eight_of(const uint32_t *words, const int bits, __m256i flip, __m128i shift,
                        __m256i *sum) {
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    __m256i line = _mm256_setzero_si256(), all = line;
    UNROLL
    for (int w = 0; w < 8 / bits; w++) {
        const __m256i word = _mm256_loadu_si256((const void *)(words + w * NIB_PANEL));
        const __m256i moved = _mm256_srl_epi32(_mm256_xor_si256(word, flip), shift);
        const __m256i u = _mm256_and_si256(moved, mask);
        line = w ? _mm256_or_si256(line, _mm256_slli_epi32(u, bits * w)) : u;
        all = w ? _mm256_add_epi8(all, u) : u;
    }
    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(all, _mm256_set1_epi8(1)));
    return line;
}

INLINE void add_sums(int32_t *sums, __m256i pairs) {
    const __m256i four = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    const __m256i before = _mm256_loadu_si256((const void *)sums);
    _mm256_storeu_si256((void *)sums, _mm256_add_epi32(before, four));
}

enum { MOST = 64 }; /* lines whose sums fit 16 bits */

INLINE void lay_codes(uint8_t *to, const uint32_t *words, int64_t lines, const int bits,
                      uint32_t flip, int shift, int64_t every, int32_t *sums, const bool past) {
    const __m256i flips = _mm256_set1_epi32((int)flip);
    const __m128i by = _mm_cvtsi32_si128(shift);
    for (int64_t end, left = every; lines > 0; lines -= end, left -= end) {
        __m256i low = _mm256_setzero_si256(), high = low;
        if (!left) left = every, sums += NIB_PANEL;
        end = lines < left ? lines : left;
        if (end > MOST) end = MOST;
        for (int64_t i = 0; i < end; i++, words += 8 / bits * NIB_PANEL, to += 64) {
            put(to, eight_of(words, bits, flips, by, &low), past);
            put(to + 32, eight_of(words + 8, bits, flips, by, &high), past);
        }
        add_sums(sums, low);
        add_sums(sums + 8, high);
    }
}

/* Eight channels of a line: codes 0 to 7 of a word to bytes of codes 0 and 4, 1 and 5 ... */
INLINE __m256i halves_of(const uint32_t *words, __m256i flip, __m256i *sum) {
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i order = _mm256_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15, 0,
                                           2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    const __m256i word = _mm256_xor_si256(_mm256_loadu_si256((const void *)words), flip);
    const __m256i even = _mm256_and_si256(word, mask);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(word, 4), mask);
    const __m256i all = _mm256_add_epi8(even, odd);
    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(all, _mm256_set1_epi8(1)));
    /* codes 0, 2 and 4, 6 of the even ones: the upper two bytes go above the lower two */
    const __m256i e = _mm256_or_si256(even, _mm256_srli_epi32(even, 12));
    const __m256i o = _mm256_or_si256(odd, _mm256_srli_epi32(odd, 12));
    const __m256i both = _mm256_blend_epi16(e, _mm256_slli_epi32(o, 16), 0xaa);
    return _mm256_shuffle_epi8(both, order);
}

static void lay_halves(uint8_t *to, const uint32_t *words, int64_t lines, uint32_t flip,
                       int64_t every, int32_t *sums) {
    const __m256i flips = _mm256_set1_epi32((int)flip);
    for (int64_t end, left = every; lines > 0; lines -= end, left -= end) {
        __m256i low = _mm256_setzero_si256(), high = low;
        if (!left) left = every, sums += NIB_PANEL;
        end = lines < left ? lines : left;
        if (end > MOST) end = MOST;
        for (int64_t i = 0; i < end; i++, words += NIB_PANEL, to += 64) {
            put(to, halves_of(words, flips, &low), false);
            put(to + 32, halves_of(words + 8, flips, &high), false);
        }
        add_sums(sums, low);
        add_sums(sums + 8, high);
    }
}

INLINE __m256 corrected(__m256 acc, const float *scale, const float *zero, nib_offset kind,
                        const int32_t *sums, __m256i less, __m256 columns) {
    const __m256 s = _mm256_loadu_ps(scale), minus = _mm256_set1_ps(-0.0f);
    const __m256i t = _mm256_sub_epi32(_mm256_loadu_si256((const void *)sums), less);
    acc = _mm256_fmadd_ps(s, _mm256_cvtepi32_ps(t), acc);
    if (kind == NIB_OFFSET_NONE) return acc;
    __m256 offset = _mm256_loadu_ps(zero);
    if (kind == NIB_OFFSET_POINT) offset = _mm256_mul_ps(s, offset);
    if (kind != NIB_OFFSET_ADD) offset = _mm256_xor_ps(offset, minus);
    return _mm256_fmadd_ps(offset, columns, acc);
}

static void correct_lines(float acc[NIB_PANEL], const float *scale, const float *zero,
                          nib_offset kind, const int32_t *sums, int64_t groups, int32_t less,
                          float columns) {
    const __m256i subtract = _mm256_set1_epi32(less);
    const __m256 all = _mm256_set1_ps(columns);
    __m256 low = _mm256_loadu_ps(acc), high = _mm256_loadu_ps(acc + 8);
    for (int64_t g = 0; g < groups; g++, scale += NIB_PANEL, sums += NIB_PANEL) {
        low = corrected(low, scale, zero, kind, sums, subtract, all);
        high = corrected(high, scale + 8, zero ? zero + 8 : zero, kind, sums + 8, subtract, all);
        if (zero) zero += NIB_PANEL;
    }
    _mm256_storeu_ps(acc, low);
    _mm256_storeu_ps(acc + 8, high);
}

/* Four columns of 16 channels: bytes of a word apart, then those of all words together. */
INLINE void lay_narrow(uint8_t *to, const uint32_t *words, int64_t lines, const bool past) {
    const __m256i apart = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0,
                                           4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t i = 0; i < lines; i++, words += NIB_PANEL, to += 64) {
        const __m256i a = _mm256_loadu_si256((const void *)words);
        const __m256i b = _mm256_loadu_si256((const void *)(words + 8));
        /* eight channels of column 0, 1, 2, 3 */
        const __m256i x = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(a, apart), order);
        const __m256i y = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(b, apart), order);
        const __m256i low = _mm256_unpacklo_epi64(x, y), high = _mm256_unpackhi_epi64(x, y);
        put(to, _mm256_permute2x128_si256(low, high, 0x20), past);
        put(to + 32, _mm256_permute2x128_si256(low, high, 0x31), past);
    }
}

INLINE void lay_bytes(uint8_t *to, const uint32_t *words, int64_t lines, nib_lane lane,
                      uint32_t flip, int shift, int64_t every, int32_t *sums, const bool past) {
    if (lane == NIB_LANE_W8)
        lay_codes(to, words, lines, 8, flip, shift, every, sums, past);
    else
        lay_narrow(to, words, lines, past);
}

/* Short runs of two or four panels in turn, as codes of 4 and 2 bits come, are slower past the
 * caches. */
static void lay_lines(uint8_t *to, const uint32_t *words, int64_t lines, nib_lane lane,
                      uint32_t flip, int shift, int64_t every, int32_t *sums) {
    if (lane == NIB_LANE_W4)
        lay_codes(to, words, lines, 4, flip, shift, every, sums, false);
    else if (lane == NIB_LANE_W2)
        lay_codes(to, words, lines, 2, flip, shift, every, sums, false);
    else if (lane == NIB_LANE_WX)
        lay_codes(to, words, lines, 1, flip, shift, every, sums, false);
    else if ((uintptr_t)to % 64 == 0)
        lay_bytes(to, words, lines, lane, flip, shift, every, sums, true);
    else
        lay_bytes(to, words, lines, lane, flip, shift, every, sums, false);
}

static void lines_laid(void) { _mm_sfence(); }

static void install(nib_kernels *k) {
    k->pack_u4 = pack_u4;
    k->unpack_u4 = unpack_u4;
    k->unpack_bits = unpack_bits;
    k->lay_lines = lay_lines;
    k->lay_halves = lay_halves;
    k->correct_lines = correct_lines;
    k->lines_laid = lines_laid;
}
const nib_kernel_set nib_kernels_unpack_avx2 = {
    .name = "unpack_avx2", .needs = NIB_CPU_AVX2, .install = install};
