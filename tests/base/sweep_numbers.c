/* sweep_numbers.c: all 2^32 f32 narrowed, against two judges: torch (a hash for each 2^24), and a
 * second way to round that shares nothing with halffloat.h: the format's values are laid out in
 * order from its definition, and the nearest one is found by comparing distances in double.
 * Formats named on the command line, or all of them; a minute or less each. */
#include "base/halffloat.h"
#include "golden/numbers/sweep.h"
#include "test.h"

enum { MOST = 1 << 15 };

typedef struct format {
    const char *name;
    const uint64_t *torch; /* [256] */
    uint32_t (*narrow)(float x);
    int bits, m, bias; /* bits with the sign, fraction bits */
    uint32_t count;    /* finite magnitudes: codes 0 .. count - 1 */
    uint32_t over;     /* the code of what rounds beyond the last of them */
    uint32_t infinity; /* of +inf */
    int nan;           /* of +NaN; -1: nobody says */
    bool one_zero;     /* and one NaN: neither takes a sign */
} format;

#define NARROW(name)                                                                               \
    static uint32_t name(float x) { return nib_f32_to_##name(x); }
NARROW(f8_e4m3fn)
NARROW(f8_e5m2)
NARROW(f8_e4m3fnuz)
NARROW(f8_e5m2fnuz)
NARROW(f8_e8m0)
NARROW(f6_e2m3)
NARROW(f6_e3m2)
NARROW(f4_e2m1)
NARROW(f16)
NARROW(bf16)

#define ROW(name) #name, sweep_##name, name
static const format formats[] = {
    {ROW(f8_e4m3fn), 8, 3, 7, 0x7f, 0x7e, 0x7e, 0x7f, false},
    {ROW(f8_e5m2), 8, 2, 15, 0x7c, 0x7c, 0x7c, 0x7f, false},
    {ROW(f8_e4m3fnuz), 8, 3, 8, 0x80, 0x80, 0x80, 0x80, true},
    {ROW(f8_e5m2fnuz), 8, 2, 16, 0x80, 0x80, 0x80, 0x80, true},
    {ROW(f8_e8m0), 8, 0, 127, 0xff, 0xff, 0xff, 0xff, true},
    {ROW(f6_e2m3), 6, 3, 1, 0x20, 0x1f, 0x1f, -1, false},
    {ROW(f6_e3m2), 6, 2, 3, 0x20, 0x1f, 0x1f, -1, false},
    {ROW(f4_e2m1), 4, 1, 1, 8, 7, 7, -1, false},
    {ROW(f16), 16, 10, 15, 0x7c00, 0x7c00, 0x7c00, 0x7e00, false},
    {ROW(bf16), 16, 7, 127, 0x7f80, 0x7f80, 0x7f80, -1, false},
};

/* Magnitude `code` of a format from its definition, one past the finite ones included. */
static double value_of(const format *f, uint32_t code) {
    const int exponent = (int)(code >> f->m);
    const double fraction = (double)(code & ((1u << f->m) - 1)) / (1 << f->m);
    return exponent ? ldexp(1 + fraction, exponent - f->bias) : ldexp(fraction, 1 - f->bias);
}

/* x >= 0 and finite. Calls come with growing x, so `at`, the last value not above x, only grows. */
static uint32_t nearest(const format *f, const double *value, double x, uint32_t *at) {
    while (*at + 1 <= f->count && value[*at + 1] <= x) ++*at;
    uint32_t code = *at;
    if (code < f->count) {
        const double below = x - value[code], above = value[code + 1] - x; /* exact */
        if (above < below || (above == below && code % 2)) code++;
    }
    return code < f->count ? code : f->over;
}

/* e8m0 has no fraction that could be even: a tie goes up. Below its second value torch rounds
 * up whatever is over the first. */
static uint32_t nearest_power(double x) {
    if (x < 0x1p-126) return x > 0x1p-127;
    int e;
    const double half_to_one = frexp(x, &e); /* x = half_to_one 2^e */
    return (uint32_t)(e - 1 + 127 + (half_to_one >= 0.75));
}

static const char *sweep(const format *f, char *wrong, size_t room) {
    static double value[MOST + 1];
    for (uint32_t code = 0; code <= f->count; code++) value[code] = value_of(f, code);
    const bool power = f->m == 0;
    for (uint32_t sign = 0; sign < 2; sign++) {
        uint32_t at = 0;
        const uint32_t sign_bit = f->one_zero && power ? 0 : sign << (f->bits - 1);
        for (uint32_t block = 0; block < 128; block++) {
            uint64_t sum = 0;
            for (uint32_t low = 0; low < 1 << 24; low++) {
                const uint32_t magnitude = block << 24 | low;
                const float x = nib_bits_f32(sign << 31 | magnitude);
                const bool nan = magnitude > 0x7f800000u;
                uint32_t want, code = f->narrow(x);
                if (nan)
                    want = f->nan < 0 ? code : (uint32_t)f->nan;
                else if (magnitude == 0x7f800000u)
                    want = f->infinity;
                else
                    want = power ? nearest_power(fabs((double)x))
                                 : nearest(f, value, fabs((double)x), &at);
                if (!(f->one_zero && (want == 0 || want == 0x80))) want |= sign_bit;
                if (nan && f->bits == 16 && f->nan >= 0) want |= magnitude >> 13 & 0x1ff;
                if (code != want) {
                    snprintf(wrong, room, "%s: f32 %08x gives %x, the nearest is %x", f->name,
                             nib_f32_bits(x), code, want);
                    return wrong;
                }
                /* where nobody says what a NaN gives, make_numbers.py hashes the code of 0 */
                if (nan && f->nan < 0) code = f->narrow(0.0f);
                uint64_t z = (uint64_t)low << 32 | code;
                z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
                z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
                sum += z ^ (z >> 31);
            }
            if (sum != f->torch[sign * 128 + block]) {
                snprintf(wrong, room, "%s: f32 %02xxxxxxx differ from torch", f->name,
                         sign * 128 + block);
                return wrong;
            }
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    int failed = 0;
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        bool asked = argc < 2;
        for (int a = 1; a < argc; a++) asked |= strcmp(argv[a], formats[i].name) == 0;
        if (!asked) continue;
        char wrong[128];
        const char *why = sweep(&formats[i], wrong, sizeof(wrong));
        printf("%s\n", why ? why : formats[i].name);
        fflush(stdout);
        failed |= why != NULL;
    }
    return failed;
}
