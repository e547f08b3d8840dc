/* cpu.c: CPUID, XGETBV and hwcaps, the only machine questions outside kernel/. */
#include "base/cpu.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "base/error.h"
#include "base/text_util.h"

static const struct {
    const char *name;
    uint32_t feature;
} levels[] = {
    {"ref", 0},
#if defined(__x86_64__)
    {"avx2", NIB_CPU_AVX2},
    {"avxvnni", NIB_CPU_AVXVNNI},
    {"avx512", NIB_CPU_AVX512},
    {"avx512vnni", NIB_CPU_AVX512VNNI},
    {"avx512bf16", NIB_CPU_AVX512BF16},
#elif defined(__aarch64__)
    {"neon", NIB_CPU_NEON},
    {"dotprod", NIB_CPU_DOTPROD},
    {"i8mm", NIB_CPU_I8MM},
#endif
};
enum { LEVELS = sizeof(levels) / sizeof(levels[0]) };

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static uint32_t detect(void) {
    uint32_t a, b, c, d, found = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const uint32_t avx_fma_f16c_osxsave = 1u << 28 | 1u << 12 | 1u << 29 | 1u << 27;
    if ((c & avx_fma_f16c_osxsave) != avx_fma_f16c_osxsave) return 0;
    const uint64_t saved = saved_registers();
    const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xe6) == 0xe6;
    uint32_t b7, c7, d7, a71 = 0;
    if (!ymm || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return 0;
    const uint32_t subleaves = a;
    if (subleaves >= 1 && !__get_cpuid_count(7, 1, &a71, &b, &c, &d)) a71 = 0;
    if (b7 >> 5 & 1) found |= NIB_CPU_AVX2;
    if (found && (a71 >> 4 & 1)) found |= NIB_CPU_AVXVNNI;
    const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    if (found && zmm && (b7 & f_dq_bw_vl) == f_dq_bw_vl) {
        found |= NIB_CPU_AVX512;
        if (c7 >> 11 & 1) found |= NIB_CPU_AVX512VNNI;
        if (a71 >> 5 & 1) found |= NIB_CPU_AVX512BF16;
    }
    return found;
}

static void ask_name(char text[49]) {
    uint32_t r[12] = {0};
    for (uint32_t i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]))
            return;
    memcpy(text, r, sizeof r);
}

static int siblings_of_a_core(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(0xb, 0, &a, &b, &c, &d) || (b & 0xffff) == 0) return 1;
    return (int)(b & 0xffff);
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

static uint32_t detect(void) {
    const unsigned long has = getauxval(AT_HWCAP), has2 = getauxval(AT_HWCAP2);
    return NIB_CPU_NEON | (has >> 20 & 1 ? NIB_CPU_DOTPROD : 0u) |
           (has2 >> 13 & 1 ? NIB_CPU_I8MM : 0u);
}
static void ask_name(char text[49]) { (void)text; }
static int siblings_of_a_core(void) { return 1; }
#else
static uint32_t detect(void) { return 0; }
static void ask_name(char text[49]) { (void)text; }
static int siblings_of_a_core(void) { return 1; }
#endif

uint32_t nib_cpu_features(void) {
    static atomic_uint known; /* the top bit says that it was asked; threads that race agree */
    uint32_t features = atomic_load_explicit(&known, memory_order_relaxed);
    if (!features) {
        features = detect() | 1u << 31;
        atomic_store_explicit(&known, features, memory_order_relaxed);
    }
    return features & ~(1u << 31);
}

nib_status nib_cpu_parse(const char *level, uint32_t *mask) {
    *mask = UINT32_MAX;
    if (!level || !*level) return NIB_OK;
    uint32_t below = 0;
    for (int i = 0; i < LEVELS; i++) {
        below |= levels[i].feature;
        if (strcmp(level, levels[i].name) == 0) {
            *mask = below;
            return NIB_OK;
        }
    }
    nib_text known = {0};
    for (int i = 0; i < LEVELS; i++) nib_text_format(&known, i ? ", %s" : "%s", levels[i].name);
    const nib_status status =
        NIB_RAISE(NIB_E_ARGUMENT, "no instruction set is named \"%.40s\"; known here: %s", level,
                  known.data ? known.data : "ref");
    nib_text_free(&known);
    return status;
}

const char *nib_cpu_level(uint32_t features) {
    int best = 0;
    for (int i = 1; i < LEVELS; i++)
        if (features & levels[i].feature) best = i;
    return levels[best].name;
}

int nib_cpu_cores(void) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
    const int cores = CPU_COUNT(&allowed) / siblings_of_a_core();
    return cores > 0 ? cores : 1;
}

int nib_cpu_here(void) { return sched_getcpu(); }

void nib_cpu_leave(int cpu) {
    cpu_set_t allowed, others;
    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof(allowed), &allowed) != 0)
        return;
    others = allowed;
    CPU_CLR((size_t)cpu, &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof(others), &others) != 0) return;
    sched_setaffinity(0, sizeof(allowed), &allowed); /* once it is there, nothing need hold it */
}

void nib_cpu_name(char *name, size_t room) {
    char text[49] = "";
    ask_name(text);
    size_t length = 0;
    for (const char *p = text; *p && length + 1 < room; p++)
        if (*p > ' ' || (*p == ' ' && length && name[length - 1] != ' ')) name[length++] = *p;
    while (length && name[length - 1] == ' ') length--;
    if (!length && room > 1) name[length++] = '?';
    if (room) name[length] = '\0';
}

void nib_cpu_fetch(const void *bytes, size_t size) {
#if defined(__GNUC__)
    enum { LINE = 64 };
    for (size_t i = 0; i < size; i += LINE) /* not a pointer's own sum: bytes may be nowhere */
        __builtin_prefetch((const void *)((uintptr_t)bytes + i));
#else
    (void)bytes, (void)size;
#endif
}
