/* sweep_numbers.c: all 2^32 f32 narrowed, against two judges: torch (a hash for each 2^24), and a
 * second way to round that shares nothing with halffloat.h: the format's values are laid out in
 * order from its definition, and the nearest one is found by comparing distances in double.
 * Formats named on the command line, or all of them; half a minute of one core each. */
#include "base/halffloat.h"
#include "golden/numbers/sweep.h"
#include "sweep.h"

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

/* x >= 0 and finite. `at` starts as 0; x of later calls with it only grows, and so does what it
 * holds: the last value not above x. */
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

typedef struct wrong {
    bool nearest, torch; /* one that is not the nearest; the block's hash is not torch's */
    float x;
    uint32_t code, want;
} wrong;

typedef struct judgement {
    const format *f;
    double value[MOST + 1];
    wrong wrong[SWEEP_BLOCKS];
} judgement;

static uint32_t wanted(const judgement *j, uint32_t bits, uint32_t code, uint32_t *at) {
    const format *f = j->f;
    const bool power = f->m == 0;
    const uint32_t magnitude = bits & 0x7fffffffu;
    const double x = fabs((double)nib_bits_f32(bits));
    uint32_t want;
    if (magnitude > 0x7f800000u)
        want = f->nan < 0 ? code : (uint32_t)f->nan;
    else if (magnitude == 0x7f800000u)
        want = f->infinity;
    else
        want = power ? nearest_power(x) : nearest(f, j->value, x, at);
    const bool no_sign = f->one_zero && (power || want == 0 || want == 0x80);
    if (!no_sign) want |= bits >> 31 << (f->bits - 1);
    if (magnitude > 0x7f800000u && f->bits == 16 && f->nan >= 0) want |= magnitude >> 13 & 0x1ff;
    return want;
}

static void judge(void *user, uint32_t top) {
    judgement *j = user;
    const format *f = j->f;
    wrong *w = &j->wrong[top];
    uint64_t sum = 0;
    uint32_t at = 0;
    for (uint32_t low = 0; low < SWEEP_BLOCK; low++) {
        const uint32_t bits = top << 24 | low;
        const float x = nib_bits_f32(bits);
        uint32_t code = f->narrow(x);
        const uint32_t want = wanted(j, bits, code, &at);
        if (code != want && !w->nearest) *w = (wrong){true, false, x, code, want};
        /* where nobody says what a NaN gives, make_numbers.py hashes the code of 0 */
        if ((bits & 0x7fffffffu) > 0x7f800000u && f->nan < 0) code = f->narrow(0.0f);
        uint64_t z = (uint64_t)low << 32 | code;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        sum += z ^ (z >> 31);
    }
    w->torch = sum != f->torch[top];
}

static const char *name_of(size_t i) { return formats[i].name; }

static int sweep_format(nib_pool *pool, size_t i) {
    const format *f = &formats[i];
    static judgement j;
    memset(&j, 0, sizeof(j));
    j.f = f;
    for (uint32_t code = 0; code <= f->count; code++) j.value[code] = value_of(f, code);
    sweep_all(pool, f->name, (sweep){judge, &j, 0});
    int rounded = 0, torch = 0, first = 0, first_torch = 0;
    for (int top = SWEEP_BLOCKS - 1; top >= 0; top--) {
        if (j.wrong[top].nearest) rounded++, first = top;
        if (j.wrong[top].torch) torch++, first_torch = top;
    }
    const wrong *w = &j.wrong[first];
    if (rounded)
        printf("\n  f32 %08x gives %x, the nearest is %x; wrong in %d of %d blocks",
               nib_f32_bits(w->x), w->code, w->want, rounded, SWEEP_BLOCKS);
    if (torch)
        printf("\n  f32 %02xxxxxxx and %d blocks more differ from torch", first_torch, torch - 1);
    printf("%s\n", rounded || torch ? "" : " all are the nearest, and torch's");
    fflush(stdout);
    return rounded || torch;
}

int main(int argc, char **argv) {
    return sweep_asked_ones(argc, argv, sizeof(formats) / sizeof(formats[0]), name_of,
                            sweep_format);
}
