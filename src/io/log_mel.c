/* log_mel.c: what Whisper hears of a sound: how loud each band of frequencies is, 100 times a
 * second.
 *
 * Frames of 400 samples, 160 apart, the first around sample 0 (the sound mirrored at both ends),
 * under a Hann window; squares of their Fourier coefficients summed by triangles that are even on
 * Slaney's mel scale and of equal area; log10, cut 8 below the loudest; (x + 4) / 4. Source of the
 * steps: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, and
 * Hugging Face's WhisperFeatureExtractor. Computed in f64: products within a frame are small beside
 * its loudest. */
#include <math.h>
#include <nibble/io.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/parallel.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

enum {
    FRAME = 400, /* samples: 16 x 25 */
    HOP = 160,
    RADIX = 16,
    REST = FRAME / RADIX,
    BINS = FRAME / 2 + 1,
    MOST_BANDS = 128,
    RATE = 16000,
};
static const double two_pi = 6.283185307179586;

typedef struct band {
    int first, count; /* of its bins */
    double weight[BINS];
} band;

typedef struct listener {
    const float *samples;
    int64_t count, frames;
    int bands;
    float *out; /* [bands, frames] */
    double cosine[FRAME], sine[FRAME], window[FRAME];
    band band[MOST_BANDS];
} listener;

static double hertz_of(double mel) {
    return mel < 15 ? mel * 200 / 3 : 1000 * exp(log(6.4) / 27 * (mel - 15));
}

static void make_bands(listener *l) {
    const double most = 15 + 27 / log(6.4) * log(8000.0 / 1000); /* mel of 8 kHz */
    for (int b = 0; b < l->bands; b++) {
        const double low = hertz_of(most * b / (l->bands + 1));
        const double mid = hertz_of(most * (b + 1) / (l->bands + 1));
        const double high = hertz_of(most * (b + 2) / (l->bands + 1));
        band *to = &l->band[b];
        for (int k = 0; k < BINS; k++) {
            const double f = (double)k * RATE / FRAME;
            const double up = (f - low) / (mid - low), down = (high - f) / (high - mid);
            const double height = up < down ? up : down;
            if (height <= 0) continue;
            if (!to->count) to->first = k;
            to->count = k - to->first + 1;
            to->weight[k - to->first] = height * 2 / (high - low);
        }
    }
}

/* Sample i of the sound, mirrored at its ends, which stand once. */
static double sample(const listener *l, int64_t i) {
    if (i < 0) i = -i;
    if (i >= l->count) i = 2 * (l->count - 1) - i;
    return (double)l->samples[i];
}

/* Squares of the coefficients of 400 reals: n = 25 a + b and k = c + 16 d,
 *     X[k] = sum over b of w^(b k) (sum over a of x[25 a + b] w16^(a c)),  w = exp(-2 pi i / 400)
 */
static void squares(const listener *l, const double x[FRAME], double power[BINS]) {
    double re[RADIX][REST], im[RADIX][REST];
    for (int c = 0; c < RADIX; c++)
        for (int b = 0; b < REST; b++) {
            double r = 0, i = 0;
            for (int a = 0; a < RADIX; a++) {
                const int turn = a * c % RADIX * REST;
                r += x[REST * a + b] * l->cosine[turn];
                i -= x[REST * a + b] * l->sine[turn];
            }
            re[c][b] = r;
            im[c][b] = i;
        }
    for (int k = 0; k < BINS; k++) {
        const double *r_c = re[k % RADIX], *i_c = im[k % RADIX];
        double r = 0, i = 0;
        for (int b = 0; b < REST; b++) {
            const int turn = b * k % FRAME;
            r += r_c[b] * l->cosine[turn] + i_c[b] * l->sine[turn];
            i += i_c[b] * l->cosine[turn] - r_c[b] * l->sine[turn];
        }
        power[k] = r * r + i * i;
    }
}

static void hear(void *user, int64_t begin, int64_t end) {
    const listener *l = user;
    for (int64_t t = begin; t < end; t++) {
        double x[FRAME], power[BINS];
        for (int n = 0; n < FRAME; n++) x[n] = sample(l, t * HOP + n - FRAME / 2) * l->window[n];
        squares(l, x, power);
        for (int b = 0; b < l->bands; b++) {
            const band *of = &l->band[b];
            double sum = 0;
            for (int k = 0; k < of->count; k++) sum += of->weight[k] * power[of->first + k];
            l->out[b * l->frames + t] = (float)log10(sum > 1e-10 ? sum : 1e-10);
        }
    }
}

nib_tensor *nib_log_mel(const nib_tensor *sound, int bands, int64_t count) {
    if (!sound) return NULL;
    if (sound == NIB_NONE || sound->layout || sound->dtype != NIB_F32 || sound->shape.ndim != 1 ||
        !nib_tensor_contiguous(sound))
        return NIB_RAISE_NULL(NIB_E_SHAPE, "log_mel: a sound is a vector of f32 samples");
    if (bands < 1 || bands > MOST_BANDS)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "log_mel: %d bands; 1 to %d can be told apart", bands,
                              MOST_BANDS);
    const int64_t there = sound->shape.dim[0];
    if (count < 0 || count > INT64_MAX / 8 || (count ? count : there) <= FRAME / 2)
        return NIB_RAISE_NULL(NIB_E_ARGUMENT, "log_mel: %lld samples; more than %d are needed",
                              (long long)(count ? count : there), FRAME / 2);
    nib_ctx *ctx = sound->ctx;
    nib_mem *mem = nib_ctx_mem(ctx);
    if (!count) count = there;
    listener *l = nib_mem_alloc_zero(mem, sizeof *l);
    float *padded = l ? nib_mem_alloc_array(mem, (size_t)count, sizeof *padded) : NULL;
    nib_tensor *out =
        padded ? nib_tensor_new(ctx, NIB_F32, (nib_shape){2, {bands, count / HOP}}) : NULL;
    if (out) {
        const int64_t have = there < count ? there : count;
        memcpy(padded, nib_tensor_data(sound), (size_t)have * sizeof *padded);
        memset(padded + have, 0, (size_t)(count - have) * sizeof *padded);
        *l = (listener){.samples = padded,
                        .count = count,
                        .frames = count / HOP,
                        .bands = bands,
                        .out = nib_tensor_data_mut(out)};
        for (int n = 0; n < FRAME; n++) {
            l->cosine[n] = cos(two_pi * n / FRAME);
            l->sine[n] = sin(two_pi * n / FRAME);
            l->window[n] = 0.5 - 0.5 * l->cosine[n];
        }
        make_bands(l);
        nib_parallel_for(ctx->pool, l->frames, 16, hear, l);
        float most = -10;
        const int64_t n = bands * l->frames;
        for (int64_t i = 0; i < n; i++) most = l->out[i] > most ? l->out[i] : most;
        for (int64_t i = 0; i < n; i++)
            l->out[i] = ((l->out[i] > most - 8 ? l->out[i] : most - 8) + 4) / 4;
    }
    nib_mem_free(mem, padded, (size_t)count * sizeof *padded);
    nib_mem_free(mem, l, sizeof *l);
    return out;
}
