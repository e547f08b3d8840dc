#include "quant/qparams.h"

#include <math.h>
#include <string.h>

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

static inline float clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

/* As torch's clamp with a lower bound: NaN stays. */
static inline float at_least(float x, float low) { return x < low ? low : x; }

/* 0 where the range does not reach it; NaN stays. */
static inline float not_above(float x, float bound) { return x > bound ? bound : x; }
static inline float not_below(float x, float bound) { return x < bound ? bound : x; }

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

/* Everything that does not differ from block to block. */
typedef struct range {
    float qmin, qmax, steps, half, eps; /* steps = qmax - qmin, half of them rounded up */
} range;

/* The loops below are compiled once for each dtype that steps round in, as `t` is a constant where
 * they are inlined; each is plain arithmetic on arrays. */
#define R(x) nib_round_to((x), t)

static inline void choose_symmetric(nib_dtype t, const range *r, int64_t count, const float *min,
                                    const float *max, float *scale) {
    for (int64_t i = 0; i < count; i++) {
        const float low = not_above(min[i], 0), high = not_below(max[i], 0);
        const float amax = -low > high || low != low ? -low : high;
        scale[i] = at_least(R(amax / (r->steps / 2)), r->eps);
    }
}

static inline void choose_no_clipping(nib_dtype t, const range *r, int64_t count, const float *min,
                                      const float *max, float *scale) {
    for (int64_t i = 0; i < count; i++) {
        const float low = R(not_above(min[i], 0) / r->qmin),
                    high = R(not_below(max[i], 0) / r->qmax);
        scale[i] = at_least(low > high ? low : high, r->eps);
    }
}

static inline void choose_asymmetric(nib_dtype t, const range *r, int64_t count, const float *min,
                                     const float *max, float *scale, float *zero) {
    for (int64_t i = 0; i < count; i++) {
        const float low = not_above(min[i], 0), high = not_below(max[i], 0);
        scale[i] = at_least(R(R(high - low) / r->steps), r->eps);
        const float z = R(r->qmin - rintf(R(low / scale[i])));
        zero[i] = z != z ? 0 : clamp(z, r->qmin, r->qmax);
    }
}

static inline void choose_min_to_max(nib_dtype t, const range *r, int64_t count, const float *min,
                                     const float *max, float *scale, float *zero) {
    for (int64_t i = 0; i < count; i++) {
        scale[i] = at_least(R(R(max[i] - min[i]) / r->steps), r->eps);
        zero[i] = R(min[i] + R(scale[i] * r->half));
    }
}

static inline void choose_absmax(nib_dtype t, float largest, int64_t count, const float *min,
                                 const float *max, float *scale) {
    for (int64_t i = 0; i < count; i++) {
        const float low = fabsf(min[i]), high = fabsf(max[i]);
        scale[i] = R((low > high || low != low ? low : high) / largest);
    }
}
#undef R

static inline void choose_in(nib_dtype t, const nib_qrule *rule, const range *r, float largest,
                             int64_t count, const float *min, const float *max, float *scale,
                             float *zero) {
    switch (rule->mapping) {
    case NIB_MAP_SYMMETRIC:
        choose_symmetric(t, r, count, min, max, scale);
        break;
    case NIB_MAP_SYMMETRIC_NO_CLIPPING:
        choose_no_clipping(t, r, count, min, max, scale);
        break;
    case NIB_MAP_ASYMMETRIC:
        choose_asymmetric(t, r, count, min, max, scale, zero);
        break;
    case NIB_MAP_MIN_TO_MAX:
        choose_min_to_max(t, r, count, min, max, scale, zero);
        break;
    case NIB_MAP_ABSMAX:
        choose_absmax(t, largest, count, min, max, scale);
        break;
    }
}

static inline void round_in(nib_dtype t, int64_t count, float *x) {
    for (int64_t i = 0; i < count; i++) x[i] = nib_round_to(x[i], t);
}

static void round_all(nib_dtype dtype, int64_t count, float *x) {
    if (dtype == NIB_BF16) round_in(NIB_BF16, count, x);
    if (dtype == NIB_F16) round_in(NIB_F16, count, x);
}

static range range_of(const nib_qrule *rule, const nib_qdesc *desc) {
    int qmin, qmax;
    nib_qdesc_range(desc, &qmin, &qmax);
    return (range){.qmin = (float)qmin,
                   .qmax = (float)qmax,
                   .steps = (float)(qmax - qmin),
                   .half = (float)((qmax - qmin + 1) / 2),
                   .eps = rule->eps};
}

/* MSLK: the epsilon bounds the range, not the scale; the stored zero belongs to the code in the
 * middle of [0, 15], which is the signed code 0. Codes come from the scale before it is rounded. */
static void choose_plain(const range *r, const nib_qdesc *desc, int64_t count, const float *min,
                         const float *max, float *scale, float *zero, nib_operands *o) {
    for (int64_t i = 0; i < count; i++) {
        scale[i] = at_least(max[i] - min[i], r->eps) / r->steps;
        zero[i] = min[i] + scale[i] * r->half;
        o->divisor[i] = scale[i];
        o->shift[i] = min[i];
        o->zero[i] = (int32_t)r->qmin;
    }
    round_all(desc->scale_dtype, count, scale);
    round_all(desc->zero_dtype, count, zero);
}

void nib_qparams_choose(const nib_qrule *rule, const nib_qdesc *desc, int64_t count,
                        const float *min, const float *max, float *scale, float *zero,
                        nib_operands *o) {
    const bool integer = nib_qdesc_integer(desc);
    const range r = integer ? range_of(rule, desc) : (range){0};
    float unused[NIB_QPARAMS_MOST], *z = zero ? zero : unused;
    if (rule->plain) {
        choose_plain(&r, desc, count, min, max, scale, z, o);
        return;
    }
    const float largest = largest_code(desc->code);
    switch (desc->math) {
    case NIB_BF16:
        choose_in(NIB_BF16, rule, &r, largest, count, min, max, scale, z);
        break;
    case NIB_F16:
        choose_in(NIB_F16, rule, &r, largest, count, min, max, scale, z);
        break;
    default:
        choose_in(NIB_F32, rule, &r, largest, count, min, max, scale, z);
    }
    if (desc->scale_dtype != desc->math) round_all(desc->scale_dtype, count, scale);
    if (!integer) return;
    if (desc->zero_kind == NIB_ZERO_MID && desc->zero_dtype != desc->math)
        round_all(desc->zero_dtype, count, z);
    if (zero && rule->mapping <= NIB_MAP_SYMMETRIC_NO_CLIPPING &&
        rule->mapping != NIB_MAP_ASYMMETRIC)
        for (int64_t i = 0; i < count; i++) zero[i] = 0;
    nib_qparams_operands(desc, count, scale, zero, o);
}

static inline void middle_in(nib_dtype t, float half, int64_t count, const float *scale,
                             const float *zero, float *shift) {
    for (int64_t i = 0; i < count; i++)
        shift[i] = nib_round_to(zero[i] - nib_round_to(scale[i] * half, t), t);
}

void nib_qparams_operands(const nib_qdesc *desc, int64_t count, const float *scale,
                          const float *zero, nib_operands *o) {
    const nib_dtype product = nib_qdesc_product(desc);
    if (desc->zero_kind == NIB_ZERO_NONE || desc->zero_kind == NIB_ZERO_POINT) {
        for (int64_t i = 0; i < count; i++) o->inverse[i] = 1.0f / scale[i];
        round_all(desc->scale_dtype, count, o->inverse);
        for (int64_t i = 0; i < count; i++)
            o->zero[i] = zero && zero[i] == zero[i] ? (int32_t)zero[i] : 0;
        return;
    }
    for (int64_t i = 0; i < count; i++) o->divisor[i] = scale[i];
    if (desc->zero_kind == NIB_ZERO_SHIFT) {
        for (int64_t i = 0; i < count; i++) o->shift[i] = -zero[i];
        for (int64_t i = 0; i < count; i++) o->zero[i] = 0;
        return;
    }
    /* Codes count from the value of code qmin, half the codes below that of the zero. */
    int qmin, qmax;
    nib_qdesc_range(desc, &qmin, &qmax);
    const float half = (float)((qmax - qmin + 1) / 2);
    switch (product) {
    case NIB_BF16:
        middle_in(NIB_BF16, half, count, scale, zero, o->shift);
        break;
    case NIB_F16:
        middle_in(NIB_F16, half, count, scale, zero, o->shift);
        break;
    default:
        middle_in(NIB_F32, half, count, scale, zero, o->shift);
    }
    for (int64_t i = 0; i < count; i++) o->zero[i] = qmin;
}
