/* immintrin.h: stands before the compiler's own header when checkkernel compiles the kernels of
 * AVX-VNNI and AVX-512 for a machine that has AVX2 only. Every intrinsic beyond AVX2 becomes a
 * plain function of SIMDe, or of lacking.h where SIMDe has none. */
#ifndef NIB_TESTS_KERNEL_EMULATE_IMMINTRIN_H
#define NIB_TESTS_KERNEL_EMULATE_IMMINTRIN_H
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC system_header
#endif
#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include "lacking.h"

/* An empty asm statement that holds a value in a register says nothing about the result, and no
 * register here holds 64 bytes:  __asm__ volatile("" : "+v"(acc));  becomes an empty statement. */
#define __asm__
#define volatile(...) (void)0
#endif
