/* Codes, scales and zeros of inputs equal torchao's, bit by bit, whichever kernels run:
 * tests/golden/torchao/make_inputs.py says which call made each case. */
#include <math.h>

#include "io/safetensors.h"
#include "kernel/kernel.h"
#include "test.h"

enum { MOST = 5 * 70 };

static void *part_of(void **state_, nib_safetensors *file, const char *tag, const char *part,
                     size_t *size) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", tag, part);
    const nib_safetensors_entry *entry = nib_safetensors_find(file, name);
    if (!entry) FAIL_AT("golden file has no %s", name);
    void *bytes = malloc(entry->size + 1);
    memcpy(bytes, nib_safetensors_data(file, entry), entry->size);
    if (size) *size = entry->size;
    return bytes;
}

TEST(inputs_get_the_codes_scales_and_zeros_of_torchao) {
    static const uint32_t masks[] = {0, NIB_CPU_AVX2, ~0u};
    nib_safetensors *file = nib_safetensors_open(NULL, "tests/golden/torchao/inputs.safetensors");
    CHECK_MADE(file);
    CHECK(file->metadata_count == 96);
    for (int level = 0; level < 3; level++)
        for (size_t i = 0; i < file->metadata_count; i++) {
            const char *tag = file->metadata[i].key;
            char kind[32], mapping[16], shares[16];
            int bits;
            double eps;
            CHECK_INT(sscanf(file->metadata[i].value, "%31[^|]|%d|%15[^|]|%15[^|]|%lf|", kind,
                             &bits, mapping, shares, &eps),
                      5);
            const bool symmetric = strcmp(mapping, "symmetric") == 0;
            size_t size;
            float *x = part_of(state_, file, tag, "x", NULL);
            float *scale = part_of(state_, file, tag, "scale", &size);
            int8_t *want = part_of(state_, file, tag, "q", NULL);
            int8_t *zero = symmetric ? NULL : part_of(state_, file, tag, "zero", NULL);
            const int rows = (int)(size / sizeof(float)), n = MOST / rows;
            nib_kernels k;
            nib_kernels_fill(&k, nib_cpu_features() & masks[level]);
            for (int r = 0; r < rows; r++) {
                int8_t q[MOST];
                float s = 0;
                int32_t z = 0;
                k.quantize_rows_i8(q, n, &s, symmetric ? NULL : &z, NULL, x + r * n, 1, n, bits,
                                   (float)eps);
                if (memcmp(&s, &scale[r], 4) != 0 && !(isnan(s) && isnan(scale[r])))
                    FAIL_AT("case %s (%s), row %d: scale %a, want %a", tag, kind, r, (double)s,
                            (double)scale[r]);
                if (zero && z != zero[r])
                    FAIL_AT("case %s (%s), row %d: zero %d, want %d", tag, kind, r, z, zero[r]);
                for (int c = 0; c < n; c++)
                    if (q[c] != want[r * n + c])
                        FAIL_AT("case %s (%s), [%d, %d] %a: code %d, want %d", tag, kind, r, c,
                                (double)x[r * n + c], q[c], want[r * n + c]);
            }
            free(x), free(scale), free(want), free(zero);
        }
    nib_safetensors_close(file);
}

TESTS(RUNS(inputs_get_the_codes_scales_and_zeros_of_torchao))
