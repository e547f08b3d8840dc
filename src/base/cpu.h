/* cpu.h: what this machine's instructions can do.
 *
 * A level is the suffix of a kernel's file name. Levels stand in an order, and masking to one
 * (NIB_ISA=avx2, options.isa) keeps it and those before it: how tests lower the machine. */
#ifndef NIB_BASE_CPU_H
#define NIB_BASE_CPU_H
#include <nibble/nibble.h>

enum {
    NIB_CPU_AVX2 = 1 << 0, /* with FMA and F16C, registers saved by the system */
    NIB_CPU_AVXVNNI = 1 << 1,
    NIB_CPU_AVX512 = 1 << 2, /* F, BW, DQ, VL */
    NIB_CPU_AVX512VNNI = 1 << 3,
    NIB_CPU_AVX512BF16 = 1 << 4,
    NIB_CPU_NEON = 1 << 16,
    NIB_CPU_DOTPROD = 1 << 17,
    NIB_CPU_I8MM = 1 << 18,
};

/* The machine's feature word; asked once. */
uint32_t nib_cpu_features(void);

/* "ref" to 0, another level's name to the features of it and the levels before it; NULL or "" to
 * all. An unknown name raises NIB_E_ARGUMENT, naming those that are known. */
nib_status nib_cpu_parse(const char *level, uint32_t *mask);

/* The highest level within `features`, "ref" for none. */
const char *nib_cpu_level(uint32_t features);

/* Cores that this process may run on, siblings of one core counted once; at least 1. */
int nib_cpu_cores(void);
/* The processor that this thread runs on; -1 where the system does not say. */
int nib_cpu_here(void);
/* Move this thread off processor `cpu`, to any other that it may run on; it may come back later. */
void nib_cpu_leave(int cpu);
/* Ask for the lines of these bytes: they are on their way while something else is done. A hint. */
void nib_cpu_fetch(const void *bytes, size_t size);
/* What the maker calls this processor, without tabs or ends of lines; "?" where it does not say. */
void nib_cpu_name(char *name, size_t room);
#endif
