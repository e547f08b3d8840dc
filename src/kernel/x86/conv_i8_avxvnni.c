/* conv_i8_avxvnni.c: codes by codes in convolutions, by vpdpbusd of 256 bits. */
#include <immintrin.h>

#define CONV_DOT(acc, u, q) _mm256_dpbusd_avx_epi32(acc, u, q)
#include "kernel/x86/conv_i8_avx2.h"

static void install(nib_kernels *k) { k->conv_i8 = conv_i8; }
const nib_kernel_set nib_kernels_conv_i8_avxvnni = {
    .name = "conv_i8_avxvnni", .needs = NIB_CPU_AVX2 | NIB_CPU_AVXVNNI, .install = install};
