#include "quant/qparams.h"

#include <math.h>
#include <string.h>

#include "base/halffloat.h"
#include "quant/codes.h"

float nib_qrule_eps(nib_dtype weight, const char *version) {
    const bool old = version && strcmp(version, "v0.17") == 0;
    switch (weight) {
    case NIB_BF16:
        return old ? 0x1p-7f : 0x1p-126f;
    case NIB_F16:
        return old ? 0x1p-10f : 0x1p-14f;
    default:
        return old ? 0x1p-23f : 0x1p-126f;
    }
}

nib_dtype nib_qdesc_product(const nib_qdesc *desc) {
    return desc->math == desc->scale_dtype ? desc->math : NIB_F32;
}

static float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* As torch's clamp with a lower bound: NaN stays. */
static float at_least(float x, float low) { return x < low ? low : x; }

static float largest_code(nib_dtype code) {
    switch (code) {
    case NIB_F8_E5M2:
    case NIB_F8_E5M2FNUZ:
        return 57344.0f;
    case NIB_F8_E4M3FNUZ:
        return 240.0f;
    default:
        return 448.0f;
    }
}

/* Round to the weight's dtype after each step. */
#define R(x) nib_round_to((x), t)

static void choose_symmetric(const nib_qrule *rule, nib_dtype t, int qmin, int qmax, float min,
                             float max, nib_qparams *p) {
    const float low = min < 0      ? min
                      : min != min ? min
                                   : 0,
                high = max > 0      ? max
                       : max != max ? max
                                    : 0;
    if (rule->mapping == NIB_MAP_SYMMETRIC) {
        const float amax = -low > high || low != low ? -low : high;
        p->scale = R(amax / ((float)(qmax - qmin) / 2));
    } else {
        const float smin = R(low / (float)qmin), smax = R(high / (float)qmax);
        p->scale = smin > smax ? smin : smax;
    }
    p->scale = at_least(p->scale, rule->eps);
    p->zero = 0;
}

static void choose_asymmetric(const nib_qrule *rule, nib_dtype t, int qmin, int qmax, float min,
                              float max, nib_qparams *p) {
    const float low = min < 0      ? min
                      : min != min ? min
                                   : 0,
                high = max > 0      ? max
                       : max != max ? max
                                    : 0;
    p->scale = at_least(R(R(high - low) / (float)(qmax - qmin)), rule->eps);
    const float zero = R((float)qmin - rintf(R(low / p->scale)));
    p->zero = zero != zero ? 0 : clamp(zero, (float)qmin, (float)qmax);
}

static void choose_min_to_max(const nib_qrule *rule, nib_dtype t, int qmin, int qmax, float min,
                              float max, nib_qparams *p) {
    const float half = (float)((qmax - qmin + 1) / 2);
    p->scale = at_least(R(R(max - min) / (float)(qmax - qmin)), rule->eps);
    p->zero = R(min + R(p->scale * half));
}

/* MSLK: the epsilon bounds the range, not the scale; the stored zero belongs to the code in the
 * middle of [0, 15], which is the signed code 0. */
static nib_qparams choose_plain(const nib_qrule *rule, const nib_qdesc *desc, int qmin, int qmax,
                                float min, float max) {
    const float steps = (float)(qmax - qmin), half = (float)((qmax - qmin + 1) / 2);
    const float scale = at_least(max - min, rule->eps) / steps;
    const float zero = min + scale * half;
    return (nib_qparams){.scale = nib_round_to(scale, desc->scale_dtype),
                         .zero = nib_round_to(zero, desc->zero_dtype),
                         .shift = min,
                         .divisor = scale,
                         .code_zero = qmin};
}

nib_qparams nib_qparams_choose(const nib_qrule *rule, const nib_qdesc *desc, float min, float max) {
    const nib_dtype t = desc->math;
    nib_qparams p = {0};
    if (rule->mapping == NIB_MAP_ABSMAX) {
        const float amax = fabsf(min) > fabsf(max) || min != min ? fabsf(min) : fabsf(max);
        p.scale = R(amax / largest_code(desc->code));
        return p;
    }
    int qmin, qmax;
    nib_qdesc_range(desc, &qmin, &qmax);
    if (rule->plain) return choose_plain(rule, desc, qmin, qmax, min, max);
    if (rule->mapping == NIB_MAP_ASYMMETRIC)
        choose_asymmetric(rule, t, qmin, qmax, min, max, &p);
    else if (rule->mapping == NIB_MAP_MIN_TO_MAX)
        choose_min_to_max(rule, t, qmin, qmax, min, max, &p);
    else
        choose_symmetric(rule, t, qmin, qmax, min, max, &p);
    p.scale = nib_round_to(p.scale, desc->scale_dtype);
    if (desc->zero_kind == NIB_ZERO_MID) p.zero = nib_round_to(p.zero, desc->zero_dtype);
    nib_qparams_operands(desc, &p);
    return p;
}
#undef R

void nib_qparams_operands(const nib_qdesc *desc, nib_qparams *p) {
    const nib_dtype product = nib_qdesc_product(desc);
    p->code_zero = 0;
    switch (desc->zero_kind) {
    case NIB_ZERO_NONE:
        p->inverse = nib_round_to(1.0f / p->scale, desc->scale_dtype);
        break;
    case NIB_ZERO_POINT:
        p->inverse = nib_round_to(1.0f / p->scale, desc->scale_dtype);
        p->code_zero = p->zero == p->zero ? (int32_t)p->zero : 0;
        break;
    case NIB_ZERO_SHIFT:
        p->shift = -p->zero;
        p->divisor = p->scale;
        break;
    case NIB_ZERO_MID: {
        int qmin, qmax;
        nib_qdesc_range(desc, &qmin, &qmax);
        /* Codes count from the value of code qmin, half the codes below that of the zero. */
        const float half = (float)((qmax - qmin + 1) / 2);
        p->shift = nib_round_to(p->zero - nib_round_to(p->scale * half, product), product);
        p->divisor = p->scale;
        p->code_zero = qmin;
        break;
    }
    }
}
