/* rope.c: frequencies as transformers computes them: f32 steps in the same order. Powers are taken
 * in double and rounded once, so that they do not hang on one C library's powf. */
#include "model/rope.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const char *const names[] = {"default", "linear", "dynamic", "llama3"};

bool nib_rope_kind_from_name(const char *name, nib_rope_kind *kind) {
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *kind = (nib_rope_kind)i;
        return true;
    }
    return false;
}

bool nib_rope_grows(const nib_rope_params *rope, int64_t length) {
    return rope->kind == NIB_ROPE_DYNAMIC && length > rope->max_positions;
}

/* The base that keeps the lowest frequency's wave as long as the sequence has become. */
static float grown_base(const nib_rope_params *rope, int64_t head_dim, int64_t length) {
    const float stretched = (float)rope->factor * (float)length / (float)rope->max_positions;
    const float excess = stretched - (float)(rope->factor - 1);
    const double power = (double)head_dim / (double)(head_dim - 2);
    return (float)rope->theta * (float)pow((double)excess, (double)(float)power);
}

static float llama3(const nib_rope_params *rope, float inv_freq) {
    const double pi = 3.14159265358979323846;
    const float wavelength = (float)(2 * pi) / inv_freq;
    const float original = (float)rope->original_positions, factor = (float)rope->factor;
    if (wavelength > (float)(rope->original_positions / rope->low_freq_factor))
        return inv_freq / factor;
    if (wavelength < (float)(rope->original_positions / rope->high_freq_factor)) return inv_freq;
    const float smooth = (original / wavelength - (float)rope->low_freq_factor) /
                         (float)(rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * inv_freq / factor + smooth * inv_freq;
}

void nib_rope_inv_freq(const nib_rope_params *rope, int64_t head_dim, int64_t length,
                       float *inv_freq) {
    assert(head_dim > 0 && head_dim % 2 == 0);
    const float base =
        nib_rope_grows(rope, length) ? grown_base(rope, head_dim, length) : (float)rope->theta;
    for (int64_t j = 0; j < head_dim / 2; j++) {
        const float exponent = (float)(2 * j) / (float)head_dim;
        inv_freq[j] = 1.0f / (float)pow((double)base, (double)exponent);
        if (rope->kind == NIB_ROPE_LINEAR) inv_freq[j] /= (float)rope->factor;
        if (rope->kind == NIB_ROPE_LLAMA3) inv_freq[j] = llama3(rope, inv_freq[j]);
    }
}
