#include "op/product_finish.h"

#include <string.h>

#include "quant/act8.h"
#include "quant/codes.h"
#include "tensor/dtype.h"

/* Channels and rows that are finished together: biases are widened once, and 8 KiB stay in the
 * first cache through all steps. */
enum { WIDE = 256, HIGH = 8, LANES = 16 };

static bool is_narrow(const nib_product *p) { return p->dtype && p->dtype != NIB_F32; }

bool nib_product_beside(const nib_product *p) { return p->residual == p->y || is_narrow(p); }

bool nib_product_finishes(const nib_product *p) {
    return p->bias != NIB_NONE || p->up != NIB_NONE || p->activation != NIB_IDENTITY ||
           p->residual || nib_product_beside(p);
}

/* y[i] = x[i] + y[i]; whole lanes by themselves, which every compiler makes vectors of. */
static void add(float *restrict y, const float *restrict x, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) y[i + lane] = x[i + lane] + y[i + lane];
    for (; i < n; i++) y[i] = x[i] + y[i];
}

static void relu(float *y, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) y[i + lane] = y[i + lane] < 0 ? 0 : y[i + lane];
    for (; i < n; i++) y[i] = y[i] < 0 ? 0 : y[i];
}

static void activate(const nib_kernels *k, nib_activation activation, float *y, int64_t n) {
    switch (activation) {
    case NIB_RELU:
        relu(y, n);
        break;
    case NIB_GELU:
        k->gelu_f32(y, y, (size_t)n);
        break;
    case NIB_GELU_TANH:
        k->gelu_tanh_f32(y, y, (size_t)n);
        break;
    case NIB_SILU:
        k->silu_f32(y, y, (size_t)n);
        break;
    case NIB_IDENTITY:
        break;
    }
}

static void put(const nib_kernels *k, const nib_product *p, int64_t at, const float *from,
                int64_t n) {
    if (p->dtype == NIB_BF16)
        k->f32_to_bf16((uint16_t *)p->y + at, from, (size_t)n);
    else if (p->dtype == NIB_F16)
        k->f32_to_f16((uint16_t *)p->y + at, from, (size_t)n);
    else if (!is_narrow(p))
        memcpy((float *)p->y + at, from, (size_t)n * sizeof *from);
    else if (p->floor)
        k->quantize_divided((uint8_t *)p->y + at, from, 1, n, NULL, &p->scale, NULL, 0,
                            (int)nib_act8_largest(p->dtype), NIB_F32);
    else
        nib_act8_quantize(k, p->dtype, NIB_F32, p->scale, from, n, (char *)p->y + at);
}

/* Biases of some channels as floats: out, or NULL where there are none. */
static const float *bias_at(const nib_tensor *bias, int64_t n, int64_t count, float *out) {
    if (bias == NIB_NONE) return NULL;
    const size_t width = (size_t)nib_dtype_bits(bias->dtype) / 8;
    nib_to_f32(bias->dtype, out, (const char *)nib_tensor_data(bias) + (size_t)n * width,
               (size_t)count);
    return out;
}

/* Rows [m, end), channels [c, c + n) of the part, step by step: what one step wrote the next one
 * reads only after it has reached the cache. */
typedef struct patch {
    const nib_product *p;
    const nib_product_part *part;
    int64_t m, end, c, n;
} patch;

static void finish_patch(const nib_kernels *k, const patch *a, float *y, int64_t ld, float *up,
                         int64_t ld_up, const float *bias, const float *up_bias) {
    const nib_product *p = a->p;
    const nib_product_part *part = a->part;
    const int64_t at = part->m * part->N + part->n + a->c;
    for (int64_t m = a->m; bias && m < a->end; m++) add(y + m * ld, bias, a->n);
    for (int64_t m = a->m; up_bias && m < a->end; m++) add(up + m * ld_up, up_bias, a->n);
    if (up)
        for (int64_t m = a->m; m < a->end; m++)
            k->silu_mul_f32(y + m * ld, y + m * ld, up + m * ld_up, (size_t)a->n);
    else if (p->activation != NIB_IDENTITY)
        for (int64_t m = a->m; m < a->end; m++) activate(k, p->activation, y + m * ld, a->n);
    for (int64_t m = a->m; p->residual && m < a->end; m++)
        add(y + m * ld, p->residual + at + m * part->N, a->n);
    if (nib_product_beside(p))
        for (int64_t m = a->m; m < a->end; m++) put(k, p, at + m * part->N, y + m * ld, a->n);
}

void nib_product_finish(const nib_kernels *k, const nib_product *p, const nib_product_part *part,
                        float *values, int64_t ld, float *up, int64_t ld_up) {
    if (!nib_product_finishes(p)) return;
    float biases[WIDE], up_biases[WIDE];
    for (int64_t c = 0; c < part->channels; c += WIDE) {
        const int64_t n = part->channels - c < WIDE ? part->channels - c : WIDE;
        const float *bias = bias_at(p->bias, part->n + c, n, biases);
        const float *up_bias = up ? bias_at(p->up_bias, part->n + c, n, up_biases) : NULL;
        for (int64_t m = 0; m < part->rows; m += HIGH) {
            const int64_t end = part->rows - m < HIGH ? part->rows : m + HIGH;
            const patch a = {.p = p, .part = part, .m = m, .end = end, .c = c, .n = n};
            finish_patch(k, &a, values + c, ld, up ? up + c : NULL, ld_up, bias, up_bias);
        }
    }
}
