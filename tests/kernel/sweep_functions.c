/* sweep_functions.c: kernels of one float, of all 2^32 f32: every set that this machine can run
 * against the judges for the bits (of floats: which NaN a NaN is may differ), and the judges of
 * functions against the C library in double for how far they are off.
 * Slots named on the command line, or all of them; up to two minutes of one core each. */
#include "guarded.h"
#include "kernel/kernel.h"
#include "sweep.h"

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu(double x) { return x / (1 + exp(-x)); }
static double gelu(double x) { return 0.5 * x * (1 + erf(x * sqrt(0.5))); }
static double gelu_tanh(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

typedef struct slot {
    const char *name;
    void (*call)(const nib_kernels *k, void *out, const float *x, size_t n);
    size_t at, size;           /* where it stands in nib_kernels; bytes of an output, 4 a float */
    double (*formula)(double); /* or NULL: bits only */
    double limit;              /* how far off it may be, in the unit below */
    bool share;                /* in 2^-24 |x|; else in units of the last place of the result */
} slot;

#define CALL(slot)                                                                                 \
    static void call_##slot(const nib_kernels *k, void *out, const float *x, size_t n) {           \
        k->slot(out, x, n);                                                                        \
    }
CALL(exp_f32)
CALL(tanh_f32)
CALL(sigmoid_f32)
CALL(silu_f32)
CALL(gelu_f32)
CALL(gelu_tanh_f32)
CALL(f32_to_f16)
CALL(f32_to_bf16)
CALL(f32_to_e4m3fn)
CALL(f32_to_e5m2)
CALL(f32_to_e4m3fnuz)
#define CALL_QUANTIZE(format, DTYPE, limit)                                                        \
    static void call_##format(const nib_kernels *k, void *out, const float *x, size_t n) {         \
        const float one = 1;                                                                       \
        k->quantize_f8(out, x, 1, (int64_t)n, &one, limit, DTYPE, NIB_F32);                        \
    }
CALL_QUANTIZE(quantize_e4m3fn, NIB_F8_E4M3FN, 448)
CALL_QUANTIZE(quantize_e5m2, NIB_F8_E5M2, 57344)
CALL_QUANTIZE(quantize_e4m3fnuz, NIB_F8_E4M3FNUZ, 240)

#define SLOT(slot)          #slot, call_##slot, offsetof(nib_kernels, slot)
#define SLOT_QUANTIZE(name) #name, call_##name, offsetof(nib_kernels, quantize_f8)
static const slot slots[] = {
    {SLOT(exp_f32), 4, exp, 1.009, false},
    {SLOT(tanh_f32), 4, tanh, 1.333, false},
    {SLOT(sigmoid_f32), 4, sigmoid, 2.402, false},
    {SLOT(silu_f32), 4, silu, 2.43, true},
    {SLOT(gelu_f32), 4, gelu, 2.03, true},
    {SLOT(gelu_tanh_f32), 4, gelu_tanh, 1.98, true},
    {SLOT(f32_to_f16), 2, NULL, 0, false},
    {SLOT(f32_to_bf16), 2, NULL, 0, false},
    {SLOT(f32_to_e4m3fn), 1, NULL, 0, false},
    {SLOT(f32_to_e5m2), 1, NULL, 0, false},
    {SLOT(f32_to_e4m3fnuz), 1, NULL, 0, false},
    {SLOT_QUANTIZE(quantize_e4m3fn), 1, NULL, 0, false},
    {SLOT_QUANTIZE(quantize_e5m2), 1, NULL, 0, false},
    {SLOT_QUANTIZE(quantize_e4m3fnuz), 1, NULL, 0, false},
};

enum { MOST_SETS = 8, N = 4096 };

typedef struct wrong {
    const char *set; /* NULL: all equal the judge */
    float x;
    uint32_t got, want;
} wrong;

typedef struct judgement {
    const slot *s;
    nib_kernels ref, fast[MOST_SETS];
    const char *name[MOST_SETS];
    int sets;
    double worst[SWEEP_BLOCKS];
    float at[SWEEP_BLOCKS];
    wrong wrong[SWEEP_BLOCKS];
} judgement;

/* Of the last place of x as an f32, the smallest denormal at least. ldexp is slow. */
static double unit(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    const int exponent = (int)(bits >> 52 & 0x7ff) - 1023 - 23;
    bits = (uint64_t)((exponent > -149 ? exponent : -149) + 1023) << 52;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* A function that gives a number where a NaN belongs, or the other way round, is far off. */
static double distance(const slot *s, float x, float got, double want) {
    enum { FAR = 1000000000 };
    if (isnan(got) || isnan(want)) return isnan(got) && isnan(want) ? 0 : FAR;
    if (fabs(want) > 3.4028235677973366e38) return isinf(got) && (got > 0) == (want > 0) ? 0 : FAR;
    if (isinf(got)) return FAR;
    const double off = fabs((double)got - want);
    if (!s->share) return off / unit(want);
    const double size = fabs((double)x);
    return off / (0x1p-24 * (size > 0x1p-126 ? size : 0x1p-126));
}

static uint32_t element(const void *from, size_t size, size_t i) {
    uint32_t bits = 0;
    memcpy(&bits, (const char *)from + i * size,
           size); /* little-endian, as all that nibble runs on */
    return bits;
}

static int64_t differ(const slot *s, const void *a, const void *b) {
    if (s->size == 4) return floats_differ(a, b, N);
    for (size_t i = 0; i < N; i++)
        if (element(a, s->size, i) != element(b, s->size, i)) return (int64_t)i;
    return -1;
}

static void judge(void *user, uint32_t top) {
    judgement *j = user;
    const slot *s = j->s;
    float x[N], want[N], got[N];
    for (uint32_t low = 0; low < SWEEP_BLOCK; low += N) {
        for (uint32_t i = 0; i < N; i++) {
            const uint32_t bits = top << 24 | (low + i);
            memcpy(&x[i], &bits, sizeof(bits));
        }
        s->call(&j->ref, want, x, N);
        for (int set = 0; set < j->sets; set++) {
            s->call(&j->fast[set], got, x, N);
            const int64_t i = memcmp(got, want, N * s->size) ? differ(s, got, want) : -1;
            if (i >= 0 && !j->wrong[top].set)
                j->wrong[top] = (wrong){j->name[set], x[i], element(got, s->size, (size_t)i),
                                        element(want, s->size, (size_t)i)};
        }
        for (int i = 0; s->formula && i < N; i++) {
            const double off = distance(s, x[i], want[i], s->formula((double)x[i]));
            if (off > j->worst[top]) j->worst[top] = off, j->at[top] = x[i];
        }
    }
}

/* The sets that fill the slot, each alone over the judges. */
static void find_sets(judgement *j) {
    const nib_kernel_set *set;
    for (size_t i = 0; (set = nib_kernel_set_at(i)); i++) {
        nib_kernels *fast = &j->fast[j->sets];
        *fast = j->ref;
        if (set->needs == 0 || set->needs & ~nib_cpu_features()) continue;
        set->install(fast);
        const size_t at = j->s->at;
        if (memcmp((char *)fast + at, (char *)&j->ref + at, sizeof(fast->exp_f32)) == 0) continue;
        j->name[j->sets++] = set->name;
        if (j->sets == MOST_SETS) {
            print_error("more than %d sets fill %s\n", MOST_SETS - 1, j->s->name);
            exit(1);
        }
    }
}

static const char *name_of(size_t i) { return slots[i].name; }

static int sweep_slot(nib_pool *pool, size_t i) {
    const slot *s = &slots[i];
    static judgement j;
    memset(&j, 0, sizeof(j));
    j.s = s;
    nib_kernels_fill(&j.ref, 0);
    find_sets(&j);
    sweep_all(pool, s->name, (sweep){judge, &j, 0});
    int differing = 0, first = 0, worst = 0;
    for (int top = SWEEP_BLOCKS - 1; top >= 0; top--) {
        if (j.wrong[top].set) differing++, first = top;
        if (j.worst[top] >= j.worst[worst]) worst = top;
    }
    for (int set = 0; set < j.sets; set++) printf(" %s", j.name[set]);
    printf("%s", j.sets ? " against the judge" : " no set but the judge");
    const bool far = s->formula && j.worst[worst] > s->limit;
    if (s->formula)
        printf("; at most %.4f %s off, at %a", j.worst[worst], s->share ? "2^-24 |x|" : "ulp",
               (double)j.at[worst]);
    if (far) printf(": more than %g", s->limit);
    const wrong *w = &j.wrong[first];
    if (differing)
        printf("\n  %s: of %a gives %x, the judge %x; wrong in %d of %d blocks", w->set,
               (double)w->x, w->got, w->want, differing, SWEEP_BLOCKS);
    printf("\n");
    fflush(stdout);
    return far || differing;
}

int main(int argc, char **argv) {
    return sweep_asked_ones(argc, argv, sizeof(slots) / sizeof(slots[0]), name_of, sweep_slot);
}
